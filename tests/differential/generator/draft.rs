//! What statements are made of: row sources, conditions, values.

use super::values::{Kind, POOL, Param};
use super::world::{Table, World};
use crate::cases::Order;
use crate::random::Dice;
use crate::runner::Mode;

/// One statement and how it is sent and compared.
#[derive(Clone, Debug)]
pub struct Step {
    pub sql: String,
    pub params: Vec<Param>,
    pub order: Order,
    pub mode: Mode,
    /// What COPY FROM STDIN is given.
    pub copy: Option<String>,
    /// For the statistics.
    pub kind: &'static str,
    /// Changes nothing: it may be left out, or run on one side only.
    pub reads: bool,
    /// Several rows may break several constraints: which is told is open.
    pub any_violation: bool,
    /// Steps with one number stand and fall together.
    pub block: Option<usize>,
    /// Values are volatile.
    pub shape: bool,
}

/// A query's text, the names of its columns with what they show, and the key that they keep.
type Inner<'w> = (String, Vec<(String, Sight)>, (Vec<String>, &'w Table));

/// A column in sight.
#[derive(Clone, Debug)]
pub struct Sight {
    pub text: String,
    pub kind: Kind,
    pub is_key: bool,
}

/// A FROM clause.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub with: String,
    pub from: String,
    /// Conditions that belong to the join.
    pub conditions: Vec<String>,
    pub columns: Vec<Sight>,
    /// Orders every row totally.
    pub total: Vec<String>,
    /// The key, when there is one, of the first table.
    pub key: Vec<Sight>,
    /// Tables in it.
    pub width: usize,
}

/// A statement under construction.
pub struct Draft<'w> {
    pub dice: &'w mut Dice,
    pub world: &'w World,
    pub params: Vec<Param>,
    /// Values become parameters.
    pub lifts: bool,
}

impl<'w> Draft<'w> {
    pub fn new(dice: &'w mut Dice, world: &'w World, lifts: bool) -> Self {
        Self { dice, world, params: Vec::new(), lifts }
    }

    /// A value in a statement: a parameter, or text.
    pub fn value(&mut self, kind: Kind, text: &str) -> String {
        if self.lifts && self.dice.percent(70) {
            return self.param(Param::one(kind, Some(text.to_owned())));
        }
        kind.literal(text, self.dice)
    }

    pub fn param(&mut self, param: Param) -> String {
        self.params.push(param);
        format!("${}", self.params.len())
    }

    /// Some value of a column, often one that rows have.
    pub fn some(&mut self, sight: &Sight) -> String {
        if !sight.is_key {
            let text = sight.kind.some(self.dice);
            return self.value(sight.kind, &text);
        }
        let text = sight.kind.key(self.dice.below(POOL));
        if self.dice.percent(85) {
            return self.value(sight.kind, &text);
        }
        let text = sight.kind.spelled(&text, self.dice);
        format!("'{}'", text.replace('\'', "''"))
    }

    /// A condition in which the key stands where it restricts nothing, or less than it seems.
    pub fn trap(&mut self, key: &[Sight], columns: &[Sight]) -> String {
        let sight = self.dice.one(key).clone();
        let (text, one, two) = (sight.text.clone(), self.some(&sight), self.some(&sight));
        let other = self.condition(columns);
        match self.dice.below(16) {
            0 => format!("({text} = {one} OR {other})"),
            1 => format!("NOT ({text} = {one})"),
            2 => format!("({text} = {one}) IS NOT TRUE"),
            3 => format!("CASE WHEN {text} = {one} THEN false ELSE {other} END"),
            4 => format!("coalesce({text} = {one}, true)"),
            5 => format!("({text} = {one} OR ({text} = {two} AND {other}))"),
            6 => format!("{text} <> ALL (ARRAY[{one}, {two}]::{}[])", sight.kind.cast_name()),
            7 => format!("{text} >= {one}"),
            8 => format!("{text} IN ({one}, {two}) AND {text} <> {one}"),
            9 => format!("{text} = {one} AND {text} = {two}"),
            10 => format!("{text} IS DISTINCT FROM {one}"),
            11 => format!("{text} IS NOT DISTINCT FROM {one}"),
            12 => format!("({text} = {one}) = ({text} = {two})"),
            13 => format!("{text} = {one}::{}", sight.kind.cast_name()),
            14 => format!("nullif({text}, {one}) IS NULL"),
            _ => format!("({text} = {one} OR {text} = {two}) AND ({text} = {two} OR {other})"),
        }
    }

