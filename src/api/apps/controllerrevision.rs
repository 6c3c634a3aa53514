//! ControllerRevision: a snapshot of a controller's template, for roll-backs.
//!
//! Invariants:
//! - CR-1: the data never changes.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{flag, has, int, items, obj, text};
use crate::checks::{immutable, meta, not_negative};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ControllerRevision;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.apps.v1.ControllerRevision";
    Kind::builtin(
        "apps/v1",
        "ControllerRevision",
        "controllerrevisions",
        Scope::Namespaced,
        DEFINITION,
        ControllerRevision,
    )
}

impl Strategy for ControllerRevision {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if !has(object, "data") {
            errors.required(Path::new("data"), "data is mandatory");
        }
        not_negative(&mut errors, Path::new("revision"), int(object, "revision"));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        immutable(&mut errors, Path::new("data"), obj(object, "data"), obj(old, "data"));
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("apps/v1/controllerrevisions")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(controller(object)), json!(int(object, "revision")), age_of(object, now)]
    }
}

/// `statefulset.apps/web`, `<none>` without a controller.
fn controller(object: &Value) -> String {
    let Some(owner) = items(meta(object), "ownerReferences").iter().find(|o| flag(o, "controller")) else {
        return "<none>".to_owned();
    };
    let kind = text(owner, "kind").to_lowercase();
    match text(owner, "apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "name")),
        None => format!("{kind}/{}", text(owner, "name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, cx, update_errors};

    #[test]
    fn data_is_there_and_stays() {
        assert_eq!(
            create_errors(&ControllerRevision, json!({"revision": -1})),
            [
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
        assert_eq!(
            update_errors(&ControllerRevision, json!({"data": {}}), json!({"data": {"a": 1}})),
            ["data: Invalid value: {\"a\":1}: field is immutable"]
        );
    }

    #[test]
    fn names_its_controller() {
        let owned = json!({"metadata": {"name": "r", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": true}]}, "revision": 2});
        let row = ControllerRevision.row(&owned, cx("").now);
        assert_eq!(row[1..3], [json!("statefulset.apps/web"), json!(2)]);
    }
}
