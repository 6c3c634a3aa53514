//! JSON patch (RFC 6902), as evanphx/json-patch v4 applies it: negative indices count from the end, `replace` of a
//! missing map key adds it, a missing `value` is null.
//!
//! Invariants:
//! - JP-2: no sequence of operations makes an object nested deeper than [`MAX_DEPTH`].
//! - JP-1: operations apply in order; the first that fails refuses the whole patch.

use super::{MAX_OPENED, PatchError, Validation, gofmt};
use crate::decode::{self, Node};
use crate::goformat::quote;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The most operations a patch may have.
pub const MAX_OPERATIONS: usize = 10_000;
/// How deep a patch may nest values; kube-apiserver has no limit of its own here, but our stacks are fixed.
pub const MAX_DEPTH: usize = 512;
/// The most bytes that `copy` operations of one patch may add.
pub const MAX_COPIED: usize = 3 * 1024 * 1024;
/// Errors of strict validation beyond these are not told (upstream's number).
const MAX_STRICT: usize = 100;

/// A parsed JSON patch.
#[derive(Debug, Clone)]
pub struct JsonPatch {
    operations: Vec<Map<String, Value>>,
    /// What is wrong with the document under strict validation: `json patch unknown field "[0].foo"`.
    pub strict_errors: Vec<String>,
}

impl JsonPatch {
    pub fn parse(text: &[u8], validation: Validation) -> Result<Self, PatchError> {
        let checked = validation == Validation::Checked;
        let prefix = if checked { "error decoding patch: " } else { "" };
        let bad = |message: String| PatchError::BadRequest(format!("{prefix}{message}"));
        let document = decode::json::parse(text).map_err(bad)?;
        let strict_errors = if checked { strict_errors(&document) } else { Vec::new() };
        let (list, item) = match checked {
            true => ("[]handlers.jsonPatchOp", "handlers.jsonPatchOp"),
            false => ("jsonpatch.Patch", "jsonpatch.Operation"),
        };
        let wrong = |value: &Value, what: String| {
            bad(format!("json: cannot unmarshal {} into Go {what}", gofmt::json_kind(value)))
        };
        let items = match document.into_value() {
            Value::Null => Vec::new(),
            Value::Array(items) => items,
            other => return Err(wrong(&other, format!("value of type {list}"))),
        };
        let mut operations = Vec::with_capacity(items.len());
        for value in items {
            let operation = match value {
                Value::Object(operation) => operation,
                Value::Null => Map::new(),
                other => return Err(wrong(&other, format!("value of type {item}"))),
            };
            if checked {
                for key in ["op", "path", "from"] {
                    if let Some(value) = operation.get(key).filter(|value| !value.is_string() && !value.is_null()) {
                        return Err(wrong(value, format!("struct field jsonPatchOp.{key} of type string")));
                    }
                }
            }
            operations.push(operation);
        }
        if operations.len() > MAX_OPERATIONS {
            return Err(PatchError::TooLarge(format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            )));
        }
        Ok(Self { operations, strict_errors })
    }

    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// JSON pointers of the objects and lists on the operations' ways, the root among them.
    pub fn opened(&self) -> BTreeSet<String> {
        let paths = self.operations.iter().flat_map(|o| [o.get("path"), o.get("from")]).flatten();
        let mut opened = BTreeSet::from([String::new()]);
        let mut left = MAX_OPENED;
        for path in paths.filter_map(Value::as_str) {
            for (at, _) in path.match_indices('/').take(MAX_DEPTH) {
                let Some(rest) = left.checked_sub(at) else { return opened };
                left = rest;
                opened.insert(path[..at].to_owned());
            }
        }
        opened
    }

    /// Applies all operations to an object. On an error the object is left in between and must be thrown away.
    pub fn apply(&self, object: &mut Value) -> Result<(), PatchError> {
        let mut copied = 0;
        for operation in &self.operations {
            apply_one(object, operation, &mut copied).map_err(PatchError::Unprocessable)?;
        }
        Ok(())
    }
}

