//! COPY in both directions, both protocols, and everything that can end it.

use super::Exchange;
use crate::frames::{bind, copy_data, copy_done, copy_fail, describe_portal, execute, flush, parse, query, sync};

const COPY: &str = "COPY ledger (run, part, note) FROM STDIN";

pub fn exchanges(run: i64) -> Vec<Exchange> {
    [into(run), into_extended(run), out()].concat()
}

fn rows(run: i64, parts: std::ops::Range<usize>) -> Vec<u8> {
    parts.flat_map(|part| format!("{run}\t{part}\tcopied\n").into_bytes()).collect()
}

/// The binary format: signature, flags, rows of three fields, trailer.
fn binary(run: i64, parts: std::ops::Range<i32>) -> Vec<u8> {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for part in parts {
        data.extend_from_slice(&[0, 3, 0, 0, 0, 8]);
        data.extend_from_slice(&run.to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 4]);
        data.extend_from_slice(&part.to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 3]);
        data.extend_from_slice(b"bin");
    }
    data.extend_from_slice(&[0xff, 0xff]);
    data
}

fn into(run: i64) -> Vec<Exchange> {
    let (head, tail) = (rows(run, 1..3), rows(run, 3..5));
    vec![
        Exchange::new("copy in: simple")
            .send([query(COPY)])
            .until(b'G')
            .send([copy_data(&head)])
            .send([copy_data(&tail), copy_done()])
            .ready()
            .writes(4, 1),
        Exchange::new("copy in: rows cut anywhere")
            .send([query(COPY)])
            .until(b'G')
            .send(rows(run, 1..5).chunks(7).map(copy_data).chain([copy_done()]).collect::<Vec<_>>())
            .ready()
            .writes(4, 1),
        Exchange::new("copy in: nothing").send([query(COPY)]).until(b'G').send([copy_done()]).ready(),
        Exchange::new("copy in: CopyFail")
            .send([query(COPY)])
            .until(b'G')
            .send([copy_data(&head), copy_fail("the disk is full")])
            .ready()
            .query("SELECT 1")
            .writes(0, 1),
        Exchange::new("copy in: bad row, then data that nobody wants")
            .send([query(COPY)])
            .until(b'G')
            .send([copy_data(&head), copy_data(b"nonsense\n"), copy_data(&tail), copy_done()])
            .ready()
            .query("SELECT 1")
            .writes(0, 1),
        Exchange::new("copy in: Flush and Sync meanwhile mean nothing")
            .send([query(COPY)])
            .until(b'G')
            .send([copy_data(&head), flush(), sync(), copy_data(&tail), copy_done()])
            .ready()
            .writes(4, 1),
        Exchange::new("copy in: binary")
            .send([query("COPY ledger (run, part, note) FROM STDIN (FORMAT binary)")])
            .until(b'G')
            .send([copy_data(&binary(run, 1..5)), copy_done()])
            .ready()
            .writes(4, 1),
        Exchange::new("copy in: CSV with a header")
            .send([query("COPY ledger (run, part, note) FROM STDIN (FORMAT csv, HEADER true)")])
            .until(b'G')
            .send([copy_data(format!("run,part,note\n{run},1,\"a,b\"\n{run},2,\n").as_bytes()), copy_done()])
            .ready()
            .writes(2, 1),
        Exchange::new("copy in: one of several statements")
            .send([query(&format!("SELECT 1 AS a; {COPY}; SELECT 2 AS b"))])
            .until(b'G')
            .send([copy_data(&head), copy_done()])
            .ready()
            .writes(2, 1),
        Exchange::new("copy in: in a transaction")
            .query("BEGIN")
            .send([query(COPY)])
            .until(b'G')
            .send([copy_data(&head), copy_done()])
            .ready()
            .query("COMMIT")
            .writes(2, 3)
            .spans(),
        Exchange::new("copy in: a message that does not belong there")
            .send([query(COPY)])
            .until(b'G')
            .send([copy_data(&head), query("SELECT 'lost'")])
            .ready(),
        Exchange::new("copy in: unknown table")
            .query("COPY nowhere FROM STDIN")
            .send([copy_data(b"1\n"), copy_done()])
            .query("SELECT 1"),
    ]
}

fn into_extended(run: i64) -> Vec<Exchange> {
    let head = rows(run, 1..3);
    let start = [parse("", COPY, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)];
    vec![
        Exchange::new("copy in, extended: Sync behind the data")
            .send([&start[..], &[flush()]].concat())
            .until(b'G')
            .send([copy_data(&head), copy_done(), sync()])
            .ready()
            .writes(2, 1),
        Exchange::new("copy in, extended: Sync before and behind the data, as libpq sends it")
            .send([&start[..], &[sync()]].concat())
            .until(b'G')
            .send([copy_data(&head), copy_done(), sync()])
            .ready()
            .writes(2, 1),
        Exchange::new("copy in, extended: CopyFail")
            .send([&start[..], &[flush()]].concat())
            .until(b'G')
            .send([copy_data(&head), copy_fail("no more"), sync()])
            .ready()
            .query("SELECT 1")
            .writes(0, 1),
        Exchange::new("copy in, extended: bad row")
            .send([&start[..], &[flush()]].concat())
            .until(b'G')
            .send([copy_data(b"x\ty\n"), copy_data(&head), copy_done(), sync()])
            .ready()
            .query("SELECT 1")
            .writes(0, 1),
        Exchange::new("copy in, extended: all in one write")
            .send([&start[..], &[copy_data(&head), copy_done(), sync()]].concat())
            .ready()
            .writes(2, 1),
    ]
}

fn out() -> Vec<Exchange> {
    vec![
        Exchange::new("copy out: a query").query("COPY (SELECT g, 'x' || g FROM generate_series(1, 20) g) TO STDOUT"),
        Exchange::new("copy out: binary").query("COPY (SELECT 1::int8, NULL::text) TO STDOUT (FORMAT binary)"),
        Exchange::new("copy out: big")
            .query("COPY (SELECT repeat('z', 2000) FROM generate_series(1, 200) g) TO STDOUT"),
        Exchange::new("copy out: an error in the middle")
            .query("COPY (SELECT 10 / (4 - g) FROM generate_series(1, 9) g) TO STDOUT")
            .query("SELECT 1"),
        Exchange::new("copy out: extended").synced([
            parse("", "COPY (SELECT 1, 2) TO STDOUT", &[]),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 0),
        ]),
        Exchange::new("copy out: a table's rows by key")
            .query("COPY (SELECT id, name FROM items WHERE id = 7) TO STDOUT"),
    ]
}
