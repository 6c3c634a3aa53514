//! ResourceClaim: devices asked for, and what was allocated.
//!
//! Invariants:
//! - RC-1: the spec never changes; an allocation is replaced only by none.
//! - RC-2: the status of a device goes with its allocation.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{allocation, claimspec};
use crate::access::{copy_field, has, items, items_mut, obj, remove, same, set, text};
use crate::checks::{IMMUTABLE, keep_metadata, meta, spec, status};
use crate::godump;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ResourceClaim;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.resource.v1.ResourceClaim";
    let version = "resource.k8s.io/v1";
    Kind::builtin(version, "ResourceClaim", "resourceclaims", Scope::Namespaced, DEFINITION, ResourceClaim)
        .with_subresource("status", version, "ResourceClaim", &["get", "patch", "update"])
}

impl Strategy for ResourceClaim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            claimspec::default(spec);
        }
        let Some(allocation) = object.pointer_mut("/status/allocation/devices") else { return };
        for result in items_mut(allocation, "results") {
            for toleration in items_mut(result, "tolerations") {
                crate::access::set_blank(toleration, "operator", "Equal");
            }
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({}));
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        if cx.subresource != "status" {
            copy_field(object, old, "status");
            return;
        }
        copy_field(object, old, "spec");
        keep_metadata(object, old);
        drop_deallocated(object, old);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        claimspec::check(&mut errors, &Path::new("spec"), spec(object));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.subresource == "status" {
            let requests = claimspec::Requests::of(spec(object));
            let deleted = has(meta(object), "deletionTimestamp");
            let path = Path::new("status");
            allocation::check_status(&mut errors, &path, status(object), status(old), deleted, &requests);
        } else if !same(spec(object), spec(old)) {
            let dump = godump::dump("ResourceClaimSpec", spec(object));
            errors.invalid_text(Path::new("spec"), &dump, IMMUTABLE);
        }
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("resource.k8s.io/v1/resourceclaims")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let deleted = has(meta(object), "deletionTimestamp");
        let mut states = Vec::new();
        if deleted {
            states.push("deleted");
        }
        if has(status(object), "allocation") {
            states.push("allocated");
            if !items(status(object), "reservedFor").is_empty() {
                states.push("reserved");
            }
        } else if !deleted {
            states.push("pending");
        }
        vec![name_of(object), json!(states.join(",")), age_of(object, now)]
    }
}

/// Devices that the old allocation had and the new one has not lose their status.
fn drop_deallocated(object: &mut Value, old: &Value) {
    let allocated = |object: &Value| -> Vec<[String; 3]> {
        let results = items(obj(obj(status(object), "allocation"), "devices"), "results").iter();
        results.map(device_of).collect()
    };
    let now = allocated(object);
    let gone: Vec<_> = allocated(old).into_iter().filter(|device| !now.contains(device)).collect();
    let Some(status) = object.get_mut("status") else { return };
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|device| !gone.contains(&device_of(device)));
        if devices.is_empty() {
            remove(status, "devices");
        }
    }
}

fn device_of(value: &Value) -> [String; 3] {
    ["driver", "pool", "device"].map(|key| text(value, key).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cx, messages};

    fn claim(allocated: bool) -> Value {
        let mut claim = json!({"metadata": {"name": "x"}, "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}},
        ]}}});
        if allocated {
            claim["status"] = json!({
                "allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "v"}]}},
                "devices": [{"driver": "d", "pool": "p", "device": "v"}],
            });
        }
        claim
    }

    #[test]
    fn a_status_goes_with_its_allocation() {
        let mut new = claim(true);
        remove(&mut new["status"], "allocation");
        ResourceClaim.prepare_for_update(&cx("status"), &mut new, &claim(true));
        assert_eq!(new["status"], json!({}));
    }

    #[test]
    fn an_allocation_stays() {
        let errors = |new: &Value, old: &Value| messages(&ResourceClaim.validate_update(&cx("status"), new, old));
        assert!(errors(&claim(true), &claim(false)).is_empty());
        let mut other = claim(true);
        other["status"]["allocation"]["devices"]["results"][0]["device"] = json!("w");
        let found = errors(&other, &claim(true));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[1].starts_with("status.allocation: Invalid value: {\"Devices\":{\"Results\":[{\"Request\":\"r\"")
        );
    }

    #[test]
    fn states() {
        let state = |claim: &Value| ResourceClaim.row(claim, Timestamp::UNIX_EPOCH)[1].clone();
        assert_eq!((state(&claim(false)), state(&claim(true))), (json!("pending"), json!("allocated")));
    }
}
