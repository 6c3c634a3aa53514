//! The `policy` group.

pub mod eviction;
