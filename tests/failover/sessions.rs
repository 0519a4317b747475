//! What clients notice while primaries are lost: sixteen of them write without a pause, and connect once.
//!
//! The judge knows what each was told: done, rolled back, or anything else, which is one too many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

use super::up::{Ground, connect};

const WRITERS: usize = 16;

/// What a writer was told of keys that it wrote together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    Done,
    RolledBack,
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub keys: Vec<i64>,
    pub told: Told,
    pub writer: usize,
    pub begun: Instant,
    pub ended: Instant,
}

#[derive(Default)]
pub struct Book {
    pub entries: Mutex<Vec<Entry>>,
    /// Errors that nobody should see, and what they were told to.
    pub complaints: Mutex<Vec<String>>,
}

impl Book {
    /// What the tables say against it.
    pub fn judge(&self, there: &BTreeMap<i64, i64>) -> Vec<String> {
        let mut wrong = Vec::new();
        for entry in self.entries.lock().iter() {
            let found: Vec<i64> = entry.keys.iter().map(|key| there.get(key).copied().unwrap_or(0)).collect();
            let is_right = match entry.told {
                Told::Done => found.iter().all(|count| *count == 1),
                Told::RolledBack => found.iter().all(|count| *count == 0),
                Told::Nothing => found.iter().all(|count| *count == *found.first().unwrap() && *count <= 1),
            };
            if !is_right {
                wrong.push(format!(
                    "{:?} of writer {}: {:?} there {found:?} times",
                    entry.told, entry.writer, entry.keys
                ));
            }
        }
        let known: BTreeSet<i64> = self.entries.lock().iter().flat_map(|entry| entry.keys.clone()).collect();
        wrong.extend(there.keys().filter(|key| !known.contains(key)).map(|key| format!("nobody wrote {key}")));
        wrong
    }

    pub fn count(&self, told: Told) -> usize {
        self.entries.lock().iter().filter(|entry| entry.told == told).count()
    }

    /// The longest time between two answers of one writer that ended after a moment.
    pub fn outage(&self, at: Instant) -> Duration {
        let entries = self.entries.lock();
        let longest = |writer: usize| {
            let own = entries.iter().filter(|entry| entry.writer == writer && entry.told == Told::Done);
            let ends: Vec<Instant> = own.map(|entry| entry.ended).collect();
            ends.windows(2).filter(|pair| pair[1] > at).map(|pair| pair[1] - pair[0]).max()
        };
        (0..WRITERS).filter_map(longest).max().unwrap_or_default()
    }

    /// Every writer has been told of something since.
    pub fn all_go_on(&self, at: Instant, writers: usize) -> bool {
        let entries = self.entries.lock();
        let going: BTreeSet<usize> = entries
            .iter()
            .filter(|entry| entry.told == Told::Done && entry.begun > at)
            .map(|entry| entry.writer)
            .collect();
        going.len() == writers
    }
}

struct Writer {
    number: usize,
    client: Client,
    insert: Statement,
    next: Arc<AtomicI64>,
    book: Arc<Book>,
}

impl Writer {
    async fn new(port: u16, number: usize, next: &Arc<AtomicI64>, book: &Arc<Book>) -> Self {
        let client = connect(port).await.unwrap();
        client.batch_execute(&format!("SET work_mem = '{}kB'", 1_000 + number)).await.unwrap();
        let insert = client.prepare("INSERT INTO written (k) VALUES ($1)").await.unwrap();
        Self { number, client, insert, next: Arc::clone(next), book: Arc::clone(book) }
    }

    async fn write(&mut self, keys: &[i64]) -> Result<(), Error> {
        match (self.number % 4, keys) {
            (0, [key, ..]) => self.client.execute(&self.insert, &[key]).await.map(drop),
            (1, [key, ..]) => self.client.batch_execute(&format!("INSERT INTO written (k) VALUES ({key})")).await,
            (2, keys) => {
                let transaction = self.client.transaction().await?;
                for key in keys {
                    transaction.execute(&self.insert, &[key]).await?;
                }
                transaction.commit().await
            }
            (_, keys) => {
                self.client.batch_execute("BEGIN").await?;
                for key in keys {
                    self.client.batch_execute(&format!("INSERT INTO written (k) VALUES ({key})")).await?;
                }
                self.client.batch_execute("COMMIT").await
            }
        }
    }

