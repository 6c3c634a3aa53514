//! VolumeAttributesClass: how volumes behave that can be told while they exist.
//!
//! Invariants:
//! - VT-1: driver and parameters never change.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{map, obj, text};
use crate::checks::immutable;
use crate::core::podspec::validate_csi_driver_name;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct VolumeAttributesClass;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.storage.v1.VolumeAttributesClass";
    let (version, plural) = ("storage.k8s.io/v1", "volumeattributesclasses");
    Kind::builtin(version, "VolumeAttributesClass", plural, Scope::Cluster, DEFINITION, VolumeAttributesClass)
        .with_short_names(&["vac"])
}

impl Strategy for VolumeAttributesClass {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate_csi_driver_name(&mut errors, text(object, "driverName"), &Path::new("driverName"));
        if map(object, "parameters").is_none_or(serde_json::Map::is_empty) {
            errors.required(Path::new("parameters"), "must contain at least one key/value pair");
        } else {
            super::storageclass::check_parameters(&mut errors, object);
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        for field in ["driverName", "parameters"] {
            immutable(&mut errors, Path::new(field), obj(object, field), obj(old, field));
        }
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("storage.k8s.io/v1/volumeattributesclasses")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(text(object, "driverName")), age_of(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    #[test]
    fn has_parameters_that_stay() {
        let with = |parameters: Value| json!({"driverName": "d", "parameters": parameters});
        assert_eq!(
            create_errors(&VolumeAttributesClass, with(json!({}))),
            ["parameters: Required value: must contain at least one key/value pair"]
        );
        assert_eq!(
            update_errors(&VolumeAttributesClass, with(json!({"a": "b"})), with(json!({"a": "c"}))),
            ["parameters: Invalid value: {\"a\":\"c\"}: field is immutable"]
        );
    }
}
