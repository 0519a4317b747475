//! Random SELECTs over the demo schema, made from a seed: statement `index` of a seed is always the same.
//!
//! Every statement has one right answer: what LIMIT cuts is ordered totally, sums of floats are exact
//! (the data are multiples of a quarter).

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cases::Order;

/// `OSTRAKON_RANDOM`, or what CI runs.
pub fn count_from_env() -> usize {
    std::env::var("OSTRAKON_RANDOM").map_or(400, |text| text.parse().unwrap())
}

/// `OSTRAKON_SEED` (a number, or `clock`), or CI's fixed one.
pub fn seed_from_env() -> u64 {
    match std::env::var("OSTRAKON_SEED").as_deref() {
        Ok("clock") => {
            u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() & 0xffff_ffff).unwrap()
        }
        Ok(text) => text.parse().unwrap(),
        Err(_) => 20_261_122,
    }
}

/// SplitMix64: small, and good enough to choose with.
pub struct Dice(u64);

impl Dice {
    /// The dice of one thing made from a seed.
    pub fn of(seed: u64, index: usize) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x1_0000_0001).wrapping_add(u64::try_from(index).unwrap()));
        dice.next();
        dice
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Int,
    Number,
    Text,
    Status,
    Country,
    Sku,
    Time,
    Day,
    Device,
    Uuid,
    Float,
}

struct Source {
    /// FROM clause.
    from: &'static str,
    /// Columns as written, with their kinds.
    columns: &'static [(&'static str, Kind)],
    /// Orders every row totally.
    total: &'static [&'static str],
}

use Kind::{Country, Day, Device, Float, Int, Number, Sku, Status, Text, Time, User, Uuid};

const SOURCES: [Source; 14] = [
    Source {
        from: "users",
        columns: &[
            ("id", User),
            ("email", Text),
            ("name", Text),
            ("country", Country),
            ("created_at", Time),
            ("balance", Number),
        ],
        total: &["id"],
    },
    Source {
        from: "orders o",
        columns: &[
            ("o.user_id", User),
            ("o.id", Int),
            ("o.status", Status),
            ("o.amount", Number),
            ("o.placed_at", Time),
        ],
        total: &["o.user_id", "o.id"],
    },
    Source {
        from: "order_items",
        columns: &[
            ("user_id", User),
            ("order_id", Int),
            ("line", Int),
            ("sku", Sku),
            ("quantity", Int),
            ("price", Number),
        ],
        total: &["user_id", "order_id", "line"],
    },
    Source {
        from: "readings",
        columns: &[("device", Device), ("day", Day), ("value", Float)],
        total: &["device", "day"],
    },
    Source { from: "events e", columns: &[("e.id", Uuid), ("e.kind", Text), ("e.at", Time)], total: &["e.id"] },
    Source { from: "countries", columns: &[("code", Country), ("name", Text)], total: &["code"] },
    Source {
        from: "users u JOIN orders o ON o.user_id = u.id",
        columns: &[
            ("u.id", User),
            ("u.country", Country),
            ("o.id", Int),
            ("o.status", Status),
            ("o.amount", Number),
            ("u.name", Text),
        ],
        total: &["u.id", "o.id"],
    },
    Source {
        from: "users u LEFT JOIN orders o ON o.user_id = u.id AND o.amount > 60",
        columns: &[("u.id", User), ("o.status", Status), ("o.amount", Number), ("u.name", Text)],
        total: &["u.id", "o.id"],
    },
    Source {
        from: "orders o JOIN order_items i ON i.user_id = o.user_id AND i.order_id = o.id",
        columns: &[
            ("o.user_id", User),
            ("i.order_id", Int),
            ("i.line", Int),
            ("i.sku", Sku),
            ("o.status", Status),
            ("i.quantity", Int),
            ("i.price", Number),
        ],
        total: &["o.user_id", "o.id", "i.line"],
    },
    Source {
        from: "users u JOIN countries c ON c.code = u.country",
        columns: &[("u.id", User), ("c.name", Text), ("u.country", Country), ("u.balance", Number)],
        total: &["u.id"],
    },
    Source {
        from: "order_items i LEFT JOIN products p ON p.sku = i.sku AND p.price > 3",
        columns: &[("i.user_id", User), ("i.sku", Sku), ("p.title", Text), ("p.price", Number), ("i.quantity", Int)],
        total: &["i.user_id", "i.order_id", "i.line"],
    },
    Source {
        from: "users u JOIN orders o USING (id)",
        columns: &[("id", User), ("o.user_id", User), ("u.balance", Number)],
        total: &["id", "o.user_id"],
    },
    Source {
        from: "users u, orders o, order_items i WHERE u.id = o.user_id AND o.user_id = i.user_id AND o.id = i.order_id",
        columns: &[("u.id", User), ("i.sku", Sku), ("i.price", Number), ("u.country", Country)],
        total: &["u.id", "o.id", "i.line"],
    },
    Source {
        from: "products p",
        columns: &[("p.sku", Sku), ("p.title", Text), ("p.price", Number)],
        total: &["p.sku"],
    },
];

