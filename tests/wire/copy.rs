//! COPY: the same rows whatever the pieces, the same as the second opinion, and what was written comes back.

use bytes::Bytes;
use ostrakon::wire::copy::{
    CopyError, CopyEvent, CopyField, CopyFormat, CopyJoiner, CopyRow, CopyShape, CopySplitter, append_field,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::reference;

/// Everything that comes out, an error that does not end the copy among it, and the error that did.
pub type Events = (Vec<Result<CopyEvent, CopyError>>, Option<CopyError>);

pub fn is_final(error: &CopyError) -> bool {
    !matches!(error, CopyError::MissingField { .. } | CopyError::UnterminatedQuote { .. })
}

/// Pushes the data cut at multiples of these sizes, in turns; an empty list means whole.
pub fn split(shape: &CopyShape, keys: &[usize], data: &[u8], sizes: &[usize]) -> Events {
    let mut splitter = CopySplitter::new(shape.clone(), keys.to_vec());
    let mut events = Vec::new();
    let mut rest = data;
    let mut sizes = sizes.iter().copied().cycle();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(sizes.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        rest = later;
        splitter.push(piece);
        if let Some(error) = drain(&mut splitter, &mut events) {
            return (events, Some(error));
        }
    }
    splitter.finish();
    let error = drain(&mut splitter, &mut events);
    (events, error)
}

fn drain(splitter: &mut CopySplitter, events: &mut Vec<Result<CopyEvent, CopyError>>) -> Option<CopyError> {
    loop {
        match splitter.next_event() {
            Ok(None) => return None,
            Ok(Some(event)) => events.push(Ok(event)),
            Err(error) if is_final(&error) => return Some(error),
            Err(error) => events.push(Err(error)),
        }
    }
}

fn shape() -> impl Strategy<Value = CopyShape> {
    let text = (
        any::<bool>(),
        prop_oneof![Just(b'\t'), Just(b','), Just(b'|')],
        prop_oneof![Just("\\N"), Just(""), Just("1")],
    )
        .prop_map(|(header, delimiter, null)| CopyShape {
            header,
            delimiter,
            null: null.into(),
            ..CopyShape::text()
        });
    let csv = (
        any::<bool>(),
        prop_oneof![Just(b','), Just(b'\t')],
        prop_oneof![Just(""), Just("N")],
        prop_oneof![Just(b'"'), Just(b'\\'), Just(b'x')],
    )
        .prop_map(|(header, delimiter, null, escape)| CopyShape {
            header,
            delimiter,
            null: null.into(),
            escape,
            ..CopyShape::csv()
        });
    prop_oneof![text, csv]
}

/// Bytes that mean something, densely.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    vec(prop::sample::select(b"\\\\\\\n\n\n\r\"\"\t,|.N1x7ab".to_vec()), 0..60)
}

/// Line ends of one kind only, so that the data gets further.
fn calm(data: &[u8], line_end: &[u8]) -> Vec<u8> {
    let lines: Vec<_> = data.split(|byte| matches!(byte, b'\n' | b'\r')).collect();
    lines.join(line_end)
}

fn expected(shape: &CopyShape, keys: &[usize], data: &[u8]) -> Events {
    let outcome = reference::read(shape, data);
    let mut events = Vec::new();
    for (index, line) in outcome.lines.into_iter().enumerate() {
        let bytes = Bytes::from(line.bytes);
        if index == 0 && shape.header {
            events.push(Ok(CopyEvent::Header(bytes)));
            continue;
        }
        let fields = line.fields.unwrap_or_default();
        let wanted = keys.iter().copied().max();
        events.push(match wanted {
            Some(wanted) if wanted >= fields.len() => {
                // Which of the two errors it is shows in the quotes, which the reference does not tell.
                Err(CopyError::UnterminatedQuote { row: bytes })
            }
            _ => {
                let field = |key: &usize| fields[*key].clone().map_or(CopyField::Null, CopyField::Text);
                Ok(CopyEvent::Row(CopyRow { bytes, fields: None, keys: keys.iter().map(field).collect() }))
            }
        });
    }
    events.extend(outcome.marker.map(|marker| Ok(CopyEvent::End(Bytes::from(marker)))));
    (events, outcome.error)
}

/// Makes the two errors about a row one.
fn simplified((events, error): Events) -> Events {
    let simplify = |event| match event {
        Err(CopyError::MissingField { row, .. } | CopyError::UnterminatedQuote { row }) => {
            Err(CopyError::UnterminatedQuote { row })
        }
        other => other,
    };
    (events.into_iter().map(simplify).collect(), error)
}

fn put_text(shape: &CopyShape, fields: &[Option<Vec<u8>>], out: &mut Vec<u8>) {
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(shape.delimiter);
        }
        match field {
            None => out.extend_from_slice(&shape.null),
            Some(value) => value.iter().for_each(|byte| out.extend_from_slice(format!("\\{byte:03o}").as_bytes())),
        }
    }
}

fn put_csv(shape: &CopyShape, fields: &[Option<Vec<u8>>], out: &mut Vec<u8>) {
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(shape.delimiter);
        }
        let Some(value) = field else {
            out.extend_from_slice(&shape.null);
            continue;
        };
        out.push(shape.quote);
        for byte in value {
            if [shape.quote, shape.escape].contains(byte) {
                out.push(shape.escape);
            }
            out.push(*byte);
        }
        out.push(shape.quote);
    }
}

