//! One server, asked and told over SQL.
//!
//! What is done to it compares the stamp first and remembers it in `postgresql.auto.conf`, which survives crashes, under an
//! advisory lock: ALTER SYSTEM runs in no transaction. Every step may be repeated; who is interrupted leaves
//! nothing that a later one would not do over.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::names::{FENCED, Names};
use crate::backend::ConnectTarget;
use crate::base::{NodeId, Term};
use crate::control::client::{ControlClient, ControlError, quote_literal};
use crate::failover::{Action, Answer, Failure, Outcome, Position, Stamp, SyncSet};

/// Limit of one statement; some of them wait for a disk.
const STATEMENT_MS: u64 = 1_500;
/// Key of the advisory lock under which a node is told something.
const LOCK: &str = "1869836146, 1";
/// How long somebody else may hold it before his connection is ended.
const LOCK_WAIT: Duration = Duration::from_millis(300);
/// How long a promotion waits for the replay of what is there, so that commits in flight can be told of.
const REPLAY_MAX: Duration = Duration::from_millis(300);
/// How long a slot may be in use by somebody who is to stop.
const SLOT_WAIT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(4);

const PROBE_SQL: &str = "SELECT pg_is_in_recovery()::text, \
 (CASE WHEN pg_is_in_recovery() THEN greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'), coalesce(pg_last_wal_replay_lsn(), '0/0')) \
  ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::text, \
 (SELECT setting FROM pg_file_settings WHERE name = 'ostrakon.promised' ORDER BY seqno DESC LIMIT 1), \
 current_setting('synchronous_standby_names'), current_setting('primary_conninfo'), \
 (SELECT (extract(epoch FROM clock_timestamp() - last_msg_receipt_time) * 1000)::bigint::text \
  FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
 (SELECT string_agg(application_name || '=' || (flush_lsn - '0/0'::pg_lsn), ' ') \
  FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL)";

const TIMELINE_SQL: &str = "SELECT CASE WHEN pg_is_in_recovery() \
 THEN (SELECT max(substr(name, 1, 8)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$') \
 ELSE substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) END, pg_is_in_recovery()::text, \
 (CASE WHEN pg_is_in_recovery() THEN greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'), coalesce(pg_last_wal_replay_lsn(), '0/0')) \
  ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::text";

/// Where the nodes of a shard are.
#[derive(Clone, Debug)]
pub struct Places {
    /// How the control role reaches them.
    pub targets: BTreeMap<NodeId, ConnectTarget>,
    /// What they are called.
    pub names: Names,
    /// The role that standbys stream as.
    pub replication_user: String,
}

impl Places {
    fn conninfo(&self, node: NodeId, of: NodeId, term: Term) -> Option<String> {
        let target = self.targets.get(&of)?;
        let word = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        let mut text = format!(
            "host={} port={} user={} application_name={}",
            word(&target.host),
            target.port,
            word(&self.replication_user),
            self.names.tag(node, term)
        );
        if let Some(password) = target.secret.known_password() {
            text.push_str(&format!(" password={}", word(password.expose())));
        }
        Some(text)
    }

    /// Whom a standby is told to follow: by its port and host, and of which term by its tag.
    fn read_conninfo(&self, text: &str) -> Option<(NodeId, Term)> {
        let value = |key: &str| {
            let at = text.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            at.map(|value| value.trim_matches('\''))
        };
        let (host, port) = (value("host")?, value("port")?.parse::<u16>().ok()?);
        let (node, _) = self.targets.iter().find(|(_, target)| target.host == host && target.port == port)?;
        let term = value("application_name").and_then(|tag| self.names.read_tag(tag)).map_or(Term(0), |(_, term)| term);
        Some((*node, term))
    }
}

/// What an error amounts to as evidence.
pub fn failure(error: &ControlError) -> Failure {
    match error {
        ControlError::Timeout { .. } => Failure::Timeout,
        ControlError::Unreachable { reason, .. } if reason.contains("refused") => Failure::Refused,
        ControlError::Unreachable { .. } => Failure::Lost,
        ControlError::Postgres { sqlstate, .. } if sqlstate == "57P03" => Failure::Starting,
        ControlError::Postgres { .. } => Failure::Lost,
    }
}

