//! Random queries. What LIMIT cuts is ordered totally: every statement has one right answer.

use super::draft::{Draft, Sight, Source, where_of};
use super::values::Kind;
use crate::cases::Order;

/// A query, how its rows are compared, and what kind it is.
pub type Made = (String, Order, &'static str);

impl Draft<'_> {
    /// A query as applications send them.
    pub fn query(&mut self) -> Made {
        match self.dice.below(100) {
            0..=31 => self.point(),
            32..=52 => self.rows(),
            53..=67 => self.groups(),
            68..=71 => self.distinct(),
            72..=80 => self.subquery(),
            81..=84 => self.windows(),
            85..=87 => self.sets(),
            88..=90 => self.lateral(),
            91 => self.grouping_sets(),
            92 => self.distinct_on(),
            93..=95 => self.scalar(),
            96 => self.recursive(),
            97 => self.many_joins(),
            _ => self.wrong(),
        }
    }

    /// Rows of one key.
    fn point(&mut self) -> Made {
        let mut source = self.sharded_source();
        let by_key = self.by_key(&source.key.clone());
        source.conditions.push(by_key);
        let mut terms = source.conditions.clone();
        if self.dice.percent(25) {
            terms.push(self.condition(&source.columns));
        }
        let list = if self.dice.percent(40) && source.width == 1 { "*".to_owned() } else { self.some_columns(&source) };
        let mut sql = format!("SELECT {list} FROM {}{}", source.from, where_of(&terms));
        if self.dice.percent(35) {
            let order = self.total_order(&source);
            sql.push_str(&format!(" ORDER BY {order}"));
            self.limit(&mut sql);
            return (sql, Order::Total, "point");
        }
        (sql, Order::Any, "point")
    }

    fn some_columns(&mut self, source: &Source) -> String {
        let count = 1 + self.dice.below(source.columns.len().min(5));
        let columns: Vec<String> = (0..count).map(|_| self.output(source)).collect();
        columns.join(", ")
    }

    /// A column or an expression of one.
    fn output(&mut self, source: &Source) -> String {
        let sight = self.dice.one(&source.columns).clone();
        if self.dice.percent(78) {
            return sight.text;
        }
        self.expression(&sight)
    }

    /// An expression whose value is the same on every server.
    fn expression(&mut self, sight: &Sight) -> String {
        let text = &sight.text;
        match sight.kind {
            Kind::Int2 | Kind::Int4 | Kind::Domain => format!("{text} % 3"),
            Kind::Int8 => format!("{text} / 2"),
            Kind::Numeric => format!("round({text} * 1.5, 1)"),
            Kind::Float => format!("{text} * 2"),
            Kind::Text | Kind::Words | Kind::Varchar => match self.dice.below(3) {
                0 => format!("lower({text})"),
                1 => format!("coalesce({text}, 'none')"),
                _ => format!("length({text})"),
            },
            Kind::Date => format!("{text} + 1"),
            Kind::Timestamp | Kind::TimestampTz => format!("date_trunc('month', {text})"),
            Kind::Bool => format!("CASE WHEN {text} THEN 1 ELSE 0 END"),
            Kind::Json => format!("{text} ->> 'a'"),
            Kind::Array => format!("{text}[1]"),
            Kind::Enum | Kind::Uuid | Kind::Bpchar => format!("{text}::text"),
            Kind::Bytea => format!("length({text})"),
        }
    }

    fn direction(&mut self) -> &'static str {
        ["", "", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"][self.dice.below(6)]
    }

    /// An order of all rows, by any expressions first.
    fn total_order(&mut self, source: &Source) -> String {
        let mut order: Vec<String> = Vec::new();
        for _ in 0..self.dice.below(3) {
            let by = self.output(source);
            order.push(format!("{by}{}", self.direction()));
        }
        order.extend(source.total.iter().map(|column| format!("{column}{}", self.direction())));
        order.join(", ")
    }

    fn limit(&mut self, sql: &mut String) {
        if self.dice.percent(50) {
            let count = self.dice.below(12).to_string();
            let count = if self.lifts { self.value(Kind::Int8, &count) } else { count };
            let count = count.replace('\'', "").replace("::bigint", "");
            sql.push_str(&format!(" LIMIT {count}"));
        }
        if self.dice.percent(20) {
            sql.push_str(&format!(" OFFSET {}", self.dice.below(15)));
        }
    }

    fn rows(&mut self) -> Made {
        let source = self.source();
        let filter = self.filter(&source);
        let list = if self.dice.percent(15) { "*".to_owned() } else { self.some_columns(&source) };
        let mut sql = format!("{}SELECT {list} FROM {}{filter}", source.with, source.from);
        let kind = if source.width > 1 { "join" } else { "rows" };
        match self.dice.below(10) {
            0..=2 => (sql, Order::Any, kind),
            3 if !list.contains('*') => {
                sql.push_str(&format!(" ORDER BY 1{}", self.direction()));
                (sql, Order::Ties(vec![0]), kind)
            }
            _ => {
                sql.push_str(&format!(" ORDER BY {}", self.total_order(&source)));
                self.limit(&mut sql);
                (sql, Order::Total, kind)
            }
        }
    }

    fn distinct(&mut self) -> Made {
        let source = self.source();
        let filter = self.filter(&source);
        let count = 1 + self.dice.below(2);
        let columns: Vec<String> = (0..count).map(|_| self.output(&source)).collect();
        let mut sql = format!("{}SELECT DISTINCT {} FROM {}{filter}", source.with, columns.join(", "), source.from);
        if self.dice.percent(65) {
            let order: Vec<String> = (1..=count).map(|ordinal| format!("{ordinal}{}", self.direction())).collect();
            sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
            self.limit(&mut sql);
            return (sql, Order::Total, "distinct");
        }
        (sql, Order::Any, "distinct")
    }

    fn distinct_on(&mut self) -> Made {
        let table = self.sharded();
        let source = self.table(table, "x");
        let filter = self.filter(&source);
        let by = if self.dice.percent(60) {
            source.key[0].text.clone()
        } else {
            self.dice.one(&source.columns).text.clone()
        };
        let list = self.some_columns(&source);
        let sql = format!(
            "SELECT DISTINCT ON ({by}) {by}, {list} FROM {}{filter} ORDER BY {by}, {}",
            source.from,
            source.total.join(", ")
        );
        (sql, Order::Total, "distinct on")
    }

    /// An aggregate, alone.
    fn aggregate(&mut self, source: &Source) -> String {
        let sight = self.dice.one(&source.columns).clone();
        let text = &sight.text;
        let total = source.total.join(", ");
        let plain = match (sight.kind, self.dice.below(14)) {
            (_, 0..=3) => "count(*)".to_owned(),
            (_, 4) => format!("count({text})"),
            (Kind::Json, _) => format!("count({text})"),
            (_, 5) => format!("count(DISTINCT {text})"),
            (kind, 6) if kind.is_text() => return format!("string_agg({text}, ',' ORDER BY {total})"),
            (kind, 6) if kind != Kind::Array => return format!("array_agg({text} ORDER BY {total})"),
            (Kind::Bool, 7..=9) => format!("bool_and({text})"),
            (Kind::Bool, _) => format!("bool_or({text})"),
            (kind, 7..=9) if kind.is_number() => format!("sum({text})"),
            (kind, 10) if kind.is_number() => format!("avg({text})"),
            (Kind::Int4 | Kind::Numeric, 11) => {
                format!("{}({text})", ["stddev", "variance", "var_pop"][self.dice.below(3)])
            }
            (Kind::Int4, 12) => format!("bit_or({text})"),
            (kind, 7..=11) if kind.has_extremes() => format!("min({text})"),
            (kind, _) if kind.has_extremes() => format!("max({text})"),
            _ => format!("count({text})"),
        };
        if self.dice.percent(12) {
            return format!("{plain} FILTER (WHERE {})", self.plain_condition(source));
        }
        plain
    }

    /// An aggregate in an expression.
    fn aggregate_expression(&mut self, source: &Source) -> String {
        if self.dice.percent(72) {
            return self.aggregate(source);
        }
        let numbers: Vec<&Sight> = source.columns.iter().filter(|sight| sight.kind == Kind::Numeric).collect();
        let Some(number) = numbers.first().map(|sight| sight.text.clone()) else { return "count(*) + 1".into() };
        match self.dice.below(6) {
            0 => format!("round(avg({number}), 2)"),
            1 => format!("coalesce(sum({number}), 0)"),
            2 => format!("sum({number}) / nullif(count(*), 0)"),
            3 => format!("max({number}) - min({number})"),
            4 => format!("sum(CASE WHEN {number} > 10 THEN 1 ELSE 0 END)"),
            _ => "count(*) * 2 + 1".into(),
        }
    }

    /// A condition without parameters.
    fn plain_condition(&mut self, source: &Source) -> String {
        let lifts = std::mem::take(&mut self.lifts);
        let condition = self.condition(&source.columns);
        self.lifts = lifts;
        condition
    }

    fn groups(&mut self) -> Made {
        let source = self.source();
        let filter = self.filter(&source);
        let grouped = self.dice.below(3);
        let mut outputs: Vec<String> = (0..grouped).map(|_| self.output(&source)).collect();
        let by: Vec<String> = if self.dice.percent(50) {
            (1..=grouped).map(|ordinal| ordinal.to_string()).collect()
        } else {
            outputs.clone()
        };
        for number in 0..=self.dice.below(3) {
            outputs.push(format!("{} AS a{number}", self.aggregate_expression(&source)));
        }
        let mut sql = format!("{}SELECT {} FROM {}{filter}", source.with, outputs.join(", "), source.from);
        if grouped > 0 {
            sql.push_str(&format!(" GROUP BY {}", by.join(", ")));
        }
        if self.dice.percent(20) {
            let number = self.dice.below(4);
            let condition = *self.dice.one(&["count(*) >", "count(*) <>", "count(*) + 1 >"]);
            sql.push_str(&format!(" HAVING {condition} {number}"));
        }
        let kind = if grouped == 0 { "aggregate" } else { "groups" };
        if self.dice.percent(60) {
            let mut ordinals: Vec<usize> = (1..=outputs.len()).collect();
            ordinals.rotate_left(self.dice.below(outputs.len()));
            let order: Vec<String> = ordinals.iter().map(|ordinal| format!("{ordinal}{}", self.direction())).collect();
            sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
            self.limit(&mut sql);
            return (sql, Order::Total, kind);
        }
        (sql, Order::Any, kind)
    }

    fn grouping_sets(&mut self) -> Made {
        let table = self.sharded();
        let source = self.table(table, "x");
        let filter = self.filter(&source);
        let (a, b) = (self.dice.one(&source.columns).text.clone(), self.dice.one(&source.columns).text.clone());
        let sets = match self.dice.below(3) {
            0 => format!("ROLLUP ({a}, {b})"),
            1 => format!("CUBE ({a}, {b})"),
            _ => format!("GROUPING SETS (({a}), ({b}), ())"),
        };
        let sql = format!("SELECT {a}, {b}, count(*), grouping({a}) FROM {}{filter} GROUP BY {sets}", source.from);
        (sql, Order::Any, "grouping sets")
    }

    fn windows(&mut self) -> Made {
        let table = self.sharded();
        let source = self.table(table, "x");
        let filter = self.filter(&source);
        let key: Vec<String> = source.key.iter().map(|sight| sight.text.clone()).collect();
        let mut partition = key.join(", ");
        if self.dice.percent(30) {
            partition = self.dice.one(&source.columns).text.clone();
        }
        let total = source.total.join(", ");
        let over = match self.dice.below(5) {
            0 => format!("OVER (ORDER BY {total})"),
            _ => format!("OVER (PARTITION BY {partition} ORDER BY {total})"),
        };
        let call = match self.dice.below(6) {
            0 => format!("rank() OVER (PARTITION BY {partition} ORDER BY i)"),
            1 => format!("sum(n) {over}"),
            2 => format!("lag(i) {over}"),
            3 => format!("count(*) OVER (PARTITION BY {partition})"),
            4 => format!("first_value(t) {over}"),
            _ => format!("row_number() {over}"),
        };
        let mut sql = format!("SELECT {}, {call} AS w FROM {}{filter}", key.join(", "), source.from);
        if self.dice.percent(60) {
            sql.push_str(&format!(" ORDER BY {total}"));
            self.limit(&mut sql);
            return (sql, Order::Total, "window");
        }
        (sql, Order::Any, "window")
    }

    /// A query inside another.
    fn subquery(&mut self) -> Made {
        let table = self.sharded();
        let source = self.table(table, "x");
        let inner_table = {
            let of_family = self.relatives(table);
            of_family[self.dice.below(of_family.len())]
        };
        let inner = self.table(inner_table, "y");
        let pairs: Vec<String> =
            source.key.iter().zip(&inner.key).map(|(a, b)| format!("{} = {}", b.text, a.text)).collect();
        let bound = pairs.join(" AND ");
        let condition = self.condition(&inner.columns);
        let outer_key: Vec<String> = source.key.iter().map(|sight| sight.text.clone()).collect();
        let inner_key: Vec<String> = inner.key.iter().map(|sight| sight.text.clone()).collect();
        let row = |key: &[String]| if key.len() == 1 { key[0].clone() } else { format!("({})", key.join(", ")) };
        let mut list = outer_key.join(", ");
        let mut terms = Vec::new();
        if self.dice.percent(20) {
            terms.push(self.by_key(&source.key));
        }
        match self.dice.below(12) {
            0 | 1 => terms.push(format!("EXISTS (SELECT 1 FROM {} WHERE {bound} AND {condition})", inner.from)),
            2 => terms.push(format!("NOT EXISTS (SELECT 1 FROM {} WHERE {bound} AND {condition})", inner.from)),
            3 | 4 => terms.push(format!(
                "{} IN (SELECT {} FROM {} WHERE {condition})",
                row(&outer_key),
                inner_key.join(", "),
                inner.from
            )),
            5 => terms.push(format!(
                "{} NOT IN (SELECT {} FROM {} WHERE {condition})",
                row(&outer_key),
                inner_key.join(", "),
                inner.from
            )),
            6 | 7 => list.push_str(&format!(", (SELECT count(*) FROM {} WHERE {bound}) AS many", inner.from)),
            8 => list.push_str(&format!(", (SELECT max(y.i) FROM {} WHERE {bound} AND {condition})", inner.from)),
            9 => list.push_str(&format!(", EXISTS (SELECT 1 FROM {} WHERE {bound})", inner.from)),
            10 => terms.push("x.i IN (SELECT code FROM ref)".to_owned()),
            _ => terms.push(format!("x.n > (SELECT avg(y.n) FROM {} WHERE {condition})", inner.from)),
        }
        let mut sql = format!("SELECT {list} FROM {}{}", source.from, where_of(&terms));
        if self.dice.percent(50) {
            sql.push_str(&format!(" ORDER BY {}", self.total_order(&source)));
            self.limit(&mut sql);
            return (sql, Order::Total, "subquery");
        }
        (sql, Order::Any, "subquery")
    }

    fn sets(&mut self) -> Made {
        let word = *self.dice.one(&["UNION ALL", "UNION ALL", "UNION", "INTERSECT", "EXCEPT", "EXCEPT ALL"]);
        let left = self.sharded();
        let of_family = self.relatives(left);
        let right = of_family[self.dice.below(of_family.len())];
        let more = *self.dice.one(&["", ", i", ", t"]);
        let arm = |draft: &mut Self, table: &super::world::Table| {
            let source = draft.table(table, "");
            let filter = draft.filter(&source);
            format!("SELECT {}{more} FROM {}{filter}", table.key.join(", "), table.name)
        };
        let mut sql = format!("{} {word} {}", arm(self, left), arm(self, right));
        let count = left.key.len() + usize::from(!more.is_empty());
        if self.dice.percent(60) {
            let order: Vec<String> = (1..=count).map(|ordinal| format!("{ordinal}{}", self.direction())).collect();
            sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
            self.limit(&mut sql);
            return (sql, Order::Total, "set operation");
        }
        (sql, Order::Any, "set operation")
    }

    fn lateral(&mut self) -> Made {
        let table = self.sharded();
        let source = self.table(table, "x");
        let of_family = self.relatives(table);
        let inner_table = of_family[self.dice.below(of_family.len())];
        let inner = self.table(inner_table, "y");
        let bound: Vec<String> =
            source.key.iter().zip(&inner.key).map(|(a, b)| format!("{} = {}", b.text, a.text)).collect();
        let tail = if self.dice.percent(60) {
            format!(" ORDER BY {} LIMIT {}", inner.total.join(", "), 1 + self.dice.below(3))
        } else {
            String::new()
        };
        let join = *self.dice.one(&["JOIN", "LEFT JOIN"]);
        let filter = self.filter(&source);
        let sql = format!(
            "SELECT {}, l.i FROM {} {join} LATERAL (SELECT y.i, y.t FROM {} WHERE {}{tail}) l ON true{filter}",
            source.total.join(", "),
            source.from,
            inner.from,
            bound.join(" AND ")
        );
        (sql, Order::Any, "lateral")
    }

    /// WITH RECURSIVE, often of one key.
    fn recursive(&mut self) -> Made {
        let table = self.sharded();
        let source = self.table(table, "x");
        let by_key = self.by_key(&source.key);
        let again = self.by_key(&source.key);
        let sql = match self.dice.below(3) {
            0 => format!(
                "WITH RECURSIVE w(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM w WHERE k < 5) SELECT x.i, w.k FROM {} JOIN w ON w.k = x.i WHERE {by_key}",
                source.from
            ),
            1 => "WITH RECURSIVE w(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM w WHERE k < 9) SELECT sum(k) FROM w"
                .to_owned(),
            _ => format!(
                "WITH RECURSIVE w(k) AS (SELECT x.i FROM {0} WHERE {by_key} UNION SELECT x.i FROM {0}, w WHERE {again} AND x.i > w.k) SELECT k FROM w",
                source.from
            ),
        };
        (sql, Order::Any, "recursive")
    }

    /// Three tables of a family and the reference table.
    fn many_joins(&mut self) -> Made {
        let table = self.sharded();
        let source = self.table(table, "x");
        let of_family = self.relatives(table);
        let mut from = source.from.clone();
        let mut total = source.total.clone();
        for alias in ["y", "z"] {
            let next = of_family[self.dice.below(of_family.len())];
            let next = self.table(next, alias);
            let word = *self.dice.one(&["JOIN", "JOIN", "LEFT JOIN"]);
            let pairs: Vec<String> =
                source.key.iter().zip(&next.key).map(|(a, b)| format!("{} = {}", a.text, b.text)).collect();
            from = format!("{from} {word} {} ON {}", next.from, pairs.join(" AND "));
            total.extend(next.total);
        }
        let by_key = self.by_key(&source.key);
        let condition = if self.dice.percent(60) { by_key } else { self.condition(&source.columns) };
        let sql = format!(
            "SELECT x.i, y.i AS yi, z.t, r.t AS rt FROM {from} LEFT JOIN ref r ON r.code = z.i WHERE {condition} ORDER BY {} LIMIT 40",
            total.join(", ")
        );
        (sql, Order::Total, "join")
    }

    /// A query of scalars, or of no table.
    fn scalar(&mut self) -> Made {
        let (a, b) = (self.sharded().name.clone(), self.sharded().name.clone());
        let sql = match self.dice.below(6) {
            0 => "SELECT 1 AS one, 'x' AS two".to_owned(),
            1 => format!("SELECT (SELECT count(*) FROM {a}), (SELECT count(*) FROM {b})"),
            2 => format!("SELECT EXISTS (SELECT 1 FROM {a} WHERE i > 3)"),
            3 => format!("SELECT count(*) FROM (SELECT DISTINCT i FROM {a}) s"),
            4 => format!("SELECT max(k) FROM (SELECT i, count(*) AS k FROM {a} GROUP BY i) s"),
            _ => "SELECT * FROM (VALUES (1, 'a'), (2, 'b')) v(k, l) ORDER BY k".to_owned(),
        };
        (sql, Order::Any, "scalar")
    }

    /// A statement that PostgreSQL refuses.
    fn wrong(&mut self) -> Made {
        let table = self.sharded();
        let name = &table.name;
        let sql = match self.dice.below(7) {
            0 => format!("SELECT nothing FROM {name}"),
            1 => "SELECT * FROM nowhere".to_owned(),
            2 => format!("SELEC * FROM {name}"),
            3 => format!("SELECT i FROM {name} GROUP BY t"),
            4 => format!("SELECT 1 / 0 FROM {name} WHERE {} IS NOT NULL", table.key[0]),
            5 => format!("SELECT i + b FROM {name}, missing_function(1)"),
            _ => format!("SELECT t::date FROM {name} WHERE t = 'Ada' AND i = 'x'"),
        };
        (sql, Order::Any, "wrong")
    }
}
