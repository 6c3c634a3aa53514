//! A bound on the work that costs do not see: walking values whose parts are shared, so that a small value is as
//! large as its tree when it is compared or printed.
//!
//! Invariants:
//! - CEL-FU1: one evaluation walks at most `WALK` nodes; past that it ends as if its cost limit was passed.

use std::cell::Cell;

/// Nodes that one evaluation may walk.
const WALK: u64 = 4_000_000;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(WALK) };
}

/// Runs an evaluation with fuel of its own; tells whether it lasted.
pub(crate) fn with<T>(run: impl FnOnce() -> T) -> (T, bool) {
    let outer = LEFT.replace(WALK);
    let result = run();
    let lasted = LEFT.replace(outer) > 0;
    (result, lasted)
}

/// Takes fuel for one node; false where there is none left.
pub(crate) fn spend() -> bool {
    LEFT.with(|left| {
        let rest = left.get().saturating_sub(1);
        left.set(rest);
        rest > 0
    })
}

/// Whether the fuel is spent.
pub(crate) fn spent() -> bool {
    LEFT.get() == 0
}
