//! The harness of `make bench` still runs: a moment of every workload, on what is built for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../benches/load/account.rs"]
mod account;
#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../../benches/load/floor.rs"]
mod floor;
#[path = "../common/frames.rs"]
mod frames;
#[path = "../../benches/load/goals.rs"]
mod goals;
#[path = "../../benches/load/measure.rs"]
mod measure;
#[path = "../../benches/load/memory.rs"]
mod memory;
#[path = "../../benches/load/pgbench.rs"]
mod pgbench;
#[path = "../../benches/load/pipelines.rs"]
mod pipelines;
#[path = "../common/raw.rs"]
mod raw;
#[path = "../../benches/load/report.rs"]
mod report;
#[path = "../../benches/load/streams.rs"]
mod streams;
#[path = "../../benches/load/targets.rs"]
mod targets;
#[path = "../../benches/load/workloads.rs"]
mod workloads;

use clap::Parser as _;

/// What it finds in a moment on a busy machine is not judged.
#[test]
fn the_harness_measures_everything_that_the_page_tells() {
    let page = measure::run(&measure::Arguments::parse_from(["load", "--smoke"]));
    let told = [
        "## What is wanted, and what was found",
        "CPU on 3 shards to that on one",
        "## tpc-b, simple, 16 clients",
        "## stream of all rows over shards in order",
        "## pipeline of 100 inserts of 100 keys",
        "## memory with 50 idle clients",
    ];
    for text in told {
        assert!(page.contains(text), "{text} is not in:\n{page}");
    }
}
