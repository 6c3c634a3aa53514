//! The loop: events feed queue and cache; one pod at a time is decided; bindings are written side by side.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Client, EventRecorder, EventType, Informers, ObjectKey, object_reference};
use component_base::supervisor::BoxError;
use component_base::{Metrics, Service, ServiceContext, SharedClock, TaskGroup};
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use rand::Rng as _;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::algorithm::{Decision, Diagnosis, schedule};
use crate::cache::{Cache, PodInfo, Snapshot};
use crate::framework::Framework;
use crate::plugins::default_plugins;
use crate::preemption::{self, Preemption};
use crate::queue::{Attempt, Queue};

#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// `spec.schedulerName` of the pods that are ours.
    pub scheduler_name: String,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".into() }
    }
}

/// The service. Give it a client of its own identity (`system:kube-scheduler`).
pub struct Scheduler {
    config: SchedulerConfig,
    client: Client,
    informers: Informers,
    metrics: SchedulerMetrics,
}

#[derive(Clone)]
struct SchedulerMetrics {
    scheduled: Counter,
    unschedulable: Counter,
    errors: Counter,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig, client: Client, informers: Informers, metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        let metrics = SchedulerMetrics {
            scheduled: counter("scheduler_scheduled_pods", "Pods bound to a node"),
            unschedulable: counter("scheduler_unschedulable_attempts", "Attempts that found no node"),
            errors: counter("scheduler_error_attempts", "Attempts that failed to write"),
        };
        Self { config, client, informers, metrics }
    }
}

#[async_trait]
impl Service for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    fn depends_on(&self) -> &'static [&'static str] {
        &["apiserver"]
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let tasks = TaskGroup::child_of(&cx.shutdown);
        let driver = Arc::new(Driver {
            name: self.config.scheduler_name.clone(),
            client: self.client.clone(),
            events: EventRecorder::new(self.client.clone(), &self.config.scheduler_name, "", cx.clock.clone(), &tasks),
            framework: default_plugins(),
            queue: Queue::new(cx.clock.clone()),
            cache: Mutex::default(),
            clock: cx.clock.clone(),
            metrics: self.metrics.clone(),
            tasks: tasks.clone(),
        });
        driver.watch(&self.informers).await;
        cx.ready.set();
        cx.shutdown.run_until_cancelled(driver.drive()).await;
        tasks.stop().await;
        Ok(())
    }
}

struct Driver {
    name: String,
    client: Client,
    events: EventRecorder,
    framework: Framework,
    queue: Queue,
    cache: Mutex<Cache>,
    clock: SharedClock,
    metrics: SchedulerMetrics,
    tasks: TaskGroup,
}

impl Driver {
    async fn watch(self: &Arc<Self>, informers: &Informers) {
        let (namespaces, nodes, pods) = (informers.of::<Namespace>(), informers.of::<Node>(), informers.of::<Pod>());
        let this = self.clone();
        namespaces.on_change(move |change| {
            let gone = matches!(change, Change::Deleted(_));
            let meta = &change.object().metadata;
            let labels = (!gone).then(|| meta.labels.clone().unwrap_or_default());
            this.cache.lock().set_namespace(meta.name.as_deref().unwrap_or_default(), labels);
        });
        let this = self.clone();
        nodes.on_change(move |change| this.node_changed(change));
        let this = self.clone();
        pods.on_change(move |change| this.pod_changed(change));
        namespaces.synced().await;
        nodes.synced().await;
        pods.synced().await;
    }

    fn node_changed(&self, change: &Change<Node>) {
        match change {
            Change::Deleted(node) => {
                self.cache.lock().remove_node(node.metadata.name.as_deref().unwrap_or_default());
                return;
            }
            Change::Added(node) | Change::Updated { new: node, .. } => self.cache.lock().set_node(node.clone()),
        }
        // A heartbeat changes nothing that a plugin looks at.
        let matters = match change {
            Change::Updated { old, new } => {
                let part = |n: &Node| {
                    (n.spec.clone(), n.metadata.labels.clone(), n.status.as_ref().and_then(|s| s.allocatable.clone()))
                };
                part(old) != part(new)
            }
            _ => true,
        };
        if matters {
            self.queue.move_all();
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let key = ObjectKey::of(pod.as_ref());
        let finished = matches!(phase(pod), "Succeeded" | "Failed");
        if matches!(change, Change::Deleted(_)) || finished {
            self.queue.remove(&key);
            self.cache.lock().remove_pod(&key);
            self.queue.move_all();
            return;
        }
        let info = Arc::new(PodInfo::new(pod.clone()));
        match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty()) {
            Some(node) => {
                self.queue.remove(&key);
                let known = self.cache.lock().is_assumed(&key);
                self.cache.lock().set_pod(info, node);
                // A new neighbour may satisfy someone's affinity; one that we placed ourselves was counted already.
                if !known && !matches!(change, Change::Updated { .. }) {
                    self.queue.move_all();
                }
            }
            None if !self.is_ours(pod) || pod.metadata.deletion_timestamp.is_some() => self.queue.remove(&key),
            None if self.cache.lock().is_assumed(&key) => {}
            None => {
                let gate = self.framework.pre_enqueue(&info).err();
                self.queue.set(info, gate.is_some());
                if let Some(message) = gate {
                    self.write_condition(pod.clone(), "SchedulingGated", message);
                }
            }
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()) == Some(self.name.as_str())
    }

