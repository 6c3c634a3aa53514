//! Namespace: a scope for names, emptied before it goes.
//!
//! Invariants:
//! - NS-1: the label `kubernetes.io/metadata.name` always is the name.
//! - NS-2: `spec.finalizers` are set on create, and afterwards only through `finalize`.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{copy_field, ensure_map, has, items, obj, set, set_blank, text};
use crate::checks::{finalizer_name, meta, name, spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct Namespace;

pub fn kind() -> Kind {
    const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
    Kind::builtin("v1", "Namespace", "namespaces", Scope::Cluster, "io.k8s.api.core.v1.Namespace", Namespace)
        .with_short_names(&["ns"])
        .with_verbs(VERBS)
        .with_subresource("finalize", "v1", "Namespace", &["update"])
        .with_subresource("status", "v1", "Namespace", &["get", "patch", "update"])
}

/// The finalizer of the namespace controller.
pub const FINALIZER: &str = "kubernetes";

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        let name = name(object).to_owned();
        if !name.is_empty() {
            if let Some(meta) = object.get_mut("metadata") {
                if let Some(labels) = ensure_map(meta, "labels") {
                    labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
                }
            }
        }
        ensure_map(object, "status");
        if let Some(status) = object.get_mut("status") {
            set_blank(status, "phase", "Active");
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        // generateName made the name after defaulting
        self.default(object);
        set(object, "status", json!({"phase": "Active"}));
        ensure_map(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            let mut finalizers = items(spec, "finalizers").to_vec();
            if !finalizers.contains(&json!(FINALIZER)) {
                finalizers.push(json!(FINALIZER));
            }
            set(spec, "finalizers", finalizers);
        }
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        match cx.subresource.as_str() {
            "status" => copy_field(object, old, "spec"),
            "finalize" => copy_field(object, old, "status"),
            _ => {
                copy_field(object, old, "spec");
                copy_field(object, old, "status");
            }
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_finalizers(&mut errors, object);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        match cx.subresource.as_str() {
            "status" => {
                let phase = text(status(object), "phase");
                let path = Path::new("status").child("Phase");
                if !has(meta(object), "deletionTimestamp") {
                    if phase != "Active" {
                        errors.invalid(path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
                    }
                } else if phase != "Terminating" {
                    errors.invalid(path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
                }
            }
            "finalize" => check_finalizers(&mut errors, object),
            _ => {}
        }
        errors
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("name", name(object).to_owned()), ("status.phase", text(status(object), "phase").to_owned())]
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(name, prefix)
    }

    fn deletion_blocked(&self, object: &Value) -> bool {
        !items(spec(object), "finalizers").is_empty()
    }

    fn mark_deleting(&self, object: &mut Value) {
        ensure_map(object, "status");
        if let Some(status) = object.get_mut("status") {
            set(status, "phase", "Terminating");
        }
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/namespaces")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(text(status(object), "phase")), age_of(object, now)]
    }
}

fn check_finalizers(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("spec").child("finalizers");
    for (i, finalizer) in items(obj(object, "spec"), "finalizers").iter().enumerate() {
        finalizer_name(errors, &path.index(i), finalizer.as_str().unwrap_or(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{created, cx, texts};

    fn stored() -> Value {
        created(&Namespace, json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "z"}}}))
    }

    #[test]
    fn creates_active_with_finalizer_and_label() {
        assert_eq!(
            stored(),
            json!({
                "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            })
        );
    }

    #[test]
    fn keeps_what_a_subresource_may_not_touch() {
        let old = stored();
        let mut new =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["x/y"]}, "status": {"phase": "Terminating"}});
        let mut main = new.clone();
        Namespace.prepare_for_update(&cx(""), &mut main, &old);
        assert_eq!((&main["spec"], &main["status"]), (&old["spec"], &old["status"]));
        Namespace.prepare_for_update(&cx("finalize"), &mut new, &old);
        assert_eq!((&new["spec"], &new["status"]), (&json!({"finalizers": ["x/y"]}), &old["status"]));
    }

    #[test]
    fn phase_follows_deletion() {
        let mut namespace = stored();
        Namespace.mark_deleting(&mut namespace);
        assert_eq!(
            texts(&Namespace.validate_update(&cx("status"), &namespace, &namespace)),
            ["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]
        );
        namespace["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(Namespace.validate_update(&cx("status"), &namespace, &namespace).is_empty());
        assert!(Namespace.deletion_blocked(&namespace));
        namespace["spec"]["finalizers"] = json!(["plain"]);
        assert_eq!(
            texts(&Namespace.validate_update(&cx("finalize"), &namespace, &namespace)),
            [
                "spec.finalizers[0]: Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified"
            ]
        );
    }
}
