//! `x-kubernetes-list-type` and what belongs to it.

use std::collections::BTreeSet;

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::openapi::shown_items;
use crate::access::{field, flag, has, map, opt_text, text, texts};

const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const KEYS: &str = "x-kubernetes-list-map-keys";

pub(super) fn check(errors: &mut ErrorList, path: &Path, schema: &Value, atomic_sets: bool) {
    let (list_type, ty) = (opt_text(schema, LIST_TYPE), text(schema, "type"));
    let item = field(schema, "items").filter(|item| item.is_object());
    if list_type.is_some() && ty != "array" {
        let detail = "must be array if x-kubernetes-list-type is specified";
        match ty {
            "" => errors.required(path.child("type"), detail),
            _ => errors.invalid(path.child("type"), ty, detail),
        }
    } else if let (true, Some("set"), Some(item)) = (atomic_sets, list_type, item) {
        if let Some(key) = open_part(item) {
            // upstream shows the list type for both
            let shown = item.get(LIST_TYPE).cloned().unwrap_or(Value::Null);
            let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
            errors.invalid(path.child("items").child(key), shown, detail);
        }
    }
    if let Some(other) = list_type.filter(|list_type| !["atomic", "set", "map"].contains(list_type)) {
        errors.not_supported(path.child(LIST_TYPE), other, &["atomic", "set", "map"]);
    }
    let keys = texts(schema, KEYS);
    if !keys.is_empty() && list_type != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => errors.required(path.child(LIST_TYPE), detail),
            Some(other) => errors.invalid(path.child(LIST_TYPE), other, detail),
        }
    }
    if list_type == Some("map") {
        check_map(errors, path, schema, item, &keys);
    }
}

fn check_map(errors: &mut ErrorList, path: &Path, schema: &Value, item: Option<&Value>, keys: &[&str]) {
    if keys.is_empty() {
        errors.required(path.child(KEYS), "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = field(schema, "items") else {
        return errors.required(path.child("items"), "must have a schema if x-kubernetes-list-type is map");
    };
    let Some(item) = item else {
        let detail = "must only have a single schema if x-kubernetes-list-type is map";
        return errors.invalid_text(path.child("items"), &shown_items(items), detail);
    };
    let ty = text(item, "type");
    if ty != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(path.child("items").child("type"), ty, detail);
    }
    let mut seen = BTreeSet::new();
    for key in keys {
        match map(item, "properties").and_then(|properties| properties.get(*key)) {
            Some(part) if ["array", "object"].contains(&text(part, "type")) => {
                let at = path.child("items").child("properties").key(key).child("type");
                errors.invalid(at, ty, "must be a scalar type if parent array's x-kubernetes-list-type is map");
            }
            Some(_) => {}
            None => {
                errors.invalid(path.child(KEYS), keys.to_vec(), "entries must all be names of item properties");
            }
        }
        if !seen.insert(key) {
            errors.invalid(path.child(KEYS), keys.to_vec(), "must not contain duplicate entries");
        }
    }
}

/// The extension that leaves an item of a set open to be changed in part.
fn open_part(item: &Value) -> Option<&'static str> {
    match text(item, "type") {
        "array" => opt_text(item, LIST_TYPE).is_some_and(|own| own != "atomic").then_some(LIST_TYPE),
        "object" => (opt_text(item, MAP_TYPE) != Some("atomic")).then_some(MAP_TYPE),
        _ => None,
    }
}

/// A set whose items are not atomic.
pub(super) fn has_open_set(schema: &Value) -> bool {
    opt_text(schema, LIST_TYPE) == Some("set") && field(schema, "items").is_some_and(|item| open_part(item).is_some())
}

/// Items of sets and maps, and the keys of maps, are never null; keys are always there.
pub(super) fn map_key_errors(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(item) = field(schema, "items").filter(|item| item.is_object()) else { return errors };
    let Some(list_type) = opt_text(schema, LIST_TYPE).filter(|own| ["set", "map"].contains(own)) else { return errors };
    let at = path.child("items");
    if flag(item, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.forbidden(at.child("nullable"), &detail);
    }
    if list_type != "map" {
        return errors;
    }
    let required = texts(item, "required");
    for key in texts(schema, KEYS) {
        let Some(part) = map(item, "properties").and_then(|properties| properties.get(key)) else { continue };
        let at = at.child("properties").key(key);
        if !required.contains(&key) && !has(part, "default") {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(at.child("default"), detail);
        }
        if flag(part, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(at.child("nullable"), detail);
        }
    }
    errors
}
