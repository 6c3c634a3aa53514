//! The kubelet: runs the pods of one node in containerd, keeps their statuses and the node's true.
//!
//! Invariants:
//! - KL-1: our death stops no container; our start adopts every one that runs.
//! - KL-2: no pod of the runtime is killed before the API server has been asked which pods the node should run.
//! - KL-3: nothing on the way of a pod polls; what is looked at from time to time is a safety net.

pub mod cgroups;
pub mod config;
pub mod containerd;
pub mod containers;
pub mod cri;
pub mod error;
pub mod images;
pub mod kubelet;
pub mod node;
pub mod objects;
pub mod podworkers;
pub mod probes;
pub mod quantity;
pub mod runtime;
pub mod server;
pub mod status;
pub mod volumes;

pub use config::{ContainerdMode, KubeletConfig, PauseImage};
pub use containerd::Containerd;
pub use error::{Error, Result};
pub use kubelet::{Access, Kubelet};
