//! One file per controller; [`all`] is the one list of them.

use std::sync::Arc;

use crate::manager::{Context, Controller};

mod bootstrap_tokens;
mod certificates;
mod clusterrole_aggregation;
pub mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod garbage_collector;
mod job;
mod namespace;
mod namespace_content;
mod node_ipam;
mod node_lifecycle;
mod pod_gc;
mod poddisruptionbudget;
mod podselect;
mod protection;
mod replicaset;
mod replicationcontroller;
mod resourcequota;
mod rollout;
mod statefulset;
mod taint_eviction;
mod ttl_after_finished;

pub(crate) use deployment::template_hash;

/// Every controller, with its handlers registered.
pub fn all(cx: &Context) -> Vec<Arc<dyn Controller>> {
    vec![
        namespace_content::service_accounts(cx),
        namespace_content::root_ca(cx),
        namespace_content::service_ca(cx),
        replicaset::new(cx),
        replicationcontroller::new(cx),
        deployment::new(cx),
        node_ipam::new(cx),
        endpointslice::new(cx),
        endpoints::new(cx),
        endpointslicemirroring::new(cx),
        garbage_collector::new(cx),
        namespace::new(cx),
        node_lifecycle::new(cx),
        taint_eviction::new(cx),
        pod_gc::new(cx),
        daemonset::new(cx),
        statefulset::new(cx),
        job::new(cx),
        cronjob::new(cx),
        poddisruptionbudget::new(cx),
        ttl_after_finished::new(cx),
        protection::claims(cx),
        protection::volumes(cx),
        protection::attributes_classes(cx),
        clusterrole_aggregation::new(cx),
        resourcequota::new(cx),
        bootstrap_tokens::cleaner(cx),
        bootstrap_tokens::signer(cx),
        certificates::new(cx),
    ]
}