fn read_stamp(text: Option<&str>) -> Stamp {
    let read = || {
        let (term, config) = text?.split_once('.')?;
        Some(Stamp { term: Term(term.parse().ok()?), config: config.parse().ok()? })
    };
    read().unwrap_or_default()
}

/// Asks a node how it is.
///
/// # Errors
/// What it amounts to as evidence.
///
/// # Cancel safety
/// The connection is of no more use.
pub async fn probe(
    client: &ControlClient,
    places: &Places,
    timeline: u64,
    session: u64,
    limit: Duration,
) -> Result<Answer, Failure> {
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let rows = client.rows(PROBE_SQL, limit_ms).await.map_err(|error| failure(&error))?;
    let Some([recovery, lsn, promised, set, conninfo, heard, attached]) = rows.first().map(Vec::as_slice) else {
        return Err(Failure::Lost);
    };
    let in_recovery = recovery.as_deref() == Some("true");
    let promised = read_stamp(promised.as_deref());
    let lsn = lsn.as_deref().and_then(|lsn| lsn.parse().ok()).unwrap_or(0);
    let attached = attached.as_deref().unwrap_or_default().split(' ').filter_map(|entry| {
        let (tag, lsn) = entry.rsplit_once('=')?;
        let (node, term) = places.names.read_tag(tag)?;
        Some((node, (term, lsn.parse().ok()?)))
    });
    Ok(Answer {
        promised,
        in_recovery,
        session,
        position: Position { timeline, lsn },
        goes_by: set.as_deref().filter(|_| !in_recovery).and_then(|set| places.names.read_set(set, promised.term)),
        attached: attached.collect(),
        following: conninfo.as_deref().filter(|_| in_recovery).and_then(|text| places.read_conninfo(text)),
        heard: heard.as_deref().and_then(|ms| ms.parse().ok()).map(Duration::from_millis),
    })
}

/// Makes the slot that keeps what a node still needs, on whom it follows; it keeps nothing before it is used. One that
/// had to let go of what it kept is no use any more.
///
/// # Errors
/// It may not be there.
///
/// # Cancel safety
/// As after an error.
pub async fn make_slot(places: &Places, primary: NodeId, node: NodeId) -> Result<(), ControlError> {
    let (client, slot) = at_slot(places, primary, node).await?;
    let lost = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE slot_name = {slot} AND wal_status = 'lost' AND NOT active"
    );
    client.rows(&lost, STATEMENT_MS).await?;
    let sql = format!(
        "SELECT pg_create_physical_replication_slot({slot}) \
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot})"
    );
    client.rows(&sql, STATEMENT_MS).await.map(drop)
}

/// Drops a slot that nobody is to use any more.
///
/// # Errors
/// It may be there still.
///
/// # Cancel safety
/// As after an error.
pub async fn drop_slot(places: &Places, primary: NodeId, node: NodeId) -> Result<(), ControlError> {
    let (client, slot) = at_slot(places, primary, node).await?;
    // Who streams by it has just been told to stop.
    let ending = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = {slot} AND active"
    );
    let dropping = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {slot} AND NOT active"
    );
    let is_there = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = {slot}");
    let since = Instant::now();
    loop {
        client.rows(&ending, STATEMENT_MS).await?;
        sleep(POLL).await;
        let dropped = client.rows(&dropping, STATEMENT_MS).await;
        if client.rows(&is_there, STATEMENT_MS).await?.is_empty() {
            return Ok(());
        }
        if since.elapsed() > SLOT_WAIT {
            let after_ms = u64::try_from(SLOT_WAIT.as_millis()).unwrap_or(u64::MAX);
            return dropped.and(Err(ControlError::Timeout { node: primary, what: "a slot to be free", after_ms }));
        }
    }
}

