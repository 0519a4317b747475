//! Exchanges that touch several shards where there are several.

use super::{Exchange, insert};
use crate::frames::{bind, describe_portal, execute, parse};

pub fn exchanges(run: i64) -> Vec<Exchange> {
    [reads(), writes(run)].concat()
}

fn reads() -> Vec<Exchange> {
    let ordered = "SELECT id, name FROM items ORDER BY id";
    vec![
        Exchange::new("shards: ordered scan").query(ordered),
        Exchange::new("shards: aggregates").query("SELECT count(*), sum(n), min(name), max(id) FROM items"),
        Exchange::new("shards: groups").query("SELECT n, count(*) FROM items GROUP BY n ORDER BY n"),
        Exchange::new("shards: limit and offset").query("SELECT id FROM items ORDER BY name DESC LIMIT 3 OFFSET 2"),
        Exchange::new("shards: ordered scan with a row limit").synced([
            parse("", ordered, &[]),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 5),
            execute("", 5),
            execute("", 5),
        ]),
        Exchange::new("shards: error on some")
            .query("SELECT id, 1 / (id - 7) FROM items ORDER BY id")
            .query("SELECT 1"),
        Exchange::new("shards: keys far apart, prepared once").synced(
            std::iter::once(parse("", "SELECT name FROM items WHERE id = $1", &[20]))
                .chain((1..=12).flat_map(|id| [bind("", "", &[Some(&format!("{id}"))]), execute("", 0)]))
                .collect::<Vec<_>>(),
        ),
        Exchange::new("shards: read in a transaction")
            .query("BEGIN")
            .query(ordered)
            .query("SELECT count(*) FROM items")
            .query("COMMIT")
            .spans(),
    ]
}

fn writes(run: i64) -> Vec<Exchange> {
    vec![
        Exchange::new("shards: insert split over them").query(&insert(run, 1..13)).writes(12, 1),
        Exchange::new("shards: insert split, with returning")
            .query(&format!("{} RETURNING run = {run} AS mine", insert(run, 1..7)))
            .writes(6, 1),
        Exchange::new("shards: two-phase commit")
            .query("BEGIN")
            .query(&insert(run, [1]))
            .query(&insert(run, [2]))
            .query(&insert(run, [3]))
            .query(&insert(run, [4]))
            .query("COMMIT")
            .writes(4, 6)
            .spans(),
        Exchange::new("shards: transaction over them, rolled back")
            .query("BEGIN")
            .query(&insert(run, 1..9))
            .query("ROLLBACK")
            .writes(0, 3)
            .spans(),
        Exchange::new("shards: update everywhere")
            .query(&insert(run, 1..9))
            .query(&format!("UPDATE ledger SET note = 'new' WHERE run = {run}"))
            .query(&format!("SELECT count(*) FROM ledger WHERE run = {run} AND note = 'new'"))
            .writes(8, 1),
        Exchange::new("shards: savepoint over them")
            .query("BEGIN")
            .query(&insert(run, 1..5))
            .query("SAVEPOINT s")
            .query(&insert(run, 5..9))
            .query("ROLLBACK TO s")
            .query("COMMIT")
            .writes(4, 6)
            .spans(),
        Exchange::new("shards: written by messages, one Sync")
            .synced(
                std::iter::once(parse("", "INSERT INTO ledger (run, part) VALUES ($1, $2)", &[20, 23]))
                    .chain((1..=6).flat_map(|part| {
                        [bind("", "", &[Some(&format!("{run}")), Some(&format!("{part}"))]), execute("", 0)]
                    }))
                    .collect::<Vec<_>>(),
            )
            .writes(6, 1),
        Exchange::new("shards: unique violation behind writes")
            .query("BEGIN")
            .query(&insert(run, 1..5))
            .query(&insert(run, 1..5))
            .query("COMMIT")
            .writes(0, 4)
            .spans(),
    ]
}
