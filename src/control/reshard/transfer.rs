//! Rows of several tables from one server into another without a round trip for each: all of it is one query here, one
//! query there, and data that follows as it comes.
//!
//! # Source
//! <https://www.postgresql.org/docs/current/protocol-flow.html>: several COPYs may stand in one simple query; a server that
//! is told of an error ignores the data that follows.

use bytes::Bytes;

use super::rows::NotMoved;
use crate::backend::connection::Rows;
use crate::backend::{BackendError, Connection};
use crate::wire::client_message::{encode_copy_done, encode_query};
use crate::wire::frame::Frame;
use crate::wire::server_message::{read_data_row, read_error, tag};

/// Written at once when so much has come, or as much as has come when this little more is there.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_BYTES_MIN: usize = 32 << 10;

/// What [`transfer`] did.
#[derive(Debug, Default)]
pub(super) struct Transferred {
    /// Bytes of the rows, as they went over the wire.
    pub bytes: u64,
    /// Rows of all queries there, one after the other.
    pub rows: Rows,
}

impl From<BackendError> for NotMoved {
    fn from(error: BackendError) -> Self {
        Self { reason: error.to_string(), is_final: false }
    }
}

pub(super) fn refused(error: &Frame) -> NotMoved {
    let Ok(fields) = read_error(&error.body()) else {
        return "a server answers with an error that cannot be read".to_owned().into();
    };
    // A row that is there already, or that the target does not take: class 23.
    NotMoved { is_final: fields.code.starts_with("23"), reason: fields.message }
}

/// Runs `out` here, which says COPY … TO STDOUT as often as `into` there says COPY … FROM STDIN, and in the same order.
///
/// # Errors
/// Refused or lost, on either side: neither connection is of any more use.
///
/// # Cancel safety
/// Dropped, both connections are of no more use.
pub(super) async fn transfer(
    here: &mut Connection,
    out: &str,
    there: &mut Connection,
    into: &str,
) -> Result<Transferred, NotMoved> {
    for (connection, sql) in [(&mut *here, out), (&mut *there, into)] {
        encode_query(connection.output(), sql);
        connection.expect_ready();
        connection.flush().await?;
    }
    let mut done = Transferred::default();
    loop {
        let frame = match here.try_next_frame()? {
            Some(frame) => frame,
            None => {
                if there.output().len() >= CHUNK_BYTES_MIN {
                    there.flush().await?;
                }
                here.next_frame().await?
            }
        };
        match frame.tag {
            tag::COPY_DATA => {
                done.bytes += frame.bytes.len() as u64;
                there.output().extend_from_slice(&frame.bytes);
                if there.output().len() >= CHUNK_BYTES {
                    there.flush().await?;
                }
            }
            tag::COPY_DONE => encode_copy_done(there.output()),
            // The other side waits for rows that do not come: its connection ends with this.
            tag::ERROR_RESPONSE => return Err(refused(&frame)),
            tag::READY_FOR_QUERY => break,
            _ => {}
        }
    }
    there.flush().await?;
    done.rows = rows(there).await?;
    Ok(done)
}

async fn rows(connection: &mut Connection) -> Result<Rows, NotMoved> {
    let text = |value: Option<Bytes>| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (mut rows, mut error) = (Rows::new(), None);
    loop {
        let frame = connection.next_frame().await?;
        match frame.tag {
            tag::DATA_ROW => {
                let row = read_data_row(&frame.body()).map_err(|error| error.to_string())?;
                rows.push(row.into_iter().map(text).collect());
            }
            tag::ERROR_RESPONSE => error = error.or(Some(refused(&frame))),
            tag::READY_FOR_QUERY => return error.map_or(Ok(rows), Err),
            _ => {}
        }
    }
}
