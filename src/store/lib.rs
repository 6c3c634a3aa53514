//! A revisioned key-value store with etcd v3 semantics: the trait, its SQLite backend, and the etcd v3 gRPC
//! face. It holds bytes and knows nothing of Kubernetes.
//!
//! Invariants:
//! - ST-1: a write is acknowledged only after it is durable (unless its prefix is of the relaxed class).
//! - ST-2: every successful writing transaction is exactly one revision; revisions only grow and are never reused,
//!   not even after a crash.
//! - ST-3: a watch delivers every event of its range from its start revision on, in revision order, without gaps or
//!   duplicates, or ends with [`Error::Compacted`]. A slow watcher never blocks writers or other watchers.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
pub mod etcd_backend;
pub mod grpc;
mod maintenance;
mod model;
pub mod snapshot;
pub mod sqlite;

pub use error::{Error, Result};
pub use etcd_backend::{EtcdConfig, EtcdStore};
pub use maintenance::{Alarm, Backup, Identity, KvHash, Maintenance};
pub use model::*;
pub use sqlite::{AutoCompaction, SqliteConfig, SqliteStore};

use async_trait::async_trait;

/// The store. Shared as `Arc<dyn Store>`. Dropping a future before it resolves may or may not perform the operation.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads keys at the current or at a past revision.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse>;

    /// Compares and then writes: all or nothing, one revision. A transaction that writes nothing keeps the revision.
    ///
    /// # Errors
    /// [`Error::DuplicateKey`], [`Error::LeaseNotFound`], [`Error::NoSpace`], [`Error::TooLarge`].
    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse>;

    /// Opens a watch. Events of one revision are never split over two batches.
    ///
    /// # Errors
    /// [`Error::Compacted`] when `start_revision` is older than the compaction.
    async fn watch(&self, request: WatchRequest) -> Result<Watcher>;

    /// Discards history below `revision`; current values stay.
    ///
    /// # Errors
    /// [`Error::Compacted`] when already compacted there, [`Error::FutureRevision`].
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Grants a lease of `ttl_seconds`; id 0 means choose one.
    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<Lease>;
    /// Revokes a lease and deletes its keys in one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<Revision>;
    /// Renews a lease and returns its granted TTL.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease>;
    /// Remaining time and attached keys of a lease.
    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseStatus>;
    async fn leases(&self) -> Result<Vec<LeaseId>>;

    /// The newest acknowledged revision (never one that is not yet visible to `range`).
    fn revision(&self) -> Revision;
    /// The revision below which history is gone (0: never compacted).
    fn compacted_revision(&self) -> Revision;
    /// Size of the data on disk and of the part in use, in bytes.
    async fn size(&self) -> Result<StoreSize>;
    /// Flushes and closes. Later calls fail with [`Error::Closed`].
    async fn close(&self) -> Result<()>;

    /// Reads one key at the current revision.
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        Ok(self.range(RangeRequest::key(key)).await?.kvs.into_iter().next())
    }
}
