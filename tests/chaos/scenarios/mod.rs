//! The scenarios: load, a fault, repair, and what the checker says.
//!
//! One set serves all of them, one after the other; making it takes as long as a scenario. Each prints a line.

mod controls;
mod kills;
mod links;
mod orders;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::checker::{Finding, History, Limits, Outcome, check, worst_outage};
use crate::load::Load;
use crate::set::Set;
use crate::state;

/// How long there is load before something happens.
const BEFORE: Duration = Duration::from_secs(2);
/// And after the fault's own time is over.
const AFTER: Duration = Duration::from_secs(3);

/// What a scenario does while there is load.
type Fault = fn(&mut Run);

/// A scenario of the design.
pub struct Scenario {
    /// Its number there.
    pub number: u32,
    pub name: &'static str,
    pub fault: Fault,
    /// Whether it is one of those that every run of the tests has.
    pub is_core: bool,
    /// I4, in milliseconds; none where the shard has to wait.
    pub outage_max_ms: Option<u64>,
    /// I9.
    pub keeps_connections: bool,
    /// What the term of the first shard does.
    pub term: Moves,
}

/// What the term of the first shard does in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    Stays,
    Grows,
    MayGrow,
}

/// A scenario that runs.
pub struct Run<'a> {
    pub set: &'a mut Set,
    /// The primary of the first shard when it began.
    pub primary: String,
    pub term: u64,
    /// Claims of the scenario itself that did not hold.
    pub complaints: Vec<String>,
    began: Instant,
}

impl Run<'_> {
    pub fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }

    pub fn wait_ms(&self, time: u64) {
        self.wait(Duration::from_millis(time));
    }

    pub fn claim(&mut self, holds: bool, what: &str) {
        if !holds {
            self.complaints.push(format!("{what} (after {} ms)", self.began.elapsed().as_millis()));
        }
    }

    /// Waits until the first shard has another term that is open: somebody else acknowledges.
    pub fn wait_for_another_term(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            let (primary, term) = self.set.leader("s1");
            if term > self.term && primary != self.primary {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.claim(false, "nobody took over");
    }

    /// The standbys of the first shard.
    pub fn standbys(&self) -> Vec<String> {
        crate::set::nodes_of("s1").into_iter().filter(|node| *node != self.primary).collect()
    }
}

/// What came of one scenario.
pub struct Verdict {
    pub findings: Vec<Finding>,
    pub complaints: Vec<String>,
    pub history: History,
    pub line: String,
}

impl Verdict {
    pub fn is_well(&self) -> bool {
        self.findings.is_empty() && self.complaints.is_empty()
    }
}

/// Runs one; `place` is which of this run of the tests it is.
pub fn run(set: &mut Set, scenario: &Scenario, place: i64) -> Verdict {
    let began = Instant::now();
    let (primary, term) = set.leader("s1");
    let load = Load::start(set.entrance(), place);
    std::thread::sleep(BEFORE);
    let mut run = Run { set, primary, term, complaints: Vec::new(), began };
    (scenario.fault)(&mut run);
    std::thread::sleep(AFTER);
    let history = load.stop();
    let (mut complaints, first) = (run.complaints, run.term);
    set.repair();
    let last = set.term("s1");
    match scenario.term {
        Moves::Stays if last != first => complaints.push("the term moved".to_owned()),
        Moves::Grows if last <= first => complaints.push("the term did not move".to_owned()),
        _ => {}
    }
    let state = state::read(set, place, place);
    let limits = Limits {
        outage_max: scenario.outage_max_ms.map(|limit| limit * 1_000 * slack()),
        keeps_connections: scenario.keeps_connections,
    };
    let findings = check(&history, &state, limits);
    let line = describe(scenario, &history, (first, last), began.elapsed());
    Verdict { findings, complaints, history, line }
}

/// Limits of time are so many times what they are: for machines that are busy with other things, too.
fn slack() -> u64 {
    std::env::var("OSTRAKON_CHAOS_SLACK").ok().and_then(|slack| slack.parse().ok()).unwrap_or(1)
}

