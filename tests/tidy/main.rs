//! The source tree against DESIGN.md: who may import whom, where the kernel is touched, what a file looks like, what
//! may be linked. Each message says what to do.
//!
//! Invariants:
//! - TD-1: every rule is a function of the tree and `cargo metadata` alone, so it holds on any machine.

mod imports;
mod licences;
mod scrub;
mod sources;

use std::path::{Path, PathBuf};

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Fails with every broken rule, one a line.
fn report(mut problems: Vec<String>) {
    problems.sort();
    problems.dedup();
    assert!(problems.is_empty(), "{} to mend:\n  {}\n", problems.len(), problems.join("\n  "));
}
