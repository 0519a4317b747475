//! One statement: what kind it is, who runs it.

use std::sync::Arc;

use super::exchange::Show;
use super::relay::Done;
use super::values::StatementValues;
use super::{Failure, Session, set};
use crate::base::ShardId;
use crate::cache::PlanKey;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::plan::{Class, Plan, Several};
use crate::planner::{self, BindError, BoundShards};
use crate::session::Parsed;
use crate::sql::ast::Statement;
use crate::wire::client_message::{self, Bind};

/// By which protocol a statement came.
#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    /// Simple: all text, RowDescription always.
    Simple,
    /// Extended.
    Extended {
        /// Values and formats.
        bind: &'a Bind,
        /// Declared parameter types.
        types: &'a [u32],
        /// RowDescription is asked for.
        describe: bool,
    },
}

impl Mode<'_> {
    /// Declared parameter types.
    pub(super) fn types(&self) -> &[u32] {
        match self {
            Self::Simple => &[],
            Self::Extended { types, .. } => types,
        }
    }

    /// Values and formats, when they came apart from the text.
    pub(super) fn bind(&self) -> Option<&Bind> {
        match self {
            Self::Simple => None,
            Self::Extended { bind, .. } => Some(bind),
        }
    }

    /// The client is told of the columns.
    pub(super) fn describes(&self) -> bool {
        match self {
            Self::Simple => true,
            Self::Extended { describe, .. } => *describe,
        }
    }
}

impl Session {
    /// Runs one statement to its CommandComplete, which is given back unsent.
    ///
    /// # Errors
    /// Whatever the client has to be told; the transaction's state is the caller's to change.
    pub(super) async fn run(&mut self, client: &mut Framed, parsed: &Parsed, mode: Mode<'_>) -> Result<Done, Failure> {
        self.refresh_topology(|session| session.touch_of(parsed, mode)).await?;
        if self.transaction.is_failed() && !ends_failure(parsed) {
            return Err(self.told_in_failed(client, parsed, mode.types()).await);
        }
        if !parsed.signals.is_empty() {
            self.send_signals(client, parsed, mode.bind()).await?;
        }
        let statement = match &*parsed.statement {
            Ok(statement) => statement,
            Err(_) => return self.run_planned(client, parsed, mode).await,
        };
        match statement {
            Statement::Begin
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint(_)
            | Statement::Release(_)
            | Statement::RollbackTo(_)
            | Statement::SetTransaction
            | Statement::SetConstraints => self.run_transaction_control(client, parsed, statement).await,
            Statement::Set { .. } | Statement::Reset(_) | Statement::Discard(_) | Statement::Deallocate(_) => {
                self.run_setting(client, parsed, statement).await
            }
            Statement::Show(_) | Statement::Fetch | Statement::Close(_) => self.run_fixed(client, parsed, mode).await,
            Statement::Explain { ostrakon: true, tokens, .. } => {
                self.run_explain(client, parsed, tokens.clone(), mode).await
            }
            Statement::Empty => Ok(Done { complete: Some(empty_query_response()) }),
            Statement::Prepare { .. } => self.run_prepare(client, parsed).await,
            Statement::Execute { .. } => self.run_execute(client, parsed, mode).await,
            Statement::Explain { statement, tokens, .. } if matches!(**statement, Statement::Execute { .. }) => {
                self.run_explain_execute(client, parsed, tokens.clone(), mode).await
            }
            Statement::Notification => self.run_notification(client, parsed).await,
            Statement::SetSessionCharacteristics => self.set_characteristics(client, parsed).await,
            Statement::TwoPhase => {
                Err(not_in_pooling("PREPARE TRANSACTION", "The proxy commits across shards by itself."))
            }
            _ => self.run_planned(client, parsed, mode).await,
        }
    }

    /// The key of a statement's plan, if it may be shared: no table of the session's own is in sight.
    fn plan_key(&self, parsed: &Parsed, schema_version: u64) -> Option<PlanKey> {
        let fingerprint = parsed.fingerprint.as_ref()?;
        (self.own_schema.is_none() && !self.pins.has_temporary()).then(|| PlanKey {
            fingerprint: fingerprint.clone(),
            search_path: Arc::clone(&self.search_path),
            epoch: self.topology.epoch.0,
            schema_version,
        })
    }

