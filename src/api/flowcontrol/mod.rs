//! The `flowcontrol.apiserver.k8s.io` group: API priority and fairness.

pub mod bootstrap;
pub mod flowschema;
pub mod prioritylevelconfiguration;

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use crate::access::{items, text};
use crate::checks::status;

/// The conditions of a status: each type once, none without one.
fn check_conditions(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("status").child("conditions");
    let mut seen = Vec::new();
    for (i, condition) in items(status(object), "conditions").iter().enumerate() {
        let ty = text(condition, "type");
        let at = path.index(i).child("type");
        if seen.contains(&ty) {
            errors.duplicate(at.clone(), ty);
        }
        seen.push(ty);
        if ty.is_empty() {
            errors.required(at, "must not be empty");
        }
    }
}
