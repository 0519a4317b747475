//! `ostrakon node`: nodes come, go and are made anew; `ostrakon restart`: a shard's servers, one by one.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Failure;
use super::connect::{Admin, ConnectArguments, identifier};
use super::lead::confirm;
use super::output::{self, Output};
use crate::host::port;

/// How long a node may take to count again after its server was started.
const COUNT_MAX: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(300);

/// Arguments of `node`.
#[derive(Debug, Args)]
pub struct NodeArguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connect: ConnectArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the nodes and how they are.
    List,
    /// Add a replica to a shard. It is filled by its agent, or streams already; `up` makes the server itself.
    Add {
        /// The shard.
        shard: String,
        /// The node's name [default with `up`: the next letter].
        #[arg(long)]
        name: Option<String>,
        /// Where its server is; left out, the running `up` makes one.
        #[arg(long, requires_all = ["name", "port"])]
        host: Option<String>,
        /// Its port.
        #[arg(long)]
        port: Option<u16>,
        /// Its zone.
        #[arg(long, default_value = "")]
        zone: String,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a replica; commits go on without it first.
    Remove(Named),
    /// Make a replica anew, whatever it has; commits go on without it meanwhile.
    Rebuild {
        #[command(flatten)]
        named: Named,
        /// Wait until it counts again.
        #[arg(long)]
        wait: bool,
    },
    /// Stop and start a replica's server.
    Restart(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// The node.
    node: String,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub struct RestartArguments {
    /// The shard.
    shard: String,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    connect: ConnectArguments,
}

/// A node, as SHOW NODES tells it.
#[derive(Debug, Deserialize, Serialize)]
struct NodeRow {
    shard: String,
    name: String,
    role: String,
    host: String,
    port: u16,
    state: String,
    lsn: Option<String>,
    lag_bytes: Option<u64>,
    term: Option<u64>,
    sync: Option<bool>,
    agent: Option<String>,
}

async fn nodes(admin: &Admin) -> Result<Vec<NodeRow>, Failure> {
    admin.document("SHOW NODES FORMAT JSON").await
}

/// Runs `node`.
pub async fn run(arguments: &NodeArguments, output: Output) -> Result<(), Failure> {
    match &arguments.action {
        Action::List => list(&Admin::connect(&arguments.connect).await?, output).await,
        Action::Add { shard, name, host, port, zone, dry_run } => {
            let admin = Admin::connect(&arguments.connect).await?;
            let (name, host, port) = match (name, host, port) {
                (Some(name), Some(host), Some(port)) => (name.clone(), host.clone(), *port),
                _ => place(&admin, &arguments.connect, shard, name.as_ref()).await?,
            };
            let zone = if zone.is_empty() { String::new() } else { format!(" ZONE {}", literal(zone)) };
            let dry = if *dry_run { " DRY RUN" } else { "" };
            let (node, shard, host) = (identifier(&name), identifier(shard), literal(&host));
            tell(&admin, &format!("NODE ADD {node} SHARD {shard} HOST {host} PORT {port}{zone}{dry}"), output).await
        }
        Action::Remove(named) => {
            let question = format!("Remove {}? Its server is left as it is, and not followed any more.", named.node);
            act(&arguments.connect, "REMOVE", named, &question, output).await
        }
        Action::Rebuild { named, wait } => {
            let question = format!("Throw away what {} has, and copy it from the primary?", named.node);
            act(&arguments.connect, "REBUILD", named, &question, output).await?;
            if *wait && !named.dry_run {
                let admin = Admin::connect(&arguments.connect).await?;
                until_counting(&admin, &named.node, Duration::from_secs(12 * 3600)).await?;
            }
            Ok(())
        }
        Action::Restart(named) => {
            let question = format!("Restart the server of {}? Reads under way there are cut.", named.node);
            act(&arguments.connect, "RESTART", named, &question, output).await
        }
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

async fn act(
    connect: &ConnectArguments,
    verb: &str,
    named: &Named,
    question: &str,
    output: Output,
) -> Result<(), Failure> {
    if !named.dry_run && !named.yes {
        confirm(question)?;
    }
    let admin = Admin::connect(connect).await?;
    let dry = if named.dry_run { " DRY RUN" } else { "" };
    tell(&admin, &format!("NODE {verb} {}{dry}", identifier(&named.node)), output).await
}

async fn tell(admin: &Admin, command: &str, output: Output) -> Result<(), Failure> {
    let rows = admin.rows(command).await?;
    let Some([node, shard, host, port, state]) = rows.first().map(Vec::as_slice) else {
        return Err(Failure::new("the proxy's answer is not understood"));
    };
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    match output {
        Output::Json => output::json(&serde_json::json!({
            "node": node, "shard": shard, "host": host, "port": word(port).parse::<u16>().ok(), "state": state,
        })),
        Output::Table => output::line(&format!(
            "{} of {} ({} port {}): {}",
            word(node),
            word(shard),
            word(host),
            word(port),
            word(state)
        )),
    }
}

async fn list(admin: &Admin, output: Output) -> Result<(), Failure> {
    let nodes = nodes(admin).await?;
    if output == Output::Json {
        return output::json(&nodes);
    }
    let cells = |row: &NodeRow| {
        let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        vec![
            row.shard.clone(),
            row.name.clone(),
            row.role.clone(),
            format!("{}:{}", row.host, row.port),
            row.state.clone(),
            row.lsn.clone().unwrap_or_default(),
            number(row.lag_bytes),
            number(row.term),
            row.sync.map_or_else(String::new, |sync| sync.to_string()),
            row.agent.clone().unwrap_or_default(),
        ]
    };
    let columns = ["shard", "node", "role", "address", "state", "lsn", "lag_bytes", "term", "sync", "agent"];
    output::table(&columns, nodes.iter().map(cells).collect())
}

/// Name and port of a server that `up` is to make.
async fn place(
    admin: &Admin,
    connect: &ConnectArguments,
    shard: &str,
    name: Option<&String>,
) -> Result<(String, String, u16), Failure> {
    if !connect.directory().join("nodes").is_dir() {
        return Err(Failure::new("say where the server is, with --name, --host and --port"));
    }
    let nodes = nodes(admin).await?;
    let free = ('a'..='z').map(|letter| format!("{shard}{letter}")).find(|name| {
        !nodes.iter().any(|node| node.name == *name) && !connect.directory().join("nodes").join(name).exists()
    });
    let name = name.cloned().or(free).ok_or_else(|| Failure::new("no name is free: say one with --name"))?;
    let first = nodes.iter().map(|node| node.port).max().map_or(port::FIRST, |port| port.saturating_add(1));
    let port = port::choose(first, 1)?.first().copied().ok_or_else(|| Failure::new("no port is free"))?;
    Ok((name, "127.0.0.1".to_owned(), port))
}

async fn until_counting(admin: &Admin, node: &str, limit: Duration) -> Result<(), Failure> {
    let end = Instant::now() + limit;
    loop {
        let is_well = |row: &NodeRow| row.name == node && row.state == "streaming" && row.sync != Some(false);
        if nodes(admin).await?.iter().any(is_well) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Failure::new(format!(
                "{node} does not stream, or commits do not wait for it: see ostrakon node list"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Runs `restart`: replicas one by one, then the primary once another node leads.
pub async fn restart(arguments: &RestartArguments, output: Output) -> Result<(), Failure> {
    let question = format!("Restart the servers of {}, one by one? Nothing is cut.", arguments.shard);
    if !arguments.dry_run && !arguments.yes {
        confirm(&question)?;
    }
    let admin = Admin::connect(&arguments.connect).await?;
    let of_shard: Vec<NodeRow> =
        nodes(&admin).await?.into_iter().filter(|node| node.shard == arguments.shard).collect();
    let primary = of_shard.iter().find(|node| node.role == "primary");
    let primary = primary.ok_or_else(|| Failure::new(format!("shard {} has no primary", arguments.shard)))?;
    let replicas: Vec<&str> =
        of_shard.iter().filter(|node| node.role != "primary").map(|node| node.name.as_str()).collect();
    let Some(next) = replicas.first() else {
        return Err(Failure::new(format!("{} is the only node of {}", primary.name, arguments.shard)));
    };
    let say = |text: String| if output == Output::Table { output::line(&text) } else { Ok(()) };
    if arguments.dry_run {
        return output::line(&format!(
            "would restart {}, switch over to {next}, restart {}",
            replicas.join(", "),
            primary.name
        ));
    }
    for replica in &replicas {
        restart_one(&admin, replica).await?;
        say(format!("{replica} restarted"))?;
    }
    let shard = identifier(&arguments.shard);
    let rows = admin.rows(&format!("SWITCHOVER {shard} TO {}", identifier(next))).await?;
    let pause = rows.first().and_then(|row| row.get(4).cloned().flatten()).unwrap_or_default();
    say(format!("{next} leads; statements waited {pause} ms"))?;
    until_counting(&admin, &primary.name, COUNT_MAX).await?;
    restart_one(&admin, &primary.name).await?;
    say(format!("{} restarted", primary.name))?;
    if output == Output::Json {
        let restarted: Vec<&str> = replicas.iter().copied().chain([primary.name.as_str()]).collect();
        return output::json(&serde_json::json!({
            "shard": arguments.shard, "restarted": restarted, "primary": next, "pause_ms": pause.parse::<u64>().ok(),
        }));
    }
    Ok(())
}

async fn restart_one(admin: &Admin, node: &str) -> Result<(), Failure> {
    // Whoever is started again is to count before the next one is stopped.
    until_counting(admin, node, COUNT_MAX).await?;
    admin.rows(&format!("NODE RESTART {}", identifier(node))).await?;
    until_counting(admin, node, COUNT_MAX).await
}
