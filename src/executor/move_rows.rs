//! UPDATE of the sharding key: on the new key's shard the statement itself, elsewhere the rows are taken and inserted
//! anew.

use super::exchange::Show;
use super::insert::in_row_order;
use super::insert_rows::Asked;
use super::relay::Done;
use super::statement::Mode;
use super::steps::{Question, Rows, carried_formats};
use super::values::StatementValues;
use super::{Failure, Session};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::plan::KeyTuple;
use crate::plan::steps::MoveRows;
use crate::planner::{self, BoundShards, rewrite};
use crate::wire::frame::Frame;
use crate::wire::server_message::{Field, read_data_row};

const QUIET: Show = Show { header: false, rows: false, notices: true };

impl Session {
    /// Runs the statement on `shards`, ascending; rows whose key changes move.
    pub(super) async fn run_move_rows(
        &mut self,
        client: &mut Framed,
        moved: &MoveRows,
        shards: &[ShardId],
        mut asked: Asked<'_>,
    ) -> Result<Done, Failure> {
        let stays = match &moved.new_key {
            Some(key) => Some(self.shard_of_new_key(client, key, asked).await?),
            None => None,
        };
        let is_movable = self.is_movable(client, moved).await?;
        let pieces = if is_movable { &moved.take } else { &moved.lock };
        let mut question = self.question(asked.parsed, pieces, asked.types, asked.mode);
        let fields = self.fields_of(client, &question, &moved.untyped).await?;
        if is_movable {
            self.check_user_types(client, &moved.target, &fields).await?;
        }
        question.bind.result_formats = carried_formats(&fields);
        let mut taken = Rows { fields, rows: Vec::new() };
        let (mut count, mut collected) = (0, Vec::new());
        for shard in shards {
            if Some(*shard) == stays {
                let show = Show { header: asked.header, ..QUIET };
                let text = &asked.parsed.text;
                let (done, frames) = self.exchange_collecting(client, *shard, text, asked.mode, show).await?;
                asked.header = false;
                count += done.row_count().unwrap_or(0);
                collected.push(((0..frames.len()).collect(), frames));
            } else {
                let frames = self.ask_shard(client, *shard, &question).await?;
                if !is_movable && !frames.is_empty() {
                    return Err(cannot_move(moved).into());
                }
                read_into(&mut taken, &frames)?;
            }
            if let Some(link) = self.links.get_mut(shard) {
                link.wrote = true;
            }
        }
        if stays.is_none() || !taken.rows.is_empty() {
            if !is_movable {
                // There are no rows: only what the statement's answer looks like is asked.
                taken.fields = vec![Field::text("column"); moved.target.columns.len()];
            }
            let (moved_count, rows) = self.insert_batch(client, &moved.target, &moved.untyped, taken, asked).await?;
            count += moved_count;
            collected.extend(rows);
        }
        // Rows of an UPDATE have no order of their own.
        let frames: Vec<Frame> = collected.into_iter().flat_map(|(_, frames)| frames).collect();
        in_row_order(client, vec![((0..frames.len()).collect(), frames)]);
        Ok(Done::with_tag(&format!("UPDATE {count}")))
    }

    async fn ask_shard(
        &mut self,
        client: &mut Framed,
        shard: ShardId,
        question: &Question,
    ) -> Result<Vec<Frame>, Failure> {
        let mode = Mode::Extended { bind: &question.bind, types: &question.types, describe: false };
        Ok(self
            .exchange_collecting(client, shard, &question.sql, mode, QUIET)
            .await
            .map_err(|error| question.placed(error))?
            .1)
    }

    async fn shard_of_new_key(
        &mut self,
        client: &mut Framed,
        key: &KeyTuple,
        asked: Asked<'_>,
    ) -> Result<ShardId, Failure> {
        let plan = planner::plan_of_key(key.clone());
        let mut values = StatementValues::new(&asked.parsed.lexed, asked.mode);
        match self.bind(client, &plan, &mut values, None).await?.shards {
            BoundShards::One(shard) => Ok(shard),
            // NULL: every shard refuses it in PostgreSQL's own words.
            _ => Ok(self.topology.home()),
        }
    }

    /// Whether taking a row away and inserting it anew does the same as an UPDATE. Rows of other tables that refer to
    /// it must hinder both alike, so only constraints without actions, over the whole key, are allowed.
    async fn is_movable(&mut self, client: &mut Framed, moved: &MoveRows) -> Result<bool, Failure> {
        let table = &moved.target.table;
        let name = rewrite::literal(&format!("{}.{}", rewrite::quoted(&table.schema), rewrite::quoted(&table.name)));
        let key: Vec<String> = moved.key_columns.iter().map(|column| rewrite::literal(column)).collect();
        let referred = if moved.new_key.is_some() {
            format!(
                "AND (f.confupdtype NOT IN ('a', 'r') OR f.confdeltype NOT IN ('a', 'r') OR f.condeferrable \
                 OR NOT f.confkey @> (SELECT pg_catalog.array_agg(a.attnum) FROM pg_catalog.pg_attribute a \
                 WHERE a.attrelid = c.oid AND a.attname IN ({})))",
                key.join(", ")
            )
        } else {
            String::new()
        };
        let sql = format!(
            "SELECT NOT (c.relrowsecurity \
             OR c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid) \
             OR EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' AND f.confrelid = c.oid {referred})) \
             FROM pg_catalog.pg_class c WHERE c.oid = {name}::pg_catalog.regclass"
        );
        Ok(self.ask_any(client, &sql).await? == "t")
    }
}

fn cannot_move(moved: &MoveRows) -> ClientError {
    ClientError::refused(
        format!("a row of table \"{}\" would move to another shard with its new key", moved.target.table.name),
        "Other rows refer to it, or the table has policies or children: delete the row and insert it with its new key, in one transaction.",
    )
}

fn read_into(taken: &mut Rows, frames: &[Frame]) -> Result<(), Failure> {
    for frame in frames {
        let row = read_data_row(&frame.body())
            .map_err(|_| ClientError::new(ErrorId::Internal, "a row that goes through the proxy cannot be read"))?;
        taken.rows.push(row);
    }
    Ok(())
}
