//! DaemonSet: one pod on each node.
//!
//! Invariants:
//! - DS-1: the annotation with the template's generation is the server's, and counts changes of the template.

use apimachinery::labels::Selector;
use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::template::{nonnegative_fields, selector_immutable, workload_warnings};
use crate::access::{copy_field, ensure_map, has, int, items, map, obj, same, set, set_blank, set_missing, text};
use crate::checks::{
    annotation, format_labels, int_or_percent, label_selector, meta, next_generation, not_over_100_percent, spec,
    start_generation, status,
};
use crate::core::podspec;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, containers_and_images, format_label_selector, name_of};

pub struct DaemonSet;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.apps.v1.DaemonSet";
    Kind::builtin("apps/v1", "DaemonSet", "daemonsets", Scope::Namespaced, DEFINITION, DaemonSet)
        .with_short_names(&["ds"])
        .with_categories(&["all"])
        .with_subresource("status", "apps/v1", "DaemonSet", &["get", "patch", "update"])
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        let Some(spec) = object.get_mut("spec") else { return };
        ensure_map(spec, "updateStrategy");
        if let Some(strategy) = spec.get_mut("updateStrategy") {
            set_blank(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                ensure_map(strategy, "rollingUpdate");
                if let Some(rolling) = strategy.get_mut("rollingUpdate") {
                    set_missing(rolling, "maxUnavailable", 1);
                    set_missing(rolling, "maxSurge", 0);
                }
            }
        }
        set_missing(spec, "revisionHistoryLimit", 10);
        ensure_map(spec, "template");
        if let Some(template) = spec.get_mut("template") {
            podspec::default_template(template);
        }
        // A field upstream, which this version has as an annotation.
        if annotation(object, TEMPLATE_GENERATION).is_none() {
            set_template_generation(object, 0);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        let counts = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
        set(object, "status", counts);
        start_generation(object);
        let generation = template_generation(object).max(1);
        set_template_generation(object, generation);
        podspec::drop_disabled_in_template(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        podspec::drop_disabled_in_template(object);
        if cx.subresource == "status" {
            copy_field(object, old, "spec");
        } else {
            copy_field(object, old, "status");
        }
        let template_changed = !same(obj(spec(object), "template"), obj(spec(old), "template"));
        set_template_generation(object, template_generation(old) + i64::from(template_changed));
        let changed = !same(spec(object), spec(old));
        next_generation(object, old, changed);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (spec(object), Path::new("spec"));
        check_selector_and_template(&mut errors, spec, &path);
        nonnegative_fields(&mut errors, spec, &["minReadySeconds"], &path);
        check_strategy(&mut errors, path.child("updateStrategy"), obj(spec, "updateStrategy"));
        nonnegative_fields(&mut errors, spec, &["revisionHistoryLimit"], &path);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.subresource == "status" {
            nonnegative_fields(&mut errors, status(object), COUNTS, &Path::new("status"));
            return errors;
        }
        errors.extend(self.validate(cx, object));
        selector_immutable(&mut errors, object, old);
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload_warnings(cx, object, old)
    }

    fn version_annotation(&self) -> Option<&'static str> {
        Some(TEMPLATE_GENERATION)
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("apps/v1/daemonsets")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec(object), status(object));
        let pod = obj(obj(spec, "template"), "spec");
        let (containers, images) = containers_and_images(pod);
        let count = |field: &str| json!(int(status, field));
        vec![
            name_of(object),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            json!(format_labels(obj(pod, "nodeSelector"))),
            age_of(object, now),
            json!(containers),
            json!(images),
            json!(format_label_selector(obj(spec, "selector"))),
        ]
    }
}

