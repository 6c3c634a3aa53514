//! CSIStorageCapacity: how much a driver has left for a class in a part of the cluster.
//!
//! Invariants:
//! - CC-1: class and topology never change.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use crate::access::{has, obj, text};
use crate::checks::{NOT_NEGATIVE, dns_subdomain, immutable, label_selector};
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct CsiStorageCapacity;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.storage.v1.CSIStorageCapacity";
    let (version, plural) = ("storage.k8s.io/v1", "csistoragecapacities");
    Kind::builtin(version, "CSIStorageCapacity", plural, Scope::Namespaced, DEFINITION, CsiStorageCapacity)
}

impl Strategy for CsiStorageCapacity {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if has(object, "nodeTopology") {
            label_selector(&mut errors, &Path::new("nodeTopology"), obj(object, "nodeTopology"));
        }
        dns_subdomain(&mut errors, Path::new("storageClassName"), text(object, "storageClassName"));
        for field in ["capacity", "maximumVolumeSize"] {
            let amount = obj(object, field);
            if Quantity::from_json(amount).is_ok_and(|q| q.milli_value() < 0) {
                errors.invalid(Path::new(field), amount.clone(), NOT_NEGATIVE);
            }
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        for field in ["nodeTopology", "storageClassName"] {
            immutable(&mut errors, Path::new(field), obj(object, field), obj(old, field));
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};
    use serde_json::json;

    #[test]
    fn amounts_are_not_negative_and_the_class_stays() {
        assert_eq!(
            create_errors(&CsiStorageCapacity, json!({"storageClassName": "s", "capacity": "-1"})),
            ["capacity: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
        assert_eq!(
            update_errors(&CsiStorageCapacity, json!({"storageClassName": "s"}), json!({"storageClassName": "t"})),
            ["storageClassName: Invalid value: \"t\": field is immutable"]
        );
    }
}
