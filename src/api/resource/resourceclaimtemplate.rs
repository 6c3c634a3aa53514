//! ResourceClaimTemplate: what a pod's own claims look like.
//!
//! Invariants:
//! - RT-1: the spec never changes.

use apimachinery::validation::meta::{validate_annotations, validate_labels};
use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::Value;

use super::claimspec;
use crate::access::{obj, same};
use crate::checks::{IMMUTABLE, meta, spec};
use crate::godump;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ResourceClaimTemplate;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.resource.v1.ResourceClaimTemplate";
    Kind::builtin(
        "resource.k8s.io/v1",
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
        Scope::Namespaced,
        DEFINITION,
        ResourceClaimTemplate,
    )
}

impl Strategy for ResourceClaimTemplate {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.pointer_mut("/spec/spec") {
            claimspec::default(spec);
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let (metadata, at) = (meta(spec(object)), path.child("metadata"));
        errors.extend(validate_annotations(obj(metadata, "annotations"), &at.child("annotations")));
        errors.extend(validate_labels(obj(metadata, "labels"), &at.child("labels")));
        claimspec::check(&mut errors, &path.child("spec"), obj(spec(object), "spec"));
        errors
    }

    fn validate_update(&self, _cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if !same(spec(object), spec(old)) {
            let dump = godump::dump("ResourceClaimTemplateSpec", spec(object));
            errors.invalid_text(Path::new("spec"), &dump, IMMUTABLE);
        }
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("resource.k8s.io/v1/resourceclaimtemplates")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), age_of(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    fn template(class: &str) -> Value {
        let requests = json!([{"name": "a", "exactly": {"deviceClassName": class}}]);
        json!({"metadata": {"name": "x"}, "spec": {"spec": {"devices": {"requests": requests}}}})
    }

    #[test]
    fn paths_have_both_specs() {
        assert_eq!(
            create_errors(&ResourceClaimTemplate, template("")),
            ["spec.spec.devices.requests[0].exactly.deviceClassName: Required value"]
        );
    }

    #[test]
    fn stays() {
        let errors = update_errors(&ResourceClaimTemplate, template("a"), template("b"));
        assert!(
            errors[0].starts_with("spec: Invalid value: {\"Spec\":{\"Devices\":{\"Requests\":[{\"Name\":\"a\""),
            "{errors:?}"
        );
    }
}
