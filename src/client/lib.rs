//! The Kubernetes client every component uses: `kube` over HTTPS or in-process, shared informers, work queues and the
//! event recorder. Components cannot tell which transport they have.
//!
//! Invariants:
//! - CL-1: one shared informer per kind (and selector) per process: objects are decoded once.
//! - CL-2: a work queue hands out a key to one worker at a time and never forgets a key that was added meanwhile.

pub mod connect;
pub mod events;
pub mod informer;
pub mod key;
pub mod workqueue;

pub use connect::{ConnectError, InProcessRequest, in_process};
pub use events::{EventRecorder, EventType, object_reference};
pub use informer::{Change, Informer, Informers};
pub use key::ObjectKey;
pub use kube::{Api, Client};
pub use workqueue::{WorkQueue, run_workers};
