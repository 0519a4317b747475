//! What two servers may answer differently although they mean the same, made equal.
//!
//! Object ids above PostgreSQL's own are numbered by their first appearance. Process ids and secrets
//! lose their values, temporary schemas their numbers, places in PostgreSQL's source are dropped (the
//! proxy's own errors have none), and ParameterStatus messages that stand together are put in order. The product's connections carry its name
//! where a client gives none (so that operators see whose they are). Nothing else is touched.

use std::collections::BTreeMap;

use crate::frames::Frame;

/// Ids from here on are given out by each server for itself (`FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16_384;

#[derive(Default)]
struct Numbers(BTreeMap<u32, u32>);

impl Numbers {
    fn of(&mut self, oid: u32) -> u32 {
        if oid < FIRST_NORMAL_OID {
            return oid;
        }
        let next = FIRST_NORMAL_OID + u32::try_from(self.0.len()).unwrap();
        *self.0.entry(oid).or_insert(next)
    }
}

/// A conversation's replies in comparable form.
pub fn normal(frames: &[Frame]) -> Vec<Frame> {
    let mut numbers = Numbers::default();
    let mut out: Vec<Frame> = frames.iter().map(|frame| normal_frame(frame, &mut numbers)).collect();
    let mut start = 0;
    while start < out.len() {
        let end = start + out[start..].iter().take_while(|frame| frame.tag == b'S').count();
        out[start..end].sort_by(|left, right| left.body.cmp(&right.body));
        start = end.max(start) + 1;
    }
    out
}

fn normal_frame(frame: &Frame, numbers: &mut Numbers) -> Frame {
    let body = match frame.tag {
        b'E' | b'N' => fields(&frame.body),
        b'T' => columns(&frame.body, numbers),
        b't' => parameters(&frame.body, numbers),
        b'K' => Vec::new(),
        b'S' if frame.body == b"application_name\0ostrakon\0" => b"application_name\0\0".to_vec(),
        b'A' => frame.body.get(4..).unwrap_or_default().to_vec(),
        _ => frame.body.clone(),
    };
    Frame { tag: frame.tag, body }
}

fn fields(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    while let Some((&code, tail)) = rest.split_first() {
        let end = tail.iter().position(|byte| *byte == 0).map_or(tail.len(), |end| end + 1);
        if code != 0 && !matches!(code, b'F' | b'L' | b'R') {
            out.push(code);
            // Temporary schemas are numbered by the backends' places.
            let is_temporary = code == b's' && tail.starts_with(b"pg_temp_");
            out.extend_from_slice(if is_temporary { b"pg_temp\0" } else { &tail[..end] });
        }
        rest = tail.get(end..).unwrap_or_default();
    }
    out
}

fn columns(body: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut out = body.to_vec();
    let mut at = 2;
    while at < out.len() {
        let Some(length) = out[at..].iter().position(|byte| *byte == 0) else { return out };
        at += length + 1;
        renumber(&mut out, at, numbers);
        renumber(&mut out, at + 6, numbers);
        at += 18;
    }
    out
}

fn parameters(body: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut out = body.to_vec();
    (2..body.len()).step_by(4).for_each(|at| renumber(&mut out, at, numbers));
    out
}

fn renumber(out: &mut [u8], at: usize, numbers: &mut Numbers) {
    if let Some(place) = out.get_mut(at..at + 4) {
        let oid = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
        place.copy_from_slice(&numbers.of(oid).to_be_bytes());
    }
}

/// The first place where two conversations part, with what stands around it.
pub fn difference(expected: &[Frame], got: &[Frame]) -> Option<String> {
    let (expected, got) = (normal(expected), normal(got));
    let at = expected.iter().zip(&got).take_while(|(left, right)| left == right).count();
    if at == expected.len() && at == got.len() {
        return None;
    }
    let show = |frames: &[Frame]| {
        let mut text: Vec<String> = frames.iter().skip(at).take(5).map(|frame| format!("{frame:?}")).collect();
        if let (Some(first), Some(frame)) = (text.first_mut(), frames.get(at))
            && matches!(frame.tag, b'E' | b'N')
        {
            *first = format!("{}[{}]", char::from(frame.tag), frame.body.escape_ascii());
        }
        if text.is_empty() { "nothing more".to_owned() } else { text.join(" ") }
    };
    Some(format!("reply {at}\n    PostgreSQL: {}\n    Ostrakon:   {}", show(&expected), show(&got)))
}
