//! Facts about the merge as a whole; shared helpers for rows of text cells.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::plan::{AggregateFunction, AggregateOutput, AggregateSpec, ColumnRef, CompareOperator, Condition, OrderKey};
use crate::wire::Format;
use crate::wire::value::type_oid as t;

const ROOMY: Budget = Budget { rows: 100_000, bytes: 64 << 20 };

type Row = Vec<Option<String>>;

fn field(name: &str, type_oid: u32) -> Field {
    Field {
        name: Bytes::copy_from_slice(name.as_bytes()),
        table_oid: 0,
        column: 0,
        type_oid,
        type_size: -1,
        type_modifier: -1,
        format: Format::Text,
    }
}

fn fields(types: &[u32]) -> Vec<Field> {
    types.iter().enumerate().map(|(at, type_oid)| field(&format!("c{at}"), *type_oid)).collect()
}

fn row(cells: &[&str]) -> Row {
    cells.iter().map(|cell| (*cell != "NULL").then(|| (*cell).to_owned())).collect()
}

fn message_of(cells: &[Option<Vec<u8>>]) -> Bytes {
    let mut body = (cells.len() as u16).to_be_bytes().to_vec();
    for cell in cells {
        accumulator::write_cell(cell.as_deref(), &mut body).unwrap();
    }
    message_with(&body)
}

fn message_with(body: &[u8]) -> Bytes {
    [b"D", &(body.len() as u32 + 4).to_be_bytes()[..], body].concat().into()
}

fn message(row: &Row) -> Bytes {
    message_of(&row.iter().map(|cell| cell.clone().map(String::into_bytes)).collect::<Vec<_>>())
}

/// Splits DataRow messages.
fn read_messages(mut bytes: &[u8]) -> Vec<Row> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], b'D');
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        let message = &bytes[..=length];
        bytes = &bytes[length + 1..];
        let count = usize::from(u16::from_be_bytes(message[5..7].try_into().unwrap()));
        let columns = fields(&vec![t::TEXT; count]);
        let mut cells = row::Cells::default();
        cells.read(message, &Layout::new(&columns, 0).unwrap()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        rows.push((0..count).map(|column| cells.bytes(message, column).map(text)).collect());
    }
    rows
}

fn no_constants(_: &Slot) -> Option<Constant> {
    None
}

struct Case {
    spec: MergeSpec,
    types: Vec<u32>,
    limit: Option<u64>,
    offset: u64,
    budget: Budget,
}

impl Case {
    fn new(spec: MergeSpec, types: &[u32]) -> Self {
        Self { spec, types: types.to_vec(), limit: None, offset: 0, budget: ROOMY }
    }

    fn merger(&self, shard_count: usize) -> Result<Merger, ClientError> {
        Merger::new(&self.spec, &fields(&self.types), shard_count, self.limit, self.offset, &no_constants, self.budget)
    }

    fn run(&self, shards: &[Vec<Row>], seed: u64) -> Result<Vec<Row>, ClientError> {
        drive(self.merger(shards.len())?, shards, seed)
    }
}

/// Feeds shards in a random interleaving and pops in between.
fn drive(mut merger: Merger, shards: &[Vec<Row>], seed: u64) -> Result<Vec<Row>, ClientError> {
    let mut out = BytesMut::new();
    let mut next = vec![0; shards.len()];
    let mut state = seed | 1;
    loop {
        let popped = loop {
            match merger.pop(&mut out)? {
                Pop::Rows(_) => {}
                other => break other,
            }
        };
        if popped == Pop::Done {
            assert!(merger.is_done());
            assert!((0..shards.len()).all(|shard| !merger.needs(shard)));
            return Ok(read_messages(&out));
        }
        let needed: Vec<usize> = (0..shards.len()).filter(|shard| merger.needs(*shard)).collect();
        assert!(!needed.is_empty(), "the merge waits for nothing");
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let shard = needed[(state >> 33) as usize % needed.len()];
        // As many rows as one read may bring, in one run or in several.
        let mut run = BytesMut::new();
        let mut is_over = false;
        for _ in 0..=(state >> 60) {
            match shards[shard].get(next[shard]) {
                Some(row) => run.extend_from_slice(&message(row)),
                None => {
                    is_over = true;
                    break;
                }
            }
            next[shard] += 1;
            if state >> 59 & 1 == 0 {
                merger.push(shard, run.split().freeze())?;
            }
        }
        if !run.is_empty() {
            merger.push(shard, run.freeze())?;
        }
        if is_over {
            merger.finish(shard);
        }
    }
}

