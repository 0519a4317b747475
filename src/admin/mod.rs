//! The admin database: what is there, and commands that change it. Reached with psql on the proxy's
//! own port, database `ostrakon`.
//!
//! Must not know: how its clients are connected.

mod agents;
mod clients;
mod command;
mod control;
mod drift;
pub mod leading;
mod nodes;
mod pins;
mod pool_views;
mod proxies;
mod rebalance;
mod reference;
mod reshard;
pub mod status_document;

pub use clients::{Client, Clients, Listed};
pub use control::{Drain, Reload, ReloadedSetting};
pub use status_document::{NodeRole, NodeState, NodeStatus, ShardStatus, StatusDocument};
mod tables;
mod views;

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use tokio::sync::watch;

use crate::control::reshard::Handle;
use crate::error::{ClientError, ErrorId};
use crate::executor::{CancelSlot, Cluster, Session};
use crate::session::Settings;
use crate::store::Store;
use crate::wire::server_message::{self, Field};
use command::Command;

/// The name of the admin database.
pub const DATABASE: &str = "ostrakon";

/// Answers to admin commands.
pub struct Admin {
    cluster: Arc<Cluster>,
    store: Arc<dyn Store>,
    /// The name of this proxy among those that share the store.
    proxy_name: Option<String>,
    clients: Clients,
    reshard: Option<Handle>,
    reload: OnceLock<Arc<dyn Reload>>,
    leaders: OnceLock<leading::Leaders>,
    draining: OnceLock<watch::Sender<Option<Drain>>>,
}

/// Rows of a view.
struct View {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Option<String>>>,
}

/// What a command answers.
enum Answer {
    View(View),
    Done(&'static str),
}

impl Admin {
    /// Puts the parts together; `proxy_name` is that of this proxy among those that share the store.
    pub fn new(cluster: Arc<Cluster>, store: Arc<dyn Store>, proxy_name: Option<String>) -> Self {
        Self {
            cluster,
            store,
            proxy_name,
            clients: Clients::default(),
            reshard: None,
            reload: OnceLock::new(),
            leaders: OnceLock::new(),
            draining: OnceLock::new(),
        }
    }

    /// Shards may join and buckets move.
    #[must_use]
    pub fn with_reshard(mut self, handle: Option<Handle>) -> Self {
        self.reshard = handle;
        self
    }

    /// The clients that are shown.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Answers one command, without ReadyForQuery.
    pub async fn query(&self, text: &str, output: &mut BytesMut) {
        match self.answer(text).await {
            Ok(Answer::View(view)) => write_view(&view, output),
            Ok(Answer::Done(tag)) => server_message::write_command_complete(output, tag),
            Err(error) => server_message::write_error(
                output,
                "ERROR",
                error.sqlstate(),
                &error.message,
                error.detail.as_deref(),
                error.hint.as_deref(),
            ),
        }
    }

    async fn answer(&self, text: &str) -> Result<Answer, ClientError> {
        match command::read(text)? {
            Command::Empty => Ok(Answer::Done("")),
            Command::Show { view, json } => self.show(&view, json).await.map(Answer::View),
            Command::Table { name, placement, dry_run } => {
                self.declare(name, placement, dry_run).await?;
                Ok(Answer::Done("TABLE"))
            }
            Command::Reshard(command) => self.obey_reshard(command).await,
            Command::Pin(change) => self.change_pin(&change).await,
            Command::Rebalance { dry_run } => self.rebalance(dry_run).await,
            Command::ForgetProxy { name } => {
                self.forget_proxy(&name).await?;
                Ok(Answer::Done("FORGET PROXY"))
            }
            Command::ChangePrimary(change) => self.change_primary(&change).await.map(Answer::View),
            Command::Node(change) => self.change_node(&change).await.map(Answer::View),
            Command::Agent(asked) => self.hear_agent(&asked).await,
            Command::Reconnect => {
                self.cluster.pools.retire_all();
                tracing::info!("server connections are replaced");
                Ok(Answer::Done("RECONNECT"))
            }
            Command::Pause(seconds) => self.pause(seconds).await,
            Command::Resume => self.resume(),
            Command::Drain(drain) => self.drain(drain),
            Command::Kill(pid) => self.kill(pid).await,
            Command::Reload { json } => self.reload(json).await.map(Answer::View),
            Command::Explain(sql) => {
                // A session that never connects: planning needs no server.
                let mut session = Session::new(
                    Arc::clone(&self.cluster),
                    &self.cluster.control.user,
                    Settings::default(),
                    Arc::new(CancelSlot::default()),
                );
                let lines = session.explain(&sql).await?;
                Ok(Answer::View(View {
                    columns: vec!["QUERY PLAN"],
                    rows: lines.into_iter().map(|line| vec![Some(line)]).collect(),
                }))
            }
        }
    }
}

fn write_view(view: &View, output: &mut BytesMut) {
    let fields: Vec<Field> = view.columns.iter().map(|name| Field::text(name)).collect();
    server_message::write_row_description(output, &fields);
    for row in &view.rows {
        let values: Vec<Option<&[u8]>> = row.iter().map(|value| value.as_deref().map(str::as_bytes)).collect();
        server_message::write_data_row(output, &values);
    }
    server_message::write_command_complete(output, &format!("SELECT {}", view.rows.len()));
}

/// An error of the store in the operator's words.
#[allow(clippy::needless_pass_by_value)] // it is what map_err hands over
fn store_error(error: crate::store::StoreError) -> ClientError {
    ClientError::new(ErrorId::PrerequisiteMissing, "the topology store cannot be used").with_detail(format!("{error}."))
}
