//! A store on etcd, for several proxies.
//!
//! Spoken to over etcd's own JSON gateway, so that building needs no compiler of protocol buffers. Records
//! and leases have prefixes of their own; revisions are etcd's. Every request has a deadline and goes to
//! another member when one does not answer; a write whose outcome is not known is never sent again.
//!
//! # Source
//! etcd 3.4 and newer: "API reference", "gRPC gateway".

mod feed;
mod http;
mod messages;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use self::feed::Feed;
use self::http::{Endpoint, Fault, Members, SharedMembers};
use self::messages::{Granted, KeyValue, Range, Transaction, Wrapped, bytes, if_then, prefix_range};
use self::tls::Tls;
use super::{BoxFuture, Entry, Lease, Revision, Store, StoreError, Watch};
use crate::base::Secret;

pub use self::tls::EtcdTls;

/// etcd's code for a lease that is gone.
const NOT_FOUND: i64 = 5;

/// Where etcd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `http://host:port` of each member, or `https`.
    pub endpoints: Vec<String>,
    /// Keys begin with this, so that several clusters share one etcd.
    pub prefix: String,
    /// User and password, where etcd asks for them.
    pub user: Option<(String, Secret)>,
    /// For endpoints with `https`.
    pub tls: Option<EtcdTls>,
    /// How long one request may take, all members together.
    pub timeout_ms: u64,
}

impl EtcdSettings {
    /// The defaults for members that ask for nothing.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, prefix: "/ostrakon/".to_owned(), user: None, tls: None, timeout_ms: 5_000 }
    }
}

/// Whether a text is an endpoint: `http://host:port` or `https://host:port`. Some: it is `https`.
pub fn endpoint_is_tls(text: &str) -> Option<bool> {
    Endpoint::read(text).map(|endpoint| endpoint.is_tls)
}

/// Keeps records in etcd.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

struct Inner {
    client: Arc<Client>,
    /// Begins with the first watch.
    feed: OnceCell<Feed>,
}

impl EtcdStore {
    /// Takes the settings; nothing is asked yet.
    ///
    /// # Errors
    /// An endpoint is none, or the certificates cannot be used.
    pub fn new(settings: EtcdSettings) -> Result<Self, StoreError> {
        let read = |text: &String| {
            Endpoint::read(text).ok_or_else(|| StoreError::unavailable(format!("{text} is no endpoint of etcd")))
        };
        let endpoints: Vec<Endpoint> = settings.endpoints.iter().map(read).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(StoreError::unavailable("etcd has no endpoint"));
        }
        let tls = settings.tls.as_ref().map(Tls::load).transpose()?;
        let limit = Duration::from_millis(settings.timeout_ms);
        let client = Client {
            members: Arc::new(Members::new(endpoints, tls, limit)),
            records: format!("{}records/", settings.prefix),
            leases: format!("{}leases/", settings.prefix),
            user: settings.user,
            token: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(Inner { client: Arc::new(client), feed: OnceCell::new() }) })
    }
}

/// Requests with the session's token.
struct Client {
    members: SharedMembers,
    records: String,
    leases: String,
    user: Option<(String, Secret)>,
    token: Mutex<Option<String>>,
}

impl Client {
    /// A question that changes nothing, or that may be asked twice.
    async fn read<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, StoreError> {
        self.ask(path, body, true).await.map_err(|fault| unavailable(&fault))
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &Value, is_repeatable: bool) -> Result<T, Fault> {
        let mut token = self.token().await?;
        let mut answer = self.members.ask(path, body, token.as_deref(), is_repeatable).await;
        if matches!(answer, Err(Fault::TokenExpired)) && self.user.is_some() {
            *self.token.lock() = None;
            token = self.token().await?;
            answer = self.members.ask(path, body, token.as_deref(), is_repeatable).await;
        }
        serde_json::from_value(answer?).map_err(|error| Fault::Unknown(format!("an answer is not understood: {error}")))
    }