fn by(column: ColumnRef) -> OrderKey {
    OrderKey { column, descending: false, nulls_first: false, text_is_bytewise: true }
}

fn visible(at: usize) -> OrderKey {
    by(ColumnRef::Visible(at))
}

fn ordered(order: Vec<OrderKey>) -> MergeSpec {
    MergeSpec { order, ..MergeSpec::default() }
}

fn output(column: ColumnRef, function: AggregateFunction) -> AggregateOutput {
    AggregateOutput { column, function }
}

fn aggregate(groups: usize, functions: &[AggregateFunction]) -> MergeSpec {
    let outputs = functions.iter().enumerate().map(|(at, f)| output(ColumnRef::Visible(groups + at), *f)).collect();
    MergeSpec {
        aggregate: Some(AggregateSpec {
            groups: (0..groups).map(ColumnRef::Visible).collect(),
            outputs,
            ..AggregateSpec::default()
        }),
        ..MergeSpec::default()
    }
}

#[test]
fn equal_keys_come_in_the_order_of_the_shards() {
    let case = Case::new(ordered(vec![visible(0)]), &[t::INT4, t::TEXT]);
    let shards =
        [vec![row(&["1", "a"]), row(&["2", "b"])], vec![row(&["1", "c"]), row(&["1", "d"])], vec![row(&["1", "e"])]];
    for seed in 0..20 {
        let names: Vec<String> =
            case.run(&shards, seed).unwrap().into_iter().map(|row| row[1].clone().unwrap()).collect();
        assert_eq!(names, ["a", "c", "d", "e", "b"]);
    }
}

#[test]
fn nulls_stand_where_the_key_says() {
    let shards = |first: bool| {
        let mut shards = [vec![row(&["1"]), row(&["3"])], vec![row(&["2"])]];
        for shard in &mut shards {
            if first {
                shard.insert(0, row(&["NULL"]));
            } else {
                shard.push(row(&["NULL"]));
            }
        }
        shards
    };
    for nulls_first in [true, false] {
        let case = Case::new(ordered(vec![OrderKey { nulls_first, ..visible(0) }]), &[t::INT4]);
        let mut expected = ["1", "2", "3"].map(|cell| row(&[cell])).to_vec();
        for _ in 0..2 {
            expected.insert(if nulls_first { 0 } else { expected.len() }, row(&["NULL"]));
        }
        assert_eq!(case.run(&shards(nulls_first), 7).unwrap(), expected);
    }
}

/// Negative control: the check of the inputs' order sees a comparator with NULLs on the wrong side.
#[test]
#[should_panic(expected = "merge inputs are sorted by the output's comparator")]
fn a_comparator_with_swapped_nulls_is_caught() {
    let case = Case::new(ordered(vec![OrderKey { nulls_first: true, ..visible(0) }]), &[t::INT4]);
    let _ = case.run(&[vec![row(&["1"]), row(&["NULL"])], vec![row(&["2"])]], 1);
}

#[test]
fn hidden_columns_sort_and_do_not_reach_the_client() {
    let spec = MergeSpec { hidden: 1, ..ordered(vec![by(ColumnRef::Hidden(0))]) };
    let case = Case::new(spec, &[t::TEXT, t::JSON, t::INT4]);
    let shards = [vec![row(&["a", "{}", "1"]), row(&["b", "NULL", "4"])], vec![row(&["c", "[]", "2"])]];
    assert_eq!(case.merger(2).unwrap().visible_fields(), &fields(&[t::TEXT, t::JSON])[..]);
    assert_eq!(case.run(&shards, 3).unwrap(), [row(&["a", "{}"]), row(&["c", "[]"]), row(&["b", "NULL"])]);
}

