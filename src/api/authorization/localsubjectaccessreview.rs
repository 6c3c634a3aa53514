//! LocalSubjectAccessReview: may someone do something in this namespace?

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::access::{check_attributes, check_metadata, check_subject, non_resource_text};
use crate::access::{has, obj, text};
use crate::checks::{namespace, spec};
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct LocalSubjectAccessReview;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.authorization.v1.LocalSubjectAccessReview";
    Kind::builtin(
        "authorization.k8s.io/v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        Scope::Namespaced,
        DEFINITION,
        LocalSubjectAccessReview,
    )
    .with_verbs(&["create"])
}

impl Strategy for LocalSubjectAccessReview {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_attributes(&mut errors, object);
        check_subject(&mut errors, object);
        check_metadata(&mut errors, object, true);
        let spec = spec(object);
        let asked = text(obj(spec, "resourceAttributes"), "namespace");
        if has(spec, "resourceAttributes") && asked != namespace(object) {
            errors.invalid(Path::new("spec.resourceAttributes.namespace"), asked, "must match metadata.namespace");
        }
        if has(spec, "nonResourceAttributes") {
            let shown = non_resource_text(spec);
            errors.invalid_text(Path::new("spec.nonResourceAttributes"), &shown, "disallowed on this kind of request");
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
    fn asks_about_its_own_namespace() {
        let ask = |spec: Value| {
            create_errors(&LocalSubjectAccessReview, json!({"metadata": {"namespace": "n"}, "spec": spec}))
        };
        assert!(ask(json!({"user": "u", "resourceAttributes": {"namespace": "n"}})).is_empty());
        assert_eq!(
            ask(json!({"user": "u", "resourceAttributes": {"namespace": "o"}})),
            ["spec.resourceAttributes.namespace: Invalid value: \"o\": must match metadata.namespace"]
        );
        assert_eq!(
            ask(json!({"user": "u", "nonResourceAttributes": {"path": "/"}})),
            [
                "spec.nonResourceAttributes: Invalid value: {\"Path\":\"/\",\"Verb\":\"\"}: disallowed on this kind of request"
            ]
        );
    }
}
