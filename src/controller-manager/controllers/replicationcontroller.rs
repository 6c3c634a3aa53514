//! ReplicationControllers: ReplicaSets by an older name; the work is that of `replicaset`.
//!
//! Watches ReplicationControllers and pods. Writes pods, ReplicationController status, and the events of `replicaset`.
//!
//! Invariants: those of `replicaset`.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::controllers::replicaset::{Replicated, of_kind};
use crate::manager::{Context, Controller};
use crate::podcontrol::Owner;

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    of_kind::<ReplicationController>(cx, cx.informers.of())
}

impl Owner for ReplicationController {
    fn pod_selector(&self) -> Option<LabelSelector> {
        let selector = self.spec.as_ref()?.selector.clone()?;
        // Nothing, not everything, is selected by an empty one.
        let named = !selector.is_empty();
        named.then_some(LabelSelector { match_labels: Some(selector), match_expressions: None })
    }
}

impl Replicated for ReplicationController {
    const NAME: &'static str = "replicationcontroller";
    const COMPONENT: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default()
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        let status = self.status.clone()?;
        let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            terminating_replicas: None,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
        })
    }

    fn with_status(&self, status: &ReplicaSetStatus) -> Self {
        let condition = |c: &ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_.clone(),
            status: c.status.clone(),
            reason: c.reason.clone(),
            message: c.message.clone(),
            last_transition_time: c.last_transition_time.clone(),
        };
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.as_ref().map(|all| all.iter().map(condition).collect()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_goes_there_and_back() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": { "name": "r" }, "spec": { "replicas": 3, "minReadySeconds": 4, "selector": {} },
            "status": { "replicas": 2, "readyReplicas": 1, "conditions": [{ "type": "ReplicaFailure", "status": "True" }] },
        }))
        .expect("a controller");
        assert_eq!((controller.replicas(), controller.min_ready_seconds()), (3, 4));
        assert!(controller.pod_selector().is_none());
        let status = controller.status().expect("a status");
        assert_eq!(controller.with_status(&status), controller);
    }
}