#[test]
fn rows_without_hidden_columns_pass_by_their_bytes() {
    let mut merger = Case::new(ordered(vec![visible(0)]), &[t::NUMERIC]).merger(1).unwrap();
    let sent = message(&row(&["+01.50"]));
    merger.push(0, sent.clone()).unwrap();
    let mut out = BytesMut::new();
    assert_eq!(merger.pop(&mut out).unwrap(), Pop::Rows(1));
    assert_eq!(&out[..], &sent[..]);
    assert_eq!(merger.pop(&mut out).unwrap(), Pop::Pending);
}

#[test]
fn a_satisfied_limit_ends_the_merge_early() {
    let mut case = Case::new(ordered(vec![visible(0)]), &[t::INT4]);
    case.limit = Some(1);
    case.offset = 1;
    let mut merger = case.merger(2).unwrap();
    let mut out = BytesMut::new();
    for shard in 0..2 {
        merger.push(shard, message(&row(&["1"]))).unwrap();
        merger.push(shard, message(&row(&["2"]))).unwrap();
    }
    assert_eq!(merger.pop(&mut out).unwrap(), Pop::Rows(1));
    assert!(merger.is_done() && !merger.needs(0) && !merger.needs(1));
    assert_eq!(merger.pop(&mut out).unwrap(), Pop::Done);
    assert_eq!(read_messages(&out), [row(&["1"])]);
    case.limit = Some(0);
    assert!(case.merger(2).unwrap().is_done());
}

#[test]
fn a_shard_with_a_full_queue_is_not_read() {
    for spec in [ordered(vec![visible(0)]), MergeSpec::default()] {
        let mut merger = Case::new(spec, &[t::TEXT]).merger(2).unwrap();
        let long = message(&vec![Some("x".repeat(1000))]);
        let mut pushed = 0;
        while merger.needs(0) {
            merger.push(0, long.clone()).unwrap();
            pushed += 1;
            assert!(pushed < 100);
        }
    }
}

#[test]
fn types_without_a_known_order_are_refused_before_the_first_row() {
    let unsure = OrderKey { text_is_bytewise: false, ..visible(0) };
    for (key, type_oid) in [
        (unsure, t::TEXT),
        (unsure, t::VARCHAR),
        (unsure, t::BPCHAR),
        (unsure, t::NAME),
        (visible(0), t::JSON),
        (visible(0), t::INET),
        (visible(0), t::MONEY),
        (visible(0), 16_432),
    ] {
        let error = Case::new(ordered(vec![key]), &[type_oid]).merger(2).unwrap_err();
        assert_eq!((error.sqlstate(), error.hint.is_some()), ("0A000", true), "{type_oid}");
    }
}

#[test]
fn aggregates_that_are_not_exact_are_refused_before_the_first_row() {
    let text_minimum = AggregateFunction::Min { text_is_bytewise: false };
    for (function, type_oid) in [
        (AggregateFunction::Sum, t::MONEY),
        (AggregateFunction::Sum, t::INTERVAL),
        (AggregateFunction::Sum, t::INT4),
        (AggregateFunction::BitAnd, t::BIT),
        (AggregateFunction::BoolAnd, t::INT4),
        (text_minimum, t::TEXT),
        (AggregateFunction::Max { text_is_bytewise: true }, t::JSON),
    ] {
        let error = Case::new(aggregate(0, &[function]), &[type_oid]).merger(2).unwrap_err();
        assert_eq!((error.sqlstate(), error.hint.is_some()), ("0A000", true), "{type_oid}");
    }
    let interval_average = MergeSpec {
        hidden: 2,
        ..aggregate(0, &[AggregateFunction::Avg { sum: ColumnRef::Hidden(0), count: ColumnRef::Hidden(1) }])
    };
    assert!(Case::new(interval_average, &[t::INTERVAL, t::INTERVAL, t::INT8]).merger(2).is_err());
}

