//! `ostrakon topology`: nodes, bucket owners, tables.

use serde_json::Value;

use super::Failure;
use super::connect::{Admin, ConnectArguments};
use super::output::{self, Output};

/// Runs the command.
pub async fn run(arguments: &ConnectArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(arguments).await?;
    show(&admin.document("SHOW TOPOLOGY FORMAT JSON").await?, output)
}

/// Prints a document of the admin database: lists of objects as tables, the rest as `name: value`.
pub fn show(document: &Value, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return output::json(document);
    }
    match document {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(_, value)| !is_list_of_objects(value)) {
                output::line(&format!("{name}: {}", text(value)))?;
            }
            for (name, value) in fields.iter().filter(|(_, value)| is_list_of_objects(value)) {
                output::line(&format!("\n{name}"))?;
                show_list(value)?;
            }
            Ok(())
        }
        Value::Array(_) => show_list(document),
        other => output::line(&text(other)),
    }
}

/// What identifies a row stands before what describes it.
const FIRST: [&str; 9] = ["id", "schema", "name", "shard", "role", "host", "port", "placement", "key"];

fn is_list_of_objects(value: &Value) -> bool {
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_object))
}

fn show_list(list: &Value) -> Result<(), Failure> {
    let objects: Vec<_> = list.as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let mut headings: Vec<&str> = Vec::new();
    for name in objects.iter().flat_map(|object| object.keys()) {
        if !headings.contains(&name.as_str()) {
            headings.push(name);
        }
    }
    headings.sort_by_key(|name| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    let row = |object: &&serde_json::Map<String, Value>| {
        headings.iter().map(|name| object.get(*name).map(text).unwrap_or_default()).collect()
    };
    output::table(&headings, objects.iter().map(row).collect())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
