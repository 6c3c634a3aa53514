//! MutatingAdmissionPolicy: expressions that change objects before they are stored.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::Value;

use super::expressions::{Answer, Checker};
use super::policies::{Doing, check_policy_head, param_kind};
use super::rules::{REINVOCATION_POLICIES, count, default_match_resources};
use crate::access::{has, items, obj, set_missing, text};
use crate::checks::{next_generation, spec, start_generation};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct MutatingAdmissionPolicy;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy";
    Kind::builtin(
        "admissionregistration.k8s.io/v1",
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        Scope::Cluster,
        DEFINITION,
        MutatingAdmissionPolicy,
    )
    .with_categories(&["api-extensions"])
}

impl Strategy for MutatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_missing(spec, "failurePolicy", "Fail");
        default_match_resources(spec, "matchConstraints");
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        start_generation(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        let changed = !crate::access::same(spec(object), spec(old));
        next_generation(object, old, changed);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        check(object, None)
    }

    fn validate_update(&self, _cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        check(object, Some(old))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("admissionregistration.k8s.io/v1/mutatingadmissionpolicies")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), count(spec(object), "mutations"), param_kind(object), age_of(object, now)]
    }
}

fn check(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (own, path) = (spec(object), Path::new("spec"));
    let checker = check_policy_head(&mut errors, &path, object, old, Doing::Mutate);
    if items(own, "mutations").is_empty() {
        errors.required(path.child("mutations"), "mutations must contain at least one item");
    }
    for (i, mutation) in items(own, "mutations").iter().enumerate() {
        check_mutation(&mut errors, &checker, &path.child("mutations").index(i), mutation);
    }
    match text(own, "reinvocationPolicy") {
        "" => errors.required(path.child("reinvocationPolicy"), ""),
        policy if !REINVOCATION_POLICIES.contains(&policy) => {
            errors.not_supported(path.child("reinvocationPolicy"), policy, REINVOCATION_POLICIES);
        }
        _ => {}
    }
    errors
}

/// The two ways of a change, with the field that has its expression.
const WAYS: &[(&str, &str, Answer)] =
    &[("ApplyConfiguration", "applyConfiguration", Answer::Partial), ("JSONPatch", "jsonPatch", Answer::Patches)];

fn check_mutation(errors: &mut ErrorList, checker: &Checker, path: &Path, mutation: &Value) {
    let ty = text(mutation, "patchType");
    let Some((_, own, answer)) = WAYS.iter().find(|(name, ..)| *name == ty) else {
        if ty.is_empty() {
            errors.required(path.child("patchType"), "");
        } else {
            errors.not_supported(path.child("patchType"), ty, &["ApplyConfiguration", "JSONPatch"]);
        }
        return;
    };
    if !has(mutation, own) {
        errors.required(path.child(own), &format!("must be specified when patchType is {ty}"));
    } else {
        let at = path.child(own).child("expression");
        match text(obj(mutation, own), "expression") {
            blank if blank.trim().is_empty() => errors.required(at, ""),
            source => checker.change(errors, at, source, answer),
        }
    }
    for (_, other, _) in WAYS.iter().filter(|(name, key, _)| *name != ty && has(mutation, key)) {
        let detail = format!("must not be specified when patchType is {ty}");
        errors.invalid(path.child(other), format!("{{{other}}}"), &detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;
    use serde_json::json;

    #[test]
    fn one_way_a_mutation() {
        let errors = |mutations: Value| {
            create_errors(
                &MutatingAdmissionPolicy,
                json!({"metadata": {"name": "p"}, "spec": {"reinvocationPolicy": "Never", "mutations": mutations,
                    "matchConstraints": {"resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}}}),
            )
        };
        assert_eq!(
            errors(json!([{"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}])),
            [
                "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
            ]
        );
        assert_eq!(errors(json!([])), ["spec.mutations: Required value: mutations must contain at least one item"]);
        assert_eq!(
            errors(json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": " "}}])),
            ["spec.mutations[0].applyConfiguration.expression: Required value"]
        );
    }
}
