//! The etcd v3 gRPC face: any etcd client can use a [`Maintenance`] store through it.
//!
//! ```text
//! listener (unix, TCP, TLS) ─▶ server: HTTP/1 and HTTP/2 ─▶ router ─▶ kv │ watch │ lease │ maintenance │ cluster │ …
//!                                                             └────▶ http: /health, /version, /metrics
//! ```
//!
//! The services are implemented on [`Face`]: it checks what etcd checks at its door (`convert`), asks the store, and
//! gives etcd's codes and texts (`errors`). The reference is etcd 3.5 and 3.6.
//!
//! Invariants:
//! - GF-1: a bad request is answered with etcd's own error and costs the connection nothing.
//! - GF-2: what a request leaves in the store never keeps the request's buffer alive.
//! - GF-3: progress is told only after everything up to it has been sent (with ST-3: no gaps).

mod auth;
mod authority;
mod cluster;
mod concurrency;
mod convert;
mod errors;
mod health;
mod http;
mod kv;
mod lease;
mod maintenance;
pub mod pb;
mod router;
mod server;
#[cfg(test)]
mod tests;
pub mod tls;
mod watch;

use std::sync::{Arc, Weak};
use std::time::Duration;

use component_base::{SharedClock, TaskGroup};
use tonic::Status;

use self::pb::etcdserverpb::ResponseHeader;
pub use self::server::{Endpoint, Listener};
use crate::maintenance::{Alarm, Identity, Maintenance};
use crate::{Result, Revision};

/// The etcd whose interface this is.
pub const VERSION: &str = "3.6.5";
const CLUSTER_VERSION: &str = "3.6.0";
/// A store is its own leader, and has been since it is there.
const RAFT_TERM: u64 = 2;

/// How a [`Face`] behaves. [`FaceConfig::new`] fills in etcd's defaults.
#[derive(Clone)]
pub struct FaceConfig {
    pub clock: SharedClock,
    /// Name of the one member.
    pub name: String,
    /// Where clients find it (`http://…`, `https://…`, `unix://…`).
    pub client_urls: Vec<String>,
    /// Operations in one branch of a transaction.
    pub max_txn_ops: usize,
    /// A write, as it is encoded.
    pub max_request_bytes: usize,
    /// How often quiet watches that asked for it are told the revision.
    pub progress_interval: Duration,
}

impl FaceConfig {
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            name: "default".to_owned(),
            client_urls: Vec::new(),
            max_txn_ops: 128,
            max_request_bytes: 3 << 19,
            progress_interval: Duration::from_secs(10 * 60),
        }
    }
}

/// What a message may be larger than the largest request, before it is not even read.
const OVERHEAD: usize = 512 << 10;

/// One store, as an etcd. Serve it with [`Face::serve`].
pub struct Face {
    store: Arc<dyn Maintenance>,
    config: FaceConfig,
    identity: Identity,
    tasks: TaskGroup,
    /// What tasks of this face hold.
    this: Weak<Self>,
}

impl Face {
    pub fn new(store: Arc<dyn Maintenance>, config: FaceConfig) -> Arc<Self> {
        let identity = store.identity();
        Arc::new_cyclic(|this| Self { store, config, identity, tasks: TaskGroup::new(), this: Weak::clone(this) })
    }

    fn share(&self) -> Arc<Self> {
        self.this.upgrade().expect("whoever calls a method holds the face")
    }

    /// Ends every connection and stream.
    pub async fn stop(&self) {
        self.tasks.stop().await;
    }

    /// The largest message that is read.
    fn max_message_bytes(&self) -> usize {
        self.config.max_request_bytes + OVERHEAD
    }

    fn header_at(&self, revision: Revision) -> Option<ResponseHeader> {
        let Identity { cluster_id, member_id } = self.identity;
        Some(ResponseHeader { cluster_id, member_id, revision, raft_term: RAFT_TERM })
    }

    fn header(&self) -> Option<ResponseHeader> {
        self.header_at(self.store.revision())
    }

    /// Nothing is written while the store is said to be damaged.
    fn check_corrupt(&self) -> Result<(), Status> {
        if self.store.is_on(Alarm::Corrupt) { Err(errors::corrupt()) } else { Ok(()) }
    }

    /// Nothing that needs space is written while the alarm is on.
    fn check_space(&self) -> Result<(), Status> {
        if self.store.is_on(Alarm::NoSpace) { Err(errors::no_space()) } else { Ok(()) }
    }

    /// What a write may be, as etcd counts: the message and what etcd wraps it in.
    fn check_size(&self, encoded: usize) -> Result<(), Status> {
        const WRAPPING: usize = 18;
        if encoded + WRAPPING > self.config.max_request_bytes { Err(errors::too_large()) } else { Ok(()) }
    }
}