    /// The plan of a statement, if it is kept: then all that it names is known.
    pub(super) fn kept_plan(&self, parsed: &Parsed) -> Option<Arc<Plan>> {
        let version = self.cluster.schema.load().version;
        self.cluster.plans.get(&self.plan_key(parsed, version)?)
    }

    /// The plan of a statement, from the cache when its fingerprint is known there.
    pub(super) fn plan(&self, parsed: &Parsed) -> Result<Arc<Plan>, ClientError> {
        let schema = self.schema();
        let search_path = self.planning_path();
        let context = planner::Context {
            topology: &self.topology,
            schema: &schema,
            search_path: &search_path,
            text: &parsed.text,
        };
        let statement = match &*parsed.statement {
            Ok(statement) => statement,
            Err(reason) => {
                return planner::plan_unparsed(&context, &parsed.lexed)
                    .map(Arc::new)
                    .map_err(|error| error.with_detail(format!("{reason}.")));
            }
        };
        let Some(key) = self.plan_key(parsed, schema.version) else {
            return planner::plan(&context, &parsed.lexed, statement).map(Arc::new);
        };
        if let Some(plan) = self.cluster.plans.get(&key) {
            return Ok(plan);
        }
        let plan = Arc::new(planner::plan(&context, &parsed.lexed, statement)?);
        // What is looked at anew each time before it is planned must not be found here before that.
        let is_known = !planner::names_unknown_relation(&schema, &search_path, statement)
            && planner::read_by_position(&self.topology, &schema, &search_path, statement).is_none();
        if is_known {
            self.cluster.plans.insert(key, Arc::clone(&plan));
        }
        Ok(plan)
    }

    /// A refusal, unless the statement is one that PostgreSQL would not take either: then its own error
    /// is the answer. The statement is only parsed there, nothing runs.
    pub(super) async fn refuse(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        types: &[u32],
        refusal: ClientError,
    ) -> Failure {
        if refusal.id != ErrorId::NotSupportedAcrossShards {
            return refusal.into();
        }
        match self.parse_only(client, parsed, types).await {
            Err(Failure::Postgres(error)) => Failure::Postgres(error),
            Err(Failure::Client(error)) => Failure::Client(error),
            // Whether PostgreSQL would take it could not be learnt; the refusal stands in any case.
            Ok(()) | Err(Failure::Ours(_)) => refusal.into(),
        }
    }

