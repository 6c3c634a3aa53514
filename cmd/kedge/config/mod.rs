//! Flags, `KEDGE_*` and `/etc/kedge/config.yaml` are one set of options: [`ServerOptions`]. A file's keys are flag names.
//!
//! Invariants:
//! - CF-1: flag beats environment beats `config.yaml.d/*.yaml` (later files first) beats `config.yaml`.
//! - CF-2: an unknown key or a bad value ends the program before it has touched anything.

pub mod access;
pub mod datastore;
pub mod file;
pub mod options;

pub use access::AccessOptions;
pub use options::{LogFormat, LogOptions, ServerOptions};
