//! A transaction that the client has begun and that no server knows of yet: its BEGIN is answered here and travels
//! with the first statement, in one write, which saves a round trip and holds no connection meanwhile.
//!
//! Only a BEGIN that no primary can refuse is held back; every other goes its ordinary way. What is said of a
//! transaction that no connection could be had for is PostgreSQL's own: when there is one, the transaction is begun
//! there and made to fail, so that nothing runs in it and only its end is accepted. A transaction that ends before any
//! server knew of it ends here.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::facts::Facts;
use super::names::{Known, Name};
use super::owed::{Owed, Quiet};
use super::statements::{self, Origin, Statement};
use super::{Bound, Host, Machine, ServerSide, Taken, split_text};
use crate::session::PoolMode;
use crate::wire::client_message;
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, tag};

/// No plain BEGIN is longer.
const BEGIN_BYTES_MAX: usize = 128;

/// What is held back.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// The client's text.
    text: String,
    /// It came in a pipeline, from which the server is to know statement and portal.
    bound: Option<Begin>,
    /// A statement of it has failed for want of a connection.
    has_failed: bool,
}

/// A statement as it was bound to the unnamed portal, and executed.
#[derive(Clone, Debug)]
struct Begin {
    statement: Arc<Statement>,
    /// What stands behind the statement's name in Bind.
    values: Bytes,
    /// The whole message.
    execute: Bytes,
}

/// A pipeline that may be answered here, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Begun {
    frames: Vec<Frame>,
    text: String,
    /// Text and types of a Parse that is among them.
    parse_body: Option<Bytes>,
    /// The statement, when it was there before.
    statement: Option<Arc<Statement>>,
    values: Bytes,
}

impl Opening {
    /// A transaction that was lost: nothing but its end is accepted.
    pub(super) fn failed() -> Self {
        Self { text: "BEGIN".to_owned(), bound: None, has_failed: true }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }
}

impl Machine {
    /// The client has begun a transaction that no server knows of: its text, and whether it has failed.
    pub fn opening(&self) -> Option<(&str, bool)> {
        self.opening.as_ref().map(|opening| (opening.text.as_str(), opening.has_failed))
    }

    /// The text of a transaction that begins in the pipeline which has to be given again.
    pub fn begun_text(&self) -> Option<&str> {
        let begun = self.begun.as_ref().filter(|_| self.opening.is_none() && self.status == b'I')?;
        let is_begun = begun.frames.last().is_some_and(|last| last.tag == b'E');
        (is_begun && begin_tag(begun.text.as_bytes()).is_some()).then_some(begun.text.as_str())
    }

    /// The transaction goes on over another connection, where it is begun with this text; what it did on the one that is
    /// held is of no account, which is let go of.
    pub fn begin_elsewhere(&mut self, text: String) {
        self.detach();
        self.opening = Some(Box::new(Opening { text, bound: None, has_failed: false }));
    }

    /// Messages that were kept back and have to be given again, before the one that needs a server.
    pub fn take_begun(&mut self) -> Vec<Frame> {
        self.begun.take().map(|begun| begun.frames).unwrap_or_default()
    }

