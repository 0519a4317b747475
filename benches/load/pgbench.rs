//! Runs of pgbench.

use std::path::Path;
use std::process::Command;

use crate::cluster::{pg_bin, run};

/// What a run said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    pub transactions: f64,
    pub per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    Seconds(u32),
    /// Of each client.
    Transactions(u32),
}

/// Fills pgbench's tables.
pub fn initialise(port: u16, scale: u32) {
    run(command(port).args(["-i", "-q", "-s", &scale.to_string(), "app"]));
}

fn command(port: u16) -> Command {
    let mut command = Command::new(pg_bin().join("pgbench"));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app"]);
    command
}

/// One run; panics when a transaction fails.
pub fn bench(port: u16, script: &[String], protocol: &str, clients: u32, length: Length) -> Said {
    let directory = tempfile::tempdir().unwrap();
    // Few clients: every transaction is logged. Many: one in ten is enough for the percentiles.
    let sampling = if clients > 4 { "0.1" } else { "1" };
    let (unit, count) = match length {
        Length::Seconds(count) => ("-T", count),
        Length::Transactions(count) => ("-t", count),
    };
    let report = run(command(port).current_dir(directory.path()).args(script).args([
        "-n",
        "-M",
        protocol,
        "-c",
        &clients.to_string(),
        "-j",
        "1",
        unit,
        &count.to_string(),
        "-l",
        "--sampling-rate",
        sampling,
        "app",
    ]));
    let number = |label: &str| -> f64 {
        let line =
            report.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("{label}:\n{report}"));
        let digits: String = line.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        digits.parse().unwrap()
    };
    assert!(number("number of failed transactions:") < 0.5, "{report}");
    let (p50_us, p99_us) = percentiles(directory.path());
    Said { transactions: number("number of transactions actually processed:"), per_s: number("tps ="), p50_us, p99_us }
}

/// Median and 99th percentile of the logged latencies, in microseconds.
fn percentiles(directory: &Path) -> (f64, f64) {
    let mut latencies: Vec<f64> = std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .flat_map(|file| std::fs::read_to_string(file.path()).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.split(' ').nth(2)?.parse().ok())
        .collect();
    latencies.sort_by(f64::total_cmp);
    let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or_default();
    (at(50), at(99))
}
