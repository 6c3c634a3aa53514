//! One device of a slice: its attributes, capacities, taints, counters and where it is.
//!
//! Invariants:
//! - DV-1: an attribute has one value.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path, names as field_names};
use serde_json::Value;

use super::{names, policy, resourceslice};
use crate::access::{entries, field, flag, has, items, obj, opt_flag, opt_text, same, text, texts};
use crate::core::podspec::validate_node_selector;
use crate::godump;

const MAX_ATTRIBUTES_AND_CAPACITIES: usize = 32;
const MAX_ATTRIBUTE_VALUES: usize = 48;
const MAX_VALUE: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_CONSUMPTIONS: usize = 2;
/// A domain, a slash and an identifier.
const MAX_KEY: usize = 63 + 1 + 32;
const LISTS: &[&str] = &["bools", "ints", "strings", "versions"];
const PER_DEVICE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";

/// A slice with such a device may have fewer of them.
pub(super) fn is_advanced(device: &Value) -> bool {
    let lists = || entries(device, "attributes").iter().any(|(_, a)| LISTS.iter().any(|list| has(a, list)));
    !items(device, "taints").is_empty() || !items(device, "consumesCounters").is_empty() || lists()
}

pub(super) fn check(errors: &mut ErrorList, path: &Path, device: &Value, old: Option<&Value>, per_device: bool) {
    names::label(errors, &path.child("name"), text(device, "name"));
    let (attributes, capacities) = (entries(device, "attributes"), entries(device, "capacity"));
    let count = attributes.len() + capacities.len();
    if count > MAX_ATTRIBUTES_AND_CAPACITIES {
        let detail =
            format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES_AND_CAPACITIES}");
        errors.invalid(path.clone(), count, &detail);
    }
    let values: usize = attributes
        .iter()
        .map(|(_, attribute)| LISTS.iter().map(|list| items(attribute, list).len()).sum::<usize>().max(1))
        .sum();
    if values > MAX_ATTRIBUTE_VALUES {
        let detail = format!("the total number of attribute values must not exceed {MAX_ATTRIBUTE_VALUES}");
        errors.invalid(path.clone(), values, &detail);
    }
    let at = path.child("attributes");
    for (name, attribute) in attributes {
        names::qualified(errors, &at, name);
        check_attribute(errors, &at.key(&shortened(name)), attribute);
    }
    let unchanged = |field: &str| old.is_some_and(|old| same(obj(old, field), obj(device, field)));
    if !unchanged("capacity") {
        check_capacities(errors, &path.child("capacity"), device);
    }
    if !unchanged("taints") {
        names::slice(errors, &path.child("taints"), items(device, "taints"), MAX_TAINTS, check_taint);
    }
    let consumed = items(device, "consumesCounters");
    let check = |errors: &mut ErrorList, path: &Path, consumption: &Value| {
        match text(consumption, "counterSet") {
            "" => errors.required(path.child("counterSet"), ""),
            set => names::label(errors, &path.child("counterSet"), set),
        }
        resourceslice::check_counters(errors, &path.child("counters"), consumption);
    };
    let at = path.child("consumesCounters");
    names::set(errors, &at, consumed, MAX_CONSUMPTIONS, check, |c| text(c, "counterSet").to_owned());
    check_node(errors, path, device, per_device);
    names::binding(errors, path, device);
    check_mappings(errors, &path.child("nodeAllocatableResourceMappings"), device);
}

fn check_node(errors: &mut ErrorList, path: &Path, device: &Value, per_device: bool) {
    if !per_device {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| has(device, field)) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path.clone(), Value::Null, detail);
        }
        return;
    }
    let mut set = Vec::new();
    match opt_text(device, "nodeName") {
        Some("") => errors.invalid(path.child("nodeName"), "", "must not be empty"),
        Some(node) => {
            set.push("`nodeName`");
            errors.invalid_all(&path.child("nodeName"), node, field_names::is_dns1123_subdomain(node));
        }
        None => {}
    }
    if let Some(selector) = field(device, "nodeSelector") {
        set.push("`nodeSelector`");
        validate_node_selector(errors, selector, &path.child("nodeSelector"));
    }
    match opt_flag(device, "allNodes") {
        Some(true) => set.push("`allNodes`"),
        Some(false) => errors.invalid(path.child("allNodes"), false, "must be either unset or set to true"),
        None => {}
    }
    match set.len() {
        0 => errors.required(path.clone(), PER_DEVICE),
        1 => {}
        _ => errors.invalid(path.clone(), format!("{{{}}}", set.join(", ")), PER_DEVICE),
    }
}

