//! The generator: random schemas, random rows and random statements of every kind that applications send, run on one
//! PostgreSQL and through 1, 2, 3 and 5 shards.
//!
//! Answers are equal, or refused with 0A000 by a message that `refusal_kinds.txt` lists. What differs is made small and
//! printed as a case. `make generator` runs 200,000 statements, `make test` some thousands of a fixed seed.

mod draft;
mod play;
mod program;
mod select;
mod shrink;
mod values;
mod world;
mod write;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::random::seed_from_env;
use play::{Tally, play};
use program::Program;

/// How many shards each program runs through.
const SHARDS: [usize; 4] = [1, 2, 3, 5];

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn list_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/differential/refusal_kinds.txt")
}

fn listed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(list_path()).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
}

/// Runs programs until so many statements were sent; gives what differed, made small.
fn run(shards: &[usize], count: usize, failures_max: usize) -> (Tally, Vec<String>) {
    let seed = seed_from_env();
    let size = number("OSTRAKON_PROGRAM", if count > 20_000 { 800 } else { 250 });
    let first = number("OSTRAKON_FIRST", 0);
    println!("OSTRAKON_SEED={seed} OSTRAKON_GENERATED={count} OSTRAKON_PROGRAM={size} shards {shards:?}");
    let mut whole = Tally::default();
    let mut failures = Vec::new();
    for shards in shards {
        let begin = Instant::now();
        let mut cluster = Cluster::without_proxy(*shards, &[]);
        let mut sum = Tally::default();
        let mut program_number = first;
        while sum.statements < count && failures.len() < failures_max {
            let program = Program::random(seed, program_number, size.min(count));
            let tally = play(&mut cluster, &program, 3);
            sum.add(&tally);
            let mut signs = BTreeSet::new();
            for failure in &tally.failures {
                if !signs.insert(failure.sign()) {
                    continue;
                }
                let sql = failure.step.map_or("", |step| program.steps[step].sql.as_str());
                let head = format!(
                    "OSTRAKON_SEED={seed} OSTRAKON_FIRST={program_number} OSTRAKON_PROGRAM={size}, {shards} shards, statement {:?}\n    {sql}\n    {}",
                    failure.step, failure.text
                );
                println!("DIFFERENT {head}");
                let case = if number("OSTRAKON_SHRINK", 1) > 0 {
                    shrink::shrink(&mut cluster, &program, failure)
                } else {
                    String::new()
                };
                println!("--- smaller:\n{case}---");
                failures.push(format!("{head}\n{case}"));
            }
            program_number += 1;
        }
        report(&format!("{shards} shards"), &sum, begin.elapsed());
        whole.add(&sum);
    }
    (whole, failures)
}

fn report(what: &str, tally: &Tally, elapsed: Duration) {
    let refused = tally.refused_count();
    println!(
        "{what}: {} statements in {elapsed:.1?}, {} equal, {} equal errors, {refused} refused ({:.1} %)",
        tally.statements,
        tally.equal,
        tally.errors,
        100.0 * refused as f64 / tally.statements.max(1) as f64
    );
}

fn report_refusals(tally: &Tally) {
    let mut kinds: Vec<_> = tally.refused.iter().collect();
    kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    for (kind, (count, example)) in kinds {
        println!(
            "refused {count} ({:.2} %): {kind}\n    {example}",
            100.0 * *count as f64 / tally.statements.max(1) as f64
        );
    }
    for (code, (count, example)) in &tally.codes {
        println!("error {code}: {count}\n    {example}");
    }
    for (kind, (sent, refused)) in &tally.kinds {
        println!("{kind}: {sent} sent, {refused} refused");
    }
}

/// Refusals whose kind is not on the published list, after adding them to it when asked to.
fn unlisted(tally: &Tally) -> Vec<String> {
    let mut list = listed();
    let news: Vec<&String> = tally.refused.keys().filter(|kind| !list.contains(*kind)).collect();
    if std::env::var_os("UPDATE").is_some() {
        list.extend(tally.refused.keys().cloned());
        let lines: Vec<&str> = list.iter().map(String::as_str).collect();
        let head =
            "# Why the proxy refuses generated statements with 0A000: its messages, names and numbers replaced.\n";
        std::fs::write(list_path(), format!("{head}{}\n", lines.join("\n"))).unwrap();
        return Vec::new();
    }
    news.iter().map(|kind| format!("refused but not in refusal_kinds.txt: {kind}")).collect()
}

#[cfg(not(feature = "unproved-routing"))]
#[test]
fn generated_programs_answer_like_one_postgresql() {
    let chosen = std::env::var("OSTRAKON_SHARDS");
    let shards: Vec<usize> =
        chosen.map_or(SHARDS.to_vec(), |text| text.split(',').map(|n| n.parse().unwrap()).collect());
    let count = number("OSTRAKON_GENERATED", 3_000);
    let (tally, mut complaints) = run(&shards, count.div_ceil(shards.len()), number("OSTRAKON_FAILURES", 5));
    report_refusals(&tally);
    report("all", &tally, Duration::ZERO);
    complaints.extend(unlisted(&tally));
    crate::judge(&complaints);
}

/// The build in which routes are guessed is caught.
#[cfg(feature = "unproved-routing")]
#[test]
fn routes_that_are_not_proved_are_found() {
    let (tally, failures) = run(&[3], 2_000, 1);
    println!("a difference after {} statements", tally.statements);
    assert!(!failures.is_empty(), "{} statements without proofs are answered like PostgreSQL's", tally.statements);
}

/// One changed row is found, too.
#[test]
fn a_planted_row_is_found_by_a_program() {
    let program = Program::random(3, 1, 40);
    let mut cluster = Cluster::without_proxy(2, &[]);
    assert!(play::play_with(&mut cluster, &program, 1, |_| ()).failures.is_empty());
    let tally = play::play_with(&mut cluster, &program, 1, |cluster| {
        cluster.shards[0].superuser().must("UPDATE ref SET i = coalesce(i, 0) + 100");
    });
    assert!(!tally.failures.is_empty());
}

#[test]
fn a_program_is_the_same_again() {
    let texts =
        |number| -> Vec<String> { Program::random(7, number, 60).steps.into_iter().map(|step| step.sql).collect() };
    assert_eq!(texts(1), texts(1));
    assert_ne!(texts(1), texts(2));
}
