//! `ostrakon switchover` and `ostrakon failover`: another primary, by command.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;

use super::Failure;
use super::connect::{Admin, ConnectArguments, identifier};
use super::output::{self, Output};

/// Arguments of `switchover`.
#[derive(Debug, Args)]
pub struct SwitchoverArguments {
    #[command(flatten)]
    change: ChangeArguments,
}

/// Arguments of `failover`.
#[derive(Debug, Args)]
pub struct FailoverArguments {
    #[command(flatten)]
    change: ChangeArguments,
    /// Do with fewer nodes than prove that nothing acknowledged is lost. The only way out when too few answer.
    #[arg(long)]
    allow_data_loss: bool,
}

#[derive(Debug, Args)]
struct ChangeArguments {
    /// The shard.
    shard: String,
    /// The node that is to be primary; without it the one with the most.
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    connect: ConnectArguments,
}

/// Runs `switchover`.
pub async fn switchover(arguments: &SwitchoverArguments, output: Output) -> Result<(), Failure> {
    let change = &arguments.change;
    let question = format!("Move the primary of {}? New statements wait meanwhile.", change.shard);
    run(change, "SWITCHOVER", "", &question, output).await
}

/// Runs `failover`.
pub async fn failover(arguments: &FailoverArguments, output: Output) -> Result<(), Failure> {
    let change = &arguments.change;
    let (end, question) = if arguments.allow_data_loss {
        let text =
            format!("Replace the primary of {}, AND LOSE WHAT ONLY NODES HAVE THAT DO NOT ANSWER?", change.shard);
        (" ALLOW DATA LOSS", text)
    } else {
        ("", format!("Take the primary of {} as lost? Statements under way are cut.", change.shard))
    };
    run(change, "FAILOVER", end, &question, output).await
}

async fn run(change: &ChangeArguments, verb: &str, end: &str, question: &str, output: Output) -> Result<(), Failure> {
    let to = change.to.as_ref().map(|node| format!(" TO {}", identifier(node))).unwrap_or_default();
    let dry = if change.dry_run { " DRY RUN" } else { "" };
    if !change.dry_run && !change.yes {
        confirm(question)?;
    }
    let admin = Admin::connect(&change.connect).await?;
    let rows = admin.rows(&format!("{verb} {}{to}{end}{dry}", identifier(&change.shard))).await?;
    let Some([shard, from, to, term, pause, state]) = rows.first().map(Vec::as_slice) else {
        return Err(Failure::new("the proxy's answer is not understood"));
    };
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<u64>().ok());
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    match output {
        Output::Json => output::json(&serde_json::json!({
            "shard": shard, "from": from, "to": to, "term": number(term), "pause_ms": number(pause), "state": state,
        })),
        Output::Table if change.dry_run => {
            let to = to.as_deref().unwrap_or("the node with the most");
            output::line(&format!("{}: {} would hand over to {to} in term {}", word(shard), word(from), word(term)))
        }
        Output::Table => output::line(&format!(
            "{}: {} leads in term {} (before: {}); statements waited {} ms",
            word(shard),
            word(to),
            word(term),
            word(from),
            word(pause)
        )),
    }
}

/// Asks on the terminal; without one, only `--yes` will do.
pub(super) fn confirm(question: &str) -> Result<(), Failure> {
    let refused = || Failure::new("not confirmed; nothing was done\n  say --yes to do it without being asked");
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    let mut terminal = std::io::stderr();
    let mut answer = String::new();
    let asked = write!(terminal, "{question} [y/N] ").and_then(|()| terminal.flush());
    asked.and_then(|()| std::io::stdin().read_line(&mut answer).map(drop)).map_err(|_| refused())?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(refused()) }
}
