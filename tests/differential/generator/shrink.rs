//! Makes a failing program small: fewer statements and rows first, then a smaller statement.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::draft::Step;
use super::play::{Failure, Pair, play, still_differs};
use super::program::Program;
use crate::cases::Order;
use crate::cluster::Cluster;
use crate::runner::Mode;

/// How long one failure is worked on.
const PATIENCE: Duration = Duration::from_secs(45);

/// A smaller program with the same failure, as a differential case.
pub fn shrink(cluster: &mut Cluster, program: &Program, failure: &Failure) -> String {
    let end = Instant::now() + PATIENCE;
    let sign = failure.sign();
    let mut small = program.clone();
    if let Some(index) = failure.step {
        small.steps.truncate(index + 1);
    }
    let fails = |cluster: &mut Cluster, candidate: &Program| {
        let tally = play(cluster, candidate, 1);
        let is_last = |found: &Failure| match failure.step {
            Some(_) => found.step == Some(candidate.steps.len() - 1),
            None => found.step.is_none(),
        };
        tally.failures.iter().any(|found| found.sign() == sign && is_last(found))
    };
    let keeps_last = usize::from(failure.step.is_some());
    let mut parts = units(&small, keeps_last);
    // Most reads need no statement before them.
    let alone =
        with(&small, &units(&small, keeps_last).into_iter().filter(|unit| unit.is_row).collect::<Vec<_>>(), keeps_last);
    if fails(cluster, &alone) {
        small = alone;
        parts = units(&small, keeps_last);
    }
    let mut size = parts.len().div_ceil(2);
    while size > 0 && Instant::now() < end {
        let mut at = 0;
        let mut has_changed = false;
        while at < parts.len() && Instant::now() < end {
            let kept: Vec<Unit> = parts
                .iter()
                .enumerate()
                .filter(|(index, _)| *index < at || *index >= at + size)
                .map(|(_, unit)| unit.clone())
                .collect();
            let candidate = with(&small, &kept, keeps_last);
            if fails(cluster, &candidate) {
                small = candidate;
                parts = units(&small, keeps_last);
                has_changed = true;
            } else {
                at += size;
            }
        }
        size = if size == 1 && !has_changed { 0 } else { (size / 2).max(usize::from(size > 1 || has_changed)) };
    }
    if failure.step.is_some() && fails(cluster, &small) && small.steps.last().is_some_and(|step| step.reads) {
        smaller_text(cluster, &mut small, &sign, end + PATIENCE / 3);
    }
    case_text(&small)
}

/// What is left out together.
#[derive(Clone)]
struct Unit {
    is_row: bool,
    indexes: Vec<usize>,
}

fn units(program: &Program, keeps_last: usize) -> Vec<Unit> {
    let mut units: Vec<Unit> =
        (0..program.rows.len()).map(|index| Unit { is_row: true, indexes: vec![index] }).collect();
    let count = program.steps.len() - keeps_last;
    let last_block = if keeps_last > 0 { program.steps[count].block } else { None };
    for index in 0..count {
        let block = program.steps[index].block;
        let is_same = block.is_some() && block != last_block && index > 0 && program.steps[index - 1].block == block;
        match units.last_mut() {
            Some(unit) if is_same && !unit.is_row => unit.indexes.push(index),
            _ => units.push(Unit { is_row: false, indexes: vec![index] }),
        }
    }
    units
}

fn with(program: &Program, units: &[Unit], keeps_last: usize) -> Program {
    let mut small = Program { world: program.world.clone(), rows: Vec::new(), steps: Vec::new() };
    for unit in units {
        let from = if unit.is_row { &program.rows } else { &program.steps };
        let steps = unit.indexes.iter().map(|index| from[*index].clone());
        if unit.is_row { small.rows.extend(steps) } else { small.steps.extend(steps) }
    }
    if keeps_last > 0 {
        small.steps.extend(program.steps.last().cloned());
    }
    small
}

