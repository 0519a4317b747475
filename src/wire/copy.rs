//! Rows of COPY data: where they end, and the fields that hold the sharding key.
//!
//! [`CopySplitter`] cuts what a client sends (COPY FROM) into rows, [`append_field`] adds a filled-in column,
//! [`CopyJoiner`] makes one output of several (COPY TO). Must not know: SQL, types, shards. The data must be
//! in UTF-8 or another encoding whose multi-byte characters hold no ASCII bytes, as all server encodings do.
//!
//! # Source
//! `src/backend/commands/copyfromparse.c` of PostgreSQL 15.

mod append;
mod binary;
mod error;
mod field;
mod join;
mod line;
mod plain;
mod split;
mod write;

pub use append::append_field;
pub use error::CopyError;
pub use field::CopyKeys;
pub use join::CopyJoiner;
pub use split::CopySplitter;
pub use write::{BINARY_HEADER, BINARY_TRAILER, write_row};

use std::borrow::Cow;

use bytes::Bytes;

/// Formats of COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// PostgreSQL's text format.
    Text,
    /// Comma-separated values.
    Csv,
    /// PostgreSQL's binary format.
    Binary,
}

/// How bytes become rows and fields: the options of COPY that matter for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyShape {
    /// Format.
    pub format: CopyFormat,
    /// DELIMITER; not used in binary.
    pub delimiter: u8,
    /// NULL; not used in binary.
    pub null: Vec<u8>,
    /// HEADER: the first line is no row; not used in binary.
    pub header: bool,
    /// QUOTE; CSV only.
    pub quote: u8,
    /// ESCAPE; CSV only.
    pub escape: u8,
}

impl CopyShape {
    /// Text with PostgreSQL's defaults.
    pub fn text() -> Self {
        let null = b"\\N".to_vec();
        CopyShape { format: CopyFormat::Text, delimiter: b'\t', null, header: false, quote: b'"', escape: b'"' }
    }

    /// CSV with PostgreSQL's defaults.
    pub fn csv() -> Self {
        CopyShape { format: CopyFormat::Csv, delimiter: b',', null: Vec::new(), ..CopyShape::text() }
    }

    /// Binary.
    pub fn binary() -> Self {
        CopyShape { format: CopyFormat::Binary, ..CopyShape::text() }
    }

    /// PostgreSQL allows a line end as QUOTE or ESCAPE; nobody means it, and rows would have no sure end.
    fn check(&self) -> Result<(), CopyError> {
        let marks: &[u8] = match self.format {
            CopyFormat::Text => &[self.delimiter],
            CopyFormat::Csv => &[self.delimiter, self.quote, self.escape],
            CopyFormat::Binary => &[],
        };
        let escape_is_delimiter = self.format == CopyFormat::Text && self.delimiter == b'\\';
        if escape_is_delimiter || marks.iter().any(|mark| matches!(mark, b'\n' | b'\r')) {
            return Err(CopyError::Shape);
        }
        Ok(())
    }
}

/// A field of a row, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyField {
    /// NULL.
    Null,
    /// Value in text format, without escapes and quotes.
    Text(Vec<u8>),
    /// Value in binary format.
    Binary(Bytes),
}

/// A key field of a row, read where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyKey<'a> {
    /// NULL.
    Null,
    /// Value in text format, without escapes and quotes.
    Text(Cow<'a, [u8]>),
    /// Value in binary format.
    Binary(&'a [u8]),
}

impl From<CopyKey<'_>> for CopyField {
    fn from(key: CopyKey<'_>) -> Self {
        match key {
            CopyKey::Null => Self::Null,
            CopyKey::Text(text) => Self::Text(text.into_owned()),
            CopyKey::Binary(bytes) => Self::Binary(Bytes::copy_from_slice(bytes)),
        }
    }
}

impl<'a> From<&'a CopyField> for CopyKey<'a> {
    fn from(field: &'a CopyField) -> Self {
        match field {
            CopyField::Null => Self::Null,
            CopyField::Text(text) => Self::Text(Cow::Borrowed(text)),
            CopyField::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

/// What comes out of a splitter, as a part of what was pushed into it: as [`CopyEvent`], without copies.
#[derive(Clone, Copy, Debug)]
pub enum CopyPiece<'a> {
    /// As [`CopyEvent::Header`].
    Header(&'a [u8]),
    /// As [`CopyEvent::Row`].
    Row {
        /// As received.
        bytes: &'a [u8],
        /// Number of fields where it is known without looking: in binary.
        fields: Option<usize>,
        /// Its key fields.
        keys: CopyKeys<'a>,
    },
    /// As [`CopyEvent::End`].
    End(&'a [u8]),
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRow {
    /// As received, with its line end if it had one: only the last row may lack it.
    pub bytes: Bytes,
    /// Number of fields where it is known without looking: in binary.
    pub fields: Option<usize>,
    /// The key fields, in the order in which they were asked for.
    pub keys: Vec<CopyField>,
}

/// What comes out of a splitter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyEvent {
    /// The header line, or the binary signature, flags and extension: for every server once, before its rows.
    Header(Bytes),
    /// A row.
    Row(CopyRow),
    /// The `\.` line or the binary trailer: for every server once, after its rows. Need not come at all.
    End(Bytes),
}
