//! What single pieces cost: `cargo bench --bench micro` measures their time; `make bench-quick` counts their
//! instructions and compares them with `baseline.txt`.
//!
//! ```text
//! make bench-quick                                      fails where a piece costs 5 % more than the baseline says
//! make bench-quick ARGS=--write                         rewrites the baseline; its diff is read like code
//! make bench-quick ARGS='--only merge --plant 7'        negative control: 7 % of work more, which has to be noticed
//! cargo bench --bench micro -- merge                    times
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bulk;
mod cases;
mod counts;
#[path = "../../tests/plans/demo.rs"]
mod demo;
mod pool;
mod relay;
mod sizes;
mod statements;

use clap::Parser;

use cases::NAMES;

#[derive(Debug, Parser)]
struct Arguments {
    /// Counts instructions and compares them with the baseline.
    #[arg(long)]
    compare: bool,
    /// Counts instructions and writes the baseline.
    #[arg(long)]
    write: bool,
    /// Only cases whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Per cent of work that is added to every case: then the comparison has to fail.
    #[arg(long, default_value_t = 0)]
    plant: usize,
    /// Runs one case so many times, for whoever counts.
    #[arg(long, hide = true, num_args = 2, value_names = ["CASE", "TIMES"])]
    count: Vec<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    // Without arguments of ours it is divan's.
    let is_ours = std::env::args().any(|argument| ["--compare", "--write", "--count"].contains(&argument.as_str()));
    if !is_ours {
        return divan::main();
    }
    let arguments = Arguments::parse();
    if let [name, times] = &arguments.count[..] {
        return counts::run_one(name, times.parse().unwrap());
    }
    if !counts::judge(&arguments.only, arguments.plant, arguments.write) {
        std::process::exit(1);
    }
}

#[divan::bench(args = NAMES)]
fn piece(bencher: divan::Bencher<'_, '_>, name: &str) {
    bencher.bench_local(cases::prepare(name));
}