    /// Takes a message while no connection is held.
    pub(super) fn without_server(&mut self, frame: Frame, host: &dyn Host, to_client: &mut BytesMut) -> Taken {
        if self.mode != PoolMode::Transaction || self.is_skipping || !self.owed.is_empty() {
            return Taken::NeedsServer(frame);
        }
        if frame.tag == b'Q' && self.begun.is_none() {
            let text = frame.as_body().strip_suffix(&[0]).unwrap_or_default();
            if self.takes_modes(text) {
                self.statements.remove(b"");
                server_message::write_command_complete(to_client, "SET");
                server_message::write_ready_for_query(to_client, self.status);
                return Taken::Done;
            }
            let Some(command_tag) = self.own_tag(text) else { return Taken::NeedsServer(frame) };
            // A simple query throws the unnamed statement away.
            self.statements.remove(b"");
            server_message::write_command_complete(to_client, command_tag);
            self.turn_over(text, None, to_client);
            return Taken::Done;
        }
        let last = self.begun.as_ref().and_then(|begun| begun.frames.last()).map(|last| last.tag);
        match (last, frame.tag) {
            (None, b'P') | (Some(b'P'), b'B') | (Some(b'B'), b'D') | (Some(b'B' | b'D'), b'E') | (None, b'B') => {
                let mut begun = self.begun.take().unwrap_or_default();
                let goes_on = self.goes_on(&mut begun, &frame);
                if goes_on {
                    // Copied: a slice would keep the whole buffer that the message came in.
                    begun.frames.push(Frame { tag: frame.tag, bytes: Bytes::copy_from_slice(&frame.bytes) });
                }
                if !begun.frames.is_empty() {
                    self.begun = Some(begun);
                }
                if goes_on { Taken::Done } else { Taken::NeedsServer(frame) }
            }
            (Some(b'E'), b'S') => {
                self.say_begun(host, to_client);
                Taken::Done
            }
            _ => Taken::NeedsServer(frame),
        }
    }

