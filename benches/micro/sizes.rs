//! The way of a statement whose plan is known, from its text to its shard, in clusters of different sizes.

use std::hint::black_box;
use std::sync::Arc;

use ostrakon::cache::{PlanCache, PlanKey};
use ostrakon::plan::Filled;
use ostrakon::planner::{self, Context, ParamValue, Values};
use ostrakon::sql::{self, Lexed, Literal};
use ostrakon::topology::schema::{Relation, Schema};
use ostrakon::topology::{Placement, TableName};

use crate::cases::Turn;
use crate::demo;
use crate::statements::POINT;

/// Room for all plans of the largest case.
const CACHE_BYTES: usize = 512 << 20;

struct Literals<'l>(&'l Lexed);

impl Values for Literals<'_> {
    fn literal(&self, index: usize) -> Option<&Literal> {
        self.0.literals.get(index)
    }

    fn param(&self, _: u32) -> Option<ParamValue<'_>> {
        None
    }

    fn fill(&self, _: usize, _: usize) -> Option<Filled> {
        None
    }
}

/// Lexer, fingerprint, cache, binding; with so many shards, tables beside those of the planner's cases, and statements
/// in the cache.
pub fn route(shards: u32, tables: usize, statements: usize) -> Turn {
    let (mut schema, mut rules) = demo::schema();
    for number in 0..tables {
        let name = TableName { schema: "public".to_owned(), name: format!("table_{number}") };
        schema.relations.insert(name.clone(), Arc::new(copy_of_accounts(&schema, &name)));
        rules.declared.insert(name, Placement::Sharded { key: vec!["aid".to_owned()] });
    }
    let topology = demo::topology(shards, rules);
    let search_path: Arc<[String]> = Arc::from(["public".to_owned()]);
    let schema_version = schema.version;
    let epoch = topology.epoch.0;
    let key_of = move |text: &str, lexed: &Lexed| PlanKey {
        fingerprint: sql::fingerprint(text, lexed),
        search_path: Arc::clone(&search_path),
        epoch,
        schema_version,
    };
    let cache = PlanCache::new(CACHE_BYTES);
    let lexed = sql::lex(POINT).unwrap();
    let statement = sql::parse(POINT, &lexed).unwrap();
    let context = Context { topology: &topology, schema: &schema, search_path: &["public".to_owned()], text: POINT };
    let plan = Arc::new(planner::plan(&context, &lexed, &statement).unwrap());
    for number in 1..statements {
        let text = format!("SELECT a{number} FROM t WHERE aid = 1");
        cache.insert(key_of(&text, &sql::lex(&text).unwrap()), Arc::clone(&plan));
    }
    cache.insert(key_of(POINT, &lexed), plan);
    assert_eq!(cache.stats().entries, statements, "the cache has room for all");
    Box::new(move || {
        let lexed = sql::lex(black_box(POINT)).unwrap();
        let plan = cache.get(&key_of(POINT, &lexed)).expect("the plan is known");
        black_box(planner::bind(&plan, &topology, &Literals(&lexed)).unwrap());
    })
}

fn copy_of_accounts(schema: &Schema, name: &TableName) -> Relation {
    let accounts = TableName { schema: "public".to_owned(), name: "pgbench_accounts".to_owned() };
    Relation { name: name.clone(), ..schema.relations[&accounts].as_ref().clone() }
}