    async fn drive(self: &Arc<Self>) {
        let mut start = 0;
        loop {
            let attempt = self.queue.pop().await;
            let snapshot = self.cache.lock().snapshot();
            let tie = rand::rng().random();
            match schedule(&self.framework, &attempt.pod, &snapshot, &mut start, tie) {
                Decision::Fits { node } => {
                    self.cache.lock().assume(attempt.pod.clone(), &node);
                    let this = self.clone();
                    self.tasks.spawn(async move { this.bind(attempt, node).await });
                }
                Decision::Unschedulable(diagnosis) => self.refuse(&attempt, &snapshot, &diagnosis).await,
            }
        }
    }

    async fn bind(&self, attempt: Attempt, node: String) {
        let pod = &attempt.pod.pod;
        let key = &attempt.pod.key;
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.clone()),
                ..ObjectReference::default()
            },
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let result: kube::Result<Value> =
            api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await;
        match result {
            Ok(_) => {
                info!(pod = %key, node, "bound pod");
                self.metrics.scheduled.inc();
                self.queue.done(key);
                let message = format!("Successfully assigned {key} to {node}");
                self.events.event(&object_reference(pod.as_ref()), EventType::Normal, "Scheduled", &message);
            }
            Err(error) => {
                self.metrics.errors.inc();
                self.cache.lock().remove_pod(key);
                if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                    self.queue.done(key);
                    return;
                }
                warn!(pod = %key, node, %error, "binding failed, retrying");
                let message = format!("binding rejected: {error}");
                self.events.event(&object_reference(pod.as_ref()), EventType::Warning, "FailedScheduling", &message);
                self.queue.retry(&attempt);
                self.queue.move_all();
            }
        }
    }

    async fn refuse(&self, attempt: &Attempt, snapshot: &Snapshot, diagnosis: &Diagnosis) {
        self.metrics.unschedulable.inc();
        let mut message = diagnosis.message();
        let found = if diagnosis.nodes == 0 {
            None
        } else {
            Some(preemption::find(&self.framework, &attempt.pod, snapshot, diagnosis))
        };
        let mut nominated = None;
        match found {
            Some(Ok(preemption)) => {
                self.preempt(attempt, &preemption).await;
                nominated = Some(preemption.node);
            }
            Some(Err(text)) => message = format!("{message} no new claims to deallocate, {text}"),
            None => {}
        }
        let pod = &attempt.pod.pod;
        info!(pod = %attempt.pod.key, message, "pod is unschedulable");
        self.events.event(&object_reference(pod.as_ref()), EventType::Warning, "FailedScheduling", &message);
        self.queue.unschedulable(attempt);
        self.write_status(pod.clone(), "Unschedulable", message, nominated);
    }

    async fn preempt(&self, attempt: &Attempt, preemption: &Preemption) {
        let preemptor = &attempt.pod.key;
        for victim in &preemption.victims {
            let (key, pod) = (&victim.key, &victim.pod);
            info!(pod = %key, preemptor = %preemptor, node = preemption.node, "preempting pod");
            let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
            let message = format!("{}: preempting to accommodate a higher priority pod", self.name);
            let condition = self.condition("DisruptionTarget", "True", "PreemptionByScheduler", &message);
            let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
            if let Err(error) = api.patch_status(&key.name, &PatchParams::default(), &patch).await {
                warn!(pod = %key, %error, "could not mark the preempted pod");
            }
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            if let Err(error) = api.delete(&key.name, &params).await {
                warn!(pod = %key, %error, "could not delete the preempted pod");
            }
            let uid = attempt.pod.pod.metadata.uid.as_deref().unwrap_or_default();
            let message = format!("Preempted by pod {uid} on node {}", preemption.node);
            self.events.event(&object_reference(pod.as_ref()), EventType::Normal, "Preempted", &message);
        }
    }

    fn condition(&self, kind: &str, status: &str, reason: &str, message: &str) -> Value {
        let now = Time(jiff::Timestamp::from_second(self.clock.now().as_second()).unwrap_or_default());
        json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastProbeTime": null, "lastTransitionTime": now })
    }

    fn write_condition(&self, pod: Arc<Pod>, reason: &'static str, message: String) {
        self.write_status(pod, reason, message, None);
    }

    fn write_status(&self, pod: Arc<Pod>, reason: &'static str, message: String, nominated: Option<String>) {
        let status = pod.status.as_ref();
        let known = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let same = known.into_iter().any(|c| {
            c.type_ == "PodScheduled"
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message.as_str())
        });
        if same && nominated.is_none() {
            return;
        }
        let mut patch =
            json!({ "status": { "conditions": [self.condition("PodScheduled", "False", reason, &message)] } });
        if let Some(node) = nominated {
            patch["status"]["nominatedNodeName"] = node.into();
        }
        let key = ObjectKey::of(pod.as_ref());
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        self.tasks.spawn(async move {
            let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            if let Err(error) = result {
                if !matches!(&error, kube::Error::Api(status) if status.code == 404) {
                    warn!(pod = %key, %error, "could not write why the pod waits");
                }
            }
        });
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
