//! `ostrakon explain`: which shards a statement goes to, the plan and the reason.

use clap::Args;

use super::Failure;
use super::connect::{Admin, ConnectArguments};
use super::output::{self, Output};

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The statement; it is not run.
    sql: String,
    #[command(flatten)]
    connect: ConnectArguments,
}

/// Runs the command.
pub async fn run(arguments: &ExplainArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(&arguments.connect).await?;
    let rows = admin.rows(&format!("EXPLAIN {}", arguments.sql)).await?;
    let lines: Vec<String> =
        rows.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>().join("\t")).collect();
    match output {
        Output::Json => output::json(&serde_json::json!({ "plan": lines })),
        Output::Table => output::line(&lines.join("\n")),
    }
}