/// Fields of operations that do not exist or are repeated, then repeated keys within values.
fn strict_errors(document: &Node) -> Vec<String> {
    let Node::Array(items) = document else { return Vec::new() };
    let mut errors = Vec::new();
    let mut own = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let Node::Object(fields) = item else { continue };
        let mut given = BTreeSet::new();
        for (key, _) in fields {
            let again = !given.insert(key.as_str());
            let unknown = !matches!(key.as_str(), "op" | "from" | "path" | "value");
            let path = format!("[{i}].{key}");
            if (unknown || again) && errors.len() < MAX_STRICT {
                let what = if unknown { "unknown" } else { "duplicate" };
                errors.push(format!("json patch {what} field {}", quote(&path)));
            }
            own.insert(path);
        }
    }
    let within = decode::repeated_keys(document).into_iter().filter(|path| !own.contains(path));
    errors.extend(within.map(|path| format!("json patch duplicate field {}", quote(&path))));
    errors
}

fn apply_one(object: &mut Value, operation: &Map<String, Value>, copied: &mut usize) -> Result<(), String> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let kind = text("op").unwrap_or("unknown");
    let path = || text("path").ok_or_else(|| format!("{kind} operation missing path field"));
    let from = || text("from").ok_or_else(|| format!("{kind} operation missing from field"));
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let missing = |path: &str| match kind {
        "add" | "remove" => format!("{kind} operation does not apply: doc is missing path: \"{path}\": missing value"),
        "test" => format!("test operation does not apply: is missing path: {path}: missing value"),
        _ => format!("{kind} operation does not apply: doc is missing path: {path}: missing value"),
    };
    let missing_from =
        |path: &str| format!("{kind} operation does not apply: doc is missing from path: {path}: missing value");
    let missing_to =
        |path: &str| format!("{kind} operation does not apply: doc is missing destination path: {path}: missing value");
    let at = |path: &str, error: String| format!("error in {kind} for path: '{path}': {error}");
    match kind {
        "add" => {
            let path = path()?;
            let value = value();
            check_depth(path, &value)?;
            let (parent, key) = locate(object, path).ok_or_else(|| missing(path))?;
            add(parent, &key, value).map_err(|error| at(path, error))
        }
        "remove" => {
            let path = path()?;
            let (parent, key) = locate(object, path).ok_or_else(|| missing(path))?;
            take(parent, &key).map(drop).map_err(|error| at(path, error))
        }
        "replace" => {
            let path = path()?;
            let new = value();
            check_depth(path, &new)?;
            if path.is_empty() {
                if !new.is_object() && !new.is_array() {
                    return Err("replace operation value must be object or array".into());
                }
                *object = new;
                return Ok(());
            }
            let (parent, key) = locate(object, path).ok_or_else(|| missing(path))?;
            match parent {
                Value::Array(items) => {
                    let at = index(&key, items.len())?;
                    items[at] = new;
                    Ok(())
                }
                _ => add(parent, &key, new),
            }
        }
        "move" => {
            let from = from()?;
            let (parent, key) = locate(object, from).ok_or_else(|| missing_from(from))?;
            let moved = take(parent, &key).map_err(|error| at(from, error))?;
            let path = path()?;
            check_depth(path, &moved)?;
            let (parent, key) = locate(object, path).ok_or_else(|| missing_to(path))?;
            add(parent, &key, moved)
        }
        "copy" => {
            let from = from()?;
            let (parent, key) = locate(object, from).ok_or_else(|| missing_from(from))?;
            let copy = get(parent, &key)?.cloned().unwrap_or(Value::Null);
            *copied += copy.to_string().len();
            if *copied > MAX_COPIED {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                ));
            }
            let path = path()?;
            check_depth(path, &copy)?;
            let (parent, key) = locate(object, path).ok_or_else(|| missing_to(path))?;
            add(parent, &key, copy)
        }
        "test" => {
            let path = path()?;
            let want = value();
            let same = if path.is_empty() {
                same(object, &want)
            } else {
                let (parent, key) = locate(object, path).ok_or_else(|| missing(path))?;
                same(get(parent, &key)?.unwrap_or(&Value::Null), &want)
            };
            if same { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
        }
        _ => Err(format!("Unexpected kind: {kind}")),
    }
}