/// A connection to whom a node follows, and the node's slot there as a literal.
async fn at_slot(places: &Places, primary: NodeId, node: NodeId) -> Result<(ControlClient, String), ControlError> {
    let unknown = |node| ControlError::Unreachable { node, reason: "it is none of the shard's nodes".to_owned() };
    let target = places.targets.get(&primary).ok_or_else(|| unknown(primary))?;
    let slot = places.names.slot(node).ok_or_else(|| unknown(node))?;
    Ok((ControlClient::connect(target).await?, quote_literal(&slot)))
}

/// A node about to be told something.
struct Told<'a> {
    node: NodeId,
    client: ControlClient,
    places: &'a Places,
}

/// Does something to a node, unless it has promised more. Standbys are not made over SQL.
///
/// # Cancel safety
/// Dropped, it may have been done in part; doing it again does the rest.
pub async fn act(places: &Places, node: NodeId, stamp: Stamp, action: &Action) -> Outcome {
    let Some(target) = places.targets.get(&node) else { return Outcome::Failed };
    let acting = async {
        let client = ControlClient::connect(target).await?;
        let told = Told { node, client, places };
        if let Action::Barrier { set, session } = action {
            return told.pass(stamp, set, *session).await;
        }
        told.lock().await?;
        if let Some(outcome) = told.promise(stamp).await? {
            return Ok(outcome);
        }
        told.carry_out(stamp, action).await
    };
    let acted: Result<Outcome, ControlError> = acting.await;
    acted.unwrap_or_else(|error| {
        tracing::debug!(%node, ?action, %error, "not done");
        Outcome::Failed
    })
}

