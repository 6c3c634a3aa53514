//! The older v1 Endpoints of services that select pods.
//!
//! Watches services, pods and Endpoints. Writes the Endpoints that have the service's name.
//!
//! Invariants:
//! - EP-1: Endpoints of services without a selector are their author's and are not touched.
//! - EP-2: at most 1000 addresses are kept, ready ones first; an annotation says so.
//! - EP-3: Endpoints go when their service goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::controllers::podselect::{self, HEADLESS_LABEL, TRIGGER_TIME, TriggerTimes};
use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const TRUNCATED: &str = "truncated";
const CAPACITY: usize = 1000;
/// Endpoints that are a leader election's lock belong to no service.
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = EndpointsController {
        client: cx.client.clone(),
        queue: cx.queue(),
        services: cx.informers.of(),
        pods: cx.informers.of(),
        endpoints: cx.informers.of(),
        recorder: cx.recorder("endpoint-controller"),
        triggers: Mutex::default(),
        orphaned: Arc::default(),
    };
    podselect::watch(&this.services, &this.pods, &this.queue);
    let orphaned = this.orphaned.clone();
    this.services.on_change(move |change| {
        let key = ObjectKey::of(change.object().as_ref());
        match change {
            Change::Deleted(_) => orphaned.lock().insert(key),
            _ => orphaned.lock().remove(&key),
        };
    });
    let queue = this.queue.clone();
    this.endpoints.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    Arc::new(this)
}

struct EndpointsController {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    recorder: EventRecorder,
    triggers: Mutex<TriggerTimes>,
    /// Services that are gone: their Endpoints go too.
    orphaned: Arc<Mutex<HashSet<ObjectKey>>>,
}

struct Observed<'a> {
    service: &'a Service,
    pods: &'a [Arc<Pod>],
    existing: Option<&'a Endpoints>,
    trigger_time: Option<Timestamp>,
}

#[derive(Debug, PartialEq)]
enum Action {
    Create(Endpoints),
    Update(Endpoints),
}

fn plan(observed: &Observed<'_>) -> Vec<Action> {
    let service = observed.service;
    let (subsets, truncated) = truncate(subsets(service, observed.pods), CAPACITY);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if podselect::is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());

    let old = observed.existing;
    let mut annotations = old.and_then(|old| old.metadata.annotations.clone()).unwrap_or_default();
    let annotated = annotations.get(OVER_CAPACITY).map(String::as_str);
    if let Some(old) = old
        && old.subsets.as_deref().unwrap_or_default() == subsets
        && old.metadata.labels.as_ref() == Some(&labels)
        && annotated == truncated.then_some(TRUNCATED)
    {
        return Vec::new();
    }
    let mut annotate = |key: &str, value: Option<String>| match value {
        Some(value) => annotations.insert(key.to_owned(), value),
        None => annotations.remove(key),
    };
    annotate(TRIGGER_TIME, observed.trigger_time.map(|time| time.to_string()));
    annotate(OVER_CAPACITY, truncated.then(|| TRUNCATED.to_owned()));
    let metadata = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..old.map(|old| old.metadata.clone()).unwrap_or_default()
    };
    let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    let new = Endpoints {
        metadata: ObjectMeta { labels: Some(labels), annotations, ..metadata },
        subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
    };
    vec![if old.is_some() { Action::Update(new) } else { Action::Create(new) }]
}

/// What orders addresses and tells them apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct AddressId {
    ip: Option<IpAddr>,
    uid: Option<String>,
    /// Ready.
    ready: Reverse<bool>,
}

