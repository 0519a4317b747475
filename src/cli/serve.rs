//! `ostrakon serve`: the proxy for servers that exist already, without owning them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::directory::Lock;
use super::output::{self, Output};
use super::proxy::Proxy;
use super::signals::StopSignals;
use super::{Failure, check};
use crate::config::Config;
use crate::host::{account, port};
use crate::server::Settings;
use crate::store::{self, EmbeddedStore, Store};

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The configuration.
    #[arg(long, short, value_name = "FILE", default_value = "ostrakon.toml")]
    config: PathBuf,
}

/// Runs the command until Ctrl-C or SIGTERM.
pub async fn run(arguments: ServeArguments, output: Output) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let config = check::load(&arguments.config)?;
    let listen = resolve(&config.proxy.listen).await?;
    let directory = &config.proxy.data;
    account::make_directory(directory)?;
    let _lock = Lock::take(directory)?;
    port::check_free(listen, " or change [proxy] listen")?;
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&directory.join("store.redb"))?);
    let epoch = bring_up_to_date(&config, &arguments.config, store.as_ref()).await?;
    let starting = Proxy::start(settings(&config, listen), store);
    let mut proxy = tokio::select! {
        proxy = starting => proxy?,
        () = signals.next() => return Err(Failure::new("stopped before the proxy was ready")),
    };
    let address = proxy.address();
    match output {
        Output::Json => output::json(&serde_json::json!({
            "listen": address, "data": directory, "pid": std::process::id(), "epoch": epoch,
        }))?,
        Output::Table => output::line(&format!("serving {} on {address}, epoch {epoch}", config.proxy.database))?,
    }
    let ended_by_itself = tokio::select! {
        () = signals.next() => false,
        () = proxy.finished() => true,
    };
    tracing::info!("stopping");
    if ended_by_itself {
        return Err(Failure::new("the proxy stopped listening by itself; its log says more"));
    }
    proxy.stop().await;
    Ok(())
}

/// Makes the store's topology from the file, or takes over what the file may change. Gives the epoch.
async fn bring_up_to_date(config: &Config, path: &Path, store: &dyn Store) -> Result<u64, Failure> {
    let Some((stored, revision)) = store::load_topology(store).await? else {
        let topology = config.to_topology();
        store::save_topology(store, &topology, None).await?;
        return Ok(topology.epoch.0);
    };
    let name = path.display().to_string();
    let topology = config.reconcile(&stored).map_err(|errors| check::mistakes(&name, &errors))?;
    if topology.epoch != stored.epoch {
        store::save_topology(store, &topology, Some(revision)).await?;
    }
    Ok(topology.epoch.0)
}

async fn resolve(listen: &str) -> Result<SocketAddr, Failure> {
    let failure = |reason: String| Failure::new(format!("[proxy] listen: {listen} is no address: {reason}"));
    let mut addresses = tokio::net::lookup_host(listen).await.map_err(|error| failure(error.to_string()))?;
    addresses.next().ok_or_else(|| failure("the name has none".to_owned()))
}

fn settings(config: &Config, listen: SocketAddr) -> Settings {
    let password = |user: &crate::config::UserConfig| {
        user.password.as_ref().map(|password| (user.name.clone(), password.expose().to_owned()))
    };
    let milliseconds = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Settings {
        control_password: config.control.password.as_ref().map(|password| password.expose().to_owned()),
        passwords: config.users.iter().filter_map(password).collect(),
        pool_size: config.pool.size,
        checkout_timeout_ms: milliseconds(config.pool.checkout_timeout),
        connect_timeout_ms: milliseconds(config.pool.connect_timeout),
        idle_timeout_ms: milliseconds(config.pool.idle_timeout),
        clients_max: config.proxy.clients_max,
        ..Settings::new(listen, config.proxy.data.clone(), &config.control.user)
    }
}
