//! `ostrakon table`: where tables live.

use clap::{Args, Subcommand};

use super::Failure;
use super::connect::{Admin, ConnectArguments, identifier};
use super::output::{self, Output};
use super::topology;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct TableArguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connect: ConnectArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Spread a table's rows over the shards by key columns; the table may not exist yet.
    Shard {
        /// Table, with its schema unless that is public.
        name: String,
        /// Key columns in order, separated by commas.
        #[arg(long, value_delimiter = ',', required = true, value_name = "COLUMNS")]
        key: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Keep a full copy of a table on every shard.
    Reference {
        /// Table, with its schema unless that is public.
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// Keep a table whole on one shard.
    Single {
        /// Table, with its schema unless that is public.
        name: String,
        /// The shard; without it the cluster's first.
        #[arg(long, value_name = "SHARD")]
        home: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// List tables and where they live.
    List,
}

/// No row moves by these commands, so they are carried out without being asked twice.
#[derive(Clone, Copy, Debug, Args)]
struct How {
    /// Only look whether it may be: key, unique and foreign keys, rows.
    #[arg(long)]
    dry_run: bool,
    /// Do it; that is so without this, too.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

/// Runs the command.
pub async fn run(arguments: &TableArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(&arguments.connect).await?;
    let command = match &arguments.action {
        Action::List => return topology::show(&admin.document("SHOW TABLES FORMAT JSON").await?, output),
        Action::Shard { name, key, how } => (shard_command(name, key), how),
        Action::Reference { name, how } => (format!("TABLE REFERENCE {}", identifier(name)), how),
        Action::Single { name, home: None, how } => (format!("TABLE SINGLE {}", identifier(name)), how),
        Action::Single { name, home: Some(home), how } => {
            (format!("TABLE SINGLE {} HOME {}", identifier(name), identifier(home)), how)
        }
    };
    let (command, How { dry_run, .. }) = command;
    if *dry_run {
        admin.rows(&format!("{command} DRY RUN")).await?;
        return match output {
            Output::Json => output::json(&serde_json::json!({ "possible": command })),
            Output::Table => output::line(&format!("possible: {command}")),
        };
    }
    admin.rows(&command).await?;
    match output {
        Output::Json => output::json(&serde_json::json!({ "done": command })),
        Output::Table => output::line(&command),
    }
}

/// The admin command that shards a table.
pub fn shard_command(name: &str, key: &[String]) -> String {
    let key = key.iter().map(|column| identifier(column.trim())).collect::<Vec<_>>().join(", ");
    format!("TABLE SHARD {} KEY ({key})", identifier(name))
}
