//! What the store owes when members of etcd fail, and how it logs in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ostrakon::base::Secret;
use ostrakon::store::{Change, EtcdSettings, EtcdStore, EtcdTls, Revision, Store, StoreError, WatchEvent};

use crate::etcd_server::Etcd;

fn store(etcd: &Etcd) -> EtcdStore {
    EtcdStore::new(EtcdSettings::new(etcd.endpoints())).unwrap()
}

/// Adds one to a counter by compare-and-set for as long as it is told to; counts what was acknowledged, and what
/// may or may not have been done.
async fn count(store: EtcdStore, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> u64 {
    let mut unknown = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(found) = store.get("counter").await else { continue };
        let (value, revision) = found.map_or((0, None), |entry| {
            (String::from_utf8(entry.value).unwrap().parse::<u64>().unwrap(), Some(entry.revision))
        });
        match store.put("counter", (value + 1).to_string().into_bytes(), revision).await {
            Ok(_) => _ = acknowledged.fetch_add(1, Ordering::Relaxed),
            Err(StoreError::Conflict { .. }) => {}
            Err(StoreError::Unavailable { .. }) => unknown += 1,
            Err(other) => panic!("{other}"),
        }
    }
    unknown
}

async fn until(what: &str, mut claim: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !claim().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_leader_is_killed() {
    let mut etcd = Etcd::start(3);
    let watching = store(&etcd);
    let mut watch = watching.watch("counter").await.unwrap();
    let lease = watching.acquire("lead", "me", Duration::from_secs(30)).await.unwrap();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> =
        (0..3).map(|_| tokio::spawn(count(store(&etcd), Arc::clone(&stop), Arc::clone(&acknowledged)))).collect();
    for round in 0..2 {
        let before = acknowledged.load(Ordering::Relaxed);
        until("writes", async || acknowledged.load(Ordering::Relaxed) > before + 50).await;
        let leader = etcd.leader();
        etcd.kill(leader);
        let then = acknowledged.load(Ordering::Relaxed);
        until("writes without the old leader", async || acknowledged.load(Ordering::Relaxed) > then + 50).await;
        watching.renew(&lease, Duration::from_secs(30)).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        etcd.launch(leader);
    }
    stop.store(true, Ordering::Relaxed);
    let mut unknown = 0;
    for writer in writers {
        unknown += writer.await.unwrap();
    }
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    let found = watching.get("counter").await.unwrap().unwrap();
    let value: u64 = String::from_utf8(found.value).unwrap().parse().unwrap();
    println!("{value} written, {acknowledged} acknowledged, {unknown} unknown");
    assert!(value >= acknowledged && value <= acknowledged + unknown);
    // Every value is told, each once and in order, over streams that broke twice.
    let (mut expected, mut last) = (1, Revision(0));
    while expected <= value {
        match watch.next().await {
            Some(WatchEvent::Change(Change::Put(entry))) => {
                assert_eq!(String::from_utf8(entry.value).unwrap(), expected.to_string());
                assert!(entry.revision > last);
                (expected, last) = (expected + 1, entry.revision);
            }
            // So many changes that this watcher was too slow: it lists, and goes on behind that.
            Some(WatchEvent::Missed) => {
                let Some(WatchEvent::Change(Change::Put(entry))) = watch.next().await else { panic!("no change") };
                expected = String::from_utf8(entry.value).unwrap().parse::<u64>().unwrap() + 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_member_that_hangs_is_passed_over() {
    let etcd = Etcd::start(3);
    let store = store(&etcd);
    let mut watch = store.watch("a").await.unwrap();
    let first = store.put("a", b"1".to_vec(), None).await.unwrap();
    let hanging = (0..3).find(|member| *member != etcd.leader()).unwrap();
    for paused in [hanging, etcd.leader()] {
        etcd.pause(paused);
        // A write whose outcome is open is not repeated by the store, but by whoever knows what it meant.
        until("a write", async || {
            let now = store.get("a").await.ok().flatten();
            match now {
                Some(entry) => store.put("a", b"2".to_vec(), Some(entry.revision)).await.is_ok(),
                None => false,
            }
        })
        .await;
        etcd.resume(paused);
    }
    let newest = store.get("a").await.unwrap().unwrap().revision;
    assert!(newest > first);
    // A stream from a member that hung is noticed by its silence.
    loop {
        match watch.next().await {
            Some(WatchEvent::Change(change)) if change.revision() >= newest => break,
            Some(_) => {}
            None => panic!("the watch ended"),
        }
    }
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_said_so_in_time() {
    let mut etcd = Etcd::start(1);
    let settings = EtcdSettings { timeout_ms: 300, ..EtcdSettings::new(etcd.endpoints()) };
    let store = EtcdStore::new(settings).unwrap();
    store.put("a", vec![], None).await.unwrap();
    etcd.kill(0);
    for error in [store.get("a").await.err(), store.put("b", vec![], None).await.err()] {
        assert!(matches!(error, Some(StoreError::Unavailable { .. })), "{error:?}");
    }
    etcd.launch(0);
    until("etcd is back", async || store.get("a").await.is_ok()).await;
    store.put("b", vec![], None).await.unwrap();
}

#[tokio::test]
async fn two_prefixes_on_one_etcd_do_not_see_each_other() {
    let etcd = Etcd::start(1);
    let of = |prefix: &str| {
        EtcdStore::new(EtcdSettings { prefix: prefix.into(), ..EtcdSettings::new(etcd.endpoints()) }).unwrap()
    };
    let (one, two) = (of("/one/"), of("/two/"));
    one.put("a", b"1".to_vec(), None).await.unwrap();
    one.acquire("lead", "me", Duration::from_secs(60)).await.unwrap();
    assert_eq!(two.get("a").await.unwrap(), None);
    two.acquire("lead", "me", Duration::from_secs(60)).await.unwrap();
    assert_eq!(two.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_password_is_asked_for_and_a_token_that_ran_out_is_replaced() {
    let etcd = Etcd::start_with(1, &["--auth-token-ttl".into(), "1".into()], "http");
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"secret"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        assert!(etcd.post(0, path, body).unwrap().contains("200 OK"), "{path}");
    }
    let with = |password: &str| {
        let user = Some(("root".to_owned(), Secret::new(password)));
        EtcdStore::new(EtcdSettings { user, ..EtcdSettings::new(etcd.endpoints()) }).unwrap()
    };
    assert!(store(&etcd).put("a", vec![], None).await.is_err(), "without a user");
    let refused = with("wrong").put("a", vec![], None).await.unwrap_err().to_string();
    assert!(refused.contains("authentication failed") && !refused.contains("wrong"), "{refused}");
    let known = with("secret");
    let mut watch = known.watch("").await.unwrap();
    let mut revision = known.put("a", vec![], None).await.unwrap();
    // The token's time is over in between.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        revision = known.put("a", vec![], Some(revision)).await.unwrap();
    }
    loop {
        match watch.next().await {
            Some(WatchEvent::Change(change)) if change.revision() == revision => break,
            Some(_) => {}
            None => panic!("the watch ended"),
        }
    }
}

#[tokio::test]
async fn certificates_are_verified() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        std::fs::write(file(&format!("{name}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
        rcgen::Issuer::new(params, key)
    };
    let (ours, _other) = (authority("ours"), authority("other"));
    let key = rcgen::KeyPair::generate().unwrap();
    let member = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ours).unwrap();
    std::fs::write(file("member.crt"), member.pem()).unwrap();
    std::fs::write(file("member.key"), key.serialize_pem()).unwrap();
    let argument = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let more = ["--cert-file".into(), argument(file("member.crt")), "--key-file".into(), argument(file("member.key"))];
    let etcd = Etcd::start_with(1, &more, "https");
    let with = |ca: &str| {
        let tls = Some(EtcdTls { ca: file(ca), certificate: None });
        EtcdStore::new(EtcdSettings { tls, timeout_ms: 3_000, ..EtcdSettings::new(etcd.endpoints()) }).unwrap()
    };
    let known = with("ours.crt");
    until("it answers", async || known.get("a").await.is_ok()).await;
    known.put("a", vec![], None).await.unwrap();
    let error = with("other.crt").get("a").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