/// Statement `index` of a seed and how its rows are compared.
pub fn select(seed: u64, index: usize) -> (String, Order) {
    let mut dice = Dice::of(seed, index);
    let source = &SOURCES[dice.below(SOURCES.len())];
    let filter = filter(&mut dice, source);
    match dice.below(10) {
        0..=4 => rows(&mut dice, source, &filter),
        5 => distinct(&mut dice, source, &filter),
        _ => groups(&mut dice, source, &filter),
    }
}

fn rows(dice: &mut Dice, source: &Source, filter: &str) -> (String, Order) {
    let count = 1 + dice.below(source.columns.len());
    let columns: Vec<&str> = (0..count).map(|_| dice.one(source.columns).0).collect();
    let mut sql = format!("SELECT {} FROM {}{filter}", columns.join(", "), source.from);
    if !dice.percent(65) {
        return (sql, Order::Any);
    }
    let mut order: Vec<String> =
        (0..dice.below(3)).map(|_| format!("{}{}", dice.one(source.columns).0, direction(dice))).collect();
    order.extend(source.total.iter().map(|column| format!("{column}{}", direction(dice))));
    sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
    limit(dice, &mut sql);
    (sql, Order::Total)
}

fn distinct(dice: &mut Dice, source: &Source, filter: &str) -> (String, Order) {
    let count = 1 + dice.below(2);
    let columns: Vec<&str> = (0..count).map(|_| dice.one(source.columns).0).collect();
    let mut sql = format!("SELECT DISTINCT {} FROM {}{filter}", columns.join(", "), source.from);
    if dice.percent(60) {
        let order: Vec<String> = (1..=count).map(|ordinal| format!("{ordinal}{}", direction(dice))).collect();
        sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
        limit(dice, &mut sql);
        return (sql, Order::Total);
    }
    (sql, Order::Any)
}

fn groups(dice: &mut Dice, source: &Source, filter: &str) -> (String, Order) {
    let grouped = dice.below(3);
    let mut outputs: Vec<String> = (0..grouped).map(|_| dice.one(source.columns).0.to_owned()).collect();
    for number in 0..=dice.below(3) {
        outputs.push(format!("{} AS a{number}", aggregate(dice, source)));
    }
    let mut sql = format!("SELECT {} FROM {}{filter}", outputs.join(", "), source.from);
    if grouped > 0 {
        let ordinals: Vec<String> = if dice.percent(50) {
            (1..=grouped).map(|ordinal| ordinal.to_string()).collect()
        } else {
            outputs[..grouped].to_vec()
        };
        sql.push_str(&format!(" GROUP BY {}", ordinals.join(", ")));
    }
    if dice.percent(25) {
        let condition = aggregate_condition(dice, source);
        sql.push_str(&format!(" HAVING {condition}"));
    }
    if dice.percent(60) {
        let mut ordinals: Vec<usize> = (1..=outputs.len()).collect();
        ordinals.rotate_left(dice.below(outputs.len()));
        let order: Vec<String> = ordinals.iter().map(|ordinal| format!("{ordinal}{}", direction(dice))).collect();
        sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
        limit(dice, &mut sql);
        return (sql, Order::Total);
    }
    (sql, Order::Any)
}

