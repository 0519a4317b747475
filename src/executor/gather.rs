//! Reads that one PostgreSQL computes from rows of all shards.
//!
//! First that server is asked what the client's text and ours say of their columns and parameters: unless both say the
//! same, nothing is fetched. Then the shards' rows become arrays, and these the parameters of the text that it runs.

mod arrays;
mod check;
mod partial;

use bytes::Bytes;

use super::exchange::{Show, write_statement};
use super::link::failure_of;
use super::relay::Done;
use super::scatter::{Source, drain, next, set_formats};
use super::statement::Mode;
use super::{Failure, Session, places, shard_name};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::plan::GatherPlan;
use crate::planner::rewrite;
use crate::session::{Columns, Parsed};
use crate::sql::Spliced;
use crate::sql::ast::Statement;
use crate::wire::Format;
use crate::wire::client_message::Bind;
use crate::wire::server_message::{self, tag};

use arrays::Arrays;
use check::Checked;

/// The texts of one gather.
struct Texts {
    /// What the shards run that have a part of every table, and what the others do.
    fetch: Vec<(ShardId, String)>,
    /// All of the fetch, for its columns' types.
    whole: String,
    /// What the finishing shard runs.
    finish: Spliced,
}

impl Session {
    /// Runs a read whose rows are gathered.
    ///
    /// # Errors
    /// The first error of any shard, a refusal before anything was fetched, or the budget is exceeded.
    pub(super) async fn run_gather(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        shards: &[ShardId],
        plan: &GatherPlan,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        if !self.encoding.is_exact() {
            return Err(self.beyond_encoding("a statement whose rows are gathered from several shards").into());
        }
        if self.is_at_work() && !self.transaction.is_open() {
            self.open_block().await?;
        }
        let declared = declared(parsed);
        let cursor = declared.as_ref().and_then(|(_, name)| self.cursors.get(name).copied());
        let finish = plan.finish.or(cursor).unwrap_or_else(|| self.finishing_shard(shards));
        let texts = texts(parsed, plan, shards);
        let mut wanted: Vec<ShardId> = texts.fetch.iter().map(|(shard, _)| *shard).chain([finish]).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for shard in wanted {
            self.link(shard).await?;
        }
        if let Some(partial) = plan.partial.as_ref().filter(|_| declared.is_none())
            && let Some(done) = self.run_partial(client, parsed, shards, finish, partial, mode).await?
        {
            return Ok(done);
        }
        let own = plan.params as usize;
        let types: Vec<u32> = mode.types().iter().take(own).copied().collect();
        let name = shard_name(&self.topology, finish);
        let link = self.held(finish)?;
        // Of a cursor the query is described: what stands before it is the same in both texts.
        let start = declared.as_ref().map_or(0, |(start, _)| *start);
        let asked = check::Texts {
            client: parsed.text.get(start..).unwrap_or_default(),
            finish: texts.finish.text().get(start..).unwrap_or_default(),
            fetch: &texts.whole,
        };
        let outcome = check::ask(link, &name, &asked, &types, own).await;
        let placed = |failure| places::in_source(failure, &texts.finish, &parsed.text);
        let checked =
            self.after_exchange(finish, outcome).map_err(|failure| places::behind(failure, &parsed.text, start))?;
        let used: Vec<u32> = plan.sources.iter().flat_map(|source| source.params.iter().copied()).collect();
        let fetch = fetch_bind(mode, &used, &checked.own_types);
        let arrays = self.fetch(&texts.fetch, plan, &checked.element_types, fetch).await.map_err(places::without)?;
        let bind = finish_bind(mode, own, arrays);
        let mut types = checked.own_types.clone();
        types.extend(&checked.array_types);
        let Checked { mut fields, .. } = checked;
        if declared.is_some() {
            let describe = matches!(mode, Mode::Extended { describe: true, .. });
            let finish_mode = Mode::Extended { bind: &bind, types: &types, describe };
            let show = Show { header: true, rows: false, notices: true };
            let done = self.exchange(client, finish, texts.finish.text(), finish_mode, show).await.map_err(placed)?;
            self.note_cursor(finish, parsed);
            self.note_pins(finish, parsed);
            return Ok(done);
        }
        let finish_mode = Mode::Extended { bind: &bind, types: &types, describe: false };
        if mode.describes() {
            set_formats(&mut fields, finish_mode);
            self.columns_shown = Some((Columns::of(&fields), finish));
            server_message::write_row_description(client.output(), &fields);
        }
        let show = Show { header: false, rows: true, notices: true };
        self.exchange(client, finish, texts.finish.text(), finish_mode, show).await.map_err(placed)
    }