impl Told<'_> {
    async fn run(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ControlError> {
        self.client.rows(sql, STATEMENT_MS).await
    }

    async fn value(&self, sql: &str) -> Result<Option<String>, ControlError> {
        Ok(self.run(sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Takes the node's lock; who holds it for too long is ended: whatever he does next fails then.
    async fn lock(&self) -> Result<(), ControlError> {
        let since = Instant::now();
        loop {
            if self.value(&format!("SELECT pg_try_advisory_lock({LOCK})")).await?.as_deref() == Some("t") {
                return Ok(());
            }
            if since.elapsed() > LOCK_WAIT {
                self.run(&format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                     AND (classid::bigint, objid::bigint) = ({LOCK}) AND pid <> pg_backend_pid()"
                ))
                .await?;
            }
            sleep(POLL).await;
        }
    }

    /// Compares the stamp and remembers it.
    async fn promise(&self, stamp: Stamp) -> Result<Option<Outcome>, ControlError> {
        let text = self
            .value("SELECT setting FROM pg_file_settings WHERE name = 'ostrakon.promised' ORDER BY seqno DESC LIMIT 1")
            .await?;
        let promised = read_stamp(text.as_deref());
        if stamp < promised {
            return Ok(Some(Outcome::Refused { promised }));
        }
        if stamp > promised {
            let text = quote_literal(&format!("{}.{}", stamp.term.0, stamp.config));
            // A name that no extension has is taken only by a session that has it set.
            self.run(&format!("SET ostrakon.promised = {text}")).await?;
            self.run(&format!("ALTER SYSTEM SET ostrakon.promised = {text}")).await?;
        }
        Ok(None)
    }

    async fn is_in_recovery(&self) -> Result<bool, ControlError> {
        Ok(self.value("SELECT pg_is_in_recovery()").await?.as_deref() == Some("t"))
    }

    async fn set(&self, name: &str, value: &str) -> Result<(), ControlError> {
        self.run(&format!("ALTER SYSTEM SET {name} = {}", quote_literal(value))).await.map(drop)
    }

    /// Has the settings read again, and waits until a session sees the value.
    async fn reload(&self, name: &str, value: &str) -> Result<(), ControlError> {
        self.run("SELECT pg_reload_conf()").await?;
        self.until(&format!("SELECT current_setting('{name}') = {}", quote_literal(value))).await.map(drop)
    }

    /// Waits for something to be true, for the time of a statement.
    async fn until(&self, sql: &str) -> Result<bool, ControlError> {
        let since = Instant::now();
        while self.value(sql).await?.as_deref() != Some("t") {
            if since.elapsed() > Duration::from_millis(STATEMENT_MS) {
                return Ok(false);
            }
            sleep(POLL).await;
        }
        Ok(true)
    }

    async fn carry_out(&self, stamp: Stamp, action: &Action) -> Result<Outcome, ControlError> {
        let in_recovery = self.is_in_recovery().await?;
        match action {
            Action::Freeze | Action::Fence if in_recovery => self.freeze().await,
            Action::Freeze | Action::Fence => self.fence().await,
            Action::CatchUp { .. } if !in_recovery => Ok(Outcome::Done),
            Action::CatchUp { source, target } => self.catch_up(*source, *target).await,
            Action::Promote { set } => self.promote(stamp.term, set, in_recovery).await,
            Action::Apply { set } if !in_recovery => self.apply(stamp.term, set).await,
            Action::Follow { primary } if in_recovery => self.follow(*primary, stamp.term).await,
            Action::Apply { .. } | Action::Follow { .. } | Action::Barrier { .. } => Ok(Outcome::Failed),
            Action::Rejoin { .. } | Action::Fill { .. } | Action::Copy { .. } => Ok(Outcome::Failed),
        }
    }

    /// Where its log ends, on which timeline. `pg_control_checkpoint` would tell that of the last restartpoint.
    async fn frozen(&self) -> Result<Outcome, ControlError> {
        let rows = self.run(TIMELINE_SQL).await?;
        let Some([Some(timeline), recovery, Some(lsn)]) = rows.first().map(Vec::as_slice) else {
            return Ok(Outcome::Failed);
        };
        let (Ok(timeline), Ok(lsn)) = (u64::from_str_radix(timeline, 16), lsn.parse()) else {
            return Ok(Outcome::Failed);
        };
        let in_recovery = recovery.as_deref() == Some("true");
        Ok(Outcome::Frozen { position: Position { timeline, lsn }, in_recovery })
    }

    /// A standby receives nothing any more, also after a crash.
    async fn freeze(&self) -> Result<Outcome, ControlError> {
        self.set("primary_conninfo", "").await?;
        self.reload("primary_conninfo", "").await?;
        if !self.until("SELECT count(*) = 0 FROM pg_stat_wal_receiver").await? {
            return Ok(Outcome::Failed);
        }
        self.frozen().await
    }

    /// Every commit waits for ever from now on; those that wait already go on waiting. Never emptied: that would
    /// acknowledge them all.
    async fn fence(&self) -> Result<Outcome, ControlError> {
        let names = format!("ANY 1 ({FENCED})");
        self.set("synchronous_standby_names", &names).await?;
        self.set("default_transaction_read_only", "on").await?;
        self.reload("synchronous_standby_names", &names).await?;
        self.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' \
             AND pid <> pg_backend_pid() AND application_name <> 'ostrakon control'",
        )
        .await?;
        self.frozen().await
    }

    async fn catch_up(&self, source: NodeId, target: Position) -> Result<Outcome, ControlError> {
        let Some(conninfo) = self.places.conninfo(self.node, source, Term(0)) else { return Ok(Outcome::Failed) };
        self.set("primary_slot_name", "").await?;
        self.set("primary_conninfo", &conninfo).await?;
        self.run("SELECT pg_reload_conf()").await?;
        let sql = format!("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn >= {}", target.lsn);
        if !self.until(&sql).await? {
            return Ok(Outcome::Failed);
        }
        Ok(match self.freeze().await? {
            Outcome::Frozen { position, .. } if position >= target => Outcome::Done,
            _ => Outcome::Failed,
        })
    }

    async fn promote(&self, term: Term, set: &SyncSet, in_recovery: bool) -> Result<Outcome, ControlError> {
        let applied = self.apply(term, set).await?;
        if !in_recovery || applied != Outcome::Done {
            return Ok(applied);
        }
        let known = self.known_xids().await?;
        // Copies of this server are not to ask for the slot that it had.
        self.run("ALTER SYSTEM RESET primary_slot_name").await?;
        // It polls ten times a second when it waits by itself.
        self.run("SELECT pg_promote(false)").await?;
        let since = Instant::now();
        while self.is_in_recovery().await? {
            if since.elapsed() > Duration::from_secs(4) {
                return Ok(Outcome::Failed);
            }
            sleep(POLL / 2).await;
        }
        // Whatever began in between would be taken for a transaction of before, so both ends are kept.
        Ok(match (known, self.next_xid().await?) {
            (Some(known), Some(fresh)) => Outcome::Promoted { known, fresh },
            _ => Outcome::Done,
        })
    }

    /// The transactions that a frozen standby knows, once it has replayed what it has: it then waits before it looks
    /// for more. What it replays later is only not told of, so the wait is short.
    async fn known_xids(&self) -> Result<Option<u64>, ControlError> {
        let since = Instant::now();
        let sql = "SELECT pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() OR EXISTS (SELECT FROM pg_stat_activity \
                   WHERE backend_type = 'startup' AND wait_event = 'RecoveryRetrieveRetryInterval')";
        while self.value(sql).await?.as_deref() != Some("t") && since.elapsed() < REPLAY_MAX {
            sleep(POLL / 2).await;
        }
        self.next_xid().await
    }

    /// The first transaction id that nobody has.
    async fn next_xid(&self) -> Result<Option<u64>, ControlError> {
        let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
        Ok(self.value(sql).await?.and_then(|xid| xid.parse().ok()))
    }

    async fn apply(&self, term: Term, set: &SyncSet) -> Result<Outcome, ControlError> {
        let names = self.places.names.write_set(term, set);
        self.set("synchronous_standby_names", &names).await?;
        self.run("ALTER SYSTEM RESET default_transaction_read_only").await?;
        self.reload("synchronous_standby_names", &names).await?;
        Ok(Outcome::Done)
    }

    async fn follow(&self, primary: NodeId, term: Term) -> Result<Outcome, ControlError> {
        let Some(conninfo) = self.places.conninfo(self.node, primary, term) else { return Ok(Outcome::Failed) };
        let slot = self.places.names.slot(self.node).unwrap_or_default();
        let has_slot = make_slot(self.places, primary, self.node).await.is_ok();
        self.set("primary_slot_name", if has_slot { &slot } else { "" }).await?;
        self.set("primary_conninfo", &conninfo).await?;
        self.reload("primary_conninfo", &conninfo).await?;
        Ok(Outcome::Done)
    }

    /// What the primary has on disk now is on disk at a quorum, and every walsender goes by the set: `sync_priority` is
    /// what each of them has read by itself.
    async fn pass(&self, stamp: Stamp, set: &SyncSet, session: u64) -> Result<Outcome, ControlError> {
        let names = quote_literal(&self.places.names.write_set(stamp.term, set));
        let tags: Vec<String> =
            set.members.iter().map(|node| quote_literal(&self.places.names.tag(*node, stamp.term))).collect();
        let tags = if set.quorum == 0 || tags.is_empty() { "''".to_owned() } else { tags.join(",") };
        let Some(end) = self.value("SELECT pg_current_wal_flush_lsn() WHERE NOT pg_is_in_recovery()").await? else {
            return Ok(Outcome::Failed);
        };
        let sql = format!(
            "SELECT current_setting('synchronous_standby_names') = {names} \
             AND count(*) FILTER (WHERE application_name NOT IN ({tags}) AND sync_priority > 0) = 0 \
             AND count(DISTINCT application_name) FILTER (WHERE application_name IN ({tags}) AND sync_priority > 0 \
             AND state = 'streaming' AND flush_lsn >= '{end}') >= {} FROM pg_stat_replication",
            set.quorum
        );
        let is_passed = self.until(&sql).await?;
        Ok(if is_passed { Outcome::Passed { session } } else { Outcome::Failed })
    }
}
