//! The `autoscaling` group.

pub mod scale;