    /// What a statement is told in a failed transaction: PostgreSQL parses first, so one that breaks the grammar is
    /// told that. A shard whose part has failed judges by itself; without one only what was not understood is asked of
    /// another, whose other errors PostgreSQL would not have come to.
    pub(super) async fn told_in_failed(&mut self, client: &mut Framed, parsed: &Parsed, types: &[u32]) -> Failure {
        if let Err(failure) = self.settle(client).await {
            return failure;
        }
        let failed = self.links.iter().find(|(_, link)| link.lease.status() == b'E').map(|(shard, _)| *shard);
        let is_understood = matches!(
            *parsed.statement,
            Ok(Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_))
        );
        if failed.is_none() && is_understood {
            return in_failed_transaction().into();
        }
        match self.parse_on(failed.unwrap_or_else(|| self.any_shard()), parsed, types).await {
            Err(Failure::Postgres(error)) if failed.is_some() || is_of_grammar(&error) => Failure::Postgres(error),
            Err(Failure::Client(error)) => Failure::Client(error),
            Ok(()) | Err(Failure::Postgres(_) | Failure::Ours(_)) => in_failed_transaction().into(),
        }
    }

    async fn parse_only(&mut self, client: &mut Framed, parsed: &Parsed, types: &[u32]) -> Result<(), Failure> {
        self.settle(client).await?;
        self.parse_on(self.any_shard(), parsed, types).await
    }

    async fn parse_on(&mut self, shard: ShardId, parsed: &Parsed, types: &[u32]) -> Result<(), Failure> {
        self.settled_link(shard).await?;
        let name = super::shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        let text = link.text(&parsed.text);
        client_message::encode_parse(link.lease.output(), "", &text, types);
        client_message::encode_sync(link.lease.output());
        link.lease.expect_ready();
        link.unsynced = false;
        let outcome = super::transaction::read_answer(link, &name).await.map(|_| ());
        self.after_exchange(shard, outcome)
    }

    /// Where this execution of a plan goes.
    pub(super) async fn bind(
        &mut self,
        client: &mut Framed,
        plan: &Plan,
        values: &mut StatementValues<'_>,
        filling: Option<(&Parsed, Mode<'_>)>,
    ) -> Result<planner::Bound, Failure> {
        if let Some((insert, (parsed, mode))) = plan.insert.as_ref().zip(filling)
            && !insert.fills.is_empty()
        {
            values.fills = self.fill_rows(client, parsed, insert, mode).await?;
            if planner::fills_key(plan) {
                self.refresh_topology(|session| session.touch_of_plan(parsed, plan, values)).await?;
            }
        }
        if !self.encoding.is_utf8() {
            self.decode_keys(client, plan, values).await?;
        }
        match planner::bind(plan, &self.topology, values) {
            Ok(bound) => Ok(bound),
            Err(BindError::Refused(error)) => Err(error.into()),
            Err(BindError::Unreadable(unreadable)) => {
                self.read_by_server(client, &unreadable, values).await?;
                match planner::bind(plan, &self.topology, values) {
                    Ok(bound) => Ok(bound),
                    Err(BindError::Refused(error)) => Err(error.into()),
                    Err(BindError::Unreadable(_)) => Err(ClientError::refused(
                        "the value of the sharding key cannot be read with certainty",
                        "Write the key in its type's plain form, e.g. 42, 'text' or '2026-01-31'.",
                    )
                    .into()),
                }
            }
        }
    }

    /// Plans, binds and runs a statement that touches tables or functions.
    async fn run_planned(&mut self, client: &mut Framed, parsed: &Parsed, mode: Mode<'_>) -> Result<Done, Failure> {
        self.may_export_snapshot(parsed)?;
        if let Some(done) = self.run_sequence_call(client, parsed, mode).await? {
            return Ok(done);
        }
        if let Some(done) = self.run_create_as(client, parsed, mode).await? {
            return Ok(done);
        }
        let planned = match self.kept_plan(parsed) {
            Some(plan) => Ok(plan),
            None => {
                self.know_relations(client, parsed, mode).await?;
                self.plan(parsed)
            }
        };
        let plan = match planned {
            Ok(plan) => plan,
            Err(refusal) => {
                if let Some(parsed) = self.with_numbers(parsed).await? {
                    return Box::pin(self.run(client, &parsed, mode)).await;
                }
                return Err(self.refuse(client, parsed, mode.types(), refusal).await);
            }
        };
        let change = set::set_config(parsed, &StatementValues::new(&parsed.lexed, mode))?;
        if change.is_some() {
            self.note_parameters().await?;
        }
        if plan.outside_transaction && self.transaction.is_open() {
            return Err(ClientError::new(
                ErrorId::ActiveTransaction,
                "this statement cannot run inside a transaction block",
            )
            .into());
        }
        if let Some(what) = plan.inside_transaction {
            self.needs_block(what)?;
        }
        if plan.copy.is_some() {
            return self.run_copy(client, parsed, &plan, mode).await;
        }
        let mut values = StatementValues::new(&parsed.lexed, mode);
        let bound = self.bind(client, &plan, &mut values, Some((parsed, mode))).await?;
        if let Some(insert) = &plan.insert
            && self.needs_split(insert, &bound)
        {
            let done = self.run_insert(client, parsed, insert, &bound, &values, mode).await?;
            self.note_sequences(parsed, plan.sequences);
            return Ok(done);
        }
        match bound.shards {
            BoundShards::Any | BoundShards::One(_) => {
                let shard = match bound.shards {
                    BoundShards::One(shard) if change.is_none() => shard,
                    _ => self.any_shard(),
                };
                let done = self.run_one(client, parsed, &plan, shard, mode).await?;
                if let Some(change) = change {
                    self.note_set_config(shard, &change);
                }
                Ok(done)
            }
            BoundShards::Many(shards) => self.run_on_many(client, parsed, &plan, &shards, &values, mode).await,
        }
    }

    /// A statement on several shards, as its plan says.
    async fn run_on_many(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        plan: &Plan,
        shards: &[ShardId],
        values: &StatementValues<'_>,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        self.may_span()?;
        match &plan.several {
            Several::Merge { splices, merge, otherwise } => {
                let mut is_told = false;
                let merged = self
                    .run_scatter(client, parsed, shards, splices, merge, values, mode, plan.class, &mut is_told)
                    .await;
                if plan.class > Class::ReadLock {
                    let links = self.links.iter_mut().filter(|(shard, _)| shards.contains(shard));
                    links.for_each(|(_, link)| link.wrote = true);
                }
                // What has written is not run again.
                let may_gather = !is_told && plan.class < Class::Write;
                match (merged, otherwise) {
                    (Err(Failure::Ours(refusal)), Some(gather))
                        if may_gather && refusal.id == ErrorId::NotSupportedAcrossShards =>
                    {
                        self.run_gather(client, parsed, shards, gather, mode).await
                    }
                    (merged, _) => merged,
                }
            }
            Several::ExplainMerge { splices, merge } => {
                self.run_explain_merge(client, parsed, shards, splices, merge, values, mode).await
            }
            Several::Gather(gather) => self.run_gather(client, parsed, shards, gather, mode).await,
            Several::Sum => self.run_everywhere(client, parsed, plan, shards, mode, true).await,
            Several::Same if plan.outside_transaction && plan.changes_schema => {
                self.run_shard_by_shard(client, parsed, plan, shards, mode).await
            }
            Several::Same => self.run_everywhere(client, parsed, plan, shards, mode, false).await,
            Several::Steps(steps) => {
                let done = self.run_steps(client, parsed, steps, shards, mode).await?;
                self.note_sequences(parsed, plan.sequences);
                Ok(done)
            }
            Several::Refuse(error) => Err(error.clone().into()),
        }
    }

    /// A text of the proxy's own without parameters, in the client's mode.
    pub(super) async fn run_answered(
        &mut self,
        client: &mut Framed,
        text: &str,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let parsed = self.understand(text)?;
        let Mode::Extended { bind, describe, .. } = mode else {
            return Box::pin(self.run(client, &parsed, mode)).await;
        };
        let bind = Bind { parameters: Vec::new(), parameter_formats: Vec::new(), ..bind.clone() };
        Box::pin(self.run(client, &parsed, Mode::Extended { bind: &bind, types: &[], describe })).await
    }

    /// SHOW, FETCH, MOVE, CLOSE: the shard is known without a plan.
    async fn run_fixed(&mut self, client: &mut Framed, parsed: &Parsed, mode: Mode<'_>) -> Result<Done, Failure> {
        if let Ok(Statement::Close(None)) = &*parsed.statement {
            self.tell_links(&parsed.text).await?;
            self.cursors.clear();
            let shards: Vec<ShardId> = self.links.keys().copied().collect();
            shards.into_iter().for_each(|shard| self.note_pins(shard, parsed));
            return Ok(Done::with_tag("CLOSE CURSOR ALL"));
        }
        let shard = self.fixed_shard(parsed).unwrap_or_else(|| self.any_shard());
        self.note_pins(shard, parsed);
        match mode {
            Mode::Simple => self.forward_query(client, shard, &parsed.text).await,
            Mode::Extended { .. } => {
                let show = Show { header: mode.describes(), rows: true, notices: true };
                self.exchange(client, shard, &parsed.text, mode, show).await
            }
        }
    }

    /// The shard of a statement that needs no plan: the cursor's, or any one for SHOW.
    pub(super) fn fixed_shard(&self, parsed: &Parsed) -> Option<ShardId> {
        match &*parsed.statement {
            Ok(Statement::Show(_)) => Some(self.any_shard()),
            Ok(Statement::Close(Some(name))) => Some(self.cursor_shard(name)),
            Ok(Statement::Fetch) => {
                let tokens = parsed.lexed.tokens.len();
                let name = (0..tokens).rev().find_map(|token| parsed.lexed.identifier(&parsed.text, token));
                Some(self.cursor_shard(&name.unwrap_or_default()))
            }
            _ => None,
        }
    }

    /// An unknown cursor is for a server to complain about.
    fn cursor_shard(&self, name: &str) -> ShardId {
        self.cursors.get(name).copied().unwrap_or_else(|| self.any_shard())
    }

    /// Remembers where a cursor is.
    pub(super) fn note_cursor(&mut self, shard: ShardId, parsed: &Parsed) {
        if let Ok(Statement::Declare { .. }) = &*parsed.statement
            && let Some(name) = parsed.lexed.identifier(&parsed.text, 1)
        {
            self.cursors.insert(name, shard);
        }
    }

    /// A shard that the session holds already, or the home shard.
    pub(super) fn any_shard(&self) -> ShardId {
        self.links.keys().next().copied().unwrap_or_else(|| self.topology.home())
    }

    /// A statement on one shard.
    async fn run_one(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        plan: &Plan,
        shard: ShardId,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let done = match mode {
            _ if self.writes_alone(parsed, plan, shard) => {
                self.exchange_asked(client, shard, &parsed.text, mode, mode.describes()).await?
            }
            Mode::Simple => self.forward_query(client, shard, &parsed.text).await?,
            Mode::Extended { .. } => {
                let show = Show { header: mode.describes(), rows: true, notices: true };
                self.exchange(client, shard, &parsed.text, mode, show).await?
            }
        };
        self.note_effects(shard, parsed, plan);
        if plan.changes_schema {
            self.after_ddl(shard).await?;
        }
        self.learn_temporary(shard, parsed).await?;
        Ok(done)
    }

    /// Remembers what a statement that succeeded did to its connection.
    pub(super) fn note_effects(&mut self, shard: ShardId, parsed: &Parsed, plan: &Plan) {
        let may_set = matches!(*parsed.statement, Err(_) | Ok(Statement::Do | Statement::Call(_)));
        self.note_cursor(shard, parsed);
        self.note_pins(shard, parsed);
        self.note_sequences(parsed, plan.sequences);
        // TRUNCATE … RESTART IDENTITY; DDL is looked at by itself.
        self.schema_changed |= plan.changes_schema && self.transaction.is_open();
        if let Some(link) = self.links.get_mut(&shard) {
            link.wrote |= plan.class > Class::ReadLock;
            if may_set {
                // The next session on this connection starts from RESET ALL.
                link.lease.settings_key = u64::MAX;
            }
        }
    }
}

