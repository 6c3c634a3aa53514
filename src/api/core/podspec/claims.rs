//! Validation of claims: the templates of ephemeral volumes, and PersistentVolumeClaimSpec.

use apimachinery::validation::{ErrorList, Path, meta, names};
use serde_json::Value;

use super::resources::{quantities, validate_quantity};
use super::volumes::required;
use crate::access::*;

pub(super) fn validate_claim_template(errors: &mut ErrorList, template: &Value, path: &Path) {
    let metadata = obj(template, "metadata");
    let at = path.child("metadata");
    errors.extend(meta::validate_annotations(obj(metadata, "annotations"), &at.child("annotations")));
    errors.extend(meta::validate_labels(obj(metadata, "labels"), &at.child("labels")));
    let others = [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    for key in others {
        if has(metadata, key) {
            let shown = if key == "uid" { "uID" } else { key };
            errors.forbidden(at.child(shown), "cannot be set");
        }
    }
    validate_claim_spec(errors, obj(template, "spec"), &path.child("spec"));
}

/// A PersistentVolumeClaimSpec.
pub fn validate_claim_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let modes = texts(spec, "accessModes");
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    if modes.is_empty() {
        errors.required(path.child("accessModes"), "at least 1 access mode is required");
    }
    super::label_selector(errors, obj(spec, "selector"), &path.child("selector"));
    for mode in &modes {
        if !known.contains(mode) {
            errors.not_supported(path.child("accessModes"), *mode, &known);
        }
    }
    let others = modes.iter().any(|m| known[..3].contains(m));
    if modes.contains(&"ReadWriteOncePod") && others {
        errors.forbidden(path.child("accessModes"), "may not use ReadWriteOncePod with other access modes");
    }
    let storage_path = path.child("resources").key("storage");
    match quantities(obj(spec, "resources"), "requests").get("storage") {
        None => errors.required(storage_path, ""),
        Some(storage) if storage.milli_value() <= 0 => {
            errors.invalid(storage_path, storage.to_string(), "must be greater than zero");
        }
        Some(storage) => validate_quantity(errors, "storage", storage, &storage_path),
    }
    for key in ["storageClassName", "volumeAttributesClassName"] {
        if key == "volumeAttributesClassName" {
            validate_claim_sources(errors, spec, path);
        }
        if let Some(class) = opt_text(spec, key).filter(|c| !c.is_empty()) {
            errors.invalid_all(&path.child(key), class, names::dns1123_subdomain(class, false));
        }
    }
}

fn validate_claim_sources(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if let Some(mode) = opt_text(spec, "volumeMode").filter(|m| !matches!(*m, "Block" | "Filesystem")) {
        errors.not_supported(path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    for key in ["dataSource", "dataSourceRef"] {
        let Some(source) = field(spec, key) else { continue };
        let at = path.child(key);
        required(errors, source, &["name", "kind"], &at);
        let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(at.clone(), kind, detail);
        }
        if !group.is_empty() {
            errors.invalid_all(&at.child("apiGroup"), group, names::is_dns1123_subdomain(group));
        }
        let namespace = text(source, "namespace");
        if key == "dataSourceRef" && !namespace.is_empty() {
            errors.invalid_all(&at.child("namespace"), namespace, names::dns1123_label(namespace, false));
        }
    }
    let (Some(source), Some(reference)) = (field(spec, "dataSource"), field(spec, "dataSourceRef")) else { return };
    let same = ["apiGroup", "kind", "name"].iter().all(|k| opt_text(source, k) == opt_text(reference, k));
    let shown = path.child("dataSource").to_string();
    if !text(reference, "namespace").is_empty() {
        errors.invalid(path.clone(), shown, "may not be specified when dataSourceRef.namespace is specified");
    } else if !same {
        errors.invalid(path.clone(), shown, "must match dataSourceRef");
    }
}
