//! Open transactions are run again on the next primary: a few whose every answer is known, and writers of a ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::serve;
use super::sessions::{Book, Entry, Told, rounds};
use super::up::{Ground, connect};
use crate::raw::Raw;

#[test]
fn transactions_go_on_where_the_next_primary_answers_alike() {
    let mut ground = serve::Ground::start("replay = true\n");
    let session = || Raw::connect(ground.port, "app", "app").unwrap();
    session().must("CREATE TABLE written (k bigint PRIMARY KEY)");
    session().must("INSERT INTO written VALUES (1)");
    ground.until_whole();
    let begun = |texts: &[&str]| {
        let mut raw = session();
        texts.iter().for_each(|text| drop(raw.must(text)));
        raw
    };
    let mut plain = begun(&["BEGIN", "SELECT k FROM written FOR SHARE", "INSERT INTO written VALUES (10) RETURNING k"]);
    let mut strict = begun(&["BEGIN ISOLATION LEVEL SERIALIZABLE", "INSERT INTO written VALUES (20)"]);
    let mut failed = begun(&["BEGIN", "INSERT INTO written VALUES (30)", "SAVEPOINT s"]);
    assert_eq!(failed.simple("INSERT INTO written VALUES (1)").unwrap().sqlstate(), "23505");
    let mut cursor = begun(&["BEGIN", "DECLARE c CURSOR FOR VALUES (1), (2), (3)", "FETCH c"]);
    let mut extended = begun(&["SET work_mem = '7MB'", "BEGIN"]);
    let told = extended.extended("INSERT INTO written VALUES (50) RETURNING k", &[], None).unwrap();
    assert_eq!(told.value(), "50");
    let mut under_way = begun(&["BEGIN", "INSERT INTO written VALUES (60)"]);
    under_way.begin_simple("SELECT pg_sleep(3)").unwrap();
    let mut timed = begun(&["BEGIN", "INSERT INTO written VALUES (70)", "SELECT clock_timestamp()"]);
    let mut off = begun(&["SET ostrakon.replay = 'off'", "BEGIN", "INSERT INTO written VALUES (80)"]);
    let mut copied = begun(&["BEGIN"]);
    copied.must_copy("COPY written FROM STDIN", b"90\n");
    std::thread::sleep(Duration::from_millis(500));
    drop(ground.primary.take());

    assert_eq!(under_way.finish(None, false).unwrap().fault().map(|fault| fault.message.clone()), None);
    under_way.must("COMMIT");
    plain.must("INSERT INTO written VALUES (11)");
    plain.must("COMMIT");
    strict.must("COMMIT");
    failed.must("ROLLBACK TO s");
    failed.must("INSERT INTO written VALUES (31)");
    failed.must("COMMIT");
    assert_eq!(cursor.must("FETCH c").value(), "2");
    assert_eq!(extended.must("SHOW work_mem").value(), "7MB");
    extended.must("COMMIT");
    for (raw, key) in [(&mut timed, 71), (&mut off, 81), (&mut copied, 91)] {
        let told = raw.simple(&format!("INSERT INTO written VALUES ({key})")).unwrap();
        assert_eq!(told.sqlstate(), "40001", "{key}: {}", ground.log());
        raw.must("ROLLBACK");
    }
    off.must("RESET ostrakon.replay");
    off.must("SET ostrakon.replay = 'on'");
    assert_eq!(off.must("SHOW ostrakon.replay").value(), "on");
    let there: Vec<String> = session().must("SELECT k FROM written ORDER BY k").texts().concat();
    assert_eq!(there, ["1", "10", "11", "20", "30", "31", "50", "60"]);
}

const WRITERS: usize = 15;

/// What a writer asks for: that its transactions are run again, that, and the time, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Replay,
    ReplayWithTime,
    Nothing,
}

impl Wish {
    fn of(number: usize) -> Self {
        [Self::Replay, Self::ReplayWithTime, Self::Nothing][number % 3]
    }
}