fn put_binary(fields: &[Option<Vec<u8>>], out: &mut Vec<u8>) {
    out.extend_from_slice(&i16::try_from(fields.len()).unwrap().to_be_bytes());
    for field in fields {
        match field {
            None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(value) => {
                out.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                out.extend_from_slice(value);
            }
        }
    }
}

pub const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x03ext";

fn put_row(shape: &CopyShape, fields: &[Option<Vec<u8>>], out: &mut Vec<u8>) {
    match shape.format {
        CopyFormat::Text => put_text(shape, fields, out),
        CopyFormat::Csv => put_csv(shape, fields, out),
        CopyFormat::Binary => return put_binary(fields, out),
    }
    out.push(b'\n');
}

fn any_shape() -> impl Strategy<Value = CopyShape> {
    prop_oneof![2 => shape(), 1 => Just(CopyShape::binary())]
}

fn rows() -> impl Strategy<Value = Vec<Vec<Option<Vec<u8>>>>> {
    vec(vec(option::weighted(0.8, vec(any::<u8>(), 0..6)), 3), 0..6)
}

fn key(shape: &CopyShape, field: &Option<Vec<u8>>) -> CopyField {
    match field {
        None => CopyField::Null,
        Some(value) if shape.format == CopyFormat::Binary => CopyField::Binary(Bytes::from(value.clone())),
        Some(value) => CopyField::Text(value.clone()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn pieces_make_no_difference_and_the_second_opinion_agrees(
        shape in shape(), data in noise(), sizes in vec(1usize..9, 1..6), keys in vec(0usize..3, 0..3),
        line_end in option::of(prop::sample::select(vec!["\n", "\r", "\r\n"])),
    ) {
        let data = line_end.map_or(data.clone(), |line_end| calm(&data, line_end.as_bytes()));
        let whole = split(&shape, &keys, &data, &[]);
        prop_assert_eq!(&split(&shape, &keys, &data, &sizes), &whole);
        prop_assert_eq!(&split(&shape, &keys, &data, &[1]), &whole);
        prop_assert_eq!(simplified(whole), simplified(expected(&shape, &keys, &data)));
    }
}

proptest! {
    #[test]
    fn fields_come_back_as_written_and_one_more_when_appended(
        shape in any_shape(), rows in rows(), sizes in vec(1usize..30, 1..6), keys in vec(0usize..3, 0..4),
        more in vec(any::<u8>(), 0..5),
    ) {
        let mut data = if shape.format == CopyFormat::Binary { BINARY_HEADER.to_vec() } else { Vec::new() };
        if shape.header {
            data.extend_from_slice(b"a,b\n");
        }
        // An empty value and an empty NULL marker look alike in text.
        let rows: Vec<Vec<_>> = rows
            .into_iter()
            .map(|row| row.into_iter().map(|field| field.filter(|value| *value != shape.null)).collect())
            .collect();
        rows.iter().for_each(|row| put_row(&shape, row, &mut data));
        let (events, error) = split(&shape, &keys, &data, &sizes);
        prop_assert_eq!(error, None);
        let mut rest = &rows[..];
        for event in events {
            let CopyEvent::Row(row) = event.unwrap() else { continue };
            let (fields, later) = rest.split_first().unwrap();
            rest = later;
            let expected: Vec<_> = keys.iter().map(|index| key(&shape, &fields[*index])).collect();
            prop_assert_eq!(&row.keys, &expected);

            let mut data = if shape.format == CopyFormat::Binary { BINARY_HEADER.to_vec() } else { Vec::new() };
            data.extend_from_slice(&append_field(&shape, &row.bytes, &more).unwrap());
            let unheaded = CopyShape { header: false, ..shape.clone() };
            let (events, error) = split(&unheaded, &[0, 1, 2, 3], &data, &[]);
            prop_assert_eq!(error, None);
            let Some(Ok(CopyEvent::Row(longer))) = events.last() else { panic!("no row: {events:?}") };
            let mut expected: Vec<_> = fields.iter().map(|field| key(&shape, field)).collect();
            expected.push(key(&shape, &Some(more.clone())));
            if shape.format != CopyFormat::Text || !more.is_empty() || !shape.null.is_empty() {
                prop_assert_eq!(&longer.keys, &expected);
            }
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn joined_outputs_hold_all_rows_once(shape in any_shape(), parts in vec(rows(), 1..4), sizes in vec(1usize..40, 1..5)) {
        let mut outputs = Vec::new();
        let mut all = Vec::new();
        let head = |out: &mut Vec<u8>| match shape.format {
            CopyFormat::Binary => out.extend_from_slice(BINARY_HEADER),
            _ if shape.header => out.extend_from_slice(b"a\n"),
            _ => {}
        };
        let tail: &[u8] = if shape.format == CopyFormat::Binary { b"\xff\xff" } else { b"" };
        head(&mut all);
        for rows in &parts {
            let mut output = Vec::new();
            head(&mut output);
            rows.iter().for_each(|row| put_row(&shape, row, &mut output));
            rows.iter().for_each(|row| put_row(&shape, row, &mut all));
            output.extend_from_slice(tail);
            outputs.push(output);
        }
        all.extend_from_slice(tail);
        let mut joiner = CopyJoiner::new(shape, parts.len());
        let mut joined = Vec::new();
        for (part, output) in outputs.iter().enumerate() {
            for piece in output.chunks(sizes[part % sizes.len()]) {
                joined.extend_from_slice(&joiner.push(part, &Bytes::copy_from_slice(piece)).unwrap());
            }
        }
        joined.extend_from_slice(&joiner.finish().unwrap());
        prop_assert_eq!(joined, all);
    }
}
