//! Statements whose inner queries run first.

use bytes::Bytes;

use super::insert_rows::Asked;
use super::relay::Done;
use super::statement::Mode;
use super::steps::Rows;
use super::{Failure, Session, places};
use crate::error::ClientError;
use crate::net::Framed;
use crate::plan::Piece;
use crate::plan::steps::{InnerKind, InnerQuery};
use crate::planner::{self, rewrite};
use crate::session::columns::FIRST_USER_TYPE;
use crate::wire::Format;
use crate::wire::client_message::Bind;
use crate::wire::server_message::read_error;

/// `bool`
const BOOL: u32 = 16;

impl Session {
    /// Runs the queries, then the statement with their values in their places.
    pub(super) async fn run_queries_first(
        &mut self,
        client: &mut Framed,
        queries: &[InnerQuery],
        asked: Asked<'_>,
    ) -> Result<Done, Failure> {
        if asked.types.iter().any(|number| *number >= FIRST_USER_TYPE) {
            return Err(refuse("has parameters of a type of your own").into());
        }
        let mut types = asked.types.to_vec();
        let given = asked.mode.bind();
        let mut parameters: Vec<Option<Bytes>> = (0..types.len())
            .map(|index| given.and_then(|bind| bind.parameters.get(index).cloned().flatten()))
            .collect();
        let mut parameter_formats: Vec<Format> =
            (0..types.len()).map(|index| given.map_or(Format::Text, |bind| bind.parameter_format(index))).collect();
        let first = u32::try_from(types.len()).unwrap_or(u32::MAX).saturating_add(1);
        for query in queries {
            let question = self.question(asked.parsed, &[Piece::Tokens(query.query.clone())], asked.types, asked.mode);
            // The proof that the query says nothing of the statement's own rows.
            match self.fields_of(client, &question, &[]).await {
                Err(Failure::Postgres(_)) => return Err(refuse("depends on the rows of the statement").into()),
                outcome => outcome?,
            };
            let rows = self.rows_of(client, &question).await.map_err(perhaps_never)?;
            rows.rows.iter().flatten().flatten().try_for_each(|value| self.must_be_readable(value))?;
            let (type_oid, value) = value_of(query.kind, &rows)?;
            types.push(type_oid);
            parameters.push(value);
            parameter_formats.push(Format::Text);
        }
        let splices = planner::inner_query_splices(queries, first);
        let text = rewrite::apply(&asked.parsed.text, &asked.parsed.lexed, &splices, None);
        let parsed = self.understand(text.text())?;
        let result_formats = given.map(|bind| bind.result_formats.clone()).unwrap_or_default();
        let bind =
            Bind { portal: String::new(), statement: String::new(), parameter_formats, parameters, result_formats };
        let mode = Mode::Extended { bind: &bind, types: &types, describe: asked.header };
        let done = Box::pin(self.run(client, &parsed, mode)).await;
        done.map_err(|failure| places::in_source(failure, &text, &asked.parsed.text))
    }
}

/// An error of a value in a query that PostgreSQL might never have run, because no row asks for it.
fn perhaps_never(failure: Failure) -> Failure {
    let Failure::Postgres(frame) = &failure else { return failure };
    match read_error(&frame.body()) {
        Ok(fields) if fields.code.starts_with("22") || fields.code.starts_with("21") => {
            refuse(&format!("fails ({})", fields.code)).into()
        }
        _ => failure,
    }
}

fn refuse(what: &str) -> ClientError {
    ClientError::refused(
        format!("a query inside this statement {what}: it is not supported across shards"),
        "Read its rows first, then write them as parameters.",
    )
}

/// What takes a query's place, as text, and its type.
fn value_of(kind: InnerKind, rows: &Rows) -> Result<(u32, Option<Bytes>), ClientError> {
    if kind == InnerKind::Exists {
        let text: &'static [u8] = if rows.rows.is_empty() { b"f" } else { b"t" };
        return Ok((BOOL, Some(Bytes::from_static(text))));
    }
    let [field] = rows.fields.as_slice() else { return Err(refuse("gives several columns")) };
    let values = rows.rows.iter().map(|row| row.first().cloned().flatten());
    match kind {
        InnerKind::Value if rows.rows.len() > 1 => Err(refuse("gives more than one row")),
        InnerKind::Value if field.type_oid >= FIRST_USER_TYPE => Err(refuse("gives a type of your own")),
        InnerKind::Value => Ok((field.type_oid, values.into_iter().next().flatten())),
        InnerKind::In | InnerKind::NotIn | InnerKind::Elements | InnerKind::Exists => {
            let array = planner::array_type_of(field.type_oid).ok_or_else(|| refuse("gives values of this type"))?;
            let elements: Vec<String> = values.map(element).collect();
            Ok((array, Some(Bytes::from(format!("{{{}}}", elements.join(","))))))
        }
    }
}

fn element(value: Option<Bytes>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        }
    }
}
