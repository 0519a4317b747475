//! Installs a program and runs it on PostgreSQL and through clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use crate::cluster::{Cluster, Placement, Server};
use crate::compare::{Outcome, Printed, judge};
use crate::page::{self, Client};
use crate::source;

/// How long one run of a program may take, in seconds.
const RUN_SECONDS_MAX: u32 = 180;

/// How long an installation may take, in seconds.
const INSTALL_SECONDS_MAX: u32 = 900;

/// Configuration of every cluster: few connections, so that sessions really share them.
const POOL: &str = "\n[pool]\nsize = 4\ncheckout_timeout_ms = 30000\n";

/// A run through Ostrakon.
struct Run {
    name: &'static str,
    shards: usize,
    is_sharded: bool,
}

const RUNS: &[Run] = &[
    Run { name: "one shard", shards: 1, is_sharded: false },
    Run { name: "unsharded", shards: 2, is_sharded: false },
    Run { name: "sharded", shards: 2, is_sharded: true },
    Run { name: "four shards", shards: 4, is_sharded: true },
];

/// Names of the runs, in the page's order.
pub fn run_names() -> Vec<&'static str> {
    RUNS.iter().map(|run| run.name).collect()
}

/// Where programs are installed and results are left.
pub fn home() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target")), PathBuf::from);
    let home = target.join("clients");
    fs::create_dir_all(&home).unwrap();
    home.canonicalize().unwrap()
}

/// Installs and runs the program everywhere and fails unless every step passes or is a refusal known.
pub fn check(name: &str) {
    let version = install(name);
    let (right, runs) = thread::scope(|scope| {
        let plain = scope.spawn(|| run_plain(name));
        let runs: Vec<_> = RUNS
            .iter()
            .filter(|run| run.shards <= 2 || std::env::var("OSTRAKON_FULL").is_ok())
            .map(|run| (run, scope.spawn(move || run_through(name, run))))
            .collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, Output>| thread.join().expect("the run's thread ends well");
        (ended(plain), runs.into_iter().map(|(run, thread)| (run.name, ended(thread))).collect::<Vec<_>>())
    });
    let mut complaints = Vec::new();
    let right = printed("plain", &right, &mut complaints);
    complaints.extend(right.complaints(&steps(), &left_out(name).into_keys().collect()));
    let mut client = Client { version, left_out: left_out(name), runs: BTreeMap::new() };
    for (run, output) in &runs {
        let mut outcomes = judge(&right, &printed(run, output, &mut complaints));
        complaints.extend(excuse(name, run, &mut outcomes));
        for (step, outcome) in &outcomes {
            match outcome {
                Outcome::Fault(why) => println!("{run}: {step}: known fault: {why}"),
                Outcome::Failed(why) => complaints.push(format!("{run}: {step}: {why}")),
                Outcome::Refused(message) => println!("{run}: {step}: refused: {message}"),
                Outcome::Skipped(cause) => println!("{run}: {step}: skipped after {cause}"),
                Outcome::Passed => {}
            }
        }
        client.runs.insert((*run).to_owned(), outcomes);
    }
    complaints.extend(page::new_refusals(name, &client));
    page::keep(name, client);
    assert!(complaints.is_empty(), "{name}:\n{}", complaints.join("\n"));
}

/// The names of `steps.txt`.
fn steps() -> Vec<String> {
    let text = fs::read_to_string(source().join("steps.txt")).unwrap();
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
}

/// Steps that a program has no API for, with the reason.
fn left_out(name: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(source().join(name).join("leaves-out")).unwrap_or_default();
    let entry = |line: &str| line.split_once('\t').map(|(step, reason)| (step.to_owned(), reason.to_owned()));
    let entries: BTreeMap<String, String> = text.lines().filter_map(entry).collect();
    let known: BTreeSet<String> = steps().into_iter().collect();
    assert!(
        entries.keys().all(|step| step == "*" || known.contains(step)),
        "{name}/leaves-out names a step that steps.txt does not"
    );
    entries
}

