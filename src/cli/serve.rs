//! `ostrakon serve`: the proxy for servers that exist already, without owning them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::directory::Lock;
use super::output::{self, Output};
use super::proxy::Proxy;
use super::signals::StopSignals;
use super::{Failure, check, passwords, shared};
use crate::backend::PoolSettings;
use crate::backend::replicas::ReplicaSettings;
use crate::config::{Config, UserConfig};
use crate::executor::MergeLimits;
use crate::executor::reads::ReadSettings;
use crate::frontend::{ClientLimits, LoginSettings, SessionLimits};
use crate::host::{account, port};
use crate::server::reload::ReadAgain;
use crate::server::{LeadingSettings, Settings};
use crate::store::{self, Store, StoreError};

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
    let listen = resolve("[proxy]", &config.proxy.listen).await?;
    let directory = &config.proxy.data;
    account::make_directory(directory)?;
    let _lock = Lock::take(directory)?;
    port::check_free(listen, " or change [proxy] listen")?;
    let shared::Opened { store, proxy_name } = shared::open(&config, &arguments.config)?;
    let epoch = bring_up_to_date(&config, &arguments.config, store.as_ref()).await?;
    let http = match &config.http.listen {
        Some(listen) => Some(resolve("[http]", listen).await?),
        None => None,
    };
    let path = arguments.config.clone();
    let read_again = ReadAgain::new(move || read_again(&path, listen, http).map_err(|failure| failure.to_string()));
    let settings = settings(&config, &arguments.config, listen)?;
    let settings = Settings { proxy_name, http, read_again: Some(read_again), ..settings };
    let starting = Proxy::start(settings, store);
    let mut proxy = tokio::select! {
        proxy = starting => proxy?,
        () = signals.next() => return Err(Failure::new("stopped before the proxy was ready")),
    };
    let address = proxy.address();
    match output {
        Output::Json => output::json(&serde_json::json!({
            "listen": address, "data": directory, "pid": std::process::id(), "epoch": epoch, "http": proxy.http(),
        }))?,
        Output::Table => {
            let by = epoch.map_or_else(|| "by its last known topology".to_owned(), |epoch| format!("epoch {epoch}"));
            output::line(&format!("serving {} on {address}, {by}", config.proxy.database))?;
        }
    }
    let ended_by_itself = tokio::select! {
        () = signals.next() => false,
        is_drained = proxy.finished() => !is_drained,
    };
    tracing::info!("stopping");
    if ended_by_itself {
        return Err(Failure::new("the proxy stopped listening by itself; its log says more"));
    }
    proxy.stop().await;
    Ok(())
}

/// Makes the store's topology from the file, or takes over what the file may change. Gives the epoch; none where
/// the store cannot be reached, which need not keep the proxy from starting.
async fn bring_up_to_date(config: &Config, path: &Path, store: &dyn Store) -> Result<Option<u64>, Failure> {
    let name = path.display().to_string();
    loop {
        let loaded = match store::load_topology(store).await {
            Err(StoreError::Unavailable { reason }) => {
                tracing::warn!(reason, "the store cannot be reached");
                return Ok(None);
            }
            loaded => loaded?,
        };
        let (topology, revision) = match &loaded {
            None => (config.to_topology(), None),
            Some((stored, revision)) => {
                (config.reconcile(stored).map_err(|errors| check::mistakes(&name, &errors))?, Some(*revision))
            }
        };
        if loaded.is_some_and(|(stored, _)| stored.epoch == topology.epoch) {
            return Ok(Some(topology.epoch.0));
        }
        match store::save_topology(store, &topology, revision).await {
            // Another proxy starts, too, or changes something.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(Some(topology.epoch.0)),
        }
    }
}

/// The settings as the file says now. An address that says the same is the one in use.
fn read_again(path: &Path, listen: SocketAddr, http: Option<SocketAddr>) -> Result<Settings, Failure> {
    let config = check::load(path)?;
    let written = config.proxy.listen.parse().unwrap_or(listen);
    let http = config.http.listen.as_ref().and_then(|text| text.parse().ok().or(http));
    Ok(Settings { http, ..settings(&config, path, written)? })
}

async fn resolve(section: &str, listen: &str) -> Result<SocketAddr, Failure> {
    let failure = |reason: String| Failure::new(format!("{section} listen: {listen} is no address: {reason}"));
    let mut addresses = tokio::net::lookup_host(listen).await.map_err(|error| failure(error.to_string()))?;
    addresses.next().ok_or_else(|| failure("the name has none".to_owned()))
}

fn settings(config: &Config, path: &Path, listen: SocketAddr) -> Result<Settings, Failure> {
    let milliseconds = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Ok(Settings {
        control_password: passwords::control(config, path)?,
        access: passwords::access(config, path)?,
        pool: PoolSettings {
            size: config.pool.size,
            user_sizes: of_users(config, |user| user.pool_size),
            size_min: config.pool.size_min,
            checkout_timeout_ms: milliseconds(config.pool.checkout_timeout),
            idle_timeout_ms: milliseconds(config.pool.idle_timeout),
            lifetime_ms: milliseconds(config.pool.lifetime),
            connects_max: config.pool.connects_max,
            connects_per_s: config.pool.connects_per_s,
            connect_timeout_ms: milliseconds(config.pool.connect_timeout),
            ..PoolSettings::default()
        },
        merge: MergeLimits {
            rows_max: config.merge.rows_max,
            bytes_max: config.merge.bytes_max,
            gather_bytes_max: config.merge.gather_bytes_max,
        },
        // Standbys stream as the control role: what it is let in by is known.
        leading: config.failover.as_ref().map(|failover| LeadingSettings {
            durability: Some(failover.durability),
            replays: failover.replay,
            replication_user: config.control.user.clone(),
            hands: None,
        }),
        reads: ReadSettings { read_from: config.replicas.read_from, users: of_users(config, |user| user.read_from) },
        replicas: ReplicaSettings {
            lag_max: config.replicas.lag_max,
            wait_max: config.replicas.wait_max,
            sample_pause: config.replicas.sample_pause,
            zone: config.replicas.zone.clone(),
            ..ReplicaSettings::default()
        },
        unix_socket_dir: config.proxy.unix_socket_dir.clone(),
        pool_mode: config.pool.mode,
        user_pool_modes: of_users(config, |user| user.pool_mode),
        clients: ClientLimits {
            max: config.proxy.clients_max,
            max_per_user: config.proxy.clients_max_per_user,
            users: of_users(config, |user| user.clients_max),
            reserved: config.proxy.clients_reserved,
        },
        clients_tls: config.tls.accept.clone(),
        login: LoginSettings {
            tls: None,
            tls_required: config.tls.required,
            timeout_ms: milliseconds(config.proxy.login_timeout),
            max: config.proxy.logins_max,
            other_databases: config.proxy.other_databases,
        },
        session_limits: SessionLimits {
            message_bytes_max: config.proxy.message_bytes_max,
            idle_transaction_ms: config.proxy.idle_transaction_timeout.map(milliseconds),
        },
        servers_tls: check::servers_tls(config),
        workers: config.proxy.workers,
        reload_on_hangup: true,
        ..Settings::new(listen, config.proxy.data.clone(), &config.control.user)
    })
}

/// What users have that is of their own, by name.
fn of_users<T>(config: &Config, own: impl Fn(&UserConfig) -> Option<T>) -> HashMap<String, T> {
    config.users.iter().filter_map(|user| Some((user.name.clone(), own(user)?))).collect()
}
