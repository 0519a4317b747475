//! What the proxy is wanted to cost, beside what it was found to cost.

use std::fmt::Write as _;

use crate::report::Report;

struct Goal {
    text: String,
    found: Option<f64>,
    wanted: f64,
    /// Otherwise at least.
    at_most: bool,
}

/// Whose value of what.
type Of<'a> = (&'a str, &'a str, &'static str);

struct Goals<'r> {
    report: &'r Report,
    goals: Vec<Goal>,
}

impl Goals<'_> {
    fn add(&mut self, text: &str, found: Option<f64>, wanted: f64) {
        self.goals.push(Goal { text: text.to_owned(), found, wanted, at_most: true });
    }

    fn value(&self, (table, row, measure): Of<'_>) -> Option<f64> {
        self.report.value(table, row, measure)
    }

    fn ratio(&self, of: Of<'_>, to: Of<'_>) -> Option<f64> {
        Some(self.value(of)? / self.value(to).filter(|base| *base > 0.0)?)
    }

    fn pass_through(&mut self) {
        for protocol in ["simple", "extended"] {
            for clients in [16, 64] {
                let table = format!("select, {protocol}, {clients} clients");
                let cpu = |row| (&*table, row, "cpu us");
                let (to_bouncer, to_relay) =
                    (self.ratio(cpu("ostrakon"), cpu("pgbouncer")), self.ratio(cpu("ostrakon"), cpu("bare relay")));
                self.add(&format!("{table}: CPU to PgBouncer's"), to_bouncer, 1.0);
                self.add(&format!("{table}: CPU to a bare relay's"), to_relay, 1.1);
                for script in ["simple update", "tpc-b"] {
                    let table = format!("{script}, {protocol}, {clients} clients");
                    let found = self.ratio((&table, "ostrakon", "cpu us"), (&table, "pgbouncer", "cpu us"));
                    self.add(&format!("{table}: CPU to PgBouncer's"), found, 0.9);
                }
            }
        }
        for (clients, wanted) in [(16, 1.0), (64, 1.2)] {
            let of = |protocol: &str| format!("select, {protocol}, {clients} clients");
            let (prepared, extended, simple) = (of("prepared"), of("extended"), of("simple"));
            let found = self.ratio((&prepared, "ostrakon", "cpu us"), (&extended, "ostrakon", "cpu us"));
            self.add(&format!("{prepared}: CPU to that of extended"), found, 1.0);
            let found = self.ratio((&simple, "ostrakon", "tps"), (&simple, "pgbouncer", "tps"));
            let text = format!("{simple}: throughput to PgBouncer's");
            self.goals.push(Goal { text, found, wanted, at_most: false });
        }
        let table = "select, simple, 1 clients";
        let added = |row| Some(self.value((table, row, "p50 us"))? - self.value((table, "direct", "p50 us"))?);
        let found = added("ostrakon").zip(added("pgbouncer")).map(|(ours, theirs)| ours / theirs);
        self.add("one client: p50 added to PgBouncer's", found, 1.0);
    }

    fn shards(&mut self) {
        for protocol in ["simple", "extended", "prepared"] {
            let table = format!("point select by key, {protocol}, 16 clients");
            let found = self.ratio((&table, "ostrakon, 3 shards", "cpu us"), (&table, "ostrakon", "cpu us"));
            self.add(&format!("{table}: CPU on 3 shards to that on one"), found, 1.1);
        }
        for script in ["count and sum of 3,000 rows", "order by, limit 10"] {
            let table = format!("{script}, simple, 16 clients");
            let point = ("point select by key, simple, 16 clients", "ostrakon, 3 shards", "cpu us");
            let found = self.ratio((&table, "ostrakon, 3 shards", "cpu us"), point);
            self.add(&format!("{table}: CPU to that of a point select"), found, 3.5);
        }
    }

    fn bulk(&mut self) {
        let stream = "stream of all rows";
        let found = self.ratio((stream, "ostrakon", "cpu s"), (stream, "pgbouncer", "cpu s"));
        self.add("SELECT *: CPU to PgBouncer's", found, 1.0);
        for (table, row) in [
            (stream, "ostrakon"),
            ("stream of all rows, slow client", "ostrakon"),
            ("stream of all rows, slow client", "ostrakon, 3 shards"),
        ] {
            let found = self.value((table, row, "more MiB"));
            self.add(&format!("{table}, {row}: MiB more than at rest"), found, 32.0);
        }
        let (over, ordered) = ("stream of all rows over shards", "stream of all rows over shards in order");
        let found = self.ratio((ordered, "ostrakon, 3 shards", "cpu s"), (over, "ostrakon, 3 shards", "cpu s"));
        self.add("merged ORDER BY: CPU to that of the unsorted stream", found, 2.5);
        let copy = "copy of all rows in";
        let found = self.ratio((copy, "ostrakon, 3 shards", "wall s"), (copy, "direct", "wall s"));
        self.add("COPY into 3 shards: time to that into one server, direct", found, 0.6);
        let found = self.ratio((copy, "ostrakon, 3 shards", "cpu s"), (copy, "ostrakon", "cpu s"));
        self.add("COPY into 3 shards: CPU to that of relaying it to one", found, 2.0);
    }

    fn rest(&mut self) {
        let found = self.value(("memory with 10000 idle clients", "ostrakon", "KiB each"));
        self.add("10,000 idle clients: KiB each", found, 4.0);
        let found = self.value(("memory with 1000 sessions of 1000 prepared statements", "ostrakon", "MiB"));
        self.add("1,000 prepared statements on 1,000 sessions: MiB", found, 60.0);
        let one = "pipeline of 100 inserts of one key";
        let many = "pipeline of 100 inserts of 100 keys";
        let found = self.ratio((one, "ostrakon, 3 shards", "p50 us"), (one, "direct", "p50 us"));
        self.add("100 inserts in a pipeline to one of 3 shards: time to direct", found, 1.3);
        let found = self.ratio((many, "ostrakon, 3 shards", "p50 us"), (many, "direct", "p50 us"));
        self.add("100 inserts in a pipeline to 3 shards: time to direct", found, 1.0);
    }
}

/// The goals of which something was measured, as a table.
pub fn table(report: &Report) -> String {
    let mut goals = Goals { report, goals: Vec::new() };
    goals.pass_through();
    goals.shards();
    goals.bulk();
    goals.rest();
    let mut text = String::from("## What is wanted, and what was found\n\n| | found | wanted | |\n|---|---|---|---|\n");
    let mut is_empty = true;
    for goal in goals.goals {
        let Some(found) = goal.found else { continue };
        is_empty = false;
        let sign = if goal.at_most { "≤" } else { "≥" };
        let is_met = if goal.at_most { found <= goal.wanted } else { found >= goal.wanted };
        let said = if is_met { "" } else { "missed" };
        let _ = writeln!(text, "| {} | {found:.2} | {sign} {} | {said} |", goal.text, goal.wanted);
    }
    if is_empty { String::new() } else { text }
}
