//! Checks of object metadata and label selectors, on create and on update.
//!
//! Invariants:
//! - VM-1: metadata is checked in upstream's order, so messages that name several problems read the same.

use super::names::{self, NameFn};
use super::{ErrorList, Path};
use crate::goformat;
use crate::gvk::GroupVersion;
use crate::value::{get, get_set, i64_at, items, str_at, str_or_empty, string_map, strings};
use serde_json::{Map, Value, json};

/// All annotations together, keys and values.
pub const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Metadata of a built-in object on create, its name already generated. `namespaced`: must have a namespace.
pub fn validate_object_meta(meta: &Value, namespaced: bool, name_fn: &NameFn, path: &Path) -> ErrorList {
    let mut errors = validate_object_meta_generic(meta, namespaced, name_fn, path);
    errors.extend(validate_finalizer_names(meta, path));
    errors
}

/// The same for kinds whose finalizers need no domain (custom resources and a few built-in groups).
pub fn validate_object_meta_generic(meta: &Value, namespaced: bool, name_fn: &NameFn, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let generate = str_or_empty(meta, &["generateName"]);
    if !generate.is_empty() {
        errors.invalid_all(&path.child("generateName"), generate, name_fn(generate, true));
    }
    let name = str_or_empty(meta, &["name"]);
    if name.is_empty() {
        errors.required(path.child("name"), "name or generateName is required");
    } else {
        errors.invalid_all(&path.child("name"), name, name_fn(name, false));
    }
    let namespace = str_or_empty(meta, &["namespace"]);
    if !namespaced {
        if !namespace.is_empty() {
            errors.forbidden(path.child("namespace"), "not allowed on this type");
        }
    } else if namespace.is_empty() {
        errors.required(path.child("namespace"), "");
    } else {
        errors.invalid_all(&path.child("namespace"), namespace, names::is_dns1123_label(namespace));
    }
    let generation = i64_at(meta, &["generation"]).unwrap_or(0);
    if generation < 0 {
        errors.invalid(path.child("generation"), generation, "must be greater than or equal to 0");
    }
    errors.extend(validate_labels(field(meta, "labels"), &path.child("labels")));
    errors.extend(validate_annotations(field(meta, "annotations"), &path.child("annotations")));
    errors.extend(validate_owner_references(meta, &path.child("ownerReferences")));
    errors.extend(validate_finalizers(meta, &path.child("finalizers")));
    errors.extend(validate_managed_fields(meta, &path.child("managedFields")));
    errors
}

/// Metadata of an object on update.
pub fn validate_object_meta_update(new: &Value, old: &Value, path: &Path) -> ErrorList {
    let mut errors = validate_object_meta_update_generic(new, old, path);
    errors.extend(validate_finalizer_names(new, path));
    errors
}

/// The same for kinds whose finalizers need no domain.
pub fn validate_object_meta_update_generic(new: &Value, old: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if get_set(old, &["deletionTimestamp"]).is_some() {
        let known: Vec<_> = strings(old, &["finalizers"]).collect();
        let mut extra: Vec<_> = strings(new, &["finalizers"]).filter(|f| !known.contains(f)).collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let list: Vec<_> = extra.iter().map(|f| goformat::quote(f)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.forbidden(path.child("finalizers"), &detail);
        }
    }
    if str_or_empty(new, &["resourceVersion"]).is_empty() {
        errors.invalid(path.child("resourceVersion"), "", "must be specified for an update");
    }
    let generation = i64_at(new, &["generation"]).unwrap_or(0);
    if generation < i64_at(old, &["generation"]).unwrap_or(0) {
        errors.invalid(path.child("generation"), generation, "must not be decremented");
    }
    for name in ["name", "namespace", "uid"] {
        let (new, old) = (str_or_empty(new, &[name]), str_or_empty(old, &[name]));
        errors.extend(validate_immutable(&json!(new), &json!(old), &path.child(name)));
    }
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        errors.extend(validate_immutable(field(new, name), field(old, name), &path.child(name)));
    }
    errors.extend(validate_labels(field(new, "labels"), &path.child("labels")));
    errors.extend(validate_annotations(field(new, "annotations"), &path.child("annotations")));
    errors.extend(validate_owner_references(new, &path.child("ownerReferences")));
    errors.extend(validate_managed_fields(new, &path.child("managedFields")));
    errors
}

