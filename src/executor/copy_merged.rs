//! COPY (query) TO STDOUT where the query's rows have to be merged or gathered: the query runs as if it had come alone,
//! and its rows are written as COPY writes them.

use super::copy::shape_of;
use super::relay::Done;
use super::statement::Mode;
use super::{Failure, Session, places};
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::plan::CopyPlan;
use crate::session::Parsed;
use crate::sql::ast::{CopySource, Statement, TokenRange};
use crate::wire::Format;
use crate::wire::client_message::Bind;
use crate::wire::copy::{BINARY_HEADER, BINARY_TRAILER, CopyFormat, CopyShape, write_row};
use crate::wire::frame::take_frame;
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::server_message::{self, tag};

impl Session {
    /// Runs the query of a COPY and gives its rows to the client.
    ///
    /// # Errors
    /// Those of the query; its rows are more than a merge may hold.
    pub(super) async fn copy_merged(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        copy: &CopyPlan,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let Some(tokens) = query_tokens(parsed) else {
            return Err(ClientError::new(ErrorId::Internal, "not a COPY of a query").into());
        };
        let bytes = parsed.lexed.byte_range(tokens);
        let start_of_query = bytes.start;
        let query = self.understand(parsed.text.get(bytes).unwrap_or_default())?;
        let shape = shape_of(&copy.options);
        let formats = Bind {
            portal: String::new(),
            statement: String::new(),
            parameter_formats: Vec::new(),
            parameters: Vec::new(),
            result_formats: vec![if shape.format == CopyFormat::Binary { Format::Binary } else { Format::Text }],
        };
        let own_mode = Mode::Extended { bind: &formats, types: &[], describe: true };
        client.flush().await?;
        client.hold_output(self.cluster.settings.merge.bytes_max);
        let outcome = Box::pin(self.run(client, &query, own_mode)).await;
        let outcome = outcome.map_err(|failure| places::behind(failure, &parsed.text, start_of_query));
        let mut held = client.release_output();
        outcome.map_err(|failure| match failure {
            Failure::Client(NetError::HeldTooMuch) => ClientError::new(
                ErrorId::MergeBudgetExceeded,
                "the rows of COPY are more than the proxy keeps while it merges",
            )
            .with_hint("Copy without ORDER BY and aggregates, or in parts.")
            .into(),
            other => other,
        })?;
        if matches!(mode, Mode::Extended { describe: true, .. }) {
            server_message::write_empty(client.output(), tag::NO_DATA);
        }
        let mut rows = 0;
        while let Ok(Some(frame)) = take_frame(&mut held, MESSAGE_BYTES_MAX) {
            match frame.tag {
                tag::ROW_DESCRIPTION => start(client, &shape, &frame.body())?,
                tag::DATA_ROW => {
                    let values = server_message::read_data_row(&frame.body()).map_err(|_| malformed())?;
                    let values: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
                    let row = write_row(&shape, &values).map_err(|_| malformed())?;
                    server_message::write_copy_data(client.output(), &row);
                    rows += 1;
                }
                tag::NOTICE_RESPONSE => client.output().extend_from_slice(&frame.bytes),
                _ => {}
            }
            if client.output().len() >= super::session::CLIENT_FLUSH_BYTES {
                client.flush().await?;
            }
        }
        if shape.format == CopyFormat::Binary {
            server_message::write_copy_data(client.output(), BINARY_TRAILER);
        }
        server_message::write_empty(client.output(), tag::COPY_DONE);
        Ok(Done::with_tag(&format!("COPY {rows}")))
    }
}

/// CopyOutResponse, and what stands before the rows.
fn start(client: &mut Framed, shape: &CopyShape, description: &[u8]) -> Result<(), Failure> {
    let fields = server_message::read_row_description(description).map_err(|_| malformed())?;
    let format = if shape.format == CopyFormat::Binary { Format::Binary } else { Format::Text };
    server_message::write_copy_response(client.output(), tag::COPY_OUT_RESPONSE, format, fields.len());
    if shape.format == CopyFormat::Binary {
        server_message::write_copy_data(client.output(), BINARY_HEADER);
    } else if shape.header {
        let names: Vec<Option<&[u8]>> = fields.iter().map(|field| Some(field.name.as_ref())).collect();
        let header = write_row(shape, &names).map_err(|_| malformed())?;
        server_message::write_copy_data(client.output(), &header);
    }
    Ok(())
}

fn malformed() -> Failure {
    ClientError::new(ErrorId::Internal, "a merged row cannot be written as COPY does").into()
}

/// The query's tokens, without the parentheses round it.
fn query_tokens(parsed: &Parsed) -> Option<TokenRange> {
    let Ok(Statement::Copy(copy)) = &*parsed.statement else { return None };
    match &copy.source {
        CopySource::Query(inner) => match &**inner {
            Statement::Query(query) => Some(query.tokens.clone()),
            _ => None,
        },
        CopySource::Table { .. } => None,
    }
}
