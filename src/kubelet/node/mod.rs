//! The Node object: registered, kept alive by its lease, and true.
//!
//! Invariants:
//! - ND-1: the lease is renewed every 10 s whatever else happens; the status is written on change, or every 5 minutes.
//! - ND-2: labels and taints that others set are never touched.

pub mod eviction;
pub mod facts;
pub mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use component_base::{Backoff, Ready};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    Node as ApiNode, NodeAddress, NodeSpec, NodeStatus, NodeSystemInfo, ObjectReference, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use crate::cri::v1::VersionResponse;
use crate::error::{Error, Result, is_api_code};
use crate::podworkers::{PodWorkers, Shared};
use status::{Observed, Pressure};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const LEASE_RENEW: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(10);
/// While a node comes up its network is looked at often, so that the node is ready soon after it; then less and less.
const UNREADY: Backoff = Backoff::new(Duration::from_millis(100), 2, Duration::from_secs(10));
/// Looks at each step of [`UNREADY`].
const UNREADY_LOOKS: u32 = 16;
const REPORT: Duration = Duration::from_secs(300);
const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";

pub struct Node {
    shared: Arc<Shared>,
    workers: PodWorkers,
    version: VersionResponse,
    registered: Ready,
    uid: Mutex<Option<String>>,
}

impl Node {
    pub fn new(shared: Arc<Shared>, workers: PodWorkers, version: &VersionResponse) -> Self {
        Self { shared, workers, version: version.clone(), registered: Ready::new(), uid: Mutex::default() }
    }

    /// Set once the API server has the node.
    pub fn registered(&self) -> Ready {
        self.registered.clone()
    }

