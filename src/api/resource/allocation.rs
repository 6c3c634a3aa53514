//! The status of a claim: who may use it, which devices it has, and what their drivers say of them.
//!
//! Invariants:
//! - AL-1: a claim that is reserved is allocated; one that goes away is reserved for nobody new.

use apimachinery::validation::{ErrorList, Path, names as field_names};
use serde_json::{Value, json};

use super::claimspec::{Requests, check_config};
use super::names;
use crate::access::{field, has, items, obj, opt_text, same, text, texts};
use crate::checks::IMMUTABLE;
use crate::core::podspec::validate_node_selector;
use crate::godump;

const MAX_RESERVED: usize = 256;
const MAX_RESULTS: usize = 32;
/// Of the class and of the claim.
const MAX_CONFIGS: usize = 64;
const MAX_CONDITIONS: usize = 8;
const MAX_DATA: usize = 10 * 1024;
const MAX_IPS: usize = 16;
const MAX_INTERFACE: usize = 256;
const MAX_HARDWARE: usize = 128;

pub(super) fn check_status(
    errors: &mut ErrorList,
    path: &Path,
    status: &Value,
    old: &Value,
    deleted: bool,
    requests: &Requests<'_>,
) {
    let reserved = items(status, "reservedFor");
    let check = |errors: &mut ErrorList, path: &Path, consumer: &Value| {
        for field in ["resource", "name", "uid"] {
            if text(consumer, field).is_empty() {
                errors.required(path.child(field), "");
            }
        }
    };
    let at = path.child("reservedFor");
    names::set(errors, &at, reserved, MAX_RESERVED, check, |consumer| text(consumer, "uid").to_owned());
    let allocated: Vec<Value> = {
        let results = items(obj(obj(status, "allocation"), "devices"), "results").iter();
        results.map(identity).collect()
    };
    let check = |errors: &mut ErrorList, path: &Path, device: &Value| check_device(errors, path, device, &allocated);
    names::set(errors, &path.child("devices"), items(status, "devices"), usize::MAX, check, shown);
    if !reserved.is_empty() {
        if !has(status, "allocation") {
            errors.forbidden(at, "may not be specified when `allocated` is not set");
        } else if deleted && reserved.iter().any(|consumer| !items(old, "reservedFor").contains(consumer)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.forbidden(at, detail);
        }
    }
    let at = path.child("allocation");
    match (field(old, "allocation"), field(status, "allocation")) {
        (Some(old), Some(new)) if !same(old, new) => {
            errors.invalid_text(at, &godump::dump("AllocationResult", new), IMMUTABLE);
        }
        (None, Some(new)) => check_allocation(errors, &at, new, requests),
        _ => {}
    }
}

fn check_allocation(errors: &mut ErrorList, path: &Path, allocation: &Value, requests: &Requests<'_>) {
    let (devices, at) = (obj(allocation, "devices"), path.child("devices"));
    names::slice(errors, &at.child("results"), items(devices, "results"), MAX_RESULTS, |errors, path, result| {
        requests.check(errors, &path.child("request"), text(result, "request"));
        names::driver(errors, &path.child("driver"), text(result, "driver"));
        names::pool(errors, &path.child("pool"), text(result, "pool"));
        names::label(errors, &path.child("device"), text(result, "device"));
        names::binding(errors, path, result);
        for (i, toleration) in items(result, "tolerations").iter().enumerate() {
            names::toleration(errors, &path.child("tolerations").index(i), toleration);
        }
        if let Some(uid) = opt_text(result, "shareID") {
            names::uid(errors, &path.child("shareID"), uid);
        }
    });
    names::slice(errors, &at.child("config"), items(devices, "config"), MAX_CONFIGS, |errors, path, config| {
        const SOURCES: &[&str] = &["FromClaim", "FromClass"];
        match text(config, "source") {
            "" => errors.required(path.child("source"), ""),
            source if !SOURCES.contains(&source) => errors.not_supported(path.child("source"), source, SOURCES),
            _ => {}
        }
        requests.check_all(errors, &path.child("requests"), &texts(config, "requests"));
        check_config(errors, path, config, false);
    });
    if has(allocation, "nodeSelector") {
        validate_node_selector(errors, obj(allocation, "nodeSelector"), &path.child("nodeSelector"));
    }
}