#[test]
fn distinct_and_group_by_over_types_without_known_equality_are_refused() {
    for type_oid in [t::JSON, 3802, 16_432, t::MONEY] {
        let distinct = MergeSpec { distinct: true, ..MergeSpec::default() };
        assert_eq!(Case::new(distinct, &[type_oid]).merger(2).unwrap_err().sqlstate(), "0A000");
        let grouped = aggregate(1, &[AggregateFunction::Count]);
        assert_eq!(Case::new(grouped, &[type_oid, t::INT8]).merger(2).unwrap_err().sqlstate(), "0A000");
    }
}

#[test]
fn distinct_sees_equal_rows_that_are_no_neighbours() {
    let spec = MergeSpec { distinct: true, ..ordered(vec![visible(0)]) };
    let case = Case::new(spec, &[t::INT4, t::NUMERIC]);
    let shards = [
        vec![row(&["1", "1.0"]), row(&["1", "2"]), row(&["2", "1.0"])],
        vec![row(&["1", "NULL"]), row(&["1", "1.00"]), row(&["1", "NULL"])],
    ];
    let expected = [row(&["1", "1.0"]), row(&["1", "2"]), row(&["1", "NULL"]), row(&["2", "1.0"])];
    assert_eq!(case.run(&shards, 5).unwrap(), expected);
}

#[test]
fn distinct_over_its_budget_is_refused() {
    let mut case = Case::new(MergeSpec { distinct: true, ..MergeSpec::default() }, &[t::INT4]);
    let shards = [(0..10).map(|n| row(&[&n.to_string()])).collect::<Vec<_>>()];
    case.budget = Budget { rows: 9, bytes: 1 << 20 };
    assert_eq!(case.run(&shards, 1).unwrap_err().id, ErrorId::MergeBudgetExceeded);
    case.budget = Budget { rows: 10, bytes: 1 << 20 };
    assert_eq!(case.run(&shards, 1).unwrap().len(), 10);
    // In order, only one run is kept.
    case.spec.order = vec![visible(0)];
    case.budget = Budget { rows: 1, bytes: 1 << 10 };
    assert_eq!(case.run(&shards, 1).unwrap().len(), 10);
}

#[test]
fn groups_over_the_budget_are_refused() {
    let mut case = Case::new(aggregate(1, &[AggregateFunction::Count]), &[t::INT4, t::INT8]);
    let shards = [(0..10).map(|n| row(&[&n.to_string(), "1"])).collect::<Vec<_>>()];
    for budget in [Budget { rows: 9, bytes: 1 << 20 }, Budget { rows: 100, bytes: 1 << 10 }] {
        case.budget = budget;
        let error = case.run(&shards, 1).unwrap_err();
        assert_eq!((error.id, error.sqlstate()), (ErrorId::MergeBudgetExceeded, "53200"));
    }
    // One group whose greatest value is large.
    let mut case = Case::new(aggregate(0, &[AggregateFunction::Max { text_is_bytewise: true }]), &[t::TEXT]);
    case.budget = Budget { rows: 10, bytes: 10_000 };
    let shards = [vec![row(&["a"])], vec![vec![Some("b".repeat(6000))]]];
    assert_eq!(case.run(&shards, 1).unwrap_err().id, ErrorId::MergeBudgetExceeded);
}

