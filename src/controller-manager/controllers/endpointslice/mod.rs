//! EndpointSlices of services that select pods.
//!
//! Watches services, pods, nodes (for zones) and slices. Writes and deletes the slices that it owns (label
//! `endpointslice.kubernetes.io/managed-by`).
//!
//! Invariants:
//! - ES-1: it touches no slice that another manager labelled as its own.
//! - ES-5: while its last writes are on their way into the cache, changes gather; they are one write afterwards.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForNode, ForZone};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::controllers::podselect::{self, HEADLESS_LABEL, TriggerTimes};
use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};
use crate::owners::{Labels, controller_reference};

pub mod pack;
mod tracker;

use pack::{Action, Desired, Port, Shape};
pub use tracker::Tracker;

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const MAX_ENDPOINTS: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";
/// On slices: `<namespace>/<manager>/<service>`.
const BY_SERVICE: &str = "manager-and-service";
/// When the cache is behind, its event wakes us; this is for an event that never comes.
pub const BEHIND: Duration = Duration::from_secs(1);

/// Registers the index by manager and service, and wakes the service of a slice of `manager` that changes.
pub fn watch_slices(slices: &Informer<EndpointSlice>, queue: &WorkQueue<ObjectKey>, manager: &'static str) {
    slices.add_index(BY_SERVICE, |slice: &EndpointSlice| {
        let label = |key: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        match (slice.metadata.namespace.as_ref(), label(MANAGED_BY), label(SERVICE_NAME)) {
            (Some(namespace), Some(manager), Some(service)) => vec![format!("{namespace}/{manager}/{service}")],
            _ => Vec::new(),
        }
    });
    let queue = queue.clone();
    slices.on_change(move |change| {
        let wake = |slice: &EndpointSlice| {
            let labels = slice.metadata.labels.as_ref();
            let ours = labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == manager);
            let service = labels.and_then(|labels| labels.get(SERVICE_NAME)).filter(|_| ours);
            if let Some(service) = service {
                queue.add(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), service.clone()));
            }
        };
        wake(change.object());
        if let Change::Updated { old, new } = change
            && old.metadata.labels != new.metadata.labels
        {
            wake(old);
        }
    });
}

/// The slices of `manager` for the service `key` that are there to stay.
pub fn slices_of(slices: &Informer<EndpointSlice>, manager: &str, key: &ObjectKey) -> Vec<EndpointSlice> {
    let mut found: Vec<EndpointSlice> = slices
        .by_index(BY_SERVICE, &format!("{}/{manager}/{}", key.namespace, key.name))
        .iter()
        .filter(|slice| slice.metadata.deletion_timestamp.is_none())
        .map(|slice| EndpointSlice::clone(slice))
        .collect();
    found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    found
}

/// Writes what was planned for the service `key`.
pub async fn apply(client: &Client, tracker: &Tracker, key: &ObjectKey, actions: Vec<Action>) -> Result<(), Error> {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), &key.namespace);
    for action in actions {
        match action {
            Action::Create(slice) => match api.create(&PostParams::default(), &slice).await {
                Ok(written) => tracker.wrote(key, &written),
                // The namespace is going, and its content with it.
                Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("being terminated") => {}
                Err(error) => return Err(Error::api(format!("create an endpoint slice of {key}"))(error)),
            },
            Action::Update(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                let result = api.replace(&name, &PostParams::default(), &slice).await;
                let doing = format!("update endpoint slice {}/{name}", key.namespace);
                if let Some(written) = gone_is_fine(result).map_err(Error::api(doing))? {
                    tracker.wrote(key, &written);
                }
            }
            Action::Delete(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                let preconditions = Preconditions { uid: slice.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let doing = format!("delete endpoint slice {}/{name}", key.namespace);
                gone_is_fine(api.delete(&name, &params).await).map_err(Error::api(doing))?;
                tracker.deleted(key, &slice);
            }
        }
    }
    Ok(())
}

/// `<name>-`, the beginning of a slice's name.
pub fn generate_name(name: &str) -> String {
    format!("{name}-")
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let slices = cx.informers.of();
    let this = EndpointSlices {
        client: cx.client.clone(),
        queue: cx.queue(),
        services: cx.informers.of(),
        pods: cx.informers.of(),
        nodes: cx.informers.of(),
        tracker: Tracker::new(cx.clock.clone(), slices.clone()),
        slices,
        recorder: cx.recorder("endpoint-slice-controller"),
        triggers: Mutex::default(),
        homeless: Arc::default(),
    };
    podselect::watch(&this.services, &this.pods, &this.queue);
    watch_slices(&this.slices, &this.queue, MANAGER);
    let (queue, homeless) = (this.queue.clone(), this.homeless.clone());
    this.nodes.on_change(move |change| {
        if let Change::Added(_) = change {
            for key in homeless.lock().drain() {
                queue.add(key);
            }
        }
    });
    Arc::new(this)
}

struct EndpointSlices {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    tracker: Tracker,
    recorder: EventRecorder,
    triggers: Mutex<TriggerTimes>,
    /// Services that have pods on nodes that are not known yet.
    homeless: Arc<Mutex<HashSet<ObjectKey>>>,
}

