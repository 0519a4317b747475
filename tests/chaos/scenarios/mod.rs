//! The scenarios: load, a fault, repair, and what the checker says.
//!
//! One set serves all of them, one after the other; making it takes as long as a scenario. Each prints a line.

mod clocks;
mod controls;
mod disks;
mod kills;
mod links;
mod moves;
mod orders;
mod report;
mod zones;

use std::time::{Duration, Instant};

use crate::checker::{Finding, History, Limits, Outcome, check, worst_outage};
use crate::load::Load;
use crate::set::{Layout, Set};
use crate::state;
use report::Report;

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
    /// The set that it needs.
    pub layout: Layout,
}

/// What most have in common.
const PLAIN: Scenario = Scenario {
    number: 0,
    name: "",
    fault: |_| {},
    is_core: false,
    outage_max_ms: None,
    keeps_connections: false,
    term: Moves::Grows,
    layout: Layout::Several,
};

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

fn count_of(history: &History, outcome: Outcome) -> usize {
    history.operations.iter().filter(|operation| operation.outcome == outcome).count()
}

fn describe(scenario: &Scenario, history: &History, terms: (u64, u64), took: Duration) -> String {
    let count = |outcome| count_of(history, outcome);
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

fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(kills::scenarios());
    all.extend(links::scenarios());
    all.extend(orders::scenarios());
    all.extend(zones::scenarios());
    all.extend(disks::scenarios());
    all.extend(clocks::scenarios());
    all.extend(moves::scenarios());
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
    let (wanted, alone): (Vec<Scenario>, Vec<Scenario>) =
        wanted().into_iter().partition(|scenario| scenario.layout == Layout::Several);
    let mut report = Report::default();
    for (layout, scenarios) in [(Layout::Several, wanted), (Layout::Alone, alone)] {
        if !scenarios.is_empty() {
            run_on(layout, &scenarios, &mut report);
        }
    }
    println!("{} scenarios (controls included), {} s", report.rows.len(), began.elapsed().as_secs());
    report.write_table();
    assert!(report.failed.is_empty(), "{}", report.failed.join("\n"));
}

/// All scenarios that need a set of this kind, one after the other.
fn run_on(layout: Layout, scenarios: &[Scenario], report: &mut Report) {
    let mut set = Set::make(layout);
    report.ground = set.ground.machines.describe();
    let mut all = History::default();
    let failed_before = report.failed.len();
    for (place, scenario) in scenarios.iter().enumerate() {
        let verdict = run(&mut set, scenario, i64::try_from(place).unwrap() + 1);
        report.note(scenario, &verdict);
        all.operations.extend(verdict.history.operations);
    }
    // What one left sound the next ones may not break. Clients of different scenarios are not the same ones, so their
    // times are not compared.
    set.repair();
    let later = state::read(&set, 1, i64::try_from(scenarios.len()).unwrap());
    for finding in check(&sequential(&all), &later, Limits::default()) {
        println!("    in the end: {finding}");
        report.failed.push(format!("in the end: {finding}"));
    }
    let controls = std::env::var("OSTRAKON_CHAOS_CONTROLS").is_ok_and(|wanted| wanted != "0");
    if controls && layout == Layout::Several {
        report.rows.extend(controls::lose_what_they_must(&mut set, i64::try_from(scenarios.len()).unwrap() + 1));
    }
    if report.failed.len() > failed_before {
        set.last_words();
    }
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
