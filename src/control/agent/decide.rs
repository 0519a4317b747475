//! What an agent does next, from what it sees and is told.

use super::{Task, Told};
use crate::failover::Stamp;
use crate::store::agents::OrderKind;

/// What an agent sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) is_running: bool,
    /// No data is there.
    pub(super) is_empty: bool,
    pub(super) is_standby: bool,
    pub(super) promised: Stamp,
    /// Its server did not run at the last look either.
    pub(super) was_down: bool,
    /// The pause after a start that failed is over.
    pub(super) may_start: bool,
    /// The last order that it brought to an end.
    pub(super) ended: Option<u64>,
}

/// What it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Rest,
    Start,
    /// It was a primary, and another node is.
    Stop,
    /// The order of this number came too late.
    Refuse(u64),
    Begin(Task),
}

pub(super) fn decide(sight: &Sight, told: Option<&Told>) -> Step {
    let task = told.and_then(|told| told.task.as_ref()).filter(|task| Some(task.number) != sight.ended);
    if let Some(task) = task {
        // Rule 5: since this was asked for it may have come to count.
        let is_late = !sight.is_empty && task.kind != OrderKind::Restart && sight.promised > task.stamp();
        let has_data = task.kind == OrderKind::Fill && !sight.is_empty;
        return if is_late || has_data { Step::Refuse(task.number) } else { Step::Begin(task.clone()) };
    }
    let is_deposed =
        !sight.is_standby && told.is_some_and(|told| told.is_led_by_other && told.term > sight.promised.term.0);
    match (sight.is_running, sight.is_empty) {
        (true, _) if is_deposed => Step::Stop,
        // It is made a standby before it is started, so that nobody takes it for a primary.
        (false, false) if sight.was_down && sight.may_start && !is_deposed => Step::Start,
        _ => Step::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Term;

    const STANDBY: Sight = Sight {
        is_running: true,
        is_empty: false,
        is_standby: true,
        promised: Stamp { term: Term(2), config: 5 },
        was_down: true,
        may_start: true,
        ended: None,
    };

    fn told(kind: OrderKind, config: u64) -> Told {
        let task = Task { number: 7, kind, term: 2, config, host: String::new(), port: 1 };
        let (user, slot) = (String::new(), String::new());
        Told { port: 1, user, slot, term: 2, is_led_by_other: true, task: Some(task) }
    }

    #[test]
    fn what_has_promised_more_is_not_thrown_away() {
        let late = told(OrderKind::Follow, 4);
        assert_eq!(decide(&STANDBY, Some(&late)), Step::Refuse(7));
        assert_eq!(decide(&Sight { ended: Some(7), ..STANDBY }, Some(&late)), Step::Rest);
        let in_time = told(OrderKind::Follow, 5);
        assert_eq!(decide(&STANDBY, Some(&in_time)), Step::Begin(in_time.task.clone().unwrap()));
        let restart = told(OrderKind::Restart, 4);
        assert_eq!(decide(&STANDBY, Some(&restart)), Step::Begin(restart.task.clone().unwrap()));
    }

    #[test]
    fn only_what_is_empty_is_filled() {
        let fill = told(OrderKind::Fill, 6);
        assert_eq!(decide(&STANDBY, Some(&fill)), Step::Refuse(7));
        let empty = Sight { is_running: false, is_empty: true, is_standby: false, ..STANDBY };
        assert_eq!(decide(&empty, Some(&fill)), Step::Begin(fill.task.clone().unwrap()));
        assert_eq!(decide(&empty, None), Step::Rest);
    }

    #[test]
    fn a_primary_of_an_older_term_is_stopped_and_not_started() {
        let old = Sight { is_standby: false, promised: Stamp { term: Term(1), config: 9 }, ..STANDBY };
        let nothing = Told { task: None, ..told(OrderKind::Follow, 1) };
        assert_eq!(decide(&old, Some(&nothing)), Step::Stop);
        assert_eq!(decide(&Sight { is_running: false, ..old }, Some(&nothing)), Step::Rest);
        // Nobody says so: it is as harmless as the quorum makes it.
        assert_eq!(decide(&Sight { is_running: false, ..old }, None), Step::Start);
        assert_eq!(decide(&STANDBY, Some(&nothing)), Step::Rest);
    }

    #[test]
    fn a_server_is_started_when_it_is_down_twice() {
        let down = Sight { is_running: false, ..STANDBY };
        assert_eq!(decide(&down, None), Step::Start);
        assert_eq!(decide(&Sight { was_down: false, ..down }, None), Step::Rest);
        assert_eq!(decide(&Sight { may_start: false, ..down }, None), Step::Rest);
    }
}
