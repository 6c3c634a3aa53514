//! Nodes that fall silent: their conditions, taints and pods.
//!
//! Watches nodes, leases (a node is alive while it renews the one in `kube-node-lease`) and pods. Writes the status
//! conditions and taints of nodes, and the Ready condition of pods.
//!
//! Invariants:
//! - NL-1: silence is measured on our own monotonic clock, from when a heartbeat was seen, so that no node's clock
//!   matters and a restart of ours condemns nobody.
//! - NL-4: at most one node of a zone begins to be evicted in ten seconds.
//! - NL-5: heartbeats alone cost nothing: a node is looked at when something changed or its time is up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tracing::{info, warn};

use crate::controllers::disruption::{index_by_node, pods_on};
use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller, ControllerManagerConfig};

mod plan;

use plan::{Action, Disruption, Eviction, Observed, condition, disruption, plan, readiness, waits_for_eviction};

const LEASES: &str = "kube-node-lease";
/// A node that has never said anything may be silent for at least this long.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Between the beginnings of two evictions in a zone.
const EVICTION_PAUSE: Duration = Duration::from_secs(10);
/// In a partly disrupted zone of more nodes than this evictions go on, slower.
const LARGE_ZONE: usize = 50;
const LARGE_ZONE_PAUSE: Duration = Duration::from_secs(100);
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What was last heard of a node.
struct Heard {
    at: Instant,
    heartbeat: Option<Timestamp>,
    renewal: Option<Timestamp>,
}

#[derive(Default)]
struct State {
    heard: HashMap<String, Heard>,
    /// By zone: when an eviction last began.
    evicted: HashMap<String, Instant>,
    /// All nodes were unwell.
    blind: bool,
}

impl State {
    /// Notes a sign of life, if it is a new one.
    fn hear(&mut self, name: &str, now: Instant, heartbeat: Option<Timestamp>, renewal: Option<Timestamp>) {
        let heard = self.heard.entry(name.to_owned()).or_insert(Heard { at: now, heartbeat: None, renewal: None });
        if (heartbeat.is_some() && heartbeat > heard.heartbeat) || (renewal.is_some() && renewal > heard.renewal) {
            heard.at = now;
        }
        heard.heartbeat = heard.heartbeat.max(heartbeat);
        heard.renewal = heard.renewal.max(renewal);
    }
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = NodeLifecycle {
        client: cx.client.clone(),
        queue: cx.queue(),
        clock: cx.clock.clone(),
        config: cx.config.clone(),
        nodes: cx.informers.of(),
        leases: cx.informers.of(),
        pods: cx.informers.of(),
        recorder: cx.recorder("node-controller"),
        state: Arc::default(),
    };
    index_by_node(&this.pods);
    this.watch_nodes();
    let (state, clock) = (this.state.clone(), this.clock.clone());
    this.leases.on_change(move |change| {
        let lease = change.object();
        if lease.metadata.namespace.as_deref() == Some(LEASES) && !matches!(change, Change::Deleted(_)) {
            let renewal = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
            let name = lease.metadata.name.as_deref().unwrap_or_default();
            state.lock().hear(name, clock.instant(), None, renewal);
        }
    });
    Arc::new(this)
}

struct NodeLifecycle {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    clock: SharedClock,
    config: Arc<ControllerManagerConfig>,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    recorder: EventRecorder,
    state: Arc<Mutex<State>>,
}

fn heartbeat(node: &Node) -> Option<Timestamp> {
    condition(node, "Ready")?.last_heartbeat_time.as_ref().map(|time| time.0)
}

/// Nothing but the time of the last heartbeat differs.
fn same_but_heartbeat(old: &Node, new: &Node) -> bool {
    let facts = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let conditions: Vec<_> = conditions.into_iter().map(|condition| (condition.type_, condition.status)).collect();
        (conditions, node.spec.clone(), zone(node))
    };
    facts(old) == facts(new)
}

fn zone(node: &Node) -> String {
    let label =
        |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    format!("{}/{}", label(REGION), label(ZONE))
}

