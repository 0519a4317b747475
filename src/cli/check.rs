//! `ostrakon check`: what is wrong in a configuration, with line and column.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::output::{self, Output};
use crate::config::{Config, ConfigError};

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The configuration.
    #[arg(long, short, value_name = "FILE", default_value = "ostrakon.toml")]
    config: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &CheckArguments, output: Output) -> Result<(), Failure> {
    let name = arguments.config.display().to_string();
    let errors = match Config::parse(&read(&arguments.config)?, &name) {
        Ok(config) => {
            let nodes: usize = config.shards.iter().map(|shard| shard.nodes.len()).sum();
            return match output {
                Output::Json => output::json(&serde_json::json!({ "file": name, "valid": true, "errors": [] })),
                Output::Table => {
                    output::line(&format!("{name} is valid: {} shards, {nodes} nodes", config.shards.len()))
                }
            };
        }
        Err(errors) => errors,
    };
    if output == Output::Json {
        let list: Vec<_> = errors
            .iter()
            .map(|error| {
                serde_json::json!({
                    "file": error.file_name, "line": error.line, "column": error.column,
                    "message": error.message, "hint": error.hint,
                })
            })
            .collect();
        output::json(&serde_json::json!({ "file": name, "valid": false, "errors": list }))?;
        return Err(Failure::new(format!("{name} has {} mistakes", errors.len())));
    }
    Err(mistakes(&name, &errors))
}

/// Reads a configuration.
///
/// # Errors
/// All its mistakes, or why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Failure> {
    let name = path.display().to_string();
    Config::parse(&read(path)?, &name).map_err(|errors| mistakes(&name, &errors))
}

/// All mistakes as one failure.
pub fn mistakes(name: &str, errors: &[ConfigError]) -> Failure {
    let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure::new(format!("{name} is not valid\n{}", list.join("\n")))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}\n  name the configuration with --config FILE", path.display()))
    })
}