/// `field is immutable` if the values differ; absent, null and empty are the same.
pub fn validate_immutable(new: &Value, old: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if !same(new, old) {
        errors.invalid(path.clone(), new.clone(), "field is immutable");
    }
    errors
}

pub fn validate_labels(labels: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in string_map(labels, &[]) {
        errors.invalid_all(path, key, names::is_qualified_name(key));
        errors.invalid_all(path, value, names::is_valid_label_value(value));
    }
    errors
}

pub fn validate_label_name(name: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    errors.invalid_all(path, name, names::is_qualified_name(name));
    errors
}

pub fn validate_annotations(annotations: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in string_map(annotations, &[]) {
        errors.invalid_all(path, key, names::is_qualified_name(&key.to_lowercase()));
        size += key.len() + value.len();
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.too_long(path.clone(), "", MAX_ANNOTATIONS_BYTES);
    }
    errors
}

/// What a label selector may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct LabelSelectorOptions {
    /// Values of In and NotIn may be anything: for objects stored before values were checked.
    pub allow_invalid_values: bool,
    /// The selector must not be empty.
    pub required: bool,
}

/// Checks a metav1.LabelSelector; null is valid (unless `required`).
pub fn validate_label_selector(selector: &Value, options: LabelSelectorOptions, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = items(selector, &["matchExpressions"]).is_empty()
        && get(selector, &["matchLabels"]).and_then(Value::as_object).is_none_or(Map::is_empty);
    if options.required && empty {
        errors.required(path.clone(), "");
    }
    errors.extend(validate_labels(field(selector, "matchLabels"), &path.child("matchLabels")));
    for (i, requirement) in items(selector, &["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = items(requirement, &["values"]);
        match str_or_empty(requirement, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => errors
                .forbidden(path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
            "Exists" | "DoesNotExist" => {}
            other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
        }
        errors.extend(validate_label_name(str_or_empty(requirement, &["key"]), &path.child("key")));
        if !options.allow_invalid_values {
            for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
                errors.invalid_all(&path.child("values").index(j), value, names::is_valid_label_value(value));
            }
        }
    }
    errors
}

/// The warning for owner references that repeat a UID, with the repeated UIDs; they are dropped at admission.
pub fn duplicate_owner_uids(meta: &Value) -> Vec<String> {
    let mut seen = Vec::new();
    let mut repeated = Vec::new();
    for uid in items(meta, &["ownerReferences"]).iter().filter_map(|r| str_at(r, &["uid"])) {
        if seen.contains(&uid) {
            if !repeated.iter().any(|r| r == uid) {
                repeated.push(uid.to_string());
            }
        } else {
            seen.push(uid);
        }
    }
    repeated
}

pub fn validate_owner_references(meta: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let references = items(meta, &["ownerReferences"]);
    let mut controller: Option<String> = None;
    for reference in references {
        let api_version = str_or_empty(reference, &["apiVersion"]);
        let kind = str_or_empty(reference, &["kind"]);
        let gv = GroupVersion::parse(api_version).unwrap_or_default();
        if gv.version.is_empty() {
            errors.invalid(path.child("apiVersion"), api_version, "version must not be empty");
        }
        for name in ["kind", "name", "uid"] {
            if str_or_empty(reference, &[name]).is_empty() {
                errors.invalid(path.child(name), "", "must not be empty");
            }
        }
        if api_version == "v1" && kind == "Event" {
            errors.invalid(path.clone(), reference.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if get(reference, &["controller"]) == Some(&Value::Bool(true)) {
            let name = format!("{kind}/{}", str_or_empty(reference, &["name"]));
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    );
                    errors.invalid(path.clone(), references.to_vec(), &detail);
                }
                None => controller = Some(name),
            }
        }
    }
    errors
}

fn validate_finalizers(meta: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let finalizers: Vec<_> = strings(meta, &["finalizers"]).collect();
    for finalizer in &finalizers {
        errors.invalid_all(path, finalizer, names::is_qualified_name(finalizer));
    }
    if finalizers.contains(&ORPHAN) && finalizers.contains(&FOREGROUND) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.invalid(path.clone(), finalizers, &detail);
    }
    errors
}