/// How upstream's node controller refers to a node in its events.
fn about(node: &Node) -> ObjectReference {
    ObjectReference { resource_version: None, ..object_reference(node) }
}

impl NodeLifecycle {
    fn watch_nodes(&self) {
        let (queue, state, clock) = (self.queue.clone(), self.state.clone(), self.clock.clone());
        let (recorder, nodes) = (self.recorder.clone(), self.nodes.clone());
        let event = move |node: &Node, reason: &str, text: &str| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            recorder.event(&about(node), EventType::Normal, reason, &format!("Node {name} event: {text}"));
        };
        self.nodes.on_change(move |change| {
            let node = change.object();
            let key = ObjectKey::of(node.as_ref());
            match change {
                Change::Deleted(_) => {
                    state.lock().heard.remove(&key.name);
                    event(node, "RemovingNode", &format!("Removing Node {key} from Controller"));
                }
                Change::Added(_) => {
                    state.lock().hear(&key.name, clock.instant(), heartbeat(node), None);
                    event(node, "RegisteredNode", &format!("Registered Node {key} in Controller"));
                }
                Change::Updated { old, new } => {
                    state.lock().hear(&key.name, clock.instant(), heartbeat(new), None);
                    if same_but_heartbeat(old, new) {
                        return;
                    }
                }
            }
            // Whether others are evicted from depends on how many are well.
            let counts = match change {
                Change::Updated { old, new } => readiness(old) != readiness(new) || zone(old) != zone(new),
                _ => true,
            };
            if counts {
                for other in nodes.list() {
                    queue.add(ObjectKey::of(other.as_ref()));
                }
            }
            queue.add(key);
        });
    }

    /// How long the node may still be silent; zero: its time is up.
    fn silence_left(&self, node: &Node, name: &str) -> Duration {
        let grace = match condition(node, "Ready") {
            Some(_) => self.config.node_grace,
            None => self.config.node_grace.max(STARTUP_GRACE),
        };
        let now = self.clock.instant();
        let mut state = self.state.lock();
        state.hear(name, now, heartbeat(node), None);
        let at = state.heard.get(name).map_or(now, |heard| heard.at);
        (at + grace).saturating_duration_since(now)
    }

    /// What may be done about the node's pods, and when to ask again.
    fn eviction(&self, node: &Node) -> (Eviction, Option<Duration>) {
        let nodes = self.nodes.list();
        let count = |zoned: Option<&str>| {
            let these = nodes.iter().filter(|node| zoned.is_none_or(|wanted| zone(node) == wanted));
            let (ready, not_ready): (Vec<_>, Vec<_>) = these.partition(|node| readiness(node) == "True");
            (ready.len(), not_ready.len())
        };
        let now = self.clock.instant();
        let mut state = self.state.lock();
        let (ready, not_ready) = count(None);
        if disruption(ready, not_ready) == Disruption::Full {
            if !state.blind {
                warn!("all nodes are not ready: nothing is evicted");
            }
            state.blind = true;
            return (Eviction::Stopped, None);
        }
        if std::mem::take(&mut state.blind) {
            info!("some nodes are ready again");
            // What was not heard may have been our fault.
            for heard in state.heard.values_mut() {
                heard.at = now;
            }
        }
        let zone = zone(node);
        let (ready, not_ready) = count(Some(&zone));
        let pause = match disruption(ready, not_ready) {
            Disruption::Partial if ready + not_ready <= LARGE_ZONE => return (Eviction::Later, None),
            Disruption::Partial => LARGE_ZONE_PAUSE,
            Disruption::Normal | Disruption::Full => EVICTION_PAUSE,
        };
        if !waits_for_eviction(node) {
            return (Eviction::Later, None);
        }
        let since = state.evicted.get(&zone).map(|last| now.duration_since(*last));
        if let Some(left) = since.and_then(|since| pause.checked_sub(since)).filter(|left| !left.is_zero()) {
            return (Eviction::Later, Some(left));
        }
        state.evicted.insert(zone, now);
        (Eviction::Allowed, None)
    }

    async fn apply(&self, node: &Node, name: &str, actions: Vec<Action>) -> Result<(), Error> {
        let api = Api::<Node>::all(self.client.clone());
        let mut version = node.metadata.resource_version.clone();
        for action in actions {
            match action {
                Action::SetStatus(status) => {
                    let changed = Node { status: Some(status), ..node.clone() };
                    let result = api.replace_status(name, &PostParams::default(), &changed).await;
                    let written = gone_is_fine(result).map_err(Error::api(format!("update status of node {name}")))?;
                    let Some(written) = written else { return Ok(()) };
                    warn!(node = name, "kubelet stopped posting node status");
                    version = written.metadata.resource_version;
                }
                Action::ReportNotReady => {
                    let message = format!("Node {name} status is now: NodeNotReady");
                    self.recorder.event(&about(node), EventType::Normal, "NodeNotReady", &message);
                }
                Action::SetTaints(taints) => self.set_taints(&api, name, &version, &taints).await?,
                Action::MarkPodsNotReady => {
                    for pod in pods_on(&self.pods, name) {
                        self.mark_not_ready(&pod).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn set_taints(
        &self,
        api: &Api<Node>,
        name: &str,
        version: &Option<String>,
        taints: &[Taint],
    ) -> Result<(), Error> {
        let keys: Vec<String> = taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect();
        let taints = if taints.is_empty() { json!(null) } else { json!(taints) };
        let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": taints } }));
        let result = api.patch(name, &PatchParams::default(), &patch).await;
        gone_is_fine(result).map_err(Error::api(format!("taint node {name}")))?;
        info!(node = name, taints = ?keys, "changed taints");
        Ok(())
    }

    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), Error> {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        if !conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
            return Ok(());
        }
        let key = ObjectKey::of(pod);
        let mut changed = pod.clone();
        for condition in changed.status.get_or_insert_default().conditions.iter_mut().flatten() {
            if condition.type_ == "Ready" {
                condition.status = "False".into();
                condition.last_transition_time = Some(Time(self.clock.now()));
            }
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let result = api.replace_status(&key.name, &PostParams::default(), &changed).await;
        let written = gone_is_fine(result).map_err(Error::api(format!("update status of pod {key}")))?;
        if written.is_some() {
            self.recorder.event(&object_reference(pod), EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.nodes.synced().await;
        self.leases.synced().await;
        self.pods.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(node) = self.nodes.get(key) else { return Ok(None) };
        let (eviction, evict_again) = self.eviction(&node);
        let left = self.silence_left(&node, &key.name);
        let silent = left.is_zero();
        let actions = plan(&Observed { node: &node, silent, eviction, now: self.clock.now() });
        self.apply(&node, &key.name, actions).await?;
        // Once it is known to be silent its next word wakes us.
        let speaks_again = if silent { Some(self.config.node_grace) } else { Some(left) };
        Ok(speaks_again.into_iter().chain(evict_again).min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::{Clock as _, FakeClock};

    #[test]
    fn only_news_is_a_sign_of_life() {
        let clock = FakeClock::new(Timestamp::UNIX_EPOCH);
        let start = clock.instant();
        let second = |n: i64| Timestamp::from_second(n).ok();
        let mut state = State::default();
        let at = |state: &State| state.heard["n"].at.duration_since(start).as_secs();
        state.hear("n", clock.instant(), second(100), None);
        clock.advance(Duration::from_secs(5));
        state.hear("n", clock.instant(), second(100), None);
        assert_eq!(at(&state), 0);
        state.hear("n", clock.instant(), None, second(3));
        assert_eq!(at(&state), 5);
        clock.advance(Duration::from_secs(5));
        // A node whose clock went back is heard no more by its heartbeat, but by its lease.
        state.hear("n", clock.instant(), second(50), second(3));
        assert_eq!(at(&state), 5);
        state.hear("n", clock.instant(), second(50), second(4));
        assert_eq!(at(&state), 10);
    }
}
