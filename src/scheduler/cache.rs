//! What the scheduler knows: nodes with what runs on them, and pods it has placed but not yet seen placed.
//!
//! Invariants:
//! - SC-1: a pod counts on exactly one node: where it is bound, or where it is assumed.
//! - SC-2: a snapshot is immutable and shares unchanged nodes with the one before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::core::v1::{ContainerImage, Node, Pod};

use crate::resources::{self, Resources};

/// A pod with what plugins ask of it, computed once.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub key: ObjectKey,
    pub priority: i32,
    pub requests: Resources,
    pub score_requests: Resources,
    pub host_ports: Vec<HostPort>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref();
        let host_ports = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(sidecars(spec)))
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                let number = port.host_port.filter(|number| *number > 0)?;
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some(HostPort { ip: port.host_ip.clone().unwrap_or_default(), protocol, port: number })
            })
            .collect();
        Self {
            key: ObjectKey::of(pod.as_ref()),
            priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
            requests: resources::pod_requests(&pod),
            score_requests: resources::pod_requests_for_score(&pod),
            host_ports,
            pod,
        }
    }

    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        labels(&self.pod.metadata.labels)
    }
}

fn sidecars(
    spec: &k8s_openapi::api::core::v1::PodSpec,
) -> impl Iterator<Item = &k8s_openapi::api::core::v1::Container> {
    spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"))
}

/// The labels, or none.
pub fn labels(labels: &Option<BTreeMap<String, String>>) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    labels.as_ref().unwrap_or(&NONE)
}

/// A node and the pods that count on it.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub name: String,
    pub allocatable: Resources,
    pub max_pods: i64,
    pub pods: Vec<Arc<PodInfo>>,
    pub requested: Resources,
    pub score_requested: Resources,
    /// Image name → size in bytes.
    pub images: Arc<HashMap<String, i64>>,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let max_pods = allocatable.and_then(|map| map.get("pods")).and_then(|quantity| quantity.0.parse().ok());
        let images = status.and_then(|status| status.images.as_deref()).unwrap_or_default();
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            allocatable: Resources::of(allocatable),
            max_pods: max_pods.unwrap_or(110),
            pods: Vec::new(),
            requested: Resources::default(),
            score_requested: Resources::default(),
            images: Arc::new(images.iter().flat_map(image_names).collect()),
            node,
        }
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        labels(&self.node.metadata.labels)
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.score_requested.add(&pod.score_requests);
        self.pods.push(pod);
    }

    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| pod.key == *key)?;
        let pod = self.pods.swap_remove(at);
        self.requested.sub(&pod.requests);
        self.score_requested.sub(&pod.score_requests);
        Some(pod)
    }
}

fn image_names(image: &ContainerImage) -> Vec<(String, i64)> {
    let size = image.size_bytes.unwrap_or(0);
    image.names.iter().flatten().map(|name| (name.clone(), size)).collect()
}

/// All nodes at one moment, sorted by name.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub nodes: Vec<Arc<NodeInfo>>,
    /// Labels of namespaces, for namespaceSelector.
    pub namespaces: Arc<HashMap<String, BTreeMap<String, String>>>,
}

impl Snapshot {
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        let at = self.nodes.binary_search_by(|node| node.name.as_str().cmp(name)).ok()?;
        Some(&self.nodes[at])
    }

    pub fn pods(&self) -> impl Iterator<Item = (&Arc<NodeInfo>, &Arc<PodInfo>)> {
        self.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
    }
}

/// The mutable side of the snapshots.
#[derive(Default)]
pub struct Cache {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Where each counted pod counts.
    placed: HashMap<ObjectKey, String>,
    assumed: HashSet<ObjectKey>,
    /// Pods on nodes that are not (yet) known.
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    namespaces: Arc<HashMap<String, BTreeMap<String, String>>>,
}

impl Cache {
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { nodes: self.nodes.values().cloned().collect(), namespaces: self.namespaces.clone() }
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let mut info = NodeInfo::new(node);
        let pods = match self.nodes.get(&info.name) {
            Some(old) => old.pods.clone(),
            None => self.homeless.remove(&info.name).unwrap_or_default(),
        };
        for pod in pods {
            info.add(pod);
        }
        self.nodes.insert(info.name.clone(), Arc::new(info));
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name).filter(|node| !node.pods.is_empty()) {
            self.homeless.insert(name.to_owned(), node.pods.clone());
        }
    }

    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        let namespaces = Arc::make_mut(&mut self.namespaces);
        match labels {
            Some(labels) => namespaces.insert(name.to_owned(), labels),
            None => namespaces.remove(name),
        };
    }

    /// A pod that is bound (replacing what was known of it).
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.key);
        self.place(pod, node);
    }

    /// A pod that is being bound.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.key);
        self.assumed.insert(pod.key.clone());
        self.place(pod, node);
    }

    pub fn is_assumed(&self, key: &ObjectKey) -> bool {
        self.assumed.contains(key)
    }

    pub fn remove_pod(&mut self, key: &ObjectKey) {
        self.assumed.remove(key);
        let Some(name) = self.placed.remove(key) else { return };
        if let Some(node) = self.nodes.get_mut(&name) {
            Arc::make_mut(node).remove(key);
        } else if let Some(pods) = self.homeless.get_mut(&name) {
            pods.retain(|pod| pod.key != *key);
            if pods.is_empty() {
                self.homeless.remove(&name);
            }
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.placed.insert(pod.key.clone(), node.to_owned());
        match self.nodes.get_mut(node) {
            Some(info) => Arc::make_mut(info).add(pod),
            None => self.homeless.entry(node.to_owned()).or_default().push(pod),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str) -> Arc<PodInfo> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "ns" },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
        }))
        .expect("a pod");
        Arc::new(PodInfo::new(Arc::new(pod)))
    }

    fn node(name: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a node"))
    }

    #[test]
    fn a_pod_counts_once_wherever_it_goes() {
        let mut cache = Cache::default();
        cache.set_pod(pod("early"), "n1");
        cache.set_node(node("n1"));
        cache.set_node(node("n2"));
        let before = cache.snapshot();
        cache.assume(pod("a"), "n1");
        cache.set_pod(pod("a"), "n2");
        let cpu = |snapshot: &Snapshot, name: &str| snapshot.node(name).map(|n| n.requested.milli_cpu);
        let after = cache.snapshot();
        assert_eq!((cpu(&after, "n1"), cpu(&after, "n2")), (Some(1000), Some(1000)));
        assert_eq!(cpu(&before, "n2"), Some(0));
        cache.remove_node("n2");
        cache.remove_pod(&ObjectKey::new("ns", "a"));
        cache.set_node(node("n2"));
        assert_eq!(cpu(&cache.snapshot(), "n2"), Some(0));
    }
}
