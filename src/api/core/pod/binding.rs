//! `pods/binding`: the scheduler's word where a pod runs.

use apimachinery::validation::{ErrorList, Path};
use serde_json::{Value, json};

use crate::access::*;

/// Validates the body of `pods/binding`.
pub fn validate_binding(binding: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let target = obj(binding, "target");
    let path = Path::new("target");
    let kind = text(target, "kind");
    if !kind.is_empty() && kind != "Node" {
        errors.not_supported(path.child("kind"), kind, &["Node", "<empty>"]);
    }
    if text(target, "name").is_empty() {
        errors.required(path.child("name"), "");
    }
    errors
}

/// Why a pod cannot be bound. Both are answered with 409 `Conflict`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The binding is meant for another pod of this name; upstream answers as for a failed precondition of storage.
    #[error("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}")]
    Uid { wanted: String, found: String },
    /// The reason, to stand behind `Operation cannot be fulfilled on pods/binding "<name>": `.
    #[error("{0}")]
    Conflict(String),
}

/// Assigns the pod to the binding's node: node name, annotations and labels of the binding, condition PodScheduled. The
/// generation stays.
pub fn apply_binding(pod: &mut Value, binding: &Value, now: jiff::Timestamp) -> Result<(), BindError> {
    let conflict = |reason: String| Err(BindError::Conflict(reason));
    let name = text(obj(pod, "metadata"), "name").to_owned();
    let node = text(obj(binding, "target"), "name").to_owned();
    let (wanted, uid) = (text(obj(binding, "metadata"), "uid"), text(obj(pod, "metadata"), "uid"));
    if !wanted.is_empty() && wanted != uid {
        return Err(BindError::Uid { wanted: wanted.to_owned(), found: uid.to_owned() });
    }
    if has(obj(pod, "metadata"), "deletionTimestamp") {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let current = text(obj(pod, "spec"), "nodeName");
    if !current.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {}", apimachinery::goformat::quote(current)));
    }
    if !items(obj(pod, "spec"), "schedulingGates").is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    ensure_map(pod, "spec");
    if let Some(spec) = pod.get_mut("spec") {
        set(spec, "nodeName", node);
    }
    let given = obj(binding, "metadata");
    for key in ["annotations", "labels"] {
        let Some(given) = map(given, key).filter(|m| !m.is_empty()) else { continue };
        if let Some(own) = pod.get_mut("metadata").and_then(|m| ensure_map(m, key)) {
            for (k, v) in given {
                // Labels a pod already has may be what a topology label would be; the binding's word is newer.
                own.insert(k.clone(), v.clone());
            }
        }
    }
    set_scheduled(pod, now);
    Ok(())
}

fn set_scheduled(pod: &mut Value, now: jiff::Timestamp) {
    ensure_map(pod, "status");
    let Some(status) = pod.get_mut("status") else { return };
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time,
    });
    let Some(list) = status.as_object_mut().map(|s| s.entry("conditions").or_insert_with(|| json!([]))) else { return };
    if list.is_null() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    match list.iter_mut().find(|c| text(c, "type") == "PodScheduled") {
        Some(found) => {
            if text(found, "status") == "True" {
                copy_field(&mut condition, found, "lastTransitionTime");
            }
            *found = condition;
        }
        None => list.push(condition),
    }
}
