//! Compares two answers as a client would: columns, types, rows, counts, codes, transaction status.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cases::Order;
use crate::raw::{Answer, Cell, Reply, text_of};

const INT8: u32 = 20;
const INT4: u32 = 23;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const UUID: u32 = 2950;
/// Types made by users have OIDs from here on; they differ from server to server.
const FIRST_USER_OID: u32 = 16_384;
const EPOCH_2000_SECONDS: i64 = 946_684_800;

/// How one statement's answers are compared.
#[derive(Clone, Debug)]
pub struct How {
    pub order: Order,
    pub shape: bool,
    pub ids: Vec<usize>,
    pub binary: bool,
}

/// Generated ids of one side, numbered as they are first seen.
#[derive(Debug, Default)]
pub struct Ids {
    seen: HashMap<String, usize>,
}

impl Ids {
    fn number(&mut self, value: String) -> String {
        let next = self.seen.len() + 1;
        format!("#{}", self.seen.entry(value).or_insert(next))
    }

    /// The number of an id seen before; `#?` for a generated id that no answer showed.
    pub fn known(&self, value: &str, is_fixture: bool) -> String {
        match self.seen.get(value) {
            Some(number) => format!("#{number}"),
            None if is_fixture => value.into(),
            None => "#?".into(),
        }
    }
}

/// Days since 1970.
fn today() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(seconds).unwrap() / 86_400
}

/// `YYYY-MM-DD` of a day since 1970 (Howard Hinnant's days-to-civil).
fn civil(day: i64) -> String {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

/// Whether a date or timestamp is of about now: it came from the clock, not from the data.
fn is_now(bytes: &[u8], type_oid: u32, binary: bool) -> bool {
    let today = today();
    if !binary {
        let text = String::from_utf8_lossy(bytes);
        return (today - 1..=today + 1).any(|day| text.starts_with(&civil(day)));
    }
    let day = match (type_oid, <[u8; 8]>::try_from(bytes), <[u8; 4]>::try_from(bytes)) {
        (DATE, _, Ok(days)) => i64::from(i32::from_be_bytes(days)) + EPOCH_2000_SECONDS / 86_400,
        (_, Ok(micros), _) => (i64::from_be_bytes(micros) / 1_000_000 + EPOCH_2000_SECONDS) / 86_400,
        _ => return false,
    };
    (today - 1..=today + 1).contains(&day)
}

/// Whether a text value of a date or timestamp type is of about now.
pub fn is_about_now(bytes: &[u8], type_oid: u32) -> bool {
    matches!(type_oid, DATE | TIMESTAMP | TIMESTAMPTZ) && is_now(bytes, type_oid, false)
}

/// An id in the form of its text, whatever the format.
pub fn id_text(bytes: &[u8], type_oid: u32, binary: bool) -> String {
    if binary && type_oid == INT8 {
        return <[u8; 8]>::try_from(bytes).map_or_else(|_| "bad int8".into(), |b| i64::from_be_bytes(b).to_string());
    }
    if binary && type_oid == INT4 {
        return <[u8; 4]>::try_from(bytes).map_or_else(|_| "bad int4".into(), |b| i32::from_be_bytes(b).to_string());
    }
    if binary && type_oid == UUID {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        return [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)].map(|(a, b)| hex.get(a..b).unwrap_or("?")).join("-");
    }
    String::from_utf8_lossy(bytes).into_owned()
}

/// The head of a binary array whose elements are of a user's type: dimensions, flags, the type.
fn is_array_of_users(bytes: &[u8]) -> bool {
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    matches!((word(0), word(4), word(8)), (Some(0..=6), Some(0..=1), Some(oid)) if oid >= FIRST_USER_OID)
}

fn normal_cell(cell: &Cell, type_oid: u32, is_id: bool, binary: bool, ids: &mut Ids) -> Cell {
    let bytes = cell.as_ref()?;
    if is_id {
        return Some(ids.number(id_text(bytes, type_oid, binary)).into_bytes());
    }
    if matches!(type_oid, DATE | TIMESTAMP | TIMESTAMPTZ) && is_now(bytes, type_oid, binary) {
        return Some(b"<now>".to_vec());
    }
    if binary && type_oid == FIRST_USER_OID && is_array_of_users(bytes) {
        // An array names the type of its elements, which has a number of its own on each server.
        return Some([bytes.get(..8).unwrap_or_default(), b"<own>", bytes.get(12..).unwrap_or_default()].concat());
    }
    Some(bytes.clone())
}

