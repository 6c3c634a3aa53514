//! Reading JSON objects the way Go reads structs: an absent field is its zero value.
//!
//! Invariants:
//! - AC-1: reading never fails; what is absent, null or of another type is the zero value.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The field, unless it is absent or null.
pub(crate) fn field<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|v| !v.is_null())
}

/// The field, or null: for walking on.
pub(crate) fn obj<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&NULL)
}

pub(crate) fn has(value: &Value, key: &str) -> bool {
    field(value, key).is_some()
}

/// A string field, "" when absent.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

/// A string field that is a pointer upstream.
pub(crate) fn opt_text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

pub(crate) fn opt_int(value: &Value, key: &str) -> Option<i64> {
    value.get(key).and_then(Value::as_i64)
}

/// A number, 0 when absent.
pub(crate) fn int(value: &Value, key: &str) -> i64 {
    opt_int(value, key).unwrap_or(0)
}

pub(crate) fn opt_flag(value: &Value, key: &str) -> Option<bool> {
    value.get(key).and_then(Value::as_bool)
}

/// A boolean, false when absent.
pub(crate) fn flag(value: &Value, key: &str) -> bool {
    opt_flag(value, key).unwrap_or(false)
}

pub(crate) fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The strings of a list of strings.
pub(crate) fn texts<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    items(value, key).iter().map(|v| v.as_str().unwrap_or("")).collect()
}

pub(crate) fn map<'a>(value: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    value.get(key).and_then(Value::as_object)
}

/// The entries of a map, sorted by key (as Go prints maps).
pub(crate) fn entries<'a>(value: &'a Value, key: &str) -> Vec<(&'a str, &'a Value)> {
    let mut all: Vec<_> = map(value, key).into_iter().flatten().map(|(k, v)| (k.as_str(), v)).collect();
    all.sort_by_key(|(k, _)| *k);
    all
}

/// The object in a field, made if absent; `None` when `value` or the field is something else.
pub(crate) fn ensure_map<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    let slot = value.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}

pub(crate) fn items_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut [Value] {
    value.get_mut(key).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

pub(crate) fn set(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), to.into());
    }
}

/// Sets a field that is absent.
pub(crate) fn set_missing(value: &mut Value, key: &str, to: impl Into<Value>) {
    if !has(value, key) {
        set(value, key, to);
    }
}

/// Sets a string field that is absent or empty: Go's default for a string that is no pointer.
pub(crate) fn set_blank(value: &mut Value, key: &str, to: &str) {
    if value.is_object() && text(value, key).is_empty() {
        set(value, key, to);
    }
}

/// Sets a number that is absent or zero: Go's default for a number that is no pointer.
pub(crate) fn set_zero(value: &mut Value, key: &str, to: i64) {
    if value.is_object() && int(value, key) == 0 {
        set(value, key, to);
    }
}

pub(crate) fn remove(value: &mut Value, key: &str) -> Option<Value> {
    value.as_object_mut().and_then(|map| map.remove(key))
}

/// Makes a field what it is in another object, also when it is absent there.
pub(crate) fn copy_field(to: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) => set(to, key, value.clone()),
        None => {
            remove(to, key);
        }
    }
}

/// Maps whose emptiness says nothing; an empty struct elsewhere is not the same as none.
const MAPS: &[&str] = &[
    "annotations",
    "binaryData",
    "data",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "options",
    "overhead",
    "requests",
    "selector",
    "volumeAttributes",
];

/// Equality of normalized values as Go's `apiequality.Semantic.DeepEqual` sees it: nil and empty lists and maps are the
/// same.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    fn blank(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }
    fn nothing(key: &str, value: &Value) -> bool {
        blank(value) && (!value.is_object() || MAPS.contains(&key))
    }
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| match y.get(k) {
                Some(w) if v.is_object() == w.is_object() => same(v, w),
                Some(w) => nothing(k, v) && nothing(k, w) || v == w,
                None => nothing(k, v),
            }) && y.iter().all(|(k, w)| x.contains_key(k) || nothing(k, w))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(v, w)),
        _ => a == b || (blank(a) && blank(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sameness() {
        for (a, b, expected) in [
            (json!({"a": null}), json!({}), true),
            (json!({"a": []}), json!({}), true),
            (json!({"labels": {}}), json!({}), true),
            (json!({"securityContext": {}}), json!({}), false),
            (json!({"a": [{"b": 1}]}), json!({"a": [{"b": 1, "c": null}]}), true),
            (json!({"a": 0}), json!({}), false),
            (json!(null), json!({}), true),
        ] {
            assert_eq!(same(&a, &b), expected, "{a} {b}");
            assert_eq!(same(&b, &a), expected, "{b} {a}");
        }
    }
}
