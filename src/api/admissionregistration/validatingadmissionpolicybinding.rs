//! ValidatingAdmissionPolicyBinding: where a validating policy is in force, with which parameters and consequences.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::policies::{check_binding, param_ref};
use super::rules::default_match_resources;
use crate::access::{same, text, texts};
use crate::checks::{next_generation, spec, start_generation};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ValidatingAdmissionPolicyBinding;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding";
    Kind::builtin(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        Scope::Cluster,
        DEFINITION,
        ValidatingAdmissionPolicyBinding,
    )
    .with_categories(&["api-extensions"])
}

impl Strategy for ValidatingAdmissionPolicyBinding {
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
        columns_of("admissionregistration.k8s.io/v1/validatingadmissionpolicybindings")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(text(spec(object), "policyName")), param_ref(object), age_of(object, now)]
    }
}

fn check(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (own, path) = (spec(object), Path::new("spec"));
    check_binding(&mut errors, &path, own);
    check_actions(&mut errors, &path.child("validationActions"), &texts(own, "validationActions"));
    errors
}

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

fn check_actions(errors: &mut ErrorList, path: &Path, actions: &[&str]) {
    for (i, action) in actions.iter().enumerate() {
        if !ACTIONS.contains(action) {
            errors.not_supported(path.index(i), *action, ACTIONS);
        }
        if actions[..i].contains(action) {
            errors.duplicate(path.index(i), *action);
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid(path.clone(), json!(actions), detail);
    }
    if actions.is_empty() {
        errors.required(path.clone(), "at least one validation action is required");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;

    #[test]
    fn consequences() {
        let errors = |actions: Value| {
            let spec = json!({"policyName": "p", "validationActions": actions});
            create_errors(&ValidatingAdmissionPolicyBinding, json!({"metadata": {"name": "b"}, "spec": spec}))
        };
        assert!(errors(json!(["Warn", "Audit"])).is_empty());
        assert_eq!(
            errors(json!([])),
            ["spec.validationActions: Required value: at least one validation action is required"]
        );
        assert_eq!(
            errors(json!(["Deny", "Warn"])),
            [
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"
            ]
        );
    }
}
