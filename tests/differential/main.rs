//! The differential test: the same SQL on one PostgreSQL and through three shards.
//!
//! Equal rows, columns, types, counts, SQLSTATEs and transaction status, or a refusal with 0A000 that
//! `refusals.txt` lists. `UPDATE=1` rewrites that list; its diff is reviewed like code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/raw.rs"]
mod raw;

mod cases;
mod compare;
mod drivers;
mod generator;
mod random;
mod runner;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use cluster::{Cluster, Placement, Server};
use runner::{Bench, Mode, Outcome, Verdict};

/// The demo schema's placement, and that of the tables that cases create.
const PLACEMENT: [(&str, Placement); 12] = [
    ("countries", Placement::Reference),
    ("products", Placement::Reference),
    ("users", Placement::Key(&["id"])),
    ("orders", Placement::Key(&["user_id"])),
    ("order_items", Placement::Key(&["user_id"])),
    ("settings", Placement::Single),
    ("events", Placement::Key(&["id"])),
    ("readings", Placement::Key(&["device", "day"])),
    ("ddl_sharded", Placement::Key(&["id"])),
    ("ddl_child", Placement::Key(&["parent"])),
    ("ddl_reference", Placement::Reference),
    ("ddl_single", Placement::Single),
];

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/differential")
}

/// All case files, or those that `OSTRAKON_CASES` names (comma-separated).
fn chosen_cases() -> Vec<(String, Vec<cases::Case>)> {
    let mut files = cases::read_all(&directory().join("cases"));
    if let Ok(chosen) = std::env::var("OSTRAKON_CASES") {
        files.retain(|(name, _)| chosen.split(',').any(|wanted| wanted == name));
    }
    files
}

fn run_all(bench: &Bench) -> Outcome {
    let mut outcome = Outcome::default();
    for (_, cases) in chosen_cases() {
        for mode in Mode::ALL {
            bench.run_file(mode, &cases, &mut outcome);
        }
    }
    println!(
        "{} statements, {} executions equal, {} statements refused, {} in the shadow of a refusal, {} different",
        outcome.statements.len(),
        outcome.equal,
        outcome.refused.len(),
        outcome.shadowed,
        outcome.differences.len()
    );
    outcome.reasons.iter().for_each(|(key, reason)| println!("refused: {key}\n  {reason}"));
    println!("spent: {:?}; slowest statements:", outcome.spent);
    outcome.times.sort_by(|a, b| b.cmp(a));
    outcome.times.iter().take(12).for_each(|(time, place)| println!("  {time:?} {place}"));
    outcome
}

/// One line a refusal: the statement, and the modes when not all that apply.
fn refusal_lines(refused: &BTreeMap<String, BTreeSet<&'static str>>) -> BTreeSet<String> {
    let line = |(key, modes): (&String, &BTreeSet<&str>)| {
        format!("[{}] {key}", modes.iter().copied().collect::<Vec<_>>().join(","))
    };
    refused.iter().map(line).collect()
}

/// What is wrong with the list of refusals, after rewriting it when asked to.
fn refusal_complaints(outcome: &Outcome) -> Vec<String> {
    let path = directory().join("refusals.txt");
    let now = refusal_lines(&outcome.refused);
    if std::env::var_os("UPDATE").is_some() {
        assert!(std::env::var_os("OSTRAKON_CASES").is_none(), "UPDATE=1 needs all case files");
        let mut text =
            String::from("# What the proxy refuses with 0A000 today, written by UPDATE=1. A line less is progress.\n");
        now.iter().for_each(|line| {
            let _ = writeln!(text, "{line}");
        });
        std::fs::write(&path, text).unwrap();
        return Vec::new();
    }
    let listed: BTreeSet<String> = std::fs::read_to_string(&path)
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::to_owned)
        .collect();
    let chosen: BTreeSet<String> = chosen_cases().into_iter().map(|(name, _)| name).collect();
    list_complaints(&listed, &now, &chosen)
}

/// Refusals that are not listed, and listed ones (of the files that ran) that did not happen.
fn list_complaints(listed: &BTreeSet<String>, now: &BTreeSet<String>, chosen: &BTreeSet<String>) -> Vec<String> {
    let of_chosen = |line: &&String| {
        let file = line.split("] ").nth(1).and_then(|rest| rest.split(": ").next()).unwrap_or_default();
        chosen.contains(file)
    };
    let unlisted = now.difference(listed).map(|line| format!("refused but not in refusals.txt: {line}"));
    let stale = listed.difference(now).filter(of_chosen).map(|line| format!("in refusals.txt but not refused: {line}"));
    unlisted.chain(stale).collect()
}

