//! The store that a configuration names, and this proxy's name among those that share it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{Failure, passwords};
use crate::config::{Config, EtcdConfig, StoreConfig};
use crate::store::{EmbeddedStore, EtcdSettings, EtcdStore, EtcdTls, Store};

/// A store, and the name under which this proxy shares it.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// `None`: no other proxy has it.
    pub proxy_name: Option<String>,
}

/// Opens it; of etcd nothing is asked yet.
///
/// # Errors
/// The file is in use, certificates or passwords cannot be read.
pub fn open(config: &Config, path: &Path) -> Result<Opened, Failure> {
    match &config.store {
        StoreConfig::Embedded => {
            let store = EmbeddedStore::open(&config.proxy.data.join("store.redb"))?;
            Ok(Opened { store: Arc::new(store), proxy_name: None })
        }
        StoreConfig::Etcd(etcd) => {
            let store = EtcdStore::new(settings(etcd, path)?)?;
            let proxy_name = match &etcd.proxy_name {
                Some(name) => name.clone(),
                None => kept_name(&config.proxy.data)?,
            };
            Ok(Opened { store: Arc::new(store), proxy_name: Some(proxy_name) })
        }
    }
}

fn settings(etcd: &EtcdConfig, path: &Path) -> Result<EtcdSettings, Failure> {
    let user = match &etcd.user {
        Some((user, password)) => Some((user.clone(), passwords::secret(password, path)?)),
        None => None,
    };
    let tls = etcd.ca.clone().map(|ca| EtcdTls { ca, certificate: etcd.certificate.clone() });
    let (endpoints, prefix) = (etcd.endpoints.clone(), etcd.prefix.clone());
    Ok(EtcdSettings { endpoints, prefix, user, tls, timeout_ms: etcd.timeout_ms })
}

/// The name that the data directory keeps, made when there is none: a proxy that starts again is the same one.
fn kept_name(directory: &Path) -> Result<String, Failure> {
    let file = directory.join("proxy_name");
    let failure = |reason: &dyn std::fmt::Display| Failure::new(format!("cannot use {}: {reason}", file.display()));
    match fs::read_to_string(&file) {
        Ok(name) if crate::topology::validate::is_name(name.trim()) => return Ok(name.trim().to_owned()),
        Ok(_) => return Err(failure(&"it holds no name of a proxy")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failure(&error)),
    }
    let mut bytes = [0u8; 4];
    getrandom::fill(&mut bytes).map_err(|error| failure(&error))?;
    let name = format!("proxy-{:08x}", u32::from_be_bytes(bytes));
    fs::write(&file, &name).map_err(|error| failure(&error))?;
    Ok(name)
}
