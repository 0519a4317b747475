//! The operating system's accounts of processes.

use std::fs;

/// CPU time that processes have used so far, user and system, in microseconds: what the scheduler counted for each of
/// their threads, in nanoseconds. A thread that has ended is not in it; a proxy's threads live as long as it does.
pub fn cpu_us(pids: &[u32]) -> f64 {
    let ns: u64 = pids.iter().flat_map(|pid| threads(*pid)).sum();
    #[allow(clippy::cast_precision_loss)]
    let ns = ns as f64;
    ns / 1e3
}

fn threads(pid: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap_or_else(|error| panic!("{pid}: {error}"));
    // Between the list and the look a thread may have gone.
    let of_one = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).ok();
    tasks.flatten().filter_map(of_one).filter_map(|text| text.split(' ').next()?.parse().ok()).collect()
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
