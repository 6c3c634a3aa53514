//! The `apps` group.

pub mod controllerrevision;
pub mod daemonset;
pub mod deployment;
pub mod replicaset;
mod scale;
pub mod statefulset;
pub(crate) mod template;

pub use scale::{apply_scale, scale_from, validate_scale};
