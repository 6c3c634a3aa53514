//! A tiny API server in memory, pods for it, a gRPC server, image archives made of busybox, and a containerd of the test's own.

pub mod api;
pub mod health;
pub mod image;
pub mod node;
pub mod pods;