fn check_depth(pointer: &str, value: &Value) -> Result<(), String> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or_default(),
            _ => 0,
        }
    }
    if pointer.matches('/').count() + depth(value) > MAX_DEPTH {
        return Err(format!("the result would be nested deeper than {MAX_DEPTH}"));
    }
    Ok(())
}

/// Equal, with numbers compared by value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same(x, y)))
        }
        _ => a == b,
    }
}

/// The container a pointer leads to, and the key in it.
fn locate<'v>(object: &'v mut Value, pointer: &str) -> Option<(&'v mut Value, String)> {
    // What precedes the first slash is not looked at.
    let (_, rest) = pointer.split_once('/')?;
    let (parents, key) = match rest.rsplit_once('/') {
        Some((parents, key)) => (Some(parents), key),
        None => (None, rest),
    };
    let mut at = object;
    for part in parents.into_iter().flat_map(|parents| parents.split('/')) {
        let part = unescape(part);
        at = match at {
            Value::Object(map) => map.get_mut(&part)?,
            Value::Array(items) => {
                let i = index(&part, items.len()).ok()?;
                items.get_mut(i)?
            }
            _ => return None,
        };
    }
    (at.is_object() || at.is_array()).then(|| (at, unescape(key)))
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// An index of an existing item; negative ones count from the end.
fn index(key: &str, len: usize) -> Result<usize, String> {
    let bad = || format!("Unable to access invalid index: {key}: invalid index referenced");
    let at: i64 = key.parse().map_err(|_| bad())?;
    let len = i64::try_from(len).map_err(|_| bad())?;
    let at = if at < 0 { at + len } else { at };
    if (0..len).contains(&at) { usize::try_from(at).map_err(|_| bad()) } else { Err(bad()) }
}

fn get<'v>(parent: &'v Value, key: &str) -> Result<Option<&'v Value>, String> {
    match parent {
        Value::Array(items) => Ok(items.get(index(key, items.len())?)),
        Value::Object(map) => Ok(map.get(key)),
        _ => Ok(None),
    }
}

fn add(parent: &mut Value, key: &str, value: Value) -> Result<(), String> {
    match parent {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(key, items.len() + 1)?;
            items.insert(at, value);
        }
        Value::Object(map) => {
            map.insert(key.into(), value);
        }
        _ => return Err("the parent is not a container".into()),
    }
    Ok(())
}

