//! Reading and writing fields of untyped objects.
//!
//! Invariants:
//! - VA-1: reading never fails: a missing or differently typed field is `None`.

use serde_json::{Map, Value};

/// The value below a path of field names.
pub fn get<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |at, key| at.as_object()?.get(*key))
}

pub fn get_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |at, key| at.as_object_mut()?.get_mut(*key))
}

/// Like [`get`], but null counts as absent.
pub fn get_set<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    get(value, path).filter(|v| !v.is_null())
}

pub fn str_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    get(value, path)?.as_str()
}

/// The string at `path`, or "".
pub fn str_or_empty<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    str_at(value, path).unwrap_or_default()
}

pub fn i64_at(value: &Value, path: &[&str]) -> Option<i64> {
    get(value, path)?.as_i64()
}

pub fn bool_at(value: &Value, path: &[&str]) -> Option<bool> {
    get(value, path)?.as_bool()
}

pub fn array_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Vec<Value>> {
    get(value, path)?.as_array()
}

pub fn object_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    get(value, path)?.as_object()
}

/// The items of a list, none if it is absent.
pub fn items<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    array_at(value, path).map(Vec::as_slice).unwrap_or_default()
}

/// The entries of a map of strings; entries of another type are left out.
pub fn string_map<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    object_at(value, path).into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
}

/// The strings of a list; items of another type are left out.
pub fn strings<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a str> + use<'a> {
    items(value, path).iter().filter_map(Value::as_str)
}

/// The object at `path`, made where it is absent (or not an object).
pub fn object_entry<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = value;
    for key in path {
        at = as_object(at).entry((*key).to_string()).or_insert_with(|| Value::Object(Map::new()));
    }
    as_object(at)
}

/// Sets a field; objects on the way are made. An empty path replaces the whole value.
pub fn set(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    match path.split_last() {
        Some((last, parents)) => {
            object_entry(value, parents).insert((*last).to_string(), new.into());
        }
        None => *value = new.into(),
    }
}

/// Sets a field if it is absent or null; true if it was set.
pub fn set_default(value: &mut Value, path: &[&str], new: impl Into<Value>) -> bool {
    let absent = get_set(value, path).is_none();
    if absent {
        set(value, path, new);
    }
    absent
}

/// Removes a field and returns it.
pub fn remove(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    get_mut(value, parents)?.as_object_mut()?.remove(*last)
}

/// Copies the field at `path` of `from` into `to`, or removes it there.
pub fn copy_field(to: &mut Value, from: &Value, path: &[&str]) {
    match get(from, path) {
        Some(v) => set(to, path, v.clone()),
        None => {
            remove(to, path);
        }
    }
}

/// What Go calls the zero value, as far as JSON shows it: absent, null, "", 0, false, [] and {}.
pub fn is_zero(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Bool(b)) => !b,
        Some(Value::Number(n)) => n.as_f64() == Some(0.0),
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(Value::Object(o)) => o.is_empty(),
    }
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object just above")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_and_writes() {
        let mut v = json!({"a": {"b": [1], "s": "x", "n": null}});
        assert_eq!(get(&v, &["a", "b"]), Some(&json!([1])));
        assert_eq!(str_at(&v, &["a", "s"]), Some("x"));
        assert_eq!(str_at(&v, &["a", "b", "c"]), None);
        assert_eq!(get_set(&v, &["a", "n"]), None);
        set(&mut v, &["a", "c", "d"], 5);
        assert_eq!(i64_at(&v, &["a", "c", "d"]), Some(5));
        assert!(set_default(&mut v, &["a", "n"], true));
        assert!(!set_default(&mut v, &["a", "n"], false));
        assert_eq!(remove(&mut v, &["a", "c"]), Some(json!({"d": 5})));
        assert_eq!(remove(&mut v, &["x", "y"]), None);
        let from = json!({"a": {"s": "y"}});
        copy_field(&mut v, &from, &["a", "s"]);
        copy_field(&mut v, &from, &["a", "b"]);
        assert_eq!(v, json!({"a": {"s": "y", "n": true}}));
    }
}
