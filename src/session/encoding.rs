//! The encoding in which a client writes and reads, where it is not UTF-8.
//!
//! Servers convert what they send: their connections have the client's encoding. What the client writes has to be
//! understood here, as PostgreSQL understands it, so its texts become texts of ASCII that mean the same (`U&` names,
//! `E''` strings), which are read alike in every encoding. What a letter means is asked of a server, never guessed.

use std::borrow::Cow;
use std::ops::Range;

use crate::sql::{LexError, Literal, Spliced, TokenKind, lex};

/// A client's encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientEncoding {
    /// UTF-8, or bytes that nobody converts.
    #[default]
    Utf8,
    /// One byte for each character, and one character for each byte: by this name.
    Single(String),
    /// Any other.
    Other(String),
}

/// Encodings of one byte a character, as PostgreSQL names them without punctuation.
#[rustfmt::skip]
const SINGLE: &[&str] = &[
    "ALT", "ISO88591", "ISO885910", "ISO885913", "ISO885914", "ISO885915", "ISO885916", "ISO88592", "ISO88593",
    "ISO88594", "ISO88595", "ISO88596", "ISO88597", "ISO88598", "ISO88599", "KOI8", "KOI8R", "KOI8U", "LATIN1",
    "LATIN10", "LATIN2", "LATIN3", "LATIN4", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "TCVN", "TCVN5712",
    "VSCII", "WIN", "WIN1250", "WIN1251", "WIN1252", "WIN1253", "WIN1254", "WIN1255", "WIN1256", "WIN1257", "WIN1258",
    "WIN866", "WIN874", "WINDOWS1250", "WINDOWS1251", "WINDOWS1252", "WINDOWS1253", "WINDOWS1254", "WINDOWS1255",
    "WINDOWS1256", "WINDOWS1257", "WINDOWS1258", "WINDOWS866", "WINDOWS874",
];

impl ClientEncoding {
    /// Reads a value of `client_encoding` as it is written, in quotes or not.
    pub fn of(value: Option<&str>) -> Self {
        let written = value.unwrap_or_default().trim().trim_end_matches(';').trim_matches(['\'', '"', ' ']);
        // PostgreSQL compares names of encodings by their letters and digits.
        let plain: String = written.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_uppercase();
        match plain.as_str() {
            "" | "UTF8" | "UNICODE" | "SQLASCII" | "DEFAULT" => Self::Utf8,
            name if SINGLE.contains(&name) => Self::Single(plain),
            _ => Self::Other(plain),
        }
    }

    /// Texts are UTF-8, or taken for it.
    pub fn is_utf8(&self) -> bool {
        *self == Self::Utf8
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Utf8 => "UTF8",
            Self::Single(name) | Self::Other(name) => name,
        }
    }

    /// Different texts have different bytes, and back: rows may go through the proxy to another server.
    pub fn is_exact(&self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Its bytes are in the order of UTF-8's.
    pub fn keeps_order(&self) -> bool {
        match self {
            Self::Utf8 => true,
            // Its 256 characters are Unicode's first.
            Self::Single(name) => matches!(name.as_str(), "LATIN1" | "ISO88591"),
            Self::Other(_) => false,
        }
    }
}

/// A text of the same meaning in ASCII alone; `None` when there is none.
///
/// # Errors
/// The text is not made of PostgreSQL's tokens.
pub fn to_ascii(text: &str) -> Result<Option<Spliced>, LexError> {
    let lexed = lex(text)?;
    let mut made = Spliced::with_capacity(text.len() + 64);
    let mut at = 0;
    for (index, token) in lexed.tokens.iter().enumerate() {
        let written = text.get(token.start..token.end).unwrap_or_default();
        if written.is_ascii() {
            continue;
        }
        let instead = match token.kind {
            // A string of the national alphabet is of another type.
            TokenKind::Literal(_) if written.starts_with(['N', 'n', 'B', 'b', 'X', 'x']) => None,
            TokenKind::Literal(literal) => lexed.literals.get(literal).map(string),
            TokenKind::Word | TokenKind::QuotedIdent => lexed.identifier(text, index).map(|name| identifier(&name)),
            _ => None,
        };
        let Some(instead) = instead else { return Ok(None) };
        between(text, at..token.start, &mut made);
        // A word may stand right behind a number or a sign.
        made.insert(" ");
        made.replace(&(token.start..token.end), &instead);
        at = token.end;
    }
    between(text, at..text.len(), &mut made);
    Ok(Some(made))
}