    /// SET TRANSACTION behind a BEGIN that no server knows of, which no primary can refuse: it travels with it.
    fn takes_modes(&mut self, text: &[u8]) -> bool {
        let Some(opening) = self.opening.as_mut().filter(|opening| opening.bound.is_none() && !opening.has_failed)
        else {
            return false;
        };
        let is_known = sets_modes(text) && opening.text.len() <= 4 * BEGIN_BYTES_MAX;
        if is_known {
            let begin = opening.text.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace());
            opening.text = format!("{begin}; {}", String::from_utf8_lossy(text));
        }
        is_known
    }

    /// The command tag of a text that is answered here: a BEGIN, or the end of a transaction that no server knows of.
    fn own_tag(&self, text: &[u8]) -> Option<&'static str> {
        match &self.opening {
            None => begin_tag(text),
            Some(opening) => end_tag(text, opening.has_failed),
        }
    }

    /// The message belongs to a pipeline of nothing but one such text without parameters.
    fn goes_on(&self, begun: &mut Begun, frame: &Frame) -> bool {
        let body = frame.as_body();
        let Ok((first, rest)) = split_text(body) else { return false };
        match frame.tag {
            b'P' => {
                let Ok((text, types)) = split_text(rest) else { return false };
                if !first.is_empty() || types != [0, 0] || self.own_tag(text).is_none() {
                    return false;
                }
                begun.text = String::from_utf8_lossy(text).into_owned();
                begun.parse_body = Some(Bytes::copy_from_slice(rest));
                true
            }
            b'B' => {
                let Ok((name, values)) = split_text(rest) else { return false };
                // No parameter formats, no parameters, at most one result format.
                if !first.is_empty() || !matches!(values, [0, 0, 0, 0, 0, 0] | [0, 0, 0, 0, 0, 1, 0, 0 | 1]) {
                    return false;
                }
                begun.values = Bytes::copy_from_slice(values);
                if !begun.frames.is_empty() {
                    return name.is_empty();
                }
                let Some(known) = self.statements.get(name) else { return false };
                let Origin::Protocol(parse_body) = &known.statement.origin else { return false };
                let Ok((text, _)) = split_text(parse_body) else { return false };
                begun.parse_body = None;
                begun.text = String::from_utf8_lossy(text).into_owned();
                begun.statement = Some(Arc::clone(&known.statement));
                self.own_tag(text).is_some()
            }
            b'D' => body == b"P\0",
            b'E' => first.is_empty(),
            _ => false,
        }
    }

    /// Answers a pipeline that began or ended a transaction and did nothing else.
    fn say_begun(&mut self, host: &dyn Host, to_client: &mut BytesMut) {
        let Some(begun) = self.begun.take() else { return };
        let begun = *begun;
        let mut execute = Bytes::new();
        for frame in begun.frames {
            match frame.tag {
                b'P' => server_message::write_empty(to_client, tag::PARSE_COMPLETE),
                b'B' => server_message::write_empty(to_client, tag::BIND_COMPLETE),
                b'D' => server_message::write_empty(to_client, tag::NO_DATA),
                _ => {
                    let command_tag = self.own_tag(begun.text.as_bytes()).unwrap_or("BEGIN");
                    server_message::write_command_complete(to_client, command_tag);
                    execute = frame.bytes;
                }
            }
        }
        let statement = match (begun.parse_body, begun.statement) {
            (Some(parse_body), _) => {
                let origin = Origin::Protocol(parse_body);
                let statement = Arc::new(Statement::new(host.unique_id(), true, origin, Facts::default()));
                self.statements.insert(Name::UNNAMED, Known::new(Arc::clone(&statement)));
                Some(statement)
            }
            (None, known) => known,
        };
        let (text, values) = (begun.text, begun.values);
        let bound = statement.map(|statement| Begin { statement, values, execute });
        self.turn_over(text.as_bytes(), bound, to_client);
    }

    /// Begins a transaction, or ends it.
    fn turn_over(&mut self, text: &[u8], bound: Option<Begin>, to_client: &mut BytesMut) {
        if self.opening.take().is_some() {
            self.status = b'I';
        } else {
            let text = String::from_utf8_lossy(text).into_owned();
            self.opening = Some(Box::new(Opening { text, bound, has_failed: false }));
            self.status = b'T';
        }
        server_message::write_ready_for_query(to_client, self.status);
    }

    /// Begins on the server what was held back.
    pub(super) fn begin_held_back(&mut self, server: &mut ServerSide<'_>) {
        let Some(opening) = self.opening.take() else {
            self.status = b'I';
            return;
        };
        self.record_opening(&opening);
        match opening.bound {
            None => server.query(&opening.text),
            Some(Begin { statement, values, execute }) => {
                self.ensure(&statement, server);
                statements::write_bind(b"", &statement.server_name(), &values, server.output);
                server.output.extend_from_slice(&execute);
                client_message::encode_sync(server.output);
                *server.pending_ready += 1;
                // Of a BEGIN nothing is told.
                self.portals.insert(b"", Bound { name: Name::UNNAMED, statement });
            }
        }
        self.owed.push_back(Owed::Quiet(Quiet::Opening));
        if opening.has_failed {
            server.query(&super::client::no_such_execute());
            self.owed.push_back(Owed::Quiet(Quiet::Aside));
        }
    }

    /// A message was refused for want of a connection: the status that the client is told behind the error.
    pub(super) fn fail_held_back(&mut self) -> u8 {
        if let Some(opening) = &mut self.opening {
            opening.has_failed = true;
            self.status = b'E';
        }
        self.status
    }
}

/// The command tag of a BEGIN that no primary can refuse; `None` for every other text.
fn begin_tag(text: &[u8]) -> Option<&'static str> {
    // Most texts end here.
    let may_begin = matches!(text, [b'b' | b'B', b'e' | b'E', ..] | [b's' | b'S', b't' | b'T', ..]);
    if !may_begin || text.len() > BEGIN_BYTES_MAX {
        return None;
    }
    let text = without_semicolon(text)?.replace(',', " , ");
    let mut words = text.split_ascii_whitespace().peekable();
    let command_tag = match words.next()? {
        "begin" => {
            words.next_if(|word| matches!(*word, "work" | "transaction"));
            "BEGIN"
        }
        "start" if words.next() == Some("transaction") => "START TRANSACTION",
        _ => return None,
    };
    let words: Vec<&str> = words.collect();
    (words.is_empty() || are_modes(&words)).then_some(command_tag)
}

