//! The pod network: kedge as a CNI plugin, addresses, masquerading, hostPorts, and the cluster's DNS.
//!
//! Invariants:
//! - NW-1: only the table `kedge-cni`, the bridge and the pods' cables are touched.
//! - NW-2: when this part dies, running pods keep their network.

pub mod cni;
pub mod dns;
pub mod nat;
pub mod node;

pub use node::{NodeNetwork, NodeNetworkConfig, NodeNetworkError};