    /// A shard that takes part anyway; sessions spread over all of them.
    fn finishing_shard(&self, shards: &[ShardId]) -> ShardId {
        let held = shards.iter().find(|shard| self.links.contains_key(shard));
        let by_session = shards.get(self.cancel.pid() as usize % shards.len().max(1));
        held.or(by_session).copied().unwrap_or_else(|| self.topology.home())
    }

    /// Fetches the rows of all tables.
    async fn fetch(
        &mut self,
        texts: &[(ShardId, String)],
        plan: &GatherPlan,
        element_types: &[u32],
        (bind, types): (Bind, Vec<u32>),
    ) -> Result<Arrays, Failure> {
        let fetch_mode = Mode::Extended { bind: &bind, types: &types, describe: true };
        let mut sources = Vec::with_capacity(texts.len());
        for (shard, sql) in texts {
            let name = shard_name(&self.topology, *shard);
            if let Some(mut link) = self.links.remove(shard) {
                write_statement(&mut link, sql, fetch_mode, 0);
                let sent = link.lease.flush().await.map_err(|error| failure_of(error, &name));
                sources.push(Source { shard: *shard, name, link, finished: false });
                if let Err(failure) = sent {
                    self.give_back(sources).await?;
                    return Err(failure);
                }
            }
        }
        let bytes_max = self.cluster.settings.merge.gather_bytes_max;
        let mut arrays = Arrays::new(plan, element_types, bytes_max);
        let mut outcome = Ok(());
        for source in &mut sources {
            outcome = read_rows(source, &mut arrays).await;
            if outcome.is_err() {
                break;
            }
        }
        if outcome.is_err() {
            // Nobody needs the rest.
            for source in sources.iter().filter(|source| source.link.lease.pending_ready() > 0) {
                if let Err(error) = source.link.lease.cancel_handle().cancel().await {
                    tracing::debug!(%error, "cancel request failed");
                }
            }
        }
        let drained = self.give_back(sources).await;
        outcome?;
        drained?;
        Ok(arrays)
    }

    /// Reads answers to their end and holds the connections again.
    async fn give_back(&mut self, sources: Vec<Source>) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for mut source in sources {
            let drained = drain(&mut source).await;
            let usable = !source.link.lease.is_poisoned();
            self.links.insert(source.shard, source.link);
            if !usable {
                self.drop_link(source.shard);
            }
            outcome = outcome.and(drained);
        }
        outcome
    }
}

/// Where the query of a cursor begins, and the cursor's name.
fn declared(parsed: &Parsed) -> Option<(usize, String)> {
    let Ok(Statement::Declare { query, .. }) = &*parsed.statement else { return None };
    let start = parsed.lexed.tokens.get(query.tokens.start)?.start;
    Some((start, parsed.lexed.identifier(&parsed.text, 1)?))
}

fn texts(parsed: &Parsed, plan: &GatherPlan, shards: &[ShardId]) -> Texts {
    let arms: Vec<(Option<ShardId>, String)> = plan
        .sources
        .iter()
        .enumerate()
        .map(|(index, source)| {
            let from = rewrite::render(&parsed.text, &parsed.lexed, &source.from);
            (source.shard, format!("SELECT {index}::pg_catalog.int4, {} {from}", row_of(plan, index)))
        })
        .collect();
    let joined = |is_asked: &dyn Fn(Option<ShardId>) -> bool| {
        let asked: Vec<&str> = arms.iter().filter(|(shard, _)| is_asked(*shard)).map(|(_, arm)| arm.as_str()).collect();
        asked.join(" UNION ALL ")
    };
    let mut all: Vec<ShardId> = shards.iter().copied().chain(arms.iter().filter_map(|(shard, _)| *shard)).collect();
    all.sort_unstable();
    all.dedup();
    let fetch = all
        .into_iter()
        .map(|asked| {
            let is_asked = |shard: Option<ShardId>| shard.map_or(shards.contains(&asked), |shard| shard == asked);
            (asked, joined(&is_asked))
        })
        .filter(|(_, sql)| !sql.is_empty())
        .collect();
    let finish = rewrite::apply(&parsed.text, &parsed.lexed, &plan.splices, None);
    Texts { fetch, whole: joined(&|_| true), finish }
}

