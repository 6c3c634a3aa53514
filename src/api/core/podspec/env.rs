//! Validation of environment variables and of references to fields and resources.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use super::volumes::local_path;
use crate::access::*;

/// Fields of the pod that an environment variable may take its value from.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of the pod that a file of a downward API volume may show.
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn validate_env(
    errors: &mut ErrorList,
    container: &Value,
    _spec: &Value,
    volumes: &BTreeMap<String, &Value>,
    path: &Path,
) {
    for (i, var) in items(container, "env").iter().enumerate() {
        let at = path.index(i);
        let name = text(var, "name");
        if name.is_empty() {
            errors.required(at.child("name"), "");
        } else if let Some(detail) = relaxed_env_name(name) {
            errors.invalid(at.child("name"), name, detail);
        }
        validate_value_from(errors, var, volumes, &at.child("valueFrom"));
    }
}

/// The relaxed rule of names: printable ASCII without `=`.
fn relaxed_env_name(name: &str) -> Option<&'static str> {
    let printable = name.chars().all(|c| (' '..='~').contains(&c) && c != '=');
    (!printable)
        .then_some("a valid environment variable name must consist only of printable ASCII characters other than '='")
}

fn validate_value_from(errors: &mut ErrorList, var: &Value, volumes: &BTreeMap<String, &Value>, path: &Path) {
    let Some(from) = field(var, "valueFrom") else { return };
    let mut sources = 0;
    if let Some(field_ref) = field(from, "fieldRef") {
        sources += 1;
        validate_field_ref(errors, field_ref, ENV_FIELDS, &path.child("fieldRef"));
    }
    if let Some(resource_ref) = field(from, "resourceFieldRef") {
        sources += 1;
        validate_resource_ref(errors, resource_ref, false, &path.child("resourceFieldRef"));
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(selector) = field(from, key) {
            sources += 1;
            validate_key_ref(errors, selector, &path.child(key));
        }
    }
    if let Some(file) = field(from, "fileKeyRef") {
        sources += 1;
        validate_file_ref(errors, file, volumes, &path.child("fileKeyRef"));
    }
    if sources == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path.clone(), "", detail);
    } else if !text(var, "value").is_empty() {
        errors.invalid(path.clone(), "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(path.clone(), "", "may not have more than one field specified at a time");
    }
}

fn validate_key_ref(errors: &mut ErrorList, selector: &Value, path: &Path) {
    let (name, key) = (text(selector, "name"), text(selector, "key"));
    for message in names::dns1123_subdomain(name, false) {
        errors.invalid(path.child("name"), name, &message);
    }
    if key.is_empty() {
        errors.required(path.child("key"), "");
    } else {
        for message in names::is_config_map_key(key) {
            errors.invalid(path.child("key"), key, &message);
        }
    }
}

fn validate_file_ref(errors: &mut ErrorList, file: &Value, volumes: &BTreeMap<String, &Value>, path: &Path) {
    let (volume, key, target) = (text(file, "volumeName"), text(file, "key"), text(file, "path"));
    if key.is_empty() {
        errors.required(path.child("key"), "");
    } else {
        // A key of an environment file obeys the strict rule.
        for message in names::is_env_var_name(key) {
            errors.invalid(path.child("key"), key, &message);
        }
    }
    if volume.is_empty() {
        errors.required(path.child("volumeName"), "");
    } else {
        match volumes.get(volume) {
            None => errors.not_found(path.child("volumeName"), volume),
            Some(source) if !has(source, "emptyDir") => {
                errors.invalid(path.child("volumeName"), volume, "must be an emptyDir volume");
            }
            Some(_) => {}
        }
    }
    if target.is_empty() {
        errors.required(path.child("path"), "");
    } else {
        local_path(errors, target, &path.child("path"));
    }
}

