//! Lists of type set and map: their items must differ. Embedded objects: they must say what they are.

use std::collections::HashSet;

use apimachinery::goformat;
use apimachinery::gvk::GroupVersion;
use apimachinery::validation::{ErrorList, ErrorType, FieldError, Path, meta, names};
use serde_json::{Map, Value};

use super::structural::{ListType, Node};

/// Items that are there twice, the second time each.
pub fn duplicates(value: &Value, node: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    walk(value, node, &Path::nil(), &mut errors);
    errors
}

fn walk(value: &Value, node: &Node, path: &Path, errors: &mut ErrorList) {
    if !node.below.unique {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(child) = node.property(key) {
                    walk(value, child, &path.child(key), errors);
                } else if let Some(child) = node.additional.as_deref() {
                    walk(value, child, &path.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            match node.list_type {
                ListType::Atomic => {}
                ListType::Set => report(items.iter().map(Some), path, errors, |at| items[at].clone()),
                ListType::Map => keyed(items, node, path, errors),
            }
            if let Some(item) = node.items.as_deref() {
                for (at, value) in items.iter().enumerate() {
                    walk(value, item, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

fn keyed(items: &[Value], node: &Node, path: &Path, errors: &mut ErrorList) {
    if let Some((at, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        let detail = "must be an object for an array of list-type map";
        return errors.push(FieldError::new(ErrorType::Invalid, &path.index(at), item.clone(), detail));
    }
    let keys: Vec<Value> = items
        .iter()
        .map(|item| {
            let named =
                node.list_keys.iter().filter_map(|key| Some((key.to_string(), item.get(key.as_ref())?.clone())));
            Value::Object(named.collect::<Map<_, _>>())
        })
        .collect();
    report(keys.iter().map(Some), path, errors, |at| keys[at].clone());
}

fn report<'a>(
    items: impl Iterator<Item = Option<&'a Value>>,
    path: &Path,
    errors: &mut ErrorList,
    shown: impl Fn(usize) -> Value,
) {
    let mut seen = HashSet::new();
    let mut told = HashSet::new();
    for (at, item) in items.enumerate() {
        let text = item.map(goformat::json).unwrap_or_default();
        if seen.contains(&text) {
            if told.insert(text) {
                errors.duplicate(path.index(at), shown(at));
            }
        } else {
            seen.insert(text);
        }
    }
}

/// What is wrong with objects inside the object: their type and metadata.
pub fn embedded(value: &Value, node: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    walk_embedded(value, node, &Path::nil(), &mut errors);
    errors
}

fn walk_embedded(value: &Value, node: &Node, path: &Path, errors: &mut ErrorList) {
    if !node.below.embedded {
        return;
    }
    match value {
        Value::Object(map) => {
            if node.embedded {
                check_embedded(map, path, errors);
            }
            for (key, value) in map {
                if let Some(child) = node.property(key) {
                    walk_embedded(value, child, &path.child(key), errors);
                } else if let Some(child) = node.additional.as_deref() {
                    walk_embedded(value, child, &path.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = node.items.as_deref() {
                for (at, value) in items.iter().enumerate() {
                    walk_embedded(value, item, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

/// What is absent the schema's own check has said already.
fn check_embedded(map: &Map<String, Value>, path: &Path, errors: &mut ErrorList) {
    if let Some(version) = map.get("apiVersion").and_then(Value::as_str) {
        let at = path.child("apiVersion");
        if version.is_empty() {
            errors.invalid(at, version, "must not be empty");
        } else if let Err(error) = GroupVersion::parse(version) {
            errors.invalid(at, version, &error);
        }
    }
    if let Some(kind) = map.get("kind").and_then(Value::as_str) {
        let at = path.child("kind");
        if kind.is_empty() {
            errors.invalid(at.clone(), kind, "must not be empty");
        }
        let problems = names::is_dns1035_label(&kind.to_lowercase());
        if !problems.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            errors.invalid(at, kind, &detail);
        }
    }
    if let Some(metadata) = map.get("metadata").filter(|metadata| metadata.is_object()) {
        let mut metadata = metadata.clone();
        if metadata["name"].as_str().unwrap_or("").is_empty() {
            metadata["name"] = "fakename".into();
        }
        let namespaced = metadata["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty());
        errors.extend(meta::validate_object_meta(&metadata, namespaced, &names::path_segment, &path.child("metadata")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_the_second_of_two() {
        let node = Node::of_resource(&json!({"type": "object", "properties": {
            "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}));
        let found = duplicates(&json!({"s": ["a", "b", "a", "a"], "m": [{"k": "x"}, {"k": "x", "v": 1}]}), &node);
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["m[1]: Duplicate value: {\"k\":\"x\"}", "s[2]: Duplicate value: \"a\""]);
    }
}
