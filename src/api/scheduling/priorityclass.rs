//! PriorityClass: a name for how important a pod is.
//!
//! Invariants:
//! - PC-1: value and preemption policy never change.
//! - PC-2: names that begin with `system-` and values above 10⁹ are the system's.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{flag, int, obj, opt_text, set_missing, text};
use crate::checks::{immutable, name, next_generation, start_generation};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct PriorityClass;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.scheduling.v1.PriorityClass";
    Kind::builtin("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", Scope::Cluster, DEFINITION, PriorityClass)
        .with_short_names(&["pc"])
}

const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;
const SYSTEM: &[(&str, i64)] = &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        set_missing(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        start_generation(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        next_generation(object, old, false);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (name, value) = (name(object), int(object, "value"));
        if name.starts_with("system-") {
            if let Err(why) = known_system_class(name, value, flag(object, "globalDefault")) {
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.forbidden(Path::new("metadata").child("name"), &detail);
            }
        } else if value > HIGHEST_USER_PRIORITY {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            errors.forbidden(Path::new("value"), &detail);
        }
        const POLICIES: &[&str] = &["PreemptLowerPriority", "Never"];
        if let Some(policy) = opt_text(object, "preemptionPolicy").filter(|p| !POLICIES.contains(p)) {
            errors.not_supported(Path::new("preemptionPolicy"), policy, POLICIES);
        }
        errors
    }

    fn validate_update(&self, _cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if int(object, "value") != int(old, "value") {
            errors.forbidden(Path::new("value"), "may not be changed in an update.");
        }
        let path = Path::new("preemptionPolicy");
        immutable(&mut errors, path, obj(object, "preemptionPolicy"), obj(old, "preemptionPolicy"));
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("scheduling.k8s.io/v1/priorityclasses")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            name_of(object),
            json!(int(object, "value")),
            json!(flag(object, "globalDefault")),
            age_of(object, now),
            json!(text(object, "preemptionPolicy")),
        ]
    }
}

fn known_system_class(name: &str, value: i64, global: bool) -> Result<(), String> {
    let Some((_, expected)) = SYSTEM.iter().find(|(known, _)| *known == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if value != *expected {
        return Err(format!("value of {name} PriorityClass must be {expected}"));
    }
    if global {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    #[test]
    fn system_names_and_values_are_reserved() {
        let errors =
            |name: &str, value: i64| create_errors(&PriorityClass, json!({"metadata": {"name": name}, "value": value}));
        assert!(errors("system-node-critical", 2_000_001_000).is_empty());
        assert!(errors("a", 1_000_000_000).is_empty());
        assert_eq!(
            errors("system-node-critical", 1),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000"
            ]
        );
        assert_eq!(
            errors("a", 1_000_000_001),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
    }

    #[test]
    fn value_and_policy_stay() {
        assert_eq!(
            update_errors(&PriorityClass, json!({"value": 1}), json!({"value": 2, "preemptionPolicy": "Never"})),
            [
                "value: Forbidden: may not be changed in an update.",
                "preemptionPolicy: Invalid value: \"Never\": field is immutable"
            ]
        );
    }
}
