//! PodDisruptionBudget: how many pods of a set may be missing at a time by choice.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{int, obj, opt_text, set};
use crate::checks::{
    dump, int_or_percent, keep_spec_or_status, label_selector, not_negative, not_over_100_percent, spec,
    start_generation, status,
};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct PodDisruptionBudget;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.policy.v1.PodDisruptionBudget";
    let plural = "poddisruptionbudgets";
    Kind::builtin("policy/v1", "PodDisruptionBudget", plural, Scope::Namespaced, DEFINITION, PodDisruptionBudget)
        .with_short_names(&["pdb"])
        .with_subresource("status", "policy/v1", "PodDisruptionBudget", &["get", "patch", "update"])
}

const COUNTS: &[&str] = &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

impl Strategy for PodDisruptionBudget {
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(
            object,
            "status",
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
        );
        start_generation(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        keep_spec_or_status(cx, object, old);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (spec(object), Path::new("spec"));
        let bounds = ["minAvailable", "maxUnavailable"];
        if bounds.iter().all(|bound| !obj(spec, bound).is_null()) {
            let shown = dump(&[
                ("MinAvailable", obj(spec, "minAvailable").clone()),
                ("Selector", obj(spec, "selector").clone()),
                ("MaxUnavailable", obj(spec, "maxUnavailable").clone()),
                ("UnhealthyPodEvictionPolicy", obj(spec, "unhealthyPodEvictionPolicy").clone()),
            ]);
            errors.invalid_text(path.clone(), &shown, "minAvailable and maxUnavailable cannot be both set");
        }
        for bound in bounds {
            let value = obj(spec, bound);
            if !value.is_null() {
                int_or_percent(&mut errors, &path.child(bound), value);
                not_over_100_percent(&mut errors, &path.child(bound), value);
            }
        }
        label_selector(&mut errors, &path.child("selector"), obj(spec, "selector"));
        const POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];
        if let Some(policy) = opt_text(spec, "unhealthyPodEvictionPolicy").filter(|p| !POLICIES.contains(p)) {
            errors.not_supported(path.child("unhealthyPodEvictionPolicy"), policy, POLICIES);
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        if cx.subresource != "status" {
            return self.validate(cx, object);
        }
        let mut errors = ErrorList::new();
        for count in COUNTS {
            not_negative(&mut errors, Path::new("status").child(count), int(status(object), count));
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("policy/v1/poddisruptionbudgets")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let bound = |name: &str| match obj(spec(object), name) {
            Value::Null => json!("N/A"),
            Value::String(percent) => json!(percent),
            number => json!(number.to_string()),
        };
        vec![
            name_of(object),
            bound("minAvailable"),
            bound("maxUnavailable"),
            json!(int(status(object), "disruptionsAllowed")),
            age_of(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, cx, texts};

    #[test]
    fn bounds_are_counts_or_percentages() {
        let errors = |spec: Value| create_errors(&PodDisruptionBudget, json!({"spec": spec}));
        assert!(errors(json!({"minAvailable": "50%"})).is_empty());
        assert_eq!(
            errors(json!({"maxUnavailable": -1})),
            ["spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            errors(json!({"maxUnavailable": "101%"})),
            ["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"]
        );
        assert!(
            errors(json!({"minAvailable": 1, "maxUnavailable": 1}))[0]
                .contains("{\"MinAvailable\":1,\"Selector\":null,")
        );
    }

    #[test]
    fn status_counts_up_from_zero() {
        let budget = json!({"status": {"currentHealthy": -1}});
        assert_eq!(
            texts(&PodDisruptionBudget.validate_update(&cx("status"), &budget, &budget)),
            ["status.currentHealthy: Invalid value: -1: must be greater than or equal to 0"]
        );
    }
}
