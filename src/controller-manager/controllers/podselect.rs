//! Services and the pods that they select, through indexes; what both endpoint controllers share.
//!
//! Invariants:
//! - PS-1: a pod change that cannot change any endpoint wakes no service.

use std::net::IpAddr;

use client::{Change, Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerPort, Pod, PodCondition, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::owners::Labels;

/// On services: `<namespace>/<key>=<value>` of the first pair of the selector.
const BY_SELECTOR: &str = "first-selector-pair";
/// On pods: the namespace.
const BY_NAMESPACE: &str = "namespace";

pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Registers the indexes, and wakes the services whose endpoints a pod or service change may touch.
pub fn watch(services: &Informer<Service>, pods: &Informer<Pod>, queue: &WorkQueue<ObjectKey>) {
    services.add_index(BY_SELECTOR, |service| {
        let pair = selector(service).and_then(|selector| selector.iter().next());
        pair.map(|(key, value)| index_value(service.metadata.namespace.as_deref(), key, value)).into_iter().collect()
    });
    pods.add_index(BY_NAMESPACE, |pod: &Pod| pod.metadata.namespace.iter().cloned().collect());
    let on_service = queue.clone();
    services.on_change(move |change| on_service.add(ObjectKey::of(change.object().as_ref())));
    let (on_pod, services) = (queue.clone(), services.clone());
    pods.on_change(move |change| {
        for service in touched(&services, change) {
            on_pod.add(service);
        }
    });
}

/// The pods that `service` selects.
pub fn pods_of(service: &Service, pods: &Informer<Pod>) -> Vec<std::sync::Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let mut found = pods.by_index(BY_NAMESPACE, service.metadata.namespace.as_deref().unwrap_or_default());
    found.retain(|pod| matches(selector, pod.metadata.labels.as_ref()));
    found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    found
}

/// The selector, when the service has one and endpoints are made from it.
pub fn selector(service: &Service) -> Option<&Labels> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty());
    selector.filter(|_| spec.type_.as_deref() != Some("ExternalName"))
}

fn matches(selector: &Labels, labels: Option<&Labels>) -> bool {
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

fn index_value(namespace: Option<&str>, key: &str, value: &str) -> String {
    format!("{}/{key}={value}", namespace.unwrap_or_default())
}

fn services_for(services: &Informer<Service>, pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref();
    let pairs = pod.metadata.labels.iter().flatten();
    pairs
        .flat_map(|(key, value)| services.by_index(BY_SELECTOR, &index_value(namespace, key, value)))
        .filter(|service| selector(service).is_some_and(|selector| matches(selector, pod.metadata.labels.as_ref())))
        .map(|service| ObjectKey::of(service.as_ref()))
        .collect()
}

fn touched(services: &Informer<Service>, change: &Change<Pod>) -> Vec<ObjectKey> {
    match change {
        Change::Added(pod) | Change::Deleted(pod) => services_for(services, pod),
        Change::Updated { old, new } => {
            let relabelled = old.metadata.labels != new.metadata.labels;
            if !relabelled && !endpoint_changed(old, new) {
                return Vec::new();
            }
            let mut found = services_for(services, new);
            if relabelled {
                found.extend(services_for(services, old));
            }
            found
        }
    }
}

fn endpoint_changed(old: &Pod, new: &Pod) -> bool {
    fn facts(pod: &Pod) -> impl PartialEq + '_ {
        let spec = pod.spec.as_ref();
        (
            pod.metadata.uid.as_deref(),
            pod.metadata.deletion_timestamp.is_some(),
            spec.map(|spec| (spec.node_name.as_deref(), spec.hostname.as_deref(), spec.subdomain.as_deref())),
            is_terminal(pod),
            is_ready(pod),
            pod_ips(pod),
        )
    }
    facts(old) != facts(new)
}

pub fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    matches!(address, None | Some("" | "None"))
}

/// `clusterIP: None` to the letter: then it needs no ports.
fn is_portless_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

pub fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// Whether the pod is an endpoint at all, ready or not.
pub fn is_endpoint(pod: &Pod, include_terminating: bool) -> bool {
    !is_terminal(pod) && !pod_ips(pod).is_empty() && (include_terminating || !is_terminating(pod))
}

pub fn pod_ips(pod: &Pod) -> Vec<&str> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str()).collect();
    if all.is_empty() { status.pod_ip.as_deref().filter(|ip| !ip.is_empty()).into_iter().collect() } else { all }
}

