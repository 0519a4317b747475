//! Histories made by hand: a sound one, and for each invariant the smallest changes that break it.

use super::*;

const BALANCE: i64 = 100;

fn source(shard: &str, node: &str, term: u64) -> Option<Source> {
    Some(Source { shard: shard.to_owned(), node: node.to_owned(), term })
}

fn operation(client: u32, begin: Micros, end: Micros, outcome: Outcome, what: What) -> Operation {
    Operation { client, begin, end, outcome, what }
}

/// One of everything, done; and one of everything that was rolled back, and of unknown outcome.
fn sound() -> (History, Final) {
    use Outcome::{Acknowledged, RolledBack, Unknown};
    let insert = |key, by| What::Insert { key, by };
    let operations = vec![
        operation(1, 0, 10, Acknowledged, insert(1, source("s1", "s1a", 1))),
        operation(1, 20, 30, Acknowledged, insert(2, source("s1", "s1a", 1))),
        operation(1, 40, 50, Unknown, insert(3, None)),
        operation(1, 60, 70, RolledBack, insert(4, None)),
        operation(1, 80, 90, Acknowledged, insert(5, source("s1", "s1b", 2))),
        operation(2, 0, 10, Acknowledged, What::Increment { register: 1, value: Some(1) }),
        // A row may come before it turns out that nobody knows.
        operation(2, 20, 30, Unknown, What::Increment { register: 1, value: Some(1) }),
        operation(3, 40, 50, Acknowledged, What::Increment { register: 1, value: Some(3) }),
        operation(3, 60, 70, RolledBack, What::Increment { register: 1, value: None }),
        operation(4, 0, 10, Acknowledged, What::Swap { register: 2, from: 0, to: 71, is_swapped: Some(true) }),
        operation(5, 0, 10, Acknowledged, What::Swap { register: 2, from: 0, to: 72, is_swapped: Some(false) }),
        operation(4, 20, 30, Unknown, What::Swap { register: 2, from: 71, to: 73, is_swapped: None }),
        operation(5, 40, 50, Acknowledged, What::Swap { register: 2, from: 73, to: 74, is_swapped: Some(true) }),
        operation(6, 0, 10, Acknowledged, What::Transfer { id: 1, from: 1, to: 2, amount: 7 }),
        operation(6, 20, 30, Unknown, What::Transfer { id: 2, from: 2, to: 1, amount: 1 }),
        operation(6, 40, 50, RolledBack, What::Transfer { id: 3, from: 1, to: 2, amount: 5 }),
        operation(7, 0, 10, Acknowledged, What::Append { list: 1, element: 1 }),
        operation(7, 20, 30, Unknown, What::Append { list: 1, element: 2 }),
        operation(7, 40, 50, RolledBack, What::Append { list: 1, element: 3 }),
        operation(7, 60, 70, Acknowledged, What::Append { list: 1, element: 4 }),
        operation(8, 0, 10, Acknowledged, What::Write { cell: 1, value: 1 }),
        operation(8, 20, 30, Acknowledged, What::Read { cell: 1, value: Some(1) }),
        operation(8, 40, 50, Unknown, What::Write { cell: 1, value: 2 }),
        operation(8, 60, 70, Acknowledged, What::Read { cell: 1, value: Some(2) }),
    ];
    let contents = Contents {
        inserts: vec![1, 2, 3, 5],
        registers: [(1, 3), (2, 74)].into(),
        accounts: [(1, BALANCE - 6), (2, BALANCE + 6)].into(),
        transfers: vec![(1, 1, 2, 7), (2, 2, 1, 1)],
        lists: [(1, vec![1, 2, 4])].into(),
        cells: [(1, 2)].into(),
    };
    let node = |is_in_recovery| Node { is_in_recovery, timeline: 2, prepared: 0, contents: contents.clone() };
    let nodes = [("s1a".to_owned(), node(true)), ("s1b".to_owned(), node(false))].into();
    let shard = Shard { recorded_primary: "s1b".to_owned(), is_recorded_open: true, nodes };
    let other = Shard {
        recorded_primary: "s2a".to_owned(),
        is_recorded_open: true,
        nodes: [("s2a".to_owned(), Node { timeline: 1, ..Node::default() })].into(),
    };
    let shards = [("s1".to_owned(), shard), ("s2".to_owned(), other)].into();
    let state = Final { shards, balances: [(1, BALANCE), (2, BALANCE)].into() };
    (History { operations, end: 100, dropped: 0 }, state)
}