fn check_attribute(errors: &mut ErrorList, path: &Path, attribute: &Value) {
    let string = |errors: &mut ErrorList, path: Path, value: &str| {
        if value.len() > MAX_VALUE {
            errors.too_long(path, "", MAX_VALUE);
        }
    };
    let version = |errors: &mut ErrorList, path: Path, value: &str| {
        if !is_semver(value) {
            errors.invalid(path.clone(), value, "must be a string compatible with semver.org spec 2.0.0");
        }
        string(errors, path, value);
    };
    if let Some(value) = opt_text(attribute, "string") {
        string(errors, path.child("string"), value);
    }
    if let Some(value) = opt_text(attribute, "version") {
        version(errors, path.child("version"), value);
    }
    for list in LISTS.iter().filter(|list| has(attribute, list)) {
        let at = path.child(list);
        if items(attribute, list).is_empty() {
            errors.invalid(at, Value::Array(Vec::new()), "must not be empty if specified");
            continue;
        }
        for (i, value) in texts(attribute, list).into_iter().enumerate() {
            match *list {
                "strings" => string(errors, at.index(i), value),
                "versions" => version(errors, at.index(i), value),
                _ => {}
            }
        }
    }
    let set = ["bool", "int", "string", "version"].iter().chain(LISTS).filter(|key| has(attribute, key)).count();
    match set {
        0 => errors.invalid(path.clone(), "", "exactly one value must be specified"),
        1 => {}
        _ => {
            let dump = godump::dump("DeviceAttribute", attribute);
            errors.invalid_text(path.clone(), &dump, "exactly one value must be specified");
        }
    }
}

fn check_capacities(errors: &mut ErrorList, path: &Path, device: &Value) {
    let shared = flag(device, "allowMultipleAllocations");
    for (name, capacity) in entries(device, "capacity") {
        names::qualified(errors, path, name);
        let Some(policy) = field(capacity, "requestPolicy") else { continue };
        let at = path.key(&shortened(name)).child("requestPolicy");
        if shared {
            let value = Quantity::from_json(obj(capacity, "value")).unwrap_or_else(|_| Quantity::zero());
            policy::check(errors, &at, policy, &value);
        } else {
            errors.forbidden(at, "allowMultipleAllocations must be true");
        }
    }
}

fn check_taint(errors: &mut ErrorList, path: &Path, taint: &Value) {
    let key = text(taint, "key");
    errors.invalid_all(&path.child("key"), key, field_names::is_qualified_name(key));
    let value = text(taint, "value");
    errors.invalid_all(&path.child("value"), value, field_names::is_valid_label_value(value));
    match text(taint, "effect") {
        "" => errors.required(path.child("effect"), ""),
        effect if !names::EFFECTS.contains(&effect) => {
            errors.not_supported(path.child("effect"), effect, names::EFFECTS);
        }
        _ => {}
    }
}

/// What of the node's own resources the device takes.
fn check_mappings(errors: &mut ErrorList, path: &Path, device: &Value) {
    for (name, mapping) in entries(device, "nodeAllocatableResourceMappings") {
        let at = path.key(name);
        let native = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if !native {
            errors.invalid(at.clone(), name, "must be a node allocatable resource name");
        }
        let at = at.child("capacityKey");
        match opt_text(mapping, "capacityKey") {
            Some("") => errors.invalid(at, "", "capacityKey must not be an empty string"),
            Some(key) if !has(obj(device, "capacity"), key) => errors.not_found(at, key),
            _ => {}
        }
    }
}

/// A key as paths show it: the middle of a long one is left out.
fn shortened(key: &str) -> String {
    if key.len() <= MAX_KEY || !key.is_ascii() {
        return key.to_owned();
    }
    let rest = MAX_KEY - 3;
    format!("{}...{}", &key[..rest.div_ceil(2)], &key[key.len() - rest / 2..])
}

/// semver.org 2.0.0: three numbers, `-` and identifiers, `+` and identifiers.
fn is_semver(version: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part.len() == 1 || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (version, build) = version.split_once('+').map_or((version, None), |(v, b)| (v, Some(b)));
    let (core, pre) = version.split_once('-').map_or((version, None), |(v, p)| (v, Some(p)));
    let parts: Vec<&str> = core.split('.').collect();
    let pre_part = |part: &str| word(part) && (number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    parts.len() == 3
        && parts.into_iter().all(number)
        && pre.is_none_or(|pre| pre.split('.').all(pre_part))
        && build.is_none_or(|build| build.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in ["1.2.3", "0.0.0", "1.0.0-alpha.1", "1.0.0-x-y+build.01"] {
            assert!(is_semver(good), "{good}");
        }
        for bad in ["1.2", "01.2.3", "1.2.3-", "1.2.3-01", "v1.2.3", "1.2.3+", "1.2.3.4"] {
            assert!(!is_semver(bad), "{bad}");
        }
    }

    #[test]
    fn long_keys_lose_their_middle() {
        let key = "a".repeat(60) + &"b".repeat(60);
        let short = shortened(&key);
        assert_eq!((short.len(), &short[45..52]), (MAX_KEY, "aa...bb"));
    }
}
