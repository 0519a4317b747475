//! What every store owes.

use std::sync::Arc;
use std::time::Duration;

use ostrakon::store::{Change, Revision, StoreError, Watch, WatchEvent};

use crate::{Time, every_kind};

fn conflict(key: &str, current: Option<Revision>) -> StoreError {
    StoreError::Conflict { key: key.into(), current }
}

#[tokio::test]
async fn a_record_is_created_once() {
    for (kind, fresh) in every_kind() {
        let store = &fresh.store;
        assert_eq!(store.get("a").await.unwrap(), None, "{kind}");
        let revision = store.put("a", b"1".to_vec(), None).await.unwrap();
        let entry = store.get("a").await.unwrap().unwrap();
        assert_eq!((entry.value.as_slice(), entry.revision), (b"1".as_slice(), revision), "{kind}");
        assert_eq!(store.put("a", b"2".to_vec(), None).await, Err(conflict("a", Some(revision))), "{kind}");
        assert_eq!(store.get("a").await.unwrap().unwrap().value, b"1", "{kind}");
    }
}

#[tokio::test]
async fn a_stale_writer_writes_nothing() {
    for (kind, fresh) in every_kind() {
        let store = &fresh.store;
        let first = store.put("a", b"1".to_vec(), None).await.unwrap();
        let second = store.put("a", b"2".to_vec(), Some(first)).await.unwrap();
        assert!(second > first, "{kind}");
        assert_eq!(store.put("a", b"3".to_vec(), Some(first)).await, Err(conflict("a", Some(second))), "{kind}");
        assert_eq!(store.delete("a", first).await, Err(conflict("a", Some(second))), "{kind}");
        assert_eq!(store.put("b", b"1".to_vec(), Some(second)).await, Err(conflict("b", None)), "{kind}");
        assert_eq!(store.get("a").await.unwrap().unwrap().value, b"2", "{kind}");
    }
}

#[tokio::test]
async fn revisions_are_not_reused_after_a_delete() {
    for (kind, fresh) in every_kind() {
        let store = &fresh.store;
        let first = store.put("a", b"1".to_vec(), None).await.unwrap();
        store.delete("a", first).await.unwrap();
        assert_eq!(store.get("a").await.unwrap(), None, "{kind}");
        let again = store.put("a", b"1".to_vec(), None).await.unwrap();
        assert!(again > first, "{kind}");
        assert!(store.put("a", b"2".to_vec(), Some(first)).await.is_err(), "{kind}");
    }
}

#[tokio::test]
async fn a_list_has_the_prefix_and_the_order_of_keys() {
    for (kind, fresh) in every_kind() {
        let store = &fresh.store;
        for key in ["b/2", "a", "b/1", "b", "b/10", "c", "ä/1"] {
            store.put(key, key.as_bytes().to_vec(), None).await.unwrap();
        }
        let keys =
            |entries: Vec<ostrakon::store::Entry>| -> Vec<String> { entries.into_iter().map(|e| e.key).collect() };
        assert_eq!(keys(store.list("b/").await.unwrap()), ["b/1", "b/10", "b/2"], "{kind}");
        assert_eq!(keys(store.list("").await.unwrap()).len(), 7, "{kind}");
        assert_eq!(keys(store.list("x").await.unwrap()).len(), 0, "{kind}");
        assert_eq!(keys(store.list("ä").await.unwrap()), ["ä/1"], "{kind}");
    }
}

#[tokio::test]
async fn of_many_writers_with_one_revision_exactly_one_wins() {
    for (kind, fresh) in every_kind() {
        let revision = fresh.store.put("a", vec![], None).await.unwrap();
        let writers: Vec<_> = (0..16_u8)
            .map(|writer| {
                let store = Arc::clone(&fresh.store);
                tokio::spawn(async move { store.put("a", vec![writer], Some(revision)).await.is_ok() })
            })
            .collect();
        let mut winners = 0;
        for writer in writers {
            winners += usize::from(writer.await.unwrap());
        }
        assert_eq!(winners, 1, "{kind}");
    }
}

#[tokio::test]
async fn a_watch_sees_the_changes_under_its_prefix_in_order() {
    for (kind, fresh) in every_kind() {
        let store = &fresh.store;
        store.put("w/before", vec![], None).await.unwrap();
        let mut watch = store.watch("w/").await.unwrap();
        let first = store.put("w/a", b"1".to_vec(), None).await.unwrap();
        store.put("other", b"1".to_vec(), None).await.unwrap();
        store.delete("w/a", first).await.unwrap();
        let Some(WatchEvent::Change(Change::Put(entry))) = watch.next().await else { panic!("{kind}: no put") };
        assert_eq!((entry.key.as_str(), entry.value.as_slice(), entry.revision), ("w/a", b"1".as_slice(), first));
        let Some(WatchEvent::Change(Change::Deleted { key, revision })) = watch.next().await else {
            panic!("{kind}: no delete")
        };
        assert_eq!(key, "w/a");
        assert!(revision > first);
    }
}

