//! `--demo`: a small shop with some hundred rows, loaded through the proxy like any application would.

use std::net::SocketAddr;
use std::path::Path;

use super::Failure;
use super::connect::Admin;
use super::directory::Demo;
use super::progress::Progress;

const SCHEMA: &str = include_str!("../../schema/demo.sql");
const DROP: &str = include_str!("../../schema/demo_drop.sql");

/// Where the demo's tables live.
const TABLES: [&str; 8] = [
    "TABLE REFERENCE countries",
    "TABLE REFERENCE products",
    "TABLE SHARD users KEY (id)",
    "TABLE SHARD orders KEY (user_id)",
    "TABLE SHARD order_items KEY (user_id)",
    "TABLE SINGLE settings",
    "TABLE SHARD events KEY (id)",
    "TABLE SHARD readings KEY (device, day)",
];

/// Loads the demo schema into a cluster that was made for it and does not have it yet.
///
/// # Errors
/// The statement that failed; the next `up --demo` begins anew.
pub async fn load(
    directory: &Path,
    proxy: SocketAddr,
    database: &str,
    is_new: bool,
    progress: &Progress,
) -> Result<(), Failure> {
    match Demo::read(directory) {
        Demo::Loaded => return Ok(()),
        Demo::Absent => {
            progress.item("demo", "not loaded: this cluster is not new");
            return Ok(());
        }
        Demo::Loading => {}
    }
    let admin = Admin::admin_at(proxy).await?;
    for command in TABLES {
        run(&admin, command).await?;
    }
    let application = Admin::at(proxy, database).await?;
    // An interrupted load may have left some of the tables.
    let leftovers = if is_new { "" } else { DROP };
    let all = statements(leftovers).chain(statements(SCHEMA));
    progress.item("demo", "loading");
    for statement in all {
        run(&application, statement).await?;
    }
    Demo::Loaded.write(directory)?;
    progress.item("demo", "loaded");
    Ok(())
}

async fn run(admin: &Admin, statement: &str) -> Result<(), Failure> {
    let first = statement.lines().find(|line| !line.starts_with("--") && !line.is_empty()).unwrap_or_default();
    admin.rows(statement).await.map(drop).map_err(|error| Failure::new(format!("demo schema, at {first:?}: {error}")))
}

/// The statements of a file whose statements each end a line.
fn statements(file: &str) -> impl Iterator<Item = &str> {
    file.split_inclusive(";\n").map(str::trim).filter(|statement| statement.ends_with(';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_split_into_whole_statements() {
        let all: Vec<&str> = statements(SCHEMA).collect();
        let creates = all.iter().filter(|statement| statement.contains("CREATE TABLE")).count();
        assert_eq!(creates, TABLES.len());
        assert!(all.iter().all(|statement| statement.matches(';').count() == 1), "no semicolon inside a statement");
        assert_eq!(statements(DROP).count(), TABLES.len());
    }
}
