//! What a pod asks for and a node has, as integers.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

/// What upstream assumes for scoring when a container asks for nothing.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// CPU in thousandths of a core, the rest in their base unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources, huge pages.
    pub scalar: BTreeMap<String, i64>,
}

pub type Quantities = BTreeMap<String, ApiQuantity>;

impl Resources {
    pub fn of(quantities: Option<&Quantities>) -> Self {
        let mut out = Self::default();
        for (name, quantity) in quantities.into_iter().flatten() {
            // The API server has validated it; an unparsable one asks for nothing.
            let Ok(quantity) = Quantity::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => out.milli_cpu = quantity.milli_value(),
                "memory" => out.memory = quantity.value(),
                "ephemeral-storage" => out.ephemeral_storage = quantity.value(),
                "pods" => {}
                other => {
                    out.scalar.insert(other.to_owned(), quantity.value());
                }
            }
        }
        out
    }

    pub fn add(&mut self, other: &Self) {
        self.milli_cpu += other.milli_cpu;
        self.memory += other.memory;
        self.ephemeral_storage += other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += amount;
        }
    }

    pub fn sub(&mut self, other: &Self) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.ephemeral_storage -= other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() -= amount;
        }
    }

    fn max(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }
}

/// A pod's requests: the larger of all containers together and of the init containers' peak (sidecars keep running),
/// or the pod-level requests, plus overhead.
pub fn pod_requests(pod: &Pod) -> Resources {
    requests(pod, |container| Resources::of(container_requests(container)))
}

/// The same with upstream's defaults for containers that name no CPU or memory: what scores are computed from.
pub fn pod_requests_for_score(pod: &Pod) -> Resources {
    requests(pod, |container| {
        let named = container_requests(container);
        let mut out = Resources::of(named);
        let has = |name: &str| named.is_some_and(|map| map.contains_key(name));
        if !has("cpu") {
            out.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !has("memory") {
            out.memory = DEFAULT_MEMORY;
        }
        out
    })
}

fn container_requests(container: &Container) -> Option<&Quantities> {
    container.resources.as_ref().and_then(|resources: &ResourceRequirements| resources.requests.as_ref())
}

fn requests(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut peak = Resources::default();
    let mut sidecars = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut need = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&need);
            sidecars.add(&need);
            need = sidecars.clone();
        } else {
            need.add(&sidecars);
        }
        peak.max(&need);
    }
    total.max(&peak);
    if let Some(resources) = &spec.resources {
        let pod_level = Resources::of(resources.requests.as_ref());
        let names = resources.requests.as_ref();
        let has = |name: &str| names.is_some_and(|map| map.contains_key(name));
        if has("cpu") {
            total.milli_cpu = pod_level.milli_cpu;
        }
        if has("memory") {
            total.memory = pod_level.memory;
        }
        total.scalar.extend(pod_level.scalar);
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_on_top() {
        let pod: Pod = serde_json::from_value(json!({ "spec": {
            "initContainers": [
                { "name": "side", "restartPolicy": "Always", "resources": { "requests": { "cpu": "100m" } } },
                { "name": "init", "resources": { "requests": { "cpu": "1" } } },
            ],
            "containers": [{ "name": "c", "resources": { "requests": { "cpu": "500m", "memory": "1Gi" } } }],
            "overhead": { "cpu": "10m" },
        }}))
        .expect("a pod");
        let requests = pod_requests(&pod);
        assert_eq!((requests.milli_cpu, requests.memory), (1110, 1 << 30));
        assert_eq!(pod_requests_for_score(&pod).memory, (1 << 30) + (200 << 20));
    }
}