    /// Logs in if this etcd asks for it.
    async fn token(&self) -> Result<Option<String>, Fault> {
        let Some((user, password)) = &self.user else { return Ok(None) };
        if let Some(token) = self.token.lock().clone() {
            return Ok(Some(token));
        }
        let login = json!({ "name": user, "password": password.expose() });
        let answer = self.members.ask("/v3/auth/authenticate", &login, None, true).await?;
        let token = answer.get("token").and_then(Value::as_str).map(str::to_owned);
        self.token.lock().clone_from(&token);
        Ok(token)
    }

    /// etcd's revision now.
    async fn revision(&self) -> Result<Revision, StoreError> {
        let count = json!({ "key": bytes(self.records.as_bytes()), "count_only": true });
        let range: Range = self.read("/v3/kv/range", &count).await?;
        Ok(Revision(range.header.revision))
    }

    fn entry(&self, found: KeyValue) -> Result<Entry, StoreError> {
        let unreadable = |key: String| StoreError::Unreadable { key, reason: "its key is not ours".to_owned() };
        let key = String::from_utf8(found.key).map_err(|_| unreadable("(not UTF-8)".to_owned()))?;
        match key.strip_prefix(&self.records) {
            Some(short) => {
                Ok(Entry { key: short.to_owned(), value: found.value, revision: Revision(found.mod_revision) })
            }
            None => Err(unreadable(key)),
        }
    }

