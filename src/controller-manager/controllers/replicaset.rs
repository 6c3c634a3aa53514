//! ReplicaSets: as many pods as wanted.
//!
//! Watches ReplicaSets and pods. Writes pods, ReplicaSet status, events SuccessfulCreate, SuccessfulDelete, FailedCreate,
//! FailedDelete.
//!
//! Invariants:
//! - RS-1: never deletes a pod that it does not own.
//! - RS-2: never counts again while pods that it asked for have not been seen.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Informer, ObjectKey, WorkQueue};
use component_base::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::Api;
use kube::api::PostParams;
use serde::Serialize;

use crate::error::{Error, gone_is_fine};
use crate::expectations::Expectations;
use crate::manager::{Context, Controller};
use crate::owners::{controller_of, is_controlled_by};
use crate::podcontrol::{
    self, Failure, Owner, PodControl, is_active, is_available, next_availability, phase, pod_from_template,
    ready_since, text,
};

/// Pods created or deleted in one go.
const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

struct ReplicaSets<K: 'static> {
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    sets: Informer<K>,
    control: PodControl,
}

/// What a ReplicaSet is to this controller. A ReplicationController is one, with an older spelling.
pub trait Replicated: Owner + Serialize {
    const NAME: &'static str;
    const COMPONENT: &'static str;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> PodTemplateSpec;
    fn status(&self) -> Option<ReplicaSetStatus>;
    fn with_status(&self, status: &ReplicaSetStatus) -> Self;
}

impl Owner for ReplicaSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|spec| spec.selector.clone())
    }
}

impl Replicated for ReplicaSet {
    const NAME: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";

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
        self.status.clone()
    }

    fn with_status(&self, status: &ReplicaSetStatus) -> Self {
        Self { status: Some(status.clone()), ..self.clone() }
    }
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    of_kind::<ReplicaSet>(cx, cx.informers.of())
}

pub fn of_kind<K: Replicated>(cx: &Context, sets: Informer<K>) -> Arc<dyn Controller> {
    let control = PodControl {
        client: cx.client.clone(),
        events: cx.recorder(K::COMPONENT),
        pods: cx.informers.of(),
        expectations: Arc::new(Expectations::new(cx.clock.clone())),
    };
    let this = ReplicaSets { clock: cx.clock.clone(), queue: cx.queue(), sets, control };
    podcontrol::watch(&this.sets, &this.control.pods, &this.queue, &this.control.expectations);
    Arc::new(this)
}

#[async_trait]
impl<K: Replicated> Controller for ReplicaSets<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.sets.synced().await;
        self.control.pods.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get(key) else {
            self.control.expectations.forget(key);
            return Ok(None);
        };
        let settled = self.control.expectations.met(key);
        let pods = self.control.claimed(set.as_ref()).await?;
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let mut failure = None;
        if settled && set.meta().deletion_timestamp.is_none() {
            let wanted = usize::try_from(set.replicas()).unwrap_or(0);
            if active.len() < wanted {
                let pod = pod_from_template(set.as_ref(), &set.template());
                let pods = vec![pod; (wanted - active.len()).min(BURST)];
                failure = self.control.create(set.as_ref(), &pods).await.err();
            } else if active.len() > wanted {
                let siblings = self.control.pods.list_in(&key.namespace);
                let mut victims = victims(&active, active.len() - wanted, &siblings, self.clock.now());
                victims.truncate(BURST);
                failure = self.control.delete(set.as_ref(), &victims).await.err();
            }
        }
        let now = self.clock.now();
        let changed = set.with_status(&status(set.as_ref(), &pods, failure.as_ref(), now));
        if set.status() != changed.status() {
            let api = Api::<K>::namespaced(self.control.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
            gone_is_fine(written).map_err(Error::api(format!("write the status of {} {key}", K::NAME)))?;
        }
        if let Some(failure) = failure {
            return Err(failure.error);
        }
        // A ready pod becomes available by the passing of time alone.
        Ok(next_availability(&active, set.min_ready_seconds(), now))
    }
}