/// The columns of all tables, of which this table's hold its rows.
fn row_of(plan: &GatherPlan, index: usize) -> String {
    let columns: Vec<String> = plan
        .sources
        .iter()
        .enumerate()
        .flat_map(|(at, source)| source.columns.iter().map(move |column| (at, column)))
        .map(|(at, column)| match at == index {
            true => column.expression.clone(),
            false => format!("NULL::{}", column.element),
        })
        .collect();
    columns.join(", ")
}

/// The client's parameters as the shards' conditions need them; every other one is there, since the numbers are the
/// client's, and NULL.
fn fetch_bind(mode: Mode<'_>, used: &[u32], own_types: &[u32]) -> (Bind, Vec<u32>) {
    let highest = used.iter().max().map_or(0, |number| *number as usize);
    let is_used = |index: &usize| used.contains(&u32::try_from(index + 1).unwrap_or(0));
    let types = (0..highest)
        .map(|index| match own_types.get(index) {
            // A type of the users' own has another number on every server; the column says which it is.
            Some(oid) if is_used(&index) => {
                if *oid < USER_OIDS {
                    *oid
                } else {
                    0
                }
            }
            _ => TEXT_OID,
        })
        .collect();
    let client = mode.bind();
    let parameters = (0..highest)
        .map(|index| client.filter(|_| is_used(&index)).and_then(|bind| bind.parameters.get(index).cloned().flatten()))
        .collect();
    let parameter_formats =
        (0..highest).map(|index| client.map_or(Format::Text, |bind| bind.parameter_format(index))).collect();
    let bind = Bind {
        portal: String::new(),
        statement: String::new(),
        parameter_formats,
        parameters,
        result_formats: vec![Format::Binary],
    };
    (bind, types)
}

/// The client's own values, then the arrays.
fn finish_bind(mode: Mode<'_>, own: usize, arrays: Arrays) -> Bind {
    let client = mode.bind();
    let mut parameters: Vec<Option<Bytes>> =
        (0..own).map(|index| client.and_then(|bind| bind.parameters.get(index).cloned().flatten())).collect();
    let mut parameter_formats: Vec<Format> =
        (0..own).map(|index| client.map_or(Format::Text, |bind| bind.parameter_format(index))).collect();
    for array in arrays.finish() {
        parameters.push(Some(array));
        parameter_formats.push(Format::Binary);
    }
    Bind {
        portal: String::new(),
        statement: String::new(),
        parameter_formats,
        parameters,
        result_formats: client.map_or_else(Vec::new, |bind| bind.result_formats.clone()),
    }
}

/// Types with OIDs from here on are not PostgreSQL's own.
const USER_OIDS: u32 = 16_384;
const TEXT_OID: u32 = 25;

async fn read_rows(source: &mut Source, arrays: &mut Arrays) -> Result<(), Failure> {
    super::link::read_quiet(&mut source.link, &source.name).await?;
    loop {
        let frame = next(source).await?;
        match frame.tag {
            tag::ROW_DESCRIPTION => {
                let fields = server_message::read_row_description(&frame.body()).unwrap_or_default();
                arrays.check_types(&fields)?;
            }
            tag::DATA_ROW => arrays.push(&frame.body())?,
            tag::COMMAND_COMPLETE => return Ok(()),
            tag::ERROR_RESPONSE => return Err(Failure::Postgres(frame)),
            tag::READY_FOR_QUERY => {
                return Err(ClientError::new(
                    ErrorId::Internal,
                    format!("shard {} did not answer a fetch to its end", source.name),
                )
                .into());
            }
            _ => {}
        }
    }
}
