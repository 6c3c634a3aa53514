//! ReplicationController: so many pods of a template, the first generation's way.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::podspec;
use crate::access::{ensure_map, entries, has, int, map, obj, set, set_missing, text};
use crate::apps::template::{nonnegative_fields, not_above, workload_warnings};
use crate::checks::{format_labels, keep_spec_or_status, meta, spec, start_generation, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, containers_and_images, name_of};

pub struct ReplicationController;

pub fn kind() -> Kind {
    const UPDATE: &[&str] = &["get", "patch", "update"];
    const DEFINITION: &str = "io.k8s.api.core.v1.ReplicationController";
    let plural = "replicationcontrollers";
    Kind::builtin("v1", "ReplicationController", plural, Scope::Namespaced, DEFINITION, ReplicationController)
        .with_short_names(&["rc"])
        .with_categories(&["all"])
        .with_storage_key("controllers")
        .with_subresource("scale", "autoscaling/v1", "Scale", UPDATE)
        .with_subresource("status", "v1", "ReplicationController", UPDATE)
}

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        let Some(spec) = object.get_mut("spec") else { return };
        set_missing(spec, "replicas", 1);
        if let Some(template) = spec.get_mut("template") {
            podspec::default_template(template);
        }
        let labels = obj(meta(obj(spec, "template")), "labels").clone();
        if labels.as_object().is_none_or(serde_json::Map::is_empty) {
            return;
        }
        if map(spec, "selector").is_none_or(serde_json::Map::is_empty) {
            set(spec, "selector", labels.clone());
        }
        if let Some(metadata) = object.get_mut("metadata") {
            if map(metadata, "labels").is_none_or(serde_json::Map::is_empty) {
                set(metadata, "labels", labels);
            }
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"replicas": 0}));
        start_generation(object);
        podspec::drop_disabled_in_template(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        podspec::drop_disabled_in_template(object);
        keep_spec_or_status(cx, object, old);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (spec(object), Path::new("spec"));
        nonnegative_fields(&mut errors, spec, &["minReadySeconds"], &path);
        if map(spec, "selector").is_none_or(serde_json::Map::is_empty) {
            errors.required(path.child("selector"), "");
        }
        nonnegative_fields(&mut errors, spec, &["replicas"], &path);
        check_template(&mut errors, spec, path.child("template"));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        if cx.subresource != "status" {
            return self.validate(cx, object);
        }
        let mut errors = ErrorList::new();
        let (status, path) = (status(object), Path::new("status"));
        let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
        nonnegative_fields(&mut errors, status, &counts, &path);
        for count in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
            not_above(&mut errors, status, count, "replicas", "cannot be greater than status.replicas", &path);
        }
        not_above(
            &mut errors,
            status,
            "availableReplicas",
            "readyReplicas",
            "cannot be greater than readyReplicas",
            &path,
        );
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload_warnings(cx, object, old)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", int(status(object), "replicas").to_string())]
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/replicationcontrollers")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec(object), status(object));
        let (containers, images) = containers_and_images(obj(obj(spec, "template"), "spec"));
        vec![
            name_of(object),
            json!(int(spec, "replicas")),
            json!(int(status, "replicas")),
            json!(int(status, "readyReplicas")),
            age_of(object, now),
            json!(containers),
            json!(images),
            json!(format_labels(obj(spec, "selector"))),
        ]
    }
}

fn check_template(errors: &mut ErrorList, spec: &Value, path: Path) {
    let template = obj(spec, "template");
    if template.is_null() {
        errors.required(path, "");
        return;
    }
    let labels = obj(meta(template), "labels");
    if entries(spec, "selector").iter().any(|(key, value)| labels.get(key) != Some(value)) {
        let at = path.child("metadata").child("labels");
        errors.invalid(at, labels.clone(), "`selector` does not match template `labels`");
    }
    errors.extend(podspec::validate_template(template, &path));
    let pod = obj(template, "spec");
    let policy = text(pod, "restartPolicy");
    if policy != "Always" {
        errors.not_supported(path.child("spec").child("restartPolicy"), policy, &["Always"]);
    }
    if has(pod, "activeDeadlineSeconds") {
        let at = path.child("spec").child("activeDeadlineSeconds");
        errors.forbidden(at, "activeDeadlineSeconds in ReplicationController is not Supported");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created};

    fn object(selector: Value) -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"selector": selector, "template": {
            "metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn labels_and_selector_come_from_the_template() {
        let made = created(&ReplicationController, object(json!({})));
        assert_eq!(
            (&made["spec"]["selector"], &made["metadata"]["labels"]),
            (&json!({"app": "x"}), &json!({"app": "x"}))
        );
        assert_eq!((&made["spec"]["replicas"], &made["status"]), (&json!(1), &json!({"replicas": 0})));
    }

    #[test]
    fn selector_matches_the_template() {
        assert!(create_errors(&ReplicationController, object(json!({"app": "x"}))).is_empty());
        assert_eq!(
            create_errors(&ReplicationController, object(json!({"app": "y"}))),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            create_errors(&ReplicationController, json!({"spec": {}})),
            ["spec.selector: Required value", "spec.template: Required value"]
        );
    }
}
