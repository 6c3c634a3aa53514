//! HorizontalPodAutoscaler (v2): replicas that follow metrics.

mod metrics;

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::access::{copy_field, ensure_map, has, int, items, obj, opt_int, opt_text, set, set_missing, text};
use crate::checks::{spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct HorizontalPodAutoscaler;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler";
    Kind::builtin(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        Scope::Namespaced,
        DEFINITION,
        HorizontalPodAutoscaler,
    )
    .with_short_names(&["hpa"])
    .with_categories(&["all"])
    .with_subresource("status", "autoscaling/v2", "HorizontalPodAutoscaler", &["get", "patch", "update"])
}

const MAX_WINDOW_SECONDS: i64 = 3600;
const MAX_PERIOD_SECONDS: i64 = 1800;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        let Some(spec) = object.get_mut("spec") else { return };
        set_missing(spec, "minReplicas", 1);
        if items(spec, "metrics").is_empty() {
            let target = json!({"type": "Utilization", "averageUtilization": 80});
            set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
            let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
            let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
            let up =
                json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [pods, percent.clone()]});
            let down = json!({"selectPolicy": "Max", "policies": [percent]});
            default_rules(behavior, "scaleUp", up);
            default_rules(behavior, "scaleDown", down);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"desiredReplicas": 0, "currentMetrics": null}));
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        copy_field(object, old, if cx.subresource == "status" { "spec" } else { "status" });
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (spec(object), Path::new("spec"));
        let (min, max) = (opt_int(spec, "minReplicas"), int(spec, "maxReplicas"));
        if let Some(min) = min.filter(|min| *min < 1) {
            errors.invalid(path.child("minReplicas"), min, "must be greater than or equal to 1");
        }
        if max < 1 {
            errors.invalid(path.child("maxReplicas"), max, "must be greater than 0");
        }
        if min.is_some_and(|min| max < min) {
            errors.invalid(path.child("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
        }
        check_reference(&mut errors, &path.child("scaleTargetRef"), obj(spec, "scaleTargetRef"));
        metrics::check(&mut errors, &path.child("metrics"), items(spec, "metrics"), min);
        for direction in ["scaleUp", "scaleDown"] {
            let rules = obj(obj(spec, "behavior"), direction);
            if !rules.is_null() {
                check_rules(&mut errors, &path.child("behavior").child(direction), rules);
            }
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        if cx.subresource != "status" {
            return self.validate(cx, object);
        }
        let mut errors = ErrorList::new();
        for count in ["currentReplicas", "desiredReplicas"] {
            crate::checks::not_negative(&mut errors, Path::new("status").child(count), int(status(object), count));
        }
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("autoscaling/v2/horizontalpodautoscalers")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec(object), status(object));
        let target = obj(spec, "scaleTargetRef");
        let min = opt_int(spec, "minReplicas").map_or_else(|| "<unset>".to_owned(), |min| min.to_string());
        vec![
            name_of(object),
            json!(format!("{}/{}", text(target, "kind"), text(target, "name"))),
            json!(metrics::shown(items(spec, "metrics"), items(status, "currentMetrics"))),
            json!(min),
            json!(int(spec, "maxReplicas")),
            json!(int(status, "currentReplicas")),
            age_of(object, now),
        ]
    }
}

/// The rules of one direction: the defaults, with what was given on top.
fn default_rules(behavior: &mut Value, direction: &str, defaults: Value) {
    let given = obj(behavior, direction).as_object().cloned().unwrap_or_default();
    let mut rules = defaults.as_object().cloned().unwrap_or_else(Map::new);
    rules.extend(given.into_iter().filter(|(_, value)| !value.is_null()));
    set(behavior, direction, rules);
}

/// A reference to an object by kind and name, its version left open.
fn check_reference(errors: &mut ErrorList, path: &Path, reference: &Value) {
    for field in ["kind", "name"] {
        match text(reference, field) {
            "" => errors.required(path.child(field), ""),
            value => errors.invalid_all(&path.child(field), value, names::path_segment(value, false)),
        }
    }
}

fn check_rules(errors: &mut ErrorList, path: &Path, rules: &Value) {
    if let Some(seconds) = opt_int(rules, "stabilizationWindowSeconds") {
        let at = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.invalid(at, seconds, "must be greater than or equal to zero");
        } else if seconds > MAX_WINDOW_SECONDS {
            errors.invalid(at, seconds, &format!("must be less than or equal to {MAX_WINDOW_SECONDS}"));
        }
    }
    const SELECT: &[&str] = &["Disabled", "Max", "Min"];
    if let Some(policy) = opt_text(rules, "selectPolicy").filter(|p| !SELECT.contains(p)) {
        errors.not_supported(path.child("selectPolicy"), policy, SELECT);
    }
    let policies = items(rules, "policies");
    if !has(rules, "policies") || policies.is_empty() {
        errors.required(path.child("policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = path.child("policies").index(i);
        const TYPES: &[&str] = &["Percent", "Pods"];
        let ty = text(policy, "type");
        if !TYPES.contains(&ty) {
            errors.not_supported(at.child("type"), ty, TYPES);
        }
        let (value, period) = (int(policy, "value"), int(policy, "periodSeconds"));
        if value <= 0 {
            errors.invalid(at.child("value"), value, "must be greater than zero");
        }
        if period <= 0 {
            errors.invalid(at.child("periodSeconds"), period, "must be greater than zero");
        } else if period > MAX_PERIOD_SECONDS {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            errors.invalid(at.child("periodSeconds"), period, &detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created};

    fn scaler(extra: Value) -> Value {
        let mut scaler = json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            scaler["spec"][key] = value.clone();
        }
        scaler
    }

    #[test]
    fn defaults_metrics_and_behavior() {
        let made =
            created(&HorizontalPodAutoscaler, scaler(json!({"behavior": {"scaleDown": {"selectPolicy": "Min"}}})));
        assert_eq!(made["spec"]["minReplicas"], 1);
        assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(
            made["spec"]["behavior"],
            json!({
                "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]},
                "scaleDown": {"selectPolicy": "Min", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
            })
        );
    }

    #[test]
    fn bounds_agree() {
        assert!(create_errors(&HorizontalPodAutoscaler, scaler(json!({}))).is_empty());
        assert_eq!(
            create_errors(&HorizontalPodAutoscaler, scaler(json!({"minReplicas": 4, "maxReplicas": 0}))),
            [
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
            ]
        );
        assert_eq!(
            create_errors(
                &HorizontalPodAutoscaler,
                scaler(json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": -1, "policies": []}}}))
            ),
            [
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero",
                "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
            ]
        );
    }
}