/// Statements that are accepted in a failed transaction.
pub(super) fn ends_failure(parsed: &Parsed) -> bool {
    matches!(
        *parsed.statement,
        Ok(Statement::Commit { .. } | Statement::Rollback { .. } | Statement::RollbackTo(_) | Statement::Empty)
    )
}

/// 42601, and never the end of the connection.
fn is_of_grammar(error: &crate::wire::frame::Frame) -> bool {
    crate::wire::server_message::read_error(&error.body())
        .is_ok_and(|fields| fields.severity == "ERROR" && fields.code == "42601")
}

/// 25P02, in PostgreSQL's words.
pub(super) fn in_failed_transaction() -> ClientError {
    ClientError::new(
        ErrorId::InFailedTransaction,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

fn not_in_pooling(what: &str, hint: &str) -> Failure {
    pooling_refusal(what, hint).into()
}

fn pooling_refusal(what: &str, hint: &str) -> ClientError {
    ClientError::new(ErrorId::FeatureNotSupported, format!("{what} cannot be used in transaction pooling"))
        .with_hint(hint)
}

fn empty_query_response() -> crate::wire::frame::Frame {
    let mut buffer = bytes::BytesMut::new();
    crate::wire::server_message::write_empty(&mut buffer, crate::wire::server_message::tag::EMPTY_QUERY_RESPONSE);
    crate::wire::frame::Frame { tag: crate::wire::server_message::tag::EMPTY_QUERY_RESPONSE, bytes: buffer.freeze() }
}
