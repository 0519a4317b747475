//! `ostrakon shard`: the cluster grows.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Failure;
use super::cluster::{self, ShardServers};
use super::connect::{Admin, ConnectArguments, identifier};
use super::output::{self, Output};
use super::progress::Progress;
use super::reshard::Gentle;
use crate::host::replication::SUPERUSER;
use crate::host::{Machine, ServerSpec, port};

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct ShardArguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connect: ConnectArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the servers of a further shard of an `ostrakon up` cluster and take it in; `reshard start` gives it rows.
    Add {
        /// Replicas of it [default: as many as the other shards have].
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=8))]
        replicas: Option<u32>,
        /// Directory of PostgreSQL's server programs [default: the newest under /usr/lib/postgresql, else PATH].
        #[arg(long, value_name = "DIR")]
        pg_bin: Option<PathBuf>,
        /// First port that is tried for its servers.
        #[arg(long, value_name = "PORT", default_value_t = port::FIRST)]
        first_port: u16,
        #[command(flatten)]
        how: Gentle,
    },
    /// Take a shard out of the cluster that was emptied (`reshard start --empty`), and stop its servers if `ostrakon up` made them.
    Remove {
        /// Its name.
        name: String,
        /// Do it; without this it is only looked whether it is possible.
        #[arg(long)]
        yes: bool,
        /// Only look whether it is possible.
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
    },
    /// List shards.
    List,
}

/// The topology, as SHOW TOPOLOGY tells it.
#[derive(Debug, Deserialize)]
struct TopologyDocument {
    database: String,
    shards: Vec<ShardRow>,
    nodes: Vec<NodeRow>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ShardRow {
    id: u32,
    name: String,
    buckets: u32,
    #[serde(default)]
    pins: u32,
    term: u64,
    weight: u32,
}

#[derive(Debug, Deserialize)]
struct NodeRow {
    name: String,
    shard: String,
    host: String,
    port: u16,
    role: String,
}

/// Runs the command.
pub async fn run(arguments: &ShardArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(&arguments.connect).await?;
    match &arguments.action {
        Action::List => list(&admin, output).await,
        Action::Remove { name, yes, dry_run } => {
            if !*yes {
                admin.rows(&format!("SHARD REMOVE {} DRY RUN", identifier(name))).await?;
                tell_removed(name, "can be removed", &[], output)?;
                let asks = Failure::new("nothing was done: add --yes to do it");
                return if *dry_run { Ok(()) } else { Err(asks) };
            }
            let document: TopologyDocument = admin.document("SHOW TOPOLOGY FORMAT JSON").await?;
            admin.rows(&format!("SHARD REMOVE {}", identifier(name))).await?;
            let kept = put_aside(&arguments.connect.directory(), &document, name).await?;
            tell_removed(name, "removed", &kept, output)
        }
        Action::Add { replicas, pg_bin, first_port, how } => {
            let document: TopologyDocument = admin.document("SHOW TOPOLOGY FORMAT JSON").await?;
            let machine = Machine::open(&arguments.connect.directory(), pg_bin.as_deref())?;
            let servers = plan(&document, *replicas, *first_port, &machine)?;
            if how.dry_run {
                return tell(&servers, "would make", output);
            }
            add(&admin, &machine, &document, &servers).await?;
            tell(&servers, "added", output)
        }
    }
}

/// Stops the servers of a shard that has left, and renames their directories: their names may be used again.
async fn put_aside(directory: &Path, document: &TopologyDocument, shard: &str) -> Result<Vec<PathBuf>, Failure> {
    let mut kept = Vec::new();
    for (name, path) in crate::host::machine::nodes(directory) {
        let Some(node) = document.nodes.iter().find(|node| node.name == name && node.shard == shard) else { continue };
        if port_of(directory)(&name) != Some(node.port) {
            continue;
        }
        crate::host::machine::stop(&path).await?;
        let free = (1..).map(|at| path.with_extension(format!("removed{at}"))).find(|path| !path.exists());
        let aside = free.unwrap_or_else(|| path.with_extension("removed"));
        std::fs::rename(&path, &aside)
            .map_err(|error| Failure::new(format!("{} cannot be renamed: {error}", path.display())))?;
        kept.push(aside);
    }
    Ok(kept)
}

fn tell_removed(name: &str, done: &str, kept: &[PathBuf], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return output::json(&serde_json::json!({ "shard": name, "done": done, "kept": kept }));
    }
    let kept = kept.iter().map(|path| format!("\n  its data can be deleted: {}", path.display()));
    output::line(&format!("shard {name}: {done}{}", kept.collect::<String>()))
}

