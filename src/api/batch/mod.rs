//! The `batch` group.

pub mod cronjob;
pub mod job;
mod policies;
mod schedule;
