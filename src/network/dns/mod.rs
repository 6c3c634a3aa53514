//! Cluster DNS: every node answers for the cluster's names itself, straight from the informers, and forwards the rest.
//!
//! Invariants:
//! - DN-1: an answer is made from the caches as they are now; nothing is polled and nothing copied.
//! - DN-2: a query for a name of the cluster never leaves the node.

pub mod answer;
mod forward;
mod server;
mod view;

pub use server::{ClusterDns, ClusterDnsConfig, drop_address};
pub use view::InformerView;
