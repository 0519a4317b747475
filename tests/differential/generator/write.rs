//! Random writes, COPY, locks and cursors.

use super::draft::{Draft, Sight, where_of};
use super::values::{Kind, Param};
use super::world::{Column, Table, new_value};
use crate::cases::Order;

/// A write under construction.
pub struct Write {
    pub sql: String,
    pub kind: &'static str,
    pub order: Order,
    pub copy: Option<String>,
    pub any_violation: bool,
    pub shape: bool,
    pub reads: bool,
}

impl Write {
    fn new(sql: String, kind: &'static str) -> Self {
        Self { sql, kind, order: Order::Any, copy: None, any_violation: false, shape: false, reads: false }
    }

    fn loose(mut self) -> Self {
        self.any_violation = true;
        self
    }
}

impl Draft<'_> {
    /// Some write.
    pub fn write(&mut self) -> Write {
        match self.dice.below(100) {
            0..=21 => self.insert(),
            22..=33 => self.upsert(),
            34..=37 => self.insert_select(),
            38..=41 => self.unnest(),
            42..=60 => self.update(),
            61 => self.merge(),
            62..=65 => self.update_from(),
            66..=78 => self.delete(),
            79..=80 => self.delete_using(),
            81..=83 => self.move_key(),
            84..=86 => self.copy_in(),
            87..=88 => self.copy_out(),
            89..=91 => self.lock_rows(),
            92..=96 => self.other_table(),
            97 => self.truncate(),
            98 => self.modifying_with(),
            _ => self.made(),
        }
    }

    /// The columns of a new row: all of them, or those that have to be there and some more.
    fn written_columns<'t>(&mut self, table: &'t Table) -> Vec<&'t Column> {
        let is_whole = self.dice.percent(60);
        let mut columns = table.writable();
        columns.retain(|column| {
            is_whole
                || column.is_key
                || column.not_null
                || table.primary.contains(&column.name)
                || self.dice.percent(50)
        });
        columns
    }

    fn row(&mut self, columns: &[&Column]) -> String {
        let values: Vec<String> = columns
            .iter()
            .map(|column| match new_value(self.dice, column) {
                None => "NULL".into(),
                Some(text) => {
                    let text = if column.name == "line" || column.name == "code" {
                        self.dice.below(9).to_string()
                    } else {
                        text
                    };
                    self.value(column.kind, &text)
                }
            })
            .collect();
        format!("({})", values.join(", "))
    }

    fn returning(&mut self, table: &Table) -> String {
        match self.dice.below(10) {
            0 | 1 => " RETURNING *".into(),
            2 | 3 => format!(" RETURNING {}", table.primary.join(", ")),
            4 => format!(" RETURNING {}, i + 1 AS more, coalesce(t, 'none')", table.key[0]),
            _ => String::new(),
        }
    }

    fn insert_into(&mut self, table: &Table, count: usize) -> String {
        let columns = self.written_columns(table);
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let rows: Vec<String> = (0..count).map(|_| self.row(&columns)).collect();
        format!("INSERT INTO {} ({}) VALUES {}", table.name, names.join(", "), rows.join(", "))
    }

    fn insert(&mut self) -> Write {
        let table = self.written();
        let count = if self.dice.percent(60) { 1 } else { 1 + self.dice.below(4) };
        let mut sql = self.insert_into(table, count);
        if self.dice.percent(6) {
            // A NULL key.
            sql = format!("INSERT INTO {} (i) VALUES (1)", table.name);
            self.params.clear();
            return Write::new(sql, "insert").loose();
        }
        // Most rows are new, or the statement says what to do when they are not.
        if self.dice.percent(70) {
            sql.push_str(" ON CONFLICT DO NOTHING");
        }
        sql.push_str(&self.returning(table));
        Write::new(sql, "insert").loose()
    }

    fn upsert(&mut self) -> Write {
        let table = self.written();
        let mut sql = self.insert_into(table, 1);
        let target = table.primary.join(", ");
        let tail = match self.dice.below(5) {
            0 => "NOTHING".to_owned(),
            1 => "UPDATE SET i = EXCLUDED.i".to_owned(),
            2 => format!("UPDATE SET i = coalesce({}.i, 0) + 1, t = EXCLUDED.t", table.name),
            3 => format!("UPDATE SET n = EXCLUDED.n WHERE {}.i > 2", table.name),
            _ => "UPDATE SET t = 'again'".to_owned(),
        };
        sql.push_str(&format!(" ON CONFLICT ({target}) DO {tail}"));
        sql.push_str(&self.returning(table));
        Write::new(sql, "upsert").loose()
    }

    fn insert_select(&mut self) -> Write {
        let table = self.written();
        let from = self.sharded();
        let source = self.table(from, "x");
        let filter = self.filter(&source);
        let mut names: Vec<String> = table.key.clone();
        let mut values: Vec<String> = if from.family == table.family {
            source.key.iter().map(|sight| sight.text.clone()).collect()
        } else {
            table.key.iter().map(|name| self.some(&sight_of(table, name))).collect()
        };
        // Rows that would take each other's place must be alike: which of them comes first is open.
        let has_lines = from.primary.len() > from.key.len();
        let mut is_unique = from.family == table.family && !has_lines;
        if table.primary.len() > table.key.len() {
            names.push("line".into());
            let line = 20 + self.dice.below(30);
            is_unique = from.family == table.family;
            values.push(if has_lines && is_unique { format!("x.line + {line}") } else { line.to_string() });
        }
        for column in table.writable() {
            if column.not_null && !names.contains(&column.name) {
                names.push(column.name.clone());
                let text = column.kind.some(self.dice);
                values.push(column.kind.literal(&text, self.dice));
            }
        }
        for name in ["i", "t"] {
            if !names.iter().any(|known| known == name) {
                names.push(name.into());
                values.push(if is_unique { format!("x.{name}") } else { "NULL".into() });
            }
        }
        let sql = format!(
            "INSERT INTO {} ({}) SELECT {} FROM {}{filter} ON CONFLICT DO NOTHING",
            table.name,
            names.join(", "),
            values.join(", "),
            source.from
        );
        Write::new(sql, "insert select").loose()
    }

    /// The bulk inserts of ORMs.
    fn unnest(&mut self) -> Write {
        let table = self.written();
        let columns: Vec<&Column> = table
            .writable()
            .into_iter()
            .filter(|column| column.is_key || column.not_null || table.primary.contains(&column.name))
            .collect();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let count = 1 + self.dice.below(4);
        let values = |draft: &mut Self, column: &Column| -> Vec<Option<String>> {
            (0..count)
                .map(|_| {
                    let line = draft.dice.below(9).to_string();
                    if column.name == "line" { Some(line) } else { new_value(draft.dice, column) }
                })
                .collect()
        };
        if self.dice.percent(50) && columns.iter().all(|column| column.kind.oids().1 != 0) {
            let lists: Vec<String> = columns
                .iter()
                .map(|column| {
                    let param = Param { kind: column.kind, is_list: true, values: values(self, column) };
                    let cast = column.kind.cast_name();
                    if self.lifts {
                        format!("{}::{cast}[]", self.param(param))
                    } else {
                        format!("'{}'::{cast}[]", param.list_text().replace('\'', "''"))
                    }
                })
                .collect();
            let sql = format!(
                "INSERT INTO {} ({}) SELECT * FROM unnest({}) ON CONFLICT DO NOTHING",
                table.name,
                names.join(", "),
                lists.join(", ")
            );
            return Write::new(sql, "insert unnest").loose();
        }
        let rows: Vec<String> = (0..count)
            .map(|number| {
                let cells: Vec<String> = columns
                    .iter()
                    .map(|column| {
                        let text = values(self, column)[0].clone().unwrap_or_default();
                        format!("'{}'", text.replace('\'', "''"))
                    })
                    .collect();
                format!("({}, {number})", cells.join(", "))
            })
            .collect();
        let casts: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(number, column)| format!("p{number}::{}", column.kind.cast_name()))
            .collect();
        let alias: Vec<String> = (0..columns.len()).map(|number| format!("p{number}")).collect();
        let sql = format!(
            "INSERT INTO {} ({}) SELECT {} FROM (VALUES {}) AS v({}, sen) ORDER BY sen ON CONFLICT DO NOTHING RETURNING {}",
            table.name,
            names.join(", "),
            casts.join(", "),
            rows.join(", "),
            alias.join(", "),
            table.primary.join(", ")
        );
        Write { order: Order::Total, ..Write::new(sql, "insert unnest").loose() }
    }

    /// What to set in a row.
    fn changes(&mut self, table: &Table) -> String {
        let columns: Vec<&Column> = table
            .writable()
            .into_iter()
            .filter(|column| !column.is_key && column.name != "line" && column.name != "code")
            .collect();
        let mut sets = Vec::new();
        for _ in 0..1 + self.dice.below(2) {
            let column = columns[self.dice.below(columns.len())];
            if sets.iter().any(|set: &String| set.starts_with(&format!("{} =", column.name))) {
                continue;
            }
            let value = match column.kind {
                Kind::Int4 if self.dice.percent(40) => format!("coalesce({}, 0) + 1", column.name),
                Kind::Text if self.dice.percent(25) => "upper(t)".to_owned(),
                _ => match new_value(self.dice, column) {
                    Some(text) => self.value(column.kind, &text),
                    None => "NULL".into(),
                },
            };
            if value == "upper(t)" && table.column("t").not_null {
                continue;
            }
            sets.push(format!("{} = {value}", column.name));
        }
        if sets.is_empty() { "i = 1".into() } else { sets.join(", ") }
    }

    fn update(&mut self) -> Write {
        let table = self.written();
        let source = self.table(table, "");
        let sets = self.changes(table);
        let mut terms = Vec::new();
        if self.dice.percent(75) {
            terms.push(self.by_key(&source.key));
        }
        if terms.is_empty() || self.dice.percent(25) {
            terms.push(self.condition(&source.columns));
        }
        if self.dice.percent(4) {
            terms = vec![format!(
                "({0}) IN (SELECT {0} FROM {1} ORDER BY {0} LIMIT 3)",
                table.primary.join(", "),
                table.name
            )];
        }
        let sql = format!("UPDATE {} SET {sets}{}{}", table.name, where_of(&terms), self.returning(table));
        Write::new(sql, "update").loose()
    }

    fn update_from(&mut self) -> Write {
        let table = self.written();
        let parents: Vec<&Table> = self
            .world
            .sharded()
            .into_iter()
            .filter(|other| other.family == table.family && other.primary == other.key && other.name != table.name)
            .collect();
        let target = self.table(table, table.name.as_str());
        let (from, bound) = match parents.first() {
            Some(parent) if self.dice.percent(70) => {
                let source = self.table(parent, "y");
                let pairs: Vec<String> =
                    target.key.iter().zip(&source.key).map(|(a, b)| format!("{} = {}", a.text, b.text)).collect();
                (source.from, pairs.join(" AND "))
            }
            _ => ("ref y".to_owned(), format!("y.code = {}.i", table.name)),
        };
        let mut terms = vec![bound];
        if self.dice.percent(60) {
            terms.push(self.by_key(&target.key));
        }
        let sql = format!("UPDATE {} SET n = y.i FROM {from}{}", table.name, where_of(&terms));
        Write::new(sql, "update from").loose()
    }

    fn delete(&mut self) -> Write {
        let table = self.written();
        let source = self.table(table, "");
        let mut terms = vec![self.by_key(&source.key)];
        if self.dice.percent(20) {
            terms = vec![self.condition(&source.columns), self.condition(&source.columns)];
        } else if self.dice.percent(30) {
            terms.push(self.condition(&source.columns));
        }
        let sql = format!("DELETE FROM {}{}{}", table.name, where_of(&terms), self.returning(table));
        Write::new(sql, "delete").loose()
    }

    fn delete_using(&mut self) -> Write {
        let table = self.written();
        let of_family = self.relatives(table);
        let other = of_family[self.dice.below(of_family.len())];
        let source = self.table(other, "y");
        let target = self.table(table, table.name.as_str());
        let mut terms: Vec<String> =
            target.key.iter().zip(&source.key).map(|(a, b)| format!("{} = {}", a.text, b.text)).collect();
        terms.push(self.condition(&source.columns));
        terms.push(self.condition(&target.columns));
        let sql = format!("DELETE FROM {} USING {}{}", table.name, source.from, where_of(&terms));
        Write::new(sql, "delete using").loose()
    }

    fn merge(&mut self) -> Write {
        match self.dice.below(3) {
            0 => return self.merge_rows(),
            1 => return self.merge_listed(),
            _ => {}
        }
        let table = self.written();
        let target = self.table(table, "x");
        let by_key = self.by_key(&target.key);
        let pairs: Vec<String> = table.primary.iter().map(|name| format!("x.{name} = y.{name}")).collect();
        let tail = *self.dice.one(&["UPDATE SET i = y.i + 1", "DELETE", "UPDATE SET t = 'merged'"]);
        let sql = format!(
            "MERGE INTO {0} x USING {0} y ON {1} AND {by_key} WHEN MATCHED THEN {tail}",
            table.name,
            pairs.join(" AND ")
        );
        Write::new(sql, "merge").loose()
    }

    /// Rows of a table with keys alike: what does not match is inserted with the same key.
    fn merge_rows(&mut self) -> Write {
        let table = self.written();
        let of_family = self.relatives(table);
        let other = of_family[self.dice.below(of_family.len())];
        let source = self.table(other, "y");
        let target = self.table(table, "x");
        let mut names: Vec<String> = table.key.clone();
        let mut values: Vec<String> = source.key.iter().map(|sight| sight.text.clone()).collect();
        let mut terms: Vec<String> =
            target.key.iter().zip(&source.key).map(|(a, b)| format!("{} = {}", a.text, b.text)).collect();
        if table.primary.len() > table.key.len() {
            let line = if other.primary.len() > other.key.len() { "y.line + 1".to_owned() } else { "70".to_owned() };
            terms.push(format!("x.line = {line}"));
            names.push("line".into());
            values.push(line);
        }
        for column in table.writable() {
            if column.not_null && !names.contains(&column.name) {
                names.push(column.name.clone());
                let text = column.kind.some(self.dice);
                values.push(column.kind.literal(&text, self.dice));
            }
        }
        let from = if self.dice.percent(50) {
            let plain = self.table(other, "");
            format!("(SELECT * FROM {}{}) y", other.name, self.filter(&plain))
        } else {
            source.from
        };
        let sql = format!(
            "MERGE INTO {} x USING {from} ON {} WHEN MATCHED THEN UPDATE SET t = 'merged' WHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
            table.name,
            terms.join(" AND "),
            names.join(", "),
            values.join(", "),
        );
        Write::new(sql, "merge").loose()
    }

    /// Listed rows.
    fn merge_listed(&mut self) -> Write {
        let table = self.written();
        let target = self.table(table, "x");
        let mut names: Vec<String> = table.key.clone();
        let mut terms: Vec<String> =
            target.key.iter().zip(&names).map(|(a, b)| format!("{} = v.{b}", a.text)).collect();
        if table.primary.len() > table.key.len() {
            terms.push("x.line = v.line".to_owned());
            names.push("line".into());
        }
        let count = 1 + self.dice.below(4);
        let mut rows = Vec::new();
        for _ in 0..count {
            let mut row: Vec<String> = Vec::new();
            for name in &table.key {
                let sight = sight_of(table, name);
                row.push(format!("({})::{}", self.some(&sight), sight.kind.cast_name()));
            }
            if names.len() > row.len() {
                row.push(self.dice.below(9).to_string());
            }
            rows.push(format!("({})", row.join(", ")));
        }
        let sources: Vec<String> = names.iter().map(|name| format!("v.{name}")).collect();
        let (mut columns, mut values) = (names.clone(), sources);
        for column in table.writable() {
            if column.not_null && !columns.contains(&column.name) {
                columns.push(column.name.clone());
                let text = column.kind.some(self.dice);
                values.push(column.kind.literal(&text, self.dice));
            }
        }
        let matched = *self.dice.one(&["UPDATE SET t = 'listed'", "DELETE", "DO NOTHING"]);
        let sql = format!(
            "MERGE INTO {} x USING (VALUES {}) v({}) ON {} WHEN MATCHED THEN {matched} WHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
            table.name,
            rows.join(", "),
            names.join(", "),
            terms.join(" AND "),
            columns.join(", "),
            values.join(", "),
        );
        Write::new(sql, "merge").loose()
    }

    /// A WITH query that writes.
    fn modifying_with(&mut self) -> Write {
        let table = self.written();
        let source = self.table(table, "");
        let by_key = self.by_key(&source.key);
        let list = table.primary.join(", ");
        let sql = match self.dice.below(3) {
            0 => {
                format!("WITH w AS (DELETE FROM {} WHERE {by_key} RETURNING {list}) SELECT count(*) FROM w", table.name)
            }
            1 => format!(
                "WITH w AS (UPDATE {} SET i = 3 WHERE {by_key} RETURNING {list}, i) SELECT * FROM w",
                table.name
            ),
            _ => format!(
                "WITH w AS (UPDATE {} SET t = 'w' WHERE {by_key} RETURNING i) SELECT sum(i), count(*) FROM w",
                table.name
            ),
        };
        Write::new(sql, "modifying with").loose()
    }

    /// A row gets another key.
    fn move_key(&mut self) -> Write {
        let table = self.written();
        let source = self.table(table, "");
        let key = source.key[0].clone();
        let value = self.some(&key);
        let by_key = self.by_key(&source.key);
        let sql = format!("UPDATE {} SET {} = {value} WHERE {by_key}", table.name, key.text);
        Write::new(sql, "key update").loose()
    }

    fn copy_in(&mut self) -> Write {
        let table = self.written();
        let columns = table.writable();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let mut data = String::new();
        // Rows of one key: they do not break each other's constraints in another order.
        for line in 0..1 + self.dice.below(4) {
            let cells: Vec<String> = columns
                .iter()
                .map(|column| match (column.name.as_str(), new_value(self.dice, column)) {
                    ("line", _) => (100 + 10 * line + self.dice.below(9)).to_string(),
                    (_, None) => "\\N".into(),
                    (_, Some(text)) => text.replace('\\', "\\\\"),
                })
                .collect();
            data.push_str(&cells.join("\t"));
            data.push('\n');
        }
        let sql = format!("COPY {} ({}) FROM STDIN", table.name, names.join(", "));
        Write { copy: Some(data), ..Write::new(sql, "copy in").loose() }
    }

    fn copy_out(&mut self) -> Write {
        let table = self.sharded();
        let lifts = std::mem::take(&mut self.lifts);
        let source = self.table(table, "");
        let filter = self.filter(&source);
        self.lifts = lifts;
        let list = table.primary.join(", ");
        let (sql, order) = match self.dice.below(3) {
            0 if !table.is_view => (format!("COPY {} TO STDOUT", table.name), Order::Any),
            1 => (format!("COPY (SELECT {list}, t FROM {}{filter}) TO STDOUT WITH CSV", table.name), Order::Any),
            _ => (format!("COPY (SELECT {list} FROM {}{filter} ORDER BY {list}) TO STDOUT", table.name), Order::Total),
        };
        Write { order, reads: true, ..Write::new(sql, "copy out") }
    }

    fn lock_rows(&mut self) -> Write {
        let table = self.written();
        let source = self.table(table, "");
        let by_key = self.by_key(&source.key);
        let lock = *self.dice.one(&["FOR UPDATE", "FOR SHARE", "FOR NO KEY UPDATE"]);
        let order =
            if self.dice.percent(40) { format!(" ORDER BY {}", table.primary.join(", ")) } else { String::new() };
        let sql = format!("SELECT {}, i FROM {} WHERE {by_key}{order} {lock}", table.primary.join(", "), table.name);
        Write { reads: true, ..Write::new(sql, "lock") }
    }

    /// Reference and single tables.
    fn other_table(&mut self) -> Write {
        let name = *self.dice.one(&["ref", "one"]);
        let table = self.named(name);
        let code = self.dice.below(14).to_string();
        let code = self.value(Kind::Int4, &code);
        let kind = if name == "ref" { "reference table" } else { "single table" };
        let sql = match self.dice.below(5) {
            0 | 1 => {
                let sets = self.changes(table);
                format!("UPDATE {name} SET {sets} WHERE code = {code}")
            }
            2 => format!("DELETE FROM {name} WHERE code = {code} AND i > 8"),
            _ => {
                let columns = table.writable();
                let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                let row = self.row(&columns);
                format!(
                    "INSERT INTO {name} ({}) VALUES {row} ON CONFLICT (code) DO UPDATE SET i = 7 RETURNING code",
                    names.join(", ")
                )
            }
        };
        Write::new(sql, kind).loose()
    }

    fn truncate(&mut self) -> Write {
        let table = self.written();
        // PostgreSQL itself refuses it without CASCADE when rows of another table may need these.
        let is_needed = self.world.tables.iter().any(|other| other.parent.as_ref() == Some(&table.name));
        let cascade = if is_needed { " CASCADE" } else { *self.dice.one(&["", " CASCADE"]) };
        Write::new(format!("TRUNCATE {}{cascade}", table.name), "truncate")
    }

    /// Ids that the cluster gives.
    fn made(&mut self) -> Write {
        let label = self.value(Kind::Text, "made");
        match self.dice.below(4) {
            0 => Write { reads: true, ..Write::new("SELECT count(*), count(id) FROM made".into(), "identity") },
            1 => Write {
                shape: true,
                ..Write::new(format!("INSERT INTO made (label) VALUES ({label}) RETURNING id"), "identity")
            },
            _ => {
                let rows: Vec<String> = (0..1 + self.dice.below(3)).map(|row| format!("({label}, {row})")).collect();
                Write::new(
                    format!("INSERT INTO made (label, i) VALUES {} RETURNING label, i", rows.join(", ")),
                    "identity",
                )
            }
        }
    }
}

fn sight_of(table: &Table, name: &str) -> Sight {
    let column = table.column(name);
    Sight { text: name.into(), kind: column.kind, is_key: column.is_key }
}
