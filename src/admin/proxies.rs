//! The proxies that share the store: SHOW PROXIES, FORGET PROXY, and all of them at rest.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Admin, store_error};
use crate::error::{ClientError, ErrorId};
use crate::store::members::{self, Restless};
use crate::store::{Revision, StoreError};

/// How long the other proxies may take to come to rest. Shorter than they rest by themselves.
const REST_MS_MAX: u64 = 3_500;

impl Admin {
    /// Rows of SHOW PROXIES; none where no store is shared.
    pub(super) async fn proxy_rows(&self) -> Result<Value, ClientError> {
        let known = members::members(self.store.as_ref()).await.map_err(store_error)?;
        let own = self.proxy_name.as_deref();
        let row = |member: members::Member| {
            json!({
                "name": member.name, "listen": member.listen, "version": member.version,
                "this": own == Some(member.name.as_str()),
            })
        };
        Ok(known.into_iter().map(row).collect())
    }

    /// A proxy is gone for good.
    pub(super) async fn forget_proxy(&self, name: &str) -> Result<(), ClientError> {
        if self.proxy_name.as_deref() == Some(name) {
            return Err(ClientError::new(ErrorId::PrerequisiteMissing, "this proxy is not gone: it answers you"));
        }
        if members::unregister(self.store.as_ref(), name).await.map_err(store_error)? {
            tracing::info!(name, "a proxy is forgotten");
            return Ok(());
        }
        Err(ClientError::new(ErrorId::UndefinedObject, format!("proxy \"{name}\" does not exist"))
            .with_hint("SHOW PROXIES lists them."))
    }

    /// Nothing runs at any other proxy until the topology with this revision is replaced.
    pub(super) async fn bring_others_to_rest(&self, revision: Revision) -> Result<(), ClientError> {
        let Some(own) = &self.proxy_name else { return Ok(()) };
        let limit = Duration::from_millis(REST_MS_MAX);
        match members::bring_to_rest(self.store.as_ref(), own, revision, limit).await {
            Ok(()) => Ok(()),
            Err(Restless::Busy(by)) => Err(ClientError::new(
                ErrorId::TopologyMoved,
                format!("the topology is being changed through another proxy ({by})"),
            )
            .with_hint("Try again.")),
            Err(Restless::Silent(names)) => Err(ClientError::new(
                ErrorId::PrerequisiteMissing,
                format!("not every proxy is at rest, so no table can be declared now: {}", names.join(", ")),
            )
            .with_detail("Transactions are open there, or the proxy cannot be reached.")
            .with_hint("End long transactions, then declare the table again. FORGET PROXY removes one that is gone.")),
            Err(Restless::Store(error)) => Err(store_error(error)),
        }
    }

    /// A change that is not made after all: the others need not wait for it.
    pub(super) async fn let_others_go_on(&self) {
        if self.proxy_name.is_none() {
            return;
        }
        let touched: Result<(), StoreError> = members::touch(self.store.as_ref()).await;
        if let Err(error) = touched {
            tracing::warn!(%error, "the other proxies rest until they lose patience");
        }
    }
}
