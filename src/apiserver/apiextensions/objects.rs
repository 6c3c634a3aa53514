//! Bringing a custom resource into the form its schema gives it: unknown fields go, defaults come, nulls that may not
//! be go, embedded metadata takes its shape.
//!
//! Invariants:
//! - XO-1: each of these done twice changes nothing the second time.
//! - XO-2: below a node that preserves unknown fields everything is kept but what a named property there does not know.

use apimachinery::decode;
use serde_json::{Map, Value};

use super::structural::Node;

const TYPE_AND_META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Everything that reading an object from a client does to it but the root's metadata: the texts of what strict field
/// validation refuses, in upstream's order. Err: the first malformed metadata.
pub fn coerce(object: &mut Value, schema: &Node) -> Result<Vec<String>, String> {
    let mut dropped = prune(object, schema);
    drop_nulls(object, schema);
    let unknown = |path: String| format!("unknown field {}", apimachinery::goformat::quote(&path));
    dropped.sort();
    let mut strict: Vec<String> = dropped.into_iter().map(unknown).collect();
    if schema.below.embedded {
        coerce_embedded(object, schema, &mut String::new(), &mut strict)?;
    }
    Ok(strict)
}

/// What reading from the store does: pruned and with defaults by the stored version's schema.
pub fn restore(object: &mut Value, schema: &Node) {
    default(object, schema);
    prune(object, schema);
    drop_nulls(object, schema);
}

/// Removes the fields that the schema does not know; gives their paths.
pub fn prune(object: &mut Value, schema: &Node) -> Vec<String> {
    let mut dropped = Vec::new();
    prune_value(object, Some(schema), true, &mut String::new(), &mut dropped);
    dropped
}

/// As [`prune`] for a value in an object; `whole`: it has type and metadata all the same.
pub fn prune_part(value: &mut Value, schema: &Node, whole: bool) {
    prune_value(value, Some(schema), whole, &mut String::new(), &mut Vec::new());
}