/// Leaves out parts of the last statement for as long as both sides still differ alike.
fn smaller_text(cluster: &Cluster, program: &mut Program, sign: &str, end: Instant) {
    let Some(step) = program.steps.last_mut() else { return };
    if step.block.is_some() {
        return;
    }
    let mut pair = Pair::connect(cluster);
    let needs_order = ["LIMIT", "OFFSET", "DISTINCT ON", "OVER", "_agg("].iter().any(|word| step.sql.contains(word));
    let as_set = still_differs(&mut pair, step, &step.sql, true, sign);
    let mut tokens = tokens(&step.sql);
    let mut size = tokens.len() / 2;
    while size > 0 && Instant::now() < end {
        let mut at = 0;
        while at + size <= tokens.len() && Instant::now() < end {
            let frozen = if needs_order || !as_set { frozen(&tokens) } else { vec![false; tokens.len()] };
            let mut fewer = tokens.clone();
            fewer.drain(at..at + size);
            let is_free = !frozen[at..at + size].contains(&true);
            if is_free && still_differs(&mut pair, step, &fewer.concat(), as_set, sign) {
                tokens = fewer;
                pair = Pair::connect(cluster);
            } else {
                at += 1;
            }
        }
        size /= 2;
    }
    step.sql = tokens.concat();
    if as_set {
        step.order = Order::Any;
    }
}

/// Tokens of an ORDER BY: without it what LIMIT cuts is open.
fn frozen(tokens: &[String]) -> Vec<bool> {
    let mut frozen = vec![false; tokens.len()];
    for (begin, _) in tokens.iter().enumerate().filter(|(_, token)| token.trim() == "ORDER") {
        let mut depth = 0;
        for (index, token) in tokens.iter().enumerate().skip(begin) {
            depth += i32::from(token.trim() == "(") - i32::from(token.trim() == ")");
            if depth < 0 {
                break;
            }
            frozen[index] = true;
        }
    }
    frozen
}

/// Words, quoted texts and symbols, each with the white space behind it.
fn tokens(sql: &str) -> Vec<String> {
    let letters: Vec<char> = sql.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let is_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '$' | '.');
    while at < letters.len() {
        let begin = at;
        if letters[at] == '\'' {
            at += 1;
            while at < letters.len() && letters[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if is_word(letters[at]) {
            while at < letters.len() && is_word(letters[at]) {
                at += 1;
            }
        } else {
            at += 1;
        }
        while at < letters.len() && letters[at] == ' ' {
            at += 1;
        }
        tokens.push(letters[begin..at.min(letters.len())].iter().collect());
    }
    tokens
}

/// As a case file says it.
fn case_text(program: &Program) -> String {
    let mut out = String::new();
    let used: Vec<&Step> = program.rows.iter().chain(&program.steps).collect();
    let placements = program.world.placements();
    let is_used = |name: &str| used.iter().any(|step| step.sql.contains(name));
    // Tables that no statement names are not shown.
    let hidden: Vec<&String> = placements.iter().map(|(name, _)| name).filter(|name| !is_used(name)).collect();
    for (name, placement) in placements.iter().filter(|(name, _)| is_used(name)) {
        let _ = writeln!(out, "-- {name}: {placement:?}");
    }
    for ddl in &program.world.ddl {
        if !hidden.iter().any(|name| ddl.contains(&format!("TABLE {name} (")) || ddl.contains(&format!(" ON {name} (")))
        {
            let _ = writeln!(out, "{ddl};");
        }
    }
    for step in program.rows.iter().chain(&program.steps) {
        let _ = write!(out, "{}", step_text(step));
    }
    out
}

/// One statement with its directives.
pub fn step_text(step: &Step) -> String {
    let mut out = String::new();
    if !step.params.is_empty() {
        let params: Vec<String> = step.params.iter().map(super::values::Param::directive).collect();
        let _ = writeln!(out, "--@ params {}", params.join(" | "));
    }
    match step.mode {
        Mode::Simple => {}
        Mode::Extended => out.push_str("--@ extended\n"),
        Mode::Prepared => out.push_str("--@ prepared\n"),
    }
    if let Order::Ties(columns) = &step.order {
        let columns: Vec<String> = columns.iter().map(usize::to_string).collect();
        let _ = writeln!(out, "--@ ties {}", columns.join(","));
    }
    let _ = writeln!(out, "{};", step.sql);
    if let Some(copy) = &step.copy {
        let _ = writeln!(out, "--@ data\n{copy}\\.");
    }
    out
}
