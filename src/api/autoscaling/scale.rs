//! Scale: the body of `deployments/scale` and its like.

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use crate::access::int;
use crate::checks::{not_negative, spec};
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct Scale;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.autoscaling.v1.Scale";
    Kind::builtin("autoscaling/v1", "Scale", "scales", Scope::Namespaced, DEFINITION, Scale)
        .with_verbs(&["get", "patch", "update"])
}

impl Strategy for Scale {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        not_negative(&mut errors, Path::new("spec").child("replicas"), int(spec(object), "replicas"));
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;
    use serde_json::json;

    #[test]
    fn replicas_are_not_negative() {
        assert_eq!(
            create_errors(&Scale, json!({"spec": {"replicas": -1}})),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert!(create_errors(&Scale, json!({})).is_empty());
    }
}
