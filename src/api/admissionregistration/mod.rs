//! admissionregistration.k8s.io: who else is asked before an object is stored.

mod environment;
mod expressions;
pub mod mutatingadmissionpolicy;
pub mod mutatingadmissionpolicybinding;
pub mod mutatingwebhookconfiguration;
mod policies;
mod rules;
pub mod validatingadmissionpolicy;
pub mod validatingadmissionpolicybinding;
pub mod validatingwebhookconfiguration;
mod webhooks;

pub use environment::{Declared, environment};