fn prune_value(value: &mut Value, node: Option<&Node>, root: bool, path: &mut String, dropped: &mut Vec<String>) {
    let keeps = node.is_some_and(|node| node.preserve_unknown);
    match value {
        Value::Object(map) => {
            let meta = root || node.is_some_and(|node| node.embedded);
            map.retain(|key, value| {
                if meta && TYPE_AND_META.contains(&key.as_str()) {
                    return true;
                }
                let length = path.len();
                if length > 0 {
                    path.push('.');
                }
                path.push_str(key);
                let kept = match node.and_then(|node| node.child(key)) {
                    Some(child) => {
                        prune_value(value, Some(child), false, path, dropped);
                        true
                    }
                    None => {
                        if !keeps {
                            dropped.push(path.clone());
                        }
                        keeps
                    }
                };
                path.truncate(length);
                kept
            });
        }
        Value::Array(items) => {
            let item = node.and_then(|node| node.items.as_deref());
            if item.is_none() && keeps {
                return;
            }
            for (at, value) in items.iter_mut().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{at}]"));
                prune_value(value, item, false, path, dropped);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn unwanted_null(value: &Value, node: &Node) -> bool {
    value.is_null() && !node.nullable
}

/// Fills in the schema's defaults.
pub fn default(value: &mut Value, node: &Node) {
    if !node.below.defaults {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, child) in &node.properties {
                let Some(default) = &child.default else { continue };
                if map.get(name.as_ref()).is_none_or(|value| unwanted_null(value, child)) {
                    map.insert(name.to_string(), (**default).clone());
                }
            }
            for (key, value) in map.iter_mut() {
                match (node.property(key), node.additional.as_deref()) {
                    (Some(child), _) => default(value, child),
                    (None, Some(child)) => default_or_null(value, child),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = node.items.as_deref() {
                items.iter_mut().for_each(|value| default_or_null(value, item));
            }
        }
        _ => {}
    }
}

fn default_or_null(value: &mut Value, node: &Node) {
    if let (true, Some(instead)) = (unwanted_null(value, node), &node.default) {
        *value = (**instead).clone();
    }
    default(value, node);
}

/// Removes members that are null, may not be and have no default.
pub fn drop_nulls(value: &mut Value, node: &Node) {
    match value {
        Value::Object(map) => map.retain(|key, value| match node.child(key) {
            Some(child) if unwanted_null(value, child) && child.default.is_none() => false,
            Some(child) => {
                drop_nulls(value, child);
                true
            }
            None => true,
        }),
        Value::Array(items) => {
            if let Some(item) = node.items.as_deref() {
                items.iter_mut().for_each(|value| drop_nulls(value, item));
            }
        }
        _ => {}
    }
}

fn coerce_embedded(value: &mut Value, node: &Node, path: &mut String, strict: &mut Vec<String>) -> Result<(), String> {
    if !node.below.embedded {
        return Ok(());
    }
    match value {
        Value::Object(map) => {
            if node.embedded {
                coerce_metadata(map, path, strict)?;
            }
            for (key, value) in map {
                if let Some(child) = node.child(key) {
                    let length = path.len();
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(key);
                    coerce_embedded(value, child, path, strict)?;
                    path.truncate(length);
                }
            }
        }
        Value::Array(items) => {
            let Some(item) = node.items.as_deref() else { return Ok(()) };
            for (at, value) in items.iter_mut().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{at}]"));
                coerce_embedded(value, item, path, strict)?;
                path.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}

fn coerce_metadata(map: &mut Map<String, Value>, path: &str, strict: &mut Vec<String>) -> Result<(), String> {
    for name in ["apiVersion", "kind"] {
        if map.get(name).is_some_and(|value| !value.is_string()) {
            let at = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let shown = map.get(name).map(apimachinery::goformat::json).unwrap_or_default();
            return Err(format!("{at}: Invalid value: {shown}: must be a string"));
        }
    }
    let Some(metadata) = map.get_mut("metadata") else { return Ok(()) };
    let at = if path.is_empty() { "metadata".to_owned() } else { format!("{path}.metadata") };
    match decode::decode_metadata(metadata, &at) {
        Ok(unknown) => strict.extend(unknown),
        Err(error) => return Err(format!("{at}: Invalid value: {error}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(spec: Value) -> Node {
        Node::of_resource(&json!({"type": "object", "properties": {"spec": spec}}))
    }

    #[test]
    fn prunes_all_but_what_is_preserved() {
        let node = schema(json!({"type": "object", "properties": {
            "o": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"k": {"type": "string"}}}}},
            "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}
        }}));
        let mut object = json!({"kind": "X", "metadata": {"bogus": 1}, "top": 1, "spec": {
            "zz": 1, "o": {"free": 1, "known": {"k": "v", "u": 1}},
            "e": {"kind": "Z", "metadata": {"name": "n", "weird": 2}, "spec": {"gone": 1}}}});
        let strict = coerce(&mut object, &node).expect("coerced");
        let unknown = |path: &str| format!("unknown field \"{path}\"");
        assert_eq!(
            strict,
            ["spec.e.spec.gone", "spec.o.known.u", "spec.zz", "top", "spec.e.metadata.weird"].map(unknown).to_vec()
        );
        assert_eq!(
            object["spec"],
            json!({"o": {"free": 1, "known": {"k": "v"}},
                "e": {"kind": "Z", "metadata": {"name": "n"}, "spec": {}}})
        );
    }

    #[test]
    fn defaults_before_nulls_go() {
        let node = schema(json!({"type": "object", "properties": {
            "a": {"type": "string", "nullable": true, "default": "d"},
            "b": {"type": "string", "default": "d"},
            "c": {"type": "string"},
            "l": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}}},
            "n": {"type": "object", "default": {}, "properties": {"y": {"type": "integer", "default": 2}}}
        }}));
        let mut object = json!({"spec": {"a": null, "b": null, "c": null, "l": [{}]}});
        restore(&mut object, &node);
        assert_eq!(object, json!({"spec": {"a": null, "b": "d", "l": [{"x": 1}], "n": {"y": 2}}}));
    }
}
