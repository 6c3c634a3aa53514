//! Where the state lies: in the data folder, or in an etcd cluster of its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use component_base::SharedClock;
use store::{EtcdConfig, EtcdStore, SqliteConfig, SqliteStore, Store};

use crate::config::ServerOptions;
use crate::config::datastore::database;

/// The store, as what it is.
pub enum Datastore {
    Own(Arc<SqliteStore>),
    External(Arc<EtcdStore>),
}

impl Datastore {
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Own(store) => store.clone(),
            Self::External(store) => store.clone(),
        }
    }
}

/// Opens the store that the options name.
///
/// # Errors
/// When it cannot be opened, or the cluster does not answer.
pub async fn open(options: &ServerOptions, clock: &SharedClock) -> Result<Datastore> {
    if options.datastore.external() {
        Ok(Datastore::External(external(options, clock).await?))
    } else {
        Ok(Datastore::Own(own(options, clock).await?))
    }
}

async fn own(options: &ServerOptions, clock: &SharedClock) -> Result<Arc<SqliteStore>> {
    let database = database(&options.agent.data_dir);
    if let Some(folder) = database.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut config = SqliteConfig::new(database, clock.clone());
    // Leases and events are renewed or repeated: losing the last seconds of them in a crash loses nothing.
    config.relaxed_prefixes =
        ["/registry/leases/", "/registry/events/"].map(|prefix| Bytes::from_static(prefix.as_bytes())).to_vec();
    Ok(SqliteStore::open(config).await?)
}

async fn external(options: &ServerOptions, clock: &SharedClock) -> Result<Arc<EtcdStore>> {
    let datastore = &options.datastore;
    let read = |flag: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("cannot read --datastore-{flag} {}", path.display()))
    };
    let mut config = EtcdConfig::new(datastore.datastore_endpoint.clone(), clock.clone());
    if let Some(path) = &datastore.datastore_cafile {
        config.ca = Some(read("cafile", path)?);
    }
    if let (Some(certificate), Some(key)) = (&datastore.datastore_certfile, &datastore.datastore_keyfile) {
        config.identity = Some((read("certfile", certificate)?, read("keyfile", key)?));
    }
    let endpoints = datastore.datastore_endpoint.join(",");
    EtcdStore::open(config).await.with_context(|| format!("--datastore-endpoint {endpoints}"))
}
