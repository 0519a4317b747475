//! `ostrakon pin`, `ostrakon unpin` and `ostrakon rebalance`: single keys, and what was measured, say where rows go.

use clap::Args;
use serde::Deserialize;

use super::Failure;
use super::connect::{Admin, ConnectArguments, identifier};
use super::output::{self, Output};
use super::reshard::{Hold, How, begin, plan_rows, show_plan};

/// Arguments of `pin`.
#[derive(Debug, Args)]
pub struct PinArguments {
    /// The key, a value a column; without it the pinned keys are listed.
    #[arg(value_name = "KEY", requires = "to", allow_negative_numbers = true)]
    key: Vec<String>,
    /// The shard that it is to live on.
    #[arg(long, value_name = "SHARD", requires = "key")]
    to: Option<String>,
    #[command(flatten)]
    change: Change,
}

/// Arguments of `unpin`.
#[derive(Debug, Args)]
pub struct UnpinArguments {
    /// The key, a value a column.
    #[arg(value_name = "KEY", required = true, allow_negative_numbers = true)]
    key: Vec<String>,
    #[command(flatten)]
    change: Change,
}

/// How a key's place is changed.
#[derive(Debug, Args)]
struct Change {
    /// The table whose key it is, where tables have keys of several types.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    #[command(flatten)]
    hold: Hold,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    connect: ConnectArguments,
}

/// Arguments of `rebalance`.
#[derive(Debug, Args)]
pub struct RebalanceArguments {
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    connect: ConnectArguments,
}

#[derive(Debug, Deserialize, serde::Serialize)]
struct Pinned {
    key: String,
    shard: String,
    bucket: u32,
    hash_slot: u32,
    hash_slot_shard: String,
    settled: bool,
}

/// Runs `pin`.
pub async fn pin(arguments: &PinArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(&arguments.change.connect).await?;
    let Some(to) = &arguments.to else { return list(&admin, output).await };
    let command = format!("PIN KEY ({}) TO {}", values(&arguments.key), identifier(to));
    change(&admin, &command, &arguments.change, output).await
}

/// Runs `unpin`.
pub async fn unpin(arguments: &UnpinArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(&arguments.change.connect).await?;
    let command = format!("UNPIN KEY ({})", values(&arguments.key));
    change(&admin, &command, &arguments.change, output).await
}

/// Runs `rebalance`.
pub async fn rebalance(arguments: &RebalanceArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(&arguments.connect).await?;
    let columns = ["shard", "rows", "bytes", "turns", "share now", "share then", "buckets moved"];
    let show = |rows: &[Vec<Option<String>>]| {
        let cells = rows.iter().map(|row| row.iter().map(|cell| cell.clone().unwrap_or_default()).collect());
        let cells: Vec<Vec<String>> = cells.collect();
        if output == Output::Table {
            return output::table(&columns, cells);
        }
        let named = |row: &Vec<String>| {
            let pairs = columns.iter().map(|name| name.replace(' ', "_")).zip(row.clone().into_iter().map(Into::into));
            pairs.collect::<serde_json::Map<_, _>>()
        };
        output::json(&cells.iter().map(named).collect::<Vec<_>>())
    };
    begin(&admin, "REBALANCE", arguments.how, show, output, "moved").await
}

async fn change(admin: &Admin, command: &str, change: &Change, output: Output) -> Result<(), Failure> {
    let show = |rows: &[Vec<Option<String>>]| show_plan(&plan_rows(rows.to_vec()), output);
    let table = change.table.as_ref().map(|name| format!(" TABLE {}", identifier(name))).unwrap_or_default();
    let command = format!("{command}{table}{}", change.hold.sql());
    begin(admin, &command, change.how, show, output, "none").await
}

async fn list(admin: &Admin, output: Output) -> Result<(), Failure> {
    let rows: Vec<Pinned> = admin.document("SHOW PINS FORMAT JSON").await?;
    if output == Output::Json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        return output::line("no key is pinned");
    }
    let cells = |row: &Pinned| {
        let state = if row.settled { "" } else { "a job has it" };
        vec![row.key.clone(), row.shard.clone(), row.hash_slot_shard.clone(), state.to_owned()]
    };
    output::table(&["key", "shard", "without the pin", "state"], rows.iter().map(cells).collect())
}

fn values(key: &[String]) -> String {
    let quoted: Vec<String> = key.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
    quoted.join(", ")
}
