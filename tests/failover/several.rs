//! What clients of two shards notice while primaries of both are lost in turn. They write to one shard and to both, in
//! transactions and without, read all rows, and connect once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

use super::sessions::{Book, Entry, Told, rounds};
use super::up::{Ground, connect};

/// Kinds of writers, and how many of each.
const KINDS: usize = 5;
const EACH: usize = 2;

struct Writer {
    number: usize,
    client: Client,
    insert: Statement,
    next: Arc<AtomicI64>,
    book: Arc<Book>,
    /// How often nobody could tell.
    unknown: Arc<AtomicU64>,
}

impl Writer {
    fn kind(&self) -> usize {
        self.number % KINDS
    }

    async fn write(&mut self, keys: &[i64; 2]) -> Result<(), Error> {
        let [first, second] = keys;
        match self.kind() {
            0 => self.client.execute(&self.insert, &[first]).await.map(drop),
            1 => self.client.batch_execute(&format!("INSERT INTO written (k) VALUES ({first})")).await,
            2 => {
                let transaction = self.client.transaction().await?;
                for key in keys {
                    transaction.execute(&self.insert, &[key]).await?;
                }
                transaction.commit().await
            }
            3 => {
                self.client.batch_execute("BEGIN").await?;
                for key in keys {
                    self.client.batch_execute(&format!("INSERT INTO written (k) VALUES ({key})")).await?;
                }
                self.client.batch_execute("COMMIT").await
            }
            _ => self.client.batch_execute(&format!("INSERT INTO written (k) VALUES ({first}), ({second})")).await,
        }
    }

    async fn run(mut self, is_over: Arc<AtomicBool>) {
        while !is_over.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(2, Ordering::Relaxed);
            let keys = [first, first + 1];
            let begun = Instant::now();
            let written = if self.kind() < 2 { vec![first] } else { keys.to_vec() };
            let told = match self.write(&keys).await {
                Ok(()) => Told::Done,
                Err(error) => self.failed(&error).await,
            };
            let ended = Instant::now();
            self.book.entries.lock().push(Entry { keys: written, told, writer: self.number, begun, ended });
            if self.client.is_closed() {
                self.book.complaints.lock().push(format!("writer {} lost its connection", self.number));
                return;
            }
        }
        let work_mem: String = self.client.query_one("SHOW work_mem", &[]).await.unwrap().get(0);
        assert_eq!(work_mem, format!("{}kB", 1_000 + self.number), "its settings are there");
    }

    async fn failed(&mut self, error: &Error) -> Told {
        let told = match error.code() {
            Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE => Told::RolledBack,
            Some(code) if *code == SqlState::TRANSACTION_RESOLUTION_UNKNOWN => {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                println!("  nobody can tell: writer {}: {:?}", self.number, error.as_db_error());
                Told::Nothing
            }
            _ => {
                let text = error.as_db_error().map(|said| (said.to_string(), said.detail().map(str::to_owned)));
                self.book.complaints.lock().push(format!("writer {}: {text:?} {error}", self.number));
                Told::Nothing
            }
        };
        if self.kind() == 3 {
            let _ = self.client.batch_execute("ROLLBACK").await;
        }
        told
    }
}

/// Reads all rows again and again; an error is one too many.
async fn read(port: u16, book: Arc<Book>, is_over: Arc<AtomicBool>) -> u64 {
    let client = connect(port).await.unwrap();
    let prepared = client.prepare("SELECT count(*) FROM written").await.unwrap();
    let mut reads = 0;
    while !is_over.load(Ordering::Relaxed) {
        let read = match reads % 2 {
            0 => client.query_one(&prepared, &[]).await.map(drop),
            _ => client.batch_execute("SELECT max(k) FROM written").await,
        };
        if let Err(error) = read {
            book.complaints.lock().push(format!("a reader: {:?} {error}", error.as_db_error()));
        }
        reads += 1;
    }
    reads
}

async fn writers(ground: &Ground, book: &Arc<Book>, unknown: &Arc<AtomicU64>) -> Vec<Writer> {
    let next = Arc::new(AtomicI64::new(1));
    let mut writers = Vec::new();
    for number in 0..KINDS * EACH {
        let client = connect(ground.listen).await.unwrap();
        client.batch_execute(&format!("SET work_mem = '{}kB'", 1_000 + number)).await.unwrap();
        let insert = client.prepare("INSERT INTO written (k) VALUES ($1)").await.unwrap();
        let (next, book, unknown) = (Arc::clone(&next), Arc::clone(book), Arc::clone(unknown));
        writers.push(Writer { number, client, insert, next, book, unknown });
    }
    writers
}

/// Primaries of both shards are lost in turn under the writers.
async fn lose_primaries(ground: &Ground, rounds: usize) {
    let client = ground.client().await.unwrap();
    // No key is unique by itself: what is written twice is to be seen.
    ground.run(&["table", "shard", "written", "--key", "k"]);
    client.batch_execute("CREATE TABLE written (k bigint)").await.unwrap();
    ground.whole(2).await;
    let (book, unknown) = (Arc::<Book>::default(), Arc::<AtomicU64>::default());
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writing = Vec::new();
    for writer in writers(ground, &book, &unknown).await {
        writing.push(tokio::spawn(writer.run(Arc::clone(&is_over))));
    }
    let reading = tokio::spawn(read(ground.listen, Arc::clone(&book), Arc::clone(&is_over)));
    let mut outages = Vec::new();
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ground.whole(2).await;
        let old = ground.primary_of(round % 2);
        // In long runs, some hang instead.
        let hangs = round % 4 == 3;
        ground.signal(&old, if hangs { Signal::SIGSTOP } else { Signal::SIGKILL });
        let at = Instant::now();
        while !book.all_go_on(at, KINDS * EACH) {
            assert!(at.elapsed() < Duration::from_secs(30), "nobody goes on: {:?}", book.complaints.lock());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if hangs {
            ground.signal(&old, Signal::SIGCONT);
        }
        outages.push(book.outage(at));
        println!(
            "round {round}: {old} lost; outage {:?}; done {}, rolled back {}, unknown {}; {} complaints",
            outages[round],
            book.count(Told::Done),
            book.count(Told::RolledBack),
            unknown.load(Ordering::Relaxed),
            book.complaints.lock().len(),
        );
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_over.store(true, Ordering::Relaxed);
    for writer in writing {
        writer.await.unwrap();
    }
    let reads = reading.await.unwrap();
    // What is decided and not finished is brought to its end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rows = client.query("SELECT k, count(*) FROM written GROUP BY k", &[]).await.unwrap();
    let there: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let wrong = book.judge(&there);
    let complaints = book.complaints.lock().clone();
    outages.sort();
    println!(
        "{rounds} losses on two shards: {} done, {} rolled back, {} unknown, {reads} reads; {} wrong, {} complaints; \
         outage median {:?}, worst {:?}",
        book.count(Told::Done),
        book.count(Told::RolledBack),
        unknown.load(Ordering::Relaxed),
        wrong.len(),
        complaints.len(),
        outages[outages.len() / 2],
        outages[outages.len() - 1],
    );
    if std::env::var_os("OSTRAKON_TRACE").is_some() || !wrong.is_empty() || !complaints.is_empty() {
        println!("{}", ground.log());
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert_eq!(unknown.load(Ordering::Relaxed), 0, "servers that are here tell every id");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_primaries_of_two_shards_are_not_noticed() {
    let ground = Ground::of(22_200, 22_201, "2", "1");
    lose_primaries(&ground, rounds(2)).await;
}
