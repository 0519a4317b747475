//! Many rows: merged, split, joined.

use std::fmt::Write as _;
use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use ostrakon::merge::{Budget, Merger, Pop};
use ostrakon::plan::{AggregateFunction, AggregateOutput, AggregateSpec, ColumnRef, MergeSpec, OrderKey};
use ostrakon::wire::Format;
use ostrakon::wire::copy::{BINARY_HEADER, BINARY_TRAILER, CopyJoiner, CopyPiece, CopyShape, CopySplitter};
use ostrakon::wire::server_message::{Field, write_data_row};

use crate::cases::Turn;

const SHARDS: usize = 3;

/// What the rows are sorted by.
#[derive(Clone, Copy)]
pub enum Order {
    None,
    Int8,
    Text,
}

fn field(type_oid: u32) -> Field {
    Field {
        name: Bytes::from_static(b"column"),
        table_oid: 0,
        column: 0,
        type_oid,
        type_size: -1,
        type_modifier: -1,
        format: Format::Text,
    }
}

fn message(values: &[&str]) -> Bytes {
    let mut buffer = BytesMut::new();
    let values: Vec<Option<&[u8]>> = values.iter().map(|value| Some(value.as_bytes())).collect();
    write_data_row(&mut buffer, &values);
    buffer.freeze()
}

/// About as much as one read brings.
const RUN_BYTES: usize = 16 << 10;

/// Rows of each shard, in order of both keys, in runs.
fn shards(rows: usize) -> Vec<Vec<Bytes>> {
    let row = |number: usize| {
        let (id, name) = (number.to_string(), format!("name of {number:016}"));
        message(&[&id, &name, "some words that fill the row, number 00000000000471100"])
    };
    // A shard's next row is not always the next one of all.
    (0..SHARDS).map(|shard| runs((0..rows).filter(|n| n * 7 / 5 % SHARDS == shard).map(row))).collect()
}

fn runs(rows: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    let mut runs = vec![BytesMut::new()];
    for row in rows {
        if runs.last().is_some_and(|run| run.len() + row.len() > RUN_BYTES) {
            runs.push(BytesMut::new());
        }
        runs.last_mut().unwrap().extend_from_slice(&row);
    }
    runs.into_iter().map(BytesMut::freeze).collect()
}

const BUDGET: Budget = Budget { rows: 1_000_000, bytes: 1 << 30 };

fn run(spec: &MergeSpec, fields: &[Field], shards: &[Vec<Bytes>], out: &mut BytesMut) -> usize {
    let mut merger = Merger::new(spec, fields, shards.len(), None, 0, &|_| None, BUDGET).unwrap();
    let mut given = vec![0; shards.len()];
    let mut count = 0;
    loop {
        match merger.pop(out).unwrap() {
            Pop::Rows(rows) => count += rows as usize,
            Pop::Done => return count,
            Pop::Pending => {
                for (shard, rows) in shards.iter().enumerate() {
                    if merger.waits_for(shard) {
                        match rows.get(given[shard]) {
                            Some(row) => merger.push(shard, row.clone()).unwrap(),
                            None => merger.finish(shard),
                        }
                        given[shard] += 1;
                    }
                }
            }
        }
        if out.len() > 64 << 10 {
            out.clear();
        }
    }
}

/// Rows of three shards become one stream.
pub fn merge(order: Order) -> Turn {
    let shards = shards(3_000);
    let key = |column| OrderKey {
        column: ColumnRef::Visible(column),
        descending: false,
        nulls_first: false,
        text_is_bytewise: true,
    };
    let order = match order {
        Order::None => vec![],
        Order::Int8 => vec![key(0)],
        Order::Text => vec![key(1)],
    };
    let spec = MergeSpec { order, ..MergeSpec::default() };
    let fields = [field(20), field(25), field(25)];
    let mut out = BytesMut::new();
    Box::new(move || {
        out.clear();
        assert_eq!(run(&spec, &fields, &shards, &mut out), 3_000);
    })
}

/// Partial counts and sums of three shards, so many groups each.
pub fn aggregate(groups: usize) -> Turn {
    let rows = runs((0..groups).map(|group| message(&[&group.to_string(), "1000", "-123456789"])));
    let output = |column, function| AggregateOutput { column: ColumnRef::Visible(column), function };
    let spec = MergeSpec {
        aggregate: Some(AggregateSpec {
            groups: if groups > 1 { vec![ColumnRef::Visible(0)] } else { vec![] },
            outputs: vec![output(1, AggregateFunction::Count), output(2, AggregateFunction::Sum)],
            ..AggregateSpec::default()
        }),
        ..MergeSpec::default()
    };
    let fields = [field(23), field(20), field(20)];
    let shards = vec![rows; SHARDS];
    let mut out = BytesMut::new();
    Box::new(move || {
        out.clear();
        assert_eq!(run(&spec, &fields, &shards, &mut out), groups);
    })
}

fn copy_rows(rows: usize, format: &str) -> Vec<u8> {
    let mut text = String::new();
    for number in 0..rows {
        let id = number.wrapping_mul(7_919);
        match format {
            "csv" => writeln!(text, "{id},\"name, of {number:016x}\",some words that fill the row,{number}").unwrap(),
            _ => writeln!(text, "{id}\tname of {number:016x}\tsome words that fill the row\t{number}").unwrap(),
        }
    }
    if format != "binary" {
        return text.into_bytes();
    }
    let mut data = BINARY_HEADER.to_vec();
    for number in 0..rows as u64 {
        data.extend(2_i16.to_be_bytes());
        data.extend(8_i32.to_be_bytes());
        data.extend(number.to_be_bytes());
        data.extend(30_i32.to_be_bytes());
        data.extend(b"some words that fill the row 1");
    }
    data.extend(BINARY_TRAILER);
    data
}

fn shape(format: &str) -> CopyShape {
    match format {
        "csv" => CopyShape::csv(),
        "binary" => CopyShape::binary(),
        _ => CopyShape::text(),
    }
}

/// A client's data, in pieces of 8 KiB, cut into rows; the key is the first field.
pub fn copy_in(format: &'static str) -> Turn {
    let data = copy_rows(1_000, format);
    Box::new(move || {
        let mut splitter = CopySplitter::new(shape(format), vec![0]);
        let mut count = 0;
        for piece in data.chunks(8 << 10) {
            splitter.push(piece);
            while let Some(piece) = splitter.next_piece().unwrap() {
                if let CopyPiece::Row { bytes, keys, .. } = piece {
                    black_box(bytes);
                    keys.iter().for_each(|key| drop(black_box(key)));
                }
                count += 1;
            }
        }
        assert!(count >= 1_000, "{count}");
    })
}

/// What three shards say, a row in each message.
pub fn copy_out() -> Turn {
    let data = copy_rows(1_000, "text");
    let rows: Vec<Bytes> = data.split_inclusive(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect();
    Box::new(move || {
        let mut joiner = CopyJoiner::new(CopyShape::text(), SHARDS);
        for (number, row) in rows.iter().enumerate() {
            black_box(joiner.push(number * SHARDS / rows.len(), row).unwrap());
        }
        black_box(joiner.finish().unwrap());
    })
}
