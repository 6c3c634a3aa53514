//! What `kedge server` does, in order: [`preflight`], then [`cluster`] wires the services together.

pub mod cluster;
pub mod node;
pub mod notify;
pub mod preflight;
pub mod tokens;
