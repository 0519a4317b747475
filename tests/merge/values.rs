//! Order, equality and text of single values against the server's.

use std::cmp::Ordering;
use std::fmt::Write;

use ostrakon::wire::Format;
use ostrakon::wire::value::{Value, equality_key, type_oid as t};

use crate::support::{FORMATS, Random, Server};

/// A type, and how to write a random value of it as SQL text input.
pub struct Kind {
    pub sql: &'static str,
    pub random: fn(&mut Random) -> String,
}

/// Every type that the merge orders.
pub const KINDS: &[Kind] = &[
    Kind { sql: "boolean", random: |random| (*random.pick(&["t", "f"])).to_owned() },
    Kind { sql: "smallint", random: |random| (random.next() as i16 >> random.below(16)).to_string() },
    Kind { sql: "integer", random: |random| (random.next() as i32 >> random.below(32)).to_string() },
    Kind { sql: "bigint", random: |random| (random.next() as i64 >> random.below(64)).to_string() },
    Kind { sql: "oid", random: |random| (random.next() as u32 >> random.below(32)).to_string() },
    Kind { sql: "real", random: random_real },
    Kind { sql: "double precision", random: random_double },
    Kind { sql: "numeric", random: random_numeric },
    Kind { sql: "text COLLATE \"C\"", random: random_text },
    Kind { sql: "varchar(6) COLLATE \"C\"", random: random_text },
    Kind { sql: "char(6) COLLATE \"C\"", random: random_text },
    Kind { sql: "name", random: random_text },
    Kind { sql: "\"char\"", random: |random| char::from(b'(' + random.below(80) as u8).to_string() },
    Kind { sql: "bytea", random: random_bytea },
    Kind { sql: "uuid", random: random_uuid },
    Kind { sql: "date", random: random_date },
    Kind { sql: "timestamp", random: |random| random_timestamp(random, false) },
    Kind { sql: "timestamptz", random: |random| random_timestamp(random, true) },
    Kind { sql: "time", random: random_time },
    Kind { sql: "interval", random: random_interval },
];

fn random_real(random: &mut Random) -> String {
    let bits = f32::from_bits(random.next() as u32);
    match random.below(4) {
        0 if bits.is_finite() => bits.to_string(),
        1 => (*random.pick(&["NaN", "Infinity", "-Infinity", "0", "-0", "1e-45", "3.4028235e38"])).to_owned(),
        _ => (random.below(40) as f32 / 4.0 - 5.0).to_string(),
    }
}

fn random_double(random: &mut Random) -> String {
    let bits = f64::from_bits(random.next());
    match random.below(4) {
        0 if bits.is_finite() => format!("{bits:e}"),
        1 => {
            (*random.pick(&["NaN", "Infinity", "-Infinity", "0", "-0", "5e-324", "1.7976931348623157e308"])).to_owned()
        }
        _ => (random.below(40) as f64 / 4.0 - 5.0).to_string(),
    }
}

fn random_numeric(random: &mut Random) -> String {
    match random.below(5) {
        0 => (*random.pick(&["NaN", "Infinity", "-Infinity", "0", "0.00", "1.0", "1.00", "1e40", "1e-40"])).to_owned(),
        1 => format!("{}.{:09}", random.next() as i64, random.below(1_000_000_000)),
        _ => format!("{}.{}", random.below(9) as i64 - 4, random.pick(&["0", "00", "5", "50", "25", "250"])),
    }
}

fn random_text(random: &mut Random) -> String {
    let length = random.below(5);
    (0..length).map(|_| *random.pick(&["a", "b", "A", "Z", " ", "é", "ß", "-", "\u{1f5f3}", "zz"])).take(4).collect()
}

fn random_bytea(random: &mut Random) -> String {
    (0..random.below(5)).fold("\\x".to_owned(), |mut text, _| {
        write!(text, "{:02x}", random.pick(&[0u8, 1, 0x5c, 0x7f, 0x80, 0xff])).unwrap();
        text
    })
}