    /// Writes if the key's revision is as expected.
    async fn write(&self, key: &str, expected: Option<Revision>, then: Value) -> Result<Revision, StoreError> {
        let full = format!("{}{key}", self.records);
        // A key that does not exist has revision 0.
        let body = if_then(&full, "MOD", expected.map_or(0, |revision| revision.0), then);
        let done: Transaction = self.ask("/v3/kv/txn", &body, false).await.map_err(|fault| unavailable(&fault))?;
        if done.succeeded {
            return Ok(Revision(done.header.revision));
        }
        let current = done.found().map(|found| Revision(found.mod_revision));
        Err(StoreError::Conflict { key: key.to_owned(), current })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let full = format!("{}{key}", self.records);
        let range: Range = self.read("/v3/kv/range", &json!({ "key": bytes(full.as_bytes()) })).await?;
        range.kvs.into_iter().next().map(|found| self.entry(found)).transpose()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let range: Range = self.read("/v3/kv/range", &prefix_range(&format!("{}{prefix}", self.records))).await?;
        range.kvs.into_iter().map(|found| self.entry(found)).collect()
    }

    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let full = format!("{}{name}", self.leases);
        // Asked before one is granted, so that waiting for a lease writes nothing.
        let range: Range = self.read("/v3/kv/range", &json!({ "key": bytes(full.as_bytes()) })).await?;
        if let Some(found) = range.kvs.first() {
            return Err(held(name, found));
        }
        let granted = self.grant(ttl).await?;
        let put = json!({ "request_put": {
            "key": bytes(full.as_bytes()), "value": bytes(holder.as_bytes()), "lease": granted.to_string(),
        }});
        let body = if_then(&full, "CREATE", 0, put);
        let done: Result<Transaction, Fault> = self.ask("/v3/kv/txn", &body, false).await;
        match done {
            Ok(done) if done.succeeded => {
                Ok(Lease { name: name.to_owned(), holder: holder.to_owned(), token: done.header.revision })
            }
            Ok(done) => {
                self.revoke(granted).await;
                Err(done.found().map_or_else(|| lost(name), |found| held(name, found)))
            }
            Err(fault) => {
                // Perhaps it was written: without its grant it ends.
                self.revoke(granted).await;
                Err(unavailable(&fault))
            }
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<i64, StoreError> {
        let seconds = ttl.as_millis().div_ceil(1_000).max(1);
        let granted: Granted = self.read("/v3/lease/grant", &json!({ "TTL": seconds.to_string() })).await?;
        if granted.id == 0 || !granted.error.is_empty() {
            return Err(StoreError::unavailable(format!("etcd grants no lease: {}", granted.error)));
        }
        Ok(granted.id)
    }

    /// What fails here ends by itself when its time is over.
    async fn revoke(&self, granted: i64) {
        let revoked: Result<Value, Fault> =
            self.ask("/v3/lease/revoke", &json!({ "ID": granted.to_string() }), true).await;
        if let Err(fault) = revoked {
            tracing::debug!(%fault, "a lease is left to run out");
        }
    }

    /// The record of a lease that is still this one.
    async fn holding(&self, lease: &Lease) -> Result<Option<KeyValue>, StoreError> {
        let full = format!("{}{}", self.leases, lease.name);
        let range: Range = self.read("/v3/kv/range", &json!({ "key": bytes(full.as_bytes()) })).await?;
        Ok(range.kvs.into_iter().next().filter(|found| found.create_revision == lease.token))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        let found = self.holding(lease).await?.ok_or_else(|| lost(&lease.name))?;
        let kept: Result<Wrapped<Granted>, Fault> =
            self.ask("/v3/lease/keepalive", &json!({ "ID": found.lease.to_string() }), true).await;
        let kept = match kept {
            Ok(kept) => kept.result.ttl,
            Err(Fault::Refused { code: NOT_FOUND, .. }) => 0,
            Err(fault) => return Err(unavailable(&fault)),
        };
        if kept <= 0 {
            return Err(lost(&lease.name));
        }
        if kept as u128 * 1_000 >= ttl.as_millis() {
            return Ok(());
        }
        // More time than was granted first: another grant, for as long as it is still this lease.
        let granted = self.grant(ttl).await?;
        let full = format!("{}{}", self.leases, lease.name);
        let put = json!({ "request_put": {
            "key": bytes(full.as_bytes()), "value": bytes(lease.holder.as_bytes()), "lease": granted.to_string(),
        }});
        let body = if_then(&full, "CREATE", lease.token, put);
        let done: Transaction = self.ask("/v3/kv/txn", &body, false).await.map_err(|fault| unavailable(&fault))?;
        if done.succeeded { Ok(()) } else { Err(lost(&lease.name)) }
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let Some(found) = self.holding(lease).await? else { return Ok(()) };
        let revoked: Result<Value, Fault> =
            self.ask("/v3/lease/revoke", &json!({ "ID": found.lease.to_string() }), true).await;
        match revoked {
            Ok(_) | Err(Fault::Refused { code: NOT_FOUND, .. }) => Ok(()),
            Err(fault) => Err(unavailable(&fault)),
        }
    }
}

fn unavailable(fault: &Fault) -> StoreError {
    StoreError::unavailable(format!("etcd: {fault}"))
}

fn held(name: &str, found: &KeyValue) -> StoreError {
    StoreError::LeaseHeld { name: name.to_owned(), holder: String::from_utf8_lossy(&found.value).into_owned() }
}

fn lost(name: &str) -> StoreError {
    StoreError::LeaseLost { name: name.to_owned() }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(self.inner.client.get(key))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
        Box::pin(self.inner.client.list(prefix))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Vec<u8>,
        expected: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, StoreError>> {
        Box::pin(async move {
            let full = format!("{}{key}", self.inner.client.records);
            let put = json!({ "request_put": { "key": bytes(full.as_bytes()), "value": bytes(&value) } });
            self.inner.client.write(key, expected, put).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let full = format!("{}{key}", self.inner.client.records);
            let delete = json!({ "request_delete_range": { "key": bytes(full.as_bytes()) } });
            self.inner.client.write(key, Some(expected), delete).await.map(drop)
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Watch, StoreError>> {
        Box::pin(async move {
            let client = &self.inner.client;
            let start = || async { Ok::<_, StoreError>(Feed::start(Arc::clone(client), client.revision().await?)) };
            let feed = self.inner.feed.get_or_try_init(start).await?;
            // First the queue, then the moment: what lies between is left out, nothing after it is.
            let mut watch = feed.watch(prefix);
            watch.leave_out_until(client.revision().await?);
            Ok(watch)
        })
    }

    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(self.inner.client.acquire(name, holder, ttl))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.inner.client.renew(lease, ttl))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.inner.client.release(lease))
    }
}
