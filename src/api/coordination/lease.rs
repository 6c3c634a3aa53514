//! Lease: who holds something, and until when: leader election, node heartbeats.
//!
//! Invariants:
//! - LE-1: `strategy` and `preferredHolder` (coordinated leader election, off by default) are dropped unless already stored.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{has, opt_int, remove, text};
use crate::checks::{not_negative, spec};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct Lease;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.coordination.v1.Lease";
    Kind::builtin("coordination.k8s.io/v1", "Lease", "leases", Scope::Namespaced, DEFINITION, Lease)
}

const GATED: &[&str] = &["strategy", "preferredHolder"];

impl Strategy for Lease {
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        drop_gated(object, &Value::Null);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        drop_gated(object, old);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        if let Some(seconds) = opt_int(spec(object), "leaseDurationSeconds").filter(|s| *s <= 0) {
            errors.invalid(path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(transitions) = opt_int(spec(object), "leaseTransitions") {
            not_negative(&mut errors, path.child("leaseTransitions"), transitions);
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("coordination.k8s.io/v1/leases")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(text(spec(object), "holderIdentity")), age_of(object, now)]
    }
}

fn drop_gated(object: &mut Value, old: &Value) {
    for field in GATED {
        if !has(spec(old), field) {
            if let Some(spec) = object.get_mut("spec") {
                remove(spec, field);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created};

    #[test]
    fn drops_what_is_gated() {
        let made = created(&Lease, json!({"spec": {"strategy": "s", "preferredHolder": "p", "holderIdentity": "h"}}));
        assert_eq!(made, json!({"spec": {"holderIdentity": "h"}}));
    }

    #[test]
    fn durations_and_counts_are_positive() {
        assert_eq!(
            create_errors(&Lease, json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}})),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }
}