#[test]
fn partial_aggregates_combine_as_one_server_would() {
    use AggregateFunction::{BitAnd, BitOr, BoolAnd, BoolOr, Count, Max, Min, Sum};
    let (min, max) = (Min { text_is_bytewise: true }, Max { text_is_bytewise: true });
    for (function, type_oid, partials, expected) in [
        (Count, t::INT8, &["3", "0", "4"][..], "7"),
        (Sum, t::INT8, &["3", "NULL", "-4"], "-1"),
        (Sum, t::INT8, &["NULL", "NULL"], "NULL"),
        (Sum, t::INT8, &["9223372036854775807", "1", "-1"], "9223372036854775807"),
        (Sum, t::NUMERIC, &["1.5", "2.25", "NULL"], "3.75"),
        (Sum, t::NUMERIC, &["NaN", "2.25"], "NaN"),
        (Sum, t::FLOAT4, &["0.1", "0.2"], "0.3"),
        (Sum, t::FLOAT8, &["0.1", "0.2"], "0.30000000000000004"),
        (Sum, t::FLOAT8, &["Infinity", "-Infinity"], "NaN"),
        (min, t::NUMERIC, &["NaN", "10.0", "9"], "9"),
        (max, t::FLOAT8, &["1e5", "NaN", "Infinity"], "NaN"),
        (max, t::TEXT, &["Z", "a", "NULL"], "a"),
        (min, t::DATE, &["2024-02-29", "infinity", "0044-03-15 BC"], "0044-03-15 BC"),
        (max, t::TIMESTAMP_TZ, &["2024-01-01 00:00:00+00", "2024-01-01 01:30:00+02"], "2024-01-01 00:00:00+00"),
        (min, t::INT4, &["NULL", "NULL"], "NULL"),
        (BoolAnd, t::BOOL, &["t", "NULL", "f"], "f"),
        (BoolOr, t::BOOL, &["NULL", "f", "t"], "t"),
        (BoolOr, t::BOOL, &["NULL"], "NULL"),
        (BitAnd, t::INT2, &["-1", "12", "10"], "8"),
        (BitOr, t::INT8, &["-9223372036854775808", "1"], "-9223372036854775807"),
    ] {
        let case = Case::new(aggregate(0, &[function]), &[type_oid]);
        let shards: Vec<Vec<Row>> = partials.iter().map(|cell| vec![row(&[cell])]).collect();
        assert_eq!(case.run(&shards, 11).unwrap(), [row(&[expected])], "{function:?} {partials:?}");
    }
}

#[test]
fn sums_that_leave_their_type_are_errors() {
    for (type_oid, partials) in
        [(t::INT8, ["9223372036854775807", "1"]), (t::FLOAT8, ["1.7e308", "1.7e308"]), (t::FLOAT4, ["3e38", "3e38"])]
    {
        let case = Case::new(aggregate(0, &[AggregateFunction::Sum]), &[type_oid]);
        assert!(case.run(&partials.map(|cell| vec![row(&[cell])]), 1).is_err(), "{partials:?}");
    }
}

#[test]
fn averages_come_from_sums_and_counts() {
    let function = AggregateFunction::Avg { sum: ColumnRef::Hidden(0), count: ColumnRef::Hidden(1) };
    let spec = MergeSpec { hidden: 2, ..aggregate(0, &[function]) };
    for (types, shards, expected) in [
        (
            [t::NUMERIC, t::INT8, t::INT8],
            [["1", "1", "1"], ["NULL", "NULL", "0"], ["2", "4", "2"]],
            "1.6666666666666667",
        ),
        (
            [t::NUMERIC, t::NUMERIC, t::INT8],
            [["1", "1.00", "1"], ["0", "0", "1"], ["2", "4", "2"]],
            "1.2500000000000000",
        ),
        (
            [t::FLOAT8, t::FLOAT8, t::INT8],
            [["1", "1", "1"], ["NULL", "NULL", "0"], ["2", "4", "2"]],
            "1.6666666666666667",
        ),
        ([t::FLOAT8, t::FLOAT4, t::INT8], [["1", "1", "1"], ["0.5", "9", "1"], ["2", "9", "2"]], "1.375"),
        ([t::NUMERIC, t::INT8, t::INT8], [["NULL", "NULL", "0"]; 3], "NULL"),
        ([t::FLOAT8, t::FLOAT8, t::INT8], [["NULL", "NULL", "0"]; 3], "NULL"),
    ] {
        let case = Case::new(spec.clone(), &types);
        assert_eq!(case.run(&shards.map(|cells| vec![row(&cells)]), 1).unwrap(), [row(&[expected])]);
    }
}

