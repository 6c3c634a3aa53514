//! Deployment.
//!
//! Invariants:
//! - DE-1: an update of the deployment keeps its status, an update of `status` keeps its spec and labels.
//! - DE-2: the generation grows when the spec or the annotations change (a rollback is asked for by annotation).

use apimachinery::validation::{ErrorList, ErrorType, FieldError, Path, names};
use serde_json::{Value, json};

use super::template::{
    bump_generation, keep_status_update, nonnegative_fields, not_above, selector_immutable,
    validate_selector_and_template, workload_warnings,
};
use crate::access::*;
use crate::core::podspec;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, containers_and_images, format_label_selector, name_of};

pub struct Deployment;

pub fn kind() -> Kind {
    const UPDATE: &[&str] = &["get", "patch", "update"];
    let definition = "io.k8s.api.apps.v1.Deployment";
    Kind::builtin("apps/v1", "Deployment", "deployments", Scope::Namespaced, definition, Deployment)
        .with_short_names(&["deploy"])
        .with_categories(&["all"])
        .with_subresource("scale", "autoscaling/v1", "Scale", UPDATE)
        .with_subresource("status", "apps/v1", "Deployment", UPDATE)
}

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            set_missing(spec, "replicas", 1);
            ensure_map(spec, "strategy");
            if let Some(strategy) = spec.get_mut("strategy") {
                default_strategy(strategy);
            }
            set_missing(spec, "revisionHistoryLimit", 10);
            set_missing(spec, "progressDeadlineSeconds", 600);
            ensure_map(spec, "template");
            if let Some(template) = spec.get_mut("template") {
                podspec::default_template(template);
            }
        }
        ensure_map(object, "status");
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({}));
        if let Some(meta) = ensure_map(object, "metadata") {
            meta.insert("generation".to_owned(), json!(1));
        }
        podspec::drop_disabled_in_template(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        podspec::drop_disabled_in_template(object);
        if cx.subresource == "status" {
            keep_status_update(object, old, true);
            bump_generation(object, old, false);
        } else {
            copy_field(object, old, "status");
            bump_generation(object, old, true);
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let spec = obj(object, "spec");
        let path = Path::new("spec");
        let mut errors = ErrorList::new();
        nonnegative_fields(&mut errors, spec, &["replicas"], &path);
        validate_selector_and_template(&mut errors, spec, &path);
        validate_strategy(&mut errors, obj(spec, "strategy"), &path.child("strategy"));
        let fields = ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
        nonnegative_fields(&mut errors, spec, &fields, &path);
        if let Some(deadline) = opt_int(spec, "progressDeadlineSeconds") {
            if deadline <= int(spec, "minReadySeconds") {
                let at = path.child("progressDeadlineSeconds");
                errors.invalid(at, deadline, "must be greater than minReadySeconds");
            }
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            return validate_status(obj(object, "status"), obj(old, "status"));
        }
        let mut errors = self.validate(cx, object);
        selector_immutable(&mut errors, object, old);
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload_warnings(cx, object, old)
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("apps/v1/deployments")
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (obj(object, "spec"), obj(object, "status"));
        let (containers, images) = containers_and_images(obj(obj(spec, "template"), "spec"));
        vec![
            name_of(object),
            json!(format!("{}/{}", int(status, "readyReplicas"), int(spec, "replicas"))),
            json!(int(status, "updatedReplicas")),
            json!(int(status, "availableReplicas")),
            age_of(object, now),
            json!(containers),
            json!(images),
            json!(format_label_selector(obj(spec, "selector"))),
        ]
    }
}

fn default_strategy(strategy: &mut Value) {
    set_blank(strategy, "type", "RollingUpdate");
    if text(strategy, "type") != "RollingUpdate" {
        return;
    }
    ensure_map(strategy, "rollingUpdate");
    if let Some(rolling) = strategy.get_mut("rollingUpdate") {
        set_missing(rolling, "maxUnavailable", "25%");
        set_missing(rolling, "maxSurge", "25%");
    }
}