fn aggregate(dice: &mut Dice, source: &Source) -> String {
    let (column, kind) = *dice.one(source.columns);
    match (kind, dice.below(6)) {
        (_, 0) => "count(*)".into(),
        (Uuid, _) => format!("count({column})"),
        (User | Int | Number | Float, 1) => format!("sum({column})"),
        (User | Int | Number | Float, 2) => format!("avg({column})"),
        (_, 3) => format!("max({column})"),
        (_, 4) => format!("count(DISTINCT {column})"),
        (_, 5) => format!("count({column})"),
        _ => format!("min({column})"),
    }
}

fn aggregate_condition(dice: &mut Dice, source: &Source) -> String {
    let number = dice.below(6);
    match dice.below(3) {
        0 => format!("count(*) > {number}"),
        1 => format!("count(*) BETWEEN {number} AND {}", number + 8),
        _ => format!("count({}) >= {number}", dice.one(source.columns).0),
    }
}

fn direction(dice: &mut Dice) -> &'static str {
    ["", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"][dice.below(5)]
}

fn limit(dice: &mut Dice, sql: &mut String) {
    if dice.percent(45) {
        sql.push_str(&format!(" LIMIT {}", dice.below(12)));
    }
    if dice.percent(20) {
        sql.push_str(&format!(" OFFSET {}", dice.below(20)));
    }
}

fn filter(dice: &mut Dice, source: &Source) -> String {
    let joined = source.from.contains(" WHERE ");
    let count = dice.below(4);
    if count == 0 {
        return String::new();
    }
    let mut text = condition(dice, source);
    for _ in 1..count {
        let word = if dice.percent(70) { "AND" } else { "OR" };
        text = format!("({text}) {word} {}", condition(dice, source));
    }
    if joined { format!(" AND ({text})") } else { format!(" WHERE {text}") }
}

fn condition(dice: &mut Dice, source: &Source) -> String {
    let (column, kind) = *dice.one(source.columns);
    let operator = *dice.one(&["=", "=", "<", ">", "<=", ">=", "<>"]);
    match dice.below(10) {
        0 => format!("{column} IS NULL"),
        1 => format!("{column} IS NOT NULL"),
        2 | 3 => format!("{column} IN ({}, {}, {})", value(dice, kind), value(dice, kind), value(dice, kind)),
        4 => format!("NOT ({column} {operator} {})", value(dice, kind)),
        5 if kind == User => format!("{column} IN (SELECT user_id FROM orders WHERE amount > {})", 20 + dice.below(80)),
        6 if kind == User => format!("{column} BETWEEN {} AND {}", dice.below(30), 20 + dice.below(40)),
        _ => format!("{column} {operator} {}", value(dice, kind)),
    }
}

fn value(dice: &mut Dice, kind: Kind) -> String {
    match kind {
        User => (1 + dice.below(62)).to_string(),
        Int => (1 + dice.below(12)).to_string(),
        Number => format!("{}.{}", dice.below(90), ["0", "25", "5", "75"][dice.below(4)]),
        Float => (*dice.one(&["-1", "-0.5", "0", "0.25", "1.5", "2"])).into(),
        Text => (*dice.one(&["'Ada'", "'bob'", "'Zoë'", "''", "'France'", "'login'", "'Pen 6'", "NULL"])).into(),
        Status => (*dice.one(&["'new'", "'paid'", "'shipped'", "'cancelled'", "'none'"])).into(),
        Country => (*dice.one(&["'de'", "'fr'", "'jp'", "'zz'", "'xx'", "NULL"])).into(),
        Sku => format!("'sku-{:02}'", 1 + dice.below(13)),
        Device => format!("'device-{}'", 1 + dice.below(6)),
        Day => format!("date '2024-06-{:02}'", 1 + dice.below(13)),
        Time => format!("timestamptz '2024-{:02}-{:02} 10:00:00+00'", 1 + dice.below(6), 1 + dice.below(28)),
        Uuid => format!("'00000000-0000-4000-8000-{:012}'", 1 + dice.below(42)),
    }
}

#[test]
fn a_seed_gives_the_same_statements_again() {
    let texts: Vec<String> = (0..50).map(|index| select(7, index).0).collect();
    assert_eq!(texts, (0..50).map(|index| select(7, index).0).collect::<Vec<_>>());
    assert_ne!(texts, (0..50).map(|index| select(8, index).0).collect::<Vec<_>>());
}