/// A finalizer of a built-in object is a standard one or has a domain.
fn validate_finalizer_names(meta: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, finalizer) in strings(meta, &["finalizers"]).enumerate() {
        if !finalizer.contains('/') && ![ORPHAN, FOREGROUND, "kubernetes"].contains(&finalizer) {
            errors.invalid(
                path.child("finalizers").index(i),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    errors
}

fn validate_managed_fields(meta: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, entry) in items(meta, &["managedFields"]).iter().enumerate() {
        let path = path.index(i);
        let operation = str_or_empty(entry, &["operation"]);
        if operation != "Apply" && operation != "Update" {
            errors.invalid(path.child("operation"), operation, "must be `Apply` or `Update`");
        }
        let fields_type = str_or_empty(entry, &["fieldsType"]);
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.invalid(path.child("fieldsType"), fields_type, "must be `FieldsV1`");
        }
        errors.extend(validate_field_manager(str_or_empty(entry, &["manager"]), &path.child("manager")));
        let subresource = str_or_empty(entry, &["subresource"]);
        if subresource.len() > 256 {
            errors.too_long(path.child("subresource"), subresource, 256);
        }
    }
    errors
}

/// The `fieldManager` of a request or a managedFields entry.
pub fn validate_field_manager(manager: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if manager.len() > 128 {
        errors.too_long(path.clone(), manager, 128);
    }
    for (i, c) in manager.char_indices().filter(|(_, c)| !goformat::is_print(*c)) {
        let detail = format!("invalid character U+{:04X} (at position {i})", c as u32);
        errors.invalid(path.clone(), manager, &detail);
    }
    errors
}

fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// Go's semantic equality: an empty list or map equals an absent one.
fn same(a: &Value, b: &Value) -> bool {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    match (a, b) {
        (a, b) if empty(a) && empty(b) => true,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(k, v)| same(v, b.get(k).unwrap_or(&Value::Null)))
                && b.iter().all(|(k, v)| a.contains_key(k) || empty(v))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.into_iter().map(|e| e.to_string()).collect()
    }

    fn create(meta: Value) -> Vec<String> {
        texts(validate_object_meta(&meta, true, &names::dns1123_subdomain, &Path::new("metadata")))
    }

    #[test]
    fn create_rules() {
        assert!(
            create(json!({"name": "x", "namespace": "n", "labels": {"a": "b"}, "finalizers": ["a.b/c"]})).is_empty()
        );
        assert_eq!(
            create(json!({"namespace": "n"})),
            ["metadata.name: Required value: name or generateName is required"]
        );
        assert_eq!(
            create(json!({"name": "x", "namespace": "n", "ownerReferences": [{"apiVersion": "a/b/c", "uid": "1"}]})),
            [
                "metadata.ownerReferences.apiVersion: Invalid value: \"a/b/c\": version must not be empty",
                "metadata.ownerReferences.kind: Invalid value: \"\": must not be empty",
                "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
            ]
        );
        assert_eq!(
            create(json!({"name": "x", "namespace": "n", "finalizers": ["orphan", "foregroundDeletion"]})),
            [
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set"
            ]
        );
        assert_eq!(
            create(json!({"name": "x", "namespace": "n", "finalizers": ["plain"]})),
            [
                "metadata.finalizers[0]: Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified"
            ]
        );
        let event = json!([{"apiVersion": "v1", "kind": "Event", "name": "a", "uid": "1"}]);
        assert_eq!(
            create(json!({"name": "x", "namespace": "n", "ownerReferences": event})),
            [
                "metadata.ownerReferences: Invalid value: {\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"a\",\"uid\":\"1\"}: /v1, Kind=Event is disallowed from being an owner"
            ]
        );
    }

    #[test]
    fn update_rules() {
        let old = json!({"name": "x", "uid": "1", "deletionTimestamp": "2020-01-01T00:00:00Z", "finalizers": ["a/b"]});
        let new = json!({"name": "y", "uid": "1", "deletionTimestamp": "2020-01-01T00:00:00Z",
            "finalizers": ["new.x/y"], "resourceVersion": "1"});
        assert_eq!(
            texts(validate_object_meta_update(&new, &old, &Path::new("metadata"))),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"new.x/y\"}",
                "metadata.name: Invalid value: \"y\": field is immutable",
            ]
        );
    }

    #[test]
    fn selectors() {
        let selector = json!({"matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "b", "operator": "Exists", "values": ["x"]},
            {"key": "c", "operator": "Like"}]});
        assert_eq!(
            texts(validate_label_selector(&selector, LabelSelectorOptions::default(), &Path::new("s"))),
            [
                "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "s.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                "s.matchExpressions[2].operator: Invalid value: \"Like\": not a valid selector operator",
            ]
        );
    }
}
