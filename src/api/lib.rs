//! The built-in kinds: one file per kind, and the one list of them ([`kinds`]).
//!
//! Invariants:
//! - AP-1: pure: no I/O, no clock; time comes in [`RequestContext`].
//! - AP-2: everything the server knows about a built-in kind is in that kind's file.

use std::sync::{Arc, OnceLock};

mod access;
pub mod apps;
pub mod core;
pub mod kind;
pub mod printers;

pub use kind::*;

/// Makes every built-in kind. The order is that of discovery: by group, then by resource name.
const KINDS: &[fn() -> Kind] = &[
    // core/v1
    core::pod::kind,
    // apps/v1
    apps::deployment::kind,
    apps::replicaset::kind,
];

/// Every built-in kind, made once.
pub fn kinds() -> &'static [Arc<Kind>] {
    static MADE: OnceLock<Vec<Arc<Kind>>> = OnceLock::new();
    MADE.get_or_init(|| KINDS.iter().map(|make| Arc::new(make())).collect())
}
