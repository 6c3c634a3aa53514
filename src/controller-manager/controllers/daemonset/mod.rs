//! DaemonSets: one pod on every node where it fits.
//!
//! Watches DaemonSets, nodes, pods and ControllerRevisions. Writes pods, ControllerRevisions, DaemonSet status, events
//! SuccessfulCreate, SuccessfulDelete, FailedDaemonPod, SucceededDaemonPod.
//!
//! Invariants:
//! - DS-1: never acts while pods that it asked for have not been seen.
//! - DS-2: an update makes no more pods unavailable than maxUnavailable, and adds no more than maxSurge.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::PostParams;
use tracing::debug;

use self::plan::Plan;
use crate::error::{Error, gone_is_fine};
use crate::expectations::Expectations;
use crate::manager::{Context, Controller};
use crate::podcontrol::{self, Owner, PodControl, next_availability, pod_from_template};
use crate::revisions::{self, REVISION_LABEL};

const BURST: usize = 250;
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
/// A node whose pods keep failing is left alone this long at first, and up to the second.
const FAILED_BACKOFF: Duration = Duration::from_secs(1);
const MAX_FAILED_BACKOFF: Duration = Duration::from_secs(900);

impl Owner for DaemonSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|spec| spec.selector.clone())
    }
}

struct DaemonSets {
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
    /// Per DaemonSet and node: when a failed pod was last killed, and how long to wait after it.
    failures: parking_lot::Mutex<std::collections::HashMap<(ObjectKey, String), (jiff::Timestamp, Duration)>>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let control = PodControl {
        client: cx.client.clone(),
        events: cx.recorder("daemonset-controller"),
        pods: cx.informers.of(),
        expectations: Arc::new(Expectations::new(cx.clock.clone())),
    };
    let this = DaemonSets {
        clock: cx.clock.clone(),
        queue: cx.queue(),
        sets: cx.informers.of(),
        nodes: cx.informers.of(),
        revisions: cx.informers.of(),
        control,
        failures: parking_lot::Mutex::default(),
    };
    podcontrol::watch(&this.sets, &this.control.pods, &this.queue, &this.control.expectations);
    let (queue, sets) = (this.queue.clone(), this.sets.clone());
    this.nodes.on_change(move |change| {
        if let Change::Updated { old, new } = change {
            let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
            // A heartbeat moves no pod.
            if old.metadata.labels == new.metadata.labels && taints(old) == taints(new) {
                return;
            }
        }
        for set in sets.list() {
            queue.add(ObjectKey::of(set.as_ref()));
        }
    });
    let queue = this.queue.clone();
    this.revisions.on_change(move |change| {
        if let Some(owner) = podcontrol::owner_key::<DaemonSet>(&change.object().metadata) {
            queue.add(owner);
        }
    });
    Arc::new(this)
}

#[async_trait]
impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.sets.synced().await;
        self.nodes.synced().await;
        self.revisions.synced().await;
        self.control.pods.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get(key) else {
            self.control.expectations.forget(key);
            self.failures.lock().retain(|(owner, _), _| owner != key);
            return Ok(None);
        };
        let spec = plan::spec(&set);
        if spec.selector == LabelSelector::default() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.control.events.event(&object_reference(set.as_ref()), EventType::Warning, "SelectingAll", message);
            return Ok(None);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let known = revisions::owned(&self.revisions, &set.metadata);
        let client = &self.control.client;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let current =
            revisions::ensure(client, &known, set.as_ref(), &spec.template, collisions, REVISION_LABEL).await?;
        let hash = revisions::hash_of(&current, REVISION_LABEL);
        let owned = self.control.claimed(set.as_ref()).await?;
        let pods = plan::by_node(&owned);
        let nodes = self.nodes.list();
        let now = self.clock.now();
        let mut again = next_availability(&owned, spec.min_ready_seconds.unwrap_or(0), now);
        let mut failure = None;
        if self.control.expectations.met(key) {
            let mut plan = plan::manage(&set, &nodes, &pods, &hash, now);
            if let Some(wait) = self.back_off(key, &mut plan, now) {
                again = Some(again.map_or(wait, |again| again.min(wait)));
            }
            self.tell(&set, &plan);
            let idle = plan.create.is_empty() && plan.delete.is_empty();
            failure = self.apply(&set, plan, &hash).await.err();
            if idle {
                let plan = plan::roll(&set, &nodes, &pods, &hash, now);
                failure = self.apply(&set, plan, &hash).await.err();
            }
        }
        let mut live: HashSet<String> = current.metadata.name.iter().cloned().collect();
        live.extend(known.iter().filter_map(|revision| {
            let hash = revisions::hash_of(revision, REVISION_LABEL);
            let runs = owned.iter().any(|pod| plan::is_updated(pod, &hash));
            revision.metadata.name.clone().filter(|_| runs)
        }));
        revisions::clean_up(client, &known, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        let status = plan::status(&set, &nodes, &pods, &hash, now);
        if set.status.as_ref() != Some(&status) {
            let changed = DaemonSet { status: Some(status), ..DaemonSet::clone(&set) };
            let api = Api::<DaemonSet>::namespaced(client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
            gone_is_fine(written).map_err(Error::api(format!("write the status of daemon set {key}")))?;
        }
        failure.map_or(Ok(again), Err)
    }
}

