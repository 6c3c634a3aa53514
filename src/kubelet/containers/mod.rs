//! From a pod's spec to what the runtime is asked to create.

pub mod config;
pub mod dns;
pub mod env;
pub mod expand;
pub mod hosts;
pub mod resources;
pub mod sandbox;
pub mod security;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use serde_json::json;

/// `name_namespace(uid)`, upstream's way to name a pod in messages.
pub fn pod_text(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
}

/// An ephemeral container as a container (its target is kept apart).
pub fn of_ephemeral(container: &EphemeralContainer) -> Container {
    let mut value = serde_json::to_value(container).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.remove("targetContainerName");
    }
    serde_json::from_value(value).unwrap_or_default()
}

/// What makes a running container another one than the spec asks for: its name and image. FNV-1 over the JSON, as
/// upstream, so that containers are recognised across kubelets.
pub fn hash(container: &Container) -> String {
    let text = json!({ "image": container.image.as_deref().unwrap_or_default(), "name": container.name }).to_string();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in text.bytes() {
        hash = hash.wrapping_mul(0x0100_0193) ^ u32::from(byte);
    }
    format!("{hash:x}")
}

/// Every container of the spec: init, regular, ephemeral.
pub fn all(pod: &Pod) -> Vec<Container> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().cloned();
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(of_ephemeral);
    init.chain(spec.containers.iter().cloned()).chain(ephemeral).collect()
}

/// Finds a container by its name, wherever it is in the spec.
pub fn find(pod: &Pod, name: &str) -> Option<Container> {
    all(pod).into_iter().find(|c| c.name == name)
}

pub fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

pub fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// The field path of a container in events (`spec.containers{app}`).
pub fn field_path(pod: &Pod, name: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let list = if spec.containers.iter().any(|c| c.name == name) {
        "containers"
    } else if spec.init_containers.iter().flatten().any(|c| c.name == name) {
        "initContainers"
    } else if spec.ephemeral_containers.iter().flatten().any(|c| c.name == name) {
        "ephemeralContainers"
    } else {
        return None;
    };
    Some(format!("spec.{list}{{{name}}}"))
}
