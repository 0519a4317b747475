//! Kinds of columns: their types, and values that PostgreSQL and the shards must agree on.
//!
//! Key values come from small pools, so that joins and conditions meet rows. Floats are multiples of a quarter: their
//! sums are exact in any order.

use crate::random::Dice;
use crate::raw;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int2,
    Int4,
    Int8,
    Numeric,
    Text,
    Varchar,
    Bpchar,
    Uuid,
    Bytea,
    Date,
    Timestamp,
    TimestampTz,
    Float,
    Bool,
    /// Text that is ordered by a language's rules.
    Words,
    Enum,
    Domain,
    Json,
    Array,
}

use Kind::{
    Array, Bool, Bpchar, Bytea, Date, Domain, Enum, Float, Int2, Int4, Int8, Json, Numeric, Text, Timestamp,
    TimestampTz, Uuid, Varchar, Words,
};

/// Kinds that can be sharding keys.
pub const KEYS: [Kind; 12] = [Int8, Int2, Int4, Int8, Text, Varchar, Bpchar, Uuid, Bytea, Date, Timestamp, TimestampTz];

/// Kinds of the other columns, with their names.
pub const PAYLOADS: [(&str, Kind); 14] = [
    ("i", Int4),
    ("n", Numeric),
    ("t", Text),
    ("f", Float),
    ("b", Bool),
    ("d", Date),
    ("at", TimestampTz),
    ("m", Enum),
    ("q", Domain),
    ("j", Json),
    ("a", Array),
    ("u", Uuid),
    ("w", Words),
    ("v", Varchar),
];

/// Members of a key's pool.
pub const POOL: usize = 40;