/// Takes from the account of its own or of all, and notes it in the ledger.
async fn transfer(client: &Client, wish: Wish, account: i64, keys: &[i64]) -> Result<(), Error> {
    client.batch_execute("BEGIN").await?;
    if wish == Wish::ReplayWithTime {
        client.query("SELECT clock_timestamp()", &[]).await?;
    }
    let balance: i64 =
        client.query_one("SELECT balance FROM account WHERE id = $1 FOR UPDATE", &[&account]).await?.get(0);
    for key in keys {
        let text = "INSERT INTO ledger VALUES ($1, $2, 1) RETURNING k";
        let told: i64 = client.query_one(text, &[key, &account]).await?.get(0);
        assert_eq!(told, *key);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let count = i64::try_from(keys.len()).unwrap();
    let text = "UPDATE account SET balance = balance + $2 WHERE id = $1 RETURNING balance";
    let now: i64 = client.query_one(text, &[&account, &count]).await?.get(0);
    assert_eq!(now, balance + count, "nobody else has changed what was locked");
    client.batch_execute("COMMIT").await
}

async fn write(port: u16, number: usize, next: Arc<AtomicI64>, book: Arc<Book>, is_over: Arc<AtomicBool>) {
    let client = connect(port).await.unwrap();
    let wish = Wish::of(number);
    if wish != Wish::Nothing {
        client.batch_execute("SET ostrakon.replay = 'on'").await.unwrap();
    }
    // Some share an account: who waits for the other's lock may come first afterwards.
    let account = i64::try_from(if number < WRITERS - 3 { number } else { WRITERS }).unwrap();
    while !is_over.load(Ordering::Relaxed) {
        let first = next.fetch_add(3, Ordering::Relaxed);
        let keys = vec![first, first + 1, first + 2];
        let begun = Instant::now();
        let told = match transfer(&client, wish, account, &keys).await {
            Ok(()) => Told::Done,
            Err(error) => {
                let code = error.code().filter(|_| !client.is_closed());
                let told = match code {
                    Some(&SqlState::T_R_SERIALIZATION_FAILURE) => Told::RolledBack,
                    // A commit that a server took along which does not answer.
                    Some(&SqlState::TRANSACTION_RESOLUTION_UNKNOWN) => Told::Nothing,
                    _ => {
                        book.complaints.lock().push(format!("writer {number}: {error} {:?}", error.as_db_error()));
                        return;
                    }
                };
                let _ = client.batch_execute("ROLLBACK").await;
                told
            }
        };
        book.entries.lock().push(Entry { keys, told, writer: number, begun, ended: Instant::now() });
    }
}

/// Primaries are lost one after the other under the writers.
async fn lose_primaries(ground: &Ground, rounds: usize, signal: Signal) {
    let client = ground.client().await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL); \
             CREATE TABLE ledger (k bigint, account bigint, amount bigint); \
             INSERT INTO account SELECT id, 0 FROM generate_series(0, 20) id",
        )
        .await
        .unwrap();
    ground.whole(2).await;
    let (book, is_over, next) = (Arc::<Book>::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(1)));
    let writing: Vec<_> = (0..WRITERS)
        .map(|number| {
            let (next, book) = (Arc::clone(&next), Arc::clone(&book));
            tokio::spawn(write(ground.listen, number, next, book, Arc::clone(&is_over)))
        })
        .collect();
    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ground.whole(2).await;
        let old = ground.primary();
        ground.signal(&old, signal);
        let at = Instant::now();
        while !book.all_go_on(at, WRITERS) {
            assert!(at.elapsed() < Duration::from_secs(30), "nobody goes on: {:?}", book.complaints.lock());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("round {round}: {old} lost, outage {} ms", book.outage(at).as_millis());
        if signal == Signal::SIGSTOP {
            ground.signal(&old, Signal::SIGCONT);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writing {
        writer.await.unwrap();
    }
    let rows = client.query("SELECT k, count(*) FROM ledger GROUP BY k", &[]).await.unwrap();
    let there: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let off = "SELECT count(*) FROM account WHERE balance <> \
               (SELECT coalesce(sum(amount), 0) FROM ledger WHERE ledger.account = account.id)";
    let off_balance: i64 = client.query_one(off, &[]).await.unwrap().get(0);
    let log = ground.log();
    if std::env::var_os("OSTRAKON_TRACE").is_some() {
        println!("{log}");
    }
    let replays = |differs: bool| {
        log.lines()
            .filter(|line| line.contains("was run again") && line.contains(&format!("differs={differs}")))
            .count()
    };
    let rolled_back = |wish: Wish| {
        let entries = book.entries.lock();
        entries.iter().filter(|entry| entry.told == Told::RolledBack && Wish::of(entry.writer) == wish).count()
    };
    let (alike, otherwise) = (replays(false), replays(true));
    let [kept, timed, usual] = [Wish::Replay, Wish::ReplayWithTime, Wish::Nothing].map(rolled_back);
    println!(
        "{} done, {} unknown, {} rolled back: {kept} with replay, {timed} that asked for the time, {usual} without; run again: \
         {alike} alike, {otherwise} otherwise",
        book.count(Told::Done),
        book.count(Told::Nothing),
        book.count(Told::RolledBack),
    );
    let complaints = book.complaints.lock().clone();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(book.count(Told::Nothing) == 0 || signal == Signal::SIGSTOP);
    assert_eq!((book.judge(&there), off_balance), (Vec::new(), 0));
    assert!(alike > 0 && otherwise > 0 && timed > 0);
    assert!(kept * 2 <= usual, "{kept} of {usual}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_rolls_little_back() {
    let ground = Ground::up(22_300, 22_301, "2");
    lose_primaries(&ground, rounds(3), Signal::SIGKILL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_hangs_rolls_little_back() {
    let ground = Ground::up(22_400, 22_401, "2");
    lose_primaries(&ground, 1, Signal::SIGSTOP).await;
}
