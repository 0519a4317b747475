//! `ostrakon check`: what is wrong in a configuration, with line and column.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::output::{self, Output};
use crate::backend::{ServersTls, ServersTlsSettings};
use crate::config::{Config, ConfigError, Position};
use crate::net::tls::{Acceptor, TlsError};

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
        Ok(config) if certificate_errors(&config).is_empty() => {
            let nodes: usize = config.shards.iter().map(|shard| shard.nodes.len()).sum();
            return match output {
                Output::Json => output::json(&serde_json::json!({ "file": name, "valid": true, "errors": [] })),
                Output::Table => {
                    output::line(&format!("{name} is valid: {} shards, {nodes} nodes", config.shards.len()))
                }
            };
        }
        Ok(config) => certificate_errors(&config),
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

/// What is wrong with the certificates that a configuration names: they have to be there and to fit.
fn certificate_errors(config: &Config) -> Vec<ConfigError> {
    let clients = config.tls.accept.clone().map(|settings| (config.tls.position, Acceptor::load(settings).err()));
    let servers = (config.servers_tls.position, ServersTls::load(&servers_tls(config)).err());
    let error_at = |(position, error): (Position, Option<TlsError>)| {
        error.map(|error| ConfigError {
            file_name: config.file_name.clone(),
            line: position.line,
            column: position.column,
            message: error.to_string(),
            hint: None,
        })
    };
    clients.into_iter().chain([servers]).filter_map(error_at).collect()
}

/// TLS towards the nodes, as the configuration has it.
pub fn servers_tls(config: &Config) -> ServersTlsSettings {
    let nodes = config.shards.iter().flat_map(|shard| &shard.nodes);
    let modes = nodes.filter_map(|node| Some((node.name.clone(), node.tls?))).collect();
    ServersTlsSettings { all: config.servers_tls.connect.clone(), modes }
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
