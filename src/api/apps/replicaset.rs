//! ReplicaSet.
//!
//! Invariants:
//! - RS-1: an update of the set keeps its status, an update of `status` keeps its spec; the generation grows exactly
//!   when the spec changes.

use apimachinery::validation::{ErrorList, Path};
use serde_json::{Value, json};

use super::template::{
    bump_generation, keep_status_update, nonnegative_fields, not_above, selector_immutable,
    validate_selector_and_template, workload_warnings,
};
use crate::access::*;
use crate::core::podspec;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, containers_and_images, format_label_selector, name_of};

pub struct ReplicaSet;

pub fn kind() -> Kind {
    const UPDATE: &[&str] = &["get", "patch", "update"];
    let definition = "io.k8s.api.apps.v1.ReplicaSet";
    Kind::builtin("apps/v1", "ReplicaSet", "replicasets", Scope::Namespaced, definition, ReplicaSet)
        .with_short_names(&["rs"])
        .with_categories(&["all"])
        .with_subresource("scale", "autoscaling/v1", "Scale", UPDATE)
        .with_subresource("status", "apps/v1", "ReplicaSet", UPDATE)
}

impl Strategy for ReplicaSet {
    fn default(&self, set_: &mut Value) {
        ensure_map(set_, "spec");
        if let Some(spec) = set_.get_mut("spec") {
            set_missing(spec, "replicas", 1);
            ensure_map(spec, "template");
            if let Some(template) = spec.get_mut("template") {
                podspec::default_template(template);
            }
        }
        ensure_map(set_, "status");
        if let Some(status) = set_.get_mut("status") {
            set_missing(status, "replicas", 0);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"replicas": 0}));
        if let Some(meta) = ensure_map(object, "metadata") {
            meta.insert("generation".to_owned(), json!(1));
        }
        podspec::drop_disabled_in_template(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        podspec::drop_disabled_in_template(object);
        if cx.subresource == "status" {
            keep_status_update(object, old, false);
        } else {
            copy_field(object, old, "status");
        }
        bump_generation(object, old, false);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let spec = obj(object, "spec");
        let path = Path::new("spec");
        let mut errors = ErrorList::new();
        nonnegative_fields(&mut errors, spec, &["replicas", "minReadySeconds"], &path);
        validate_selector_and_template(&mut errors, spec, &path);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            return validate_status(obj(object, "status"));
        }
        let mut errors = self.validate(cx, object);
        selector_immutable(&mut errors, object, old);
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload_warnings(cx, object, old)
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("apps/v1/replicasets")
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (obj(object, "spec"), obj(object, "status"));
        let (containers, images) = containers_and_images(obj(obj(spec, "template"), "spec"));
        vec![
            name_of(object),
            json!(int(spec, "replicas")),
            json!(int(status, "replicas")),
            json!(int(status, "readyReplicas")),
            age_of(object, now),
            json!(containers),
            json!(images),
            json!(format_label_selector(obj(spec, "selector"))),
        ]
    }
}

fn validate_status(status: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let fields = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "terminatingReplicas",
        "observedGeneration",
    ];
    nonnegative_fields(&mut errors, status, &fields, &path);
    for key in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        not_above(&mut errors, status, key, "replicas", "cannot be greater than status.replicas", &path);
    }
    not_above(&mut errors, status, "availableReplicas", "readyReplicas", "cannot be greater than readyReplicas", &path);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cx, messages};

    fn object() -> Value {
        let mut object = json!({
            "metadata": {"name": "x", "namespace": "n"},
            "spec": {
                "selector": {"matchLabels": {"app": "x"}},
                "template": {
                    "metadata": {"labels": {"app": "x"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                },
            },
        });
        ReplicaSet.default(&mut object);
        object
    }

    #[test]
    fn defaults_and_creation() {
        let mut set_ = object();
        assert_eq!(set_["spec"]["replicas"], 1);
        assert_eq!(set_["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert!(set_["spec"]["template"]["spec"].get("enableServiceLinks").is_none(), "only pods get it");
        ReplicaSet.prepare_for_create(&cx(""), &mut set_);
        assert_eq!((&set_["metadata"]["generation"], &set_["status"]), (&json!(1), &json!({"replicas": 0})));
        assert!(ReplicaSet.validate(&cx(""), &set_).is_empty());
    }

    #[test]
    fn selector_is_immutable_and_must_match() {
        let old = object();
        let mut new = old.clone();
        new["spec"]["selector"] = json!({"matchLabels": {"app": "y"}});
        assert_eq!(
            messages(&ReplicaSet.validate_update(&cx(""), &new, &old)),
            [
                r#"spec.template.metadata.labels: Invalid value: {"app":"x"}: `selector` does not match template `labels`"#,
                r#"spec.selector: Invalid value: {"matchLabels":{"app":"y"}}: field is immutable"#,
            ]
        );
    }

    #[test]
    fn status_updates_keep_the_spec() {
        let old = object();
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(7);
        new["status"] = json!({"replicas": 1, "readyReplicas": 2});
        ReplicaSet.prepare_for_update(&cx("status"), &mut new, &old);
        assert_eq!((&new["spec"], &new["status"]["readyReplicas"]), (&old["spec"], &json!(2)));
        assert_eq!(
            messages(&ReplicaSet.validate_update(&cx("status"), &new, &old)),
            ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]
        );
    }
}
