//! DeviceClass: kinds of devices that claims ask for, by selectors and with configuration.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::Value;

use super::{claimspec, names};
use crate::access::{items, obj, opt_text, same};
use crate::checks::{next_generation, spec, start_generation};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct DeviceClass;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.resource.v1.DeviceClass";
    Kind::builtin("resource.k8s.io/v1", "DeviceClass", "deviceclasses", Scope::Cluster, DEFINITION, DeviceClass)
}

const MAX_CONFIGS: usize = 32;

impl Strategy for DeviceClass {
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        start_generation(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        let changed = !same(spec(object), spec(old));
        next_generation(object, old, changed);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        check(spec(object), &Value::Null)
    }

    fn validate_update(&self, _cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        check(spec(object), spec(old))
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("resource.k8s.io/v1/deviceclasses")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), age_of(object, now)]
    }
}

/// What is exactly as before counts as checked.
fn check(spec: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let stored = |field: &str| !old.is_null() && same(obj(spec, field), obj(old, field));
    claimspec::check_selectors(&mut errors, &path.child("selectors"), items(spec, "selectors"), stored("selectors"));
    names::slice(&mut errors, &path.child("config"), items(spec, "config"), MAX_CONFIGS, |errors, path, config| {
        claimspec::check_config(errors, path, config, stored("config"));
    });
    if let Some(name) = opt_text(spec, "extendedResourceName").filter(|name| !is_extended_resource(name)) {
        errors.invalid(path.child("extendedResourceName"), name, "must be a valid extended resource name");
    }
    errors
}

/// A name with a domain that is not Kubernetes' own.
fn is_extended_resource(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let quota = format!("requests.{name}");
    !native && !name.starts_with("requests.") && apimachinery::validation::names::is_qualified_name(&quota).is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{create_errors, created};

    #[test]
    fn extended_resources_have_a_domain() {
        let errors = |name: &str| create_errors(&DeviceClass, json!({"spec": {"extendedResourceName": name}}));
        assert!(errors("example.com/gpu").is_empty());
        assert_eq!(
            errors("gpu"),
            ["spec.extendedResourceName: Invalid value: \"gpu\": must be a valid extended resource name"]
        );
    }

    #[test]
    fn generations_start_at_one() {
        assert_eq!(created(&DeviceClass, json!({"spec": {}}))["metadata"]["generation"], 1);
        let class = json!({"spec": {"selectors": [{}]}});
        assert_eq!(create_errors(&DeviceClass, class), ["spec.selectors[0].cel: Required value"]);
    }
}