/// `fieldRef` of a variable or a file.
pub(super) fn validate_field_ref(errors: &mut ErrorList, reference: &Value, allowed: &[&str], path: &Path) {
    let (version, wanted) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    if version.is_empty() {
        errors.required(path.child("apiVersion"), "");
        return;
    }
    if wanted.is_empty() {
        errors.required(path.child("fieldPath"), "");
        return;
    }
    let converted = match convert_field_label(version, wanted) {
        Ok(converted) => converted,
        Err(error) => {
            let detail = format!("error converting fieldPath: {error}");
            errors.invalid(path.child("fieldPath"), wanted, &detail);
            return;
        }
    };
    match split_subscript(converted) {
        Some(("metadata.annotations", key)) => super::qualified_name(errors, &key.to_lowercase(), path),
        Some(("metadata.labels", key)) => super::qualified_name(errors, key, path),
        Some((base, _)) => errors.invalid(path.clone(), base, "does not support subscript"),
        None if !allowed.contains(&converted) => {
            errors.not_supported(path.child("fieldPath"), converted, allowed);
        }
        None => {}
    }
}

fn convert_field_label<'a>(version: &str, label: &'a str) -> Result<&'a str, String> {
    if version != "v1" {
        return Err(format!("unsupported pod version: {version}"));
    }
    if let Some((base, _)) = split_subscript(label) {
        return match base {
            "metadata.annotations" | "metadata.labels" => Ok(label),
            _ => Err(format!("field label does not support subscript: {label}")),
        };
    }
    match label {
        "metadata.annotations"
        | "metadata.labels"
        | "metadata.name"
        | "metadata.namespace"
        | "metadata.uid"
        | "spec.nodeName"
        | "spec.restartPolicy"
        | "spec.serviceAccountName"
        | "spec.schedulerName"
        | "status.phase"
        | "status.hostIP"
        | "status.hostIPs"
        | "status.podIP"
        | "status.podIPs" => Ok(label),
        // The field's former name.
        "spec.host" => Ok("spec.nodeName"),
        _ => Err(format!("field label not supported: {label}")),
    }
}

/// `metadata.labels['app']` → (`metadata.labels`, `app`).
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    let inner = path.strip_suffix("']")?;
    let (base, key) = inner.split_once("['")?;
    (!base.is_empty()).then_some((base, key))
}

/// `resourceFieldRef` of a variable or a file.
pub(super) fn validate_resource_ref(errors: &mut ErrorList, reference: &Value, in_volume: bool, path: &Path) {
    let resource = text(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(reference, "containerName").is_empty() {
        errors.required(path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.not_supported(path.child("resource"), resource, RESOURCES);
    }
    let divisor = Quantity::from_json(obj(reference, "divisor")).ok();
    let Some(divisor) = divisor.map(|d| d.to_string()).filter(|d| d != "0") else { return };
    let known: &[&str] = match resource {
        "limits.cpu" | "requests.cpu" => &["1m", "1"],
        "limits.memory" | "requests.memory" => BYTE_DIVISORS,
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => BYTE_DIVISORS,
        _ if huge => BYTE_DIVISORS,
        _ => return,
    };
    if !known.contains(&divisor.as_str()) {
        let what = match resource {
            "limits.cpu" | "requests.cpu" => {
                "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
            }
            "limits.memory" | "requests.memory" => bytes_detail("memory"),
            _ if huge => bytes_detail("hugepages"),
            _ => bytes_detail("local ephemeral storage"),
        };
        errors.invalid(path.child("divisor"), resource, &what);
    }
}

fn bytes_detail(resource: &str) -> String {
    format!("only divisor's values {} are supported with the {resource} resource", BYTE_DIVISORS.join(", "))
}

pub(super) fn validate_env_from(errors: &mut ErrorList, sources: &[Value], path: &Path) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            if let Some(detail) = relaxed_env_name(prefix) {
                errors.invalid(at.child("prefix"), prefix, detail);
            }
        }
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            let Some(reference) = field(source, key) else { continue };
            count += 1;
            let name = text(reference, "name");
            if name.is_empty() {
                errors.required(at.child(key).child("name"), "");
            } else {
                for message in names::dns1123_subdomain(name, true) {
                    errors.invalid(at.child(key).child("name"), name, &message);
                }
            }
        }
        // Upstream names the list here, not the item.
        match count {
            0 => errors.invalid(path.clone(), "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path.clone(), "", "may not have more than one field specified at a time"),
        }
    }
}
