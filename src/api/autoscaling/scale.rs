//! Scale: the body of `deployments/scale` and its like.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::int;
use crate::checks::{not_negative, spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy, default_columns};
use crate::printers::{age_of, name_of};

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

    fn columns(&self) -> Vec<Column> {
        let described = default_columns();
        let description = |at: usize| described.get(at).map(|column| column.description.clone()).unwrap_or_default();
        let column = |name: &'static str, ty: &'static str, description| Column {
            name: name.into(),
            ty: ty.into(),
            format: "".into(),
            description,
            priority: 0,
        };
        vec![
            column("Name", "string", description(0)),
            column("Desired", "integer", DESIRED.into()),
            column("Available", "integer", AVAILABLE.into()),
            column("Age", "string", description(1)),
        ]
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (desired, available) = (int(spec(object), "replicas"), int(status(object), "replicas"));
        vec![name_of(object), json!(desired), json!(available), age_of(object, now)]
    }
}

const DESIRED: &str = "replicas is the desired number of instances for the scaled object.";
const AVAILABLE: &str = "replicas is the actual number of observed instances of the scaled object.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;

    #[test]
    fn replicas_are_not_negative() {
        assert_eq!(
            create_errors(&Scale, json!({"spec": {"replicas": -1}})),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert!(create_errors(&Scale, json!({})).is_empty());
    }
}
