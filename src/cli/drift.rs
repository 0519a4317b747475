//! `ostrakon drift`: what the shards' schemas have not alike.

use serde::{Deserialize, Serialize};

use super::Failure;
use super::connect::{Admin, ConnectArguments};
use super::output::{self, Output};

/// One object, as SHOW DRIFT tells it.
#[derive(Debug, Deserialize, Serialize)]
struct Difference {
    kind: String,
    name: String,
    shard: String,
    state: String,
}

/// Runs the command. Like diff it fails when there is a difference, so that a pipeline notices.
pub async fn run(arguments: &ConnectArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(arguments).await?;
    let found: Vec<Difference> = admin.document("SHOW DRIFT FORMAT JSON").await?;
    if output == Output::Json {
        output::json(&found)?;
    } else if found.is_empty() {
        output::line("the shards have the same schema")?;
    } else {
        let row = |one: &Difference| vec![one.kind.clone(), one.name.clone(), one.shard.clone(), one.state.clone()];
        output::table(&["kind", "name", "shard", "state"], found.iter().map(row).collect())?;
    }
    match found.len() {
        0 => Ok(()),
        1 => Err(Failure::new("1 object differs between the shards")),
        many => Err(Failure::new(format!("{many} objects differ between the shards"))),
    }
}
