//! What a broken conversation must not leave behind: a stuck or shared connection, a transaction, a
//! lock, a setting, a half-done write, an acknowledged write that is lost.

use crate::catalogue::{Exchange, Writes};
use crate::conversation::{End, PATIENCE, Transcript};
use crate::frames::{Frame, Heard, Wire, query, sync};
use crate::normal::normal;
use crate::world::{World, rows};

/// Codes by which a client may learn that a server connection broke: see the table of errors.
const BROKEN: &[&str] = &["08006", "08007", "40003", "57P01", "57P02", "57P03", "40001"];

/// Codes that leave open whether the statement has run.
const UNKNOWN: &[&str] = &["08007", "40003", "57P01", "57P02"];

/// What a client can tell about its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its writes are acknowledged.
    Done,
    /// It was told that nothing was done.
    Failed,
    Nothing,
}

/// Replies of an undisturbed run, with its number taken out.
pub struct Baseline(Vec<Frame>);

impl Baseline {
    pub fn new(frames: &[Frame], run: i64) -> Self {
        Self(without_run(normal(frames), run))
    }

    /// How many replies are as they should be.
    pub fn agreed(&self, frames: &[Frame], run: i64) -> usize {
        let got = without_run(normal(frames), run);
        got.iter()
            .enumerate()
            .take_while(|(at, frame)| self.0.get(*at) == Some(frame) || self.is_reported_there(*at, frame))
            .count()
    }

    /// ParameterStatus messages that stand together have no order: on a connection that took the place of a lost one
    /// PostgreSQL reports the same in another.
    fn is_reported_there(&self, at: usize, frame: &Frame) -> bool {
        let is_report = |place: &usize| self.0.get(*place).is_some_and(|frame| frame.tag == b'S');
        let before = (0..at).rev().take_while(is_report);
        is_report(&at) && before.chain((at..self.0.len()).take_while(is_report)).any(|place| self.0[place] == *frame)
    }

    /// It is one of its rows.
    fn has(&self, row: &Frame, run: i64) -> bool {
        self.0.contains(&without_run(vec![row.clone()], run)[0])
    }

    fn readies_before(&self, end: usize) -> usize {
        self.0.iter().take(end).filter(|frame| frame.tag == b'Z').count()
    }
}

fn without_run(mut frames: Vec<Frame>, run: i64) -> Vec<Frame> {
    let number = run.to_string().into_bytes();
    for frame in &mut frames {
        while let Some(at) = frame.body.windows(number.len()).position(|window| window == number) {
            frame.body[at..at + number.len()].fill(b'#');
        }
    }
    frames
}

/// Judges what a client saw while its server connection broke.
pub fn judge(baseline: &Baseline, exchange: &Exchange, transcript: &Transcript, run: i64) -> (Told, Vec<String>) {
    let agreed = baseline.agreed(&transcript.frames, run);
    let acknowledged = exchange.writes.is_some_and(|writes| baseline.readies_before(agreed) >= writes.ready);
    let mut found = Vec::new();
    let next = transcript.frames.get(agreed);
    let code = next.filter(|frame| frame.tag == b'E').map(|frame| frame.field(b'C'));
    match (next, &code, &transcript.end) {
        (_, _, End::Stuck) => found.push(format!("stuck behind {agreed} right replies: {next:?}")),
        (Some(frame), None, _) => found.push(format!("a reply of something else: {frame:?}")),
        (Some(frame), Some(code), end) => {
            // In place of an error of PostgreSQL's the proxy may still say that it does not take such a thing.
            let is_refusal = code == "0A000" && baseline.0.get(agreed).is_some_and(|frame| frame.tag == b'E');
            if !BROKEN.contains(&code.as_str()) && !is_refusal {
                found.push(format!("not the error of a broken connection: {frame:?}"));
            }
            if frame.field(b'S') == "FATAL" && *end != End::Closed {
                found.push(format!("FATAL, and the session goes on: {frame:?}"));
            }
        }
        (None, ..) => {}
    }
    let told = match code {
        _ if acknowledged => Told::Done,
        Some(code) if !UNKNOWN.contains(&code.as_str()) => Told::Failed,
        _ => Told::Nothing,
    };
    (told, found)
}

