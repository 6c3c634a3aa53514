//! Annotations of pods that have meaning: mirror pods, deletion cost, seccomp, AppArmor, old tolerations.

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::scheduling::validate_tolerations;
use super::volumes::relative_path;
use super::{Scope, containers_with_paths};
use crate::access::*;

pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Validates the annotations of a pod or a template; `path` is that of the annotations.
pub fn validate_annotations(metadata: &Value, spec: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let annotations = obj(metadata, "annotations");
    if let Some(value) = opt_text(annotations, MIRROR) {
        if text(spec, "nodeName").is_empty() {
            let detail = "must set spec.nodeName if mirror pod annotation is set";
            errors.invalid(path.key(MIRROR), value, detail);
        }
    }
    let tolerations = text(annotations, TOLERATIONS);
    if !tolerations.is_empty() {
        match serde_json::from_str::<Value>(tolerations) {
            Ok(Value::Array(list)) => validate_tolerations(&mut errors, &list, &path.child(TOLERATIONS)),
            Ok(_) | Err(_) => {
                errors.invalid(path.clone(), TOLERATIONS, "couldn't get version/kind; json parse error: invalid list");
            }
        }
    }
    if let Some(cost) = opt_text(annotations, DELETION_COST) {
        let plain = cost.strip_prefix('-').unwrap_or(cost);
        let padded = plain.len() > 1 && plain.starts_with('0');
        if cost.starts_with('+') || padded || cost.parse::<i32>().is_err() {
            errors.invalid(path.key(DELETION_COST), cost, "must be a 32bit integer");
        }
    }
    for (key, value) in entries(metadata, "annotations") {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            validate_seccomp_value(&mut errors, value.as_str().unwrap_or(""), &path.child(key));
        }
    }
    for (key, value) in entries(metadata, "annotations") {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let profile = value.as_str().unwrap_or("");
        let known = containers_with_paths(spec, path).iter().any(|(c, _)| text(c, "name") == container);
        if !known {
            errors.invalid(path.key(key), container, "container not found");
        }
        if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
            let shown = apimachinery::goformat::quote(profile);
            errors.invalid(path.key(key), profile, &format!("invalid AppArmor profile name: {shown}"));
        }
    }
    errors
}

fn validate_seccomp_value(errors: &mut ErrorList, value: &str, path: &Path) {
    if matches!(value, "runtime/default" | "docker/default" | "unconfined") {
        return;
    }
    match value.strip_prefix("localhost/") {
        Some(profile) => relative_path(errors, profile, path),
        None => errors.invalid(path.clone(), value, "must be a valid seccomp profile"),
    }
}

/// What an update of a pod may do to these annotations, and [`validate_annotations`] of the result.
pub fn validate_annotation_update(new: &Value, old: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let (after, before) = (obj(new, "metadata"), obj(old, "metadata"));
    for (key, value) in entries(before, "annotations") {
        if obj(after, "annotations").get(key) == Some(value) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(path.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(path.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for (key, _) in entries(after, "annotations") {
        if has(obj(before, "annotations"), key) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(path.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(path.key(key), "may not add mirror pod annotation");
        }
    }
    errors.extend(validate_annotations(after, obj(new, "spec"), path));
    errors
}

/// Where both an annotation and a field name a profile, they must agree. `path` is that of the spec. AppArmor is
/// looked at in pods only.
pub fn validate_seccomp_and_app_armor_match(metadata: &Value, spec: &Value, path: &Path, scope: Scope) -> ErrorList {
    let mut errors = ErrorList::new();
    let annotations = obj(metadata, "annotations");
    let pod_context = obj(spec, "securityContext");
    if let Some(annotation) = opt_text(annotations, SECCOMP_POD) {
        let at = path.child("securityContext").child("seccompProfile");
        let runtime = ["runtime/default", "docker/default"];
        profiles_match(&mut errors, annotation, obj(pod_context, "seccompProfile"), "seccomp", &runtime, &at);
    }
    for (container, at) in containers_with_paths(spec, path) {
        let profile = obj(obj(container, "securityContext"), "seccompProfile");
        if let Some(annotation) = opt_text(annotations, &format!("{SECCOMP_CONTAINER}{}", text(container, "name"))) {
            let at = at.child("securityContext").child("seccompProfile");
            profiles_match(&mut errors, annotation, profile, "seccomp", &["runtime/default", "docker/default"], &at);
        }
    }
    if scope == Scope::Template || text(obj(spec, "os"), "name") == "windows" {
        return errors;
    }
    for (container, at) in containers_with_paths(spec, path) {
        let own = obj(obj(container, "securityContext"), "appArmorProfile");
        let profile = if own.is_object() { own } else { obj(pod_context, "appArmorProfile") };
        if let Some(annotation) = opt_text(annotations, &format!("{APP_ARMOR}{}", text(container, "name"))) {
            let at = at.child("securityContext").child("appArmorProfile");
            profiles_match(&mut errors, annotation, profile, "apparmor", &["runtime/default"], &at);
        }
    }
    errors
}

fn profiles_match(
    errors: &mut ErrorList,
    annotation: &str,
    profile: &Value,
    what: &str,
    runtime: &[&str],
    path: &Path,
) {
    if !profile.is_object() {
        return;
    }
    let mut types_match = true;
    match text(profile, "type") {
        "Unconfined" => types_match = annotation == "unconfined",
        "RuntimeDefault" => types_match = runtime.contains(&annotation),
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => types_match = false,
            Some(local) => {
                if opt_text(profile, "localhostProfile") != Some(local) {
                    let detail = format!("{what} profile in annotation and field must match");
                    errors.forbidden(path.child("localhostProfile"), &detail);
                }
            }
        },
        _ => {}
    }
    if !types_match {
        errors.forbidden(path.child("type"), &format!("{what} type in annotation and field must match"));
    }
}