const COUNTS: &[&str] = &[
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

fn template_generation(object: &Value) -> i64 {
    annotation(object, TEMPLATE_GENERATION).and_then(|g| g.parse().ok()).unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    ensure_map(object, "metadata");
    if let Some(annotations) = object.get_mut("metadata").and_then(|m| ensure_map(m, "annotations")) {
        annotations.insert(TEMPLATE_GENERATION.to_owned(), json!(generation.to_string()));
    }
}

fn check_selector_and_template(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (selector, template) = (obj(spec, "selector"), obj(spec, "template"));
    let (selector_at, template_at) = (path.child("selector"), path.child("template"));
    label_selector(errors, &selector_at, selector);
    let labels = obj(meta(template), "labels");
    if Selector::from_label_selector(selector).is_ok_and(|s| !s.matches(labels)) {
        let at = template_at.child("metadata").child("labels");
        errors.invalid(at, labels.clone(), "`selector` does not match template `labels`");
    }
    let empty = map(selector, "matchLabels").is_none_or(serde_json::Map::is_empty);
    if !selector.is_null() && empty && items(selector, "matchExpressions").is_empty() {
        errors.invalid(selector_at, selector.clone(), "empty selector is invalid for daemonset");
    }
    errors.extend(podspec::validate_template(template, &template_at));
    let pod = obj(template, "spec");
    if text(pod, "restartPolicy") != "Always" {
        errors.not_supported(template_at.child("spec").child("restartPolicy"), text(pod, "restartPolicy"), &["Always"]);
    }
    if has(pod, "activeDeadlineSeconds") {
        let at = template_at.child("spec").child("activeDeadlineSeconds");
        errors.forbidden(at, "activeDeadlineSeconds in DaemonSet is not Supported");
    }
}

fn check_strategy(errors: &mut ErrorList, path: Path, strategy: &Value) {
    let rolling = obj(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.required(path.child("rollingUpdate"), ""),
        "RollingUpdate" => check_rolling(errors, path.child("rollingUpdate"), rolling),
        _ => {
            let shown = crate::godump::dump("DaemonSetUpdateStrategy", strategy);
            let mut one = ErrorList::new();
            one.not_supported(path, "", &["RollingUpdate", "OnDelete"]);
            for mut error in one {
                error.value_text = Some(shown.clone());
                errors.push(error);
            }
        }
    }
}

fn check_rolling(errors: &mut ErrorList, path: Path, rolling: &Value) {
    const FIELDS: &[&str] = &["maxUnavailable", "maxSurge"];
    for field in FIELDS {
        int_or_percent(errors, &path.child(field), obj(rolling, field));
    }
    for field in FIELDS {
        not_over_100_percent(errors, &path.child(field), obj(rolling, field));
    }
    let set = |field: &str| {
        !matches!(obj(rolling, field), Value::Null)
            && *obj(rolling, field) != json!(0)
            && *obj(rolling, field) != json!("0%")
    };
    match (set("maxUnavailable"), set("maxSurge")) {
        (true, true) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(path.child("maxSurge"), obj(rolling, "maxSurge").clone(), detail);
        }
        (false, false) => errors.required(path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx};

    fn object(strategy: Value) -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "updateStrategy": strategy, "template": {
            "metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn counts_template_generations() {
        let old = created(&DaemonSet, object(json!({})));
        assert_eq!(old["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
        let mut new = old.clone();
        new["spec"]["minReadySeconds"] = json!(1);
        new["metadata"]["annotations"] = json!({});
        DaemonSet.prepare_for_update(&cx(""), &mut new, &old);
        assert_eq!(
            (&new["metadata"]["generation"], &new["metadata"]["annotations"][TEMPLATE_GENERATION]),
            (&json!(2), &json!("1"))
        );
        let mut newer = new.clone();
        newer["spec"]["template"]["spec"]["containers"][0]["image"] = json!("j");
        DaemonSet.prepare_for_update(&cx(""), &mut newer, &new);
        assert_eq!(newer["metadata"]["annotations"][TEMPLATE_GENERATION], "2");
    }

    #[test]
    fn one_of_surge_and_unavailable() {
        let errors = |strategy: Value| create_errors(&DaemonSet, object(strategy));
        assert!(errors(json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "10%"}})).is_empty());
        assert_eq!(
            errors(json!({"rollingUpdate": {"maxUnavailable": 0}})),
            ["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"]
        );
        assert_eq!(
            errors(json!({"type": "X"})),
            [
                "spec.updateStrategy: Unsupported value: {\"Type\":\"X\",\"RollingUpdate\":null}: supported values: \"RollingUpdate\", \"OnDelete\""
            ]
        );
    }
}