#[test]
fn combined_cells_come_in_the_format_of_the_column() {
    let functions = [AggregateFunction::Count, AggregateFunction::Sum];
    let mut columns = fields(&[t::INT8, t::NUMERIC]);
    for column in &mut columns {
        column.format = Format::Binary;
    }
    let mut merger = Merger::new(&aggregate(0, &functions), &columns, 2, None, 0, &no_constants, ROOMY).unwrap();
    let numeric = |text: &str| Some(crate::base::numeric::Numeric::from_text(text).unwrap().to_binary());
    for (shard, sum) in ["1.5", "2.25"].into_iter().enumerate() {
        merger.push(shard, message_of(&[Some(5i64.to_be_bytes().to_vec()), numeric(sum)])).unwrap();
        merger.finish(shard);
    }
    let mut out = BytesMut::new();
    assert_eq!(merger.pop(&mut out).unwrap(), Pop::Rows(1));
    assert_eq!(&out[..], &message_of(&[Some(10i64.to_be_bytes().to_vec()), numeric("3.75")])[..]);
}

#[test]
fn an_aggregate_without_groups_gives_a_row_even_of_nothing() {
    let case = Case::new(aggregate(0, &[AggregateFunction::Count, AggregateFunction::Sum]), &[t::INT8, t::INT8]);
    assert_eq!(case.run(&[vec![], vec![]], 1).unwrap(), [row(&["0", "NULL"])]);
    let grouped = Case::new(aggregate(1, &[AggregateFunction::Count]), &[t::INT4, t::INT8]);
    assert!(grouped.run(&[vec![], vec![]], 1).unwrap().is_empty());
}

fn compare_count(operator: CompareOperator, value: Slot) -> Condition {
    Condition::Compare { column: ColumnRef::Visible(1), operator, value, text_is_bytewise: false }
}

fn having(condition: Condition, constant: Option<Constant>) -> Result<Vec<String>, ClientError> {
    let mut spec = aggregate(1, &[AggregateFunction::Sum]);
    let part = spec.aggregate.as_mut().unwrap();
    part.having = Some(condition);
    part.order = vec![visible(0)];
    let constants = move |_: &Slot| constant.clone();
    let merger = Merger::new(&spec, &fields(&[t::TEXT, t::INT8]), 2, None, 0, &constants, ROOMY)?;
    let shards = [
        vec![row(&["a", "1"]), row(&["b", "5"]), row(&["n", "NULL"])],
        vec![row(&["c", "9"]), row(&["a", "3"]), row(&["n", "NULL"])],
    ];
    Ok(drive(merger, &shards, 1)?.into_iter().map(|row| row[0].clone().unwrap()).collect())
}

#[test]
fn having_looks_at_combined_values() {
    let literal = Slot::Literal { index: 0, negative: false };
    let number = |text: &'static str| Some(Constant::number(text));
    let over = |value| compare_count(CompareOperator::Greater, value);
    assert_eq!(having(over(literal.clone()), number("3")).unwrap(), ["a", "b", "c"]);
    assert_eq!(having(over(literal.clone()), number("4.5")).unwrap(), ["b", "c"]);
    assert_eq!(having(over(literal.clone()), Some(Constant::quoted("4"))).unwrap(), ["b", "c"]);
    let binary = Constant::parameter(t::INT4, Format::Binary, Some(Bytes::copy_from_slice(&5i32.to_be_bytes())));
    assert_eq!(having(compare_count(CompareOperator::Equal, Slot::Param(1)), Some(binary)).unwrap(), ["b"]);
    assert_eq!(having(over(literal.clone()), Some(Constant::quoted("x"))).unwrap_err().sqlstate(), "22P02");
    let date = Constant::parameter(t::DATE, Format::Text, Some("2024-01-01".into()));
    assert_eq!(having(over(literal), Some(date)).unwrap_err().sqlstate(), "0A000");
}

