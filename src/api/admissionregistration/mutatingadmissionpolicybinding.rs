//! MutatingAdmissionPolicyBinding: where a mutating policy is in force, with which parameters.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::policies::{check_binding, param_ref};
use super::rules::{check_mutating_operations, default_match_resources};
use crate::access::{obj, same, text};
use crate::checks::{next_generation, spec, start_generation};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct MutatingAdmissionPolicyBinding;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding";
    Kind::builtin(
        "admissionregistration.k8s.io/v1",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        Scope::Cluster,
        DEFINITION,
        MutatingAdmissionPolicyBinding,
    )
    .with_categories(&["api-extensions"])
}

impl Strategy for MutatingAdmissionPolicyBinding {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            default_match_resources(spec, "matchResources");
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        start_generation(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        let changed = !same(spec(object), spec(old));
        next_generation(object, old, changed);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        check(object)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(text(spec(object), "policyName")), param_ref(object), age_of(object, now)]
    }
}

fn check(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (own, path) = (spec(object), Path::new("spec"));
    check_binding(&mut errors, &path, own);
    check_mutating_operations(&mut errors, &path.child("matchResources"), obj(own, "matchResources"));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;

    #[test]
    fn names_a_policy_and_mutates() {
        let errors = |spec: Value| {
            create_errors(&MutatingAdmissionPolicyBinding, json!({"metadata": {"name": "b"}, "spec": spec}))
        };
        assert!(errors(json!({"policyName": "p"})).is_empty());
        assert_eq!(
            errors(json!({"paramRef": {}})),
            [
                "spec.policyName: Required value",
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.paramRef.parameterNotFoundAction: Required value",
            ]
        );
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["pods"]});
        assert_eq!(
            errors(json!({"policyName": "p", "matchResources": {"resourceRules": [rule]}})),
            [
                "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
            ]
        );
    }
}
