//! `ostrakon reshard`: buckets move between shards while the cluster serves.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::Failure;
use super::connect::{Admin, ConnectArguments, identifier};
use super::output::{self, Output};

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct ReshardArguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connect: ConnectArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say what would move, and what would stop it.
    Plan(Wanted),
    /// Begin to move buckets to the shards that have too few.
    Start {
        #[command(flatten)]
        wanted: Wanted,
        #[command(flatten)]
        hold: Hold,
        #[command(flatten)]
        how: How,
    },
    /// Show the job.
    Status {
        /// Go on showing it.
        #[arg(long)]
        watch: bool,
    },
    /// No further step for now.
    Pause(Gentle),
    /// Steps again.
    Resume(Gentle),
    /// Look at every row of every shard; fails when one is not where it belongs.
    Verify,
    /// Move buckets back to where they were when the job began.
    Reverse(How),
    /// End a job whose buckets have all moved.
    Finish(How),
    /// End a job where it is; buckets that have moved stay where they are.
    Cancel(How),
}

/// What is to be.
#[derive(Debug, Args)]
struct Wanted {
    /// Move all buckets away from this shard.
    #[arg(long, value_name = "SHARD")]
    empty: Option<String>,
}

/// How long writes may wait.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Hold {
    /// Let writes to moving buckets wait so long for a step (else 0.3 s), so that buckets with many rows can be moved.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=50))]
    hold_max: Option<u64>,
}

impl Hold {
    /// As it stands in the command of the admin database.
    pub(super) fn sql(self) -> String {
        self.hold_max.map(|seconds| format!(" HOLD {seconds}")).unwrap_or_default()
    }
}

/// How a command that changes something runs.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct How {
    /// Do it; without this it is only said what would be done.
    #[arg(long)]
    pub(super) yes: bool,
    /// Stay until it is done; rows, bytes, rate and the time that is left are shown.
    #[arg(long)]
    wait: bool,
    /// Only say what would be done: no error, as without --yes.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// How a command runs that only changes what can be changed back at once.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Gentle {
    /// Only look whether it is possible.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Taken for scripts that always say it; not needed.
    #[arg(long = "yes", conflicts_with = "dry_run")]
    _yes: bool,
}

/// A job that another command begins: what it says, then the job itself.
pub(super) async fn begin(
    admin: &Admin,
    command: &str,
    how: How,
    show: impl Fn(&[Vec<Option<String>>]) -> Result<(), Failure>,
    output: Output,
    until: &str,
) -> Result<(), Failure> {
    if !how.yes {
        show(&admin.rows(&format!("{command} DRY RUN")).await?)?;
        return not_done(how);
    }
    let rows = admin.rows(command).await?;
    if how.wait {
        wait_for(admin, until).await?;
    }
    show(&rows)?;
    if output == Output::Table && !how.wait && !rows.is_empty() {
        show_job(job(admin).await?.as_ref(), output)?;
    }
    Ok(())
}

/// One line of a plan.
#[derive(Debug, Serialize)]
pub(super) struct PlanRow {
    from: String,
    to: String,
    buckets: u64,
    rows: u64,
    bytes: u64,
}

/// The job, as SHOW RESHARD tells it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Job {
    phase: String,
    paused: bool,
    reversed: bool,
    buckets_total: u64,
    buckets_left: u64,
    rows_moved: u64,
    rows_left: Option<u64>,
    bytes_moved: u64,
    steps: u64,
    pause_longest_ms: f64,
    pause_mean_ms: f64,
    hold_longest_ms: f64,
    hold_mean_ms: f64,
    waited: u64,
    wait_longest_ms: f64,
    wait_median_ms: f64,
    rows_next: u64,
    #[serde(default)]
    step_parts_ms: String,
    trouble: Option<String>,
}

