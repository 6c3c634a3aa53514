//! Merging a configuration into an object without tracking who owns what: what MutatingAdmissionPolicies do.
//!
//! Invariants:
//! - MC-1: nothing atomic is in the configuration: what it does not say would be lost from the object.

use super::typed::{self, Kind, kind};
use super::validate;
use crate::schema::{Node, Schema};
use serde_json::Value;

/// The object with the configuration merged in. Err: upstream's text.
pub fn merge_configuration(schema: &Schema, object: &Value, configuration: &Value) -> Result<Value, String> {
    validate::validate(schema, configuration)
        .map_err(|error| format!("failed to convert patch object to typed object: {error}"))?;
    let mut atomics = Vec::new();
    find_atomics(&schema.root(), configuration, &mut String::new(), &mut atomics);
    if !atomics.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        ));
    }
    let mut merged = object.clone();
    typed::merge(schema, &mut merged, configuration).map_err(|error| format!("failed to merge patch: {error}"))?;
    Ok(merged)
}

fn find_atomics(node: &Node<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match (kind(node, Some(value)), value) {
        (Some(Kind::Map { atomic }), Value::Object(map)) => {
            if atomic {
                found.push(path.clone());
            }
            for (key, value) in map {
                let Some(child) = node.field(key).and_then(|_| node.child(key)) else { continue };
                path.push('.');
                path.push_str(key);
                find_atomics(&child, value, path, found);
                path.truncate(length);
            }
        }
        (Some(list @ (Kind::AtomicList | Kind::Set | Kind::Keyed)), Value::Array(items)) => {
            if list == Kind::AtomicList {
                found.push(path.clone());
            }
            let Some(child) = node.item() else { return };
            for (at, value) in items.iter().enumerate() {
                path.push_str(&format!("[{at}]"));
                find_atomics(&child, value, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges_by_the_schema() {
        let schema = crate::schema::builtin_schema_for("", "v1", "Pod").expect("pods");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut patch = json!({"apiVersion": "v1", "kind": "Pod",
            "spec": {"containers": [{"name": "side", "image": "s"}, {"name": "c", "tty": true}]}});
        let merged = merge_configuration(&schema, &pod, &patch).expect("merges");
        let containers = merged["spec"]["containers"].as_array().expect("containers");
        assert_eq!(containers.len(), 2);
        assert!(containers.contains(&json!({"name": "c", "image": "i", "tty": true})));
        patch["spec"]["containers"][1]["command"] = json!(["x"]);
        assert_eq!(
            merge_configuration(&schema, &pod, &patch),
            Err("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[1].command"
                .to_owned())
        );
        let unknown = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nope": 1}});
        assert_eq!(
            merge_configuration(&schema, &pod, &unknown),
            Err("failed to convert patch object to typed object: .spec.nope: field not declared in schema".to_owned())
        );
    }
}