/// `IPv4` or `IPv6`; none: not an address.
pub fn family(address: &str) -> Option<&'static str> {
    match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(_) => Some("IPv4"),
        IpAddr::V6(_) => Some("IPv6"),
    }
}

/// The name that the pod has under the service's domain.
pub fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let same = spec.subdomain == service.metadata.name && pod.metadata.namespace == service.metadata.namespace;
    spec.hostname.as_deref().filter(|hostname| same && !hostname.is_empty())
}

/// The service's ports, and where this pod has them. Ports that it does not have are left out. `None`: the service has
/// no ports and needs some.
pub fn ports<'a>(service: &'a Service, pod: &Pod) -> Option<Vec<(&'a ServicePort, i32)>> {
    let all = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    if all.is_empty() && !is_portless_headless(service) {
        return None;
    }
    Some(all.iter().filter_map(|port| Some((port, find_port(pod, port)?))).collect())
}

fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".into());
    let fits = |candidate: &&ContainerPort| {
        candidate.name.as_ref() == Some(name) && protocol(&candidate.protocol) == protocol(&port.protocol)
    };
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let found =
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()).find(fits);
    found.map(|found| found.container_port)
}

/// When what the service's endpoints are made of last changed, as far as it is news.
#[derive(Default)]
pub struct TriggerTimes {
    services: std::collections::HashMap<ObjectKey, Seen>,
}

#[derive(Default)]
struct Seen {
    service: Option<Timestamp>,
    pods: std::collections::HashMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The earliest change since the last call; none: nothing that has a time changed.
    pub fn next(&mut self, key: &ObjectKey, service: &Service, pods: &[std::sync::Arc<Pod>]) -> Option<Timestamp> {
        let old = self.services.remove(key).unwrap_or_default();
        let mut new =
            Seen { service: service.metadata.creation_timestamp.as_ref().map(|time| time.0), ..Seen::default() };
        let mut changed = Vec::new();
        for pod in pods {
            let Some(time) = ready_condition(pod).and_then(|condition| condition.last_transition_time.as_ref()) else {
                continue;
            };
            let name = pod.metadata.name.clone().unwrap_or_default();
            if old.pods.get(&name).is_none_or(|last| time.0 > *last) {
                changed.push(time.0);
            }
            new.pods.insert(name, time.0);
        }
        if new.service > old.service {
            changed.extend(new.service);
        }
        self.services.insert(key.clone(), new);
        changed.into_iter().min()
    }

    pub fn forget(&mut self, key: &ObjectKey) {
        self.services.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_ports_are_looked_up_per_pod() {
        let pod: Pod = serde_json::from_value(json!({ "spec": {
            "containers": [{ "name": "c", "ports": [{ "name": "web", "containerPort": 8080 }, { "name": "web", "protocol": "UDP", "containerPort": 53 }] }],
            "initContainers": [{ "name": "s", "restartPolicy": "Always", "ports": [{ "name": "side", "containerPort": 9 }] }],
        } }))
        .expect("a pod");
        let service: Service = serde_json::from_value(json!({ "spec": { "clusterIP": "10.0.0.1", "ports": [
            { "name": "a", "port": 80, "targetPort": "web" }, { "name": "b", "port": 81, "targetPort": "side" },
            { "name": "c", "port": 82, "targetPort": "none" }, { "name": "d", "port": 83, "targetPort": 5 },
            { "name": "e", "port": 84 }, { "name": "f", "port": 85, "protocol": "UDP", "targetPort": "web" },
        ] } }))
        .expect("a service");
        let found: Vec<i32> = ports(&service, &pod).expect("ports").into_iter().map(|(_, number)| number).collect();
        assert_eq!(found, [8080, 9, 5, 84, 53]);
    }

    #[test]
    fn trigger_time_is_the_earliest_news() {
        let pod = |time: &str| -> std::sync::Arc<Pod> {
            let pod = json!({ "metadata": { "name": time.len().to_string() }, "status": { "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": time }] } });
            std::sync::Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let service: Service =
            serde_json::from_value(json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:05Z" } }))
                .expect("a service");
        let key = ObjectKey::new("n", "s");
        let mut times = TriggerTimes::default();
        let first = times.next(&key, &service, &[pod("2026-01-01T00:00:07Z")]);
        assert_eq!(first.map(|time| time.to_string()).as_deref(), Some("2026-01-01T00:00:05Z"));
        assert_eq!(times.next(&key, &service, &[pod("2026-01-01T00:00:07Z")]), None);
        assert!(times.next(&key, &service, &[pod("2026-01-01T00:00:09Z")]).is_some());
    }
}
