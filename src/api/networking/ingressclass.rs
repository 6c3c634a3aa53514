//! IngressClass: which controller serves an ingress.
//!
//! Invariants:
//! - IC-1: the controller never changes.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{has, obj, opt_text, same, set_missing, text};
use crate::checks::{
    dns_label, dns_subdomain, domain_prefixed_path, immutable, next_generation, spec, start_generation,
};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct IngressClass;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.networking.v1.IngressClass";
    Kind::builtin("networking.k8s.io/v1", "IngressClass", "ingressclasses", Scope::Cluster, DEFINITION, IngressClass)
}

const MAX_CONTROLLER: usize = 250;

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) = object.pointer_mut("/spec/parameters").filter(|p| p.is_object()) {
            set_missing(parameters, "scope", "Cluster");
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
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let controller = text(spec(object), "controller");
        if controller.len() > MAX_CONTROLLER {
            errors.too_long(path.child("controller"), controller, MAX_CONTROLLER);
        }
        domain_prefixed_path(&mut errors, path.child("controller"), controller);
        if has(spec(object), "parameters") {
            check_parameters(&mut errors, path.child("parameters"), obj(spec(object), "parameters"));
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        let path = Path::new("spec").child("controller");
        immutable(&mut errors, path, obj(spec(object), "controller"), obj(spec(old), "controller"));
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("networking.k8s.io/v1/ingressclasses")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let parameters = obj(spec(object), "parameters");
        let shown = match (parameters.is_null(), opt_text(parameters, "apiGroup")) {
            (true, _) => "<none>".to_owned(),
            (false, Some(group)) => format!("{}.{group}/{}", text(parameters, "kind"), text(parameters, "name")),
            (false, None) => format!("{}/{}", text(parameters, "kind"), text(parameters, "name")),
        };
        vec![name_of(object), json!(text(spec(object), "controller")), json!(shown), age_of(object, now)]
    }
}

/// A reference to an object of any kind in the same scope: a class's parameters, an ingress's resource.
pub(super) fn check_reference(errors: &mut ErrorList, path: &Path, reference: &Value) {
    if let Some(group) = opt_text(reference, "apiGroup") {
        dns_subdomain(errors, path.child("apiGroup"), group);
    }
    for field in ["kind", "name"] {
        match text(reference, field) {
            "" => errors.required(path.child(field), &format!("{field} is required")),
            value => errors.invalid_all(&path.child(field), value, names::path_segment(value, false)),
        }
    }
}

fn check_parameters(errors: &mut ErrorList, path: Path, parameters: &Value) {
    check_reference(errors, &path, parameters);
    const SCOPES: &[&str] = &["Cluster", "Namespace"];
    let Some(scope) = opt_text(parameters, "scope") else {
        errors.required(path.child("scope"), "");
        return;
    };
    if !SCOPES.contains(&scope) {
        errors.not_supported(path.child("scope"), scope, SCOPES);
        return;
    }
    let at = path.child("namespace");
    match (scope, opt_text(parameters, "namespace")) {
        ("Namespace", None | Some("")) => errors.required(at, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(namespace)) => dns_label(errors, at, namespace),
        (_, Some(_)) => errors.forbidden(at, "`parameters.scope` is set to 'Cluster'"),
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    #[test]
    fn checks_parameters() {
        let errors = |parameters: Value| {
            create_errors(&IngressClass, json!({"spec": {"controller": "a.b/c", "parameters": parameters}}))
        };
        assert!(errors(json!({"kind": "K", "name": "n"})).is_empty());
        assert_eq!(
            errors(json!({"kind": "K", "namespace": "x"})),
            [
                "spec.parameters.name: Required value: name is required",
                "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
            ]
        );
    }

    #[test]
    fn controller_stays() {
        let with = |controller: &str| json!({"spec": {"controller": controller}});
        assert_eq!(
            update_errors(&IngressClass, with("a.b/c"), with("a.b/d")),
            ["spec.controller: Invalid value: \"a.b/d\": field is immutable"]
        );
    }
}
