//! Real client programs on one PostgreSQL and through Ostrakon: what they print has to be the same.
//!
//! README.md beside this file says what a program is. Programs marked `slow` run by `make clients` only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/raw.rs"]
mod raw;

mod compare;
mod page;
mod runner;

use std::collections::BTreeSet;
use std::path::PathBuf;

/// One test per program; `slow` ones are left to `make clients`.
macro_rules! clients {
    ($($(#[$slow:meta])? $name:ident,)*) => {
        $(
            #[test]
            $(#[$slow])?
            fn $name() {
                runner::check(stringify!($name));
            }
        )*

        /// The programs that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

clients! {
    #[ignore = "run by make clients"]
    activerecord,
    asyncpg,
    #[ignore = "run by make clients"]
    diesel,
    django,
    #[ignore = "run by make clients"]
    drizzle,
    #[ignore = "run by make clients"]
    knex,
    #[ignore = "run by make clients"]
    node_postgres,
    pg_dump,
    #[ignore = "run by make clients"]
    pgbench,
    #[ignore = "run by make clients"]
    pgjdbc,
    #[ignore = "run by make clients"]
    pgx,
    #[ignore = "run by make clients"]
    php_pdo,
    #[ignore = "run by make clients"]
    prisma,
    psql,
    #[ignore = "run by make clients"]
    psycopg2,
    psycopg3,
    #[ignore = "run by make clients"]
    ruby_pg,
    #[ignore = "run by make clients"]
    seaorm,
    #[ignore = "run by make clients"]
    sequelize,
    #[ignore = "run by make clients"]
    sqlalchemy_asyncpg,
    sqlalchemy_psycopg,
    #[ignore = "run by make clients"]
    sqlx,
    #[ignore = "run by make clients"]
    typeorm,
}

/// The folder of the programs.
fn source() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"))
}

#[test]
fn every_program_has_a_test() {
    let folders: BTreeSet<String> = std::fs::read_dir(source())
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().join("run").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let tested: BTreeSet<String> = TESTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(folders, tested, "folders with `run`, and the tests of main.rs");
}

/// With `UPDATE=1` the page is written from the results of the last runs.
#[test]
fn the_page_has_the_generated_form() {
    page::check();
}