async fn list(admin: &Admin, output: Output) -> Result<(), Failure> {
    let rows: Vec<ShardRow> = admin.document("SHOW SHARDS FORMAT JSON").await?;
    if output == Output::Json {
        return output::json(&rows);
    }
    let cells = |row: &ShardRow| {
        let numbers = [u64::from(row.buckets), u64::from(row.pins), row.term, u64::from(row.weight)];
        [row.name.clone()].into_iter().chain(numbers.map(|number| number.to_string())).collect()
    };
    output::table(&["shard", "buckets", "pinned keys", "term", "weight"], rows.iter().map(cells).collect())
}

fn tell(servers: &ShardServers, verb: &str, output: Output) -> Result<(), Failure> {
    let nodes: Vec<String> = servers.all().map(|spec| format!("{} on port {}", spec.name, spec.port)).collect();
    match output {
        Output::Json => output::json(&serde_json::json!({
            "shard": servers.name, "done": verb,
            "nodes": servers.all().map(|spec| serde_json::json!({ "name": spec.name, "port": spec.port })).collect::<Vec<_>>(),
        })),
        Output::Table => output::line(&format!(
            "{verb} shard {}: {}\nIt owns no bucket yet. Move some to it with: ostrakon reshard start --yes --wait",
            servers.name,
            nodes.join(", ")
        )),
    }
}

/// The servers of the next shard; the names of one that was begun before are taken up again.
fn plan(
    document: &TopologyDocument,
    replicas: Option<u32>,
    first_port: u16,
    machine: &Machine,
) -> Result<ShardServers, Failure> {
    let id = document.shards.iter().map(|shard| shard.id).max().unwrap_or(0) + 1;
    let of_others = document
        .shards
        .iter()
        .map(|shard| document.nodes.iter().filter(|node| node.shard == shard.name && node.role != "primary").count());
    let replicas = replicas.map_or_else(|| of_others.max().unwrap_or(0), |count| count as usize);
    let chosen = port::choose(first_port, replicas + 1)?;
    let known = port_of(machine.directory());
    let mut nodes = ('a'..='z').take(replicas + 1).zip(chosen).map(|(letter, port)| {
        let name = format!("s{id}{letter}");
        let port = known(&name).unwrap_or(port);
        ServerSpec { name, port }
    });
    let primary = nodes.next().ok_or_else(|| Failure::new("no port is free"))?;
    Ok(ShardServers { name: format!("s{id}"), primary, replicas: nodes.collect() })
}

/// The port that a server which was made before has.
fn port_of(directory: &Path) -> impl Fn(&str) -> Option<u16> {
    let nodes = crate::host::machine::nodes(directory);
    move |name| {
        let (_, path) = nodes.iter().find(|(node, _)| node == name)?;
        let text = std::fs::read_to_string(path.join(crate::host::settings::FILE)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("port = ")?.trim().parse().ok())
    }
}

async fn add(
    admin: &Admin,
    machine: &Machine,
    document: &TopologyDocument,
    servers: &ShardServers,
) -> Result<(), Failure> {
    let first = document.shards.first().ok_or_else(|| Failure::new("the cluster has no shard"))?;
    let home = document.nodes.iter().find(|node| node.shard == first.name && node.role == "primary");
    let home = home.ok_or_else(|| Failure::new(format!("shard {} has no primary", first.name)))?;
    for spec in servers.all() {
        machine.check_port(spec)?;
    }
    let progress = Progress::for_people();
    let made = cluster::bring_up(machine, std::slice::from_ref(servers), &document.database, &progress).await;
    progress.clear();
    made?;
    copy_schema(machine, home, servers.primary.port, &document.database).await?;
    let nodes = servers.all().map(|spec| format!("{} '127.0.0.1' {}", identifier(&spec.name), spec.port));
    let command = format!("SHARD ADD {} NODES ({})", identifier(&servers.name), nodes.collect::<Vec<_>>().join(", "));
    admin.rows(&command).await.map(drop).map_err(|failure| {
        Failure::new(format!(
            "{failure}\n  its servers run and are not part of the cluster; try again with the same command"
        ))
    })
}