fn random_uuid(random: &mut Random) -> String {
    let node = random.next() >> (16 + random.below(40));
    format!("{:08x}-0000-4000-8000-{node:012x}", *random.pick(&[0u32, 1, 0x8000_0000, u32::MAX]))
}

fn random_date(random: &mut Random) -> String {
    if random.below(8) == 0 {
        return (*random.pick(&["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-01-01"])).to_owned();
    }
    let era = *random.pick(&["", "", "", " BC"]);
    format!("{:04}-{:02}-{:02}{era}", 1 + random.below(2100), 1 + random.below(12), 1 + random.below(28))
}

fn random_timestamp(random: &mut Random, zone: bool) -> String {
    if random.below(8) == 0 {
        return (*random.pick(&["infinity", "-infinity", "294276-12-31 12:00:00+00", "0044-03-15 01:02:03+00 BC"]))
            .to_owned();
    }
    // Many within the hour that comes twice when summer time ends in the session's zone.
    let day = if zone && random.below(2) == 0 {
        "2023-10-29".to_owned()
    } else {
        format!("{:04}-{:02}-{:02}", 1900 + random.below(200), 1 + random.below(12), 1 + random.below(28))
    };
    let fraction = *random.pick(&["", ".5", ".500000", ".000001", ".999999"]);
    let zone = if zone { *random.pick(&["+00", "+02", "-03:30"]) } else { "" };
    format!("{day} {:02}:{:02}:30{fraction}{zone}", random.below(4), random.below(60))
}

fn random_time(random: &mut Random) -> String {
    match random.below(10) {
        0 => "24:00:00".to_owned(),
        _ => format!(
            "{:02}:{:02}:{:02}{}",
            random.below(24),
            random.below(60),
            random.below(60),
            random.pick(&["", ".1", ".000001"])
        ),
    }
}

fn random_interval(random: &mut Random) -> String {
    format!(
        "{} months {} days {} seconds",
        random.below(30) as i64 - 15,
        random.below(70) as i64 - 35,
        *random.pick(&[0i64, 86_400, -86_400, 1, -1, 360_000]) as f64 + *random.pick(&[0.0, 0.5, -0.25])
    )
}

/// A list of rows for VALUES: a number and the text of a value; NULL now and then.
pub fn values_list(kind: &Kind, count: usize, random: &mut Random) -> String {
    let rows: Vec<String> = (0..count)
        .map(|at| match random.below(12) {
            0 => format!("({at},NULL)"),
            _ => format!("({at},'{}')", (kind.random)(random)),
        })
        .collect();
    rows.join(",")
}

#[test]
fn order_and_equality_are_the_servers() {
    let server = Server::start(15_831);
    let mut random = Random::seeded();
    for kind in KINDS {
        let list = values_list(kind, 400, &mut random);
        server.execute(&format!(
            "DROP TABLE IF EXISTS v; CREATE TABLE v (n int, v {}); INSERT INTO v SELECT n, v::{} FROM (VALUES {list}) s(n, v)",
            kind.sql,
            kind.sql.replace(" COLLATE \"C\"", ""),
        ));
        for format in FORMATS {
            let ranks =
                server.texts("SELECT dense_rank() OVER (ORDER BY v), n FROM v WHERE v IS NOT NULL ORDER BY v, n");
            let answer = server.query("SELECT v FROM v WHERE v IS NOT NULL ORDER BY v, n", format);
            let type_oid = answer.fields[0].type_oid;
            let cells: Vec<&Vec<u8>> = answer.rows.iter().map(|row| row[0].as_ref().unwrap()).collect();
            let values: Vec<Value> = cells
                .iter()
                .map(|cell| {
                    Value::decode(type_oid, format, cell)
                        .unwrap_or_else(|error| panic!("{error}: {} {}", kind.sql, String::from_utf8_lossy(cell)))
                })
                .collect();
            let keys: Vec<Vec<u8>> = cells.iter().map(|cell| equality_key(type_oid, format, cell).unwrap()).collect();
            for a in 0..cells.len() {
                for b in 0..cells.len() {
                    let rank = |at: usize| ranks[at][0].parse::<u32>().unwrap();
                    let expected = rank(a).cmp(&rank(b));
                    let names = || format!("{} {format:?}: {:?} {:?}", kind.sql, values[a], values[b]);
                    assert_eq!(values[a].compare(&values[b]), expected, "order of {}", names());
                    assert_eq!(keys[a] == keys[b], expected == Ordering::Equal, "equality of {}", names());
                }
            }
        }
    }
}