#[test]
fn having_has_three_truth_values() {
    let unknown = || compare_count(CompareOperator::Equal, Slot::Null);
    let is_null = |negated| Condition::IsNull { column: ColumnRef::Visible(1), negated };
    let all = ["a", "b", "c", "n"];
    assert!(having(unknown(), None).unwrap().is_empty());
    assert!(having(Condition::Not(Box::new(unknown())), None).unwrap().is_empty());
    assert_eq!(having(is_null(false), None).unwrap(), ["n"]);
    assert_eq!(having(Condition::Or(vec![unknown(), is_null(true)]), None).unwrap(), ["a", "b", "c"]);
    assert!(having(Condition::And(vec![unknown(), is_null(true)]), None).unwrap().is_empty());
    let never = Condition::And(vec![unknown(), Condition::Or(vec![])]);
    assert_eq!(having(Condition::Not(Box::new(never)), None).unwrap(), all);
}

#[test]
fn groups_are_sorted_by_combined_values_then_limited() {
    let mut spec = aggregate(1, &[AggregateFunction::Count]);
    spec.aggregate.as_mut().unwrap().order =
        vec![OrderKey { descending: true, nulls_first: true, ..visible(1) }, visible(0)];
    let mut case = Case::new(spec, &[t::NUMERIC, t::INT8]);
    case.limit = Some(2);
    case.offset = 1;
    let shards = [
        vec![row(&["1.0", "4"]), row(&["2", "5"]), row(&["NULL", "3"])],
        vec![row(&["1.00", "6"]), row(&["NULL", "3"]), row(&["3", "6"])],
    ];
    assert_eq!(case.run(&shards, 9).unwrap(), [row(&["3", "6"]), row(&["NULL", "6"])]);
}

#[test]
fn malformed_rows_are_errors() {
    for broken in [&[][..], &[0, 2, 0, 0, 0, 1, b'1'], &[0, 1, 0, 0, 0, 9, b'1'], &[0, 1, 0, 0, 0, 1, b'1', 0]] {
        let mut merger = Case::new(ordered(vec![visible(0)]), &[t::INT4]).merger(1).unwrap();
        assert_eq!(merger.push(0, message_with(broken)).unwrap_err().sqlstate(), "08P01");
    }
    let mut merger = Case::new(ordered(vec![visible(0)]), &[t::DATE]).merger(1).unwrap();
    assert_eq!(merger.push(0, message(&row(&["29.02.2024"]))).unwrap_err().sqlstate(), "0A000");
}

/// A row of a small integer, a short text and a tag that tells rows apart.
fn small_row() -> impl Strategy<Value = Row> {
    (prop::option::of(-3i32..4), prop::option::of("[ab ]{0,2}"), 0u32..4)
        .prop_map(|(number, text, tag)| vec![number.map(|n| n.to_string()), text, Some(tag.to_string())])
}

fn number(cell: &Option<String>) -> Option<i32> {
    cell.as_ref().map(|text| text.parse().unwrap())
}

