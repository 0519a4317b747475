//! Statements that take several steps: what the proxy itself asks in the name of the client, in one transaction.

use bytes::{Bytes, BytesMut};

use super::insert_rows::Asked;
use super::prepare::returns_rows;
use super::relay::Done;
use super::statement::Mode;
use super::{Failure, Session, places};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::plan::steps::Steps;
use crate::plan::{Filled, Piece};
use crate::planner::rewrite;
use crate::session::Parsed;
use crate::session::columns::FIRST_USER_TYPE;
use crate::sql::Spliced;
use crate::wire::Format;
use crate::wire::client_message::Bind;
use crate::wire::frame::take_frame;
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::server_message::{self, Field, tag};

/// Rows that a statement gave to the proxy.
pub(super) struct Rows {
    /// Their columns.
    pub(super) fields: Vec<Field>,
    /// Their values.
    pub(super) rows: Vec<Vec<Option<Bytes>>>,
}

/// A text of the proxy's own with the client's parameters that it uses.
pub(super) struct Question {
    pub(super) sql: String,
    pub(super) bind: Bind,
    pub(super) types: Vec<u32>,
    /// Where its text comes from, and the client's.
    source: Option<(Spliced, String)>,
}

impl Question {
    /// An error about its text, as one about the client's.
    pub(super) fn placed(&self, failure: Failure) -> Failure {
        match &self.source {
            Some((made, source)) => places::in_source(failure, made, source),
            None => places::without(failure),
        }
    }
}

impl Session {
    /// Runs the steps of a statement.
    ///
    /// # Errors
    /// The first step's that fails; the rest is rolled back with the transaction.
    pub(super) async fn run_steps(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        steps: &Steps,
        shards: &[ShardId],
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        if !self.encoding.is_exact() {
            return Err(self.beyond_encoding("a statement of several steps").into());
        }
        self.open_block().await?;
        // Types of parameters, and whatever PostgreSQL has against the statement as a whole.
        let types = self.describe_text(client, self.any_shard(), &parsed.text, mode.types()).await?.types;
        let asked = |returning: bool| Asked::new(parsed, &types, mode, returning);
        match steps {
            Steps::InsertRows(insert) => {
                Box::pin(self.run_insert_rows(client, insert, asked(insert.target.returning))).await
            }
            Steps::MoveRows(moved) => {
                Box::pin(self.run_move_rows(client, moved, shards, asked(moved.target.returning))).await
            }
            Steps::QueriesFirst(queries) => {
                Box::pin(self.run_queries_first(client, queries, asked(returns_rows(parsed)))).await
            }
        }
    }

    /// A text of pieces of the client's statement, with the parameters that it uses.
    pub(super) fn question(&self, parsed: &Parsed, pieces: &[Piece], types: &[u32], mode: Mode<'_>) -> Question {
        let (sql, used) = rewrite::pieces(&parsed.text, &parsed.lexed, pieces);
        let index_of = |number: &u32| (*number as usize).saturating_sub(1);
        let given =
            |number: &u32| mode.bind().and_then(|bind| bind.parameters.get(index_of(number)).cloned().flatten());
        let format = |number: &u32| mode.bind().map_or(Format::Text, |bind| bind.parameter_format(index_of(number)));
        Question {
            sql: sql.text().to_owned(),
            source: Some((sql, parsed.text.clone())),
            bind: Bind {
                portal: String::new(),
                statement: String::new(),
                parameter_formats: used.iter().map(format).collect(),
                parameters: used.iter().map(given).collect(),
                result_formats: Vec::new(),
            },
            types: used.iter().map(|number| types.get(index_of(number)).copied().unwrap_or(0)).collect(),
        }
    }

    /// Runs a question like a statement of the client's; its rows come to the proxy, its notices go to the client.
    ///
    /// # Errors
    /// As for a statement of the client's; more rows than a merge may hold.
    pub(super) async fn rows_of(&mut self, client: &mut Framed, question: &Question) -> Result<Rows, Failure> {
        let parsed = self.understand(&question.sql)?;
        let (held_bytes_max, output) = client.swap_output(Some(self.cluster.settings.merge.bytes_max), BytesMut::new());
        let mode = Mode::Extended { bind: &question.bind, types: &question.types, describe: true };
        let outcome = Box::pin(self.run(client, &parsed, mode)).await;
        let (_, held) = client.swap_output(held_bytes_max, output);
        outcome.map_err(|failure| match failure {
            Failure::Client(NetError::HeldTooMuch) => too_many_rows().into(),
            other => question.placed(other),
        })?;
        let rows = read_rows(client, held)?;
        if rows.rows.len() > self.cluster.settings.merge.rows_max {
            return Err(too_many_rows().into());
        }
        Ok(rows)
    }

