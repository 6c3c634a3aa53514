//! The one error type of the store.

use crate::{LeaseId, Revision};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// `compacted` is the compaction revision: a watch or read below it is impossible.
    #[error("required revision has been compacted (compacted at {compacted})")]
    Compacted { compacted: Revision },
    #[error("required revision is a future revision (current is {current})")]
    FutureRevision { current: Revision },
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    #[error("requested lease {0:016x} not found")]
    LeaseNotFound(LeaseId),
    #[error("lease {0:016x} already exists")]
    LeaseExists(LeaseId),
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// A value together with `ignore_value`.
    #[error("value is provided")]
    ValueProvided,
    /// A lease together with `ignore_lease`.
    #[error("lease is provided")]
    LeaseProvided,
    #[error("key is not provided")]
    EmptyKey,
    #[error("request of {bytes} bytes is too large, the limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("database space exceeded")]
    NoSpace,
    /// The data directory is held by another process.
    #[error("the database {path} is in use by another process")]
    Locked { path: String },
    #[error("the database {path} is damaged: {detail}")]
    Corrupt { path: String, detail: String },
    /// A snapshot file that cannot be used, and why.
    #[error("snapshot {path}: {detail}")]
    Snapshot { path: String, detail: String },
    /// The cluster behind the store cannot be reached: nothing has been done.
    #[error("the datastore is unavailable: {detail}")]
    Unavailable { detail: String },
    /// The cluster behind the store did not answer: the write may or may not have been done.
    #[error("the outcome is unknown: {detail}")]
    Unknown { detail: String },
    #[error("tls: {0}")]
    Tls(String),
    #[error("cannot listen on {at}: {detail}")]
    Listen { at: String, detail: String },
    #[error("store is closed")]
    Closed,
    #[error("database: {0}")]
    Database(String),
}