fn normal(answer: &Answer, how: &How, ids: &mut Ids) -> Answer {
    let mut normal = answer.clone();
    for column in normal.columns.iter_mut().flatten() {
        column.type_oid = column.type_oid.min(FIRST_USER_OID);
    }
    for oid in normal.parameters.iter_mut().flatten() {
        *oid = (*oid).min(FIRST_USER_OID);
    }
    let types: Vec<u32> = normal.columns.iter().flatten().map(|column| column.type_oid).collect();
    for row in &mut normal.rows {
        for (index, cell) in row.iter_mut().enumerate() {
            let type_oid = types.get(index).copied().unwrap_or(0);
            *cell = normal_cell(cell, type_oid, how.ids.contains(&index), how.binary, ids);
        }
        if how.shape {
            row.iter_mut().for_each(|cell| *cell = None);
        }
    }
    match how.order {
        Order::Total => {}
        Order::Any | Order::Ties(_) => normal.rows.sort(),
    }
    if how.order == Order::Any {
        normal.copied = normal.copied.map(|bytes| sorted_copy(&bytes));
    }
    if how.shape {
        normal.copied = None;
        normal.notices.clear();
    }
    if let Some(fault) = &mut normal.fault {
        fault.message.clear();
        fault.hint = None;
        // How much of an answer was sent before its error is nobody's promise.
        normal.columns = None;
        normal.parameters = None;
        normal.rows.clear();
        normal.copied = None;
        normal.notices.clear();
    }
    normal
}

/// COPY data with its rows sorted: lines, or the tuples of the binary format.
fn sorted_copy(bytes: &[u8]) -> Vec<u8> {
    if let Some(tuples) = bytes.strip_prefix(b"PGCOPY\n\xff\r\n\0").and_then(binary_tuples) {
        return sorted(tuples).concat();
    }
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    lines.sort();
    lines.concat()
}

fn sorted(mut rows: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    rows.sort();
    rows
}

fn binary_tuples(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut at = 8;
    let mut tuples = Vec::new();
    loop {
        let begin = at;
        let fields = i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        at += 2;
        if fields < 0 {
            return (at == bytes.len()).then_some(tuples);
        }
        for _ in 0..fields {
            let length = i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
            at += 4 + usize::try_from(length).unwrap_or(0);
        }
        tuples.push(bytes.get(begin..at)?.to_vec());
    }
}

fn show(rows: &[Vec<Cell>]) -> String {
    let line = |row: &Vec<Cell>| row.iter().map(text_of).collect::<Vec<_>>().join(" | ");
    let mut text: Vec<String> = rows.iter().take(12).map(line).collect();
    if rows.len() > text.len() {
        text.push(format!("… {} rows", rows.len()));
    }
    text.join("\n      ")
}

fn sequence(answer: &Answer, columns: &[usize]) -> Vec<Vec<Cell>> {
    answer.rows.iter().map(|row| columns.iter().map(|c| row.get(*c).cloned().flatten()).collect()).collect()
}

fn answer_difference(expected: &Answer, actual: &Answer, how: &How, ids: &mut [Ids; 2]) -> Option<String> {
    let [expected_ids, actual_ids] = ids;
    let (left, right) = (normal(expected, how, expected_ids), normal(actual, how, actual_ids));
    if left.fault != right.fault {
        let name = |answer: &Answer| match &answer.fault {
            Some(fault) => format!("{} {} hint {:?}", fault.sqlstate, fault.message, fault.hint),
            None => format!("success, {:?}", answer.tag),
        };
        return Some(format!("error: expected {}, got {}", name(expected), name(actual)));
    }
    if left.columns != right.columns {
        return Some(format!("columns: expected {:?}, got {:?}", left.columns, right.columns));
    }
    if left.parameters != right.parameters {
        return Some(format!("parameter types: expected {:?}, got {:?}", left.parameters, right.parameters));
    }
    if left.rows != right.rows {
        return Some(format!("rows:\n    expected\n      {}\n    got\n      {}", show(&left.rows), show(&right.rows)));
    }
    if let Order::Ties(columns) = &how.order
        && sequence(expected, columns) != sequence(actual, columns)
    {
        return Some(format!(
            "order of columns {columns:?}:\n    expected\n      {}\n    got\n      {}",
            show(&expected.rows),
            show(&actual.rows)
        ));
    }
    if left.copied != right.copied {
        let text = |answer: &Answer| answer.copied.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        return Some(format!("COPY data: expected {:?}, got {:?}", text(&left), text(&right)));
    }
    if left.notices != right.notices {
        return Some(format!("notices: expected {:?}, got {:?}", left.notices, right.notices));
    }
    (left.tag != right.tag).then(|| format!("command tag: expected {:?}, got {:?}", left.tag, right.tag))
}

/// What differs between two replies, if anything. `ids`: the expected side's, the actual side's.
pub fn difference(expected: &Reply, actual: &Reply, how: &How, ids: &mut [Ids; 2]) -> Option<String> {
    if expected.answers.len() != actual.answers.len() {
        return Some(format!(
            "answers: expected {} ({}), got {} ({})",
            expected.answers.len(),
            expected.sqlstate(),
            actual.answers.len(),
            actual.fault().map_or_else(String::new, |fault| format!("{} {}", fault.sqlstate, fault.message))
        ));
    }
    for (left, right) in expected.answers.iter().zip(&actual.answers) {
        if let Some(difference) = answer_difference(left, right, how, ids) {
            return Some(difference);
        }
    }
    (expected.status != actual.status)
        .then(|| format!("transaction status: expected {}, got {}", expected.status, actual.status))
}

