//! Subresources, printer columns and selectable fields.

use std::collections::BTreeSet;

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::fieldpath;
use crate::access::{field, opt_text, text};

const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE: usize = 8;

pub(super) fn check_subresources(errors: &mut ErrorList, path: &Path, subresources: Option<&Value>) {
    let Some(scale) = subresources.and_then(|sub| field(sub, "scale")) else { return };
    const SPEC: &[&str] = &[".spec."];
    const STATUS: &[&str] = &[".status."];
    check_replicas(errors, path.child("scale.specReplicasPath"), text(scale, "specReplicasPath"), SPEC);
    check_replicas(errors, path.child("scale.statusReplicasPath"), text(scale, "statusReplicasPath"), STATUS);
    if let Some(selector) = opt_text(scale, "labelSelectorPath").filter(|selector| !selector.is_empty()) {
        let at = path.child("scale.labelSelectorPath");
        check_below(errors, at, selector, &[".spec.", ".status."], "either .spec or .status");
    }
}

fn check_replicas(errors: &mut ErrorList, path: Path, value: &str, roots: &[&str]) {
    if value.is_empty() {
        errors.required(path, "");
    } else {
        check_below(errors, path, value, roots, roots[0].trim_end_matches('.'));
    }
}

fn check_below(errors: &mut ErrorList, path: Path, value: &str, roots: &[&str], shown: &str) {
    if simple_path(errors, &path, value) && !roots.iter().any(|root| value.starts_with(root)) {
        errors.invalid(path, value, &format!("should be a json path under {shown}"));
    }
}

/// `.a.b`; true when it is.
fn simple_path(errors: &mut ErrorList, path: &Path, value: &str) -> bool {
    let simple = value.starts_with('.');
    if !simple {
        errors.invalid(path.clone(), value, "must be a simple json path starting with .");
    }
    simple
}

pub(super) fn check_columns(errors: &mut ErrorList, path: &Path, columns: &[Value]) {
    for (i, column) in columns.iter().enumerate() {
        let at = path.index(i);
        if text(column, "name").is_empty() {
            errors.required(at.child("name"), "");
        }
        let (ty, format) = (text(column, "type"), text(column, "format"));
        let types = format!("must be one of {}", TYPES.join(","));
        if ty.is_empty() {
            errors.required(at.child("type"), &types);
        } else if !TYPES.contains(&ty) {
            errors.invalid(at.child("type"), ty, &types);
        }
        if !format.is_empty() && !FORMATS.contains(&format) {
            errors.invalid(at.child("format"), format, &format!("must be one of {}", FORMATS.join(",")));
        }
        match text(column, "jsonPath") {
            "" => errors.required(at.child("JSONPath"), ""),
            json_path => {
                simple_path(errors, &at.child("JSONPath"), json_path);
            }
        }
    }
}

/// Fields that selectors may name: scalars of the schema outside metadata.
pub(super) fn check_selectable(errors: &mut ErrorList, path: &Path, fields: &[Value], schema: &Value) {
    let mut seen = BTreeSet::new();
    for (i, selectable) in fields.iter().enumerate() {
        let (at, json_path) = (path.index(i).child("jsonPath"), text(selectable, "jsonPath"));
        if json_path.is_empty() {
            errors.required(at, "");
            continue;
        }
        let (found, schema) = match fieldpath::resolve(json_path, schema, false) {
            Ok(found) => found,
            Err(error) => {
                errors.invalid(at, json_path, &format!("is an invalid path: {error}"));
                continue;
            }
        };
        if found.first().is_some_and(|root| root == "metadata") {
            errors.invalid(at.clone(), json_path, "must not point to fields in metadata");
        }
        if !["string", "boolean", "integer"].contains(&text(schema, "type")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(at.clone(), json_path, detail);
        }
        if !seen.insert(found) {
            errors.duplicate(at, json_path);
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.too_many(path.clone(), seen.len(), MAX_SELECTABLE);
    }
}
