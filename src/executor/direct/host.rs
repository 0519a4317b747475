//! What the machine asks of the process: ids, other sessions, the schema's version.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::base::NodeId;
use crate::executor::Cluster;
use crate::planner;
use crate::session::direct::facts::Facts;
use crate::session::direct::{Host, Statement};
use crate::session::identity::{self, Identified};
use crate::sql::lexer;
use crate::topology::schema::Schema;

/// One session's view of the process.
pub(super) struct DirectHost {
    cluster: Arc<Cluster>,
    user: Arc<str>,
    session_pid: u32,
    node: AtomicU64,
    /// The session is in another database than the one whose schema is known.
    is_elsewhere: bool,
}

impl DirectHost {
    pub(super) fn new(cluster: Arc<Cluster>, user: Arc<str>, session_pid: u32) -> Self {
        Self { cluster, user, session_pid, node: AtomicU64::new(0), is_elsewhere: false }
    }

    pub(super) fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// The session is in another database than the cluster's own.
    pub(super) fn set_elsewhere(&mut self, is_elsewhere: bool) {
        self.is_elsewhere = is_elsewhere;
    }

    /// The node that the session's connection leads to.
    pub(super) fn note_node(&self, node: NodeId) {
        self.node.store(u64::from(node.0), Ordering::Relaxed);
    }
}

impl Host for DirectHost {
    fn own_pid(&self) -> u32 {
        self.session_pid
    }

    fn unique_id(&self) -> u64 {
        self.cluster.statement_ids.unique()
    }

    fn statement(&self, parse_body: Bytes, settings_key: u64, facts: Facts) -> Arc<Statement> {
        self.cluster.statements.get(parse_body, settings_key, facts, || self.unique_id())
    }

    fn schema_version(&self) -> u64 {
        self.cluster.schema_stamp()
    }

    fn schema_changed(&self) {
        self.cluster.schema_changes.fetch_add(1, Ordering::AcqRel);
    }

    fn may_leave(&self, schema: Option<&str>, function: &str) -> bool {
        if self.is_elsewhere {
            return planner::may_leave_something(&Schema::default(), schema, function);
        }
        planner::may_leave_something(&self.cluster.schema.load(), schema, function)
    }

    fn function_settings(&self) -> Vec<String> {
        if self.is_elsewhere { Vec::new() } else { self.cluster.schema.load().function_settings.clone() }
    }

    fn identify(&self, text: &str) -> Option<Identified> {
        let lexed = lexer::lex(text).ok()?;
        identity::identify(text, &lexed, self.session_pid, &|pid| self.cluster.peers.knows(pid))
    }

    fn role_of_session(&self, pid: u32) -> Option<String> {
        self.cluster.peers.find(pid).map(|peer| peer.user.to_string())
    }

    fn is_own_role(&self, role: &str) -> bool {
        *self.user == *role
    }

    fn session_of(&self, server_pid: u32) -> u32 {
        let node = u32::try_from(self.node.load(Ordering::Relaxed)).unwrap_or(0);
        self.cluster.peers.session_of(NodeId(node), server_pid).unwrap_or(server_pid)
    }

    fn keeps_commits(&self) -> bool {
        self.cluster.keeps_commits()
    }
}
