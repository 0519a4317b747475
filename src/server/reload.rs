//! RELOAD and SIGHUP: the configuration is read again, and what can change while clients are served changes.
//!
//! What is there stays: clients that the new rules would not let in, transactions, connections within the new limits.
//! What cannot change live is named, again at every reload until the restart.

use std::fmt;
use std::sync::{Arc, Weak};

use tokio::signal::unix::Signal;
use tokio::sync::Mutex;

use super::certificates::Certificates;
use super::{ControlAccess, Settings, build_access};
use crate::admin::{Reload, ReloadedSetting};
use crate::base::Secret;
use crate::error::{ClientError, ErrorId};
use crate::executor::{BoxFuture, Cluster};
use crate::frontend::Frontend;
use crate::net::listener::MorePlaces;

/// Reads the settings again; an error is in the operator's words.
#[derive(Clone)]
pub struct ReadAgain(Arc<dyn Fn() -> Result<Settings, String> + Send + Sync>);

impl ReadAgain {
    /// By this function, which may read files.
    pub fn new(read: impl Fn() -> Result<Settings, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
}

impl fmt::Debug for ReadAgain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ReadAgain")
    }
}

/// Takes over settings that were read again.
pub(super) struct Reloader {
    /// Those in force, and those that wait for a restart as they were at the start.
    current: Mutex<Settings>,
    read_again: Option<ReadAgain>,
    cluster: Arc<Cluster>,
    frontend: Weak<Frontend>,
    /// How servers are reached, and what mock verifiers are made of.
    control: (ControlAccess, Secret),
    certificates: Certificates,
    places: MorePlaces,
}

impl Reloader {
    pub(super) fn new(
        settings: Settings,
        cluster: Arc<Cluster>,
        frontend: &Arc<Frontend>,
        control: (ControlAccess, Secret),
        certificates: Certificates,
        places: MorePlaces,
    ) -> Self {
        let read_again = settings.read_again.clone();
        let frontend = Arc::downgrade(frontend);
        Self { current: Mutex::new(settings), read_again, cluster, frontend, control, certificates, places }
    }

    /// There is something to be read.
    pub(super) fn can_reload(&self) -> bool {
        self.read_again.is_some()
    }

    async fn take_over(&self) -> Result<Vec<ReloadedSetting>, ClientError> {
        let unusable = |reason: String| {
            ClientError::new(ErrorId::InvalidParameterValue, "the configuration cannot be used; nothing has changed")
                .with_detail(reason)
        };
        let Some(ReadAgain(read)) = self.read_again.clone() else { return Ok(Vec::new()) };
        let mut current = self.current.lock().await;
        let reading = tokio::task::spawn_blocking(move || read());
        let fresh = reading.await.map_err(|error| unusable(error.to_string()))?.map_err(unusable)?;
        let changed = differences(&current, &fresh);
        let next = merged(&current, fresh);
        let (control, mock_key) = &self.control;
        let access = build_access(&next, control, mock_key.clone());
        self.certificates.reload(true).await;
        if let Some(frontend) = self.frontend.upgrade() {
            // Places are only added: with fewer clients allowed, the seats are what counts.
            self.places.add(next.clients.sockets_max().saturating_sub(current.clients.sockets_max()));
            frontend.change(access, next.clients.clone(), &next.login, next.session_limits);
        }
        self.cluster.secrets.configure(next.server_secrets());
        self.cluster.pools.change(next.pool.clone());
        *current = next;
        for ReloadedSetting { name, is_live } in &changed {
            tracing::info!(setting = name, is_live, "the configuration has changed");
        }
        Ok(changed)
    }
}

impl Reload for Reloader {
    fn reload(&self) -> BoxFuture<'_, Result<Vec<ReloadedSetting>, ClientError>> {
        Box::pin(self.take_over())
    }
}

/// Reloads at every SIGHUP, for ever.
///
/// # Cancel safety
/// Safe.
pub(super) async fn on_hangup(reloader: Arc<Reloader>, hangups: Option<Signal>) {
    let Some(mut hangups) = hangups else { return };
    while hangups.recv().await.is_some() {
        if !reloader.can_reload() {
            reloader.certificates.reload(true).await;
        } else if let Err(error) = reloader.take_over().await {
            tracing::error!(message = %error.message, detail = ?error.detail, "SIGHUP");
        }
    }
}

