//! LimitRange: bounds and defaults for what containers, pods and claims of a namespace ask for.
//!
//! Invariants:
//! - LR-1: a container's default limit defaults to the maximum, its default request to that or to the minimum.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use crate::access::{entries, items, items_mut, map, obj, remove, text};
use crate::checks::spec;
use crate::kind::{Kind, RequestContext, Scope, Strategy};
use crate::resource_names::{container_resource, overcommit_allowed, resource};

pub struct LimitRange;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.core.v1.LimitRange";
    Kind::builtin("v1", "LimitRange", "limitranges", Scope::Namespaced, DEFINITION, LimitRange)
        .with_short_names(&["limits"])
}

impl Strategy for LimitRange {
    fn default(&self, object: &mut Value) {
        let limits = object.get_mut("spec").map_or(&mut [][..], |spec| items_mut(spec, "limits"));
        for limit in limits.iter_mut().filter(|l| text(l, "type") == "Container") {
            for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
                fill(limit, to, from);
            }
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let limits = items(spec(object), "limits");
        for (i, limit) in limits.iter().enumerate() {
            let path = Path::new("spec").child("limits").index(i);
            let ty = text(limit, "type");
            check_type(&mut errors, path.child("type"), ty);
            if limits[..i].iter().any(|l| text(l, "type") == ty) {
                errors.duplicate(path.child("type"), ty);
            }
            check_limit(&mut errors, &path, limit, ty);
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// Adds to one map what only the other has.
fn fill(limit: &mut Value, to: &str, from: &str) {
    let mut merged = map(limit, from).cloned().unwrap_or_default();
    merged.extend(map(limit, to).cloned().unwrap_or_default());
    if merged.is_empty() {
        remove(limit, to);
    } else {
        crate::access::set(limit, to, merged);
    }
}

fn check_type(errors: &mut ErrorList, path: Path, ty: &str) {
    errors.invalid_all(&path, ty, names::is_qualified_name(ty));
    if !ty.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&ty) {
        errors.invalid(path, ty, "must be a standard limit type or fully qualified");
    }
}

fn check_limit(errors: &mut ErrorList, path: &Path, limit: &Value, ty: &str) {
    let mut keys: BTreeSet<&str> = BTreeSet::new();
    let mut named = |errors: &mut ErrorList, list: &str| {
        for (name, _) in entries(limit, list) {
            let at = path.child(list).key(name);
            if matches!(ty, "Pod" | "Container") {
                container_resource(errors, &at, name);
            } else {
                resource(errors, &at, name);
            }
        }
        keys.extend(map(limit, list).into_iter().flatten().map(|(k, _)| k.as_str()));
    };
    named(errors, "max");
    named(errors, "min");
    for list in ["default", "defaultRequest"] {
        if ty != "Pod" {
            named(errors, list);
        } else if map(limit, list).is_some_and(|m| !m.is_empty()) {
            errors.forbidden(path.child(list), "may not be specified when `type` is 'Pod'");
        }
    }
    let storage = |list: &str| obj(limit, list).get("storage").is_some();
    if ty == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(path.child("limits"), detail);
    }
    named(errors, "maxLimitRequestRatio");
    let skip_defaults = ty == "Pod";
    for key in keys {
        check_amounts(errors, path, limit, key, skip_defaults);
    }
}

/// The amounts of one resource agree with each other.
fn check_amounts(errors: &mut ErrorList, path: &Path, limit: &Value, key: &str, skip_defaults: bool) {
    let mut amounts: BTreeMap<&str, Quantity> = BTreeMap::new();
    for list in ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if skip_defaults && list.starts_with("default") {
            continue;
        }
        if let Some(amount) = obj(limit, list).get(key).and_then(|v| Quantity::from_json(v).ok()) {
            amounts.insert(list, amount);
        }
    }
    // (lower, its word, upper, its word, the field that is blamed, the value that is shown)
    const ORDERED: &[(&str, &str, &str, &str, &str, &str)] = &[
        ("min", "min value", "max", "max value", "min", "min"),
        ("min", "min value", "defaultRequest", "default request value", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "default request value", "max", "max value", "defaultRequest", "defaultRequest"),
        (
            "defaultRequest",
            "default request value",
            "default",
            "default limit value",
            "defaultRequest",
            "defaultRequest",
        ),
        ("min", "min value", "default", "default value", "default", "min"),
        ("default", "default value", "max", "max value", "default", "max"),
    ];
    for (lower, lower_word, upper, upper_word, field, shown) in ORDERED {
        if let (Some(low), Some(high)) = (amounts.get(lower), amounts.get(upper)) {
            if low.cmp(high) == Ordering::Greater {
                let detail = format!("{lower_word} {low} is greater than {upper_word} {high}");
                errors.invalid(path.child(field).key(key), amounts[shown].to_string(), &detail);
            }
        }
    }
    if let Some(ratio) = amounts.get("maxLimitRequestRatio") {
        let at = path.child("maxLimitRequestRatio").key(key);
        if ratio.milli_value() < 1000 {
            errors.invalid(at.clone(), ratio.to_string(), &format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (amounts.get("min"), amounts.get("max")) {
            let bound = max.milli_value() as f64 / min.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > bound {
                let detail = format!("ratio {ratio} is greater than max/min = {bound:.6}");
                errors.invalid(at, ratio.to_string(), &detail);
            }
        }
    }
    if let (Some(limit), Some(request)) = (amounts.get("default"), amounts.get("defaultRequest")) {
        if !overcommit_allowed(key) && limit.cmp(request) != Ordering::Equal {
            let detail = format!("default value {limit} must equal to defaultRequest value {request} in {key}");
            errors.invalid(path.child("defaultRequest").key(key), request.to_string(), &detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created};
    use serde_json::json;

    fn with(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    #[test]
    fn defaults_of_containers() {
        let made =
            created(&LimitRange, with(json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1"}})));
        assert_eq!(
            made["spec"]["limits"][0],
            json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1"},
                   "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2", "memory": "1"}})
        );
        assert_eq!(created(&LimitRange, with(json!({"type": "Pod"}))), with(json!({"type": "Pod"})));
    }

    #[test]
    fn amounts_agree() {
        for (limit, want) in [
            (
                json!({"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
                "maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
                "maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            ),
            (
                json!({"type": "a.b/c", "default": {"x.y/z": "1"}, "defaultRequest": {"x.y/z": "0"}}),
                "defaultRequest[x.y/z]: Invalid value: \"0\": default value 1 must equal to defaultRequest value 0 in x.y/z",
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                "limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ),
            (
                json!({"type": "Container", "max": {"pods": "1"}, "default": {}, "defaultRequest": {}}),
                "max[pods]: Invalid value: \"pods\": must be a standard resource for containers",
            ),
        ] {
            assert_eq!(create_errors(&LimitRange, with(limit))[0], format!("spec.limits[0].{want}"));
        }
    }
}