    async fn run(mut self, is_over: Arc<AtomicBool>) {
        while !is_over.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(2, Ordering::Relaxed);
            let keys = if self.number % 4 < 2 { vec![first] } else { vec![first, first + 1] };
            let begun = Instant::now();
            let told = match self.write(&keys).await {
                Ok(()) => Told::Done,
                Err(error) => {
                    let is_transaction = self.number % 4 >= 2;
                    let code = error.code().cloned();
                    let told = match code {
                        Some(SqlState::T_R_SERIALIZATION_FAILURE) => Told::RolledBack,
                        _ => Told::Nothing,
                    };
                    if told == Told::Nothing || !is_transaction {
                        let text = error.as_db_error().map(ToString::to_string);
                        self.book.complaints.lock().push(format!("writer {}: {code:?} {text:?} {error}", self.number));
                    }
                    if self.client.is_closed() {
                        self.book.complaints.lock().push(format!("writer {} lost its connection", self.number));
                        return;
                    }
                    if self.number % 4 == 3 {
                        let _ = self.client.batch_execute("ROLLBACK").await;
                    }
                    told
                }
            };
            self.book.entries.lock().push(Entry { keys, told, writer: self.number, begun, ended: Instant::now() });
        }
        let work_mem: String = self.client.query_one("SHOW work_mem", &[]).await.unwrap().get(0);
        assert_eq!(work_mem, format!("{}kB", 1_000 + self.number), "its settings are there");
    }
}

/// Primaries are lost one after the other under the writers.
async fn lose_primaries(ground: &Ground, rounds: usize, signal: Signal) -> Vec<Duration> {
    let client = ground.client().await.unwrap();
    // No key is unique by itself: what is written twice is to be seen.
    client.batch_execute("CREATE TABLE written (k bigint)").await.unwrap();
    ground.whole(2).await;
    let (book, is_over, next) = (Arc::<Book>::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(1)));
    let mut writing = Vec::new();
    for number in 0..WRITERS {
        let writer = Writer::new(ground.listen, number, &next, &book).await;
        writing.push(tokio::spawn(writer.run(Arc::clone(&is_over))));
    }
    let mut outages = Vec::new();
    for round in 1..=rounds {
        // One that only says nothing is replaced at most every ten seconds.
        let pause = if signal == Signal::SIGSTOP && round > 1 { 12 } else { 1 };
        tokio::time::sleep(Duration::from_secs(pause)).await;
        ground.whole(2).await;
        let old = ground.primary();
        ground.signal(&old, signal);
        let at = Instant::now();
        while !book.all_go_on(at, WRITERS) {
            assert!(at.elapsed() < Duration::from_secs(30), "nobody goes on: {:?}", book.complaints.lock());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let outage = book.outage(at);
        if signal == Signal::SIGSTOP {
            ground.signal(&old, Signal::SIGCONT);
        }
        println!(
            "round {round}: {old} lost, {} leads; outage {} ms; told done {}, rolled back {}; {} complaints",
            ground.primary(),
            outage.as_millis(),
            book.count(Told::Done),
            book.count(Told::RolledBack),
            book.complaints.lock().len(),
        );
        if std::env::var_os("OSTRAKON_TRACE").is_some() {
            println!("{}", ground.log());
        }
        outages.push(outage);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_over.store(true, Ordering::Relaxed);
    for writer in writing {
        writer.await.unwrap();
    }
    let rows = client.query("SELECT k, count(*) FROM written GROUP BY k", &[]).await.unwrap();
    let there: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let wrong = book.judge(&there);
    outages.sort();
    println!(
        "{rounds} losses under {WRITERS} writers: {} done, {} rolled back, {} wrong, {} complaints; outage median {} ms, \
         worst {} ms",
        book.count(Told::Done),
        book.count(Told::RolledBack),
        wrong.len(),
        book.complaints.lock().len(),
        outages[outages.len() / 2].as_millis(),
        outages[outages.len() - 1].as_millis(),
    );
    let complaints = book.complaints.lock().clone();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(complaints.is_empty(), "{complaints:#?}");
    outages
}

pub fn rounds(usual: usize) -> usize {
    std::env::var("OSTRAKON_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(usual)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_is_not_noticed() {
    let ground = Ground::up(22_000, 22_001, "2");
    lose_primaries(&ground, rounds(3), Signal::SIGKILL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_hangs_is_not_noticed() {
    let ground = Ground::up(22_100, 22_101, "2");
    lose_primaries(&ground, rounds(1), Signal::SIGSTOP).await;
}

#[test]
fn the_judge_finds_what_is_wrong() {
    let now = Instant::now();
    let entry = |key: i64, told| Entry { keys: vec![key, key + 1], told, writer: 0, begun: now, ended: now };
    let book = Book::default();
    book.entries.lock().extend([entry(1, Told::Done), entry(3, Told::RolledBack), entry(5, Told::Nothing)]);
    let right: BTreeMap<i64, i64> = [(1, 1), (2, 1), (5, 1), (6, 1)].into();
    assert_eq!(book.judge(&right), Vec::<String>::new());
    for (key, count, why) in [(1, 0, "lost"), (2, 2, "twice"), (3, 1, "ghost"), (6, 0, "half"), (9, 1, "nobody's")] {
        let mut there = right.clone();
        there.insert(key, count);
        there.retain(|_, count| *count > 0);
        assert_eq!(book.judge(&there).len(), 1, "{why}");
    }
}