/// Every setting that is other than it was, and whether it takes effect at once.
fn differences(old: &Settings, new: &Settings) -> Vec<ReloadedSetting> {
    let (pool, fresh) = (&old.pool, &new.pool);
    let (clients, fresh_clients) = (&old.clients, &new.clients);
    let (login, fresh_login) = (&old.login, &new.login);
    let rows = [
        ("[auth], [[hba]], [[ident]]", old.access.rules != new.access.rules || has_other_rules(old, new), true),
        ("passwords of [[users]]", old.access.users != new.access.users, true),
        ("[pool] size", pool.size != fresh.size, true),
        ("[pool] size_min", pool.size_min != fresh.size_min, true),
        ("[pool] checkout_timeout_ms", pool.checkout_timeout_ms != fresh.checkout_timeout_ms, true),
        ("[pool] idle_timeout_ms", pool.idle_timeout_ms != fresh.idle_timeout_ms, true),
        ("[pool] lifetime_ms", pool.lifetime_ms != fresh.lifetime_ms, true),
        ("pool_size of [[users]]", pool.user_sizes != fresh.user_sizes, true),
        ("[proxy] clients_max", clients.max != fresh_clients.max, true),
        ("[proxy] clients_max_per_user", clients.max_per_user != fresh_clients.max_per_user, true),
        ("[proxy] clients_reserved", clients.reserved != fresh_clients.reserved, true),
        ("clients_max of [[users]]", clients.users != fresh_clients.users, true),
        ("[proxy] login_timeout_ms", login.timeout_ms != fresh_login.timeout_ms, true),
        ("[proxy] other_databases", login.other_databases != fresh_login.other_databases, true),
        ("[tls] mode", login.tls_required != fresh_login.tls_required, true),
        ("[proxy] message_bytes_max, idle_transaction_timeout_ms", old.session_limits != new.session_limits, true),
        ("[proxy] listen", old.listen != new.listen, false),
        ("[proxy] unix_socket_dir", old.unix_socket_dir != new.unix_socket_dir, false),
        ("[proxy] workers", old.workers != new.workers, false),
        ("[proxy] data", old.data != new.data, false),
        ("[proxy] logins_max", login.max != fresh_login.max, false),
        ("[pool] mode", old.pool_mode != new.pool_mode, false),
        ("pool_mode of [[users]]", old.user_pool_modes != new.user_pool_modes, false),
        (
            "[pool] connect_timeout_ms, connects_max, connects_per_s",
            (pool.connect_timeout_ms, pool.connects_max, pool.connects_per_s)
                != (fresh.connect_timeout_ms, fresh.connects_max, fresh.connects_per_s),
            false,
        ),
        ("[replicas], read_from of [[users]]", old.reads != new.reads || old.replicas != new.replicas, false),
        ("[failover]", leading(old) != leading(new), false),
        ("[http] listen", old.http != new.http, false),
        ("[merge]", old.merge != new.merge, false),
        ("[control]", old.control_user != new.control_user || old.control_password != new.control_password, false),
        ("files of [tls]", old.clients_tls != new.clients_tls, false),
        ("[servers_tls]", old.servers_tls != new.servers_tls, false),
    ];
    let changed = rows.into_iter().filter(|(_, has_changed, _)| *has_changed);
    changed.map(|(name, _, is_live)| ReloadedSetting { name, is_live }).collect()
}

fn leading(settings: &Settings) -> Option<(Option<crate::failover::Durability>, bool)> {
    settings.leading.as_ref().map(|leading| (leading.durability, leading.replays))
}

fn has_other_rules(old: &Settings, new: &Settings) -> bool {
    let of = |settings: &Settings| {
        let access = &settings.access;
        (access.idents.clone(), access.query.clone(), access.cleartext_without_tls, access.admin_users.clone())
    };
    of(old) != of(new)
}

/// What holds after a reload: the new settings, but for those that wait for a restart.
fn merged(old: &Settings, new: Settings) -> Settings {
    let mut pool = new.pool;
    pool.connect_timeout_ms = old.pool.connect_timeout_ms;
    pool.connects_max = old.pool.connects_max;
    pool.connects_per_s = old.pool.connects_per_s;
    let mut login = new.login;
    login.max = old.login.max;
    Settings {
        access: new.access,
        pool,
        clients: new.clients,
        login,
        session_limits: new.session_limits,
        ..old.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::PoolMode;

    #[test]
    fn what_waits_for_a_restart_is_named_until_then() {
        let old = Settings::new(([127, 0, 0, 1], 6432).into(), "/data".into(), "postgres");
        assert_eq!(differences(&old, &old.clone()), []);
        let mut new = old.clone();
        new.pool.size += 1;
        new.pool.connects_max += 1;
        new.pool_mode = PoolMode::Session;
        new.clients.max = 7;
        let names = |found: Vec<ReloadedSetting>| -> Vec<(&str, bool)> {
            found.into_iter().map(|setting| (setting.name, setting.is_live)).collect()
        };
        let waiting = [("[pool] mode", false), ("[pool] connect_timeout_ms, connects_max, connects_per_s", false)];
        let all = [&[("[pool] size", true), ("[proxy] clients_max", true)][..], &waiting].concat();
        assert_eq!(names(differences(&old, &new)), all);
        let next = merged(&old, new.clone());
        assert_eq!((next.pool.size, next.clients.max, next.pool_mode), (new.pool.size, 7, old.pool_mode));
        assert_eq!(names(differences(&next, &new)), waiting);
    }
}
