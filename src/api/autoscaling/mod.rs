//! The `autoscaling` group.

pub mod horizontalpodautoscaler;
pub mod scale;