    pub async fn run(self) {
        self.event(EventType::Normal, "Starting", "Starting kubelet.");
        let node = self.register().await;
        self.event(EventType::Normal, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods");
        self.registered.set();
        tokio::join!(self.keep_lease(), self.keep_status(node));
    }

    fn name(&self) -> &str {
        &self.shared.config.node_name
    }

    fn api(&self) -> Api<ApiNode> {
        Api::all(self.shared.client.clone())
    }

    fn event(&self, kind: EventType, reason: &str, message: &str) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.name().to_owned()),
            // Upstream identifies the node by its name here.
            uid: Some(self.name().to_owned()),
            ..ObjectReference::default()
        };
        self.shared.recorder.event(&about, kind, reason, message);
    }

    /// Creates or corrects the Node until the API server has it.
    async fn register(&self) -> ApiNode {
        let backoff = Backoff::RECONNECT;
        let mut failures = 0;
        loop {
            match self.try_register().await {
                Ok(node) => {
                    self.uid.lock().clone_from(&node.metadata.uid);
                    info!(node = self.name(), "node registered");
                    return node;
                }
                Err(error) => warn!(node = self.name(), %error, "node not registered, will try again"),
            }
            self.shared.clock.sleep(backoff.delay(failures)).await;
            failures += 1;
        }
    }

    async fn try_register(&self) -> Result<ApiNode> {
        let wanted = self.wanted_node().await?;
        let what = || format!("node {:?}", self.name());
        match self.api().create(&PostParams::default(), &wanted).await {
            Ok(node) => return Ok(node),
            Err(error) if is_api_code(&error, 409) => {}
            Err(error) => return Err(Error::api(what())(error)),
        }
        let known = self.api().get(self.name()).await.map_err(Error::api(what()))?;
        let labels = wanted.metadata.labels.unwrap_or_default();
        let old = known.metadata.labels.clone().unwrap_or_default();
        let changed: BTreeMap<_, _> = labels.into_iter().filter(|(k, v)| old.get(k) != Some(v)).collect();
        let mut patch = json!({});
        if !changed.is_empty() {
            patch["metadata"] = json!({ "labels": changed });
        }
        let known_provider = known.spec.as_ref().and_then(|s| s.provider_id.clone()).unwrap_or_default();
        if let Some(provider) = self.shared.config.provider_id.as_ref().filter(|_| known_provider.is_empty()) {
            patch["spec"] = json!({ "providerID": provider });
        }
        if patch == json!({}) {
            return Ok(known);
        }
        let patched = self.api().patch(self.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        patched.map_err(Error::api(what()))
    }

    async fn wanted_node(&self) -> Result<ApiNode> {
        let config = &self.shared.config;
        let info = facts::system_info(&self.version)?;
        let mut labels = config.node_labels.clone();
        for (key, value) in [
            ("beta.kubernetes.io/arch", info.architecture.as_str()),
            ("beta.kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", info.architecture.as_str()),
            ("kubernetes.io/hostname", config.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        let status = self.observe(&info, None, Pressure::default()).await?;
        let mut taints = config.node_taints.clone();
        if !is_ready(&status) && !taints.iter().any(|t| t.key == NOT_READY_TAINT) {
            taints.push(Taint { key: NOT_READY_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() });
        }
        Ok(ApiNode {
            metadata: ObjectMeta {
                name: Some(config.node_name.clone()),
                labels: Some(labels),
                annotations: Some(BTreeMap::from([(
                    "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                    "true".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                provider_id: config.provider_id.clone(),
                taints: (!taints.is_empty()).then_some(taints),
                ..NodeSpec::default()
            }),
            status: Some(status),
        })
    }

    async fn observe(&self, info: &NodeSystemInfo, old: Option<&NodeStatus>, pressure: Pressure) -> Result<NodeStatus> {
        let config = &self.shared.config;
        let capacity = facts::capacity(config)?;
        let (runtime, images) = tokio::join!(self.shared.cri.status(), self.shared.cri.list_images());
        let not_ready = match &runtime {
            Ok(status) => status::runtime_problem(status),
            Err(error) => Some(format!("container runtime is down: {}", error.short())),
        };
        let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
        let addresses =
            [address("InternalIP", config.node_ip.to_string()), address("Hostname", config.node_name.clone())];
        Ok(status::build(&Observed {
            capacity: &capacity,
            allocatable: &facts::allocatable(config, &capacity),
            info,
            addresses: &addresses,
            port: i32::from(config.server.bind.port()),
            images: &images.unwrap_or_default(),
            pressure,
            not_ready: not_ready.as_deref(),
            old,
            now: self.shared.clock.now(),
        }))
    }

    async fn keep_status(&self, node: ApiNode) {
        let clock = &self.shared.clock;
        let info = match facts::system_info(&self.version) {
            Ok(info) => info,
            Err(error) => {
                warn!(%error, "the machine cannot be examined");
                NodeSystemInfo::default()
            }
        };
        let mut sent: Option<NodeStatus> = None;
        let mut known = node.status.clone().unwrap_or_default();
        let mut sent_at = clock.instant();
        let mut untaint = true;
        let mut eviction = eviction::Eviction::new(self.shared.clone(), self.workers.clone());
        let (mut failures, mut unready_looks) = (0, 0);
        loop {
            let pressure = eviction.look().await;
            let mut wait = LOOK;
            match self.observe(&info, Some(&known), pressure).await {
                Err(error) => warn!(%error, "the machine cannot be examined"),
                Ok(status) => {
                    let due = clock.instant() - sent_at >= REPORT;
                    let changed = sent.as_ref().is_none_or(|sent| status::differs(sent, &status));
                    if due || changed {
                        match self.send(&status, &known).await {
                            Ok(()) => {
                                self.tell_transitions(sent.as_ref(), &status);
                                known = status.clone();
                                sent = Some(status.clone());
                                sent_at = clock.instant();
                                failures = 0;
                            }
                            Err(error) => {
                                debug!(%error, "node status not accepted, will be sent again");
                                wait = Backoff::RECONNECT.delay(failures);
                                failures += 1;
                                if error.is_not_found() {
                                    self.register().await;
                                }
                            }
                        }
                    }
                    if !is_ready(&status) {
                        wait = wait.min(UNREADY.delay(unready_looks / UNREADY_LOOKS));
                        unready_looks += 1;
                    } else {
                        unready_looks = 0;
                        if untaint && sent.is_some() {
                            untaint = !self.remove_not_ready_taint().await;
                        }
                    }
                }
            }
            clock.sleep(wait).await;
        }
    }

    async fn send(&self, status: &NodeStatus, known: &NodeStatus) -> Result<()> {
        let mut value = serde_json::to_value(status).unwrap_or_default();
        if status.addresses == known.addresses {
            if let Some(map) = value.as_object_mut() {
                map.remove("addresses");
            }
        } else if let Some(list) = value.get_mut("addresses").and_then(Value::as_array_mut) {
            // They are replaced, not merged by type.
            list.push(json!({ "$patch": "replace" }));
        }
        let patch = json!({ "status": value });
        let sent = self.api().patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        sent.map(|_| ()).map_err(Error::api(format!("status of node {:?}", self.name())))
    }

    /// The taint a node registers with; whoever is first, the node lifecycle controller or we, removes it.
    async fn remove_not_ready_taint(&self) -> bool {
        let Ok(node) = self.api().get(self.name()).await else { return false };
        let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        if !taints.iter().any(|t| t.key == NOT_READY_TAINT) {
            return true;
        }
        let rest: Vec<Taint> = taints.into_iter().filter(|t| t.key != NOT_READY_TAINT).collect();
        let patch = json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": rest },
        });
        match self.api().patch(self.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => true,
            Err(error) if is_api_code(&error, 409) => false,
            Err(error) => {
                // An agent may not change taints; the controller does.
                debug!(%error, "not-ready taint is left to the controller");
                true
            }
        }
    }

    fn tell_transitions(&self, old: Option<&NodeStatus>, new: &NodeStatus) {
        let state = |status: Option<&NodeStatus>, name: &str| {
            let condition = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten().find(|c| c.type_ == name);
            condition.map(|c| c.status == "True")
        };
        for (name, yes, no) in [
            ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
            ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
            ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
            ("Ready", "NodeReady", "NodeNotReady"),
        ] {
            let (before, after) = (state(old, name), state(Some(new), name));
            if before == after || (name == "Ready" && before.is_none() && after == Some(false)) {
                continue;
            }
            let reason = if after == Some(true) { yes } else { no };
            self.event(EventType::Normal, reason, &format!("Node {} status is now: {reason}", self.name()));
        }
    }

    async fn keep_lease(&self) {
        let clock = &self.shared.clock;
        let backoff = Backoff::new(Duration::from_millis(200), 2, Duration::from_secs(7));
        let mut failures = 0;
        loop {
            let wait = match self.renew_lease().await {
                Ok(()) => {
                    failures = 0;
                    LEASE_RENEW
                }
                Err(error) => {
                    debug!(%error, "lease not renewed");
                    failures += 1;
                    backoff.delay(failures - 1)
                }
            };
            clock.sleep(wait).await;
        }
    }

    async fn renew_lease(&self) -> Result<()> {
        let api = Api::<Lease>::namespaced(self.shared.client.clone(), LEASE_NAMESPACE);
        let now: Timestamp = self.shared.clock.now();
        let spec = LeaseSpec {
            holder_identity: Some(self.name().to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        let what = || format!("lease {LEASE_NAMESPACE}/{}", self.name());
        let patch = json!({ "spec": spec });
        match api.patch(self.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            Err(error) if is_api_code(&error, 404) => {}
            Err(error) => return Err(Error::api(what())(error)),
        }
        let owner = self.uid.lock().clone().map(|uid| OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.name().to_owned(),
            uid,
            ..OwnerReference::default()
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name().to_owned()),
                namespace: Some(LEASE_NAMESPACE.into()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        };
        api.create(&PostParams::default(), &lease).await.map(|_| ()).map_err(Error::api(what()))
    }
}

fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
