//! Writers that know what every one of their statements has to answer, and a comparison of all rows with what they know.
//!
//! Each writer alone writes rows of its own, so at any moment there is one right answer to whatever it asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::business::Accounts;
use super::ground::Ground;
use crate::raw::{Raw, Reply};

/// What a writer knows.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub owner: u32,
    /// Balance by account.
    accounts: BTreeMap<i64, i64>,
    /// Account and number.
    events: BTreeSet<(i64, i64)>,
    statements: u64,
    transactions: u64,
    /// Added to accounts of pgbench, which are this writer's alone.
    added: BTreeMap<i64, i64>,
    all: Vec<u32>,
    /// How many of `all` were before anything moved.
    quiet: usize,
    /// Accounts of which nobody knows whether the last statement was done: its proxy was killed, or a server.
    unknown: BTreeSet<i64>,
}

pub struct Writers {
    stop: Arc<AtomicBool>,
    moves: Arc<AtomicBool>,
    threads: Vec<JoinHandle<History>>,
}

impl Writers {
    pub fn start(ground: &Ground, count: u32) -> Self {
        Self::begin(ground, count, false, None)
    }

    /// Writers that connect again when their proxy is killed.
    pub fn start_patient(ground: &Ground, count: u32) -> Self {
        Self::begin(ground, count, true, None)
    }

    /// Writers that also write to these accounts and read from the tables beside them.
    pub fn start_in_business(ground: &Ground, count: u32, accounts: Accounts) -> Self {
        Self::begin(ground, count, false, Some((accounts, count)))
    }

    fn begin(ground: &Ground, count: u32, is_patient: bool, business: Option<(Accounts, u32)>) -> Self {
        let (stop, moves) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let threads = (0..count).map(|owner| {
            let (stop, moves, port) = (Arc::clone(&stop), Arc::clone(&moves), ground.up.port);
            let mut writer = Writer::new(owner, port, is_patient);
            writer.business = business;
            std::thread::spawn(move || writer.write_until(&stop, &moves))
        });
        Self { threads: threads.collect(), stop, moves }
    }

    /// From now on rows move: what is slow is counted apart from what was slow before.
    pub fn note_moves(&self) {
        self.moves.store(true, Ordering::Relaxed);
    }

    pub fn stop(self) -> Vec<History> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

struct Writer {
    session: Raw,
    port: u16,
    is_patient: bool,
    chance: u64,
    next: i64,
    known: History,
    /// With the number of writers that share the accounts.
    business: Option<(Accounts, u32)>,
}

/// The proxy or a server is gone: what was sent last may have been done.
struct Gone;

impl Writer {
    fn new(owner: u32, port: u16, is_patient: bool) -> Self {
        let session = Raw::connect(port, "app", "app").unwrap();
        let known = History { owner, ..History::default() };
        Self { session, port, is_patient, chance: u64::from(owner) * 7919 + 1, next: 0, known, business: None }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % below.max(1)
    }

    fn write_until(mut self, stop: &AtomicBool, moves: &AtomicBool) -> History {
        while !stop.load(Ordering::Relaxed) {
            if !moves.load(Ordering::Relaxed) {
                self.known.quiet = self.known.all.len();
            }
            let touched = match self.random(if self.business.is_some() { 14 } else { 10 }) {
                10 | 11 => self.add(),
                12 => self.read_order(),
                13 => self.read_customer(),
                0..=2 => self.insert(),
                3 | 4 => self.update(),
                5 => self.delete(),
                6 | 7 => self.transfer(),
                8 => self.read_one(),
                _ => self.read_all(),
            };
            if let Err((Gone, touched)) = touched {
                assert!(self.is_patient, "the connection was lost");
                self.known.unknown.extend(touched);
                self.connect_again();
            }
        }
        // What nobody knows is asked once at the end, and has to be one of both.
        for account in std::mem::take(&mut self.known.unknown) {
            self.known.accounts.remove(&account);
            self.known.events.retain(|(of, _)| *of != account);
            self.adopt(account);
        }
        self.known
    }

