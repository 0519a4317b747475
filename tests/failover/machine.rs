//! The failover machine by itself: single events, and what it wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ostrakon::base::{NodeId, Term};
use ostrakon::failover::{
    Acknowledgers, ActionKind, Answer, Cause, Durability, Effect, Event, Failure, Machine, Member, Outcome, Phase,
    Position, Record, Settings, Stamp, SyncSet,
};

const PRIMARY: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn durability(quorum: usize) -> Durability {
    Durability { quorum, acknowledgers: Acknowledgers::Any, is_available: false }
}

/// A machine that leads three nodes by a record, with the time.
struct Bench {
    machine: Machine,
    now: Duration,
    revision: u64,
}

impl Bench {
    fn of(quorum: usize, record: Record) -> Self {
        let member = |node| Member { node: NodeId(node), zone: String::new(), priority: 0 };
        let settings = Settings { durability: durability(quorum), ..Settings::default() };
        let machine = Machine::new(settings, (1..=3).map(member).collect());
        let mut bench = Self { machine, now: ms(10_000), revision: 0 };
        bench.step(Event::Lease(true));
        bench.read(record);
        bench
    }

    /// The record that a step writes, if it writes one.
    fn step(&mut self, event: Event) -> Option<Record> {
        let mut effects = Vec::new();
        self.machine.step(self.now, event, &mut effects);
        effects.into_iter().find_map(|effect| match effect {
            Effect::Write { record, .. } => Some(*record),
            _ => None,
        })
    }

    fn read(&mut self, record: Record) -> Option<Record> {
        self.revision += 1;
        self.step(Event::Read { asked: self.now, record, revision: self.revision })
    }

    /// Time goes by, as a proxy that is awake sees it.
    fn pass(&mut self, time: Duration) -> Option<Record> {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + ms(100));
            if let Some(record) = self.step(Event::Tick) {
                return Some(record);
            }
        }
        None
    }

    fn answer(&mut self, asked: Duration, node: NodeId, in_recovery: bool, term: u64) -> Option<Record> {
        self.step(Event::Answered { node, asked, answer: says(in_recovery, term) })
    }

    fn fail(&mut self, asked: Duration, node: NodeId, failure: Failure) -> Option<Record> {
        self.step(Event::Failed { node, asked, failure })
    }
}

fn says(in_recovery: bool, term: u64) -> Answer {
    Answer {
        promised: Stamp { term: Term(term), config: 1 },
        in_recovery,
        session: 1,
        position: Position { timeline: term, lsn: 1_000 },
        goes_by: None,
        attached: BTreeMap::new(),
        following: in_recovery.then_some((OTHER, Term(term))),
        heard: in_recovery.then_some(ms(10)),
    }
}

fn open(term: u64, primary: NodeId, quorum: usize) -> Record {
    let others: BTreeSet<NodeId> = (1..=3).map(NodeId).filter(|node| *node != primary && quorum > 0).collect();
    let current = SyncSet { members: others, quorum };
    Record { current, next: None, ..Record::first(Term(term), primary, BTreeSet::new(), 0) }
}

fn cause(record: &Record) -> Option<Cause> {
    match record.phase {
        Phase::Freezing { cause } => Some(cause),
        _ => None,
    }
}

const ALLOWED: Cause = Cause::LossAllowed { to: None };
const LOST: Cause = Cause::Lost;

#[test]
fn a_command_whose_write_another_proxy_forestalls_is_tried_again() {
    let mut bench = Bench::of(1, open(5, PRIMARY, 1));
    assert_eq!(bench.step(Event::Command(ALLOWED)).as_ref().and_then(cause), Some(ALLOWED));
    // Somebody else's term came first.
    bench.step(Event::NotWritten);
    let wanted = bench.read(open(5, PRIMARY, 1).next_term(LOST)).unwrap();
    assert_eq!((wanted.term, cause(&wanted)), (Term(7), Some(ALLOWED)));
    // Once it stands, that is all.
    bench.revision += 1;
    let revision = bench.revision;
    assert_eq!(bench.step(Event::Written { record: wanted.clone(), revision }), None);
    let opened = Record { phase: Phase::Open, primary: OTHER, ..wanted };
    assert_eq!(bench.read(opened).as_ref().and_then(cause), None);
}

