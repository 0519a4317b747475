//! What the proxy costs: CPU time per transaction of the proxy's process, throughput and latency, in turn with
//! `PgBouncer`, a bare relay and a direct connection, on throwaway servers on this machine.
//!
//! ```text
//! make bench                                    what is wanted, 5 rounds, writes docs/reference/performance.md (20 minutes)
//! make bench ARGS='--rounds 3 --page page.md'   the same in 13 minutes
//! make bench ARGS='--full --page page.md'       every protocol with every number of clients (35 minutes)
//! make bench ARGS=--smoke                       a moment of everything: does it still run?
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
mod goals;
mod measure;
mod memory;
mod pgbench;
mod pipelines;
#[path = "../../tests/common/raw.rs"]
mod raw;
mod report;
mod streams;
mod targets;
mod workloads;

use clap::Parser;

fn main() {
    let arguments = measure::Arguments::parse();
    if let Some(ports) = &arguments.relay {
        return floor::serve(ports);
    }
    let page = measure::run(&arguments);
    println!("\n{page}");
    if let Some(path) = &arguments.page {
        std::fs::write(path, page).unwrap();
    }
}