fn take(parent: &mut Value, key: &str) -> Result<Value, String> {
    match parent {
        Value::Array(items) => {
            let at = index(key, items.len())?;
            Ok(items.remove(at))
        }
        Value::Object(map) => {
            map.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value"))
        }
        _ => Err("the parent is not a container".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::apply_json;
    use super::*;
    use serde_json::json;

    fn run(patch: Value) -> Result<Value, PatchError> {
        apply_json(&json!({"data": {"a": "1", "b": "2"}, "l": ["p", "q"]}), patch.to_string().as_bytes())
    }

    #[test]
    fn applies() {
        for (patch, pointer, want) in [
            (json!([{"op": "add", "path": "/data/c", "value": "3"}]), "/data/c", json!("3")),
            (json!([{"op": "add", "path": "/data/c"}]), "/data/c", Value::Null),
            (json!([{"op": "replace", "path": "/data/zz", "value": "1"}]), "/data/zz", json!("1")),
            (json!([{"op": "add", "path": "/l/-", "value": "r"}]), "/l", json!(["p", "q", "r"])),
            (json!([{"op": "add", "path": "/l/0", "value": "r"}]), "/l", json!(["r", "p", "q"])),
            (json!([{"op": "add", "path": "/l/-1", "value": "r"}]), "/l", json!(["p", "q", "r"])),
            (json!([{"op": "remove", "path": "/l/-1"}]), "/l", json!(["p"])),
            (json!([{"op": "replace", "path": "/l/-2", "value": "x"}]), "/l", json!(["x", "q"])),
            (json!([{"op": "move", "from": "/data/a", "path": "/data/z"}]), "/data", json!({"b": "2", "z": "1"})),
            (json!([{"op": "copy", "from": "/data/a", "path": "/l/-"}]), "/l", json!(["p", "q", "1"])),
            (json!([{"op": "copy", "from": "/data/no", "path": "/x"}]), "/x", Value::Null),
            (json!([{"op": "add", "path": "/data/x~1y~0", "value": 1}]), "/data/x~1y~0", json!(1)),
            (json!([{"op": "test", "path": "/data/no", "value": null}]), "/l", json!(["p", "q"])),
            (json!([{"op": "replace", "path": "", "value": {"k": 1}}]), "", json!({"k": 1})),
            (json!(null), "/l", json!(["p", "q"])),
        ] {
            assert_eq!(run(patch.clone()).unwrap().pointer(pointer), Some(&want), "{patch}");
        }
    }

    #[test]
    fn does_not_apply() {
        for patch in [
            json!([{"op": "add", "path": "/foo/bar", "value": "1"}]),
            json!([{"op": "add", "path": "/l/5", "value": "1"}]),
            json!([{"op": "remove", "path": "/data/zz"}]),
            json!([{"op": "remove", "path": "/l/2"}]),
            json!([{"op": "replace", "path": "/l/2", "value": 1}]),
            json!([{"op": "frob", "path": "/data/a"}]),
            json!([{"op": "add", "value": 1}]),
            json!([{"op": "add", "path": "", "value": 1}]),
            json!([{"op": "test", "path": "/data/a", "value": "7"}]),
            json!([{"op": "move", "from": "/data/no", "path": "/x"}]),
            json!([{"op": "add", "path": "/data/a/b", "value": 1}]),
            json!([null]),
        ] {
            assert!(matches!(run(patch.clone()), Err(PatchError::Unprocessable(_))), "{patch}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let bad = |text: &str, validation| match JsonPatch::parse(text.as_bytes(), validation) {
            Err(PatchError::BadRequest(message)) => message,
            other => panic!("{other:?}"),
        };
        let checked = Validation::Checked;
        assert_eq!(bad("[{", checked), "error decoding patch: unexpected end of JSON input");
        assert_eq!(
            bad(r#"{"op":"add"}"#, checked),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
        assert_eq!(
            bad(r#"[{"op":1}]"#, checked),
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"
        );
        assert_eq!(
            bad("{}", Validation::Ignore),
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        );
        let many = vec![json!({"op": "test", "path": "/data/a", "value": "1"}); 10_001];
        let error = JsonPatch::parse(Value::from(many).to_string().as_bytes(), checked).unwrap_err();
        let message = "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
        assert_eq!(error, PatchError::TooLarge(message.into()));
    }

    #[test]
    fn strict() {
        let text = br#"[{"op": "add", "path": "/metadata/labels", "value": {"a":"b"}, "foo": "bar", "op": "add"}]"#;
        let patch = JsonPatch::parse(text, Validation::Checked).unwrap();
        assert_eq!(
            patch.strict_errors,
            ["json patch unknown field \"[0].foo\"", "json patch duplicate field \"[0].op\""]
        );
    }

    #[test]
    fn nesting_is_limited() {
        let double = json!({"op": "copy", "from": "/a", "path": "/a/b"});
        let patch = json!([{"op": "add", "path": "/a", "value": {}}, double, double, double, double, double, double, double,
            double, double, double, double, double]);
        let patch = JsonPatch::parse(patch.to_string().as_bytes(), Validation::Checked).unwrap();
        patch.apply(&mut json!({})).unwrap();
        let deep: Vec<Value> = (1..600).map(|n| json!({"op": "add", "path": "/a".repeat(n), "value": {}})).collect();
        let patch = JsonPatch::parse(Value::from(deep).to_string().as_bytes(), Validation::Checked).unwrap();
        assert!(matches!(patch.apply(&mut json!({})), Err(PatchError::Unprocessable(_))));
    }

    #[test]
    fn copies_are_limited() {
        let big = "x".repeat(1024 * 1024);
        let copy = json!({"op": "copy", "from": "/data", "path": "/data/more"});
        let patch = JsonPatch::parse(json!([copy, copy, copy]).to_string().as_bytes(), Validation::Checked).unwrap();
        assert!(patch.apply(&mut json!({"data": {"a": big}})).is_err());
    }
}
