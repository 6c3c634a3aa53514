//! The scheduler: binds pods that wait to nodes that fit, by watch.
//!
//! Watches pods, nodes and namespaces. Writes bindings, the `PodScheduled` condition, `nominatedNodeName`, the deletion
//! of preempted pods, and the events `Scheduled`, `FailedScheduling` and `Preempted`.
//!
//! Invariants:
//! - SD-1: a pod is bound at most once, and counts on its node from the decision on.
//! - SD-2: only pods of our scheduler name are touched.

pub mod algorithm;
pub mod cache;
mod driver;
pub mod framework;
pub mod plugins;
pub mod preemption;
pub mod queue;
pub mod resources;

pub use driver::{Scheduler, SchedulerConfig};
