//! Wires every room once: start order, tasks, stop.
//!
//! Must not know: command lines and files of settings.

mod certificates;
mod follow;
mod identity;
mod ids;
mod known;
mod leading;
pub mod reload;
mod workers;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::{Admin, Drain};
use crate::auth::{ServerSecret, Verifier};
use crate::backend::decision::ActiveTransactions;
use crate::backend::replicas::ReplicaSettings;
use crate::backend::schema::read_schema;
use crate::backend::{BackendError, ConnectTarget, Connection, PoolSettings, Pools, ServersTls, ServersTlsSettings};
use crate::base::{Secret, ShardId};
use crate::control::recovery::{Recovery, prepare_database};
use crate::control::reshard;
use crate::control::roles::Roles;
use crate::control::sampling;
use crate::control::sequences::Sequences;
use crate::executor::direct::Stop;
use crate::executor::{self, Cluster, Credentials, Secrets, two_phase::Coordinator};
use crate::frontend::{Access, AccessSettings, ClientLimits, Frontend, LoginSettings, SessionLimits};
use crate::http::Health;
use crate::net::NetError;
use crate::net::descriptors;
use crate::net::listener::{Listener, ListenerSettings};
use crate::net::tls::{AcceptSettings, Acceptor};
use crate::session::PoolMode;
use crate::store::members::{self, Member};
use crate::store::{Store, StoreError};
use crate::topology::Topology;
use crate::wire::server_message::read_error;
use workers::{Workers, usual_count};

pub use leading::LeadingSettings;

use follow::{Sharing, find_nodes, follow_store};
use known::Known;

/// How a proxy runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Directory of a Unix-domain socket to listen on, too.
    pub unix_socket_dir: Option<PathBuf>,
    /// Directory of the proxy's own files.
    pub data: PathBuf,
    /// Role that looks after the servers: reads catalogs, recovers transactions.
    pub control_user: String,
    /// Its password.
    pub control_password: Option<Secret>,
    /// Which clients may connect, and by what proof; passwords that are known here open the servers, too.
    pub access: AccessSettings,
    /// Connections to the nodes: how many, and for how long.
    pub pool: PoolSettings,
    /// What one statement over several shards may hold.
    pub merge: executor::MergeLimits,
    /// Where reads go.
    pub reads: executor::reads::ReadSettings,
    /// Which replicas they may go to.
    pub replicas: ReplicaSettings,
    /// When sessions give their connections back.
    pub pool_mode: PoolMode,
    /// The same for roles that have a mode of their own.
    pub user_pool_modes: HashMap<String, PoolMode>,
    /// Clients at a time; more are told so and closed.
    pub clients: ClientLimits,
    /// TLS for clients: the certificates. Whether it is required is among the settings of the login.
    pub clients_tls: Option<AcceptSettings>,
    /// TLS towards the servers.
    pub servers_tls: ServersTlsSettings,
    /// How clients log in; its TLS is made of `clients_tls`.
    pub login: LoginSettings,
    /// What clients may do at most.
    pub session_limits: SessionLimits,
    /// Threads that serve clients; `None`: as many as half of the processors.
    pub workers: Option<usize>,
    /// Primaries that are lost are replaced; `None`: they are waited for.
    pub leading: Option<LeadingSettings>,
    /// The name of this proxy among those that share the store; `None`: no other does.
    pub proxy_name: Option<String>,
    /// Where health is asked for.
    pub http: Option<SocketAddr>,
    /// SIGHUP reads certificates again, and the configuration where it can be, instead of ending the process.
    pub reload_on_hangup: bool,
    /// Reads all of this again, for RELOAD and SIGHUP.
    pub read_again: Option<reload::ReadAgain>,
}

