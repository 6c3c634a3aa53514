//! What `kedge server` does, in order: [`preflight`], then [`cluster`] wires the services together.

mod access;
pub mod admin;
pub mod cluster;
pub mod datastore;
mod etcd;
pub mod node;
pub mod notify;
pub mod preflight;
pub mod schedule;
pub mod tokens;
