//! The built-in kinds: one file per kind, and the one list of them ([`kinds`]).
//!
//! Invariants:
//! - AP-1: pure: no I/O, no clock; time comes in [`RequestContext`].
//! - AP-2: everything the server knows about a built-in kind is in that kind's file.

use std::sync::{Arc, OnceLock};

mod access;
pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
mod checks;
mod conditions;
pub mod coordination;
pub mod core;
mod diff;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
mod godump;
mod goregex;
pub mod kind;
pub mod networking;
pub mod node;
pub mod policy;
pub mod printers;
pub mod quota;
pub mod rbac;
pub mod resource;
mod resource_names;
pub mod scheduling;
pub mod storage;
#[cfg(test)]
pub(crate) mod testing;
mod urls;
mod webhooks;

pub use kind::*;

/// Makes every built-in kind. The order is that of discovery: by group, then by resource name.
const KINDS: &[fn() -> Kind] = &[
    // core/v1
    core::binding::kind,
    core::componentstatus::kind,
    core::configmap::kind,
    core::endpoints::kind,
    core::event::kind,
    core::limitrange::kind,
    core::namespace::kind,
    core::node::kind,
    core::persistentvolumeclaim::kind,
    core::persistentvolume::kind,
    core::pod::kind,
    core::podtemplate::kind,
    core::replicationcontroller::kind,
    core::resourcequota::kind,
    core::secret::kind,
    core::serviceaccount::kind,
    core::service::kind,
    // admissionregistration.k8s.io/v1
    admissionregistration::mutatingadmissionpolicy::kind,
    admissionregistration::mutatingadmissionpolicybinding::kind,
    admissionregistration::mutatingwebhookconfiguration::kind,
    admissionregistration::validatingadmissionpolicy::kind,
    admissionregistration::validatingadmissionpolicybinding::kind,
    admissionregistration::validatingwebhookconfiguration::kind,
    // apiregistration.k8s.io/v1
    apiregistration::apiservice::kind,
    // apiextensions.k8s.io/v1
    apiextensions::customresourcedefinition::kind,
    // apps/v1
    apps::controllerrevision::kind,
    apps::daemonset::kind,
    apps::deployment::kind,
    apps::replicaset::kind,
    apps::statefulset::kind,
    // authentication.k8s.io/v1
    authentication::selfsubjectreview::kind,
    authentication::tokenreview::kind,
    // authorization.k8s.io/v1
    authorization::localsubjectaccessreview::kind,
    authorization::selfsubjectaccessreview::kind,
    authorization::selfsubjectrulesreview::kind,
    authorization::subjectaccessreview::kind,
    // autoscaling: v2 is stored, so it comes first
    autoscaling::horizontalpodautoscaler::kind,
    autoscaling::horizontalpodautoscaler_v1::kind,
    // batch/v1
    batch::cronjob::kind,
    batch::job::kind,
    // certificates.k8s.io/v1
    certificates::certificatesigningrequest::kind,
    // coordination.k8s.io/v1
    coordination::lease::kind,
    // discovery.k8s.io/v1
    discovery::endpointslice::kind,
    // events.k8s.io/v1
    events::event::kind,
    // flowcontrol.apiserver.k8s.io/v1
    flowcontrol::flowschema::kind,
    flowcontrol::prioritylevelconfiguration::kind,
    // networking.k8s.io/v1
    networking::ingressclass::kind,
    networking::ingress::kind,
    networking::ipaddress::kind,
    networking::networkpolicy::kind,
    networking::servicecidr::kind,
    // node.k8s.io/v1
    node::runtimeclass::kind,
    // policy/v1
    policy::poddisruptionbudget::kind,
    // rbac.authorization.k8s.io/v1
    rbac::clusterrolebinding::kind,
    rbac::clusterrole::kind,
    rbac::rolebinding::kind,
    rbac::role::kind,
    // resource.k8s.io/v1
    resource::deviceclass::kind,
    resource::resourceclaim::kind,
    resource::resourceclaimtemplate::kind,
    resource::resourceslice::kind,
    // scheduling.k8s.io/v1
    scheduling::priorityclass::kind,
    // storage.k8s.io/v1
    storage::csidriver::kind,
    storage::csinode::kind,
    storage::csistoragecapacity::kind,
    storage::storageclass::kind,
    storage::volumeattachment::kind,
    storage::volumeattributesclass::kind,
];

/// Kinds that are only ever the body of a subresource: no routes of their own.
const BODIES: &[fn() -> Kind] = &[authentication::tokenrequest::kind, autoscaling::scale::kind, policy::eviction::kind];

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
