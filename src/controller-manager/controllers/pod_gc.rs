//! Removes pods that nobody else will: too many finished ones, those whose node is gone, and those that are being deleted
//! without ever having had a node.
//!
//! Watches pods and nodes. Writes the status of pods and deletes them at once (grace period 0).
//!
//! Invariants:
//! - PG-1: a pod of a missing node is left alone for 40 s, and then the server is asked for the node.
//! - PG-2: a deletion names the pod's uid.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey, WorkQueue};
use component_base::SharedClock;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use tracing::info;

use crate::controllers::disruption::{self, Why, index_by_node, is_finished, node_of, pods_on};
use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};

/// More finished pods than this are too many.
const THRESHOLD: usize = 12_500;
const QUARANTINE: Duration = Duration::from_secs(40);
/// Finished pods are counted at most this often.
const COUNT_EVERY: Duration = Duration::from_secs(20);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const REASON: &str = "DeletionByPodGC";

/// Stands for all finished pods together.
fn finished_key() -> ObjectKey {
    ObjectKey::cluster("finished")
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = PodGc {
        client: cx.client.clone(),
        queue: cx.queue(),
        clock: cx.clock.clone(),
        pods: cx.informers.of(),
        nodes: cx.informers.of(),
        missing: Mutex::default(),
    };
    index_by_node(&this.pods);
    let (queue, nodes) = (this.queue.clone(), this.nodes.clone());
    this.pods.on_change(move |change| {
        let pod = change.object();
        if let Change::Deleted(_) = change {
            return;
        }
        if is_finished(pod) {
            queue.add_after(finished_key(), COUNT_EVERY);
        }
        let unbound = node_of(pod).is_empty();
        let unknown = !unbound && nodes.get(&ObjectKey::cluster(node_of(pod))).is_none();
        if unknown || pod.metadata.deletion_timestamp.is_some() {
            queue.add(ObjectKey::of(pod.as_ref()));
        }
    });
    let (queue, pods) = (this.queue.clone(), this.pods.clone());
    this.nodes.on_change(move |change| {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        let node = match change {
            Change::Deleted(_) => None,
            other => Some(other.object()),
        };
        if node.is_none_or(|node| is_out_of_service(node)) {
            for pod in pods_on(&pods, &name) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        }
    });
    Arc::new(this)
}

struct PodGc {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    clock: SharedClock,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Since when a node is missed.
    missing: Mutex<HashMap<String, Instant>>,
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tainted = taints.into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE);
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    tainted && !ready
}

/// What is known about a pod's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Unbound,
    Here,
    OutOfService,
    /// Not in the cache for this long.
    Missing(Duration),
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    LookAgain(Duration),
    /// After the server was asked, if the node is missing.
    Delete {
        why: Option<Why>,
        ask_for_node: bool,
    },
}

fn plan(pod: &Pod, place: Place) -> Vec<Action> {
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let why = |message| Some(Why { reason: REASON, message, fails: true });
    match place {
        Place::Unbound if leaving => vec![Action::Delete { why: None, ask_for_node: false }],
        Place::OutOfService if leaving => {
            vec![Action::Delete { why: why("PodGC: node has out-of-service taint"), ask_for_node: false }]
        }
        Place::Missing(since) if since < QUARANTINE => vec![Action::LookAgain(QUARANTINE.saturating_sub(since))],
        Place::Missing(_) => vec![Action::Delete { why: why("PodGC: node no longer exists"), ask_for_node: true }],
        _ => Vec::new(),
    }
}

/// Which of the finished pods are too many: evicted ones first, then the oldest.
fn surplus(mut finished: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    let count = finished.len().saturating_sub(threshold);
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    finished.sort_by_cached_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!evicted(pod), created, pod.metadata.name.clone())
    });
    finished.truncate(count);
    finished
}

impl PodGc {
    fn place(&self, pod: &Pod) -> Place {
        let name = node_of(pod);
        if name.is_empty() {
            return Place::Unbound;
        }
        let mut missing = self.missing.lock();
        if let Some(node) = self.nodes.get(&ObjectKey::cluster(name)) {
            missing.remove(name);
            return if is_out_of_service(&node) { Place::OutOfService } else { Place::Here };
        }
        let now = self.clock.instant();
        Place::Missing(now.duration_since(*missing.entry(name.to_owned()).or_insert(now)))
    }

    async fn delete(&self, pod: &Pod, why: Option<Why>) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        if let Some(why) = why {
            disruption::tell(&self.client, pod, why, self.clock.now()).await?;
        }
        info!(pod = %key, reason = why.map(|why| why.message), "removing pod");
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        gone_is_fine(api.delete(&key.name, &params).await).map_err(Error::api(format!("delete pod {key}"))).map(|_| ())
    }

    async fn apply(&self, pod: &Pod, action: Action) -> Result<Option<Duration>, Error> {
        match action {
            Action::LookAgain(delay) => Ok(Some(delay)),
            Action::Delete { why, ask_for_node } => {
                let node = node_of(pod);
                if ask_for_node {
                    let found = Api::<Node>::all(self.client.clone()).get_metadata(node).await;
                    if gone_is_fine(found).map_err(Error::api(format!("get node {node}")))?.is_some() {
                        return Ok(Some(QUARANTINE));
                    }
                }
                self.delete(pod, why).await.map(|()| None)
            }
        }
    }
}

#[async_trait]
impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        if *key == finished_key() {
            let finished = self.pods.list().into_iter().filter(|pod| is_finished(pod)).collect();
            for pod in surplus(finished, THRESHOLD) {
                self.delete(&pod, None).await?;
            }
            return Ok(None);
        }
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let mut again = None;
        for action in plan(&pod, self.place(&pod)) {
            again = self.apply(&pod, action).await?;
        }
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn table() {
        let running = pod(json!({ "metadata": { "name": "p" } }));
        let leaving = pod(json!({ "metadata": { "name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
        let seconds = Duration::from_secs;
        for place in [Place::Unbound, Place::Here, Place::OutOfService] {
            assert_eq!(plan(&running, place), []);
        }
        assert_eq!(plan(&leaving, Place::Here), []);
        assert_eq!(plan(&leaving, Place::Unbound), [Action::Delete { why: None, ask_for_node: false }]);
        let message = |actions: Vec<Action>| match actions.as_slice() {
            [Action::Delete { why: Some(why), ask_for_node }] => (why.message, *ask_for_node),
            other => panic!("{other:?}"),
        };
        assert_eq!(message(plan(&leaving, Place::OutOfService)), ("PodGC: node has out-of-service taint", false));
        assert_eq!(plan(&running, Place::Missing(seconds(15))), [Action::LookAgain(seconds(25))]);
        assert_eq!(message(plan(&running, Place::Missing(seconds(40)))), ("PodGC: node no longer exists", true));
    }

    #[test]
    fn evicted_and_oldest_first() {
        let finished = |name: &str, day: u8, reason: &str| {
            let created = format!("2026-01-0{day}T00:00:00Z");
            Arc::new(pod(
                json!({ "metadata": { "name": name, "creationTimestamp": created }, "status": { "reason": reason } }),
            ))
        };
        let all = vec![
            finished("new", 3, ""),
            finished("old", 1, ""),
            finished("evicted", 4, "Evicted"),
            finished("mid", 2, ""),
        ];
        let names = |pods: Vec<Arc<Pod>>| pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(surplus(all.clone(), 2)), ["evicted", "old"]);
        assert_eq!(names(surplus(all, 4)), [""; 0]);
    }
}
