//! `ostrakon drain`: a proxy takes no more clients, lets transactions end, and ends.

use clap::Args;

use super::Failure;
use super::connect::{Admin, ConnectArguments};
use super::lead::confirm;
use super::output::{self, Output};

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct DrainArguments {
    /// How long transactions may take to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    within: u64,
    /// How long it goes on after saying that it is not ready: what load balancers take to notice.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    after: u64,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    connect: ConnectArguments,
}

/// Runs the command.
pub async fn run(arguments: &DrainArguments, output: Output) -> Result<(), Failure> {
    if !arguments.yes {
        confirm("Let this proxy end once its transactions have?")?;
    }
    let admin = Admin::connect(&arguments.connect).await?;
    let (within, after) = (arguments.within, arguments.after);
    admin.rows(&format!("DRAIN {within} AFTER {after}")).await?;
    match output {
        Output::Json => output::json(&serde_json::json!({ "state": "draining", "after_s": after, "within_s": within })),
        Output::Table => output::line(&format!(
            "not ready from now on; takes no clients in {after} s, and ends within {within} s of that"
        )),
    }
}
