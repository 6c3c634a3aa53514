//! The `authorization.k8s.io` group: questions about rights. Nothing of it is stored; the server answers.
//!
//! Upstream names these objects `.authorization.k8s.io ""` (no kind, no name) in its 422 messages.

mod access;
pub mod localsubjectaccessreview;
pub mod selfsubjectaccessreview;
pub mod selfsubjectrulesreview;
pub mod subjectaccessreview;
