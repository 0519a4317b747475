//! One statement with one shard, in either protocol, up to ReadyForQuery.

use bytes::Bytes;

use super::link::{Link, failure_of, read_quiet};
use super::relay::{Done, FirstError, forward};
use super::statement::Mode;
use super::{Failure, Session, shard_name};
use crate::base::ShardId;
use crate::net::Framed;
use crate::session::Columns;
use crate::wire::client_message::{self, Bind, Target};
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, tag};

/// What of an answer the client sees.
#[derive(Clone, Copy)]
pub(super) struct Show {
    /// RowDescription or NoData.
    pub(super) header: bool,
    /// Rows.
    pub(super) rows: bool,
    /// Notices and changes of parameters: of shards that all do the same, one tells them.
    pub(super) notices: bool,
}

impl Session {
    /// Sends a statement to one shard and relays what `show` says of the answer.
    ///
    /// # Errors
    /// PostgreSQL's error, or the connection broke: then the link is gone.
    pub(super) async fn exchange(
        &mut self,
        client: &mut Framed,
        shard: ShardId,
        sql: &str,
        mode: Mode<'_>,
        show: Show,
    ) -> Result<Done, Failure> {
        self.link(shard).await?;
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        write_statement(link, sql, mode, 0);
        let outcome = relay_shown(link, client, &name, show, None).await;
        let (done, columns) = self.after_exchange(shard, outcome)?;
        self.ran_alone += u32::from(!self.transaction.is_open());
        self.columns_shown = columns.map(|columns| (columns, shard)).or(self.columns_shown);
        Ok(done)
    }

    /// As [`Session::exchange`], but the rows are given back instead of relayed.
    pub(super) async fn exchange_collecting(
        &mut self,
        client: &mut Framed,
        shard: ShardId,
        sql: &str,
        mode: Mode<'_>,
        show: Show,
    ) -> Result<(Done, Vec<Frame>), Failure> {
        self.link(shard).await?;
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        write_statement(link, sql, mode, 0);
        let mut rows = Vec::new();
        let outcome = relay_shown(link, client, &name, show, Some(&mut rows)).await;
        let (done, columns) = self.after_exchange(shard, outcome)?;
        self.ran_alone += u32::from(!self.transaction.is_open());
        self.columns_shown = columns.map(|columns| (columns, shard)).or(self.columns_shown);
        Ok((done, rows))
    }

    /// The first column of the first row of a quiet question.
    pub(super) async fn ask(&mut self, shard: ShardId, sql: &str) -> Result<String, Failure> {
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        write_statement(link, sql, Mode::Simple, 0);
        let outcome = read_value(link, &name).await;
        let value = self.after_exchange(shard, outcome)?.unwrap_or_default();
        self.must_be_readable(&value)?;
        Ok(String::from_utf8(value.to_vec()).unwrap_or_default())
    }
}

/// Appends a statement as the mode says; `hidden` columns are added behind the client's.
pub(super) fn write_statement(link: &mut Link, sql: &str, mode: Mode<'_>, hidden: usize) {
    let sql = link.text(sql);
    match mode {
        Mode::Simple => client_message::encode_query(link.lease.output(), &sql),
        Mode::Extended { bind, types, describe } => {
            let mut bind = Bind { portal: String::new(), statement: String::new(), ..bind.clone() };
            if bind.result_formats.len() > 1 {
                // The client listed a format for each of its columns; ours come behind them.
                bind.result_formats.extend(std::iter::repeat_n(crate::wire::Format::Binary, hidden));
            }
            let output = link.lease.output();
            client_message::encode_parse(output, "", &sql, types);
            client_message::encode_bind(output, "", "", &bind);
            if describe || hidden > 0 {
                client_message::encode_describe(output, &Target::Portal(String::new()));
            }
            client_message::encode_execute(output, "", 0);
            client_message::encode_sync(output);
        }
    }
    link.lease.expect_ready();
    link.unsynced = false;
}

async fn relay_shown(
    link: &mut Link,
    client: &mut Framed,
    name: &str,
    show: Show,
    mut rows: Option<&mut Vec<Frame>>,
) -> Result<(Done, Option<Columns>), Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    let mut columns = None;
    let quiet = read_quiet(link, name).await;
    let mut error = FirstError::default();
    let mut done = Done { complete: None };
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => break,
            tag::ERROR_RESPONSE => error.note(frame)?,
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE => done.complete = Some(frame),
            tag::ROW_DESCRIPTION | tag::NO_DATA if show.header => {
                columns = Some(Columns::read(frame.tag, &frame.body()));
                forward(client, &frame).await?;
            }
            tag::DATA_ROW if rows.is_some() => rows.iter_mut().for_each(|rows| rows.push(frame.clone())),
            tag::DATA_ROW if show.rows => forward(client, &frame).await?,
            tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS if show.notices => forward(client, &frame).await?,
            _ => {}
        }
    }
    quiet?;
    error.into_result((done, columns))
}

async fn read_value(link: &mut Link, name: &str) -> Result<Option<Bytes>, Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    read_quiet(link, name).await?;
    let mut error = FirstError::default();
    let mut row: Option<Frame> = None;
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => break,
            tag::ERROR_RESPONSE => error.note(frame)?,
            tag::DATA_ROW => row = Some(frame),
            _ => {}
        }
    }
    let value = row
        .and_then(|row| server_message::read_data_row(&row.body()).ok())
        .and_then(|values| values.into_iter().next().flatten());
    error.into_result(value)
}