impl Kind {
    /// The type as DDL writes it.
    pub fn type_name(self) -> &'static str {
        match self {
            Int2 => "smallint",
            Int4 => "integer",
            Int8 => "bigint",
            Numeric => "numeric(10,2)",
            Text => "text",
            Varchar => "varchar(20)",
            Bpchar => "char(6)",
            Uuid => "uuid",
            Bytea => "bytea",
            Date => "date",
            Timestamp => "timestamp",
            TimestampTz => "timestamptz",
            Float => "float8",
            Bool => "boolean",
            Words => "text COLLATE \"en-x-icu\"",
            Enum => "mood",
            Domain => "positive",
            Json => "jsonb",
            Array => "integer[]",
        }
    }

    /// The type in a cast.
    pub fn cast_name(self) -> &'static str {
        match self {
            Numeric => "numeric",
            Varchar => "varchar",
            Bpchar => "bpchar",
            Words => "text",
            other => other.type_name(),
        }
    }

    /// Object id of the type and of its array; zero where the server is to find out.
    pub fn oids(self) -> (u32, u32) {
        match self {
            Int2 => (21, 1005),
            Int4 => (23, 1007),
            Int8 => (20, 1016),
            Numeric => (1700, 1231),
            Text | Words => (25, 1009),
            Varchar => (1043, 1015),
            Bpchar => (1042, 1014),
            Uuid => (2950, 2951),
            Bytea => (17, 1001),
            Date => (1082, 1182),
            Timestamp => (1114, 1115),
            TimestampTz => (1184, 1185),
            Float => (701, 1022),
            Bool => (16, 1000),
            Json => (3802, 3807),
            Array => (1007, 0),
            Enum | Domain => (0, 0),
        }
    }

    pub fn is_number(self) -> bool {
        matches!(self, Int2 | Int4 | Int8 | Numeric | Float | Domain)
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Int2 | Int4 | Int8 | Domain)
    }

    pub fn is_text(self) -> bool {
        matches!(self, Text | Varchar | Words)
    }

    /// PostgreSQL has min and max of it.
    pub fn has_extremes(self) -> bool {
        !matches!(self, Bool | Json | Uuid | Bytea)
    }

    /// Member of the key's pool.
    pub fn key(self, index: usize) -> String {
        let number = i64::try_from(index).unwrap();
        match self {
            Int2 => (number - 4).to_string(),
            Int4 => (number * 1_000_003 - 7).to_string(),
            Int8 => (number * 4_000_000_007 - 5).to_string(),
            Numeric => format!("{}.{}", number - 3, ["00", "50", "25"][index % 3]),
            Text | Varchar | Words => match index % 7 {
                5 => format!("O'key{index}"),
                6 => format!("Zoë {index}"),
                _ => format!("key-{index}"),
            },
            Bpchar => format!("b{index}"),
            Uuid => format!("00000000-0000-4000-8000-{index:012}"),
            Bytea => format!("\\x{:02x}00{:02x}", index % 3, index),
            Date => format!("2024-{:02}-{:02}", 1 + index / 28, 1 + index % 28),
            Timestamp => format!("2024-{:02}-{:02} 10:{:02}:00", 1 + index / 28, 1 + index % 28, index),
            TimestampTz => format!("2024-{:02}-{:02} 23:{:02}:00+00", 1 + index / 28, 1 + index % 28, index),
            Float | Bool | Enum | Domain | Json | Array => unreachable!("{self:?} is no key"),
        }
    }

    /// Another way to write a value of the kind that PostgreSQL reads as the same.
    pub fn spelled(self, text: &str, dice: &mut Dice) -> String {
        match (self, dice.below(3)) {
            (Int2 | Int4 | Int8, 0) => format!(" {text} "),
            (Numeric, 0) => format!("{text}00"),
            (Numeric, 1) if text.ends_with(".00") => text.trim_end_matches(".00").to_owned(),
            (Bpchar, 0 | 1) => format!("{text:<6}"),
            (Uuid, 0) => format!("{{{}}}", text.to_uppercase()),
            (Uuid, 1) => text.replace('-', ""),
            (Bytea, 0) => text.to_uppercase().replace("\\X", "\\x"),
            (Date, 0) => text.replace('-', ""),
            (Date, 1) => format!("{text} 00:00:00"),
            (Timestamp, 0) => text.replace(' ', "T"),
            (Timestamp, 1) => format!("{text}.000000"),
            (TimestampTz, 0) => text.replace(" 23:", " 18:").replace("+00", "-05"),
            (TimestampTz, 1) => text.replace("+00", "Z"),
            _ => text.to_owned(),
        }
    }

    /// Some value that is no key's.
    pub fn some(self, dice: &mut Dice) -> String {
        let one = |dice: &mut Dice, of: &[&str]| (*dice.one(of)).to_owned();
        match self {
            Int2 | Int4 | Int8 => (i64::try_from(dice.below(14)).unwrap() - 3).to_string(),
            Numeric => format!("{}.{}", dice.below(40), ["00", "25", "50", "99"][dice.below(4)]),
            Text | Varchar => one(dice, &["Ada", "bob", "Zoë", "", "zz", "a b", "50%", "O'Hara", "eve", "Bob"]),
            Words => one(dice, &["Äpfel", "apfel", "Zebra", "zebra", "côte", "coté", "Ada", "ada", "o-o", "oo"]),
            Bpchar => one(dice, &["a", "ab", "zz"]),
            Uuid => format!("11111111-0000-4000-8000-{:012}", dice.below(9)),
            Bytea => one(dice, &["\\x00", "\\xff01", "\\x"]),
            Date => format!("2024-{:02}-{:02}", 1 + dice.below(3), 1 + dice.below(28)),
            Timestamp => format!("2024-{:02}-{:02} 08:00:00", 1 + dice.below(3), 1 + dice.below(28)),
            TimestampTz => format!("2024-{:02}-{:02} 08:00:00+00", 1 + dice.below(3), 1 + dice.below(28)),
            Float => one(dice, &["-1.5", "-0.25", "0", "0.75", "2", "10.5", "100.25"]),
            Bool => one(dice, &["true", "false"]),
            Enum => one(dice, &["sad", "ok", "happy"]),
            Domain => (1 + dice.below(9)).to_string(),
            Json => one(dice, &["{\"a\": 1}", "{\"a\": 2, \"b\": \"x\"}", "[1, 2]", "{}"]),
            Array => one(dice, &["{1,2}", "{}", "{3}", "{2,NULL}"]),
        }
    }

    /// The value as SQL writes it.
    pub fn literal(self, text: &str, dice: &mut Dice) -> String {
        let quoted = format!("'{}'", text.replace('\'', "''"));
        match self {
            Int2 | Int4 | Int8 | Numeric | Float | Domain if dice.percent(85) => text.to_owned(),
            Bool => text.to_owned(),
            Date | Timestamp | TimestampTz if dice.percent(30) => format!("{} {quoted}", self.cast_name()),
            _ if dice.percent(15) => format!("{quoted}::{}", self.cast_name()),
            _ => quoted,
        }
    }

    /// The binary format of a value; `None` where this test does not know it.
    pub fn binary(self, text: &str) -> Option<Vec<u8>> {
        let day = |text: &str| {
            let mut parts = text.split('-').map(|part| part.parse::<i64>().unwrap());
            days_since_2000(parts.next()?, parts.next()?, parts.next()?)
        };
        Some(match self {
            Int2 => text.parse::<i16>().ok()?.to_be_bytes().to_vec(),
            Int4 => text.parse::<i32>().ok()?.to_be_bytes().to_vec(),
            Int8 => text.parse::<i64>().ok()?.to_be_bytes().to_vec(),
            Float => text.parse::<f64>().ok()?.to_be_bytes().to_vec(),
            Text | Varchar | Bpchar | Words => text.as_bytes().to_vec(),
            Bool => vec![u8::from(text == "true")],
            Uuid => hex(&text.replace('-', "")),
            Bytea => hex(text.strip_prefix("\\x")?),
            Date => i32::try_from(day(text)?).ok()?.to_be_bytes().to_vec(),
            Timestamp | TimestampTz => {
                let clock: Vec<i64> = text.get(11..19)?.split(':').map(|part| part.parse().unwrap()).collect();
                let seconds = day(text.get(..10)?)? * 86_400 + clock[0] * 3_600 + clock[1] * 60 + clock[2];
                (seconds * 1_000_000).to_be_bytes().to_vec()
            }
            Numeric | Enum | Domain | Json | Array => return None,
        })
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// All dates of this test are of 2024, a leap year.
fn days_since_2000(year: i64, month: i64, day: i64) -> Option<i64> {
    const BEFORE: [i64; 12] = [0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335];
    let before = BEFORE.get(usize::try_from(month - 1).ok()?)?;
    (year == 2024).then_some(8_766 + before + day - 1)
}

/// A value that is sent apart from its statement.
#[derive(Clone, Debug)]
pub struct Param {
    pub kind: Kind,
    /// Members of an array of the kind.
    pub is_list: bool,
    pub values: Vec<Option<String>>,
}

impl Param {
    pub fn one(kind: Kind, value: Option<String>) -> Self {
        Self { kind, is_list: false, values: vec![value] }
    }

    /// As a client sends it; `None` when it has no binary format here.
    pub fn encode(&self, binary: bool) -> Option<raw::Parameter> {
        let (oid, list_oid) = self.kind.oids();
        if !self.is_list {
            let value = match &self.values[0] {
                None => None,
                Some(text) if binary => Some(self.kind.binary(text)?),
                Some(text) => Some(text.clone().into_bytes()),
            };
            return Some(raw::Parameter { type_oid: oid, value });
        }
        let value = if binary { self.binary_list(oid)? } else { self.list_text().into_bytes() };
        Some(raw::Parameter { type_oid: list_oid, value: Some(value) })
    }

    fn binary_list(&self, oid: u32) -> Option<Vec<u8>> {
        let count = i32::try_from(self.values.len()).unwrap();
        let has_null = i32::from(self.values.contains(&None));
        let mut out = Vec::new();
        for word in [i32::from(count > 0), has_null, i32::try_from(oid).unwrap()] {
            out.extend(word.to_be_bytes());
        }
        if count > 0 {
            out.extend(count.to_be_bytes());
            out.extend(1_i32.to_be_bytes());
        }
        for value in &self.values {
            match value {
                None => out.extend((-1_i32).to_be_bytes()),
                Some(text) => {
                    let bytes = self.kind.binary(text)?;
                    out.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                    out.extend(bytes);
                }
            }
        }
        Some(out)
    }

    /// An array as text.
    pub fn list_text(&self) -> String {
        let member = |value: &Option<String>| match value {
            None => "NULL".to_owned(),
            Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        };
        format!("{{{}}}", self.values.iter().map(member).collect::<Vec<_>>().join(","))
    }

    /// As a case file writes it.
    pub fn directive(&self) -> String {
        let value =
            if self.is_list { self.list_text() } else { self.values[0].clone().unwrap_or_else(|| "\\N".into()) };
        format!("{}{}={value}", self.kind.cast_name(), if self.is_list { "[]" } else { "" })
    }
}

#[test]
fn dates_in_binary_count_from_2000() {
    assert_eq!(Date.binary("2024-02-29"), Some(8_825_i32.to_be_bytes().to_vec()));
    assert_eq!(Int2.binary("-4"), Some(vec![0xff, 0xfc]));
}
