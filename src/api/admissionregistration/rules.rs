//! Rules that say which requests a webhook or a policy is about.

use std::collections::BTreeSet;

use apimachinery::validation::{ErrorList, Path, names};
use serde_json::{Value, json};

use crate::access::{ensure_map, has, items, items_mut, obj, opt_text, set_missing, text, texts};
use crate::checks::label_selector;

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// A deleted object cannot be changed.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];

pub(super) fn default_rules(holder: &mut Value, key: &str) {
    for rule in items_mut(holder, key) {
        set_missing(rule, "scope", "*");
    }
}

/// Fills in a MatchResources, if there is one.
pub(super) fn default_match_resources(holder: &mut Value, key: &str) {
    if !has(holder, key) {
        return;
    }
    let Some(resources) = holder.get_mut(key) else { return };
    set_missing(resources, "matchPolicy", "Equivalent");
    ensure_map(resources, "namespaceSelector");
    ensure_map(resources, "objectSelector");
    default_rules(resources, "resourceRules");
    default_rules(resources, "excludeResourceRules");
}

pub(super) fn check_match_resources(errors: &mut ErrorList, path: &Path, resources: &Value) {
    if resources.is_null() {
        return;
    }
    match opt_text(resources, "matchPolicy") {
        None => errors.required(path.child("matchPolicy"), ""),
        Some(policy) if !MATCH_POLICIES.contains(&policy) => {
            errors.not_supported(path.child("matchPolicy"), policy, MATCH_POLICIES);
        }
        Some(_) => {}
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        if has(resources, selector) {
            label_selector(errors, &path.child(selector), obj(resources, selector));
        } else {
            errors.required(path.child(selector), "");
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(resources, key).iter().enumerate() {
            let at = path.child(key).index(i);
            let names_given = texts(rule, "resourceNames");
            for (j, name) in names_given.iter().enumerate() {
                let at = at.child("resourceNames").index(j);
                errors.invalid_all(&at, name, names::path_segment(name, false));
                if names_given[..j].contains(name) {
                    errors.duplicate(at, *name);
                }
            }
            check_rule(errors, &at, rule);
        }
    }
}

/// A policy that changes objects is about no deletions.
pub(super) fn check_mutating_operations(errors: &mut ErrorList, path: &Path, resources: &Value) {
    for rule in items(resources, "resourceRules") {
        for operation in texts(rule, "operations").into_iter().filter(|o| !MUTATING_OPERATIONS.contains(o)) {
            let at = path.children(&["resourceRules", "operations"]);
            errors.not_supported(at, operation, MUTATING_OPERATIONS);
        }
    }
}

/// A RuleWithOperations.
pub(super) fn check_rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    wildcard_alone(errors, path, rule, "operations", "operations");
    for (i, operation) in texts(rule, "operations").into_iter().enumerate() {
        if !OPERATIONS.contains(&operation) {
            errors.not_supported(path.child("operations").index(i), operation, OPERATIONS);
        }
    }
    // "" is the core group
    wildcard_alone(errors, path, rule, "apiGroups", "API groups");
    wildcard_alone(errors, path, rule, "apiVersions", "API versions");
    for (i, version) in texts(rule, "apiVersions").into_iter().enumerate() {
        if version.is_empty() {
            errors.required(path.child("apiVersions").index(i), "");
        }
    }
    check_resources(errors, &path.child("resources"), &texts(rule, "resources"));
    const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
    if let Some(scope) = opt_text(rule, "scope").filter(|s| !SCOPES.contains(s)) {
        errors.not_supported(path.child("scope"), scope, SCOPES);
    }
}

/// Something must be there, and `*` says everything by itself.
fn wildcard_alone(errors: &mut ErrorList, path: &Path, rule: &Value, key: &str, shown: &str) {
    let values = texts(rule, key);
    if values.is_empty() {
        errors.required(path.child(key), "");
    }
    if values.len() > 1 && values.contains(&"*") {
        let detail = format!("if '*' is present, must not specify other {shown}");
        errors.invalid(path.child(key), json!(values), &detail);
    }
}

fn check_resources(errors: &mut ErrorList, path: &Path, resources: &[&str]) {
    if resources.is_empty() {
        errors.required(path.clone(), "");
    }
    let (mut every_sub_of, mut sub_of_every) = (BTreeSet::new(), BTreeSet::new());
    let mut plain_resource = false;
    for (i, name) in resources.iter().enumerate() {
        if name.is_empty() {
            errors.required(path.index(i), "");
            continue;
        }
        let Some((resource, sub)) = name.split_once('/') else {
            // upstream looks at the last one only
            plain_resource = *name != "*";
            continue;
        };
        let mut covered = |by: String| {
            errors.invalid(path.index(i), *name, &format!("if '{by}' is present, must not specify {name}"));
        };
        if every_sub_of.contains(resource) {
            covered(format!("{resource}/*"));
        }
        if sub_of_every.contains(sub) {
            covered(format!("*/{sub}"));
        }
        if sub == "*" {
            every_sub_of.insert(resource);
        }
        if resource == "*" {
            sub_of_every.insert(sub);
        }
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        errors.invalid(path.clone(), json!(resources), "if '*/*' is present, must not specify other resources");
    }
    if resources.contains(&"*") && plain_resource {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path.clone(), json!(resources), detail);
    }
}

/// The number of a list's items, as a cell.
pub(super) fn count(holder: &Value, key: &str) -> Value {
    json!(items(holder, key).len())
}

/// `failurePolicy` of a policy.
pub(super) fn check_failure_policy(errors: &mut ErrorList, path: Path, spec: &Value) {
    match opt_text(spec, "failurePolicy") {
        None => errors.required(path, ""),
        Some(policy) if !FAILURE_POLICIES.contains(&policy) => errors.not_supported(path, policy, FAILURE_POLICIES),
        Some(_) => {}
    }
}

/// The value of a field of a fixed set, where there is one.
pub(super) fn check_choice(errors: &mut ErrorList, path: &Path, holder: &Value, key: &str, choices: &[&str]) {
    if has(holder, key) && !choices.contains(&text(holder, key)) {
        errors.not_supported(path.child(key), text(holder, key), choices);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::texts;

    #[test]
    fn wildcards_stand_alone() {
        let errors = |resources: &[&str]| {
            let mut errors = ErrorList::new();
            check_resources(&mut errors, &Path::new("r"), resources);
            texts(&errors)
        };
        assert!(errors(&["pods", "pods/log", "*/status"]).is_empty());
        assert_eq!(
            errors(&["pods/*", "pods/log", "*/scale", "x/scale"]),
            [
                "r[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
                "r[3]: Invalid value: \"x/scale\": if '*/scale' is present, must not specify x/scale",
            ]
        );
        assert_eq!(
            errors(&["*", "pods"]),
            [
                "r: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources"
            ]
        );
        assert_eq!(errors(&[]), ["r: Required value"]);
    }

    #[test]
    fn deletions_are_not_mutated() {
        let mut errors = ErrorList::new();
        let resources = json!({"resourceRules": [{"operations": ["CREATE", "DELETE"]}]});
        check_mutating_operations(&mut errors, &Path::new("m"), &resources);
        assert_eq!(
            texts(&errors),
            [
                "m.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
            ]
        );
    }
}
