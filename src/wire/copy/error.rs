//! What is wrong with COPY data, in PostgreSQL's words.

use bytes::Bytes;

/// Why COPY data cannot be cut into rows.
///
/// After [`CopyError::MissingField`] and [`CopyError::UnterminatedQuote`] the next rows may be read; every other
/// error is final.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The row ends before a key field. Sent to any server it makes PostgreSQL complain in its own way.
    #[error("missing data for field {field}")]
    MissingField {
        /// Index of the field, from 0.
        field: usize,
        /// The row as received.
        row: Bytes,
    },
    /// The data ended within the quotes of a key field.
    #[error("unterminated CSV quoted field")]
    UnterminatedQuote {
        /// The row as received.
        row: Bytes,
    },
    /// Text: a CR that does not end a line.
    #[error("literal carriage return found in data")]
    LiteralCarriageReturn,
    /// CSV: a CR outside quotes that does not end a line.
    #[error("unquoted carriage return found in data")]
    UnquotedCarriageReturn,
    /// Text: a LF where lines end otherwise.
    #[error("literal newline found in data")]
    LiteralNewline,
    /// CSV: a LF outside quotes where lines end otherwise.
    #[error("unquoted newline found in data")]
    UnquotedNewline,
    /// `\.` not followed by a line end.
    #[error("end-of-copy marker corrupt")]
    MarkerCorrupt,
    /// `\.` followed by another line end than those before.
    #[error("end-of-copy marker does not match previous newline style")]
    MarkerMismatch,
    /// Binary: not the signature.
    #[error("COPY file signature not recognized")]
    Signature,
    /// Binary: flags or extension are wrong.
    #[error("{0}")]
    BinaryHeader(&'static str),
    /// Binary: a negative number of fields that is not the trailer.
    #[error("row field count is {0}")]
    FieldCount(i16),
    /// Binary: a negative length that is not NULL.
    #[error("invalid field size")]
    FieldSize,
    /// Binary: more fields than a row can count.
    #[error("row has too many fields")]
    TooManyFields,
    /// The data ended within a row.
    #[error("unexpected EOF in COPY data")]
    UnexpectedEnd,
    /// Binary: bytes after the trailer.
    #[error("received copy data after EOF marker")]
    DataAfterEnd,
    /// The row is longer than allowed.
    #[error("COPY row is longer than {0} bytes")]
    RowTooLong(usize),
    /// Delimiter, quote or escape is a line end.
    #[error("COPY with a line end as delimiter, quote or escape is not supported")]
    Shape,
}

impl CopyError {
    /// SQLSTATE.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            CopyError::RowTooLong(_) | CopyError::TooManyFields => "54000",
            CopyError::Shape => "0A000",
            _ => "22P04",
        }
    }

    /// PostgreSQL's hint.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            CopyError::LiteralCarriageReturn => Some("Use \"\\r\" to represent carriage return."),
            CopyError::UnquotedCarriageReturn => Some("Use quoted CSV field to represent carriage return."),
            CopyError::LiteralNewline => Some("Use \"\\n\" to represent newline."),
            CopyError::UnquotedNewline => Some("Use quoted CSV field to represent newline."),
            _ => None,
        }
    }
}
