//! Binding: a pod's node, as the scheduler says it. Only ever a request's body.

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use crate::access::{obj, text};
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct Binding;

pub fn kind() -> Kind {
    Kind::builtin("v1", "Binding", "bindings", Scope::Namespaced, "io.k8s.api.core.v1.Binding", Binding)
        .with_verbs(&["create"])
}

impl Strategy for Binding {
    /// Upstream answers these errors with 500 and their aggregate.
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let target = obj(object, "target");
        let kind = text(target, "kind");
        if !kind.is_empty() && kind != "Node" {
            errors.not_supported(Path::new("target").child("kind"), kind, &["Node", "<empty>"]);
        }
        if text(target, "name").is_empty() {
            errors.required(Path::new("target").child("name"), "");
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;
    use serde_json::json;

    #[test]
    fn needs_a_node() {
        assert_eq!(
            create_errors(&Binding, json!({"target": {"kind": "Pod"}})),
            [
                "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
                "target.name: Required value",
            ]
        );
        assert!(create_errors(&Binding, json!({"target": {"name": "n"}})).is_empty());
    }
}