/// What VERIFY says.
#[derive(Debug, Deserialize, Serialize)]
struct Verified {
    rows: u64,
    misplaced: Vec<Misplaced>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Misplaced {
    table: String,
    key: String,
    shard: String,
    owner: String,
}

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the command.
pub async fn run(arguments: &ReshardArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(&arguments.connect).await?;
    match &arguments.action {
        Action::Plan(wanted) => show_plan(&plan(&admin, wanted).await?, output),
        Action::Start { wanted, hold, how } => {
            if !how.yes {
                show_plan(&plan(&admin, wanted).await?, output)?;
                return not_done(*how);
            }
            admin.rows(&format!("RESHARD START{}{}", empty(wanted), hold.sql())).await?;
            finish_or_wait(&admin, *how, "moved", output).await
        }
        Action::Status { watch } => status(&admin, *watch, output).await,
        Action::Pause(how) => simple(&admin, "RESHARD PAUSE", *how, output).await,
        Action::Resume(how) => simple(&admin, "RESHARD RESUME", *how, output).await,
        Action::Verify => verify(&admin, output).await,
        Action::Reverse(how) => change(&admin, "RESHARD REVERSE", *how, "moved", output).await,
        Action::Finish(how) => change(&admin, "RESHARD FINISH", *how, "none", output).await,
        Action::Cancel(how) => change(&admin, "RESHARD CANCEL", *how, "none", output).await,
    }
}

pub(super) fn not_done(how: How) -> Result<(), Failure> {
    if how.dry_run { Ok(()) } else { Err(Failure::new("nothing was done: add --yes to do it")) }
}

fn empty(wanted: &Wanted) -> String {
    wanted.empty.as_ref().map(|shard| format!(" EMPTY {}", identifier(shard))).unwrap_or_default()
}

async fn simple(admin: &Admin, command: &str, how: Gentle, output: Output) -> Result<(), Failure> {
    let command = format!("{command}{}", if how.dry_run { " DRY RUN" } else { "" });
    admin.rows(&command).await?;
    match output {
        Output::Json => output::json(&serde_json::json!({ "done": command })),
        Output::Table => output::line(&command),
    }
}

async fn change(admin: &Admin, command: &str, how: How, until: &str, output: Output) -> Result<(), Failure> {
    if !how.yes {
        admin.rows(&format!("{command} DRY RUN")).await?;
        show_job(job(admin).await?.as_ref(), output)?;
        return not_done(how);
    }
    admin.rows(command).await?;
    finish_or_wait(admin, how, until, output).await
}

pub(super) async fn finish_or_wait(admin: &Admin, how: How, until: &str, output: Output) -> Result<(), Failure> {
    if how.wait {
        wait_for(admin, until).await?;
    }
    show_job(job(admin).await?.as_ref(), output)
}

async fn plan(admin: &Admin, wanted: &Wanted) -> Result<Vec<PlanRow>, Failure> {
    Ok(plan_rows(admin.rows(&format!("RESHARD PLAN{}", empty(wanted))).await?))
}

/// Rows of a plan as the proxy sends them.
pub(super) fn plan_rows(rows: Vec<Vec<Option<String>>>) -> Vec<PlanRow> {
    let rows = rows.into_iter().map(|row| {
        let mut cells = row.into_iter().map(Option::unwrap_or_default);
        let mut cell = || cells.next().unwrap_or_default();
        let number = |text: String| text.parse().unwrap_or(0);
        PlanRow { from: cell(), to: cell(), buckets: number(cell()), rows: number(cell()), bytes: number(cell()) }
    });
    rows.collect()
}

pub(super) fn show_plan(rows: &[PlanRow], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        return output::line("no bucket has to move");
    }
    let cells = |row: &PlanRow| {
        vec![
            row.from.clone(),
            row.to.clone(),
            row.buckets.to_string(),
            row.rows.to_string(),
            format!("{:.1} MB", row.bytes as f64 / 1e6),
        ]
    };
    output::table(&["from", "to", "buckets", "rows (about)", "size (about)"], rows.iter().map(cells).collect())
}

async fn job(admin: &Admin) -> Result<Option<Job>, Failure> {
    let jobs: Vec<Job> = admin.document("SHOW RESHARD FORMAT JSON").await?;
    Ok(jobs.into_iter().find(|job| job.phase != "none"))
}

fn show_job(job: Option<&Job>, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return output::json(&job);
    }
    let Some(job) = job else { return output::line("there is no resharding job") };
    output::line(&describe(job))
}