/// Which `count` pods go first: those that are least use. Upstream's order.
pub fn victims(active: &[Arc<Pod>], count: usize, siblings: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let owner = active.first().and_then(|pod| controller_of(&pod.metadata)).map(|owner| owner.uid.clone());
    let related = |name: &str| {
        let same =
            |pod: &&Arc<Pod>| is_controlled_by(&pod.metadata, owner.as_ref()) && is_active(pod) && node(pod) == name;
        siblings.iter().filter(same).count()
    };
    let mut ranked: Vec<Arc<Pod>> = active.to_vec();
    ranked.sort_by_cached_key(|pod| {
        let name = node(pod);
        let rank = match phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let cost = pod.metadata.annotations.as_ref().and_then(|all| all.get(DELETION_COST));
        let cost: i64 = cost.and_then(|text| text.parse().ok()).unwrap_or(0);
        let ready = ready_since(pod);
        let restarts: i32 = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .map(|container| container.restart_count)
            .max()
            .unwrap_or(0);
        let age = |since: Option<Timestamp>| since.map_or(0, |since| log_age(since, now));
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (
            !name.is_empty(),
            rank,
            ready.is_some(),
            cost,
            Reverse(if name.is_empty() { 0 } else { related(&name) }),
            age(ready),
            Reverse(restarts),
            age(created),
            pod.metadata.uid.clone(),
        )
    });
    ranked.truncate(count);
    ranked
}

/// Ages on a logarithmic scale: pods of about the same age are equally good to go.
fn log_age(since: Timestamp, now: Timestamp) -> u32 {
    let seconds = u64::try_from(now.as_second() - since.as_second()).unwrap_or(0);
    64 - seconds.leading_zeros()
}

fn status<K: Replicated>(set: &K, pods: &[Arc<Pod>], failure: Option<&Failure>, now: Timestamp) -> ReplicaSetStatus {
    let min_ready = set.min_ready_seconds();
    let template = set.template().metadata.and_then(|meta| meta.labels).unwrap_or_default();
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let count =
        |keep: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|pod| keep(pod)).count()).unwrap_or(i32::MAX);
    let labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    };
    let terminating = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_some() && !matches!(phase(pod), "Succeeded" | "Failed"));
    let known = set.status().unwrap_or_default();
    let mut conditions: Vec<ReplicaSetCondition> = known.conditions.unwrap_or_default();
    let had = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, had) {
        (Some(failure), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(failure.reason.into()),
            message: Some(match &failure.error {
                Error::Api { source, .. } => text(source),
                other => other.to_string(),
            }),
            last_transition_time: Some(Time(now)),
        }),
        (None, Some(at)) => {
            conditions.remove(at);
        }
        _ => {}
    }
    let nonzero = |n: i32| (n != 0).then_some(n);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: nonzero(count(&labelled)),
        ready_replicas: nonzero(count(&|pod| ready_since(pod).is_some())),
        available_replicas: nonzero(count(&|pod| is_available(pod, min_ready, now))),
        terminating_replicas: Some(i32::try_from(terminating.count()).unwrap_or(i32::MAX)),
        observed_generation: set.meta().generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, phase: &str, ready: bool, extra: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": { "name": name, "namespace": "ns", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase, "conditions": [
                { "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:10Z" }
            ] },
        });
        if let Some(annotations) = extra.get("annotations") {
            value["metadata"]["annotations"] = annotations.clone();
        }
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().expect("a time")
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = [
            pod("cheap", "n1", "Running", true, json!({ "annotations": { DELETION_COST: "-5" } })),
            pod("ready", "n1", "Running", true, json!({})),
            pod("unready", "n1", "Running", false, json!({})),
            pod("pending", "n1", "Pending", false, json!({})),
            pod("unassigned", "", "Pending", false, json!({})),
        ];
        let order: Vec<String> =
            victims(&pods, 5, &[], now()).iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        assert_eq!(order, ["unassigned", "pending", "unready", "cheap", "ready"]);
    }

    #[test]
    fn status_counts_what_is_there() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": { "name": "r", "generation": 4 },
            "spec": { "minReadySeconds": 60, "selector": {}, "template": {} },
        }))
        .expect("a set");
        let pods = [
            pod("a", "n", "Running", true, json!({})),
            pod("b", "n", "Running", false, json!({})),
            pod("c", "n", "Failed", false, json!({})),
        ];
        let status = status(&set, &pods, None, now());
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (2, Some(1), None));
        assert_eq!(status.observed_generation, Some(4));
        assert_eq!(next_availability(&pods, 60, now()), Some(Duration::from_secs(10)));
    }
}
