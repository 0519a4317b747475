//! The operating system's accounts of processes.

use std::fs;
use std::process::Command;
use std::sync::LazyLock;

/// Ticks of the CPU accounts in a second.
static TICKS_PER_S: LazyLock<f64> = LazyLock::new(|| {
    let output = Command::new("getconf").arg("CLK_TCK").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
});

/// CPU time that processes have used so far, user and system, in microseconds; a tick (10 ms) is the grain.
pub fn cpu_us(pids: &[u32]) -> f64 {
    let ticks: u64 = pids
        .iter()
        .map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|error| panic!("{pid}: {error}"));
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            // Of these the 12th and 13th are utime and stime.
            fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
        })
        .sum();
    #[allow(clippy::cast_precision_loss)]
    let ticks = ticks as f64;
    ticks / *TICKS_PER_S * 1e6
}

/// Resident memory of processes, in KiB.
pub fn resident_kib(pids: &[u32]) -> u64 {
    pids.iter()
        .map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
        })
        .sum()
}
