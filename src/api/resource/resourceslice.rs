//! ResourceSlice: the devices of one pool that a driver offers, or a part of them.
//!
//! Invariants:
//! - RS-1: driver, pool and node never change.

use std::collections::HashMap;

use apimachinery::validation::{ErrorList, Path, names as field_names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{device, names};
use crate::access::{entries, field, flag, has, int, items, obj, opt_flag, opt_text, same, text};
use crate::checks::{IMMUTABLE, next_generation, spec, start_generation};
use crate::core::podspec::validate_node_selector;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ResourceSlice;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.resource.v1.ResourceSlice";
    Kind::builtin("resource.k8s.io/v1", "ResourceSlice", "resourceslices", Scope::Cluster, DEFINITION, ResourceSlice)
}

const MAX_DEVICES: usize = 128;
/// When there are taints, counters or lists of attributes.
const MAX_ADVANCED_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const ONE_OF: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

impl Strategy for ResourceSlice {
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        start_generation(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        let changed = !same(spec(object), spec(old));
        next_generation(object, old, changed);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        check(spec(object), None)
    }

    fn validate_update(&self, _cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        check(spec(object), Some(spec(old)))
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let of = |key| text(spec(object), key).to_owned();
        vec![("spec.nodeName", of("nodeName")), ("spec.driver", of("driver"))]
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("resource.k8s.io/v1/resourceslices")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = spec(object);
        vec![
            name_of(object),
            json!(text(spec, "nodeName")),
            json!(text(spec, "driver")),
            json!(text(obj(spec, "pool"), "name")),
            age_of(object, now),
        ]
    }
}

fn check(spec: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    names::driver(&mut errors, &path.child("driver"), text(spec, "driver"));
    check_pool(&mut errors, &path.child("pool"), obj(spec, "pool"));
    if let Some(old) = old {
        let mut stays = |path: Path, new: &Value, old: &Value| {
            if !same(new, old) {
                errors.invalid(path, new.clone(), IMMUTABLE);
            }
        };
        let (pool, old_pool) = (obj(spec, "pool"), obj(old, "pool"));
        stays(path.children(&["pool", "name"]), obj(pool, "name"), obj(old_pool, "name"));
        for field in ["driver", "nodeName"] {
            stays(path.child(field), obj(spec, field), obj(old, field));
        }
    }
    check_nodes(&mut errors, &path, spec);
    if has(spec, "sharedCounters") && has(spec, "devices") {
        errors.invalid(path.clone(), "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = items(spec, "devices");
    let known: HashMap<&str, &Value> =
        old.map(|old| items(old, "devices").iter().map(|d| (text(d, "name"), d)).collect()).unwrap_or_default();
    let per_device = flag(spec, "perDeviceNodeSelection");
    let max = if devices.iter().any(device::is_advanced) { MAX_ADVANCED_DEVICES } else { MAX_DEVICES };
    let check_one = |errors: &mut ErrorList, path: &Path, device: &Value| {
        device::check(errors, path, device, known.get(text(device, "name")).copied(), per_device);
    };
    names::set(&mut errors, &path.child("devices"), devices, max, check_one, |d| text(d, "name").to_owned());
    let sets = items(spec, "sharedCounters");
    let at = path.child("sharedCounters");
    names::set(&mut errors, &at, sets, MAX_COUNTER_SETS, check_counter_set, |set| text(set, "name").to_owned());
    errors
}

fn check_pool(errors: &mut ErrorList, path: &Path, pool: &Value) {
    names::pool(errors, &path.child("name"), text(pool, "name"));
    let (count, generation) = (int(pool, "resourceSliceCount"), int(pool, "generation"));
    if count <= 0 {
        errors.invalid(path.child("resourceSliceCount"), count, "must be greater than zero");
    }
    if generation < 0 {
        errors.invalid(path.child("generation"), generation, "must be greater than or equal to zero");
    }
}

fn check_nodes(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let mut set = Vec::new();
    match opt_text(spec, "nodeName") {
        Some("") => {
            errors.invalid(path.child("nodeName"), "", "must be either unset or set to a non-empty string");
        }
        Some(node) => {
            set.push("`nodeName`");
            errors.invalid_all(&path.child("nodeName"), node, field_names::is_dns1123_subdomain(node));
        }
        None => {}
    }
    if let Some(selector) = field(spec, "nodeSelector") {
        set.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        validate_node_selector(errors, selector, &at);
        let terms = obj(selector, "nodeSelectorTerms");
        if items(selector, "nodeSelectorTerms").len() != 1 {
            let detail = "must have exactly one node selector term";
            errors.invalid(at.child("nodeSelectorTerms"), terms.clone(), detail);
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match opt_flag(spec, field) {
            Some(true) => set.push(shown),
            Some(false) => errors.invalid(path.child(field), false, "must be either unset or set to true"),
            None => {}
        }
    }
    match set.len() {
        0 => errors.required(path.clone(), ONE_OF),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            errors.invalid(path.clone(), shown, &format!("{ONE_OF}, but multiple fields are set"));
        }
    }
}

fn check_counter_set(errors: &mut ErrorList, path: &Path, set: &Value) {
    let name = text(set, "name");
    if name.is_empty() {
        errors.required(path.child("name"), "");
    } else {
        names::label(errors, &path.child("name"), name);
    }
    check_counters(errors, &path.child("counters"), set);
}

/// The `counters` of a set or of a device.
pub(super) fn check_counters(errors: &mut ErrorList, path: &Path, set: &Value) {
    let counters = entries(set, "counters");
    if counters.is_empty() {
        errors.required(path.clone(), "");
    } else if counters.len() > MAX_COUNTERS {
        errors.too_many(path.clone(), counters.len(), MAX_COUNTERS);
    } else {
        counters.iter().for_each(|(name, _)| names::label(errors, path, name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, update_errors};

    fn slice(extra: Value) -> Value {
        let mut spec = json!({
            "driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1},
        });
        for (key, value) in extra.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": "x"}, "spec": spec})
    }

    #[test]
    fn is_on_one_kind_of_nodes() {
        assert!(create_errors(&ResourceSlice, slice(json!({}))).is_empty());
        assert_eq!(
            create_errors(&ResourceSlice, slice(json!({"allNodes": true}))),
            [format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {ONE_OF}, but multiple fields are set")]
        );
        assert_eq!(created(&ResourceSlice, slice(json!({})))["metadata"]["generation"], 1);
    }

    #[test]
    fn stays_where_it_is() {
        assert_eq!(
            update_errors(&ResourceSlice, slice(json!({})), slice(json!({"nodeName": "m"}))),
            ["spec.nodeName: Invalid value: \"m\": field is immutable"]
        );
    }

    #[test]
    fn devices() {
        let devices = json!([
            {"name": "a", "attributes": {"x": {"int": 1, "bool": true}, "v": {"version": "1.0"}}},
            {"name": "a", "capacity": {"m": {"value": "1Gi", "requestPolicy": {"default": "1Gi"}}}},
        ]);
        assert_eq!(
            create_errors(&ResourceSlice, slice(json!({"devices": devices}))),
            [
                "spec.devices[0].attributes[v].version: Invalid value: \"1.0\": must be a string compatible with semver.org spec 2.0.0",
                "spec.devices[0].attributes[x]: Invalid value: {\"IntValue\":1,\"BoolValue\":true,\"StringValue\":null,\"VersionValue\":null,\"IntValues\":null,\"BoolValues\":null,\"StringValues\":null,\"VersionValues\":null}: exactly one value must be specified",
                "spec.devices[1].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true",
                "spec.devices[1]: Duplicate value: \"a\"",
            ]
        );
    }
}
