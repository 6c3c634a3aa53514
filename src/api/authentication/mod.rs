//! The `authentication.k8s.io` group: questions about identity. Nothing of it is stored.

pub mod selfsubjectreview;
pub mod tokenrequest;
pub mod tokenreview;
