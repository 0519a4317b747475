//! What the proxy costs: CPU time per transaction of the proxy's process, throughput and latency, in turn with
//! `PgBouncer`, a bare relay and a direct connection, on throwaway servers on this machine.
//!
//! ```text
//! make bench                                    every workload, 5 rounds, writes docs/reference/performance.md
//! cargo bench --bench load -- --only select --rounds 3 --seconds 3
//! cargo bench --bench load -- --other pgdog=127.0.0.1:6432,4711
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account;
#[path = "../../tests/common/cluster.rs"]
mod cluster;
mod floor;
#[path = "../../tests/common/frames.rs"]
mod frames;
mod memory;
mod pgbench;
#[path = "../../tests/common/raw.rs"]
mod raw;
mod report;
mod streams;
mod targets;
mod workloads;

use std::path::PathBuf;

use clap::Parser;

use report::Report;
use targets::Targets;

#[derive(Debug, Parser)]
struct Arguments {
    /// Alternating rounds; medians are over these.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one run of pgbench.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Only workloads whose names contain one of these, comma separated.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Clients at a time, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    clients: Vec<u32>,
    /// Rows of the tables that are streamed and copied.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Another proxy that serves the plain server's database `app` to `app`: NAME=HOST:PORT,PID[,PID…]. It is to be
    /// started by hand before the server `--plain-port`.
    #[arg(long)]
    other: Vec<String>,
    /// Port of the plain server, for proxies that are started by hand.
    #[arg(long)]
    plain_port: Option<u16>,
    /// Counts system calls with strace (slow, in runs of their own).
    #[arg(long)]
    system_calls: bool,
    /// Writes the report there, too.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// Serves as the bare relay: LISTEN,TARGET.
    #[arg(long, hide = true)]
    relay: Option<String>,
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(ports) = &arguments.relay {
        return floor::serve(ports);
    }
    let mut report = Report::new(arguments.rounds, arguments.seconds);
    let targets = Targets::start(arguments.plain_port, &arguments.other);
    let is_wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part.as_str()));
    for workload in workloads::all(&arguments.clients) {
        if is_wanted(&workload.name()) {
            workloads::run(&workload, &targets, arguments.rounds, arguments.seconds, &mut report);
            if arguments.system_calls {
                workloads::count_system_calls(&workload, &targets, &mut report);
            }
        }
    }
    if is_wanted("stream") || is_wanted("copy") {
        streams::run(&targets, arguments.rows, arguments.rounds, &is_wanted, &mut report);
    }
    if is_wanted("memory") {
        memory::run(&targets, &mut report);
    }
    println!("\n{}", report.page());
    if let Some(page) = arguments.page {
        std::fs::write(page, report.page()).unwrap();
    }
}
