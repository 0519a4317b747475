//! `ostrakon up`: a whole cluster on this machine, from nothing, or from where it was left.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::agent::Agent;
use super::cluster::{self, ShardServers};
use super::directory::{self, Demo, Lock};
use super::output::{self, Output};
use super::progress::{Event, Progress};
use super::proxy::Proxy;
use super::signals::StopSignals;
use super::{Failure, connect, demo, detach, keep, proxy};
use crate::host::{self, Machine, ServerState, Was, port};

/// Arguments of the command.
#[derive(Clone, Debug, Args)]
pub struct UpArguments {
    /// Number of shards [default: what the directory holds, else 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: Option<u32>,
    /// Replicas of each shard [default: what the directory holds, else 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=8))]
    replicas: Option<u32>,
    /// Where everything is kept [default: /var/lib/ostrakon as root, else ./.ostrakon].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address that applications connect to.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6432")]
    listen: SocketAddr,
    /// Directory of PostgreSQL's server programs [default: the newest under /usr/lib/postgresql, else PATH].
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// First port that is tried for the servers of a new cluster.
    #[arg(long, value_name = "PORT", default_value_t = port::FIRST)]
    first_port: u16,
    /// Load a demo schema into a new cluster: users, orders, products, …
    #[arg(long)]
    demo: bool,
    /// Go on in the background once the cluster serves; `ostrakon down` stops it.
    #[arg(long)]
    detach: bool,
}

impl UpArguments {
    fn wanted(&self) -> keep::Wanted {
        keep::Wanted { shards: self.shards, replicas: self.replicas, first_port: self.first_port }
    }
}

/// The cluster as it was brought up.
#[derive(Debug, Serialize)]
struct UpDocument {
    listen: SocketAddr,
    psql: String,
    data: PathBuf,
    pid: u32,
    shards: Vec<UpShard>,
}

#[derive(Debug, Serialize)]
struct UpShard {
    name: String,
    nodes: Vec<UpNode>,
}

#[derive(Debug, Serialize)]
struct UpNode {
    name: String,
    role: &'static str,
    port: u16,
    was: &'static str,
}

/// What runs; everything of it is to be stopped again.
struct Cluster {
    proxy: Proxy,
    agent: Agent,
    watching: tokio::task::JoinHandle<()>,
    document: UpDocument,
}

/// Runs the command.
pub async fn run(arguments: UpArguments, output: Output) -> Result<(), Failure> {
    if arguments.detach && !detach::is_detached() {
        return run_detached(&arguments, output).await;
    }
    let progress = if detach::is_detached() { Progress::Events } else { Progress::for_people() };
    let ran = serve_until_stopped(&arguments, output, &progress).await;
    if let (Err(failure), Progress::Events) = (&ran, &progress) {
        progress.show(&Event::Failed { message: failure.to_string() });
    }
    ran
}

async fn run_detached(arguments: &UpArguments, output: Output) -> Result<(), Failure> {
    // Finds what is wrong with the machine before anything is started, and makes the log's place.
    let machine = Machine::open(&data(arguments), arguments.pg_bin.as_deref())?;
    let progress = Progress::for_people();
    let ready = detach::start(machine.directory(), &progress).await;
    progress.clear();
    let document = ready?;
    if output == Output::Json {
        return output::json(&document);
    }
    let text = |name: &str| document.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    output::line(&greeting(&text("psql"), &stop_hint(machine.directory())))
}

fn data(arguments: &UpArguments) -> PathBuf {
    arguments.data.clone().unwrap_or_else(directory::usual)
}

fn greeting(psql: &str, stop: &str) -> String {
    format!("The cluster serves. Connect with:\n\n  {psql}\n\nStop it with: {stop}")
}

fn stop_hint(directory: &Path) -> String {
    format!("ostrakon down --data {}", directory.display())
}

async fn serve_until_stopped(arguments: &UpArguments, output: Output, progress: &Progress) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let machine = Machine::open(&data(arguments), arguments.pg_bin.as_deref())?;
    let _lock = Lock::take(machine.directory())?;
    port::check_free(arguments.listen, " or choose another address with --listen")?;
    let spared = cluster::running(machine.directory());
    let started = start(&machine, arguments, progress, &mut signals).await;
    progress.clear();
    let mut cluster = match started {
        Ok(cluster) => cluster,
        Err(failure) => {
            // What ran before goes on; what was started now goes with us.
            cluster::stop_all(machine.directory(), &spared, progress)
                .await
                .map_err(|also| Failure::new(format!("{failure}\nand while stopping what had been started: {also}")))?;
            return Err(failure);
        }
    };
    announce(&cluster.document, output, progress, machine.directory())?;
    tokio::select! {
        () = signals.next() => {
            tracing::info!("stopping");
            cluster.agent.stop(&cluster.watching).await;
            cluster.proxy.stop().await;
        }
        _ = cluster.proxy.finished() => {
            tracing::error!("the proxy stopped listening by itself");
            cluster.agent.stop(&cluster.watching).await;
        }
    }
    cluster::stop_all(machine.directory(), &BTreeSet::new(), progress).await?;
    tracing::info!("stopped");
    Ok(())
}

