//! A store in one file, for one proxy.
//!
//! redb keeps the file locked while it is open, so a second process is refused instead of corrupting
//! it. Every write is one transaction and on disk before it returns; after a crash the file holds the
//! last write that returned, and perhaps the one that was under way.
//!
//! # Source
//! redb's documentation of `Durability::Immediate`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::lease::Leases;
use super::watch::Watchers;
use super::{BoxFuture, Change, Clock, Entry, Lease, MonotonicClock, Revision, Store, StoreError, Watch, compare};

/// Key -> (revision, value).
const RECORDS: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("records");
/// Numbers of the store itself.
const NUMBERS: TableDefinition<'static, &str, u64> = TableDefinition::new("numbers");
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
const REVISION: &str = "revision";
/// The store is small; redb's default would be a gigabyte.
const CACHE_BYTES: usize = 8 << 20;

/// Keeps records in a file.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    database: Database,
    /// Held from before a commit until its change is published, so that watchers see revisions in order.
    writing: Mutex<()>,
    watchers: Watchers,
    leases: Leases,
    clock: Arc<dyn Clock>,
}

impl EmbeddedStore {
    /// Opens the file, or makes it (and its directory).
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it open; [`StoreError::Unavailable`] when it cannot
    /// be read, written or understood.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with_clock(path, Arc::new(MonotonicClock::default()))
    }

    /// The same with leases that run by this clock.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_with_clock(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let at = |reason: &dyn std::fmt::Display| StoreError::unavailable(format!("{}: {reason}", path.display()));
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(|error| at(&error))?;
        }
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                StoreError::InUse { path: path.to_owned() }
            }
            other => at(&other),
        })?;
        let inner = Inner {
            path: path.to_owned(),
            database,
            writing: Mutex::new(()),
            watchers: Watchers::default(),
            leases: Leases::default(),
            clock,
        };
        inner.check_format()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Runs blocking work apart from the async threads.
    async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(StoreError::unavailable)?
    }
}

impl Inner {
    /// Makes the tables of a new file, and refuses a file that a newer version wrote.
    fn check_format(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(StoreError::unavailable)?;
        {
            let mut numbers = transaction.open_table(NUMBERS).map_err(StoreError::unavailable)?;
            let format = numbers.get(FORMAT).map_err(StoreError::unavailable)?.map(|guard| guard.value());
            match format {
                None => {
                    numbers.insert(FORMAT, FORMAT_VERSION).map_err(StoreError::unavailable)?;
                }
                Some(FORMAT_VERSION) => {}
                Some(other) => {
                    return Err(StoreError::unavailable(format!(
                        "{} has format {other}, this version reads format {FORMAT_VERSION}",
                        self.path.display()
                    )));
                }
            }
            transaction.open_table(RECORDS).map_err(StoreError::unavailable)?;
        }
        transaction.commit().map_err(StoreError::unavailable)
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::unavailable)?;
        let records = transaction.open_table(RECORDS).map_err(StoreError::unavailable)?;
        let found = records.get(key).map_err(StoreError::unavailable)?;
        Ok(found.map(|guard| {
            let (revision, value) = guard.value();
            Entry { key: key.to_owned(), value: value.to_vec(), revision: Revision(revision) }
        }))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::unavailable)?;
        let records = transaction.open_table(RECORDS).map_err(StoreError::unavailable)?;
        let mut entries = Vec::new();
        for item in records.range(prefix..).map_err(StoreError::unavailable)? {
            let (key, value) = item.map_err(StoreError::unavailable)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let (revision, value) = value.value();
            let key = key.value().to_owned();
            entries.push(Entry { key, value: value.to_vec(), revision: Revision(revision) });
        }
        Ok(entries)
    }

    /// Writes (or with `None` deletes) a record if its revision is `expected`.
    fn write(&self, key: &str, value: Option<Vec<u8>>, expected: Option<Revision>) -> Result<Revision, StoreError> {
        let _writing = self.writing.lock();
        let transaction = self.database.begin_write().map_err(StoreError::unavailable)?;
        let revision = {
            let mut records = transaction.open_table(RECORDS).map_err(StoreError::unavailable)?;
            let current = records.get(key).map_err(StoreError::unavailable)?.map(|guard| Revision(guard.value().0));
            compare(key, current, expected)?;
            let revision = next_revision(&transaction)?;
            match &value {
                Some(value) => {
                    records.insert(key, (revision.0, value.as_slice())).map_err(StoreError::unavailable)?;
                }
                None => {
                    records.remove(key).map_err(StoreError::unavailable)?;
                }
            }
            revision
        };
        transaction.commit().map_err(StoreError::unavailable)?;
        let key = key.to_owned();
        self.watchers.publish(match value {
            Some(value) => Change::Put(Entry { key, value, revision }),
            None => Change::Deleted { key, revision },
        });
        Ok(revision)
    }

    fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        // Asked before the token is taken, so that waiting for a lease does not write to the disk.
        self.leases.check_free(name, self.clock.now())?;
        let token = {
            let _writing = self.writing.lock();
            let transaction = self.database.begin_write().map_err(StoreError::unavailable)?;
            let token = next_revision(&transaction)?;
            transaction.commit().map_err(StoreError::unavailable)?;
            token.0
        };
        self.leases.acquire(name, holder, token, self.clock.now(), ttl)
    }
}

fn next_revision(transaction: &redb::WriteTransaction) -> Result<Revision, StoreError> {
    let mut numbers = transaction.open_table(NUMBERS).map_err(StoreError::unavailable)?;
    let last = numbers.get(REVISION).map_err(StoreError::unavailable)?.map_or(0, |guard| guard.value());
    numbers.insert(REVISION, last + 1).map_err(StoreError::unavailable)?;
    Ok(Revision(last + 1))
}

impl Store for EmbeddedStore {
    fn is_shared(&self) -> bool {
        false
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        let key = key.to_owned();
        Box::pin(self.run(move |inner| inner.get(&key)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
        let prefix = prefix.to_owned();
        Box::pin(self.run(move |inner| inner.list(&prefix)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Vec<u8>,
        expected: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, StoreError>> {
        let key = key.to_owned();
        Box::pin(self.run(move |inner| inner.write(&key, Some(value), expected)))
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> BoxFuture<'a, Result<(), StoreError>> {
        let key = key.to_owned();
        Box::pin(self.run(move |inner| inner.write(&key, None, Some(expected)).map(drop)))
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Watch, StoreError>> {
        Box::pin(std::future::ready(Ok(self.inner.watchers.watch(prefix))))
    }

    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        Box::pin(self.run(move |inner| inner.acquire(&name, &holder, ttl)))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.inner.leases.renew(lease, self.inner.clock.now(), ttl) })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.inner.leases.release(lease);
            Ok(())
        })
    }
}