/// What stands between such tokens: tokens of ASCII, white space, and comments, whose letters do not matter.
fn between(text: &str, bytes: Range<usize>, made: &mut Spliced) {
    let mut at = bytes.start;
    for (offset, character) in text.get(bytes.clone()).unwrap_or_default().char_indices() {
        if !character.is_ascii() {
            let place = bytes.start + offset;
            made.keep(text, at..place);
            at = place + character.len_utf8();
            made.replace(&(place..at), "?");
        }
    }
    made.keep(text, at..bytes.end);
}

/// A statement of the proxy's own that may name what is not ASCII: it has to be read alike in every encoding.
pub fn in_ascii(sql: &str) -> Cow<'_, str> {
    if sql.is_ascii() {
        return Cow::Borrowed(sql);
    }
    match to_ascii(sql) {
        Ok(Some(made)) => Cow::Owned(made.text().to_owned()),
        Ok(None) | Err(_) => Cow::Borrowed(sql),
    }
}

fn string(literal: &Literal) -> String {
    let mut written = String::from("E'");
    for character in literal.value.chars() {
        match character {
            '\'' => written.push_str("''"),
            '\\' => written.push_str("\\\\"),
            _ if character.is_ascii() => written.push(character),
            _ => written.push_str(&format!("\\U{:08X}", u32::from(character))),
        }
    }
    written.push('\'');
    written
}

fn identifier(name: &str) -> String {
    let mut written = String::from("U&\"");
    for character in name.chars() {
        match character {
            '"' => written.push_str("\"\""),
            '\\' => written.push_str("\\\\"),
            _ if character.is_ascii() => written.push(character),
            _ => written.push_str(&format!("\\+{:06X}", u32::from(character))),
        }
    }
    written.push('"');
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascii(text: &str) -> Option<String> {
        to_ascii(text).unwrap().map(|made| made.text().to_owned())
    }

    #[test]
    fn names_of_encodings_are_compared_as_postgresql_does() {
        for same in ["utf8", "UTF-8", "'unicode'", "sql_ascii", "", " default ;"] {
            assert!(ClientEncoding::of(Some(same)).is_utf8(), "{same}");
        }
        assert_eq!(ClientEncoding::of(Some("'iso-8859-1'")), ClientEncoding::Single("ISO88591".into()));
        assert_eq!(ClientEncoding::of(Some("EUC_JP")), ClientEncoding::Other("EUCJP".into()));
        assert!(ClientEncoding::of(Some("latin1")).keeps_order());
        assert!(!ClientEncoding::of(Some("win1251")).keeps_order());
        assert!(SINGLE.is_sorted());
    }

    #[test]
    fn a_text_keeps_its_meaning() {
        assert_eq!(ascii("SELECT 'it''s' -- x").unwrap(), "SELECT 'it''s' -- x");
        assert_eq!(ascii("SELECT 'ü''\\' -- ü").unwrap(), "SELECT  E'\\U000000FC''\\\\' -- ?");
        assert_eq!(
            ascii("SELECT GröÙ, \"Ä\"\"\" FROM t").unwrap(),
            "SELECT  U&\"gr\\+0000F6\\+0000D9\",  U&\"\\+0000C4\"\"\" FROM t"
        );
        assert_eq!(ascii("SELECT $q$€$q$").unwrap(), "SELECT  E'\\U000020AC'");
        assert_eq!(ascii("SELECT N'ü'"), None);
        for text in ["SELECT 'ü', \"Ö\"\"x\", E'\\ta\\\\€' FROM öä -- ß", "SELECT $a$ü'\\$a$ AS é"] {
            let made = ascii(text).unwrap();
            assert!(made.is_ascii());
            let values = |text: &str| -> Vec<String> {
                let lexed = lex(text).unwrap();
                let names = (0..lexed.tokens.len()).filter_map(|token| lexed.identifier(text, token));
                names.chain(lexed.literals.iter().map(|literal| literal.value.clone())).collect()
            };
            assert_eq!(values(&made), values(text), "{made}");
        }
    }

    #[test]
    fn places_lead_back_to_the_clients_text() {
        let text = "SELECT 'üü', nosuch";
        let made = to_ascii(text).unwrap().unwrap();
        let place = made.text().find("nosuch").unwrap() + 1;
        assert_eq!(made.source_position(text, place), Some(14));
    }
}