impl Settings {
    /// The defaults for servers that trust this machine.
    pub fn new(listen: SocketAddr, data: PathBuf, control_user: &str) -> Self {
        Self {
            listen,
            unix_socket_dir: None,
            data,
            control_user: control_user.to_owned(),
            control_password: None,
            access: AccessSettings::default(),
            pool: PoolSettings::default(),
            merge: executor::MergeLimits::default(),
            reads: executor::reads::ReadSettings::default(),
            replicas: ReplicaSettings::default(),
            pool_mode: PoolMode::default(),
            user_pool_modes: HashMap::new(),
            clients: ClientLimits::default(),
            clients_tls: None,
            servers_tls: ServersTlsSettings::default(),
            login: LoginSettings::default(),
            session_limits: SessionLimits::default(),
            workers: None,
            reload_on_hangup: false,
            read_again: None,
            leading: None,
            proxy_name: None,
            http: None,
        }
    }
}

impl Settings {
    fn control_secret(&self) -> ServerSecret {
        self.control_password.clone().map(ServerSecret::password).unwrap_or_default()
    }

    /// What opens the servers for clients; the control role's password is not among it.
    fn server_secrets(&self) -> HashMap<String, ServerSecret> {
        let users = self.access.users.iter();
        users.map(|(user, verifier)| (user.clone(), ServerSecret::of_verifier(verifier))).collect()
    }
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store holds no topology.
    #[error("the store holds no topology")]
    NoTopology,
    /// The store cannot be used.
    #[error("the store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        reason: String,
    },
    /// The Unix-domain socket cannot be listened on.
    #[error("cannot listen in unix_socket_dir {}: {reason}", directory.display())]
    ListenLocally {
        /// The directory.
        directory: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// A shard's primary cannot be used.
    #[error("shard {shard} cannot be used: {reason}")]
    Shard {
        /// The shard's name.
        shard: String,
        /// Why.
        reason: String,
    },
    /// Certificates cannot be used.
    #[error("{0}")]
    Tls(#[from] crate::net::tls::TlsError),
    /// No thread can be started.
    #[error("no thread can be started: {0}")]
    Thread(std::io::Error),
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(String),
}

/// Pause between two passes of the recovery of transactions in doubt.
const RECOVERY_PAUSE_MS: u64 = 2_000;

/// Branches prepared for less than this are left alone, except at the start.
const RECOVERY_AGE_MS: u64 = 5_000;

/// Pause between two looks at the schema, for DDL that did not come through this proxy.
const SCHEMA_PAUSE_MS: u64 = 5_000;

/// How long starting waits for the shards.
const START_MS_MAX: u64 = 30_000;

/// A proxy at work.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where health is asked for.
    pub http: Option<SocketAddr>,
    stop: Arc<watch::Sender<Stop>>,
    is_drained: watch::Receiver<bool>,
    serving: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    _workers: Workers,
    /// They end when they are dropped.
    _leaders: crate::admin::leading::Leaders,
    /// To be told that this proxy is gone.
    leaving: Option<(Arc<dyn Store>, String)>,
}

impl Running {
    /// Waits for the listener to end by itself: true when it was drained. It never should otherwise.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn finished(&mut self) -> bool {
        let _joined = (&mut self.serving).await;
        let is_drained = *self.is_drained.borrow();
        if !is_drained {
            tracing::error!("the listener ended by itself");
        }
        is_drained
    }

    /// Stops serving: sessions are ended with 57P01, work in the background stops.
    ///
    /// # Cancel safety
    /// Dropped half-way, tasks end with the runtime.
    pub async fn stop(self) {
        // Everybody may have gone already.
        self.stop.send_replace(Stop::Now);
        if !self.serving.is_finished()
            && let Err(error) = self.serving.await
        {
            tracing::warn!(%error, "the listener ended badly");
        }
        for task in self.tasks {
            task.abort();
        }
        if let Some((store, name)) = self.leaving
            && let Err(error) = members::unregister(store.as_ref(), &name).await
        {
            tracing::warn!(%error, "the other proxies still count this one: FORGET PROXY tells them");
        }
    }
}

