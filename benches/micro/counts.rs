//! Instruction counts: every case in a process of its own under valgrind, which counts only what runs in [`counted`].
//! They do not depend on the machine's load; on its compiler they do, so the baseline names it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cases::{NAMES, Turn, prepare};

/// How much more than the baseline a case may cost.
const TOLERANCE: f64 = 0.05;

/// Times that a case runs while it is counted; a planted slowdown adds to it.
const TIMES: usize = 100;

/// Times that it runs before: buffers have their sizes then.
const WARM_UP: usize = 3;

/// Cases that run at once.
const WORKERS: usize = 2;

/// Runs a case, for valgrind to count.
pub fn run_one(name: &str, times: usize) {
    let mut turn = prepare(name);
    for _ in 0..WARM_UP {
        turn();
    }
    counted(&mut turn, times);
}

/// What valgrind counts, by its name.
#[inline(never)]
fn counted(turn: &mut Turn, times: usize) {
    for _ in 0..times {
        black_box(&mut *turn)();
    }
}

/// Counts the cases, and prints how they compare with the baseline. `false` when one costs too much.
pub fn judge(only: &str, plant: usize, write: bool) -> bool {
    let names: Vec<&str> = NAMES.into_iter().filter(|name| name.contains(only)).collect();
    let counts = count_all(&names, TIMES + TIMES * plant / 100);
    if write {
        let mut kept = if only.is_empty() { BTreeMap::new() } else { baseline().1 };
        kept.extend(counts);
        std::fs::write(path(), page(&kept)).unwrap();
        println!("written: {}", path().display());
        return true;
    }
    let (compiler, before) = baseline();
    if compiler != self::compiler() {
        println!("The baseline is of {compiler}, this is {}: rewrite it with ARGS=--write.", self::compiler());
    }
    let mut failures = Vec::new();
    for name in &names {
        let count = counts[*name];
        let Some(old) = before.get(*name).copied() else {
            failures.push(format!("{name}: not in the baseline"));
            continue;
        };
        let change = ratio(count, old) - 1.0;
        println!("{count:>10} instructions  {:>+6.1} %  {name}", change * 100.0);
        if change > TOLERANCE {
            failures.push(format!("{name}: {count} instructions, the baseline says {old}"));
        } else if change < -TOLERANCE {
            println!("{:>10} before: write the better baseline with ARGS=--write", old);
        }
    }
    failures.extend(grown(&counts));
    for failure in &failures {
        println!("FAILED {failure}");
    }
    failures.is_empty()
}

/// Pieces that cost more at a larger size.
fn grown(counts: &BTreeMap<String, u64>) -> Vec<String> {
    let mut first: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
    let mut failures = Vec::new();
    for name in NAMES {
        let Some((piece, _)) = name.split_once('|') else { continue };
        let Some(count) = counts.get(name).copied() else { continue };
        let (smallest, least) = *first.entry(piece).or_insert((name, count));
        if ratio(count, least) > 1.0 + 2.0 * TOLERANCE {
            failures.push(format!("{name}: {count} instructions, and {least} for {smallest}"));
        }
    }
    failures
}

#[allow(clippy::cast_precision_loss)]
fn ratio(count: u64, of: u64) -> f64 {
    count as f64 / of as f64
}

fn count_all(names: &[&str], times: usize) -> BTreeMap<String, u64> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut counts = Vec::new();
                    while let Some(name) = names.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                        counts.push(((*name).to_owned(), count(name, times)));
                    }
                    counts
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

/// Instructions of one turn.
fn count(name: &str, times: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counts::counted*"])
        .arg(std::env::current_exe().unwrap())
        .args(["--count", name, &times.to_string()])
        .stdout(Stdio::null())
        .output()
        .expect("valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}:\n{said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).unwrap_or_else(|| panic!("{said}"));
    let total: u64 = collected.1.trim().parse().unwrap();
    assert!(total > 0, "{name}: nothing was counted");
    total / TIMES as u64
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/micro/baseline.txt")
}

fn compiler() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    format!("{} {}", String::from_utf8_lossy(&output.stdout).trim(), std::env::consts::ARCH)
}

fn page(counts: &BTreeMap<String, u64>) -> String {
    let mut page = format!("# Instructions of one turn, by `make bench-quick ARGS=--write`; {}\n", compiler());
    for name in NAMES {
        if let Some(count) = counts.get(name) {
            let _ = writeln!(page, "{count:>10}  {name}");
        }
    }
    page
}

/// The compiler it was made with, and its counts.
fn baseline() -> (String, BTreeMap<String, u64>) {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    let compiler = text.lines().next().and_then(|line| line.split_once("; ")).map(|(_, compiler)| compiler.to_owned());
    let counts = text.lines().skip(1).filter_map(|line| {
        let (count, name) = line.trim_start().split_once("  ")?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    (compiler.unwrap_or_default(), counts.collect())
}