fn validate_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    match text(strategy, "type") {
        "Recreate" => {
            if has(strategy, "rollingUpdate") {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(path.child("rollingUpdate"), detail);
            }
        }
        "RollingUpdate" => match field(strategy, "rollingUpdate") {
            None => errors.required(path.child("rollingUpdate"), "this should be defaulted and never be nil"),
            Some(rolling) => validate_rolling_update(errors, rolling, &path.child("rollingUpdate")),
        },
        _ => {
            let detail = "supported values: \"Recreate\", \"RollingUpdate\"";
            let mut error = FieldError::new(ErrorType::NotSupported, path, Value::Null, detail);
            error.value_text = Some(crate::godump::dump("DeploymentStrategy", strategy));
            errors.push(error);
        }
    }
}

fn validate_rolling_update(errors: &mut ErrorList, rolling: &Value, path: &Path) {
    let (unavailable, surge) = (obj(rolling, "maxUnavailable"), obj(rolling, "maxSurge"));
    let at = path.child("maxUnavailable");
    positive_int_or_percent(errors, unavailable, &at);
    positive_int_or_percent(errors, surge, &path.child("maxSurge"));
    let amount = |value: &Value| value.as_i64().or_else(|| percent(value)).unwrap_or(0);
    if amount(unavailable) == 0 && amount(surge) == 0 {
        errors.invalid(at.clone(), unavailable.clone(), "may not be 0 when `maxSurge` is 0");
    }
    not_above_hundred_percent(errors, unavailable, &at);
}

/// A number of things, or a share of them.
pub(crate) fn positive_int_or_percent(errors: &mut ErrorList, value: &Value, path: &Path) {
    match value {
        Value::String(share) => errors.invalid_all(path, share, names::is_valid_percent(share)),
        other => podspec::nonnegative(errors, other.as_i64().unwrap_or(0), path),
    }
}

pub(crate) fn not_above_hundred_percent(errors: &mut ErrorList, value: &Value, path: &Path) {
    if percent(value).is_some_and(|share| share > 100) {
        errors.invalid(path.clone(), value.clone(), "must not be greater than 100%");
    }
}

fn percent(value: &Value) -> Option<i64> {
    let share = value.as_str().filter(|s| names::is_valid_percent(s).is_empty())?;
    share.strip_suffix('%')?.parse().ok()
}

fn validate_status(status: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let fields = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    nonnegative_fields(&mut errors, status, &fields, &path);
    for key in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        not_above(&mut errors, status, key, "replicas", "cannot be greater than status.replicas", &path);
    }
    not_above(&mut errors, status, "availableReplicas", "readyReplicas", "cannot be greater than readyReplicas", &path);
    let (new, before) = (opt_int(status, "collisionCount"), opt_int(old, "collisionCount"));
    if before.is_some_and(|before| new.is_none_or(|new| new < before)) {
        errors.invalid(path.child("collisionCount"), new.unwrap_or(0), "cannot be decremented");
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cx, messages};

    fn object(spec: Value) -> Value {
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
        for (key, value) in spec.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        Deployment.default(&mut object);
        object
    }

    #[test]
    fn validation_messages() {
        let table = [
            (json!({}), vec![]),
            (
                json!({"replicas": -1, "minReadySeconds": -1, "revisionHistoryLimit": -1, "progressDeadlineSeconds": 0}),
                vec![
                    "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                    "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                    "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
                vec![
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                json!({"strategy": {"type": "Other"}}),
                vec![
                    "spec.strategy: Unsupported value: {\"Type\":\"Other\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
                ],
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(messages(&Deployment.validate(&cx(""), &object(spec.clone()))), expected, "{spec}");
        }
    }

    #[test]
    fn generation_follows_spec_and_annotations() {
        let mut old = object(json!({}));
        Deployment.prepare_for_create(&cx(""), &mut old);
        let mut new = old.clone();
        Deployment.prepare_for_update(&cx(""), &mut new, &old);
        assert_eq!(new["metadata"]["generation"], 1);
        new["metadata"]["annotations"] = json!({"a": "b"});
        Deployment.prepare_for_update(&cx(""), &mut new, &old);
        assert_eq!(new["metadata"]["generation"], 2);
    }
}