#[cfg(test)]
mod planted {
    //! The comparer is shown to see every kind of wrong answer.
    use super::*;
    use crate::raw::{Column, Fault};

    fn rows(values: &[&str]) -> Vec<Vec<Cell>> {
        values.iter().map(|value| vec![Some(value.as_bytes().to_vec())]).collect()
    }

    fn reply(values: &[&str]) -> Reply {
        let columns = Some(vec![Column { name: "a".into(), type_oid: 25 }]);
        let tag = Some(format!("SELECT {}", values.len()));
        Reply { answers: vec![Answer { columns, rows: rows(values), tag, ..Answer::default() }], status: 'I' }
    }

    fn failed(sqlstate: &str) -> Reply {
        let fault = Fault { sqlstate: sqlstate.into(), message: "text".into(), hint: None };
        Reply { answers: vec![Answer { fault: Some(fault), ..Answer::default() }], status: 'I' }
    }

    fn differ(left: &Reply, right: &Reply, order: Order) -> bool {
        let how = How { order, shape: false, ids: Vec::new(), binary: false };
        difference(left, right, &how, &mut Default::default()).is_some()
    }

    #[test]
    fn equal_replies_are_equal() {
        for order in [Order::Total, Order::Any, Order::Ties(vec![0])] {
            assert!(!differ(&reply(&["1", "2"]), &reply(&["1", "2"]), order));
        }
        assert!(!differ(&reply(&["1", "2"]), &reply(&["2", "1"]), Order::Any));
        assert!(!differ(&failed("23505"), &failed("23505"), Order::Total));
    }

    #[test]
    fn a_wrong_missing_or_duplicate_row_is_seen() {
        for order in [Order::Total, Order::Any, Order::Ties(Vec::new())] {
            for wrong in [&["1", "3"][..], &["1"], &["1", "2", "2"], &["1", "1"], &[]] {
                assert!(differ(&reply(&["1", "2"]), &reply(wrong), order.clone()), "{wrong:?} {order:?}");
            }
        }
    }

    #[test]
    fn a_wrong_order_is_seen() {
        assert!(differ(&reply(&["1", "2"]), &reply(&["2", "1"]), Order::Total));
        assert!(differ(&reply(&["1", "2"]), &reply(&["2", "1"]), Order::Ties(vec![0])));
    }

    #[test]
    fn null_is_not_the_empty_text() {
        let mut null = reply(&[""]);
        null.answers[0].rows[0][0] = None;
        assert!(differ(&reply(&[""]), &null, Order::Any));
    }

    #[test]
    fn a_wrong_count_code_column_type_or_status_is_seen() {
        let right = reply(&["1"]);
        let mut count = right.clone();
        count.answers[0].tag = Some("SELECT 2".into());
        let mut name = right.clone();
        name.answers[0].columns.as_mut().unwrap()[0].name = "b".into();
        let mut kind = right.clone();
        kind.answers[0].columns.as_mut().unwrap()[0].type_oid = 23;
        let mut status = right.clone();
        status.status = 'T';
        let mut notice = right.clone();
        notice.answers[0].notices.push("00000".into());
        let mut twice = right.clone();
        twice.answers.push(right.answers[0].clone());
        for wrong in [&count, &name, &kind, &status, &notice, &twice, &failed("23505")] {
            assert!(differ(&right, wrong, Order::Any), "{wrong:?}");
        }
        assert!(differ(&failed("23505"), &failed("23503"), Order::Any));
    }

    #[test]
    fn copied_rows_are_compared() {
        let copied = |text: &[u8]| {
            let answer = Answer { copied: Some(text.to_vec()), tag: Some("COPY 2".into()), ..Answer::default() };
            Reply { answers: vec![answer], status: 'I' }
        };
        assert!(!differ(&copied(b"1\n2\n"), &copied(b"2\n1\n"), Order::Any));
        assert!(differ(&copied(b"1\n2\n"), &copied(b"2\n1\n"), Order::Total));
        assert!(differ(&copied(b"1\n2\n"), &copied(b"1\n1\n"), Order::Any));
    }

    #[test]
    fn generated_ids_are_equal_when_they_repeat_alike() {
        let how = How { order: Order::Total, shape: false, ids: vec![0], binary: false };
        let mut ids = Default::default();
        assert_eq!(difference(&reply(&["7", "8"]), &reply(&["107", "209"]), &how, &mut ids), None);
        assert_eq!(difference(&reply(&["8"]), &reply(&["209"]), &how, &mut ids), None);
        assert!(difference(&reply(&["8"]), &reply(&["107"]), &how, &mut ids).is_some());
        assert!(difference(&reply(&["9", "10"]), &reply(&["300", "300"]), &how, &mut ids).is_some());
    }

    #[test]
    fn today_is_written_as_postgresql_writes_it() {
        assert_eq!(civil(0), "1970-01-01");
        assert_eq!(civil(19_782), "2024-02-29");
        assert_eq!(civil(20_089), "2025-01-01");
    }
}
