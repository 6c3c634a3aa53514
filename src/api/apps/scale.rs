//! `scale`: the face that everything with replicas shows to autoscalers (autoscaling/v1 Scale).

use apimachinery::labels::Selector;
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::{Map, Value, json};

use crate::access::*;
use crate::core::podspec;

/// The Scale of a Deployment, ReplicaSet, StatefulSet or ReplicationController.
pub fn scale_from(object: &Value) -> Value {
    let (meta, spec, status) = (obj(object, "metadata"), obj(object, "spec"), obj(object, "status"));
    let mut own = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = field(meta, key) {
            own.insert(key.to_owned(), value.clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": own,
        "spec": {},
        "status": {"replicas": int(status, "replicas")},
    });
    let replicas = int(spec, "replicas");
    if replicas != 0 {
        scale["spec"]["replicas"] = json!(replicas);
    }
    let selector = selector_text(obj(spec, "selector"));
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// A ReplicationController's selector is a plain map, the others' a LabelSelector.
fn selector_text(selector: &Value) -> String {
    let plain = selector.as_object().is_some_and(|m| !m.is_empty() && m.values().all(Value::is_string));
    if plain {
        let pairs = selector.as_object().into_iter().flatten();
        return Selector::from_set(pairs.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("")))).to_string();
    }
    Selector::from_label_selector(selector).map(|s| s.to_string()).unwrap_or_default()
}

/// Validates a Scale.
pub fn validate_scale(scale: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let name = text(obj(scale, "metadata"), "name");
    let path = Path::new("metadata").child("name");
    if name.is_empty() {
        errors.required(path, "name or generateName is required");
    } else {
        errors.invalid_all(&path, name, names::dns1123_subdomain(name, false));
    }
    podspec::nonnegative(&mut errors, int(obj(scale, "spec"), "replicas"), &Path::new("spec").child("replicas"));
    errors
}

/// Takes over the replicas (and the resourceVersion, if given) of a valid Scale.
pub fn apply_scale(object: &mut Value, scale: &Value) {
    let replicas = int(obj(scale, "spec"), "replicas");
    if ensure_map(object, "spec").is_some() {
        if let Some(spec) = object.get_mut("spec") {
            set(spec, "replicas", replicas);
        }
    }
    let version = text(obj(scale, "metadata"), "resourceVersion");
    if !version.is_empty() {
        if let Some(meta) = object.get_mut("metadata") {
            set(meta, "resourceVersion", version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut set_ = json!({
            "metadata": {"name": "x", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {
                "replicas": 3,
                "selector": {
                    "matchLabels": {"b": "c", "app": "x"},
                    "matchExpressions": [
                        {"key": "z", "operator": "DoesNotExist"}, {"key": "b", "operator": "In", "values": ["d", "c"]},
                    ],
                },
            },
            "status": {"replicas": 2},
        });
        let mut scale = scale_from(&set_);
        assert_eq!(
            scale,
            json!({
                "kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": "x", "namespace": "n", "uid": "u", "resourceVersion": "7"},
                "spec": {"replicas": 3},
                "status": {"replicas": 2, "selector": "app=x,b=c,b in (c,d),!z"},
            })
        );
        scale["spec"] = json!({});
        assert!(validate_scale(&scale).is_empty());
        apply_scale(&mut set_, &scale);
        assert_eq!(set_["spec"]["replicas"], 0);
        scale["spec"]["replicas"] = json!(-1);
        assert_eq!(validate_scale(&scale).len(), 1);
    }
}
