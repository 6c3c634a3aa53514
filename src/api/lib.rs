//! The built-in kinds: one file per kind, and the one list of them ([`kinds`]).
//!
//! Invariants:
//! - AP-1: pure: no I/O, no clock; time comes in [`RequestContext`].
//! - AP-2: everything the server knows about a built-in kind is in that kind's file.

use std::sync::{Arc, OnceLock};

mod access;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
mod checks;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod kind;
pub mod policy;
pub mod printers;
pub mod rbac;

pub use kind::*;

/// Makes every built-in kind. The order is that of discovery: by group, then by resource name.
const KINDS: &[fn() -> Kind] = &[
    // core/v1
    core::binding::kind,
    core::configmap::kind,
    core::endpoints::kind,
    core::event::kind,
    core::namespace::kind,
    core::node::kind,
    core::pod::kind,
    core::secret::kind,
    core::serviceaccount::kind,
    core::service::kind,
    // apps/v1
    apps::controllerrevision::kind,
    apps::deployment::kind,
    apps::replicaset::kind,
    // authentication.k8s.io/v1
    authentication::selfsubjectreview::kind,
    authentication::tokenreview::kind,
    // authorization.k8s.io/v1
    authorization::localsubjectaccessreview::kind,
    authorization::selfsubjectaccessreview::kind,
    authorization::selfsubjectrulesreview::kind,
    authorization::subjectaccessreview::kind,
    // coordination.k8s.io/v1
    coordination::lease::kind,
    // discovery.k8s.io/v1
    discovery::endpointslice::kind,
    // events.k8s.io/v1
    events::event::kind,
    // rbac.authorization.k8s.io/v1
    rbac::clusterrolebinding::kind,
    rbac::clusterrole::kind,
    rbac::rolebinding::kind,
    rbac::role::kind,
];

/// Kinds that are only ever the body of a subresource: no routes of their own.
const BODIES: &[fn() -> Kind] = &[
    authentication::tokenrequest::kind,
    autoscaling::scale::kind,
    policy::eviction::kind,
];

/// Every built-in kind, made once.
pub fn kinds() -> &'static [Arc<Kind>] {
    static MADE: OnceLock<Vec<Arc<Kind>>> = OnceLock::new();
    MADE.get_or_init(|| KINDS.iter().map(|make| Arc::new(make())).collect())
}

/// The bodies of subresources that are no kind of [`kinds`]: `TokenRequest`, `Scale`, `Eviction`.
pub fn bodies() -> &'static [Arc<Kind>] {
    static MADE: OnceLock<Vec<Arc<Kind>>> = OnceLock::new();
    MADE.get_or_init(|| BODIES.iter().map(|make| Arc::new(make())).collect())
}
