//! The status of pods: what it is, and how the API server learns of it.

pub mod conditions;
pub mod generate;
pub mod manager;
