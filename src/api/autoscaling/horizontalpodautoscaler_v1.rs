//! HorizontalPodAutoscaler (v1): the CPU target only; what v1 cannot say travels in annotations. Stored as v2.
//!
//! Invariants:
//! - HV-1: [`to_v2`] of [`to_v1`] is the object again: metrics, behavior, conditions and current metrics included.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::horizontalpodautoscaler::HorizontalPodAutoscaler as V2;
use crate::access::{copy_field, ensure_map, has, items, obj, opt_int, remove, set, set_missing, text};
use crate::checks::{annotation, spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::columns_of;
use apimachinery::validation::ErrorList;

pub struct HorizontalPodAutoscalerV1;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler";
    Kind::builtin(
        "autoscaling/v1",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        Scope::Namespaced,
        DEFINITION,
        HorizontalPodAutoscalerV1,
    )
    .with_short_names(&["hpa"])
    .with_categories(&["all"])
    .with_subresource("status", "autoscaling/v1", "HorizontalPodAutoscaler", &["get", "patch", "update"])
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CPU_TARGET: &str = "targetCPUUtilizationPercentage";
const CPU_NOW: &str = "currentCPUUtilizationPercentage";

impl Strategy for HorizontalPodAutoscalerV1 {
    fn default(&self, object: &mut Value) {
        let without_metrics = annotation(object, METRICS).is_none();
        ensure_map(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            set_missing(spec, "minReplicas", 1);
            if without_metrics {
                set_missing(spec, CPU_TARGET, 80);
            }
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        copy_field(object, old, if cx.subresource == "status" { "spec" } else { "status" });
    }

    fn validate(&self, cx: &RequestContext, object: &Value) -> ErrorList {
        V2.validate(cx, &to_v2(object))
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        V2.validate_update(cx, &to_v2(object), &to_v2(old))
    }

    fn to_storage(&self, object: &mut Value) {
        *object = to_v2(object);
    }

    fn from_storage(&self, object: &mut Value) {
        *object = to_v1(object);
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("autoscaling/v1/horizontalpodautoscalers")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        V2.row(&to_v2(object), now)
    }
}

fn is_cpu(metric: &Value, section: &str) -> bool {
    let resource = obj(metric, "resource");
    text(resource, "name") == "cpu" && opt_int(obj(resource, section), "averageUtilization").is_some()
}

/// An autoscaling/v2 object as autoscaling/v1.
pub fn to_v1(object: &Value) -> Value {
    let mut out = object.clone();
    set(&mut out, "apiVersion", "autoscaling/v1");
    let mut notes = Map::new();
    let mut note = |key: &str, value: Value| {
        notes.insert(key.to_owned(), json!(apimachinery::goformat::json(&value)));
    };
    if let Some(spec) = out.get_mut("spec").filter(|s| s.is_object()) {
        let mut others = Vec::new();
        for metric in items(spec, "metrics").to_vec() {
            match opt_int(obj(obj(&metric, "resource"), "target"), "averageUtilization") {
                Some(percent) if is_cpu(&metric, "target") && !has(spec, CPU_TARGET) => set(spec, CPU_TARGET, percent),
                _ => others.push(metric_to_v1(&metric, "target")),
            }
        }
        if !others.is_empty() {
            note(METRICS, json!(others));
        }
        if let Some(behavior) = remove(spec, "behavior").filter(|b| !b.is_null()) {
            note(BEHAVIOR, behavior);
        }
        remove(spec, "metrics");
    }
    if let Some(status) = out.get_mut("status").filter(|s| s.is_object()) {
        let mut others = Vec::new();
        for metric in items(status, "currentMetrics").to_vec() {
            if is_cpu(&metric, "current") {
                let percent = obj(obj(obj(&metric, "resource"), "current"), "averageUtilization").clone();
                set(status, CPU_NOW, percent);
            }
            // the raw value has no place in v1, so the CPU's metric is noted too
            others.push(metric_to_v1(&metric, "current"));
        }
        if !others.is_empty() {
            note(CURRENT, json!(others));
        }
        if let Some(conditions) = remove(status, "conditions").filter(|c| !c.is_null()) {
            note(CONDITIONS, conditions);
        }
        remove(status, "currentMetrics");
        set_missing(status, "currentReplicas", 0);
        set_missing(status, "desiredReplicas", 0);
    }
    if !notes.is_empty() {
        ensure_map(&mut out, "metadata");
        if let Some(annotations) = out.get_mut("metadata").and_then(|m| ensure_map(m, "annotations")) {
            annotations.extend(notes);
        }
    }
    out
}

/// An autoscaling/v1 object as autoscaling/v2. Annotations that are no JSON are ignored, as upstream does.
pub fn to_v2(object: &Value) -> Value {
    let mut out = object.clone();
    set(&mut out, "apiVersion", "autoscaling/v2");
    let noted = |key: &str| annotation(object, key).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let list = |key: &str, section: &str| -> Vec<Value> {
        let metrics = noted(key).unwrap_or_default();
        metrics.as_array().into_iter().flatten().map(|metric| metric_to_v2(metric, section)).collect()
    };
    let mut metrics = list(METRICS, "target");
    if let Some(percent) = opt_int(spec(object), CPU_TARGET) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if let Some(spec) = out.get_mut("spec").filter(|s| s.is_object()) {
        remove(spec, CPU_TARGET);
        if !metrics.is_empty() {
            set(spec, "metrics", metrics);
        }
        if let Some(behavior) = noted(BEHAVIOR) {
            set(spec, "behavior", behavior);
        }
    }
    let mut current = list(CURRENT, "current");
    if let Some(percent) = opt_int(status(object), CPU_NOW).filter(|_| !current.iter().any(|m| is_cpu(m, "current"))) {
        current
            .push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
    }
    if let Some(status) = out.get_mut("status").filter(|s| s.is_object()) {
        remove(status, CPU_NOW);
        if opt_int(status, "currentReplicas") == Some(0) {
            remove(status, "currentReplicas");
        }
        set(status, "currentMetrics", if current.is_empty() { Value::Null } else { json!(current) });
        if let Some(conditions) = noted(CONDITIONS) {
            set(status, "conditions", conditions);
        }
    }
    if let Some(metadata) = out.get_mut("metadata") {
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| ![METRICS, BEHAVIOR, CONDITIONS, CURRENT].contains(&key.as_str()));
            if annotations.is_empty() {
                remove(metadata, "annotations");
            }
        }
    }
    out
}

