//! What a program printed, and whether that is what it printed on PostgreSQL.
//!
//! Knows nothing of how programs are run.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// As much of a result is shown where two differ.
const DIFFERENCE_CHARS_MAX: usize = 300;

/// How one step ended through Ostrakon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The same as on PostgreSQL.
    Passed,
    /// SQLSTATE 0A000 with this message.
    Refused(String),
    /// It builds on this step, which was refused.
    Skipped(String),
    /// Neither.
    Failed(String),
    /// Neither, and known: a bug of ours that is not mended yet, in these words.
    Fault(String),
}

/// Steps and their results, in the order printed.
#[derive(Debug, Default)]
pub struct Printed {
    pub lines: Vec<(String, String)>,
}

impl Printed {
    /// Reads a program's output.
    ///
    /// # Errors
    /// A line without a tab, or a step that comes twice.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut seen = BTreeSet::new();
        let mut lines = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (step, result) = line.split_once('\t').ok_or_else(|| format!("no step on this line: {line}"))?;
            if !seen.insert(step) {
                return Err(format!("step {step} is printed twice"));
            }
            lines.push((step.to_owned(), result.trim_end().to_owned()));
        }
        Ok(Self { lines })
    }

    fn result(&self, step: &str) -> Option<&str> {
        self.lines.iter().find(|(name, _)| name == step).map(|(_, result)| result.as_str())
    }

    /// What is wrong with a run on PostgreSQL: a step that did not work there, or that is missing.
    pub fn complaints(&self, steps: &[String], left_out: &BTreeSet<String>) -> Vec<String> {
        let mut complaints: Vec<String> = self
            .lines
            .iter()
            .filter(|(_, result)| ["REFUSED ", "SKIPPED ", "ERROR "].iter().any(|word| result.starts_with(word)))
            .map(|(step, result)| format!("{step}: on PostgreSQL: {result}"))
            .collect();
        for step in steps {
            match (self.result(step), left_out.contains(step)) {
                (None, false) if left_out.contains("*") => {}
                (None, false) => complaints.push(format!("{step}: not printed, and not in leaves-out")),
                (Some(_), true) => complaints.push(format!("{step}: printed, but in leaves-out")),
                _ => {}
            }
        }
        complaints
    }
}

/// Judges a run by the one on PostgreSQL, step by step.
pub fn judge(right: &Printed, run: &Printed) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    for (step, wanted) in &right.lines {
        let outcome = match run.result(step) {
            None => Outcome::Failed("the step is missing".into()),
            Some(got) if got == wanted => Outcome::Passed,
            Some(got) => match (got.strip_prefix("REFUSED 0A000"), got.strip_prefix("SKIPPED after ")) {
                (Some(message), _) => Outcome::Refused(message.trim().to_owned()),
                (None, Some(cause)) => Outcome::Skipped(cause.trim().to_owned()),
                (None, None) => Outcome::Failed(difference(wanted, got)),
            },
        };
        outcomes.insert(step.clone(), outcome);
    }
    for (step, result) in &run.lines {
        if right.result(step).is_none() {
            outcomes.insert(step.clone(), Outcome::Failed(format!("only through Ostrakon: {result}")));
        }
    }
    let baseless: Vec<String> = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(cause) if !is_refused(&outcomes, cause)))
        .map(|(step, _)| step.clone())
        .collect();
    for step in baseless {
        outcomes.insert(step, Outcome::Failed("skipped after a step that was not refused".into()));
    }
    outcomes
}

/// Both results from shortly before the place where they part.
fn difference(wanted: &str, got: &str) -> String {
    let same = wanted.chars().zip(got.chars()).take_while(|(one, other)| one == other).count();
    let from = same.saturating_sub(DIFFERENCE_CHARS_MAX / 3);
    let part = |text: &str| -> String {
        let dots = if from > 0 { "…" } else { "" };
        let shown: String = text.chars().skip(from).take(DIFFERENCE_CHARS_MAX).collect();
        format!("{dots}{shown}")
    };
    format!("\n    PostgreSQL: {}\n    Ostrakon:   {}", part(wanted), part(got))
}

/// Whether this step was refused, or skipped after one that was.
fn is_refused(outcomes: &BTreeMap<String, Outcome>, step: &str) -> bool {
    let mut step = step;
    for _ in 0..outcomes.len() {
        match outcomes.get(step) {
            Some(Outcome::Refused(_)) => return true,
            Some(Outcome::Skipped(cause)) => step = cause,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(right: &str, run: &str) -> Vec<(String, Outcome)> {
        judge(&Printed::parse(right).unwrap(), &Printed::parse(run).unwrap()).into_iter().collect()
    }

    fn fails(right: &str, run: &str) {
        let outcomes = judged(right, run);
        assert!(outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_))), "{outcomes:?}");
    }

    #[test]
    fn the_same_lines_pass_in_any_order() {
        let outcomes = judged("a\t1\nb\t2\n", "b\t2\na\t1\n");
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Passed), "{outcomes:?}");
    }

    #[test]
    fn a_differing_missing_new_or_failed_line_is_seen() {
        fails("a\t1 row", "a\t2 rows");
        fails("a\t1\nb\t2", "a\t1");
        fails("a\t1", "a\t1\nb\t2");
        fails("a\t1", "a\tERROR 42P01 UndefinedTable");
        fails("a\t1", "a\tREFUSED 42601 syntax error");
        fails("a\t", "a\t1");
        assert!(Printed::parse("a\t1\na\t1").is_err());
        assert!(Printed::parse("no step").is_err());
    }

    #[test]
    fn refusals_are_kept_with_their_message_and_excuse_what_builds_on_them() {
        assert_eq!(
            judged("a\t1\nb\t2\nc\t3", "a\tREFUSED 0A000 not across shards\nb\tSKIPPED after a\nc\tSKIPPED after b"),
            [
                ("a".into(), Outcome::Refused("not across shards".into())),
                ("b".into(), Outcome::Skipped("a".into())),
                ("c".into(), Outcome::Skipped("b".into())),
            ]
        );
        fails("a\t1\nb\t2", "a\t1\nb\tSKIPPED after a");
        fails("a\t1\nb\t2", "a\tSKIPPED after b\nb\tSKIPPED after a");
        fails("a\t1", "a\tSKIPPED after nowhere");
    }

    #[test]
    fn on_postgresql_every_step_is_there_and_works() {
        let steps = ["a".to_owned(), "b".to_owned()];
        let none = BTreeSet::new();
        assert!(Printed::parse("a\t1\nb\t2\nown\t3").unwrap().complaints(&steps, &none).is_empty());
        assert_eq!(Printed::parse("a\t1").unwrap().complaints(&steps, &none).len(), 1);
        assert_eq!(Printed::parse("a\tREFUSED 0A000 x\nb\tERROR y").unwrap().complaints(&steps, &none).len(), 2);
        let left_out = BTreeSet::from(["b".to_owned()]);
        assert!(Printed::parse("a\t1").unwrap().complaints(&steps, &left_out).is_empty());
        assert_eq!(Printed::parse("a\t1\nb\t2").unwrap().complaints(&steps, &left_out).len(), 1);
        let all = BTreeSet::from(["*".to_owned()]);
        assert!(Printed::parse("own\t1").unwrap().complaints(&steps, &all).is_empty());
    }
}
