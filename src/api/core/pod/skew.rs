//! What creation fills in from other fields: label keys into selectors, AppArmor annotations into fields and back.

use apimachinery::validation::Path;
use serde_json::{Value, json};

use super::super::podspec::containers_with_paths;
use crate::access::*;

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Adds what `matchLabelKeys` and `mismatchLabelKeys` mean for this pod's labels to the selectors beside them.
pub(super) fn merge_label_keys(pod: &mut Value) {
    let labels = obj(obj(pod, "metadata"), "labels").clone();
    let Some(spec) = pod.get_mut("spec") else { return };
    if let Some(affinity) = spec.get_mut("affinity") {
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(terms) = affinity.get_mut(kind) else { continue };
            for term in items_mut(terms, REQUIRED) {
                merge_keys(term, &labels);
            }
            for term in items_mut(terms, PREFERRED) {
                if let Some(term) = term.get_mut("podAffinityTerm") {
                    merge_keys(term, &labels);
                }
            }
        }
    }
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        merge_keys(constraint, &labels);
    }
}

fn merge_keys(holder: &mut Value, labels: &Value) {
    if !has(holder, "labelSelector") {
        return;
    }
    let mut added = Vec::new();
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in texts(holder, list) {
            if let Some(value) = opt_text(labels, key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if added.is_empty() {
        return;
    }
    if let Some(selector) = holder.get_mut("labelSelector").and_then(Value::as_object_mut) {
        let list = selector.entry("matchExpressions").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.extend(added);
        }
    }
}

/// Profiles given by annotation become fields; profiles given by field become annotations (for old kubelets).
pub(super) fn sync_app_armor(pod: &mut Value) {
    if text(obj(obj(pod, "spec"), "os"), "name") == "windows" {
        return;
    }
    let annotations = obj(obj(pod, "metadata"), "annotations").clone();
    let pod_profile = obj(obj(obj(pod, "spec"), "securityContext"), "appArmorProfile").clone();
    let mut new_annotations = Vec::new();
    let Some(spec) = pod.get_mut("spec") else { return };
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            let key = format!("{APP_ARMOR}{}", text(container, "name"));
            let own = obj(obj(container, "securityContext"), "appArmorProfile").clone();
            let effective = if own.is_object() { &own } else { &pod_profile };
            match opt_text(&annotations, &key) {
                None => {
                    if let Some(value) = annotation_of(effective) {
                        new_annotations.push((key, value));
                    }
                }
                Some(annotation) => {
                    if own.is_object() {
                        continue;
                    }
                    let Some(profile) = profile_of(annotation).filter(|p| !same(p, &pod_profile)) else { continue };
                    ensure_map(container, "securityContext");
                    if let Some(context) = container.get_mut("securityContext") {
                        set(context, "appArmorProfile", profile);
                    }
                }
            }
        }
    }
    if new_annotations.is_empty() {
        return;
    }
    ensure_map(pod, "metadata");
    if let Some(annotations) = pod.get_mut("metadata").and_then(|m| ensure_map(m, "annotations")) {
        for (key, value) in new_annotations {
            annotations.insert(key, Value::String(value));
        }
    }
}

fn annotation_of(profile: &Value) -> Option<String> {
    match text(profile, "type") {
        "Unconfined" => Some("unconfined".to_owned()),
        "RuntimeDefault" => Some("runtime/default".to_owned()),
        "Localhost" => opt_text(profile, "localhostProfile").map(|local| format!("localhost/{local}")),
        _ => None,
    }
}

fn profile_of(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let local = other.strip_prefix("localhost/").filter(|l| !l.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": local}))
        }
    }
}

/// Annotations that stand for a field which was not given. To be asked before [`sync_app_armor`], which makes both alike.
pub(super) fn app_armor_warnings(pod: &Value) -> Vec<String> {
    let spec = obj(pod, "spec");
    if text(obj(spec, "os"), "name") == "windows" {
        return Vec::new();
    }
    let annotations = obj(obj(pod, "metadata"), "annotations");
    let pod_profile = obj(obj(spec, "securityContext"), "appArmorProfile");
    let mut out = Vec::new();
    for (container, _) in containers_with_paths(spec, &Path::nil()) {
        let key = format!("{APP_ARMOR}{}", text(container, "name"));
        let Some(annotation) = opt_text(annotations, &key) else { continue };
        if has(obj(container, "securityContext"), "appArmorProfile") {
            continue;
        }
        // A profile that the pod as a whole has anyway needs no field of the container.
        if profile_of(annotation).is_none_or(|profile| !same(&profile, pod_profile)) {
            let at = Path::new("metadata").child("annotations").key(&key);
            out.push(format!(r#"{at}: deprecated since v1.30; use the "appArmorProfile" field instead"#));
        }
    }
    out
}