const LIMITS: Limits = Limits { outage_max: Some(60), keeps_connections: true };

/// What is found after a change of the sound history.
fn after(change: impl FnOnce(&mut History, &mut Final)) -> Vec<Finding> {
    let (mut history, mut state) = sound();
    change(&mut history, &mut state);
    check(&history, &state, LIMITS)
}

#[track_caller]
fn breaks(invariant: Invariant, change: impl FnOnce(&mut History, &mut Final)) {
    let found = after(change);
    assert!(found.iter().any(|finding| finding.invariant == invariant), "{invariant:?} is not found: {found:?}");
}

/// The same change on all nodes of the first shard.
fn everywhere(state: &mut Final, change: impl Fn(&mut Contents)) {
    state.shards.get_mut("s1").unwrap().nodes.values_mut().for_each(|node| change(&mut node.contents));
}

fn node<'a>(state: &'a mut Final, name: &str) -> &'a mut Node {
    state.shards.get_mut("s1").unwrap().nodes.get_mut(name).unwrap()
}

#[test]
fn a_sound_history_is_found_sound() {
    assert_eq!(after(|_, _| {}).iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(worst_outage(&sound().0), Some((60, "s1".to_owned())));
}

#[test]
fn what_is_unknown_may_as_well_not_have_happened() {
    let found = after(|history, state| {
        everywhere(state, |contents| {
            contents.inserts.retain(|key| *key != 3);
            contents.lists.insert(1, vec![1, 4]);
            contents.transfers.pop();
            contents.accounts = [(1, BALANCE - 7), (2, BALANCE + 7)].into();
        });
        history.operations.retain(|operation| !matches!(operation.what, What::Swap { .. }));
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn lost_and_doubled_writes_break_the_first() {
    let lose = |key: i64| move |contents: &mut Contents| contents.inserts.retain(|has| *has != key);
    breaks(Invariant::I1, |_, state| everywhere(state, lose(2)));
    breaks(Invariant::I1, |_, state| lose(2)(&mut node(state, "s1a").contents));
    breaks(Invariant::I1, |_, state| lose(3)(&mut node(state, "s1a").contents));
    breaks(Invariant::I1, |_, state| everywhere(state, |contents| contents.inserts.push(2)));
    breaks(Invariant::I1, |_, state| {
        state.shards.get_mut("s2").unwrap().nodes.get_mut("s2a").unwrap().contents.inserts.push(2);
    });
    breaks(Invariant::I1, |_, state| everywhere(state, |contents| _ = contents.registers.insert(1, 1)));
    breaks(Invariant::I1, |history, _| {
        history.operations[7].what = What::Increment { register: 1, value: Some(1) };
    });
    breaks(Invariant::I1, |history, _| {
        history.operations[5].what = What::Increment { register: 1, value: Some(3) };
        history.operations[7].what = What::Increment { register: 1, value: Some(2) };
    });
    breaks(Invariant::I1, |_, state| everywhere(state, |contents| _ = contents.registers.insert(2, 72)));
    breaks(Invariant::I1, |history, _| {
        history.operations[10].what = What::Swap { register: 2, from: 0, to: 72, is_swapped: Some(true) };
    });
    breaks(Invariant::I1, |_, state| everywhere(state, |contents| contents.transfers.retain(|row| row.0 != 1)));
    breaks(Invariant::I1, |_, state| everywhere(state, |contents| _ = contents.lists.insert(1, vec![2, 4])));
    breaks(Invariant::I1, |_, state| everywhere(state, |contents| _ = contents.lists.insert(1, vec![1, 2, 4, 1])));
    breaks(Invariant::I1, |_, state| everywhere(state, |contents| _ = contents.lists.insert(1, vec![4, 2, 1])));
    breaks(Invariant::I1, |_, state| everywhere(state, |contents| _ = contents.cells.insert(1, 0)));
}

#[test]
fn two_that_acknowledge_break_the_second() {
    breaks(Invariant::I2, |history, _| {
        history.operations[1].what = What::Insert { key: 2, by: source("s1", "s1b", 1) };
    });
    breaks(Invariant::I2, |history, _| {
        let what = What::Insert { key: 2, by: source("s1", "s1a", 1) };
        history.operations.push(operation(9, 95, 97, Outcome::Acknowledged, what));
    });
    // One that was begun before the change may be told late.
    let found = after(|history, state| {
        let what = What::Insert { key: 9, by: source("s1", "s1a", 1) };
        history.operations.push(operation(9, 25, 97, Outcome::Acknowledged, what));
        everywhere(state, |contents| contents.inserts.push(9));
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_was_rolled_back_and_is_there_breaks_the_third() {
    breaks(Invariant::I3, |_, state| everywhere(state, |contents| contents.inserts.push(4)));
    breaks(Invariant::I3, |_, state| node(state, "s1a").contents.inserts.push(4));
    breaks(Invariant::I3, |_, state| everywhere(state, |contents| _ = contents.registers.insert(1, 4)));
    breaks(Invariant::I3, |_, state| everywhere(state, |contents| contents.transfers.push((3, 1, 2, 5))));
    breaks(Invariant::I3, |_, state| everywhere(state, |contents| _ = contents.lists.insert(1, vec![1, 2, 3, 4])));
    breaks(Invariant::I3, |history, _| history.operations[12].outcome = Outcome::RolledBack);
    breaks(Invariant::I3, |history, _| history.operations[22].outcome = Outcome::RolledBack);
}

#[test]
fn a_long_outage_breaks_the_fourth() {
    breaks(Invariant::I4, |history, _| history.operations[4].end = 95);
    breaks(Invariant::I4, |history, _| history.end = 200);
    breaks(Invariant::I4, |history, _| history.operations.clear());
}

#[test]
fn nodes_that_differ_break_the_fifth() {
    breaks(Invariant::I5, |_, state| node(state, "s1a").timeline = 3);
    breaks(Invariant::I5, |_, state| node(state, "s1a").contents.inserts.push(77));
    breaks(Invariant::I5, |_, state| _ = node(state, "s1a").contents.registers.insert(9, 9));
    breaks(Invariant::I5, |_, state| _ = node(state, "s1a").contents.accounts.insert(1, 9));
    breaks(Invariant::I5, |_, state| node(state, "s1a").contents.transfers.clear());
    breaks(Invariant::I5, |_, state| node(state, "s1a").contents.lists.clear());
    breaks(Invariant::I5, |_, state| node(state, "s1a").contents.cells.clear());
    breaks(Invariant::I5, |_, state| state.shards.get_mut("s1").unwrap().nodes.clear());
}

#[test]
fn a_record_that_lies_breaks_the_sixth() {
    breaks(Invariant::I6, |_, state| state.shards.get_mut("s1").unwrap().recorded_primary = "s1a".to_owned());
    breaks(Invariant::I6, |_, state| state.shards.get_mut("s1").unwrap().recorded_primary = "s1z".to_owned());
    breaks(Invariant::I6, |_, state| state.shards.get_mut("s1").unwrap().is_recorded_open = false);
    breaks(Invariant::I6, |_, state| node(state, "s1a").is_in_recovery = false);
}

#[test]
fn stale_and_invented_reads_break_the_seventh() {
    let read = |value| {
        move |history: &mut History, _: &mut Final| {
            let what = What::Read { cell: 1, value };
            history.operations.push(operation(8, 80, 90, Outcome::Acknowledged, what));
        }
    };
    breaks(Invariant::I7, read(Some(1)));
    breaks(Invariant::I7, read(None));
    breaks(Invariant::I7, read(Some(3)));
    breaks(Invariant::I7, |history, _| history.operations[21].what = What::Read { cell: 1, value: Some(0) });
}

#[test]
fn money_that_is_made_or_lost_breaks_the_eighth() {
    breaks(Invariant::I8, |_, state| everywhere(state, |contents| _ = contents.accounts.insert(1, BALANCE)));
    breaks(Invariant::I8, |_, state| {
        everywhere(state, |contents| contents.accounts = [(1, BALANCE - 5), (2, BALANCE + 5)].into());
    });
    breaks(Invariant::I8, |_, state| everywhere(state, |contents| contents.transfers[0].3 = 8));
    breaks(Invariant::I8, |_, state| everywhere(state, |contents| contents.transfers.push((99, 1, 1, 1))));
    breaks(Invariant::I8, |_, state| node(state, "s1a").prepared = 1);
}

#[test]
fn a_connection_that_ends_breaks_the_ninth() {
    breaks(Invariant::I9, |history, _| history.dropped = 1);
}

#[test]
fn many_findings_of_a_kind_are_told_in_few_lines() {
    let found = after(|history, _| {
        for key in 1_000..2_000 {
            let what = What::Insert { key, by: source("s1", "s1b", 2) };
            history.operations.push(operation(9, 95, 97, Outcome::Acknowledged, what));
        }
    });
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), TOLD_MAX + 1, "{told:?}");
    assert!(told.last().unwrap().contains("992 more"), "{told:?}");
}
