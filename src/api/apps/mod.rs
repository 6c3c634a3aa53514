//! The `apps` group.

pub mod controllerrevision;
pub mod deployment;
pub mod replicaset;
mod scale;

pub use scale::{apply_scale, scale_from};