fn describe(job: &Job) -> String {
    let mut text = format!(
        "{}{}{}: {} of {} buckets moved, {} rows in {} steps; reads of moving buckets and of all waited for {:.0} ms on \
         average, {:.0} ms at most, writes to moving buckets for {:.0} and {:.0} ms; {} statements waited, half of them \
         {:.0} ms at most, the longest {:.0} ms",
        job.phase,
        if job.reversed { " back" } else { "" },
        if job.paused { " (paused)" } else { "" },
        job.buckets_total.saturating_sub(job.buckets_left),
        job.buckets_total,
        job.rows_moved,
        job.steps,
        job.pause_mean_ms,
        job.pause_longest_ms,
        job.hold_mean_ms,
        job.hold_longest_ms,
        job.waited,
        job.wait_median_ms,
        job.wait_longest_ms
    );
    if job.steps > 0 && !job.step_parts_ms.is_empty() {
        text.push_str(&format!("\n  a step on average, in ms: {}", job.step_parts_ms));
    }
    if let Some(trouble) = &job.trouble {
        text.push_str(&format!("\n  {trouble}"));
    }
    match job.phase.as_str() {
        "moved" => text.push_str(
            "\n  end it with: ostrakon reshard finish --yes   or undo it with: ostrakon reshard reverse --yes",
        ),
        _ if job.paused => text.push_str("\n  go on with: ostrakon reshard resume"),
        _ => {}
    }
    text
}

async fn status(admin: &Admin, watch: bool, output: Output) -> Result<(), Failure> {
    let mut shown = None;
    loop {
        let now = job(admin).await?;
        if shown.as_ref() != Some(&now) {
            show_job(now.as_ref(), output)?;
        }
        if !watch || now.is_none() {
            return Ok(());
        }
        shown = Some(now);
        sleep(LOOK).await;
    }
}

/// Waits until the job is in a phase; one that is paused by trouble is not waited for.
async fn wait_for(admin: &Admin, until: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut first = None;
    let mut told = Instant::now();
    loop {
        let now = job(admin).await?;
        let phase = now.as_ref().map_or("none", |job| job.phase.as_str());
        if phase == until || now.is_none() {
            return Ok(());
        }
        if let Some(job) = &now {
            if let Some(trouble) = job.trouble.as_ref().filter(|_| job.paused) {
                return Err(Failure::new(format!(
                    "the job has stopped: {trouble}\n  when that is settled go on with: ostrakon reshard resume"
                )));
            }
            let first = first.get_or_insert_with(|| job.clone());
            if told.elapsed() > Duration::from_secs(1) {
                told = Instant::now();
                let line = format!("{}\n", progress(first, job, begun.elapsed()));
                // Progress is never worth failing for.
                let _closed = std::io::stderr().write_all(line.as_bytes());
            }
        }
        sleep(LOOK).await;
    }
}

/// Rows, bytes, how fast, how much longer.
fn progress(first: &Job, now: &Job, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(0.001);
    let rate = now.rows_moved.saturating_sub(first.rows_moved) as f64 / seconds;
    let bytes = now.bytes_moved.saturating_sub(first.bytes_moved) as f64 / seconds;
    let left = now.rows_left.map(|rows| format!(" of {}", now.rows_moved + rows)).unwrap_or_default();
    let eta = now.rows_left.filter(|_| rate > 0.0).map(|rows| format!(", about {:.0} s left", rows as f64 / rate));
    format!(
        "{}: {}{left} rows, {:.1} MB, {rate:.0} rows/s, {:.1} MB/s{}; writes to moving buckets wait for {:.0} ms{}",
        now.phase,
        now.rows_moved,
        now.bytes_moved as f64 / 1e6,
        bytes / 1e6,
        eta.unwrap_or_default(),
        now.hold_mean_ms,
        now.trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default()
    )
}

async fn verify(admin: &Admin, output: Output) -> Result<(), Failure> {
    let verified: Verified = admin.document("RESHARD VERIFY").await?;
    match output {
        Output::Json => output::json(&verified)?,
        Output::Table if verified.misplaced.is_empty() => {
            output::line(&format!("{} rows looked at: each is on the shard that owns its bucket", verified.rows))?;
        }
        Output::Table => {
            let cells =
                |row: &Misplaced| vec![row.table.clone(), row.key.clone(), row.shard.clone(), row.owner.clone()];
            output::table(&["table", "key", "is on", "belongs to"], verified.misplaced.iter().map(cells).collect())?;
        }
    }
    match verified.misplaced.len() {
        0 => Ok(()),
        count => Err(Failure::new(format!("{count} rows are not where they belong"))),
    }
}
