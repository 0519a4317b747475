//! From what a walk has found to a route.

use super::walk::{IS_PROVED, Single, Walk};
use crate::error::ClientError;
use crate::plan::{KeyPart, KeyTuple, Route, Slot};

/// A route and why.
pub struct Routed {
    /// Which shards.
    pub route: Route,
    /// For EXPLAIN.
    pub reason: String,
}

impl Walk<'_> {
    /// The route of the statement.
    ///
    /// # Errors
    /// It cannot be planned at all, or needs rows of one shard together with sharded ones.
    pub fn route(&self) -> Result<Routed, ClientError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if let Some(single) = self.singles.first() {
            return self.single_route(single);
        }
        if self.sources.is_empty() {
            let reason = if self.references.is_empty() { "no tables" } else { "reference tables only" };
            return Ok(Routed { route: Route::Any, reason: reason.to_owned() });
        }
        let mut keys: Vec<KeyTuple> = Vec::new();
        let mut reason = String::new();
        for source in &self.sources {
            let Some(restriction) = &source.keys else {
                if !IS_PROVED && self.sources.iter().any(|source| source.keys.is_some()) {
                    continue;
                }
                let reason = format!("no restriction on the key of {}", source.table.name);
                return Ok(Routed { route: Route::All, reason });
            };
            for key in restriction {
                if !keys.contains(key) {
                    keys.push(key.clone());
                }
            }
            if reason.is_empty() {
                reason = describe(&source.table.name, &source.key, restriction);
            }
        }
        Ok(Routed { route: Route::Keys(keys), reason })
    }
}

impl Walk<'_> {
    fn single_route(&self, single: &Single) -> Result<Routed, ClientError> {
        let name = &single.name;
        if let Some(source) = self.sources.first() {
            let hint = if single.is_table {
                format!("Make \"{name}\" a reference table, or read the two in separate statements.")
            } else {
                "Ask for it in a statement of its own.".to_owned()
            };
            let message = if single.is_table {
                format!("table \"{name}\" is on one shard only and table \"{}\" is sharded", source.table.name)
            } else {
                format!("{name} is answered by one shard only and table \"{}\" is sharded", source.table.name)
            };
            return Err(ClientError::refused(message, hint));
        }
        if let Some(other) = self.singles.iter().find(|other| other.shard != single.shard) {
            return Err(ClientError::refused(
                format!("{name} and {} are on different shards", other.name),
                "Give both tables the same home, or make one a reference table.",
            ));
        }
        Ok(Routed { route: Route::Shard(single.shard), reason: format!("{name} is on shard {}", single.shard) })
    }
}

fn describe(table: &str, key: &[String], restriction: &[KeyTuple]) -> String {
    let columns = key.join(", ");
    match restriction {
        [one] => {
            let text = |part: &KeyPart| {
                let value = slot_text(&part.slot);
                if part.is_array { format!("any of {value}") } else { value }
            };
            let values: Vec<String> = one.parts.iter().map(text).collect();
            format!("key of {table}: {columns} = {}", values.join(", "))
        }
        several => format!("key of {table}: {columns} in {} alternatives", several.len()),
    }
}

/// A slot without its value.
fn slot_text(slot: &Slot) -> String {
    match slot {
        Slot::Literal { .. } => "a literal".to_owned(),
        Slot::Param(number) => format!("${number}"),
        Slot::Null => "NULL".to_owned(),
        Slot::Known(_) => "a constant of a view".to_owned(),
        Slot::Fill(_) => "a new id".to_owned(),
    }
}
