//! What policies and their bindings share.

use apimachinery::validation::{ErrorList, Path, names};
use serde_json::{Value, json};

use super::expressions::{Checker, check_match_conditions};
use super::rules::{check_failure_policy, check_match_resources, check_mutating_operations};
use crate::access::{entries, has, items, obj, opt_text, same, text, texts};
use crate::checks::{dns_subdomain, label_selector, spec};

/// What a policy does with the objects that it is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Mutate,
    Validate,
}

/// The part of a policy's spec up to what it does: failure policy, parameters, what it is about, conditions, variables.
/// `old` is the policy that is replaced: conditions that did not change are not looked at again. Returns what checks
/// the expressions that follow.
pub(super) fn check_policy_head(
    errors: &mut ErrorList,
    path: &Path,
    object: &Value,
    old: Option<&Value>,
    doing: Doing,
) -> Checker {
    let own = spec(object);
    check_failure_policy(errors, path.child("failurePolicy"), own);
    if has(own, "paramKind") {
        check_param_kind(errors, &path.child("paramKind"), obj(own, "paramKind"));
    }
    let constraints = path.child("matchConstraints");
    if has(own, "matchConstraints") {
        check_match_resources(errors, &constraints, obj(own, "matchConstraints"));
        if items(obj(own, "matchConstraints"), "resourceRules").is_empty() {
            errors.required(constraints.child("resourceRules"), "");
        }
        if doing == Doing::Mutate {
            check_mutating_operations(errors, &constraints, obj(own, "matchConstraints"));
        }
    } else {
        errors.required(constraints, "");
    }
    let known = old
        .is_some_and(|old| ["paramKind", "matchConditions"].iter().all(|key| same(obj(own, key), obj(spec(old), key))));
    if !known {
        check_match_conditions(errors, path, own);
    }
    let mut checker = Checker::policy(own, doing == Doing::Mutate);
    checker.variables(errors, path, own);
    checker
}

fn check_param_kind(errors: &mut ErrorList, path: &Path, kind: &Value) {
    let at = path.child("apiVersion");
    let api_version = text(kind, "apiVersion");
    let parts: Vec<&str> = api_version.split('/').collect();
    match parts.as_slice() {
        _ if api_version.is_empty() => errors.required(at, ""),
        [_, _, _, ..] => errors.invalid(at, api_version, &format!("unexpected GroupVersion string: {api_version}")),
        parts => {
            let (group, version) = if let [group, version] = parts { (*group, *version) } else { ("", api_version) };
            let bad = names::is_dns1123_subdomain(group);
            if !group.is_empty() && !bad.is_empty() {
                errors.invalid(at.clone(), group, &bad.join(","));
            }
            let bad = names::is_dns1035_label(version);
            if version.is_empty() {
                errors.invalid(at, api_version, "version must be specified");
            } else if !bad.is_empty() {
                errors.invalid(at, version, &bad.join(","));
            }
        }
    }
    let name = text(kind, "kind");
    let bad = names::is_dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.required(path.child("kind"), "");
    } else if !bad.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", bad.join(","));
        errors.invalid(path.child("kind"), name, &detail);
    }
}

/// The part of a binding's spec that both kinds have.
pub(super) fn check_binding(errors: &mut ErrorList, path: &Path, spec: &Value) {
    match text(spec, "policyName") {
        "" => errors.required(path.child("policyName"), ""),
        name => dns_subdomain(errors, path.child("policyName"), name),
    }
    check_param_ref(errors, &path.child("paramRef"), obj(spec, "paramRef"));
    check_match_resources(errors, &path.child("matchResources"), obj(spec, "matchResources"));
}

fn check_param_ref(errors: &mut ErrorList, path: &Path, reference: &Value) {
    if reference.is_null() {
        return;
    }
    const BOTH: &str = "name and selector are mutually exclusive";
    let (name, selects) = (text(reference, "name"), has(reference, "selector"));
    if !name.is_empty() {
        errors.invalid_all(&path.child("name"), name, names::path_segment(name, false));
        if selects {
            errors.forbidden(path.child("name"), BOTH);
        }
    }
    if selects {
        label_selector(errors, &path.child("selector"), obj(reference, "selector"));
        if !name.is_empty() {
            errors.forbidden(path.child("selector"), BOTH);
        }
    }
    if name.is_empty() && !selects {
        errors.required(path.clone(), "one of name or selector must be specified");
    }
    const ACTIONS: &[&str] = &["Deny", "Allow"];
    match text(reference, "parameterNotFoundAction") {
        "" => errors.required(path.child("parameterNotFoundAction"), ""),
        action if !ACTIONS.contains(&action) => {
            errors.not_supported(path.child("parameterNotFoundAction"), action, ACTIONS);
        }
        _ => {}
    }
}

/// The `ParamKind` column.
pub(super) fn param_kind(object: &Value) -> Value {
    match obj(spec(object), "paramKind") {
        Value::Null => json!("<unset>"),
        kind => json!(format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind"))),
    }
}

/// The `ParamRef` column.
pub(super) fn param_ref(object: &Value) -> Value {
    let reference = obj(spec(object), "paramRef");
    let name = text(reference, "name");
    match (text(reference, "namespace"), has(reference, "selector")) {
        ("", _) if !name.is_empty() => json!(name),
        (namespace, _) if !name.is_empty() => json!(format!("{namespace}/{name}")),
        (_, true) => json!(go_selector(obj(reference, "selector"))),
        _ => json!("<unset>"),
    }
}

/// A label selector as its Go type prints itself.
fn go_selector(selector: &Value) -> String {
    let labels: String =
        entries(selector, "matchLabels").iter().map(|(k, v)| format!("{k}: {},", v.as_str().unwrap_or(""))).collect();
    let expressions: String = items(selector, "matchExpressions")
        .iter()
        .map(|e| {
            let (key, operator) = (text(e, "key"), text(e, "operator"));
            let values = texts(e, "values").join(" ");
            format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// A string that is there but blank.
pub(super) fn blank(value: &Value, key: &str) -> bool {
    opt_text(value, key).is_some_and(|s| !s.is_empty() && s.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::texts;

    #[test]
    fn parameter_kinds() {
        let errors = |kind: Value| {
            let mut errors = ErrorList::new();
            check_param_kind(&mut errors, &Path::new("k"), &kind);
            texts(&errors)
        };
        assert!(errors(json!({"apiVersion": "a.b/v1", "kind": "Foo"})).is_empty());
        assert_eq!(
            errors(json!({"apiVersion": "a/b/c"})),
            ["k.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c", "k.kind: Required value"]
        );
        assert_eq!(
            errors(json!({"apiVersion": "a/", "kind": "F"})),
            ["k.apiVersion: Invalid value: \"a/\": version must be specified"]
        );
    }

    #[test]
    fn references_print() {
        let shown = |reference: Value| param_ref(&json!({"spec": {"paramRef": reference}}));
        assert_eq!(shown(json!({"name": "a", "namespace": "n"})), "n/a");
        assert_eq!(shown(Value::Null), "<unset>");
        assert_eq!(
            shown(json!({"selector": {"matchLabels": {"a": "b"}}})),
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}"
        );
    }
}