/// Marks failures that `known-faults` lists. With `UPDATE=1` a line that nothing needs any more is a complaint.
fn excuse(name: &str, run: &str, outcomes: &mut BTreeMap<String, Outcome>) -> Vec<String> {
    let text = fs::read_to_string(source().join("known-faults")).unwrap_or_default();
    let mut stale = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [of, at, step, why] = line.splitn(4, '\t').collect::<Vec<_>>()[..] else { continue };
        if of != name || at != run {
            continue;
        }
        match outcomes.get_mut(step) {
            Some(outcome @ Outcome::Failed(_)) => *outcome = Outcome::Fault(why.to_owned()),
            _ => stale.push(format!("{run}: {step}: no fault any more: take it out of known-faults")),
        }
    }
    if page::is_update() { stale } else { Vec::new() }
}

fn printed(run: &str, output: &Output, complaints: &mut Vec<String>) -> Printed {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        complaints.push(format!("{run}: the program ended with {}:\n{stderr}", output.status));
    }
    Printed::parse(&String::from_utf8_lossy(&output.stdout)).unwrap_or_else(|error| {
        complaints.push(format!("{run}: {error}"));
        Printed::default()
    })
}

/// A command of the program's folder, with its environment and nothing of ours that clients would read.
fn command(name: &str, what: &str, seconds_max: u32) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &seconds_max.to_string()]).arg(source().join(name).join(what));
    for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("PG")) {
        command.env_remove(variable);
    }
    command.env("CLIENT_HOME", home().join(name)).env("SOURCE", source().join(name)).stdin(Stdio::null());
    command
}

/// Installs the program, one at a time on this machine, and gives what it says of its version.
fn install(name: &str) -> String {
    fs::create_dir_all(home().join(name)).unwrap();
    let lock = OpenOptions::new().create(true).append(true).open(home().join("install.lock")).unwrap();
    lock.lock().unwrap();
    let output = command(name, "install", INSTALL_SECONDS_MAX).current_dir(home().join(name)).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}/install: {}\n{stdout}\n{stderr}", output.status);
    let version = stdout.lines().rev().find_map(|line| line.strip_prefix("version: "));
    version.unwrap_or_else(|| panic!("{name}/install printed no version:\n{stdout}")).trim().to_owned()
}

fn run_plain(name: &str) -> Output {
    let servers = Server::start_all(&["plain".to_owned()]);
    run_at(name, servers[0].port, "plain")
}

fn run_through(name: &str, run: &Run) -> Output {
    let tables: &[(&str, Placement)] = &[("tenants", Placement::Key(&["id"])), ("countries", Placement::Reference)];
    let mut cluster = Cluster::without_proxy(run.shards, if run.is_sharded { tables } else { &[] });
    let mut config = fs::read_to_string(cluster.config()).unwrap();
    config.push_str(POOL);
    if run.is_sharded {
        config.push_str("\n[keyspace]\nkey_columns = [\"tenant_id\"]\n");
    }
    fs::write(cluster.config(), config).unwrap();
    cluster.start_proxy();
    let mut output = run_at(name, cluster.port, if run.is_sharded { "sharded" } else { "unsharded" });
    let differences = left_behind(&cluster);
    if !differences.is_empty() {
        // Told as what the program itself would tell: a step of the runner's own.
        output.stdout.extend_from_slice(format!("shards afterwards\t{}\n", differences.join("; ")).as_bytes());
    }
    save(name, run.name, &output);
    output
}