    fn adopt(&mut self, account: i64) {
        let rows = self.session.must(&format!("SELECT balance FROM accounts WHERE id = {account}")).texts();
        if let Some(row) = rows.first() {
            self.known.accounts.insert(account, row[0].parse().unwrap());
        }
        let rows = self.session.must(&format!("SELECT id FROM events WHERE account = {account}")).texts();
        self.known.events.extend(rows.iter().map(|row| (account, row[0].parse::<i64>().unwrap())));
    }

    fn connect_again(&mut self) {
        let begun = Instant::now();
        loop {
            match Raw::connect(self.port, "app", "app") {
                Ok(session) => {
                    self.session = session;
                    return;
                }
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn say(&mut self, sql: &str) -> Result<Reply, Gone> {
        let begun = Instant::now();
        let reply = self.session.simple(sql);
        let took = begun.elapsed();
        self.known.all.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        self.known.statements += 1;
        match reply {
            Ok(reply) => match reply.fault() {
                None => Ok(reply),
                Some(fault)
                    if self.is_patient
                        && ["57P0", "08", "40001", "40003"].iter().any(|lost| fault.sqlstate.starts_with(lost)) =>
                {
                    Err(Gone)
                }
                Some(fault) => panic!("{sql}: {} {} {:?}", fault.sqlstate, fault.message, fault.hint),
            },
            Err(error) if self.is_patient => {
                let _lost = error;
                Err(Gone)
            }
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    fn any(&mut self) -> Option<i64> {
        let known: Vec<i64> =
            self.known.accounts.keys().filter(|key| !self.known.unknown.contains(key)).copied().collect();
        // A tenth goes to a few.
        let among = if self.random(10) == 0 { known.len().min(3) } else { known.len() };
        let at = self.random(among as u64) as usize;
        known.get(at).copied()
    }

    /// Rows of several shards in one statement.
    fn insert(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let count = 1 + self.random(4) as i64;
        let keys: Vec<i64> = (0..count).map(|at| (self.next + at) * 100 + i64::from(self.known.owner)).collect();
        self.next += count;
        let owner = self.known.owner;
        let rows: Vec<String> = keys.iter().map(|key| format!("({key}, {owner}, {key})")).collect();
        let sql = format!("INSERT INTO accounts VALUES {}", rows.join(", "));
        self.say(&sql).map_err(|gone| (gone, keys.clone()))?;
        self.known.accounts.extend(keys.iter().map(|key| (*key, *key)));
        Ok(())
    }

    fn update(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let Some(key) = self.any() else { return Ok(()) };
        let reply = self.say(&format!("UPDATE accounts SET balance = balance + 1 WHERE id = {key} RETURNING balance"));
        let reply = reply.map_err(|gone| (gone, vec![key]))?;
        let balance = self.known.accounts.get_mut(&key).unwrap();
        *balance += 1;
        assert_eq!(reply.texts(), [[balance.to_string()]], "account {key}");
        Ok(())
    }

    fn delete(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let Some(key) = self.any() else { return Ok(()) };
        self.say(&format!("DELETE FROM events WHERE account = {key}")).map_err(|gone| (gone, vec![key]))?;
        self.known.events.retain(|(account, _)| *account != key);
        self.say(&format!("DELETE FROM accounts WHERE id = {key}")).map_err(|gone| (gone, vec![key]))?;
        self.known.accounts.remove(&key);
        Ok(())
    }

    /// A transaction over two accounts, mostly on two shards, with an event for each.
    fn transfer(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let (Some(from), Some(to)) = (self.any(), self.any()) else { return Ok(()) };
        if from == to {
            return Ok(());
        }
        let both = || vec![from, to];
        let number = self.known.statements as i64;
        for sql in [
            "BEGIN".to_owned(),
            format!("UPDATE accounts SET balance = balance - 5 WHERE id = {from}"),
            format!("UPDATE accounts SET balance = balance + 5 WHERE id = {to}"),
            format!("INSERT INTO events VALUES ({from}, {number}, 'out'), ({to}, {number}, 'in')"),
            "COMMIT".to_owned(),
        ] {
            self.say(&sql).map_err(|gone| (gone, both()))?;
        }
        *self.known.accounts.get_mut(&from).unwrap() -= 5;
        *self.known.accounts.get_mut(&to).unwrap() += 5;
        self.known.events.extend([(from, number), (to, number)]);
        self.known.transactions += 1;
        Ok(())
    }

    /// As pgbench does, but for accounts that nobody else writes.
    fn add(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let Some((accounts, writers)) = self.business else { return Ok(()) };
        let own = u64::try_from(accounts.count).unwrap() / u64::from(writers);
        let among = if self.random(10) == 0 { 3 } else { own };
        let aid = self.random(among) as i64 * i64::from(writers) + i64::from(self.known.owner);
        let sql = format!("UPDATE pgbench_accounts SET abalance = abalance + 3 WHERE aid = {aid} RETURNING abalance");
        let reply = self.say(&sql).map_err(|gone| (gone, Vec::new()))?;
        let balance = self.known.added.entry(aid).or_default();
        *balance += 3;
        assert_eq!(reply.texts(), [[balance.to_string()]], "pgbench account {aid}");
        Ok(())
    }

    /// Rows of two tables that live together.
    fn read_order(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let Some((accounts, _)) = self.business else { return Ok(()) };
        // Three orders for eight accounts, four lines for each.
        let order = self.random(u64::try_from(accounts.count).unwrap() * 3 / 8) as i64;
        let sql = format!(
            "SELECT count(*), sum(l_linenumber), min(o_custkey) FROM orders JOIN lineitem ON l_orderkey = o_orderkey \
             WHERE o_orderkey = {order}"
        );
        let reply = self.say(&sql).map_err(|gone| (gone, Vec::new()))?;
        assert_eq!(reply.texts(), [["4".to_owned(), "6".to_owned(), (order % 75_000).to_string()]], "order {order}");
        Ok(())
    }

    fn read_customer(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let Some((accounts, _)) = self.business else { return Ok(()) };
        let customer = self.random(u64::try_from(accounts.count).unwrap() * 3 / 80) as i64;
        let sql = format!("SELECT c_name FROM customer WHERE c_custkey = {customer}");
        let reply = self.say(&sql).map_err(|gone| (gone, Vec::new()))?;
        assert_eq!(reply.texts(), [[format!("Customer#{customer}")]]);
        Ok(())
    }

    fn read_one(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let Some(key) = self.any() else { return Ok(()) };
        let sql = format!("SELECT a.balance, k.name FROM accounts a JOIN kinds k ON k.id = 7 WHERE a.id = {key}");
        let reply = self.say(&sql).map_err(|gone| (gone, Vec::new()))?;
        assert_eq!(reply.texts(), [[self.known.accounts[&key].to_string(), "kind 7".to_owned()]], "account {key}");
        Ok(())
    }

    /// All shards are asked; each row counts once.
    fn read_all(&mut self) -> Result<(), (Gone, Vec<i64>)> {
        let owner = self.known.owner;
        let sql = format!("SELECT count(*), coalesce(sum(balance), 0) FROM accounts WHERE owner = {owner}");
        let reply = self.say(&sql).map_err(|gone| (gone, Vec::new()))?;
        if self.known.unknown.is_empty() {
            let sum: i64 = self.known.accounts.values().sum();
            assert_eq!(reply.texts(), [[self.known.accounts.len().to_string(), sum.to_string()]], "writer {owner}");
        }
        Ok(())
    }
}

/// What writers did.
pub struct Facts {
    statements: u64,
    transactions: u64,
    rows: usize,
    longest: Duration,
    median_us: u32,
    /// The slowest of each hundred, and of each thousand.
    late_us: [u32; 2],
    slow: usize,
    /// Median and longest before anything moved.
    quiet_us: [u32; 2],
}

impl fmt::Display for Facts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} statements, {} transactions of two shards, {} rows at the end, 0 errors, 0 lost, 0 doubled; median {:.1} ms, \
             99 % within {:.0} ms, 99.9 % within {:.0} ms, {} took over 100 ms, the longest {} ms (before anything moved: \
             median {:.1} ms, the longest {} ms)",
            self.statements,
            self.transactions,
            self.rows,
            f64::from(self.median_us) / 1_000.0,
            f64::from(self.late_us[0]) / 1_000.0,
            f64::from(self.late_us[1]) / 1_000.0,
            self.slow,
            self.longest.as_millis(),
            f64::from(self.quiet_us[0]) / 1_000.0,
            self.quiet_us[1] / 1_000
        )
    }
}

/// Compares all rows of the writers with what they know: through the proxy, and on the servers themselves.
pub fn compare(ground: &Ground, histories: &[History]) -> Facts {
    let accounts = "SELECT id, owner, balance FROM accounts WHERE owner >= 0";
    let events = "SELECT account, id FROM events WHERE account >= 0";
    let mut app = ground.up.app();
    let through = [app.must(accounts).texts(), app.must(events).texts()];
    let mut on_servers = [Vec::new(), Vec::new()];
    for mut server in ground.servers() {
        on_servers[0].extend(server.must(accounts).texts());
        on_servers[1].extend(server.must(events).texts());
    }
    let known_accounts = histories.iter().flat_map(|known| {
        known.accounts.iter().map(|(id, balance)| vec![id.to_string(), known.owner.to_string(), balance.to_string()])
    });
    let known_events =
        histories.iter().flat_map(|known| &known.events).map(|(account, id)| vec![account.to_string(), id.to_string()]);
    let mut known = [known_accounts.collect::<Vec<_>>(), known_events.collect::<Vec<_>>()];
    known.iter_mut().for_each(|rows| rows.sort());
    for (place, mut seen) in [("through the proxy", through), ("on the servers", on_servers)] {
        seen.iter_mut().for_each(|rows| rows.sort());
        for (table, (seen, known)) in ["accounts", "events"].iter().zip(seen.iter().zip(&known)) {
            let first = seen.iter().zip(known.iter()).find(|(seen, known)| seen != known);
            assert!(
                seen == known,
                "{table} {place}: {} rows, {} known; first difference {first:?}",
                seen.len(),
                known.len()
            );
        }
    }
    let added: BTreeMap<i64, i64> = histories.iter().flat_map(|known| known.added.clone()).collect();
    if !added.is_empty() {
        compare_added(ground, &added);
    }
    let sorted = |part: &dyn Fn(&History) -> Vec<u32>| {
        let mut part: Vec<u32> = histories.iter().flat_map(part).collect();
        part.sort_unstable();
        part
    };
    let quiet = sorted(&|known| known.all.iter().take(known.quiet).copied().collect());
    let all = sorted(&|known| known.all.iter().skip(known.quiet).copied().collect());
    Facts {
        statements: histories.iter().map(|known| known.statements).sum(),
        transactions: histories.iter().map(|known| known.transactions).sum(),
        rows: known.iter().map(Vec::len).sum(),
        longest: Duration::from_micros(all.last().copied().unwrap_or_default().into()),
        median_us: all.get(all.len() / 2).copied().unwrap_or(0),
        late_us: [99, 999].map(|share: usize| {
            let of = if share > 99 { 1_000 } else { 100 };
            all.get(all.len() * share / of).copied().unwrap_or(0)
        }),
        slow: all.iter().filter(|took| **took > 100_000).count(),
        quiet_us: [quiet.get(quiet.len() / 2).copied().unwrap_or(0), quiet.last().copied().unwrap_or(0)],
    }
}

/// What was added to accounts of pgbench is what is there, on the servers; all others have nothing.
fn compare_added(ground: &Ground, added: &BTreeMap<i64, i64>) {
    let mut seen = BTreeMap::new();
    for mut server in ground.servers() {
        for row in server.must("SELECT aid, abalance FROM pgbench_accounts WHERE abalance <> 0").texts() {
            let before = seen.insert(row[0].parse::<i64>().unwrap(), row[1].parse::<i64>().unwrap());
            assert_eq!(before, None, "account {} is on two shards", row[0]);
        }
    }
    let first = seen.iter().zip(added).find(|(seen, known)| seen != known);
    assert!(seen == *added, "{} accounts, {} known; first difference {first:?}", seen.len(), added.len());
}