/// Where a number of v2 is in v1: `targetAverageValue`, `currentValue`.
fn v1_name(section: &str, field: &str) -> String {
    let (first, rest) = field.split_at(1);
    format!("{section}{}{rest}", first.to_ascii_uppercase())
}

const NUMBERS: &[&str] = &["averageUtilization", "averageValue", "value"];

fn metric_to_v1(metric: &Value, section: &str) -> Value {
    let mut out = metric.clone();
    for kind in ["resource", "containerResource", "pods", "object", "external"] {
        let Some(source) = out.get_mut(kind).filter(|s| s.is_object()) else { continue };
        let target = remove(source, section).unwrap_or_default();
        for field in NUMBERS.iter().filter(|f| has(&target, f)) {
            // an object's average is the one number without the section in its name
            let name = if kind == "object" && *field == "averageValue" {
                "averageValue".to_owned()
            } else {
                v1_name(section, field)
            };
            set(source, &name, obj(&target, field).clone());
        }
        if let Some(identifier) = remove(source, "metric") {
            set(source, "metricName", text(&identifier, "name"));
            if has(&identifier, "selector") {
                let name = if kind == "external" { "metricSelector" } else { "selector" };
                set(source, name, obj(&identifier, "selector").clone());
            }
        }
        if let Some(described) = remove(source, "describedObject") {
            set(source, "target", described);
        }
    }
    out
}

fn metric_to_v2(metric: &Value, section: &str) -> Value {
    let mut out = metric.clone();
    for kind in ["resource", "containerResource", "pods", "object", "external"] {
        let Some(source) = out.get_mut(kind).filter(|s| s.is_object()) else { continue };
        if let Some(described) = remove(source, "target") {
            set(source, "describedObject", described);
        }
        let mut target = Map::new();
        for field in NUMBERS {
            let name = if kind == "object" && *field == "averageValue" {
                "averageValue".to_owned()
            } else {
                v1_name(section, field)
            };
            if let Some(value) = remove(source, &name).filter(|v| !v.is_null()) {
                target.insert((*field).to_owned(), value);
            }
        }
        if section == "target" {
            let ty = match () {
                () if target.contains_key("averageUtilization") => "Utilization",
                () if target.contains_key("averageValue") => "AverageValue",
                () => "Value",
            };
            target.insert("type".to_owned(), json!(ty));
        }
        set(source, section, target);
        if let Some(name) = remove(source, "metricName") {
            let mut identifier = json!({"name": name});
            let selector = remove(source, "metricSelector").or_else(|| remove(source, "selector"));
            if let Some(selector) = selector.filter(|s| !s.is_null()) {
                set(&mut identifier, "selector", selector);
            }
            set(source, "metric", identifier);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created};

    fn v2() -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "metadata": {"name": "x"},
            "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}},
                                          "target": {"type": "AverageValue", "averageValue": "1500m"}}},
                {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "h"},
                                              "target": {"type": "Value", "value": "2"}}},
                {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            ], "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"desiredReplicas": 2, "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "1"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}]},
        })
    }

    #[test]
    fn there_and_back() {
        let v1 = to_v1(&v2());
        assert_eq!((&v1["spec"][CPU_TARGET], &v1["status"][CPU_NOW]), (&json!(50), &json!(40)));
        assert!(v1["spec"].get("metrics").is_none());
        let noted: Value = serde_json::from_str(annotation(&v1, METRICS).expect("noted")).expect("JSON");
        assert_eq!(
            noted[0]["pods"],
            json!({"metricName": "q", "selector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "1500m"})
        );
        assert_eq!(
            noted[1]["object"],
            json!({"metricName": "h", "target": {"kind": "Service", "name": "s"}, "targetValue": "2"})
        );
        assert_eq!(to_v2(&v1), v2());
    }

    #[test]
    fn defaults_to_cpu() {
        let made = created(&HorizontalPodAutoscalerV1, json!({"metadata": {"name": "x"}, "spec": {"maxReplicas": 3}}));
        assert_eq!((&made["spec"]["minReplicas"], &made["spec"][CPU_TARGET]), (&json!(1), &json!(80)));
        assert_eq!(
            create_errors(
                &HorizontalPodAutoscalerV1,
                json!({"spec": {"maxReplicas": 0, "scaleTargetRef": {"kind": "D", "name": "d"}}})
            ),
            [
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
            ]
        );
    }
}