impl DaemonSets {
    /// Leaves failed pods of nodes that failed just now; how long until the next may go.
    fn back_off(&self, key: &ObjectKey, plan: &mut Plan, now: jiff::Timestamp) -> Option<Duration> {
        let mut failures = self.failures.lock();
        let mut wait: Option<Duration> = None;
        plan.failed.retain(|pod| {
            let id = (key.clone(), plan::target_node(pod).unwrap_or_default());
            let last = failures.get(&id).copied();
            let passed = |at: jiff::Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
            let delay = match last {
                Some((at, delay)) if passed(at) < delay => {
                    let left = delay.saturating_sub(passed(at));
                    wait = Some(wait.map_or(left, |wait| wait.min(left)));
                    plan.delete.retain(|other| !Arc::ptr_eq(pod, other));
                    return false;
                }
                Some((at, delay)) if passed(at) < MAX_FAILED_BACKOFF * 2 => (delay * 2).min(MAX_FAILED_BACKOFF),
                _ => FAILED_BACKOFF,
            };
            failures.insert(id, (now, delay));
            true
        });
        wait
    }

    fn tell(&self, set: &DaemonSet, plan: &Plan) {
        let about = object_reference(set);
        let place = |pod: &Pod| (ObjectKey::of(pod), plan::target_node(pod).unwrap_or_default());
        for pod in &plan.failed {
            let (pod, node) = place(pod);
            let message = format!("Found failed daemon pod {pod} on node {node}, will try to kill it");
            self.control.events.event(&about, EventType::Warning, "FailedDaemonPod", &message);
        }
        for pod in &plan.succeeded {
            let (pod, node) = place(pod);
            let message = format!("Found succeeded daemon pod {pod} on node {node}, will try to delete it");
            self.control.events.event(&about, EventType::Normal, "SucceededDaemonPod", &message);
        }
    }

    async fn apply(&self, set: &DaemonSet, mut plan: Plan, hash: &str) -> Result<(), Error> {
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        debug!(daemonset = %ObjectKey::of(set), create = plan.create.len(), delete = plan.delete.len(), "moving pods");
        let pods: Vec<Pod> = plan.create.iter().map(|node| new_pod(set, node, hash)).collect();
        let created = if pods.is_empty() { Ok(()) } else { self.control.create(set, &pods).await };
        if !plan.delete.is_empty() {
            self.control.delete(set, &plan.delete).await.map_err(|failure| failure.error)?;
        }
        created.map_err(|failure| failure.error)
    }
}

fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let mut pod = pod_from_template(set, &plan::spec(set).template);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.into(), hash.into());
    if let Some(generation) = set.metadata.annotations.as_ref().and_then(|all| all.get(GENERATION)) {
        labels.insert(GENERATION_LABEL.into(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    plan::add_tolerations(spec);
    plan::pin(spec, node);
    pod
}