fn judge(complaints: &[String]) {
    assert!(
        complaints.is_empty(),
        "{} complaints:\n{}",
        complaints.len(),
        complaints.iter().take(60).cloned().collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn three_shards_answer_like_one_postgresql() {
    let cluster = Cluster::start(3, &PLACEMENT);
    let bench = Bench::prepare(&cluster.oracle, cluster.port, &cluster.shards);
    let outcome = run_all(&bench);
    let mut complaints = outcome.differences.clone();
    complaints.extend(refusal_complaints(&outcome));
    judge(&complaints);
}

#[test]
fn random_selects_through_three_shards_answer_like_one_postgresql() {
    let cluster = Cluster::start(3, &PLACEMENT);
    let bench = Bench::prepare(&cluster.oracle, cluster.port, &cluster.shards);
    let count = random::count_from_env();
    let equal = run_random(&bench, count);
    assert!(equal * 2 >= count, "only {equal} of {count} random statements were answered at all");
}

fn run_random(bench: &Bench, count: usize) -> usize {
    let seed = random::seed_from_env();
    println!("OSTRAKON_SEED={seed} OSTRAKON_RANDOM={count}");
    let mut expected = bench.oracle.app();
    let mut actual = raw::Raw::connect(bench.port, "app", "app").unwrap();
    let (mut equal, mut errors, mut refused, mut different) = (0, 0, 0, Vec::new());
    for index in 0..count {
        let (sql, order) = random::select(seed, index);
        match runner::compare_select(&mut expected, &mut actual, &sql, &order) {
            Verdict::Equal => equal += 1,
            Verdict::EqualError => errors += 1,
            Verdict::Refused => refused += 1,
            Verdict::Different(text) => {
                different.push(format!("statement {index} of seed {seed}: {sql}\n    {text}"));
                actual = raw::Raw::connect(bench.port, "app", "app").unwrap();
            }
        }
    }
    println!("random: {equal} equal, {errors} equal errors, {refused} refused, {} different", different.len());
    assert!(errors * 10 <= count, "the generator makes {errors} of {count} statements that PostgreSQL refuses");
    judge(&different);
    equal
}

#[test]
fn one_postgresql_answers_like_another() {
    let mut servers = Server::start_all(&["oracle".into(), "second".into()]);
    let oracle = servers.remove(0);
    let mut bench = Bench::prepare(&oracle, servers[0].port, &servers);
    // Other row order and other plans: a case whose answer PostgreSQL leaves open is found here.
    bench.is_upside_down = true;
    for setting in ["enable_hashagg", "enable_hashjoin", "enable_indexscan", "enable_bitmapscan"] {
        servers[0].superuser().must(&format!("ALTER ROLE app SET {setting} = off"));
    }
    let outcome = run_all(&bench);
    judge(&outcome.differences);
    assert_eq!(outcome.refused.len(), 0);
    assert_eq!(outcome.shadowed, 0);
    if std::env::var_os("OSTRAKON_CASES").is_none() {
        assert!(outcome.statements.len() >= 300, "{} statements", outcome.statements.len());
    }
    bench.reset();
    assert!(run_random(&bench, random::count_from_env()) > 0);
}

#[test]
fn a_server_with_one_changed_row_is_caught() {
    let mut servers = Server::start_all(&["oracle".into(), "second".into()]);
    let oracle = servers.remove(0);
    let bench = Bench::prepare(&oracle, servers[0].port, &servers);
    let clean = Default::default();
    assert_eq!(bench.state_differences(&clean), Vec::<String>::new());
    for change in [
        "UPDATE users SET name = 'someone else' WHERE id = 7",
        "DELETE FROM order_items WHERE user_id = 3",
        "INSERT INTO countries VALUES ('xx', 'nowhere')",
        "INSERT INTO users (id, email) VALUES (100007, 'twice@example.org')",
    ] {
        bench.reset();
        servers[0].superuser().must(change);
        assert_ne!(bench.state_differences(&clean), Vec::<String>::new(), "{change}");
    }
    bench.reset();
    servers[0].superuser().must("UPDATE users SET balance = balance + 0.01 WHERE id = 7");
    let mut expected = oracle.app();
    let mut actual = servers[0].app();
    let verdict =
        runner::compare_select(&mut expected, &mut actual, "SELECT sum(balance) FROM users", &cases::Order::Any);
    assert!(matches!(verdict, Verdict::Different(_)), "{verdict:?}");
}

/// A second server that refuses to update two tables stands for a proxy that refuses.
#[test]
fn refusals_are_counted_and_leave_both_sides_equal() {
    let mut servers = Server::start_all(&["oracle".into(), "second".into()]);
    let oracle = servers.remove(0);
    let bench = Bench::prepare(&oracle, servers[0].port, &servers);
    let mut second = servers[0].superuser();
    second.must(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '0A000'; END $$",
    );
    for table in ["readings", "settings"] {
        second.must(&format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        ));
    }
    let files = cases::read_all(&directory().join("cases"));
    let mut outcome = Outcome::default();
    for (name, cases) in &files {
        if name == "09_updates" || name == "10_transactions" {
            bench.run_file(Mode::Simple, cases, &mut outcome);
            bench.run_file(Mode::Prepared, cases, &mut outcome);
        }
    }
    judge(&outcome.differences);
    assert!(outcome.refused.len() >= 5, "{:?}", outcome.refused);
    assert!(outcome.shadowed > 0, "the transaction goes on after a refusal");
    assert!(outcome.refused.values().all(|modes| modes.len() == 2), "{:?}", outcome.refused);
}

#[test]
fn an_unlisted_refusal_and_a_stale_one_are_complaints() {
    let set = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<String>>();
    let listed = set(&["[simple] a: SELECT 1", "[extended,simple] a: SELECT 2", "[simple] b: SELECT 3"]);
    assert_eq!(list_complaints(&listed, &listed, &set(&["a", "b"])).len(), 0);
    assert_eq!(list_complaints(&listed, &set(&["[simple] b: SELECT 3"]), &set(&["a", "b"])).len(), 2);
    // Files that did not run cannot have stale lines.
    assert_eq!(list_complaints(&listed, &set(&[]), &set(&["b"])).len(), 1);
    // The same statement refused in other modes than listed is a change, too.
    let modes = set(&["[simple] a: SELECT 1", "[simple] a: SELECT 2", "[simple] b: SELECT 3"]);
    assert_eq!(list_complaints(&listed, &modes, &set(&["a", "b"])).len(), 2);
}