/// What tells one allocated device from another.
fn identity(device: &Value) -> Value {
    json!([text(device, "driver"), text(device, "pool"), text(device, "device"), opt_text(device, "shareID")])
}

fn shown(device: &Value) -> String {
    let mut shown = format!("{}/{}/{}", text(device, "driver"), text(device, "pool"), text(device, "device"));
    if let Some(share) = opt_text(device, "shareID") {
        shown = format!("{shown}/{share}");
    }
    shown
}

fn check_device(errors: &mut ErrorList, path: &Path, device: &Value, allocated: &[Value]) {
    names::driver(errors, &path.child("driver"), text(device, "driver"));
    names::pool(errors, &path.child("pool"), text(device, "pool"));
    names::label(errors, &path.child("device"), text(device, "device"));
    if let Some(uid) = opt_text(device, "shareID") {
        names::uid(errors, &path.child("shareID"), uid);
    }
    if !allocated.contains(&identity(device)) {
        errors.invalid(path.clone(), shown(device), "must be an allocated device in the claim");
    }
    let conditions = items(device, "conditions");
    if conditions.len() > MAX_CONDITIONS {
        errors.too_many(path.child("conditions"), conditions.len(), MAX_CONDITIONS);
    }
    check_conditions(errors, &path.child("conditions"), conditions);
    if has(device, "data") {
        names::raw(errors, &path.child("data"), obj(device, "data"), MAX_DATA, false);
    }
    let (network, path) = (obj(device, "networkData"), path.child("networkData"));
    for (field, max) in [("interfaceName", MAX_INTERFACE), ("hardwareAddress", MAX_HARDWARE)] {
        if text(network, field).len() > max {
            errors.too_long(path.child(field), "", max);
        }
    }
    let ips = texts(network, "ips");
    names::set(errors, &path.child("ips"), &ips, MAX_IPS, check_interface, |ip| (*ip).to_owned());
}

/// metav1.Conditions.
fn check_conditions(errors: &mut ErrorList, path: &Path, conditions: &[Value]) {
    const STATES: &[&str] = &["False", "True", "Unknown"];
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let ty = text(condition, "type");
        if conditions[..i].iter().any(|other| text(other, "type") == ty) {
            errors.duplicate(at.child("type"), ty);
        }
        errors.invalid_all(&at.child("type"), ty, field_names::is_qualified_name(ty));
        if !STATES.contains(&text(condition, "status")) {
            errors.not_supported(at.child("status"), text(condition, "status"), STATES);
        }
        let generation = crate::access::int(condition, "observedGeneration");
        if generation < 0 {
            errors.invalid(at.child("observedGeneration"), generation, "must be greater than or equal to zero");
        }
        if !has(condition, "lastTransitionTime") {
            errors.required(at.child("lastTransitionTime"), "must be set");
        }
        check_reason(errors, &at.child("reason"), text(condition, "reason"));
        if text(condition, "message").len() > 32 * 1024 {
            errors.too_long(at.child("message"), "", 32 * 1024);
        }
    }
}

fn check_reason(errors: &mut ErrorList, path: &Path, reason: &str) {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    let valid = reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.chars().all(inner)
        && !reason.ends_with([',', ':']);
    if reason.is_empty() {
        errors.required(path.clone(), "must be set");
    } else if !valid {
        let detail = field_names::regex_error(
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
            "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
            &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
        );
        errors.invalid(path.clone(), reason, &detail);
    }
    if reason.len() > 1024 {
        errors.too_long(path.clone(), "", 1024);
    }
}

/// An address with the length of its network: `192.0.2.5/24`.
fn check_interface(errors: &mut ErrorList, path: &Path, address: &&str) {
    let detail = match address.parse::<ipnet::IpNet>() {
        Ok(net) if net.to_string() == **address => return,
        Ok(net) => format!("must be in canonical form ({:?})", net.to_string()),
        Err(_) => "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned(),
    };
    errors.invalid(path.clone(), *address, &detail);
}
