//! The service proxy: Services and EndpointSlices become nftables rules, by watch, in one transaction per change.
//!
//! Invariants:
//! - KP-1: only the table `kedge-proxy` is touched, and only in whole transactions: packets never see half a change.
//! - KP-2: what a packet costs does not depend on the number of Services: it finds its own in a map.
//! - KP-3: a restart replaces the table in one transaction; connections and services go on meanwhile.

pub mod plan;
mod proxier;
pub mod script;

pub use proxier::{KubeProxy, KubeProxyConfig, NODE_LOCAL_ANNOTATION, tear_down};
