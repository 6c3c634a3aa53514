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
use client::{Change, Client, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use tracing::debug;

use crate::error::{Error, gone_is_fine};
use crate::expectations::Expectations;
use crate::manager::{Context, Controller};
use crate::owners::{Claim, claim, controller_of, controller_reference, is_controlled_by, selects};

/// Pods created or deleted in one go.
const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const BY_OWNER: &str = "controller-uid";

struct ReplicaSets {
    client: Client,
    clock: SharedClock,
    events: EventRecorder,
    queue: WorkQueue<ObjectKey>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    expectations: Arc<Expectations>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = ReplicaSets {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        events: cx.recorder("replicaset-controller"),
        queue: cx.queue(),
        sets: cx.informers.of(),
        pods: cx.informers.of(),
        expectations: Arc::new(Expectations::new(cx.clock.clone())),
    };
    index_by_owner(&this.pods);
    let queue = this.queue.clone();
    this.sets.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let (queue, sets, expectations) = (this.queue.clone(), this.sets.clone(), this.expectations.clone());
    this.pods.on_change(move |change| pod_changed(change, &queue, &sets, &expectations));
    Arc::new(this)
}

/// Files pods under the uid of their controller, and those without one under "".
pub fn index_by_owner(pods: &Informer<Pod>) {
    pods.add_index(BY_OWNER, |pod| {
        vec![controller_of(&pod.metadata).map(|owner| owner.uid.clone()).unwrap_or_default()]
    });
}

pub fn owned_pods(pods: &Informer<Pod>, uid: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_OWNER, uid)
}

fn owner_key(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(meta).filter(|owner| owner.kind == "ReplicaSet")?;
    Some(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

fn pod_changed(
    change: &Change<Pod>,
    queue: &WorkQueue<ObjectKey>,
    sets: &Informer<ReplicaSet>,
    expectations: &Expectations,
) {
    let pod = change.object();
    let owner = owner_key(&pod.metadata);
    let pod_key = ObjectKey::of(pod.as_ref()).to_string();
    if let Some(owner) = &owner {
        match change {
            Change::Added(_) => expectations.created(owner),
            Change::Deleted(_) => expectations.deleted(owner, &pod_key),
            Change::Updated { .. } => {}
        }
        if pod.metadata.deletion_timestamp.is_some() {
            expectations.deleted(owner, &pod_key);
        }
        queue.add(owner.clone());
    }
    if let Change::Updated { old, .. } = change {
        if let Some(before) = owner_key(&old.metadata).filter(|before| Some(before) != owner.as_ref()) {
            queue.add(before);
        }
    }
    if owner.is_none() && controller_of(&pod.metadata).is_none() && !matches!(change, Change::Deleted(_)) {
        // An orphan: whoever selects it may adopt it.
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for set in sets.list_in(namespace) {
            let selector = set.spec.as_ref().map(|spec| &spec.selector);
            if selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref())) {
                queue.add(ObjectKey::of(set.as_ref()));
            }
        }
    }
}

#[async_trait]
impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.sets.synced().await;
        self.pods.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let Some(spec) = &set.spec else { return Ok(None) };
        let settled = self.expectations.met(key);
        let pods = self.claimed(&set).await?;
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let mut failure = None;
        if settled && set.metadata.deletion_timestamp.is_none() {
            let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
            if active.len() < wanted {
                failure = self.create(key, &set, (wanted - active.len()).min(BURST)).await.err();
            } else if active.len() > wanted {
                let siblings = self.pods.list_in(&key.namespace);
                let victims = victims(&active, active.len() - wanted, &siblings, self.clock.now());
                failure = self.delete(key, &set, victims.into_iter().take(BURST).collect()).await.err();
            }
        }
        let now = self.clock.now();
        let status = status(&set, &pods, failure.as_ref(), now);
        if set.status.as_ref() != Some(&status) {
            self.write_status(key, &set, &status).await?;
        }
        if let Some(failure) = failure {
            return Err(failure.error);
        }
        // A ready pod becomes available by the passing of time alone.
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        Ok(next_availability(&active, min_ready, now))
    }
}