fn announce(document: &UpDocument, output: Output, progress: &Progress, directory: &Path) -> Result<(), Failure> {
    if let Progress::Events = progress {
        let document = serde_json::to_value(document).map_err(|error| Failure::new(error.to_string()))?;
        progress.show(&Event::Ready { document });
        return Ok(());
    }
    match output {
        Output::Json => output::json(document),
        Output::Table => {
            let stop = format!("Ctrl-C here, or {}", stop_hint(directory));
            output::line(&greeting(&document.psql, &stop))
        }
    }
}

/// Brings everything up; after an error or a signal servers may be left running, the proxy not.
async fn start(
    machine: &Machine,
    arguments: &UpArguments,
    progress: &Progress,
    signals: &mut StopSignals,
) -> Result<Cluster, Failure> {
    let directory = machine.directory();
    let is_new = host::machine::nodes(directory).is_empty();
    let kept = keep::open(directory, arguments.wanted(), is_new).await?;
    let shards = cluster::servers(&kept.topology)?;
    check(machine, &shards)?;
    if arguments.demo && is_new {
        Demo::Loading.write(directory)?;
    }
    let found = {
        let mut work = std::pin::pin!(cluster::bring_up(machine, &shards, &kept.topology.database, progress));
        tokio::select! {
            found = &mut work => found?,
            () = signals.next() => {
                machine.cancel();
                let _ = work.await;
                return Err(Failure::new("stopped before the cluster was ready"));
            }
        }
    };
    let agent = Agent::new(machine, &kept.topology, &kept.store);
    let settings = proxy::led_settings(arguments.listen, directory, agent.hands());
    let proxy = tokio::select! {
        proxy = Proxy::start(settings, Arc::clone(&kept.store)) => proxy?,
        () = signals.next() => return Err(Failure::new("stopped before the cluster was ready")),
    };
    let loaded = tokio::select! {
        loaded = load_demo(arguments, directory, proxy.address(), &kept.topology.database, is_new, progress) => loaded,
        () = signals.next() => Err(Failure::new("stopped before the cluster was ready")),
    };
    match loaded {
        Ok(()) => {
            let document = describe(directory, proxy.address(), &kept.topology.database, &shards, &found);
            let watching = agent.watch();
            Ok(Cluster { proxy, agent, watching, document })
        }
        Err(failure) => {
            proxy.stop().await;
            Err(failure)
        }
    }
}

async fn load_demo(
    arguments: &UpArguments,
    directory: &Path,
    address: SocketAddr,
    database: &str,
    is_new: bool,
    progress: &Progress,
) -> Result<(), Failure> {
    if !arguments.demo {
        return Ok(());
    }
    demo::load(directory, address, database, is_new, progress).await
}

/// Finds what would fail before anything is made.
fn check(machine: &Machine, shards: &[ShardServers]) -> Result<(), Failure> {
    let mut new_servers = 0;
    for spec in shards.iter().flat_map(ShardServers::all) {
        machine.check_port(spec)?;
        if matches!(machine.state(&spec.name), ServerState::Absent | ServerState::HalfMade) {
            new_servers += 1;
        }
    }
    Ok(machine.check_space(new_servers)?)
}

fn describe(
    directory: &Path,
    listen: SocketAddr,
    database: &str,
    shards: &[ShardServers],
    found: &[(String, Was)],
) -> UpDocument {
    let was = |name: &str| match found.iter().find(|(found, _)| found == name) {
        Some((_, Was::Made)) => "made",
        Some((_, Was::Adopted)) => "adopted",
        Some((_, Was::Started)) | None => "started",
    };
    let shards = shards.iter().map(|shard| {
        let nodes = shard.all().enumerate().map(|(index, spec)| UpNode {
            name: spec.name.clone(),
            role: if index == 0 { "primary" } else { "replica" },
            port: spec.port,
            was: was(&spec.name),
        });
        UpShard { name: shard.name.clone(), nodes: nodes.collect() }
    });
    let address = connect::reachable(listen);
    UpDocument {
        listen,
        psql: format!("psql -h {} -p {} -U {} {database}", address.ip(), address.port(), cluster::APPLICATION_ROLE),
        data: directory.to_owned(),
        pid: std::process::id(),
        shards: shards.collect(),
    }
}