/// Starts a proxy on the topology that the store holds.
///
/// # Errors
/// Nothing is left running.
pub async fn start(settings: Settings, store: Arc<dyn Store>) -> Result<Running, StartError> {
    let member = settings.proxy_name.clone().map(|name| Member {
        name,
        listen: settings.listen.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    let started = start_as(settings, Arc::clone(&store), member.clone()).await;
    if let (Err(_), Some(member)) = (&started, &member)
        && let Err(error) = members::unregister(store.as_ref(), &member.name).await
    {
        tracing::warn!(%error, "the other proxies count this one: FORGET PROXY tells them that it is gone");
    }
    started
}

async fn start_as(settings: Settings, store: Arc<dyn Store>, member: Option<Member>) -> Result<Running, StartError> {
    // Clients that have not logged in have places of their own.
    let sockets_max = settings.clients.sockets_max().saturating_add(settings.login.max);
    let descriptors = descriptors::raise_limit();
    if descriptors < sockets_max as u64 {
        tracing::warn!(descriptors, clients = settings.clients.max, "fewer files may be open than clients may connect");
    }
    let file = known::path(&settings.data);
    let known = known::join(store.as_ref(), member.as_ref(), &file).await?;
    let sharing = member.map(|member| Sharing::new(member, file, &known));
    let (listener, address) = listen(&settings, sockets_max)?;
    let servers_tls = ServersTls::load(&settings.servers_tls)?;
    let clients_tls = settings.clients_tls.clone().map(Acceptor::load).transpose()?.map(Arc::new);
    let hangups = if settings.reload_on_hangup { certificates::listen() } else { None };
    let certificates = certificates::Certificates { clients: clients_tls.clone(), servers: servers_tls.clone() };
    let leaders = Arc::new(leading::start(&settings, &known.topology, &store, &servers_tls)?);
    let reaching = leading::Reaching::new(&settings, &servers_tls);
    let mock_key = known.mock_key.clone();
    let built = build_in_time(&settings, known, &store, servers_tls, &leaders).await?;
    let (stop, stopped) = watch::channel(Stop::No);
    let stop = Arc::new(stop);
    let (draining, drains) = watch::channel(None);
    let (drained, is_drained) = watch::channel(false);
    let refused = |address| move |error: NetError| StartError::Listen { address, reason: error.to_string() };
    let http = settings.http.map(|http| health(http, &stopped, &drains).map_err(refused(http))).transpose()?;
    let name = settings.proxy_name.clone();
    let admin = Admin::new(Arc::clone(&built.shared), Arc::clone(&store), name.clone());
    let admin = Arc::new(admin.with_reshard(built.reshard.map(reshard::start_usual)));
    admin.set_leaders(Arc::clone(&leaders));
    if settings.reload_on_hangup {
        admin.set_draining(draining);
    }
    let login = LoginSettings { tls: clients_tls, ..settings.login.clone() };
    let frontend = Frontend::new(Arc::clone(&built.shared), Arc::clone(&admin), built.access, settings.clients.clone());
    let frontend = Arc::new(frontend.with_login(login).with_limits(settings.session_limits));
    let workers = Workers::start(settings.workers.unwrap_or_else(usual_count)).map_err(StartError::Thread)?;
    let first = workers.handles().first().cloned().unwrap_or_else(Handle::current);
    let reloader = Arc::new(reload::Reloader::new(
        settings,
        Arc::clone(&built.shared),
        &frontend,
        (built.control, mock_key),
        certificates.clone(),
        listener.more_places(),
    ));
    if reloader.can_reload() {
        admin.set_reload(Arc::clone(&reloader) as Arc<dyn crate::admin::Reload>);
    }
    let mut tasks = vec![
        // Connections that are opened ahead belong to the threads that will use them.
        first.spawn(tend_pools(Arc::clone(&built.shared))),
        tokio::spawn(drain(drains, Arc::clone(&stop), drained)),
        tokio::spawn(certificates::watch(certificates)),
        tokio::spawn(reload::on_hangup(reloader, hangups)),
        tokio::spawn(Arc::clone(&frontend).watch_deadlocks()),
        tokio::spawn(Arc::clone(&frontend).watch_clients()),
    ];
    tasks.push(tokio::spawn(sampling::run(Arc::clone(&built.shared.replicas), find_nodes(&built.shared))));
    tasks.extend(leading::cut_all_replaced(&leaders, &built.shared));
    tasks.push(tokio::spawn(leading::follow_nodes(Arc::clone(&leaders), Arc::clone(&built.shared), reaching)));
    tasks.extend(follow_store(&built.shared, built.recovery, &store, sharing));
    let http = http.map(|(http, answering)| {
        tasks.push(answering);
        http
    });
    let serving = tokio::spawn(frontend.run(listener, workers.handles().to_vec(), stopped));
    tracing::info!(%address, workers = workers.handles().len(), "serving");
    let leaving = name.map(|name| (store, name));
    Ok(Running { address, http, stop, is_drained, serving, tasks, leaving, _workers: workers, _leaders: leaders })
}

/// Answers who asks for health: ready until it is told to stop.
fn health(
    address: SocketAddr,
    stopped: &watch::Receiver<Stop>,
    drains: &watch::Receiver<Option<Drain>>,
) -> Result<(SocketAddr, JoinHandle<()>), NetError> {
    let (stopped, drains) = (stopped.clone(), drains.clone());
    let not_ready = move || match (*stopped.borrow(), drains.borrow().is_some()) {
        (Stop::No, false) => None,
        (Stop::Now, false) => Some("stopping".to_owned()),
        _ => Some("draining".to_owned()),
    };
    let health = Health::bind(address, Arc::new(not_ready))?;
    let address = health.address()?;
    // It says that the proxy stops for as long as the process lives: it is ended with the other tasks.
    Ok((address, tokio::spawn(health.run())))
}

/// Ends sessions when they are in no transaction, once somebody asks for it, and all that are left after a while.
async fn drain(
    mut asked: watch::Receiver<Option<Drain>>,
    stop: Arc<watch::Sender<Stop>>,
    drained: watch::Sender<bool>,
) {
    let asked = asked.wait_for(Option::is_some).await.ok().and_then(|drain| *drain);
    let Some(Drain { after, within }) = asked else { return std::future::pending().await };
    tracing::info!(?after, ?within, "draining");
    tokio::time::sleep(after).await;
    drained.send_replace(true);
    stop.send_if_modified(|now| std::mem::replace(now, (*now).max(Stop::BetweenTransactions)) == Stop::No);
    tokio::time::sleep(within).await;
    tracing::info!("sessions that are left are ended");
    stop.send_replace(Stop::Now);
}

/// Binds what clients connect to; gives the address, too.
fn listen(settings: &Settings, sockets_max: usize) -> Result<(Listener, SocketAddr), StartError> {
    let unusable = |error: NetError| StartError::Listen { address: settings.listen, reason: error.to_string() };
    let listening = ListenerSettings { clients_max: sockets_max, ..ListenerSettings::default() };
    let mut listener = Listener::bind(settings.listen, listening).map_err(unusable)?;
    let address = listener.local_address().map_err(unusable)?;
    if let Some(directory) = &settings.unix_socket_dir {
        let unusable =
            |error: NetError| StartError::ListenLocally { directory: directory.clone(), reason: error.to_string() };
        let path = listener.listen_locally(directory).map_err(unusable)?;
        tracing::info!(path = %path.display(), "serving on a Unix-domain socket");
    }
    Ok((listener, address))
}

/// What `start` builds before it serves.
struct Built {
    shared: Arc<Cluster>,
    recovery: Recovery,
    access: Access,
    control: ControlAccess,
    /// `None`: other proxies may serve the same cluster.
    reshard: Option<reshard::Context>,
}

/// Builds once every shard is open, within the time that starting may take.
async fn build_in_time(
    settings: &Settings,
    known: Known,
    store: &Arc<dyn Store>,
    servers_tls: ServersTls,
    leaders: &leading::Leaders,
) -> Result<Built, StartError> {
    let building = async {
        let topology = leading::wait_open(leaders, store, known.topology.clone()).await?;
        build(settings, Known { topology, ..known }, store, servers_tls, leaders).await
    };
    let limit = Duration::from_millis(START_MS_MAX);
    tokio::time::timeout(limit, Box::pin(building)).await.map_err(|_| StartError::Shard {
        shard: "(all)".to_owned(),
        reason: "they did not answer in time".to_owned(),
    })?
}

async fn build(
    settings: &Settings,
    known: Known,
    store: &Arc<dyn Store>,
    servers_tls: ServersTls,
    leaders: &leading::Leaders,
) -> Result<Built, StartError> {
    let topology = known.topology;
    let access = ControlAccess {
        topology: Arc::new(arc_swap::ArcSwap::from_pointee(topology.clone())),
        user: settings.control_user.clone(),
        secret: settings.control_secret(),
        tls: servers_tls.clone(),
    };
    prepare_shards(&topology, &access).await?;
    let context = access.reshard_context(store);
    let (epoch_gate, steps) = (Arc::clone(&context.gate), Arc::clone(&context.steps));
    let replicas_rest = Arc::clone(&context.replicas_rest);
    let reshard = context
        .settled(settings.proxy_name.is_some())
        .await
        .map_err(|error| StartError::Shard { shard: "(resharding)".to_owned(), reason: error.to_string() })?;
    let home = topology.home();
    let schema = read_home_schema(&topology, &access.target(&topology, home), known.is_confirmed).await?;
    let cluster_id = known.cluster_id;
    let active = ActiveTransactions::default();
    let find_primaries = access.find_primaries();
    let find_primary = access.find_primary();
    if settings.proxy_name.is_none() {
        // Whatever an earlier process of this cluster left in doubt is settled before anyone is served. Where there
        // are other proxies, it may be theirs and under way.
        let mut first = Recovery::new(cluster_id, active.clone(), Arc::clone(&find_primaries), 0);
        let report = first.run_once().await;
        tracing::info!(committed = report.committed, aborted = report.aborted, "transactions in doubt settled");
    }
    let recovery = Recovery::new(cluster_id, active.clone(), Arc::clone(&find_primaries), RECOVERY_AGE_MS);
    let coordinator = Coordinator::new(cluster_id, identity::random()?, active, find_primary);
    let sequences = Sequences::new(access.find_home());
    let pools = Pools::new(PoolSettings { seed: identity::random()?, ..settings.pool.clone() });
    let shared = Arc::new(Cluster::with_topology(
        Arc::clone(&access.topology),
        schema,
        pools,
        Box::new(ids::ClusterIds::new(sequences)),
        coordinator,
        Secrets::new(settings.server_secrets()),
        Credentials { user: settings.control_user.clone(), secret: settings.control_secret() },
        executor::Settings {
            connect_timeout_ms: settings.pool.connect_timeout_ms,
            merge: settings.merge,
            reads: settings.reads.clone(),
            replicas: settings.replicas.clone(),
            pool_mode: settings.pool_mode,
            user_pool_modes: settings.user_pool_modes.clone(),
            servers_tls,
            primaries: leading::primaries(leaders, settings),
            replays: settings.leading.as_ref().is_some_and(|leading| leading.replays),
            epoch_gate,
            steps,
            replicas_rest,
            ..executor::Settings::default()
        },
    ));
    let control = access;
    let access = build_access(settings, &control, known.mock_key);
    Ok(Built { shared, recovery, access, control, reshard })
}

/// Who lets clients in. The control role may log in with its own password, too.
fn build_access(settings: &Settings, control: &ControlAccess, mock_key: Secret) -> Access {
    let mut access = settings.access.clone();
    if let Some(password) = &settings.control_password {
        let known = access.users.entry(settings.control_user.clone());
        known.or_insert_with(|| Verifier::Plain(password.clone()));
    }
    // What is in force was decided by what is written, not by this.
    access.rules = Some(settings.access.effective_rules());
    let roles = access.query.clone().map(|query| Roles::new(query, control.find_home()));
    Access::new(access, &settings.control_user, roles, mock_key)
}

/// How the control role reaches the primaries of the topology in force.
#[derive(Clone)]
struct ControlAccess {
    topology: Arc<arc_swap::ArcSwap<Topology>>,
    user: String,
    secret: ServerSecret,
    tls: ServersTls,
}

impl ControlAccess {
    fn target(&self, topology: &Topology, shard: ShardId) -> Option<ConnectTarget> {
        topology.primary(shard).map(|node| self.node_target(topology, node))
    }

    fn node_target(&self, topology: &Topology, node: &crate::topology::Node) -> ConnectTarget {
        ConnectTarget {
            node: node.id,
            host: node.host.clone(),
            port: node.port,
            database: topology.database.clone(),
            user: self.user.clone(),
            secret: self.secret.clone(),
            parameters: Vec::new(),
            connect_timeout_ms: 5_000,
            tls: self.tls.of(&node.name),
        }
    }

    fn find_primaries(&self) -> crate::control::recovery::FindPrimaries {
        let access = self.clone();
        Arc::new(move || {
            let topology = access.topology.load();
            topology.shard_ids().filter_map(|shard| Some((shard, access.target(&topology, shard)?))).collect()
        })
    }

    fn reshard_context(&self, store: &Arc<dyn Store>) -> reshard::Context {
        let access = self.clone();
        reshard::Context {
            store: Arc::clone(store),
            topology: Arc::clone(&self.topology),
            gate: Arc::default(),
            steps: Arc::default(),
            replicas_rest: Arc::default(),
            find: Arc::new(move |topology, node| access.node_target(topology, node)),
        }
    }

    fn find_primary(&self) -> crate::executor::two_phase::FindPrimary {
        let access = self.clone();
        Arc::new(move |shard| access.target(&access.topology.load(), shard))
    }

    fn find_home(&self) -> crate::control::roles::FindHome {
        let access = self.clone();
        Arc::new(move || {
            let topology = access.topology.load();
            access.target(&topology, topology.home())
        })
    }
}

/// Makes the decision table on every shard. One shard alone needs none, and its database is left as it is.
async fn prepare_shards(topology: &Topology, access: &ControlAccess) -> Result<(), StartError> {
    if topology.shards.len() == 1 {
        return Ok(());
    }
    let preparing = topology.shards.iter().map(|shard| async move {
        let failed = |reason: String| StartError::Shard { shard: shard.name.clone(), reason };
        let target = access.target(topology, shard.id).ok_or_else(|| failed("it has no primary".to_owned()))?;
        prepare_database(&target).await.map_err(|error| failed(error.to_string()))
    });
    join_all(preparing).await.into_iter().collect()
}

async fn read_home_schema(
    topology: &Topology,
    target: &Option<ConnectTarget>,
    is_confirmed: bool,
) -> Result<crate::topology::schema::Schema, StartError> {
    let failed = |reason: String| StartError::Shard { shard: executor::shard_name(topology, topology.home()), reason };
    let target = target.as_ref().ok_or_else(|| failed("it has no primary".to_owned()))?;
    let mut connection = Connection::connect(target).await.map_err(|error| failed(in_full(&error)))?;
    if !is_confirmed {
        // Nobody has said that it still is the primary.
        let answer = connection.simple("SELECT pg_catalog.pg_is_in_recovery()").await;
        let answer = answer.map_err(|error| failed(in_full(&error)))?;
        if answer.rows.first().and_then(|row| row.first()).and_then(Option::as_deref) != Some("f") {
            return Err(failed("its last known primary is none any more, and the store cannot be asked".to_owned()));
        }
    }
    let schema = read_schema(&mut connection).await.map_err(|error| failed(error.to_string()))?;
    connection.close().await;
    Ok(schema)
}

/// An error with the server's own words, when it said some.
fn in_full(error: &BackendError) -> String {
    let said = error.error_frame().and_then(|frame| read_error(&frame.body()).ok());
    said.map_or_else(|| error.to_string(), |said| format!("{error}: {}", said.message))
}

/// Notices DDL that did not come through this proxy.
async fn watch_schema(cluster: Arc<Cluster>, changed: Arc<tokio::sync::Notify>) {
    let mut connection: Option<Connection> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(SCHEMA_PAUSE_MS)) => {}
            () = changed.notified() => {}
        }
        let topology = cluster.topology.load_full();
        let Ok(target) = cluster.control_target(&topology, topology.home()) else { continue };
        if connection.as_ref().is_none_or(|connection| **connection.target() != target) {
            connection = Connection::connect(&target).await.ok();
        }
        let Some(held) = connection.as_mut() else { continue };
        match read_schema(held).await {
            Ok(schema) => cluster.publish_schema(schema),
            Err(error) => {
                tracing::debug!(%error, "the schema cannot be read");
                connection = None;
            }
        }
    }
}

async fn tend_pools(cluster: Arc<Cluster>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.pools.tend();
    }
}
