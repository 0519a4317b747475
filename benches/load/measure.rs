//! What is asked for on the command line, and the whole run.

use std::path::PathBuf;

use clap::Parser;

use crate::pgbench::Length;
use crate::report::Report;
use crate::targets::Targets;
use crate::{memory, pipelines, streams, workloads};

#[derive(Debug, Parser)]
pub struct Arguments {
    /// Alternating rounds; medians are over these.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Length of one run of pgbench.
    #[arg(long, default_value_t = 2)]
    pub seconds: u32,
    /// Only workloads whose names contain one of these, comma separated.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Clients at a time, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub clients: Vec<u32>,
    /// Rows of the tables that are streamed and copied.
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: u64,
    /// Idle clients, comma separated, ascending.
    #[arg(long, value_delimiter = ',', default_value = "0,1000,10000")]
    pub idle: Vec<usize>,
    /// Every protocol with every number of clients (40 minutes).
    #[arg(long)]
    pub full: bool,
    /// A moment of everything, to see that it works.
    #[arg(long)]
    pub smoke: bool,
    /// Another proxy that serves the plain server's database `app` to `app`: NAME=HOST:PORT,PID[,PID…]. It is to be
    /// started by hand before the server `--plain-port`.
    #[arg(long)]
    pub other: Vec<String>,
    /// Port of the plain server, for proxies that are started by hand.
    #[arg(long)]
    pub plain_port: Option<u16>,
    /// Counts system calls with strace (slow, in runs of their own) of every workload, not only of SELECTs of 16 clients.
    #[arg(long)]
    pub system_calls: bool,
    /// Writes the report there, too.
    #[arg(long)]
    pub page: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    pub bench: bool,
    /// Serves as the bare relay: LISTEN,TARGET.
    #[arg(long, hide = true)]
    pub relay: Option<String>,
}

/// Starts everything, measures what is wanted, and gives the page.
pub fn run(arguments: &Arguments) -> String {
    let (rounds, length, rows, clients, idle) = if arguments.smoke {
        (1, Length::Transactions(2), 3_000, vec![16], vec![0, 50])
    } else {
        (
            arguments.rounds,
            Length::Seconds(arguments.seconds),
            arguments.rows,
            arguments.clients.clone(),
            arguments.idle.clone(),
        )
    };
    let mut report = Report::new(rounds, length);
    let mut targets = Targets::start(arguments.plain_port, &arguments.other, arguments.smoke);
    let is_wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part.as_str()));
    for workload in workloads::all(&clients, arguments.full) {
        if is_wanted(&workload.name()) {
            workloads::run(&workload, &targets, rounds, length, &mut report);
            if arguments.system_calls || (workload.is_counted() && !arguments.smoke) {
                workloads::count_system_calls(&workload, &targets, &mut report);
            }
        }
    }
    if is_wanted("stream") || is_wanted("copy") {
        streams::run(&targets, rows, rounds, &is_wanted, &mut report);
    }
    if is_wanted("inserts") {
        pipelines::run(&targets, rounds, &mut report);
    }
    if is_wanted("memory") {
        memory::run(&mut targets, &idle, &mut report);
    }
    report.page()
}
