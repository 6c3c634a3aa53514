//! RuntimeClass: which handler of the container runtime runs a pod, and what that costs.
//!
//! Invariants:
//! - RC-1: the handler never changes.

use apimachinery::validation::{ErrorList, Path, meta};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{entries, has, items, obj, text};
use crate::checks::{dns_label, immutable};
use crate::core::node::quantity;
use crate::core::podspec::validate_tolerations;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};
use crate::resource_names::container_resource;

pub struct RuntimeClass;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.node.v1.RuntimeClass";
    Kind::builtin("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", Scope::Cluster, DEFINITION, RuntimeClass)
}

impl Strategy for RuntimeClass {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        match text(object, "handler") {
            "" => errors.required(Path::new("handler"), ""),
            handler => dns_label(&mut errors, Path::new("handler"), handler),
        }
        for (name, amount) in entries(obj(object, "overhead"), "podFixed") {
            // upstream checks the overhead as if it were limits
            let path = Path::new("overhead").child("limits").key(name);
            container_resource(&mut errors, &path, name);
            quantity(&mut errors, path, name, amount);
        }
        if has(object, "scheduling") {
            check_scheduling(&mut errors, obj(object, "scheduling"));
        }
        errors
    }

    fn validate_update(&self, _cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, Path::new("handler"), obj(object, "handler"), obj(old, "handler"));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("node.k8s.io/v1/runtimeclasses")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(text(object, "handler")), age_of(object, now)]
    }
}

fn check_scheduling(errors: &mut ErrorList, scheduling: &Value) {
    let path = Path::new("scheduling");
    errors.extend(meta::validate_labels(obj(scheduling, "nodeSelector"), &path.child("nodeSelector")));
    let tolerations = items(scheduling, "tolerations");
    let at = path.child("tolerations");
    validate_tolerations(errors, tolerations, &at);
    for (i, toleration) in tolerations.iter().enumerate() {
        if tolerations[..i].contains(toleration) {
            let shown = crate::godump::dump("Toleration", toleration);
            crate::checks::duplicate_text(errors, at.index(i), &shown, "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    #[test]
    fn checks_handler_and_overhead() {
        assert_eq!(
            create_errors(&RuntimeClass, json!({"overhead": {"podFixed": {"pods": "1"}}})),
            [
                "handler: Required value",
                "overhead.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers"
            ]
        );
        assert_eq!(
            update_errors(&RuntimeClass, json!({"handler": "a"}), json!({"handler": "b"})),
            ["handler: Invalid value: \"b\": field is immutable"]
        );
    }
}
