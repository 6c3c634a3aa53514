//! Merge patch (RFC 7386): null deletes, objects merge, everything else replaces.
//!
//! Invariants:
//! - MP-1: no null of the patch reaches the object, except as an item of a list.

use super::{MAX_OPENED, PatchError, Validation, gofmt};
use crate::decode;
use crate::goformat::pointer_segment;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// A parsed merge patch.
#[derive(Debug, Clone)]
pub struct MergePatch {
    patch: Map<String, Value>,
    /// What is wrong with the document under strict validation: `duplicate field "spec.replicas"`.
    pub strict_errors: Vec<String>,
}

impl MergePatch {
    pub fn parse(text: &[u8], validation: Validation) -> Result<Self, PatchError> {
        let not_json_patch = || PatchError::BadRequest("Invalid JSON Patch".into());
        let checked = validation == Validation::Checked;
        let bad = |message: String| match checked {
            true => PatchError::BadRequest(format!("error decoding patch: {message}")),
            false => not_json_patch(),
        };
        let document = decode::json::parse(text).map_err(bad)?;
        let strict_errors = if checked { duplicate_fields(&document) } else { Vec::new() };
        let patch = match document.into_value() {
            Value::Object(patch) => patch,
            Value::Null => return Err(not_json_patch()),
            other => return Err(bad(cannot_unmarshal(&other))),
        };
        Ok(Self { patch, strict_errors })
    }

    /// JSON pointers of the objects that the patch merges into or makes, the root among them.
    pub fn opened(&self) -> BTreeSet<String> {
        let mut opened = BTreeSet::new();
        open(&self.patch, &mut String::new(), &mut opened, &mut { MAX_OPENED });
        opened
    }

    pub fn apply(self, object: &mut Value) -> Result<(), PatchError> {
        match object {
            Value::Object(object) => merge(object, self.patch),
            _ => return Err(PatchError::Internal("Invalid JSON Document".into())),
        }
        Ok(())
    }
}

pub(super) fn cannot_unmarshal(value: &Value) -> String {
    format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", gofmt::json_kind(value))
}

pub(super) fn duplicate_fields(document: &decode::Node) -> Vec<String> {
    let paths = decode::repeated_keys(document);
    paths.iter().map(|path| format!("duplicate field {}", crate::goformat::quote(path))).collect()
}

/// New values are read as a whole, because nulls are taken out of them.
fn open(patch: &Map<String, Value>, at: &mut String, opened: &mut BTreeSet<String>, left: &mut usize) {
    match left.checked_sub(at.len()) {
        Some(rest) => *left = rest,
        None => return,
    }
    opened.insert(at.clone());
    let length = at.len();
    for (key, item) in patch {
        if let Value::Object(item) = item {
            at.push('/');
            at.push_str(&pointer_segment(key));
            open(item, at, opened, left);
            at.truncate(length);
        }
    }
}

fn merge(object: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, mut value) in patch {
        if value.is_null() {
            object.remove(&key);
            continue;
        }
        match (object.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, new) => {
                value = new;
                prune(&mut value);
                object.insert(key, value);
            }
        }
    }
}

/// New values are taken without the nulls of their objects.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, item| !item.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::apply_merge;
    use super::*;
    use serde_json::json;

    #[test]
    fn merges() {
        let current = json!({"data": {"a": "1", "b": "2"}, "l": [1], "s": "x"});
        for (patch, want) in [
            (json!({"data": {"a": null, "c": "3"}}), json!({"data": {"b": "2", "c": "3"}, "l": [1], "s": "x"})),
            (
                json!({"l": [{"a": null, "b": 1}, null]}),
                json!({"data": {"a": "1", "b": "2"}, "l": [{"b": 1}, null], "s": "x"}),
            ),
            (json!({"s": {"n": {"x": null}}, "l": null, "data": null}), json!({"s": {"n": {}}})),
            (json!({}), current.clone()),
        ] {
            assert_eq!(apply_merge(&current, patch.to_string().as_bytes()).unwrap(), want);
        }
    }

    #[test]
    fn refuses() {
        for (text, want) in [
            ("", "error decoding patch: unexpected end of JSON input"),
            (
                "\"x\"",
                "error decoding patch: json: cannot unmarshal string into Go value of type map[string]interface {}",
            ),
            ("null", "Invalid JSON Patch"),
        ] {
            assert_eq!(apply_merge(&json!({}), text.as_bytes()), Err(PatchError::BadRequest(want.into())));
        }
        let patch = MergePatch::parse(br#"{"spec":{"replicas":1,"replicas":2}}"#, Validation::Checked).unwrap();
        assert_eq!(patch.strict_errors, ["duplicate field \"spec.replicas\""]);
    }
}