/// Ports that the same addresses have are in one subset.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let publish = podselect::publishes_not_ready(service);
    let mut known: BTreeMap<AddressId, EndpointAddress> = BTreeMap::new();
    // In the service's order: who has a port.
    let mut by_port: Vec<(Option<EndpointPort>, Vec<AddressId>)> = Vec::new();
    for pod in pods.iter().filter(|pod| podselect::is_endpoint(pod, publish)) {
        let Some(address) = address(service, pod) else { continue };
        let Some(ports) = podselect::ports(service, pod) else { continue };
        let uid = pod.metadata.uid.clone();
        let ready = Reverse(publish || podselect::is_ready(pod));
        let id = AddressId { ip: address.ip.parse().ok(), uid, ready };
        let mut ports: Vec<Option<EndpointPort>> = ports
            .into_iter()
            .map(|(port, number)| {
                Some(EndpointPort {
                    name: port.name.clone().filter(|name| !name.is_empty()),
                    port: number,
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        if service.spec.as_ref().is_none_or(|spec| spec.ports.as_ref().is_none_or(Vec::is_empty)) {
            ports.push(None);
        }
        for port in ports {
            match by_port.iter_mut().find(|(known, _)| *known == port) {
                Some((_, ids)) => ids.push(id.clone()),
                None => by_port.push((port, vec![id.clone()])),
            }
        }
        known.insert(id, address);
    }
    let mut by_addresses: BTreeMap<Vec<AddressId>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, mut ids) in by_port {
        ids.sort();
        ids.dedup();
        by_addresses.entry(ids).or_default().extend(port);
    }
    let subset = |(ids, mut ports): (Vec<AddressId>, Vec<EndpointPort>)| {
        let of = |ready: bool| -> Option<Vec<EndpointAddress>> {
            let ids = ids.iter().filter(|id| id.ready.0 == ready);
            let addresses: Vec<_> = ids.filter_map(|id| known.get(id).cloned()).collect();
            Some(addresses).filter(|addresses| !addresses.is_empty())
        };
        ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
        EndpointSubset {
            addresses: of(true),
            not_ready_addresses: of(false),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        }
    };
    by_addresses.into_iter().map(subset).collect()
}

fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let spec = service.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.as_ref());
    let of_address = spec.and_then(|spec| spec.cluster_ip.as_deref()).and_then(podselect::family);
    let family = families.and_then(|families| families.first().map(String::as_str)).or(of_address);
    let ips = podselect::pod_ips(pod);
    let ip = ips.iter().find(|ip| family.is_none() || podselect::family(ip) == family)?;
    Some(EndpointAddress {
        ip: (*ip).to_owned(),
        hostname: podselect::hostname(pod, service).map(str::to_owned),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

/// Each subset keeps its share, rounded up, as long as there is room.
fn truncate(mut subsets: Vec<EndpointSubset>, capacity: usize) -> (Vec<EndpointSubset>, bool) {
    let count = |addresses: &Option<Vec<EndpointAddress>>| addresses.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let not_ready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + not_ready <= capacity {
        return (subsets, false);
    }
    let cut_ready = ready > capacity;
    let (room, total) = if cut_ready { (capacity, ready) } else { (capacity - ready, not_ready) };
    let mut left = room;
    for subset in &mut subsets {
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (count(list) * room).div_ceil(total).min(left);
        left -= share;
        if let Some(addresses) = list {
            addresses.truncate(share);
        }
        *list = list.take().filter(|addresses| !addresses.is_empty());
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (subsets, true)
}

impl EndpointsController {
    async fn apply(&self, key: &ObjectKey, action: Action) -> Result<(), Error> {
        let api = Api::<Endpoints>::namespaced(self.client.clone(), &key.namespace);
        let (result, reason, verb, endpoints) = match &action {
            Action::Create(new) => {
                (api.create(&PostParams::default(), new).await, "FailedToCreateEndpoint", "create", new)
            }
            Action::Update(new) => {
                (api.replace(&key.name, &PostParams::default(), new).await, "FailedToUpdateEndpoint", "update", new)
            }
        };
        match result {
            Ok(_) => Ok(()),
            // The namespace is going.
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("being terminated") => {
                Ok(())
            }
            Err(error) => {
                let error = Error::api(format!("{verb} endpoints {key}"))(error);
                if error.code() != 409 {
                    let what = if verb == "create" { "endpoint for service" } else { "endpoint" };
                    let message = format!("Failed to {verb} {what} {key}: {error}");
                    self.recorder.event(&object_reference(endpoints), EventType::Warning, reason, &message);
                }
                Err(error)
            }
        }
    }

    async fn remove_orphaned(&self, key: &ObjectKey) -> Result<(), Error> {
        self.triggers.lock().forget(key);
        if !self.orphaned.lock().contains(key) {
            return Ok(());
        }
        let Some(endpoints) = self.endpoints.get(key) else { return Ok(()) };
        let preconditions = Preconditions { uid: endpoints.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = Api::<Endpoints>::namespaced(self.client.clone(), &key.namespace);
        gone_is_fine(api.delete(&key.name, &params).await).map_err(Error::api(format!("delete endpoints {key}")))?;
        self.orphaned.lock().remove(key);
        Ok(())
    }
}

#[async_trait]
impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoint"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.services.synced().await;
        self.pods.synced().await;
        self.endpoints.synced().await;
        // Services that went while nobody watched.
        for endpoints in self.endpoints.list() {
            let key = ObjectKey::of(endpoints.as_ref());
            let leader = endpoints.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER));
            if !leader && self.services.get(&key).is_none() {
                self.orphaned.lock().insert(key.clone());
                self.queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(service) = self.services.get(key) else {
            self.remove_orphaned(key).await?;
            return Ok(None);
        };
        if podselect::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let pods = podselect::pods_of(&service, &self.pods);
        let existing = self.endpoints.get(key);
        let trigger_time = self.triggers.lock().next(key, &service, &pods);
        for action in plan(&Observed { service: &service, pods: &pods, existing: existing.as_deref(), trigger_time }) {
            self.apply(key, action).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        let meta = json!({ "name": "web", "namespace": "ns", "labels": { "app": "x" } });
        serde_json::from_value(json!({ "metadata": meta, "spec": spec })).expect("a service")
    }

    fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": name, "namespace": "ns", "uid": name },
                "spec": { "nodeName": "n1", "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": port }] }] },
                "status": { "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": [
                    { "type": "Ready", "status": if ready { "True" } else { "False" } }] },
            }))
            .expect("a pod"),
        )
    }

    fn address(name: &str, ip: &str) -> Value {
        json!({ "ip": ip, "nodeName": "n1", "targetRef": { "kind": "Pod", "namespace": "ns", "name": name, "uid": name } })
    }

    #[test]
    fn ports_with_the_same_addresses_share_a_subset() {
        let service = service(json!({ "clusterIP": "10.0.0.1", "ports": [
            { "name": "b", "port": 80, "targetPort": 8080 }, { "name": "a", "port": 81, "targetPort": "http" }] }));
        let pods =
            [pod("p2", "10.42.0.10", true, 9), pod("p1", "10.42.0.9", false, 9), pod("p3", "10.42.0.2", true, 7)];
        let found = serde_json::to_value(subsets(&service, &pods)).expect("json");
        let port = |name: &str, port: i32| json!({ "name": name, "port": port, "protocol": "TCP" });
        assert_eq!(
            found,
            json!([
                { "addresses": [address("p3", "10.42.0.2")], "ports": [port("a", 7)] },
                { "addresses": [address("p3", "10.42.0.2"), address("p2", "10.42.0.10")],
                  "notReadyAddresses": [address("p1", "10.42.0.9")], "ports": [port("b", 8080)] },
                { "addresses": [address("p2", "10.42.0.10")], "notReadyAddresses": [address("p1", "10.42.0.9")],
                  "ports": [port("a", 9)] },
            ])
        );
    }

    #[test]
    fn written_once() {
        let service = service(json!({ "clusterIP": "None", "selector": { "a": "b" } }));
        let pods = [pod("p1", "10.42.0.9", true, 9)];
        let time = "2026-01-01T00:00:00Z".parse().ok();
        let actions = plan(&Observed { service: &service, pods: &pods, existing: None, trigger_time: time });
        let [Action::Create(new)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(
            serde_json::to_value(&new.metadata).expect("json"),
            json!({ "name": "web", "namespace": "ns", "annotations": { TRIGGER_TIME: "2026-01-01T00:00:00Z" },
                "labels": { "app": "x", MANAGED_BY: MANAGER, HEADLESS_LABEL: "" } })
        );
        assert_eq!(
            serde_json::to_value(&new.subsets).expect("json"),
            json!([{ "addresses": [address("p1", "10.42.0.9")] }])
        );
        assert_eq!(plan(&Observed { service: &service, pods: &pods, existing: Some(new), trigger_time: None }), []);
        let actions = plan(&Observed { service: &service, pods: &[], existing: Some(new), trigger_time: None });
        let [Action::Update(empty)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!((&empty.subsets, &empty.metadata.annotations), (&None, &None));
    }

    #[test]
    fn too_many_are_cut_in_proportion() {
        let addresses = |count: usize| Some(vec![EndpointAddress::default(); count]);
        let subset = |ready, not_ready| EndpointSubset {
            addresses: addresses(ready),
            not_ready_addresses: addresses(not_ready),
            ports: None,
        };
        let shape = |(subsets, cut): (Vec<EndpointSubset>, bool)| {
            let len = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
            let lens = subsets.iter().map(|subset| (len(&subset.addresses), len(&subset.not_ready_addresses)));
            (lens.collect::<Vec<_>>(), cut)
        };
        assert_eq!(shape(truncate(vec![subset(4, 3), subset(2, 1)], 10)), (vec![(4, 3), (2, 1)], false));
        assert_eq!(shape(truncate(vec![subset(4, 3), subset(2, 3)], 9)), (vec![(4, 2), (2, 1)], true));
        assert_eq!(shape(truncate(vec![subset(6, 3), subset(6, 3)], 5)), (vec![(3, 0), (2, 0)], true));
    }
}