/// An order written apart from the one that is judged.
fn model_order(a: &Row, b: &Row, descending: bool, nulls_first: bool) -> Ordering {
    let with_nulls = |a_null: bool, b_null: bool, values: Ordering| match (a_null, b_null) {
        (false, false) if descending => values.reverse(),
        (false, false) => values,
        (a_null, b_null) if nulls_first => b_null.cmp(&a_null),
        (a_null, b_null) => a_null.cmp(&b_null),
    };
    let first = with_nulls(a[0].is_none(), b[0].is_none(), number(&a[0]).cmp(&number(&b[0])));
    first.then_with(|| with_nulls(a[1].is_none(), b[1].is_none(), a[1].cmp(&b[1])))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_of_sorted_shards_is_the_whole_sorted(
        rows in prop::collection::vec((small_row(), 0usize..5), 0..60),
        (descending, nulls_first, distinct) in any::<(bool, bool, bool)>(),
        (limit, offset, seed) in (prop::option::of(0u64..20), 0u64..10, any::<u64>()),
    ) {
        let mut shards = vec![Vec::new(); 5];
        for (row, shard) in &rows {
            shards[*shard].push(row.clone());
        }
        for shard in &mut shards {
            shard.sort_by(|a, b| model_order(a, b, descending, nulls_first));
        }
        let key = |at| OrderKey { descending, nulls_first, ..visible(at) };
        let mut case = Case::new(MergeSpec { distinct, ..ordered(vec![key(0), key(1)]) }, &[t::INT4, t::TEXT, t::INT4]);
        (case.limit, case.offset) = (limit, offset);
        // Ties by shard: a stable sort of the shards one after another.
        let mut expected: Vec<Row> = shards.concat();
        expected.sort_by(|a, b| model_order(a, b, descending, nulls_first));
        if distinct {
            let mut seen = HashSet::new();
            expected.retain(|row| seen.insert(row.clone()));
        }
        let expected: Vec<Row> =
            expected.into_iter().skip(offset as usize).take(limit.map_or(usize::MAX, |n| n as usize)).collect();
        prop_assert_eq!(case.run(&shards, seed).unwrap(), expected);
    }

    #[test]
    fn an_unordered_merge_keeps_every_row_once(
        rows in prop::collection::vec((small_row(), 0usize..4), 0..60),
        distinct in any::<bool>(),
        (limit, offset, seed) in (prop::option::of(0u64..20), 0u64..10, any::<u64>()),
    ) {
        let mut shards = vec![Vec::new(); 4];
        for (row, shard) in &rows {
            shards[*shard].push(row.clone());
        }
        let mut whole: Vec<Row> = shards.concat();
        whole.sort();
        if distinct {
            whole.dedup();
        }
        let mut case = Case::new(MergeSpec { distinct, ..MergeSpec::default() }, &[t::INT4, t::TEXT, t::INT4]);
        let mut all = case.run(&shards, seed).unwrap();
        all.sort();
        prop_assert_eq!(&all, &whole);
        (case.limit, case.offset) = (limit, offset);
        let some = case.run(&shards, seed).unwrap();
        let expected = whole.len().saturating_sub(offset as usize).min(limit.map_or(usize::MAX, |n| n as usize));
        prop_assert_eq!(some.len(), expected);
    }

    #[test]
    fn partial_aggregates_give_the_whole_aggregates(
        rows in prop::collection::vec((prop::option::of(0i32..4), prop::option::of(-50i64..50), 0usize..4), 0..60),
        seed in any::<u64>(),
    ) {
        type Values = Vec<Option<i64>>;
        let group = |rows: &mut dyn Iterator<Item = (Option<i32>, Option<i64>)>| {
            let mut groups: BTreeMap<(bool, Option<i32>), Values> = BTreeMap::new();
            for (key, value) in rows {
                groups.entry((key.is_none(), key)).or_default().push(value);
            }
            groups
        };
        let summary = |key: Option<i32>, values: &Values| -> Row {
            let known: Vec<i64> = values.iter().flatten().copied().collect();
            let sum = (!known.is_empty()).then(|| known.iter().sum::<i64>());
            vec![
                key.map(|key| key.to_string()),
                Some(values.len().to_string()),
                sum.map(|sum| sum.to_string()),
                known.iter().min().map(ToString::to_string),
                known.iter().max().map(ToString::to_string),
            ]
        };
        let shards: Vec<Vec<Row>> = (0..4)
            .map(|shard| {
                let mut mine = rows.iter().filter(|row| row.2 == shard).map(|row| (row.0, row.1));
                group(&mut mine).iter().map(|((_, key), values)| summary(*key, values)).collect()
            })
            .collect();
        let functions = [
            AggregateFunction::Count,
            AggregateFunction::Sum,
            AggregateFunction::Min { text_is_bytewise: false },
            AggregateFunction::Max { text_is_bytewise: false },
        ];
        let mut spec = aggregate(1, &functions);
        spec.aggregate.as_mut().unwrap().order = vec![visible(0)];
        let case = Case::new(spec, &[t::INT4, t::INT8, t::INT8, t::INT8, t::INT8]);
        let expected: Vec<Row> = group(&mut rows.iter().map(|row| (row.0, row.1)))
            .iter()
            .map(|((_, key), values)| summary(*key, values))
            .collect();
        prop_assert_eq!(case.run(&shards, seed).unwrap(), expected);
    }
}
