//! What the programs of this crate share: a kedge of their own, kubectl, test images, and cleaning up after all that.
//!
//! Invariants:
//! - TS-1: a test leaves the machine as it found it, also when it panics; what a killed run left is removed by the next.
//! - TS-2: only processes that this run started, or kedge's own with this run's folders in their argv, are ended.

// Tests are programs of their own: they spawn, read argv and the environment, print, and know the time.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

pub mod cleanup;
pub mod command;
pub mod http;
pub mod images;
pub mod kubectl;
pub mod server;