/// A session that is not closed has to be of use: it answers, and what it answers is its own.
/// Replies of the exchange itself may still stand before it: it may have sent more than was answered.
pub fn use_again(wire: &mut Wire, baseline: &Baseline, nonce: i64) -> Result<(), String> {
    let question = format!("SELECT 'again {nonce}'");
    // Whatever the exchange was in the middle of ends at Sync.
    let _ = wire.send_frames(&[sync(), query(&question)]);
    for attempt in 0..2 {
        let mut own = false;
        let mut refused = false;
        let (frames, last) = wire.hear_until(PATIENCE, |frame| {
            own |= frame.tag == b'D' && frame.texts() == [format!("again {nonce}")];
            refused |= frame.tag == b'E' && frame.field(b'C') == "25P02";
            frame.tag == b'Z' && (own || refused)
        });
        match last {
            Heard::Closed => return Ok(()),
            Heard::Late => return Err(format!("it does not answer any more: {frames:?}")),
            Heard::Frame(_) => {}
        }
        let is_foreign = |frame: &&Frame| {
            frame.tag == b'D' && frame.texts() != [format!("again {nonce}")] && !baseline.has(frame, nonce)
        };
        if let Some(foreign) = frames.iter().find(is_foreign) {
            return Err(format!("a row of something else: {foreign:?} in {frames:?}"));
        }
        if own {
            return Ok(());
        }
        if attempt == 0 {
            let _ = wire.send_frames(&[query("ROLLBACK")]);
            wire.hear_until(PATIENCE, |frame| frame.tag == b'Z');
            let _ = wire.send_frames(&[query(&question)]);
        }
    }
    Err("its transaction cannot be ended".to_owned())
}

/// What must be nought on a shard once its clients are gone.
const LEFT: &str = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle') \
     + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') \
     + (SELECT count(*) FROM pg_class WHERE relpersistence = 't') \
     + (SELECT count(*) FROM pg_prepared_xacts)";

/// What it is that is left.
const LEFT_WHAT: &str = "SELECT 'backend ' || state || ': ' || query FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle' \
     UNION ALL SELECT 'advisory lock ' || objid FROM pg_locks WHERE locktype = 'advisory' \
     UNION ALL SELECT 'temporary table ' || relname FROM pg_class WHERE relpersistence = 't' \
     UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts";

/// A fresh session's look at one shard's connection; the nonce is first.
fn look(nonce: &str, key: &str) -> String {
    format!(
        "SELECT '{nonce}', current_setting('work_mem'), current_setting('statement_timeout'), current_setting('search_path'), \
         current_setting('TimeZone'), current_setting('DateStyle'), current_setting('application_name'), \
         current_setting('client_encoding'), coalesce(current_setting('my.own', true), ''), \
         coalesce(current_setting('my.start', true), ''), now() = statement_timestamp() FROM items WHERE id = {key}"
    )
}

/// What only a cluster of one shard can be asked.
const LOOK_CLOSER: &str =
    "SELECT (SELECT count(*) FROM pg_cursors WHERE name <> ''), (SELECT count(*) FROM pg_listening_channels())";

/// What a fresh session sees; the number that made each question its own is checked and left out.
pub fn look_around(world: &World, nonce: i64) -> Result<Vec<Vec<String>>, String> {
    let mut wire = Wire::app(world.port(), "app").map_err(|error| format!("no fresh session: {error}"))?;
    let mut seen = Vec::new();
    for (shard, key) in world.keys.iter().enumerate() {
        let nonce = format!("look {nonce} {shard}");
        let frames = wire.simple(&look(&nonce, key)).map_err(|error| format!("a fresh session: {error}"))?;
        let shape: String = frames.iter().map(|frame| char::from(frame.tag)).filter(|tag| *tag != 'S').collect();
        let mut answer = rows(&frames);
        if shape != "TDCZ" || answer[0][0] != nonce || frames.last().is_none_or(|frame| frame.body != b"I") {
            return Err(format!("a fresh session gets another's reply: {frames:?}"));
        }
        answer[0].remove(0);
        seen.append(&mut answer);
    }
    if world.keys.len() == 1 {
        let frames = wire.simple(LOOK_CLOSER).map_err(|error| format!("a fresh session: {error}"))?;
        seen.append(&mut rows(&frames));
    }
    Ok(seen)
}

/// Everything that is wrong once the client is gone.
pub fn complaints(world: &mut World, writes: Option<Writes>, run: i64, told: Told) -> Vec<String> {
    let mut found = Vec::new();
    if world.settles(LEFT) > 0 {
        for shard in 0..world.keys.len() {
            found.extend(world.ask(shard, LEFT_WHAT).into_iter().map(|row| format!("left behind: {}", row[0])));
        }
    }
    match look_around(world, run) {
        Ok(seen) if seen == world.first_look => {}
        Ok(seen) => found.push(format!("a fresh session sees {seen:?}, not {:?}", world.first_look)),
        Err(text) => found.push(text),
    }
    if let Some(busy) = world.idles() {
        found.push(format!("the pool leaks: {busy}"));
    }
    if let Some(writes) = writes {
        let there = world.sum(&format!("SELECT count(*) FROM ledger WHERE run = {run}"));
        found.extend(wrong_rows(writes, there, told));
    }
    found
}

/// Whether so many rows can be there.
pub fn wrong_rows(writes: Writes, there: usize, told: Told) -> Option<String> {
    let fits = match told {
        Told::Done => there == writes.rows,
        Told::Failed => there == 0,
        Told::Nothing => there == 0 || there == writes.rows,
    };
    (!fits).then(|| format!("{there} of {} rows are there, and the client was told: {told:?}", writes.rows))
}
