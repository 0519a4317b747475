//! A program: the rows to begin with, then statements, alone and in transactions, over one schema.

use super::draft::{Draft, Step};
use super::world::{Table, World, new_value};
use crate::cases::Order;
use crate::random::Dice;
use crate::runner::Mode;

/// A schema and what is done with it; the same for the same seed and number.
#[derive(Clone, Debug)]
pub struct Program {
    pub world: World,
    /// Rows, in statements of a few each.
    pub rows: Vec<Step>,
    pub steps: Vec<Step>,
}

fn plain(sql: String, kind: &'static str) -> Step {
    Step {
        sql,
        params: Vec::new(),
        order: Order::Any,
        mode: Mode::Simple,
        copy: None,
        kind,
        reads: false,
        any_violation: false,
        block: None,
        shape: false,
    }
}

impl Program {
    /// Makes program `number` of a seed, of about `count` statements.
    pub fn random(seed: u64, number: usize, count: usize) -> Self {
        let mut dice = Dice::of(seed, number);
        let world = World::random(&mut dice);
        let rows = rows(&mut dice, &world);
        let mut steps = Vec::new();
        let mut blocks = 0;
        while steps.len() < count {
            if dice.percent(3) {
                blocks += 1;
                steps.extend(block(&mut dice, &world, blocks));
            } else {
                steps.push(statement(&mut dice, &world));
            }
        }
        Self { world, rows, steps }
    }
}

/// The rows to begin with.
fn rows(dice: &mut Dice, world: &World) -> Vec<Step> {
    let mut steps = Vec::new();
    for table in world.tables.iter().filter(|table| !table.is_view) {
        let columns = table.writable();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let rounds = match table.family {
            None => 1,
            Some(_) => 3 + dice.below(3),
        };
        for _ in 0..rounds {
            let rows: Vec<String> = (0..12).map(|number| row(dice, table, number)).collect();
            let insert = |values: &str| {
                let names = names.join(", ");
                plain(format!("INSERT INTO {} ({names}) VALUES {values} ON CONFLICT DO NOTHING", table.name), "rows")
            };
            if table.parent.is_some() {
                // Rows whose parent is missing fail alone.
                steps.extend(rows.iter().map(|row| insert(row)));
            } else {
                steps.push(insert(&rows.join(", ")));
            }
        }
    }
    steps
}

fn row(dice: &mut Dice, table: &Table, number: usize) -> String {
    let cells: Vec<String> = table
        .writable()
        .iter()
        .map(|column| match (column.name.as_str(), new_value(dice, column)) {
            ("code", _) => number.to_string(),
            ("line", _) => dice.below(9).to_string(),
            (_, None) => "NULL".into(),
            (_, Some(text)) => format!("'{}'", text.replace('\'', "''")),
        })
        .collect();
    format!("({})", cells.join(", "))
}

/// One statement by itself.
fn statement(dice: &mut Dice, world: &World) -> Step {
    let mode = [Mode::Simple, Mode::Simple, Mode::Extended, Mode::Prepared][dice.below(4)];
    let is_write = dice.percent(30);
    let mut draft = Draft::new(dice, world, mode != Mode::Simple);
    let mut step = if is_write {
        let write = draft.write();
        Step {
            order: write.order,
            copy: write.copy,
            any_violation: write.any_violation,
            shape: write.shape,
            reads: write.reads,
            ..plain(write.sql, write.kind)
        }
    } else {
        let (sql, order, kind) = draft.query();
        Step { order, reads: true, ..plain(sql, kind) }
    };
    step.params = draft.params;
    step.mode = mode;
    if step.copy.is_some() || step.sql.starts_with("COPY") {
        step.mode = Mode::Simple;
    }
    if step.mode == Mode::Prepared && step.params.iter().any(|param| param.encode(true).is_none()) {
        step.mode = Mode::Extended;
    }
    step
}

/// A transaction: statements, errors, savepoints, a cursor.
fn block(dice: &mut Dice, world: &World, number: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let begin = *dice.one(&[
        "BEGIN",
        "BEGIN",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "START TRANSACTION",
    ]);
    steps.push(plain(begin.into(), "transaction"));
    let mut has_savepoint = false;
    for _ in 0..2 + dice.below(4) {
        match dice.below(15) {
            0 | 1 => {
                steps.push(plain("SAVEPOINT s".into(), "transaction"));
                has_savepoint = true;
            }
            2 if has_savepoint => steps.push(plain("ROLLBACK TO SAVEPOINT s".into(), "transaction")),
            3 if has_savepoint => {
                steps.push(plain("RELEASE SAVEPOINT s".into(), "transaction"));
                has_savepoint = false;
            }
            4 => steps.push(plain("SELECT 1 / 0".into(), "transaction")),
            5 => steps.extend(cursor(dice, world)),
            _ => {}
        }
        steps.push(statement(dice, world));
    }
    if has_savepoint && dice.percent(50) {
        steps.push(plain("ROLLBACK TO SAVEPOINT s".into(), "transaction"));
    }
    steps.push(plain((*dice.one(&["COMMIT", "COMMIT", "ROLLBACK", "END"])).into(), "transaction"));
    steps.iter_mut().for_each(|step| step.block = Some(number));
    steps
}

fn cursor(dice: &mut Dice, world: &World) -> Vec<Step> {
    let mut draft = Draft::new(dice, world, false);
    let table = draft.sharded();
    let source = draft.table(table, "");
    let filter = draft.filter(&source);
    let list = table.primary.join(", ");
    let declare = format!("DECLARE c CURSOR FOR SELECT {list}, t FROM {}{filter} ORDER BY {list}", table.name);
    let fetch = *dice.one(&["FETCH 3 FROM c", "FETCH NEXT FROM c", "FETCH ALL FROM c", "MOVE 2 FROM c"]);
    vec![
        plain(declare, "cursor"),
        Step { order: Order::Total, ..plain(fetch.into(), "cursor") },
        Step { order: Order::Total, ..plain("FETCH 2 FROM c".into(), "cursor") },
        plain("CLOSE c".into(), "cursor"),
    ]
}