    /// As [`Session::rows_of`], in a format that another server reads without a doubt: binary for PostgreSQL's own
    /// types, text for the others, whose numbers differ between servers.
    /// `fields` are the question's, see [`Session::fields_of`].
    pub(super) async fn rows_to_carry(
        &mut self,
        client: &mut Framed,
        mut question: Question,
        fields: &[Field],
    ) -> Result<Rows, Failure> {
        question.bind.result_formats = carried_formats(fields);
        let rows = self.rows_of(client, &question).await?;
        // What describes a statement that is merged says nothing of formats.
        let formats = question.bind.result_formats.iter();
        let fields = rows.fields.into_iter().zip(formats).map(|(field, format)| Field { format: *format, ..field });
        Ok(Rows { fields: fields.collect(), rows: rows.rows })
    }

    /// The columns of a question, with the formats in which they are carried; `untyped` literals come as text, too.
    pub(super) async fn fields_of(
        &mut self,
        client: &mut Framed,
        question: &Question,
        untyped: &[usize],
    ) -> Result<Vec<Field>, Failure> {
        let columns = self.describe_text(client, self.any_shard(), &question.sql, &question.types).await;
        let columns = columns.map_err(|failure| question.placed(failure))?.columns;
        let fields = columns
            .filter(|frame| frame.tag == tag::ROW_DESCRIPTION)
            .map(|frame| server_message::read_row_description(&frame.body()))
            .transpose()
            .map_err(|_| ClientError::new(ErrorId::Internal, "a statement was not described"))?;
        let mut fields = fields.unwrap_or_default();
        for (index, field) in fields.iter_mut().enumerate() {
            let is_open = field.type_oid == TEXT && untyped.contains(&index);
            let is_binary = field.type_oid < FIRST_USER_TYPE && !is_open;
            field.format = if is_binary { Format::Binary } else { Format::Text };
        }
        Ok(fields)
    }

    /// Evaluates expressions, each to a text.
    pub(super) async fn texts_of(
        &mut self,
        client: &mut Framed,
        question: &Question,
    ) -> Result<Vec<Vec<Option<String>>>, Failure> {
        let rows = self.rows_of(client, question).await?;
        rows.rows.iter().flatten().flatten().try_for_each(|value| self.must_be_readable(value))?;
        let text = |value: Option<Bytes>| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(rows.rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect())
    }

    /// The default of a column, evaluated once for each row.
    ///
    /// # Errors
    /// It calls what cannot be proved to be harmless.
    pub(super) async fn defaults_of(
        &mut self,
        client: &mut Framed,
        table: &crate::topology::TableName,
        column: &str,
        rows: usize,
    ) -> Result<Vec<Filled>, Failure> {
        let name = rewrite::literal(&format!("{}.{}", rewrite::quoted(&table.schema), rewrite::quoted(&table.name)));
        // A domain's default counts when the column has none.
        let sql = format!(
            "SELECT COALESCE(pg_catalog.pg_get_expr(d.adbin, d.adrelid), t.typdefault) \
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             WHERE a.attrelid = {name}::pg_catalog.regclass AND a.attname = {}",
            rewrite::literal(column)
        );
        let default = self.ask_any(client, &sql).await?;
        if default.is_empty() {
            return Ok(vec![Filled::Text(None); rows]);
        }
        let sql = format!("SELECT ({default}) FROM pg_catalog.generate_series(1, {rows})");
        let values = self.texts_of(client, &plain_question(sql)).await?;
        Ok(values.into_iter().map(|row| Filled::Text(row.into_iter().next().flatten())).collect())
    }
}

/// A text without parameters.
pub(super) fn plain_question(sql: String) -> Question {
    let bind = Bind {
        portal: String::new(),
        statement: String::new(),
        parameter_formats: Vec::new(),
        parameters: Vec::new(),
        result_formats: Vec::new(),
    };
    Question { sql, bind, types: Vec::new(), source: None }
}

/// Literals without a type are text by the time they are rows.
pub(super) const TEXT: u32 = 25;

/// A format for each column.
pub(super) fn carried_formats(fields: &[Field]) -> Vec<Format> {
    fields.iter().map(|field| field.format).collect()
}

fn too_many_rows() -> ClientError {
    ClientError::new(
        ErrorId::MergeBudgetExceeded,
        "the rows that go through the proxy for this statement are more than it keeps",
    )
    .with_hint("Write fewer rows at a time.")
}

/// The rows among what would have gone to the client; what else there is goes on to it.
fn read_rows(client: &mut Framed, mut held: BytesMut) -> Result<Rows, Failure> {
    let mut read = Rows { fields: Vec::new(), rows: Vec::new() };
    let unreadable = || ClientError::new(ErrorId::Internal, "a row that goes through the proxy cannot be read");
    while let Ok(Some(frame)) = take_frame(&mut held, MESSAGE_BYTES_MAX) {
        match frame.tag {
            tag::DATA_ROW => {
                read.rows.push(server_message::read_data_row(&frame.body()).map_err(|_| unreadable())?);
            }
            tag::ROW_DESCRIPTION => {
                read.fields = server_message::read_row_description(&frame.body()).map_err(|_| unreadable())?;
            }
            tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS => client.output().extend_from_slice(&frame.bytes),
            _ => {}
        }
    }
    Ok(read)
}
