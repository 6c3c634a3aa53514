//! Evicts pods from nodes whose NoExecute taints they do not tolerate (any more).
//!
//! Watches pods and nodes. Writes the condition `DisruptionTarget` of pods, and deletes them.
//!
//! Invariants:
//! - TE-1: a pod is evicted when its toleration has lasted `tolerationSeconds`, counted from when the taint was added (or
//!   the pod was created, if that was later), so that a restart neither shortens nor prolongs it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::controllers::disruption::{self, Why, index_by_node, node_of, pods_on};
use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};

const EVENT: &str = "TaintManagerEviction";
const WHY: Why =
    Why { reason: "DeletionByTaintManager", message: "Taint manager: deleting due to NoExecute taint", fails: false };

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = TaintEviction {
        client: cx.client.clone(),
        queue: cx.queue(),
        clock: cx.clock.clone(),
        pods: cx.informers.of(),
        nodes: cx.informers.of(),
        recorder: cx.recorder("taint-eviction-controller"),
        scheduled: Arc::default(),
    };
    index_by_node(&this.pods);
    let (queue, nodes, scheduled) = (this.queue.clone(), this.nodes.clone(), this.scheduled.clone());
    this.pods.on_change(move |change| {
        let pod = change.object();
        let key = ObjectKey::of(pod.as_ref());
        if let Change::Deleted(_) = change {
            scheduled.lock().remove(&key);
        } else if nodes.get(&ObjectKey::cluster(node_of(pod))).is_some_and(|node| !no_execute(&node).is_empty()) {
            queue.add(key);
        }
    });
    let (queue, pods) = (this.queue.clone(), this.pods.clone());
    this.nodes.on_change(move |change| {
        let changed = match change {
            Change::Added(node) => !no_execute(node).is_empty(),
            Change::Updated { old, new } => no_execute(old) != no_execute(new),
            Change::Deleted(_) => false,
        };
        if changed {
            for pod in pods_on(&pods, change.object().metadata.name.as_deref().unwrap_or_default()) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        }
    });
    Arc::new(this)
}

struct TaintEviction {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    clock: SharedClock,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    recorder: EventRecorder,
    /// Pods that are to go later.
    scheduled: Arc<Mutex<HashSet<ObjectKey>>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Evict,
    Wait(Duration),
    /// It was to go, and is not any more.
    Cancel,
}

fn no_execute(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute").collect()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    given(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && given(&toleration.key).is_none_or(|key| key == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            Some(_) => false,
        }
}

fn plan(pod: &Pod, taints: &[&Taint], scheduled: bool, now: Timestamp) -> Vec<Action> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut deadline: Option<Timestamp> = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if matching.peek().is_none() {
            return vec![Action::Evict];
        }
        let Some(seconds) = matching.filter_map(|toleration| toleration.toleration_seconds).min() else { continue };
        let start = taint.time_added.as_ref().map(|time| time.0).max(created).unwrap_or(now);
        let end = start.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        deadline = Some(deadline.map_or(end, |known| known.min(end)));
    }
    match deadline {
        None if scheduled => vec![Action::Cancel],
        None => Vec::new(),
        Some(end) if end <= now => vec![Action::Evict],
        Some(end) => vec![Action::Wait(Duration::try_from(end.duration_since(now)).unwrap_or_default())],
    }
}

impl TaintEviction {
    async fn evict(&self, pod: &Pod, key: &ObjectKey) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.event(&object_reference(pod), EventType::Normal, EVENT, &message);
        disruption::tell(&self.client, pod, WHY, self.clock.now()).await?;
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        gone_is_fine(api.delete(&key.name, &params).await).map_err(Error::api(format!("evict pod {key}")))?;
        Ok(())
    }
}

#[async_trait]
impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        for node in self.nodes.list().iter().filter(|node| !no_execute(node).is_empty()) {
            for pod in pods_on(&self.pods, node.metadata.name.as_deref().unwrap_or_default()) {
                self.queue.add(ObjectKey::of(pod.as_ref()));
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let Some(node) = self.nodes.get(&ObjectKey::cluster(node_of(&pod))) else { return Ok(None) };
        let scheduled = self.scheduled.lock().contains(key);
        for action in plan(&pod, &no_execute(&node), scheduled, self.clock.now()) {
            match action {
                Action::Evict => {
                    self.evict(&pod, key).await?;
                    self.scheduled.lock().remove(key);
                }
                Action::Wait(delay) => {
                    self.scheduled.lock().insert(key.clone());
                    return Ok(Some(delay));
                }
                Action::Cancel => {
                    self.scheduled.lock().remove(key);
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.recorder.event(&object_reference(pod.as_ref()), EventType::Normal, EVENT, &message);
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn run(tolerations: Value, taints: Value, scheduled: bool) -> Vec<Action> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "creationTimestamp": "2026-01-01T00:58:00Z" },
            "spec": { "containers": [], "tolerations": tolerations },
        }))
        .expect("a pod");
        let taints: Vec<Taint> = serde_json::from_value(taints).expect("taints");
        plan(&pod, &taints.iter().collect::<Vec<_>>(), scheduled, NOW.parse().expect("a time"))
    }

    fn taint(key: &str, added: &str) -> Value {
        json!({ "key": key, "effect": "NoExecute", "timeAdded": added })
    }

    #[test]
    fn table() {
        let a = || json!([taint("a", "2026-01-01T00:59:30Z")]);
        let wait = |seconds| vec![Action::Wait(Duration::from_secs(seconds))];
        assert_eq!(run(json!([]), json!([]), false), []);
        assert_eq!(run(json!([]), json!([]), true), [Action::Cancel]);
        assert_eq!(run(json!([]), a(), false), [Action::Evict]);
        assert_eq!(run(json!([{ "operator": "Exists" }]), a(), false), []);
        assert_eq!(run(json!([{ "operator": "Exists", "effect": "NoSchedule" }]), a(), false), [Action::Evict]);
        let seconds =
            |n: i64| json!([{ "key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": n }]);
        assert_eq!(run(seconds(300), a(), false), wait(270));
        assert_eq!(run(seconds(30), a(), false), [Action::Evict]);
        assert_eq!(run(seconds(0), a(), false), [Action::Evict]);
        // The pod is younger than the taint.
        assert_eq!(run(seconds(300), json!([taint("a", "2026-01-01T00:00:00Z")]), false), wait(180));
        // Each taint needs its toleration; the first to end counts.
        assert_eq!(run(seconds(300), json!([taint("a", NOW), taint("b", NOW)]), false), [Action::Evict]);
        let both = json!([{ "key": "a", "operator": "Exists", "tolerationSeconds": 60 }, { "key": "b", "operator": "Exists" }]);
        assert_eq!(run(both, json!([taint("a", NOW), taint("b", NOW)]), false), wait(60));
    }

    #[test]
    fn values_must_be_equal() {
        let taint = json!([{ "key": "a", "value": "x", "effect": "NoExecute" }]);
        assert_eq!(run(json!([{ "key": "a", "value": "x" }]), taint.clone(), false), []);
        assert_eq!(run(json!([{ "key": "a", "value": "y" }]), taint, false), [Action::Evict]);
    }
}
