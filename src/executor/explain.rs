//! EXPLAIN (OSTRAKON): where a statement would go, and why. Nothing runs. And PostgreSQL's own EXPLAIN of what is merged:
//! how, and each shard's plan of its part.

use bytes::BytesMut;

use super::exchange::Show;
use super::relay::Done;
use super::statement::Mode;
use super::values::StatementValues;
use super::{Failure, Session, places, shard_name};
use crate::base::ShardId;
use crate::error::ClientError;
use crate::net::Framed;
use crate::plan::{MergeSpec, Splice, text};
use crate::planner::{self, BoundShards, rewrite};
use crate::reshard::Touch;
use crate::session::Parsed;
use crate::sql::ast::{Statement, TokenRange};
use crate::wire::server_message::{self, Field};

impl Session {
    pub(super) async fn run_explain(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        tokens: TokenRange,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let start = parsed.lexed.tokens.get(tokens.start).map_or(parsed.text.len(), |token| token.start);
        let inner = self.understand(parsed.text.get(start..).unwrap_or_default())?;
        let lines = match &*inner.statement {
            Ok(Statement::Execute { .. }) => {
                let (statement, bind) = self.executed(client, &inner, mode).await?;
                let mode = Mode::Extended { bind: &bind, types: &statement.parameter_types, describe: false };
                self.explain_lines(&statement.parsed, mode)
            }
            _ => self.explain_lines(&inner, Mode::Simple),
        };
        if mode.describes() {
            server_message::write_row_description(client.output(), &[Field::text("QUERY PLAN")]);
        }
        for line in &lines {
            write_line(client.output(), line);
        }
        Ok(Done::with_tag("EXPLAIN"))
    }

    /// EXPLAIN of a read whose rows are merged. The shards are asked one after the other; with ANALYZE each runs its
    /// part, and nobody merges.
    ///
    /// # Errors
    /// The first shard's that fails.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn run_explain_merge(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        shards: &[ShardId],
        splices: &[Splice],
        merge: &MergeSpec,
        values: &StatementValues<'_>,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let limit = values.row_count(merge.limit.as_ref(), "LIMIT")?;
        let offset = values.row_count(merge.offset.as_ref(), "OFFSET")?.unwrap_or(0);
        let pushed = limit.map(|limit| limit.saturating_add(offset));
        let made = rewrite::apply(&parsed.text, &parsed.lexed, splices, pushed);
        let quiet = match mode {
            Mode::Simple => Mode::Simple,
            Mode::Extended { bind, types, .. } => Mode::Extended { bind, types, describe: false },
        };
        let mut answer = BytesMut::new();
        if mode.describes() {
            server_message::write_row_description(&mut answer, &[Field::text("QUERY PLAN")]);
        }
        write_line(&mut answer, &format!("Merge of {} shards: {}", shards.len(), text::merge_text(merge)));
        for shard in shards {
            write_line(&mut answer, &format!("  ->  Shard {}", shard_name(&self.topology, *shard)));
            let show = Show { header: false, rows: false, notices: true };
            let told = self.exchange_collecting(client, *shard, made.text(), quiet, show).await;
            let (_, rows) = told.map_err(|failure| places::in_source(failure, &made, &parsed.text))?;
            for row in rows {
                let values = server_message::read_data_row(&row.body()).unwrap_or_default();
                let line = values.into_iter().next().flatten().unwrap_or_default();
                // In the client's encoding as it came.
                server_message::write_data_row(&mut answer, &[Some([b"        ", line.as_ref()].concat().as_slice())]);
            }
        }
        client.output().extend_from_slice(&answer);
        Ok(Done::with_tag("EXPLAIN"))
    }

    /// The lines of an explanation; a refusal is explained, too.
    fn explain_lines(&self, parsed: &Parsed, mode: Mode<'_>) -> Vec<String> {
        let plan = match self.plan(parsed) {
            Ok(plan) => plan,
            Err(error) => return refusal_lines(&error),
        };
        let mut lines = Vec::new();
        let mut values = StatementValues::new(&parsed.lexed, mode);
        if let Some(insert) = &plan.insert {
            // Ids that were not taken: any will do to show the plan, and no shard is claimed for them.
            values.fills = insert.fills.iter().map(|_| Vec::new()).collect();
        }
        match planner::bind(&plan, &self.topology, &values) {
            Ok(bound) => lines.push(format!("Shards: {}", self.shards_text(&bound.shards))),
            Err(_) => lines.push("Shards: decided by values at execution".to_owned()),
        }
        lines.extend(text::render(&plan).lines().map(|line| match line.strip_prefix("because ") {
            Some(reason) => format!("Reason: {reason}"),
            None => format!("  {line}"),
        }));
        lines
    }

    fn shards_text(&self, shards: &BoundShards) -> String {
        match shards {
            BoundShards::Any => "any one".to_owned(),
            BoundShards::One(shard) => shard_name(&self.topology, *shard),
            BoundShards::Many(shards) => {
                let names: Vec<String> = shards.iter().map(|shard| shard_name(&self.topology, *shard)).collect();
                names.join(", ")
            }
        }
    }

    /// Explains a text, for the admin database.
    ///
    /// # Errors
    /// The text is no SQL.
    pub async fn explain(&mut self, sql: &str) -> Result<Vec<String>, ClientError> {
        self.refresh_topology(|_| Touch::NOTHING).await?;
        let parsed = self.understand(sql)?;
        Ok(self.explain_lines(&parsed, Mode::Simple))
    }
}

fn refusal_lines(error: &ClientError) -> Vec<String> {
    let mut lines = vec![format!("Refused: {} ({})", error.message, error.sqlstate())];
    lines.extend(error.detail.iter().map(|detail| format!("Detail: {detail}")));
    lines.extend(error.hint.iter().map(|hint| format!("Hint: {hint}")));
    lines
}

fn write_line(output: &mut BytesMut, line: &str) {
    server_message::write_data_row(output, &[Some(line.as_bytes())]);
}
