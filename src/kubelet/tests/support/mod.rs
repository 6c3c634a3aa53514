//! A tiny API server in memory, image archives made of busybox, and a containerd of the test's own.

pub mod api;
pub mod image;
pub mod node;