fn describe(scenario: &Scenario, history: &History, terms: (u64, u64), took: Duration) -> String {
    let count = |outcome| history.operations.iter().filter(|operation| operation.outcome == outcome).count();
    let (outage, shard) = worst_outage(history).unwrap_or_default();
    format!(
        "{:2} {}: {} acknowledged, {} rolled back, {} unknown, {} connections dropped, worst outage {} ms ({shard}), \
         term {} -> {}, {} s",
        scenario.number,
        scenario.name,
        count(Outcome::Acknowledged),
        count(Outcome::RolledBack),
        count(Outcome::Unknown),
        history.dropped,
        outage / 1_000,
        terms.0,
        terms.1,
        took.as_secs()
    )
}

/// Those that belong to what is not there yet, and why. They are told, not faked.
const NOT_YET: &[(u32, &str)] = &[
    (13, "zones: preferred candidates are not configured in this set"),
    (20, "`pg_rewind` is not used: former primaries are copied anew"),
    (22, "needs file systems of limited size on the ground"),
    (25, "clocks are shared by all hosts of the ground; the simulator jumps them"),
    (26, "reshard jobs while a shard fails over; the simulator of the reshard machine has crashes"),
];

fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(kills::scenarios());
    all.extend(links::scenarios());
    all.extend(orders::scenarios());
    all.sort_by_key(|scenario| scenario.number);
    all
}

/// Those that are asked for: `OSTRAKON_CHAOS=core`, `all`, or numbers.
fn wanted() -> Vec<Scenario> {
    let wanted = std::env::var("OSTRAKON_CHAOS").unwrap_or_else(|_| "core".to_owned());
    let is_wanted = |scenario: &Scenario| match wanted.as_str() {
        "core" => scenario.is_core,
        "all" => true,
        numbers => numbers.split(',').any(|number| number.trim() == scenario.number.to_string()),
    };
    all().into_iter().filter(is_wanted).collect()
}

#[test]
#[ignore = "`make chaos` runs it: it takes minutes, and containers or namespaces"]
fn scenarios_hold_what_is_promised() {
    let began = Instant::now();
    let scenarios = wanted();
    let mut set = Set::make();
    let mut failed = Vec::new();
    let mut all = History::default();
    for (place, scenario) in scenarios.iter().enumerate() {
        let verdict = run(&mut set, scenario, i64::try_from(place).unwrap() + 1);
        let said = if verdict.is_well() { "holds" } else { "BROKEN" };
        println!("{}: {said}", verdict.line);
        let mut words = String::new();
        verdict.findings.iter().for_each(|finding| _ = writeln!(words, "    {finding}"));
        verdict.complaints.iter().for_each(|complaint| _ = writeln!(words, "    {complaint}"));
        print!("{words}");
        if !verdict.is_well() {
            failed.push(format!("{}\n{words}", verdict.line));
        }
        all.operations.extend(verdict.history.operations);
    }
    // What one left sound the next ones may not break. Clients of different scenarios are not the same ones, so their
    // times are not compared.
    set.repair();
    let later = state::read(&set, 1, i64::try_from(scenarios.len()).unwrap());
    let findings = check(&sequential(&all), &later, Limits::default());
    findings.iter().for_each(|finding| println!("    in the end: {finding}"));
    let controls = std::env::var("OSTRAKON_CHAOS_CONTROLS").is_ok_and(|wanted| wanted != "0");
    if controls {
        controls::lose_what_they_must(&mut set, i64::try_from(scenarios.len()).unwrap() + 1);
    }
    NOT_YET.iter().for_each(|(number, why)| println!("{number:2} is not run: {why}"));
    println!("{} scenarios, {} s", scenarios.len(), began.elapsed().as_secs());
    if !failed.is_empty() {
        set.last_words();
    }
    assert!(failed.is_empty() && findings.is_empty(), "{}", failed.join("\n"));
}

/// Only what is compared with contents: sessions and terms were judged with their scenario.
fn sequential(all: &History) -> History {
    use crate::checker::What;
    let compared = |what: &What| !matches!(what, What::Read { .. });
    let mut operations: Vec<_> = all.operations.iter().filter(|operation| compared(&operation.what)).cloned().collect();
    for operation in &mut operations {
        if let What::Insert { by, .. } = &mut operation.what {
            *by = None;
        }
    }
    History { operations, end: 0, dropped: 0 }
}
