//! The command line: arguments and commands, one file a command.
//!
//! Only this room prints, and only this room decides exit codes: 0 done, 1 failed, 2 wrong use.

mod agent;
mod beside;
mod check;
mod cluster;
mod connect;
mod demo;
mod detach;
mod directory;
mod down;
mod drain;
mod drift;
mod explain;
mod failure;
mod keep;
mod lead;
mod node;
mod output;
mod passwords;
mod pin;
mod progress;
mod proxy;
mod reshard;
mod serve;
mod shard;
mod shared;
mod signals;
mod status;
mod table;
mod topology;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;
use output::Output;

/// Sharding, replicas and failover for stock PostgreSQL, behind one port.
#[derive(Debug, Parser)]
#[command(
    name = "ostrakon",
    version,
    propagate_version = true,
    after_help = "Begin with `ostrakon up --demo`: a whole cluster on this machine, from nothing.\n\
                  Then paste the psql line that it ends with."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How to print results.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cluster on this machine: PostgreSQL servers, replication and the proxy.
    Up(up::UpArguments),
    /// Stop the cluster that `up` started.
    Down(down::DownArguments),
    /// Run the proxy for PostgreSQL servers that exist already.
    Serve(serve::ServeArguments),
    /// Look after one PostgreSQL server of a cluster that `serve` leads: start, rebuild, rejoin it.
    Agent(beside::AgentArguments),
    /// Check a configuration file.
    Check(check::CheckArguments),
    /// Show shards and nodes: roles, states and lag.
    Status(connect::ConnectArguments),
    /// Compare the shards' schemas; fails when an object differs.
    Drift(connect::ConnectArguments),
    /// Show the topology: nodes, bucket owners, tables.
    Topology(connect::ConnectArguments),
    /// Say where tables live: sharded by a key, on every shard, or on one.
    Table(table::TableArguments),
    /// Take further shards in, list them.
    Shard(shard::ShardArguments),
    /// Move buckets between shards while the cluster serves.
    Reshard(reshard::ReshardArguments),
    /// Give one key a place of its own, on a shard of your choice; without a key, list those that have one.
    Pin(pin::PinArguments),
    /// Let a pinned key go back to where its hash puts it.
    Unpin(pin::UnpinArguments),
    /// Move buckets by what was measured: rows, bytes and work of every shard.
    Rebalance(pin::RebalanceArguments),
    /// Add, remove, rebuild and restart nodes, list them.
    Node(node::NodeArguments),
    /// Restart the servers of a shard one by one, without an error.
    Restart(node::RestartArguments),
    /// Let a proxy end without cutting a transaction.
    Drain(drain::DrainArguments),
    /// Move the primary of a shard to another node; statements wait, none is cut.
    Switchover(lead::SwitchoverArguments),
    /// Replace the primary of a shard that is lost, or is to be taken as lost.
    Failover(lead::FailoverArguments),
    /// Show which shards a statement goes to, the plan and the reason.
    Explain(explain::ExplainArguments),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(failure) = detach::become_detached() {
        return failure.print();
    }
    start_logging(&arguments.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(format!("cannot start the runtime: {error}")).print(),
    };
    let ran = runtime.block_on(run(arguments));
    // Nothing may keep a finished command alive: a resolver thread, for instance.
    runtime.shutdown_background();
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.print(),
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = arguments.output;
    match arguments.command {
        Command::Up(arguments) => up::run(arguments, output).await,
        Command::Down(arguments) => down::run(arguments, output).await,
        Command::Serve(arguments) => serve::run(arguments, output).await,
        Command::Agent(arguments) => beside::run(arguments).await,
        Command::Check(arguments) => check::run(&arguments, output),
        Command::Status(arguments) => status::run(&arguments, output).await,
        Command::Drift(arguments) => drift::run(&arguments, output).await,
        Command::Topology(arguments) => topology::run(&arguments, output).await,
        Command::Table(arguments) => table::run(&arguments, output).await,
        Command::Shard(arguments) => shard::run(&arguments, output).await,
        Command::Reshard(arguments) => reshard::run(&arguments, output).await,
        Command::Pin(arguments) => pin::pin(&arguments, output).await,
        Command::Unpin(arguments) => pin::unpin(&arguments, output).await,
        Command::Rebalance(arguments) => pin::rebalance(&arguments, output).await,
        Command::Node(arguments) => node::run(&arguments, output).await,
        Command::Restart(arguments) => node::restart(&arguments, output).await,
        Command::Drain(arguments) => drain::run(&arguments, output).await,
        Command::Switchover(arguments) => lead::switchover(&arguments, output).await,
        Command::Failover(arguments) => lead::failover(&arguments, output).await,
        Command::Explain(arguments) => explain::run(&arguments, output).await,
    }
}

/// Logs go to standard error, which `--detach` sends to `DIR/ostrakon.log`. `OSTRAKON_LOG` filters.
fn start_logging(command: &Command) {
    use tracing_subscriber::EnvFilter;
    let usual = match command {
        Command::Serve(_) | Command::Agent(_) => "info",
        Command::Up(_) if detach::is_detached() => "info",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_env("OSTRAKON_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let started = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // Fails only where a subscriber exists already, which then does the work.
    let _ = started.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