struct Observed<'a> {
    service: &'a Service,
    /// Selected, each with its node when that is known.
    pods: Vec<(&'a Pod, Option<&'a Node>)>,
    existing: &'a [EndpointSlice],
    trigger_time: Option<jiff::Timestamp>,
}

fn plan(observed: &Observed<'_>) -> Vec<Action> {
    let service = observed.service;
    let families = families(service);
    let mut endpoints: BTreeMap<Shape, Vec<Endpoint>> = BTreeMap::new();
    for (pod, node) in &observed.pods {
        if !podselect::is_endpoint(pod, true) || (node.is_none() && must_wait_for_node(pod, service)) {
            continue;
        }
        let Some(found) = podselect::ports(service, pod) else { continue };
        let mut ports: Vec<Port> = found
            .into_iter()
            .map(|(port, number)| Port {
                name: port.name.clone().unwrap_or_default(),
                port: Some(number),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        ports.sort();
        for address_type in &families {
            if let Some(endpoint) = endpoint(pod, *node, service, address_type) {
                let shape = Shape { address_type, ports: ports.clone() };
                endpoints.entry(shape).or_default().push(endpoint);
            }
        }
    }
    let desired = Desired {
        endpoints,
        placeholders: families,
        labels: labels(service),
        annotations: Labels::new(),
        owner: controller_reference(service),
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        generate_name: generate_name(service.metadata.name.as_deref().unwrap_or_default()),
        max_endpoints: MAX_ENDPOINTS,
        trigger_time: observed.trigger_time,
    };
    let mut actions = pack::plan(&desired, observed.existing);
    if service.metadata.deletion_timestamp.is_some() {
        actions.retain(|action| !matches!(action, Action::Create(_)));
    }
    actions
}

fn must_wait_for_node(pod: &Pod, service: &Service) -> bool {
    let assigned = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|name| !name.is_empty());
    assigned && !podselect::publishes_not_ready(service)
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let of = |text: &str| if text == "IPv6" { "IPv6" } else { "IPv4" };
    let listed: Vec<_> =
        spec.and_then(|spec| spec.ip_families.as_ref()).into_iter().flatten().map(|text| of(text)).collect();
    if !listed.is_empty() {
        return listed;
    }
    let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).and_then(podselect::family);
    vec![address.unwrap_or("IPv4")]
}

fn labels(service: &Service) -> Labels {
    let reserved = |key: &str| key == SERVICE_NAME || key == MANAGED_BY || key == HEADLESS_LABEL;
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !reserved(key));
    if podselect::is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn endpoint(pod: &Pod, node: Option<&Node>, service: &Service, address_type: &str) -> Option<Endpoint> {
    let fits = |ip: &&&str| podselect::family(ip) == Some(address_type);
    let addresses: Vec<String> = podselect::pod_ips(pod).iter().filter(fits).map(|ip| (*ip).to_owned()).collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (podselect::is_ready(pod), podselect::is_terminating(pod));
    let ready = podselect::publishes_not_ready(service) || (serving && !terminating);
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
    let zone = node.and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned()).filter(|zone| !zone.is_empty());
    let preference = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let for_zones = || zone.clone().map(|name| vec![ForZone { name }]);
    let for_nodes = || node_name.clone().map(|name| vec![ForNode { name }]);
    let hints = match preference {
        Some("PreferClose" | "PreferSameZone") => EndpointHints { for_zones: for_zones(), for_nodes: None },
        Some("PreferSameNode") => EndpointHints { for_zones: for_zones(), for_nodes: for_nodes() },
        _ => EndpointHints::default(),
    };
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        hints: Some(hints).filter(|hints| ready && *hints != EndpointHints::default()),
        hostname: podselect::hostname(pod, service).map(str::to_owned),
        node_name,
        zone,
        deprecated_topology: None,
    })
}

#[async_trait]
impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.services.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
        self.slices.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(service) = self.services.get(key) else {
            // Its slices go with it: the garbage collector sees to that.
            self.triggers.lock().forget(key);
            self.tracker.forget(key);
            return Ok(None);
        };
        if podselect::selector(&service).is_none() {
            return Ok(None);
        }
        if !self.tracker.caught_up(key) {
            return Ok(Some(BEHIND));
        }
        let pods = podselect::pods_of(&service, &self.pods);
        let nodes: Vec<Option<Arc<Node>>> = pods
            .iter()
            .map(|pod| self.nodes.get(&ObjectKey::cluster(pod.spec.as_ref()?.node_name.as_deref()?)))
            .collect();
        if pods.iter().zip(&nodes).any(|(pod, node)| node.is_none() && must_wait_for_node(pod, &service)) {
            self.homeless.lock().insert(key.clone());
        }
        let existing = slices_of(&self.slices, MANAGER, key);
        let trigger_time = self.triggers.lock().next(key, &service, &pods);
        let actions = plan(&Observed {
            service: &service,
            pods: pods.iter().map(Arc::as_ref).zip(nodes.iter().map(Option::as_deref)).collect(),
            existing: &existing,
            trigger_time,
        });
        let result = apply(&self.client, &self.tracker, key, actions).await;
        if let Err(error) = &result
            && error.code() != 409
        {
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            let about = object_reference(service.as_ref());
            self.recorder.event(&about, EventType::Warning, "FailedToUpdateEndpointSlices", &message);
        }
        result.map(|()| None)
    }
}

#[cfg(test)]
mod tests;