/// A creation or deletion that failed, and how many were wanted.
struct Failure {
    reason: &'static str,
    error: Error,
}

impl ReplicaSets {
    /// The pods of `set`, after adopting and releasing.
    async fn claimed(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Error> {
        let (Some(spec), Some(uid)) = (&set.spec, &set.metadata.uid) else { return Ok(Vec::new()) };
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let mut candidates = owned_pods(&self.pods, uid);
        candidates.extend(
            owned_pods(&self.pods, "").into_iter().filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace)),
        );
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let mut mine = Vec::new();
        for pod in candidates {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match claim(&pod.metadata, &set.metadata, &spec.selector) {
                Claim::Mine => mine.push(pod),
                Claim::NotMine => {}
                Claim::Adopt if !is_active(&pod) => {}
                Claim::Adopt => {
                    // The cache may be behind: adopt only if we are still there ourselves.
                    if !self.still_exists(set).await? {
                        return Ok(Vec::new());
                    }
                    let patch = json!({ "metadata": { "uid": pod.metadata.uid, "ownerReferences": [controller_reference(set)] } });
                    let patched =
                        gone_is_fine(api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await);
                    if patched.map_err(Error::api(format!("adopt pod {namespace}/{name}")))?.is_some() {
                        mine.push(pod);
                    }
                }
                Claim::Release => {
                    let patch = json!({ "metadata": { "uid": pod.metadata.uid, "ownerReferences": [{ "$patch": "delete", "uid": uid }] } });
                    let patched =
                        gone_is_fine(api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await);
                    patched.map_err(Error::api(format!("release pod {namespace}/{name}")))?;
                }
            }
        }
        Ok(mine)
    }

    async fn still_exists(&self, set: &ReplicaSet) -> Result<bool, Error> {
        let key = ObjectKey::of(set);
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &key.namespace);
        let live = api.get_opt(&key.name).await.map_err(Error::api(format!("get replica set {key}")))?;
        Ok(live.is_some_and(|live| live.metadata.uid == set.metadata.uid && live.metadata.deletion_timestamp.is_none()))
    }

    /// Creates `count` pods, in batches that double, so that a refusal is met by one request and not by hundreds.
    async fn create(&self, key: &ObjectKey, set: &ReplicaSet, count: usize) -> Result<(), Failure> {
        let Some(spec) = &set.spec else { return Ok(()) };
        let template = spec.template.clone().unwrap_or_default();
        let meta = template.metadata.unwrap_or_default();
        let pod = Pod {
            metadata: ObjectMeta {
                generate_name: Some(generate_name(&key.name)),
                labels: meta.labels,
                annotations: meta.annotations,
                finalizers: meta.finalizers,
                owner_references: Some(vec![controller_reference(set)]),
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let about = object_reference(set);
        self.expectations.expect_creations(key, count);
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let now = batch.min(left);
            let params = PostParams::default();
            let posts: Vec<_> = (0..now).map(|_| api.create(&params, &pod)).collect();
            let mut results = futures::stream::iter(posts).buffer_unordered(16);
            let mut failed = None;
            let mut undone = 0;
            while let Some(result) = results.next().await {
                match result {
                    Ok(pod) => {
                        let name = pod.metadata.name.unwrap_or_default();
                        self.events.event(
                            &about,
                            EventType::Normal,
                            "SuccessfulCreate",
                            &format!("Created pod: {name}"),
                        );
                    }
                    Err(error) => {
                        self.expectations.created(key);
                        undone += 1;
                        failed = Some(error);
                    }
                }
            }
            left -= now;
            if let Some(error) = failed {
                debug!(replicaset = %key, undone, "pods not created");
                // Those that were not even tried.
                for _ in 0..left {
                    self.expectations.created(key);
                }
                // A namespace that is going away refuses, and rightly so.
                let terminating = matches!(&error, kube::Error::Api(status) if status.message.contains("because it is being terminated"));
                if terminating {
                    return Ok(());
                }
                self.events.event(
                    &about,
                    EventType::Warning,
                    "FailedCreate",
                    &format!("Error creating: {}", text(&error)),
                );
                return Err(Failure {
                    reason: "FailedCreate",
                    error: Error::api(format!("create a pod of {key}"))(error),
                });
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &ReplicaSet, victims: Vec<Arc<Pod>>) -> Result<(), Failure> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let about = object_reference(set);
        self.expectations.expect_deletions(key, victims.iter().map(|pod| ObjectKey::of(pod.as_ref()).to_string()));
        let deletions: Vec<_> = victims
            .iter()
            .map(|pod| {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let preconditions = Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let api = api.clone();
                async move {
                    let result = api.delete(&name, &params).await.map(|_| ());
                    (name, result)
                }
            })
            .collect();
        let mut results = futures::stream::iter(deletions).buffer_unordered(16);
        let mut failed = None;
        while let Some((name, result)) = results.next().await {
            match gone_is_fine(result) {
                Ok(Some(())) => {
                    self.events.event(&about, EventType::Normal, "SuccessfulDelete", &format!("Deleted pod: {name}"));
                }
                Ok(None) => self.expectations.deleted(key, &format!("{}/{name}", key.namespace)),
                Err(error) => {
                    self.expectations.deleted(key, &format!("{}/{name}", key.namespace));
                    let message = format!("Error deleting: {}", text(&error));
                    self.events.event(&about, EventType::Warning, "FailedDelete", &message);
                    failed = Some(Error::api(format!("delete pod {}/{name}", key.namespace))(error));
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(Failure { reason: "FailedDelete", error }))
    }

    async fn write_status(&self, key: &ObjectKey, set: &ReplicaSet, status: &ReplicaSetStatus) -> Result<(), Error> {
        let mut changed = set.clone();
        changed.status = Some(status.clone());
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &key.namespace);
        let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
        gone_is_fine(written).map(|_| ()).map_err(Error::api(format!("write the status of replica set {key}")))
    }
}

fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// `<owner>-`, kept short enough that a suffix still fits a host name.
fn generate_name(owner: &str) -> String {
    format!("{}-", owner.get(..57).unwrap_or(owner))
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Neither finished nor going away.
pub fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// Since when the pod is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Ready for at least `min_ready` seconds.
pub fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    ready_since(pod).is_some_and(|since| min_ready == 0 || now.as_second() - since.as_second() >= i64::from(min_ready))
}

/// When the next ready pod becomes available.
fn next_availability(pods: &[Arc<Pod>], min_ready: i32, now: Timestamp) -> Option<Duration> {
    let waiting = pods.iter().filter(|pod| !is_available(pod, min_ready, now)).filter_map(|pod| ready_since(pod));
    let seconds = waiting.map(|since| i64::from(min_ready) - (now.as_second() - since.as_second())).min()?;
    Some(Duration::from_secs(u64::try_from(seconds.max(1)).unwrap_or(1)))
}

/// Which `count` pods go first: those that are least use. Upstream's order.
fn victims(active: &[Arc<Pod>], count: usize, siblings: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
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

fn status(set: &ReplicaSet, pods: &[Arc<Pod>], failure: Option<&Failure>, now: Timestamp) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template =
        spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels).unwrap_or_default();
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
    let known = set.status.clone().unwrap_or_default();
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
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

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

    #[test]
    fn long_names_leave_room_for_the_suffix() {
        assert_eq!(generate_name(&"x".repeat(70)).len(), 58);
        assert_eq!(generate_name("web"), "web-");
    }
}
