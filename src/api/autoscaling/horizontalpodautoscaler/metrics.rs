//! The metrics of an autoscaler: validation and display.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use super::check_reference;
use crate::access::{has, obj, opt_int, text};

/// (type, the field that describes it), sorted by type.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

pub(super) fn check(errors: &mut ErrorList, path: &Path, metrics: &[Value], min_replicas: Option<i64>) {
    for (i, metric) in metrics.iter().enumerate() {
        check_metric(errors, &path.index(i), metric);
    }
    let from_outside = metrics.iter().any(|m| matches!(text(m, "type"), "Object" | "External"));
    if min_replicas == Some(0) && !from_outside {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(path.clone(), detail);
    }
}

fn check_metric(errors: &mut ErrorList, path: &Path, metric: &Value) {
    let ty = text(metric, "type");
    if ty.is_empty() {
        errors.required(path.child("type"), "must specify a metric source type");
    }
    let expected = SOURCES.iter().find(|(known, _)| *known == ty).map(|(_, field)| *field);
    let types: Vec<_> = SOURCES.iter().map(|(ty, _)| *ty).collect();
    if expected.is_none() {
        errors.not_supported(path.child("type"), ty, &types);
    }
    // only the first of several is looked into
    let order = ["object", "external", "pods", "resource", "containerResource"];
    let present: Vec<_> = order.into_iter().filter(|field| has(metric, field)).collect();
    if let Some(first) = present.first() {
        check_source(errors, &path.child(first), first, obj(metric, first));
    }
    match expected {
        // upstream says it twice
        None => errors.not_supported(path.child("type"), ty, &types),
        Some(field) if !present.contains(&field) => {
            errors.required(path.child(field), "must populate information for the given metric source");
        }
        Some(_) => {}
    }
    if present.len() != 1 {
        for field in present.into_iter().filter(|field| Some(*field) != expected) {
            errors.forbidden(path.child(field), "must populate the given metric source only");
        }
    }
}

fn check_source(errors: &mut ErrorList, path: &Path, kind: &str, source: &Value) {
    let target = obj(source, "target");
    let at = path.child("target");
    match kind {
        "resource" | "containerResource" => {
            if text(source, "name").is_empty() {
                errors.required(path.child("name"), "must specify a resource name");
            }
            if kind == "containerResource" && text(source, "container").is_empty() {
                errors.required(path.child("container"), "must specify a container");
            }
            check_target(errors, &at, target);
            match (has(target, "averageUtilization"), has(target, "averageValue")) {
                (false, false) => {
                    let detail = "must set either a target raw value or a target utilization";
                    errors.required(at.child("averageUtilization"), detail);
                }
                (true, true) => {
                    let detail = "may not set both a target raw value and a target utilization";
                    errors.forbidden(at.child("averageValue"), detail);
                }
                _ => {}
            }
        }
        "pods" => {
            check_identifier(errors, &path.child("metric"), obj(source, "metric"));
            check_target(errors, &at, target);
            if !positive(obj(target, "averageValue")) {
                errors.required(at.child("averageValue"), "must specify a positive target averageValue");
            }
        }
        _ => {
            if kind == "object" {
                check_reference(errors, &path.child("describedObject"), obj(source, "describedObject"));
            }
            check_identifier(errors, &path.child("metric"), obj(source, "metric"));
            check_target(errors, &at, target);
            match (has(target, "value"), has(target, "averageValue")) {
                (false, false) => {
                    let detail = "must set either a target value for metric or a per-pod target";
                    errors.required(at.child("averageValue"), detail);
                }
                (true, true) if kind == "external" => {
                    let detail = "may not set both a target value for metric and a per-pod target";
                    errors.forbidden(at.child("value"), detail);
                }
                _ => {}
            }
        }
    }
}

fn check_identifier(errors: &mut ErrorList, path: &Path, metric: &Value) {
    match text(metric, "name") {
        "" => errors.required(path.child("name"), "must specify a metric name"),
        name => errors.invalid_all(&path.child("name"), name, names::path_segment(name, false)),
    }
}

fn positive(amount: &Value) -> bool {
    Quantity::from_json(amount).is_ok_and(|q| q.milli_value() > 0)
}

fn check_target(errors: &mut ErrorList, path: &Path, target: &Value) {
    match text(target, "type") {
        "" => errors.required(path.child("type"), "must specify a metric target type"),
        "Utilization" | "Value" | "AverageValue" => {}
        other => errors.invalid(path.child("type"), other, "must be either Utilization, Value, or AverageValue"),
    }
    for field in ["value", "averageValue"] {
        if has(target, field) && !positive(obj(target, field)) {
            errors.invalid(path.child(field), obj(target, field).clone(), "must be positive");
        }
    }
    if let Some(percent) = opt_int(target, "averageUtilization").filter(|p| *p < 1) {
        errors.invalid(path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

/// `cpu: 40%/80%, <unknown>/5 (avg) + 1 more...`
pub(super) fn shown(metrics: &[Value], current: &[Value]) -> String {
    const MAX: usize = 2;
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let all: Vec<_> =
        metrics.iter().enumerate().map(|(i, m)| shown_metric(m, current.get(i).unwrap_or(&Value::Null))).collect();
    let first = all[..all.len().min(MAX)].join(", ");
    if all.len() > MAX { format!("{first} + {} more...", all.len() - MAX) } else { first }
}

fn shown_metric(metric: &Value, current: &Value) -> String {
    let Some((_, field)) = SOURCES.iter().find(|(ty, _)| *ty == text(metric, "type")) else {
        return "<unknown type>".to_owned();
    };
    let (source, now) = (obj(metric, field), obj(obj(current, field), "current"));
    let target = obj(source, "target");
    let amount = |name: &str| {
        let now = now.get(name).and_then(Value::as_str).unwrap_or("<unknown>");
        format!("{now}/{}", text(target, name))
    };
    let average = has(target, "averageValue");
    match *field {
        "resource" | "containerResource" => {
            let name = text(source, "name");
            if average {
                return format!("{name}: {}", amount("averageValue"));
            }
            let percent = |holder: &Value, none: &str| {
                opt_int(holder, "averageUtilization").map_or_else(|| none.to_owned(), |p| format!("{p}%"))
            };
            format!("{name}: {}/{}", percent(now, "<unknown>"), percent(target, "<auto>"))
        }
        "pods" => amount("averageValue"),
        _ if average => format!("{} (avg)", amount("averageValue")),
        _ => amount("value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::texts;
    use serde_json::json;

    #[test]
    fn one_source_per_metric() {
        let mut errors = ErrorList::new();
        let metric = json!({"type": "External", "pods": {"metric": {"name": "a"}, "target": {"type": "X", "averageValue": "0"}},
                            "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1", "averageValue": "2"}}});
        check(&mut errors, &Path::new("m"), &[metric], Some(1));
        assert_eq!(
            texts(&errors),
            [
                "m[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
                "m[0].pods: Forbidden: must populate the given metric source only",
            ]
        );
    }

    #[test]
    fn shows_two_metrics() {
        let resource = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        let object = json!({"type": "Object", "object": {"target": {"value": "7"}}});
        let current = [json!({"resource": {"current": {"averageUtilization": 40}}})];
        assert_eq!(shown(&[resource.clone(), object.clone()], &current), "cpu: 40%/80%, <unknown>/7");
        assert_eq!(shown(&[resource, object.clone(), object], &[]), "cpu: <unknown>/80%, <unknown>/7 + 1 more...");
    }
}