/// What is read from binary is written as the server's text, and the other way round.
#[test]
fn written_cells_are_the_servers() {
    let server = Server::start(15_832);
    let mut random = Random::seeded();
    for kind in KINDS {
        let list = values_list(kind, 400, &mut random);
        let base = kind.sql.replace(" COLLATE \"C\"", "");
        let sql = format!("SELECT v::{base} FROM (VALUES {list}) s(n, v) WHERE v IS NOT NULL ORDER BY n");
        let answers = FORMATS.map(|format| server.query(&sql, format));
        let type_oid = answers[0].fields[0].type_oid;
        let mut written = 0;
        for (text, binary) in answers[0].rows.iter().zip(&answers[1].rows) {
            let pair = [text[0].as_ref().unwrap(), binary[0].as_ref().unwrap()];
            for (from, source) in FORMATS.iter().zip(pair) {
                let value = Value::decode(type_oid, *from, source).unwrap();
                for (to, target) in FORMATS.iter().zip(pair) {
                    let mut cell = Vec::new();
                    if value.encode(type_oid, *to, &mut cell).is_err() {
                        continue;
                    }
                    written += 1;
                    assert_eq!(&cell, target, "{base}: {value:?}");
                }
            }
        }
        let refuses = [t::INTERVAL].contains(&type_oid);
        assert_eq!(written == 0, refuses, "{base}");
    }
}

/// Shortest output, with the cases where a shorter decimal lies on the bound of what reads back.
#[test]
fn printed_floats_are_the_servers() {
    let server = Server::start(15_833);
    let mut random = Random::seeded();
    let mut doubles: Vec<f64> = (-323..309).filter_map(|exponent| format!("1e{exponent}").parse().ok()).collect();
    doubles.extend((0..2_047u64).map(|exponent| f64::from_bits(exponent << 52)));
    doubles.extend((0..2_047u64).map(|exponent| f64::from_bits((exponent << 52) + 1)));
    // Integers from 2^53 on: half-way decimals are short there.
    doubles.extend((0..10_000).map(|_| (random.next() >> random.below(12)) as f64));
    doubles.extend((0..5_000).map(|_| 10f64.powi(random.below(40) as i32) * (1 + random.below(100)) as f64));
    doubles.extend((0..20_000).map(|_| f64::from_bits(random.next())));
    let mut reals: Vec<f32> = (0..255u32).map(|exponent| f32::from_bits(exponent << 23)).collect();
    reals.extend((0..10_000).map(|_| (random.next() as u32 >> random.below(9)) as f32));
    reals.extend((0..20_000).map(|_| f32::from_bits(random.next() as u32)));

    let written = |type_oid, value: Value| {
        let mut cell = Vec::new();
        value.encode(type_oid, Format::Text, &mut cell).unwrap();
        String::from_utf8(cell).unwrap()
    };
    let printed = server.print_array("float8", &doubles);
    for (value, printed) in doubles.iter().zip(printed) {
        assert_eq!(written(t::FLOAT8, Value::Float8(*value)), printed, "{:x}", value.to_bits());
    }
    let printed = server.print_array("float4", &reals);
    for (value, printed) in reals.iter().zip(printed) {
        assert_eq!(written(t::FLOAT4, Value::Float4(*value)), printed, "{:x}", value.to_bits());
    }
}
