//! Values of sharding keys, typed as PostgreSQL types them. (in work)

use crate::base::numeric::Numeric;

/// Types that a sharding key may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// smallint
    Int2,
    /// integer
    Int4,
    /// bigint
    Int8,
    /// text
    Text,
    /// character varying
    Varchar,
    /// character(n)
    Bpchar,
    /// uuid
    Uuid,
    /// bytea
    Bytea,
    /// date
    Date,
    /// timestamp without time zone
    Timestamp,
    /// timestamp with time zone
    TimestampTz,
    /// numeric
    Numeric,
}

/// One value of a key column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValue {
    /// smallint, integer, bigint: they hash alike.
    Int(i64),
    /// text, varchar: the bytes in the server's encoding (UTF-8).
    Text(Vec<u8>),
    /// character(n): trailing spaces do not count.
    Bpchar(Vec<u8>),
    /// uuid
    Uuid([u8; 16]),
    /// bytea
    Bytea(Vec<u8>),
    /// date: days since 2000-01-01
    Date(i32),
    /// timestamp and timestamptz: microseconds since 2000-01-01 (UTC)
    Timestamp(i64),
    /// numeric
    Numeric(Numeric),
}

impl KeyType {
    /// The key type of a PostgreSQL type OID; `None` when it cannot be a sharding key.
    pub fn from_oid(_oid: u32) -> Option<Self> {
        None
    }
    /// Reads PostgreSQL's text input for this type; `None` when this reader is not sure that
    /// PostgreSQL would read the same value (the caller then asks a server or refuses).
    pub fn read_text(self, _text: &[u8]) -> Option<KeyValue> {
        None
    }
    /// Reads PostgreSQL's binary format for this type.
    pub fn read_binary(self, _bytes: &[u8]) -> Option<KeyValue> {
        None
    }
}
