//! CSINode: the storage drivers of a node.
//!
//! Invariants:
//! - CN-1: a driver's entry may come and go but not change (its count of volumes may).

use apimachinery::validation::{ErrorList, Path, meta};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{items, obj, opt_int, same, text, texts};
use crate::checks::{not_negative, spec};
use crate::core::podspec::validate_csi_driver_name;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct CsiNode;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.storage.v1.CSINode";
    Kind::builtin("storage.k8s.io/v1", "CSINode", "csinodes", Scope::Cluster, DEFINITION, CsiNode)
}

const MAX_NODE_ID: usize = 192;

impl Strategy for CsiNode {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let drivers = items(spec(object), "drivers");
        for (i, driver) in drivers.iter().enumerate() {
            let path = Path::new("spec").child("drivers").index(i);
            check_driver(&mut errors, &path, driver);
            let name = text(driver, "name");
            if drivers[..i].iter().any(|d| text(d, "name") == name) {
                errors.duplicate(path.child("name"), name);
            }
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        let path = Path::new("CSINode").child("Spec").child("Drivers");
        for driver in items(spec(object), "drivers") {
            let was = items(spec(old), "drivers").iter().find(|d| text(d, "name") == text(driver, "name"));
            let changed = |was: &Value| ["nodeID", "topologyKeys"].iter().any(|f| !same(obj(driver, f), obj(was, f)));
            if was.is_some_and(changed) {
                errors.invalid(path.clone(), driver.clone(), "field is immutable");
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("storage.k8s.io/v1/csinodes")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(items(spec(object), "drivers").len()), age_of(object, now)]
    }
}

fn check_driver(errors: &mut ErrorList, path: &Path, driver: &Value) {
    validate_csi_driver_name(errors, text(driver, "name"), &path.child("name"));
    let id = text(driver, "nodeID");
    if id.is_empty() {
        errors.required(path.child("nodeID"), "");
    } else if id.len() > MAX_NODE_ID {
        errors.invalid(path.child("nodeID"), id, &format!("must be {MAX_NODE_ID} characters or less"));
    }
    if let Some(count) = opt_int(obj(driver, "allocatable"), "count") {
        not_negative(errors, path.child("allocatable").child("count"), count);
    }
    let keys = texts(driver, "topologyKeys");
    for (i, key) in keys.iter().enumerate() {
        let at = path.child("topologyKeys");
        if key.is_empty() {
            errors.required(at.clone(), "");
        }
        if keys[..i].contains(key) {
            errors.duplicate(at.clone(), *key);
        }
        errors.extend(meta::validate_label_name(key, &at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    #[test]
    fn drivers_are_named_once_and_stay() {
        let with = |id: &str| json!({"spec": {"drivers": [{"name": "d", "nodeID": id}]}});
        assert!(create_errors(&CsiNode, with("n")).is_empty());
        assert_eq!(create_errors(&CsiNode, with("")), ["spec.drivers[0].nodeID: Required value"]);
        assert!(update_errors(&CsiNode, with("n"), json!({"spec": {"drivers": []}})).is_empty());
        assert!(update_errors(&CsiNode, with("n"), with("m"))[0].ends_with("field is immutable"));
    }
}