/// SET TRANSACTION with modes that no primary can refuse.
pub fn sets_modes(text: &[u8]) -> bool {
    // Most texts end here.
    if !text.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"set ")) || text.len() > BEGIN_BYTES_MAX {
        return false;
    }
    let Some(text) = without_semicolon(text).map(|text| text.replace(',', " , ")) else { return false };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    matches!(words.as_slice(), ["set", "transaction", modes @ ..] if are_modes(modes))
}

/// One or more modes of a transaction that no primary can refuse.
fn are_modes(words: &[&str]) -> bool {
    let mut words = words.iter().copied();
    let mut is_first = true;
    while let Some(word) = words.next() {
        let word = match word {
            "," if !is_first => words.next(),
            word => Some(word),
        };
        is_first = false;
        match (word, words.next()) {
            (Some("read"), Some("only")) => {}
            (Some("isolation"), Some("level")) => match (words.next(), words.next()) {
                (Some("read"), Some("committed")) | (Some("repeatable"), Some("read")) => {}
                _ => return false,
            },
            _ => return false,
        }
    }
    !is_first
}

/// The command tag of the end of a transaction; `None` for every other text.
pub(super) fn end_tag(text: &[u8], has_failed: bool) -> Option<&'static str> {
    if text.len() > BEGIN_BYTES_MAX {
        return None;
    }
    let text = without_semicolon(text)?;
    let mut words = text.split_ascii_whitespace().peekable();
    let command_tag = match words.next()? {
        "commit" | "end" if !has_failed => "COMMIT",
        "commit" | "end" | "rollback" | "abort" => "ROLLBACK",
        _ => return None,
    };
    words.next_if(|word| matches!(*word, "work" | "transaction"));
    words.next().is_none().then_some(command_tag)
}

/// The text in lower case, without what may stand behind it.
fn without_semicolon(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    let text = text.trim_end_matches(|c: char| c.is_ascii_whitespace());
    Some(text.strip_suffix(';').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_primary_refuses_is_held_back() {
        for (text, command_tag) in [
            ("BEGIN", "BEGIN"),
            ("begin;", "BEGIN"),
            ("Begin Work ; ", "BEGIN"),
            ("start transaction", "START TRANSACTION"),
            ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "BEGIN"),
            ("START TRANSACTION READ ONLY ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
        ] {
            assert_eq!(begin_tag(text.as_bytes()), Some(command_tag), "{text}");
        }
        for text in [
            "",
            "start",
            "begin transaction transaction",
            "begin, read only",
            "begin read only,",
            "begin;;",
            "begin; select 1",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "begin read write",
            "begin isolation level",
            "begin deferrable",
            "select 1",
            "begin -- x",
        ] {
            assert_eq!(begin_tag(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn modes_that_no_primary_refuses_travel_with_the_begin() {
        for text in [
            "SET TRANSACTION READ ONLY",
            "set transaction isolation level repeatable read, read only;",
            "set transaction read only isolation level read committed",
        ] {
            assert!(sets_modes(text.as_bytes()), "{text}");
        }
        for text in [
            "set transaction",
            "set transaction read write",
            "set transaction read only,",
            "set transaction snapshot 'x'",
            "set transaction isolation level serializable",
            "set local transaction read only",
            "start transaction read only",
        ] {
            assert!(!sets_modes(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn the_end_of_a_transaction_is_told_by_what_became_of_it() {
        assert_eq!(end_tag(b"COMMIT", false), Some("COMMIT"));
        assert_eq!(end_tag(b"end work;", true), Some("ROLLBACK"));
        assert_eq!(end_tag(b"rollback transaction", false), Some("ROLLBACK"));
        assert_eq!(end_tag(b"abort", true), Some("ROLLBACK"));
        for text in ["commit and chain", "rollback to a", "commit prepared 'x'", "rollback;;", "select 1", ""] {
            assert_eq!(end_tag(text.as_bytes(), false), None, "{text}");
        }
    }
}
