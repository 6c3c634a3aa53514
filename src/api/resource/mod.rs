//! The `resource.k8s.io` group: dynamic resource allocation.

mod allocation;
mod claimspec;
mod device;
pub mod deviceclass;
mod names;
mod policy;
pub mod resourceclaim;
pub mod resourceclaimtemplate;
pub mod resourceslice;
mod selector;