/// Settings of the database and of roles in it, which pg_dump leaves out.
const SETTINGS_SQL: &str = "SELECT 'ALTER ' || CASE WHEN s.setrole = 0 THEN 'DATABASE ' || quote_ident(d.datname) \
    ELSE 'ROLE ' || quote_ident(pg_get_userbyid(s.setrole)) || ' IN DATABASE ' || quote_ident(d.datname) END || ' SET ' || \
    quote_ident(split_part(c, '=', 1)) || ' TO ' || \
    CASE WHEN split_part(c, '=', 1) IN ('search_path', 'temp_tablespaces', 'session_preload_libraries', \
      'local_preload_libraries', 'DateStyle') THEN substr(c, strpos(c, '=') + 1) \
    ELSE quote_literal(substr(c, strpos(c, '=') + 1)) END || ';' \
    FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c \
    WHERE d.datname = current_database()";

/// Gives a new server the roles and the schema of another; one that has tables already is left as it is. That both
/// are alike is seen to when the shard is taken in.
async fn copy_schema(machine: &Machine, home: &NodeRow, port: u16, database: &str) -> Result<(), Failure> {
    let program = |name: &str| machine.binaries().program(name);
    let at = |host: &str, port: u16| {
        ["-h".to_owned(), host.to_owned(), "-p".to_owned(), port.to_string(), "-U".to_owned(), SUPERUSER.to_owned()]
    };
    let (there, here) = (at(&home.host, home.port), at("127.0.0.1", port));
    let asks = |sql: &str| ["-d", database, "-X", "-A", "-t", "-q", "-c", sql].map(str::to_owned).to_vec();
    let is_empty = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'ostrakon') AND left(n.nspname, 3) <> 'pg_'";
    let count = run_program(&program("psql"), &[&here[..], &asks(is_empty)].concat(), None).await?;
    let dump_roles = ["--roles-only".to_owned(), "-l".to_owned(), database.to_owned()];
    let roles = run_program(&program("pg_dumpall"), &[&there[..], &dump_roles].concat(), None).await?;
    // Roles that are there already are no matter; what is missing afterwards is found when the shard is taken in.
    let lenient = ["-d", database, "-X", "-q"].map(str::to_owned);
    run_program(&program("psql"), &[&here[..], &lenient].concat(), Some(&roles)).await?;
    let settings = run_program(&program("psql"), &[&there[..], &asks(SETTINGS_SQL)].concat(), None).await?;
    let strict = ["-d", database, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1"].map(str::to_owned);
    run_program(&program("psql"), &[&here[..], &strict].concat(), Some(&settings)).await?;
    if count.trim() != "0" {
        return Ok(());
    }
    let schema_only = ["--schema-only", "--exclude-schema=ostrakon", "-d", database].map(str::to_owned);
    let schema = run_program(&program("pg_dump"), &[&there[..], &schema_only].concat(), None).await?;
    run_program(&program("psql"), &[&here[..], &strict].concat(), Some(&schema)).await.map(drop)
}

/// Runs one of PostgreSQL's programs and gives what it printed.
async fn run_program(program: &Path, arguments: &[String], input: Option<&str>) -> Result<String, Failure> {
    let name = program.display();
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{name} failed: {error}"));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let stdin = child.stdin.take();
    let text = input.unwrap_or_default().to_owned();
    let writing = tokio::spawn(async move {
        let Some(mut stdin) = stdin else { return };
        // A program that ends early says why itself.
        let _ended = stdin.write_all(text.as_bytes()).await;
    });
    let ended = child.wait_with_output().await.map_err(|error| failed(&error))?;
    let _written = writing.await;
    if !ended.status.success() {
        return Err(failed(&String::from_utf8_lossy(&ended.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}
