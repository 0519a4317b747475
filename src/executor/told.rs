//! What clients were told of their statements, and whether it still holds after a change of the schema.

use std::sync::Arc;

use super::pipeline::{is_ours, server_name};
use super::relay::Expect;
use super::{Failure, Session};
use crate::base::ShardId;
use crate::net::Framed;
use crate::session::columns::stale_plan;
use crate::session::{Columns, Parsed, PreparedStatement};
use crate::sql::ast::Statement;
use crate::wire::client_message::{self, Target};
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, tag};

/// A description on its way.
#[derive(Clone, Debug)]
pub struct Telling {
    statement: Arc<PreparedStatement>,
    /// Types of the parameters, once the server has told them.
    parameters: Option<Vec<u32>>,
    version: u64,
    shard: ShardId,
}

impl Telling {
    /// ParameterDescription has come.
    pub(super) fn parameters(&mut self, frame: &Frame) {
        self.parameters = server_message::read_parameter_description(&frame.body()).ok();
    }

    /// RowDescription or NoData has come, and goes to the client.
    pub(super) fn note(&mut self, frame: &Frame) {
        let columns = Columns::read(frame.tag, &frame.body());
        self.statement.told.note(columns, self.parameters.take(), self.version, self.shard);
    }

    /// RowDescription or NoData has come, to be compared.
    pub(super) fn compare(&mut self, frame: &Frame) {
        let columns = Columns::read(frame.tag, &frame.body());
        self.statement.told.compare(columns, &self.parameters.take().unwrap_or_default(), self.version);
    }
}

impl Session {
    /// The version of the schema as this session sees it.
    pub(super) fn schema_stamp(&self) -> u64 {
        self.cluster.schema_stamp().wrapping_add(self.schema_seen << 48)
    }

    /// The id of a text with these parameter types. After a change of the schema it is another one, and what is
    /// prepared between a session's own DDL and its commit is nobody else's: a server holds on to the columns that
    /// a text had at its Parse.
    pub(super) fn statement_id(&self, parsed: &Parsed, types: &[u32]) -> u64 {
        // What a server remembers of another statement (FETCH, EXPLAIN, DDL …) holds for the moment of its
        // Parse only.
        let is_shared = matches!(
            *parsed.statement,
            Ok(Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_))
        );
        let ids = &self.cluster.statement_ids;
        if !is_shared || self.own_schema.is_some() {
            return ids.unique();
        }
        ids.of(&parsed.text, types, self.settings.parse_key() ^ self.cluster.schema_stamp().rotate_left(32))
    }

    /// A description of a statement that a shard is asked for now.
    pub(super) fn telling(&self, statement: &Arc<PreparedStatement>, shard: ShardId) -> Telling {
        Telling { statement: Arc::clone(statement), parameters: None, version: self.schema_stamp(), shard }
    }

    /// The proxy itself ran a statement and told its columns.
    pub(super) fn note_shown(&mut self, statement: &PreparedStatement) {
        if let Some((columns, shard)) = self.columns_shown.take() {
            statement.told.note(columns, None, self.schema_stamp(), shard);
        }
    }

    /// The shard whose description of a statement can be compared with what its client was told.
    pub(super) fn shard_to_ask(&self, statement: &PreparedStatement) -> ShardId {
        let told = statement.told.shard_to_ask();
        told.filter(|shard| self.topology.shards.iter().any(|known| known.id == *shard))
            .unwrap_or_else(|| self.describing_shard(&statement.parsed))
    }

    /// A statement before it is bound. After a change of the schema it is looked at again: a client that reads its
    /// rows as it was told would misread other columns, and so would a server the client's parameters.
    ///
    /// # Errors
    /// 0A000 when it has other columns now, as PostgreSQL says; its error when the statement cannot be any more.
    pub(super) async fn as_told(
        &mut self,
        client: &mut Framed,
        name: &str,
        statement: Arc<PreparedStatement>,
    ) -> Result<Arc<PreparedStatement>, Failure> {
        let version = self.schema_stamp();
        if is_ours(&statement.parsed) || !statement.told.is_before(version) {
            return Ok(statement);
        }
        let types = statement.told.fixed_types(&statement.parameter_types);
        let statement = Arc::new(PreparedStatement {
            id: self.statement_id(&statement.parsed, &types),
            parsed: Arc::clone(&statement.parsed),
            parameter_types: types,
            told: statement.told.clone(),
        });
        self.statements.replace(name, Arc::clone(&statement));
        let is_alone = !self.is_at_work() && !self.transaction.is_open();
        let shard = self.shard_to_ask(&statement);
        self.attach(client, shard).await?;
        self.write_parse(shard, &statement)?;
        let of = self.telling(&statement, shard);
        let link = self.held(shard)?;
        client_message::encode_describe(link.lease.output(), &Target::Statement(server_name(statement.id)));
        link.expects.push_back(Expect::LookAgain { of });
        link.unsynced = true;
        if is_alone {
            // Nothing has run: the statement may do so on its own, wherever it belongs.
            self.sync_links(client).await?;
            self.let_go();
        } else {
            self.settle(client).await?;
        }
        if statement.told.is_before(version) { Err(stale()) } else { Ok(statement) }
    }
}

/// What PostgreSQL says of a statement whose columns are others than its client knows.
pub(super) fn stale() -> Failure {
    Failure::Postgres(Frame { tag: tag::ERROR_RESPONSE, bytes: stale_plan() })
}
