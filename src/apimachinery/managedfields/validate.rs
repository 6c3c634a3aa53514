//! Checks an applied configuration against its schema, with the wording of upstream's typed values.
//!
//! Invariants:
//! - MF-6: an applied configuration has no unknown fields, no values of a wrong type and no duplicate keys.

use super::typed::{Kind, child_node, item_element, kind};
use crate::patch::gofmt;
use crate::schema::{Node, NodeType, Schema, Type};
use serde_json::Value;
use std::collections::BTreeSet;

/// `Err` is the text that follows "failed to create typed patch object (...): ".
pub(super) fn validate(schema: &Schema, value: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    check(&schema.root(), value, &mut String::new(), &mut errors);
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.swap_remove(0)),
        _ => Err(errors.iter().fold(String::from("errors:"), |all, error| format!("{all}\n  {error}"))),
    }
}

fn check(node: &Node<'_>, value: &Value, path: &mut String, errors: &mut Vec<String>) {
    let mut report = |path: &str, message: String| {
        errors.push(if path.is_empty() { message } else { format!("{path}: {message}") });
    };
    if value.is_null() {
        return;
    }
    match kind(node, Some(value)) {
        None => {}
        Some(Kind::Scalar) => {
            if let NodeType::Type(ty) = node.ty {
                if let Some(message) = scalar_error(ty, value) {
                    report(path, message);
                }
            }
        }
        Some(Kind::Map { .. }) => {
            let Value::Object(map) = value else {
                report(path, format!("expected map, got &{{{}}}", gofmt::value(value)));
                return;
            };
            for (key, item) in map {
                let len = path.len();
                path.push('.');
                path.push_str(key);
                match child_node(node, key) {
                    Some(child) => check(&child, item, path, errors),
                    None => {
                        errors.push(format!("{path}: field not declared in schema"));
                        path.truncate(len);
                        return;
                    }
                }
                path.truncate(len);
            }
        }
        Some(list @ (Kind::AtomicList | Kind::Set | Kind::Keyed)) => {
            let Value::Array(items) = value else {
                report(path, format!("expected list, got &{{{}}}", gofmt::value(value)));
                return;
            };
            let Some(item_node) = node.item() else { return };
            let mut seen = BTreeSet::new();
            for (i, item) in items.iter().enumerate() {
                let len = path.len();
                if list == Kind::AtomicList {
                    path.push_str(&format!("[{i}]"));
                } else {
                    match item_element(node, item) {
                        Err(error) => {
                            errors.push(format!("{path}: element {i}: {error}"));
                            return;
                        }
                        Ok(element) => {
                            if seen.contains(&element) {
                                errors.push(format!("{path}: duplicate entries for key {element}"));
                            }
                            path.push_str(&element.to_string());
                            seen.insert(element);
                        }
                    }
                }
                check(&item_node, item, path, errors);
                path.truncate(len);
            }
        }
    }
}

fn scalar_error(ty: &Type, value: &Value) -> Option<String> {
    match ty {
        Type::Int32 | Type::Int64 | Type::Float => {
            (!value.is_number()).then(|| format!("expected numeric (int or float), got {}", gofmt::type_name(value)))
        }
        Type::String | Type::Bytes | Type::Duration => (!value.is_string())
            .then(|| format!("expected string, got &value.valueUnstructured{{Value:{}}}", gofmt::syntax(value))),
        Type::Bool => (!value.is_boolean()).then(|| format!("expected boolean, got &{{{}}}", gofmt::value(value))),
        _ => (value.is_object() || value.is_array())
            .then(|| format!("expected any scalar, got &{{{}}}", gofmt::value(value))),
    }
}

/// `namespace/name; group/version, Kind=kind`, as upstream names an object in these errors.
pub(super) fn describe(object: &Value) -> String {
    let meta = |key: &str| object.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}; {}", meta("namespace"), meta("name"), gvk(object))
}

/// `group/version, Kind=kind`; the core group is empty.
pub(super) fn gvk(object: &Value) -> String {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let version = text("apiVersion");
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={}", text("kind"))
}