#[test]
fn a_command_that_was_written_though_nobody_said_so_is_not_done_twice() {
    let mut bench = Bench::of(1, open(5, PRIMARY, 1));
    let planned = Cause::Planned { to: None };
    let wanted = bench.step(Event::Command(planned)).unwrap();
    bench.step(Event::NotWritten);
    // By the time it is read, the other one leads.
    let opened = Record { phase: Phase::Open, primary: OTHER, ..wanted };
    assert_eq!(bench.read(opened).as_ref().and_then(cause), None);
    assert_eq!(bench.pass(ms(1_000)).as_ref().and_then(cause), None);
}

#[test]
fn where_nothing_can_be_proved_no_term_begins_by_itself() {
    let mut bench = Bench::of(0, open(5, PRIMARY, 0));
    for _ in 0..50 {
        let at = bench.now;
        assert_eq!(bench.fail(at, PRIMARY, Failure::Refused), None);
        assert_eq!(bench.pass(ms(300)), None);
    }
    assert_eq!(bench.step(Event::Command(LOST)).as_ref().and_then(cause), Some(LOST), "by command it does");
}

#[test]
fn what_a_node_was_before_it_was_promoted_does_not_count_against_it() {
    let mut bench = Bench::of(1, open(5, PRIMARY, 1));
    let asked = bench.now;
    bench.answer(asked, OTHER, true, 5);
    bench.now += ms(50);
    assert_eq!(bench.read(open(6, OTHER, 1)).as_ref().and_then(cause), None, "an answer from before");
    bench.now += ms(20);
    let late = bench.now - ms(60);
    assert_eq!(
        bench.answer(late, OTHER, true, 5).as_ref().and_then(cause),
        None,
        "an answer to a question from before"
    );
    assert_eq!(bench.fail(late, OTHER, Failure::Refused).as_ref().and_then(cause), None);
    assert_eq!(bench.fail(late, OTHER, Failure::Refused).as_ref().and_then(cause), None);
    // Asked now, it counts.
    bench.pass(ms(200));
    let asked = bench.now;
    assert_eq!(bench.answer(asked, OTHER, true, 5).as_ref().and_then(cause), Some(LOST));
}

#[test]
fn what_came_of_questions_from_before_a_sleep_does_not_count() {
    for failure in [Failure::Timeout, Failure::Refused] {
        let mut bench = Bench::of(1, open(5, PRIMARY, 1));
        let asked = bench.now;
        bench.answer(asked, PRIMARY, false, 5);
        bench.answer(asked, OTHER, true, 5);
        bench.fail(asked, PRIMARY, failure);
        // Its own process stood still, or the machine did.
        bench.now += ms(15_000);
        for _ in 0..5 {
            assert_eq!(bench.fail(asked, PRIMARY, failure).as_ref().and_then(cause), None, "{failure:?}");
            bench.now += ms(10);
        }
    }
    // What it asks from then on does.
    let mut bench = Bench::of(1, open(5, PRIMARY, 1));
    bench.now += ms(15_000);
    bench.step(Event::Tick);
    let asked = bench.now + ms(1);
    bench.now += ms(10);
    bench.fail(asked, PRIMARY, Failure::Refused);
    assert_eq!(bench.fail(asked, PRIMARY, Failure::Refused).as_ref().and_then(cause), Some(LOST));
}

#[test]
fn who_leads_alone_because_loss_was_allowed_waits_for_nobody() {
    let mut bench = Bench::of(1, open(5, PRIMARY, 1));
    let opening = SyncSet::default();
    let target = Position { timeline: 1, lsn: 1_000 };
    let phase = Phase::Promoting { cause: ALLOWED, candidate: OTHER, source: OTHER, target, opening };
    let record = Record { config: 1, phase, ..open(5, PRIMARY, 1).next_term(ALLOWED) };
    let stamp = record.stamp();
    bench.read(record);
    let promoted = Event::Ended { node: OTHER, kind: ActionKind::Promote, stamp, outcome: Outcome::Done };
    assert_eq!(bench.step(promoted), None);
    let asked = bench.now;
    assert_eq!(bench.answer(asked, OTHER, false, 6), None, "no other opening is wanted");
    let outcome = Outcome::Passed { session: 1 };
    let opened = bench.step(Event::Ended { node: OTHER, kind: ActionKind::Barrier, stamp, outcome }).unwrap();
    assert_eq!((opened.phase, opened.primary, opened.current), (Phase::Open, OTHER, SyncSet::default()));
}