/// What a shard says of a table: its columns, keys and indexes, whether those are valid.
const TABLES: &str = "SELECT c.relname, concat_ws(' ',
   (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull), ', ' ORDER BY attname)
      FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
   (SELECT string_agg(pg_get_constraintdef(oid), ', ' ORDER BY pg_get_constraintdef(oid))
      FROM pg_constraint WHERE conrelid = c.oid),
   (SELECT string_agg(pg_get_indexdef(indexrelid) || indisvalid, ', ' ORDER BY pg_get_indexdef(indexrelid))
      FROM pg_index WHERE indrelid = c.oid))
 FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
 UNION ALL SELECT 'enum ' || enumtypid::regtype, string_agg(enumlabel, ',' ORDER BY enumsortorder)
 FROM pg_enum GROUP BY enumtypid";

/// What a run must not leave: tables that differ between the shards which have them, transactions in doubt.
fn left_behind(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for (index, shard) in cluster.shards.iter().enumerate() {
        let mut superuser = shard.superuser();
        for row in superuser.must(TABLES).texts() {
            let [table, facts] = &row[..] else { continue };
            match known.get(table) {
                Some(first) if first != facts => {
                    found.push(format!("{table} is on shard {}: {facts}, not: {first}", index + 1));
                }
                _ => {
                    known.insert(table.clone(), facts.clone());
                }
            }
        }
        let in_doubt = superuser.must("SELECT count(*) FROM pg_prepared_xacts").value();
        if in_doubt != "0" {
            found.push(format!("shard {} has {in_doubt} transactions in doubt", index + 1));
        }
    }
    found
}

/// Leaves what a run printed beside the results, for whoever looks into a failure.
fn save(name: &str, run: &str, output: &Output) {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    let _ = write!(text, "\n--- stderr ---\n{}", String::from_utf8_lossy(&output.stderr));
    fs::write(home().join(format!("{name}.{}.log", run.replace(' ', "-"))), text).unwrap();
}

fn run_at(name: &str, port: u16, mode: &str) -> Output {
    let directory = tempfile::Builder::new().prefix("ostrakon-client-").tempdir_in("/tmp").unwrap();
    let mut command = command(name, "run", RUN_SECONDS_MAX);
    command
        .env("DATABASE_URL", format!("postgres://app@127.0.0.1:{port}/app"))
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGUSER", "app")
        .env("PGDATABASE", "app")
        .env("MODE", mode)
        .current_dir(directory.path());
    let output = command.output().unwrap();
    if mode == "plain" {
        save(name, mode, &output);
    }
    output
}

/// Writes a file so that a reader sees the old or the new text.
pub fn write_whole(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn shards_that_a_run_leaves_unlike_are_seen() {
        let cluster = Cluster::without_proxy(2, &[]);
        let mut shards: Vec<_> = cluster.shards.iter().map(Server::superuser).collect();
        for shard in &mut shards {
            shard.must("CREATE TABLE alike (id bigint PRIMARY KEY, note text)");
            shard.must("CREATE TYPE mood AS ENUM ('good')");
        }
        shards[0].must("CREATE TABLE single (id int)");
        assert_eq!(left_behind(&cluster), Vec::<String>::new(), "a table of one shard is none of it");
        let mut seen = 0;
        for plant in [
            "ALTER TABLE alike ALTER note SET NOT NULL",
            "CREATE TABLE single (id bigint)",
            "ALTER TYPE mood ADD VALUE 'bad'",
            "BEGIN; CREATE TABLE half (id int); PREPARE TRANSACTION 'left'",
        ] {
            shards[1].must(plant);
            let found = left_behind(&cluster);
            assert!(found.len() > seen, "{plant}: {found:?}");
            seen = found.len();
        }
    }

    #[test]
    fn a_program_that_fails_or_babbles_is_complained_of() {
        let complaints = |code: i32, stdout: &str| {
            let status = std::process::ExitStatus::from_raw(code << 8);
            let mut complaints = Vec::new();
            printed("run", &Output { status, stdout: stdout.into(), stderr: Vec::new() }, &mut complaints);
            complaints.len()
        };
        assert_eq!(complaints(0, "step\tresult\n"), 0);
        assert_eq!(complaints(1, "step\tresult\n"), 1);
        assert_eq!(complaints(0, "no tab\n"), 1);
    }
}
