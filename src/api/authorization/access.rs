//! What the three access reviews share.

use apimachinery::validation::{ErrorList, Path, names};
use serde_json::{Value, json};

use crate::access::{has, items, map, obj, text, texts};
use crate::checks::{dump, meta, spec};

/// Exactly one of the two attributes, and selectors that make sense.
pub(super) fn check_attributes(errors: &mut ErrorList, object: &Value) {
    let spec = spec(object);
    let path = Path::new("spec");
    let (resource, other) = (has(spec, "resourceAttributes"), has(spec, "nonResourceAttributes"));
    if resource && other {
        let shown = non_resource_text(spec);
        errors.invalid_text(
            path.child("nonResourceAttributes"),
            &shown,
            "cannot be specified in combination with resourceAttributes",
        );
    }
    if !resource && !other {
        // upstream prints its nil pointer as a string
        errors.invalid(
            path.child("resourceAttributes"),
            "null",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
    }
    let attributes = obj(spec, "resourceAttributes");
    for selector in ["fieldSelector", "labelSelector"] {
        if has(attributes, selector) {
            let at = Path::new("spec.resourceAttributes").child(selector);
            check_selector(errors, at, obj(attributes, selector), selector == "labelSelector");
        }
    }
}

pub(super) fn check_subject(errors: &mut ErrorList, object: &Value) {
    let spec = spec(object);
    if text(spec, "user").is_empty() && items(spec, "groups").is_empty() {
        errors.invalid(Path::new("spec").child("user"), "", "at least one of user or group must be specified");
    }
}

/// Reviews carry no metadata but, where `namespaced`, the namespace.
pub(super) fn check_metadata(errors: &mut ErrorList, object: &Value, namespaced: bool) {
    let mut left: Vec<_> = map(object, "metadata").into_iter().flatten().filter(|(_, v)| !v.is_null()).collect();
    left.retain(|(key, _)| *key != "managedFields" && (!namespaced || *key != "namespace"));
    if !left.is_empty() {
        let detail = if namespaced { "must be empty except for namespace" } else { "must be empty" };
        errors.invalid(Path::new("metadata"), meta(object).clone(), detail);
    }
}

/// The attributes as upstream dumps them.
pub(super) fn non_resource_text(spec: &Value) -> String {
    let attributes = obj(spec, "nonResourceAttributes");
    dump(&[("Path", json!(text(attributes, "path"))), ("Verb", json!(text(attributes, "verb")))])
}

fn check_selector(errors: &mut ErrorList, path: Path, selector: &Value, labels: bool) {
    let raw = text(selector, "rawSelector");
    let requirements = items(selector, "requirements");
    if !raw.is_empty() && !requirements.is_empty() {
        errors.invalid(path.child("rawSelector"), raw, "may not specified at the same time as requirements");
    }
    if raw.is_empty() && requirements.is_empty() {
        let detail = format!("when {path} is specified, requirements or rawSelector is required");
        errors.required(path.child("requirements"), &detail);
    }
    for (i, requirement) in requirements.iter().enumerate() {
        let at = path.child("requirements").index(i);
        let (key, values) = (text(requirement, "key"), texts(requirement, "values"));
        match text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(
                    at.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            // operators of newer clients pass
            _ => {}
        }
        if labels {
            errors.invalid_all(&at.child("key"), key, names::is_qualified_name(key));
        } else if key.is_empty() {
            errors.required(at.child("key"), "must be specified");
        }
        if labels {
            for (j, value) in values.iter().enumerate() {
                errors.invalid_all(&at.child("values").index(j), value, names::is_valid_label_value(value));
            }
        }
    }
}
