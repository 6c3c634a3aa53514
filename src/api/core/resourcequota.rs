//! ResourceQuota: how much a namespace may hold.
//!
//! Invariants:
//! - RQ-1: the scopes never change.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{copy_field, entries, has, items, map, obj, set, text, texts};
use crate::checks::{IMMUTABLE, spec, status};
use crate::core::node::quantity;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};
use crate::resource_names::{is_standard_quota, quota_resource};

pub struct ResourceQuota;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.core.v1.ResourceQuota";
    Kind::builtin("v1", "ResourceQuota", "resourcequotas", Scope::Namespaced, DEFINITION, ResourceQuota)
        .with_short_names(&["quota"])
        .with_subresource("status", "v1", "ResourceQuota", &["get", "patch", "update"])
}

impl Strategy for ResourceQuota {
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({}));
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        copy_field(object, old, if cx.subresource == "status" { "spec" } else { "status" });
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        check_amounts(&mut errors, &path, spec(object), "hard");
        check_scopes(&mut errors, spec(object));
        if has(spec(object), "scopeSelector") {
            check_selector(&mut errors, spec(object));
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            let mut errors = ErrorList::new();
            for list in ["hard", "used"] {
                check_amounts(&mut errors, &Path::new("status"), status(object), list);
            }
            return errors;
        }
        let mut errors = self.validate(cx, object);
        let sorted = |object: &Value| {
            let mut scopes: Vec<String> = texts(spec(object), "scopes").iter().map(|s| (*s).to_owned()).collect();
            scopes.sort();
            scopes
        };
        if sorted(object) != sorted(old) {
            errors.invalid(Path::new("spec").child("scopes"), obj(spec(object), "scopes").clone(), IMMUTABLE);
        }
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/resourcequotas")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in entries(status(object), "hard") {
            let used = obj(status(object), "used").get(name).and_then(Value::as_str).unwrap_or("0");
            let shown = format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"));
            if name.starts_with("limits.") { limits.push(shown) } else { requests.push(shown) }
        }
        vec![name_of(object), json!(requests.join(", ")), json!(limits.join(", ")), age_of(object, now)]
    }
}

fn check_amounts(errors: &mut ErrorList, path: &Path, holder: &Value, list: &str) {
    for (name, amount) in entries(holder, list) {
        let at = path.child(list).key(name);
        quota_resource(errors, &at, name);
        if Quantity::from_json(amount).is_ok() {
            quantity(errors, at, name, amount);
        }
    }
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// A quota of this resource can be limited to this scope.
fn applies(scope: &str, resource: &str) -> bool {
    const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        scope if SCOPES.contains(&scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

fn misapplied<'a>(spec: &'a Value, scope: &str) -> impl Iterator<Item = &'a String> {
    let hard = map(spec, "hard").into_iter().flatten().map(|(name, _)| name);
    let scope = scope.to_owned();
    hard.filter(move |name| is_standard_quota(name) && !applies(&scope, name))
}

fn conflict(scopes: &[&str]) -> usize {
    const PAIRS: &[[&str; 2]] = &[["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
    PAIRS.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))).count()
}

fn check_scopes(errors: &mut ErrorList, spec: &Value) {
    let scopes = texts(spec, "scopes");
    let path = Path::new("spec").child("scopes");
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(path.clone(), json!(scopes), "unsupported scope");
        }
        for _ in misapplied(spec, scope) {
            errors.invalid(path.clone(), json!(scopes), "unsupported scope applied to resource");
        }
    }
    for _ in 0..conflict(&scopes) {
        errors.invalid(path.clone(), json!(scopes), "conflicting scopes");
    }
}

fn check_selector(errors: &mut ErrorList, spec: &Value) {
    const EXISTS_ONLY: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
    let selector = obj(spec, "scopeSelector");
    let path = Path::new("spec").child("scopeSelector").child("matchExpressions");
    let requirements = items(selector, "matchExpressions");
    for requirement in requirements {
        let (scope, operator) = (text(requirement, "scopeName"), text(requirement, "operator"));
        let values = texts(requirement, "values");
        if !SCOPES.contains(&scope) {
            errors.invalid(path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in misapplied(spec, scope) {
            let shown = crate::godump::dump("ScopeSelector", selector);
            errors.invalid_text(path.clone(), &shown, "unsupported scope applied to resource");
        }
        let exists_only = SCOPES.contains(&scope) && !["PriorityClass", "VolumeAttributesClass"].contains(&scope);
        if exists_only && operator != "Exists" {
            errors.invalid(path.child("operator"), operator, EXISTS_ONLY);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                path.child("values"),
                json!(values),
                "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid(path.child("operator"), operator, "not a valid selector operator"),
        }
    }
    let scopes: Vec<_> = requirements.iter().map(|r| text(r, "scopeName")).collect();
    for _ in 0..conflict(&scopes) {
        let shown = crate::godump::dump("ScopeSelector", selector);
        errors.invalid_text(path.clone(), &shown, "conflicting scopes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, cx, update_errors};

    #[test]
    fn scopes_fit_resources() {
        let errors = |spec: Value| create_errors(&ResourceQuota, json!({"spec": spec}));
        assert!(errors(json!({"hard": {"pods": "1", "a.b/c": "2"}, "scopes": ["BestEffort"]})).is_empty());
        assert_eq!(
            errors(
                json!({"hard": {"cpu": "1", "odd": "1", "pods": "0.5"}, "scopes": ["BestEffort", "NotBestEffort", "X"]})
            ),
            [
                "spec.hard[odd]: Invalid value: \"odd\": must be a standard resource type or fully qualified",
                "spec.hard[odd]: Invalid value: \"odd\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"0.5\": must be an integer",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"X\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"X\"]: unsupported scope",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"X\"]: conflicting scopes",
            ]
        );
        assert_eq!(
            errors(
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "Exists", "values": ["a"]}]}})
            ),
            [
                "spec.scopeSelector.matchExpressions.values: Invalid value: [\"a\"]: must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector"
            ]
        );
    }

    #[test]
    fn scopes_stay() {
        assert_eq!(
            update_errors(&ResourceQuota, json!({"spec": {}}), json!({"spec": {"scopes": ["Terminating"]}})),
            ["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"]
        );
    }

    #[test]
    fn prints_usage() {
        let quota = json!({"metadata": {"name": "q"}, "status": {
            "hard": {"pods": "3", "cpu": "2", "limits.cpu": "4"}, "used": {"pods": "1", "limits.cpu": "1"}}});
        assert_eq!(
            ResourceQuota.row(&quota, cx("").now)[1..3],
            [json!("cpu: 0/2, pods: 1/3"), json!("limits.cpu: 1/4")]
        );
    }
}