    /// A table with a sharding key.
    pub fn sharded(&mut self) -> &'w Table {
        let has_views = self.dice.percent(20);
        let tables: Vec<&Table> =
            self.world.sharded().into_iter().filter(|table| has_views || !table.is_view).collect();
        tables[self.dice.below(tables.len())]
    }

    /// A table with a sharding key that can be written.
    pub fn written(&mut self) -> &'w Table {
        let tables: Vec<&Table> = self.world.sharded().into_iter().filter(|table| !table.is_view).collect();
        tables[self.dice.below(tables.len())]
    }

    /// Tables of the same family, itself included; views now and then.
    pub fn relatives(&mut self, table: &Table) -> Vec<&'w Table> {
        let has_views = self.dice.percent(20);
        let is_relative = |other: &&Table| other.family == table.family && (has_views || !other.is_view);
        self.world.sharded().into_iter().filter(is_relative).collect()
    }

    pub fn named(&self, name: &str) -> &'w Table {
        self.world.tables.iter().find(|table| table.name == name).unwrap()
    }

    /// One table as a FROM clause.
    pub fn table(&mut self, table: &Table, alias: &str) -> Source {
        let dot = if alias.is_empty() { String::new() } else { format!("{alias}.") };
        let sight = |name: &str| {
            let column = table.column(name);
            Sight { text: format!("{dot}{name}"), kind: column.kind, is_key: column.is_key }
        };
        Source {
            from: format!("{}{}{alias}", table.name, if alias.is_empty() { "" } else { " " }),
            columns: table.columns.iter().map(|column| sight(&column.name)).collect(),
            total: table.primary.iter().map(|name| format!("{dot}{name}")).collect(),
            key: table.key.iter().map(|name| sight(name)).collect(),
            width: 1,
            ..Source::default()
        }
    }

    /// A FROM clause as applications write them.
    pub fn source(&mut self) -> Source {
        match self.dice.below(100) {
            0..=44 => {
                let table = self.sharded();
                let alias = *self.dice.one(&["", "", "x"]);
                self.table(table, alias)
            }
            45..=66 => self.colocated(),
            67..=80 => self.with_reference(),
            81..=84 => {
                let mut source = self.colocated();
                self.join_reference(&mut source);
                source
            }
            85..=88 => self.cte(),
            89..=92 => self.derived(),
            93..=96 => {
                let table = self.named("ref");
                self.table(table, "r")
            }
            _ => {
                let table = self.named("one");
                self.table(table, "s")
            }
        }
    }

    /// A sharded table, perhaps joined.
    pub fn sharded_source(&mut self) -> Source {
        match self.dice.below(4) {
            0 => self.colocated(),
            1 => self.with_reference(),
            _ => {
                let table = self.sharded();
                self.table(table, "x")
            }
        }
    }

    fn with_reference(&mut self) -> Source {
        let table = self.sharded();
        let mut source = self.table(table, "x");
        self.join_reference(&mut source);
        source
    }

    /// Joins the reference table by its code.
    fn join_reference(&mut self, source: &mut Source) {
        let reference = self.named("ref");
        let right = self.table(reference, "r");
        let Some(by) = source.columns.iter().find(|sight| sight.text.ends_with(".i")).cloned() else { return };
        let word = *self.dice.one(&["JOIN", "JOIN", "LEFT JOIN"]);
        source.from = format!("{} {word} {} ON r.code = {}", source.from, right.from, by.text);
        source.columns.extend(right.columns);
        source.total.extend(right.total);
        source.width += 1;
    }

    /// Two tables of a family joined by their keys.
    pub fn colocated(&mut self) -> Source {
        let left = self.sharded();
        let of_family = self.relatives(left);
        let right = of_family[self.dice.below(of_family.len())];
        let mut source = self.table(left, "x");
        let other = self.table(right, "y");
        let equal: Vec<String> = source
            .key
            .iter()
            .zip(&other.key)
            .map(|(a, b)| {
                if self.dice.percent(50) {
                    format!("{} = {}", a.text, b.text)
                } else {
                    format!("{} = {}", b.text, a.text)
                }
            })
            .collect();
        let equal = equal.join(" AND ");
        match self.dice.below(10) {
            0 | 1 => {
                source.from = format!("{}, {}", source.from, other.from);
                source.conditions.push(equal);
            }
            2 | 3 => source.from = format!("{} LEFT JOIN {} ON {equal}", source.from, other.from),
            4 => source.from = format!("{} RIGHT JOIN {} ON {equal}", source.from, other.from),
            5 if left.key == right.key => {
                source.from = format!("{} JOIN {} USING ({})", source.from, other.from, left.key.join(", "));
            }
            6 => {
                let more = self.condition(&other.columns);
                source.from = format!("{} LEFT JOIN {} ON {equal} AND {more}", source.from, other.from);
            }
            _ => source.from = format!("{} JOIN {} ON {equal}", source.from, other.from),
        }
        source.columns.extend(other.columns);
        source.total.extend(other.total);
        source.width = 2;
        source
    }

    /// A WITH query, joined or alone.
    fn cte(&mut self) -> Source {
        let (inner, names, key) = self.inner();
        let word = *self.dice.one(&["AS", "AS", "AS MATERIALIZED"]);
        self.outer(format!("WITH w {word} ({inner}) "), "w c".into(), names, key)
    }

    /// A query in FROM.
    fn derived(&mut self) -> Source {
        let (inner, names, key) = self.inner();
        self.outer(String::new(), format!("({inner}) AS c"), names, key)
    }

    /// A query of one sharded table that keeps its key; some limit their rows.
    fn inner(&mut self) -> Inner<'w> {
        let table = self.sharded();
        let source = self.table(table, "z");
        let mut kept: Vec<Sight> = source.columns.clone();
        kept.retain(|sight| sight.is_key || self.dice.percent(60) || source.total.contains(&sight.text));
        let names: Vec<(String, Sight)> =
            kept.iter().map(|sight| (sight.text.trim_start_matches("z.").to_owned(), sight.clone())).collect();
        let list: Vec<&str> = kept.iter().map(|sight| sight.text.as_str()).collect();
        let mut sql = format!("SELECT {} FROM {}", list.join(", "), source.from);
        if self.dice.percent(70) {
            let condition = self.filter(&source);
            sql.push_str(&condition);
        }
        if self.dice.percent(12) {
            sql.push_str(&format!(" ORDER BY {} LIMIT {}", source.total.join(", "), 1 + self.dice.below(9)));
        }
        (sql, names, (table.primary.clone(), table))
    }

    fn outer(
        &mut self,
        with: String,
        from: String,
        names: Vec<(String, Sight)>,
        (primary, table): (Vec<String>, &Table),
    ) -> Source {
        let columns: Vec<Sight> =
            names.into_iter().map(|(name, sight)| Sight { text: format!("c.{name}"), ..sight }).collect();
        let key: Vec<Sight> = table
            .key
            .iter()
            .filter_map(|name| columns.iter().find(|sight| sight.text == format!("c.{name}")).cloned())
            .collect();
        let mut source = Source {
            with,
            from,
            columns,
            total: primary.iter().map(|name| format!("c.{name}")).collect(),
            key,
            width: 1,
            ..Source::default()
        };
        if self.dice.percent(40) {
            let of_family = self.relatives(table);
            let right = of_family[self.dice.below(of_family.len())];
            let right = self.table(right, "y");
            let equal: Vec<String> =
                source.key.iter().zip(&right.key).map(|(a, b)| format!("{} = {}", a.text, b.text)).collect();
            source.from = format!("{} JOIN {} ON {}", source.from, right.from, equal.join(" AND "));
            source.columns.extend(right.columns);
            source.total.extend(right.total);
            source.width = 2;
        }
        source
    }

    /// ` WHERE …`, often with the key in it; may be empty.
    pub fn filter(&mut self, source: &Source) -> String {
        let mut terms = source.conditions.clone();
        if !source.key.is_empty() && self.dice.percent(35) {
            terms.push(self.by_key(&source.key));
        }
        if !source.key.is_empty() && self.dice.percent(8) {
            terms.push(self.trap(&source.key, &source.columns));
        }
        for _ in 0..self.dice.below(3) {
            let mut term = self.condition(&source.columns);
            if self.dice.percent(15) {
                let other = self.condition(&source.columns);
                term = format!("({term} OR {other})");
            }
            terms.push(term);
        }
        where_of(&terms)
    }

    /// A condition that gives the whole key.
    pub fn by_key(&mut self, key: &[Sight]) -> String {
        if let [one] = key {
            return match self.dice.below(12) {
                0 | 1 => {
                    let values: Vec<String> = (0..1 + self.dice.below(4)).map(|_| self.some(one)).collect();
                    format!("{} IN ({})", one.text, values.join(", "))
                }
                2 | 3 if one.kind.oids().1 != 0 => {
                    let list = self.list(one);
                    format!("{} = ANY ({list})", one.text)
                }
                4 => format!("({} = {} OR {} = {})", one.text, self.some(one), one.text, self.some(one)),
                5 => format!("{} = {}", self.some(one), one.text),
                _ => format!("{} = {}", one.text, self.some(one)),
            };
        }
        let texts: Vec<&str> = key.iter().map(|sight| sight.text.as_str()).collect();
        let row = |draft: &mut Self| {
            let values: Vec<String> = key.iter().map(|sight| draft.some(sight)).collect();
            format!("({})", values.join(", "))
        };
        match self.dice.below(5) {
            0 => format!("({}) = {}", texts.join(", "), row(self)),
            1 => format!("({}) IN ({}, {})", texts.join(", "), row(self), row(self)),
            _ => {
                let equal: Vec<String> =
                    key.iter().map(|sight| format!("{} = {}", sight.text, self.some(sight))).collect();
                equal.join(" AND ")
            }
        }
    }

    /// An array of values of a column.
    pub fn list(&mut self, sight: &Sight) -> String {
        let count = self.dice.below(5);
        let values: Vec<Option<String>> = (0..count)
            .map(|_| {
                let is_null = self.dice.percent(4);
                let text =
                    if sight.is_key { sight.kind.key(self.dice.below(POOL)) } else { sight.kind.some(self.dice) };
                (!is_null).then_some(text)
            })
            .collect();
        let param = Param { kind: sight.kind, is_list: true, values };
        if self.lifts {
            return self.param(param);
        }
        if count > 0 && self.dice.percent(50) {
            let members: Vec<String> = param
                .values
                .iter()
                .map(|value| match value {
                    Some(text) => format!("'{}'", text.replace('\'', "''")),
                    None => "NULL".into(),
                })
                .collect();
            return format!("ARRAY[{}]::{}[]", members.join(", "), sight.kind.cast_name());
        }
        format!("'{}'::{}[]", param.list_text().replace('\'', "''"), sight.kind.cast_name())
    }

    /// Some condition on one column.
    pub fn condition(&mut self, columns: &[Sight]) -> String {
        let sight = self.dice.one(columns).clone();
        let text = &sight.text;
        let operator = *self.dice.one(&["=", "=", "<", ">", "<=", ">=", "<>"]);
        match (sight.kind, self.dice.below(12)) {
            (_, 0) => format!("{text} IS NULL"),
            (_, 1) => format!("{text} IS NOT NULL"),
            (Kind::Json, _) => format!("{text} ->> 'a' = '1'"),
            (Kind::Array, _) => format!("{text} @> '{{1}}'"),
            (Kind::Bool, 2..=5) => format!("NOT {text}"),
            (Kind::Bool, _) => text.clone(),
            (_, 2 | 3) => format!("{text} IN ({}, {})", self.some(&sight), self.some(&sight)),
            (_, 4) => format!("NOT ({text} {operator} {})", self.some(&sight)),
            (kind, 5) if kind.is_text() => format!("{text} LIKE '%{}%'", ["a", "e", "key", "1"][self.dice.below(4)]),
            (kind, 6) if kind.is_text() => format!("lower({text}) = {}", self.value(Kind::Text, "ada")),
            (kind, 5) if kind.is_integer() => format!("{text} % 3 = {}", self.dice.below(3)),
            (kind, 6) if kind.is_integer() => format!("{text} + 1 > {}", self.dice.below(9)),
            (kind, 7) if kind.is_number() || kind == Kind::Date => {
                format!("{text} BETWEEN {} AND {}", self.some(&sight), self.some(&sight))
            }
            (kind, 8) if kind.oids().1 != 0 => {
                let list = self.list(&sight);
                format!("{text} = ANY ({list})")
            }
            _ => format!("{text} {operator} {}", self.some(&sight)),
        }
    }
}

/// ` WHERE …` of these terms.
pub fn where_of(terms: &[String]) -> String {
    if terms.is_empty() { String::new() } else { format!(" WHERE {}", terms.join(" AND ")) }
}