/// The changes of a watch up to this revision have been told, whether or not they were taken.
async fn until_told(watch: &mut Watch, revision: Revision) {
    loop {
        match watch.next().await {
            Some(WatchEvent::Change(change)) if change.revision() >= revision => return,
            Some(_) => {}
            None => panic!("the watch ended"),
        }
    }
}

#[tokio::test]
async fn a_slow_watcher_is_told_that_it_missed_changes() {
    for (kind, fresh) in every_kind() {
        let mut watch = fresh.store.watch("").await.unwrap();
        let mut quick = fresh.store.watch("").await.unwrap();
        let mut revision = None;
        for _ in 0..300 {
            revision = Some(fresh.store.put("a", vec![], revision).await.unwrap());
        }
        until_told(&mut quick, revision.unwrap()).await;
        assert_eq!(watch.next().await, Some(WatchEvent::Missed), "{kind}");
        let Some(WatchEvent::Change(change)) = watch.next().await else { panic!("{kind}: nothing after it") };
        assert_eq!(change.key(), "a");
    }
}

#[tokio::test]
async fn a_watch_ends_with_its_store() {
    for (kind, fresh) in every_kind() {
        let mut watch = fresh.store.watch("").await.unwrap();
        drop(fresh);
        assert_eq!(watch.next().await, None, "{kind}");
    }
}

fn held(holder: &str) -> StoreError {
    StoreError::LeaseHeld { name: "lead".into(), holder: holder.into() }
}

#[tokio::test]
async fn one_holder_has_a_lease_until_it_gives_it_back() {
    let ttl = Duration::from_secs(60);
    for (kind, fresh) in every_kind() {
        let store = &fresh.store;
        let first = store.acquire("lead", "a", ttl).await.unwrap();
        assert_eq!(store.acquire("lead", "b", ttl).await, Err(held("a")), "{kind}");
        assert_eq!(store.acquire("lead", "a", ttl).await, Err(held("a")), "{kind}: a holder renews");
        store.renew(&first, ttl).await.unwrap();
        store.release(&first).await.unwrap();
        let second = store.acquire("lead", "b", ttl).await.unwrap();
        assert!(second.token > first.token, "{kind}");
        store.release(&first).await.unwrap();
        assert_eq!(store.acquire("lead", "c", ttl).await, Err(held("b")), "{kind}: a stale release frees nothing");
        let lost = StoreError::LeaseLost { name: "lead".into() };
        assert_eq!(store.renew(&first, ttl).await, Err(lost.clone()), "{kind}: it is another's");
        store.release(&second).await.unwrap();
        assert_eq!(store.renew(&second, ttl).await, Err(lost), "{kind}");
        let third = store.acquire("lead", "c", ttl).await.unwrap();
        assert!(third.token > second.token, "{kind}");
        store.acquire("other", "c", ttl).await.unwrap();
        assert_eq!(store.list("").await.unwrap(), [], "{kind}: a lease is no record");
    }
}

#[tokio::test]
async fn a_lease_lasts_for_as_long_as_it_is_renewed() {
    for (kind, fresh) in every_kind() {
        let (store, ttl) = (&fresh.store, fresh.time.ttl());
        let first = store.acquire("lead", "a", ttl).await.unwrap();
        for _ in 0..12 {
            fresh.time.pass(ttl / 8).await;
            store.renew(&first, ttl).await.unwrap();
        }
        assert_eq!(store.acquire("lead", "b", ttl).await, Err(held("a")), "{kind}");
        // How long a lease outlives its time is the store's affair; that it ends is not.
        let mut second = None;
        while second.is_none() {
            fresh.time.pass(ttl / 8).await;
            second = store.acquire("lead", "b", ttl).await.ok();
        }
        assert!(second.unwrap().token > first.token, "{kind}");
        assert_eq!(store.renew(&first, ttl).await, Err(StoreError::LeaseLost { name: "lead".into() }), "{kind}");
    }
}

#[tokio::test]
async fn a_lease_may_be_renewed_for_longer_than_it_was_taken_for() {
    for (kind, fresh) in every_kind() {
        let (store, ttl) = (&fresh.store, fresh.time.ttl());
        let first = store.acquire("lead", "a", ttl).await.unwrap();
        store.renew(&first, ttl * 100).await.unwrap();
        fresh.time.pass(ttl * 2).await;
        assert_eq!(store.acquire("lead", "b", ttl).await, Err(held("a")), "{kind}");
        store.renew(&first, ttl).await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_of_a_manual_clock_ends_to_the_second() {
    let ttl = Duration::from_secs(10);
    for (kind, fresh) in every_kind() {
        let (store, Time::Manual(clock)) = (&fresh.store, &fresh.time) else { continue };
        let first = store.acquire("lead", "a", ttl).await.unwrap();
        clock.advance(Duration::from_secs(9));
        store.renew(&first, ttl).await.unwrap();
        clock.advance(Duration::from_secs(9));
        assert_eq!(store.acquire("lead", "b", ttl).await, Err(held("a")), "{kind}");
        clock.advance(Duration::from_secs(1));
        assert_eq!(store.renew(&first, ttl).await, Err(StoreError::LeaseLost { name: "lead".into() }), "{kind}");
        store.acquire("lead", "b", ttl).await.unwrap();
    }
}
