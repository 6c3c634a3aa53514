//! Dropping fields that a schema does not know, for values that are kept as untyped JSON.
//!
//! Invariants:
//! - PR-1: after pruning, pruning again finds nothing.

use super::node::Node;
use crate::schema::{Node as SchemaNode, Schema};
use serde_json::Value;
use std::collections::HashSet;

/// Removes unknown fields; gives their paths, sorted. The root's apiVersion, kind and metadata stay.
pub fn prune(value: &mut Value, schema: &Schema) -> Vec<String> {
    let mut dropped = Vec::new();
    walk(value, schema.root(), &mut String::new(), true, &mut dropped);
    dropped.sort();
    dropped
}

fn walk(value: &mut Value, node: SchemaNode<'_>, path: &mut String, root: bool, dropped: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let Some(object) = node.object() else {
                if node.map().is_some() {
                    for (key, value) in map {
                        step(path, key, |path| {
                            if let Some(child) = node.child(key) {
                                walk(value, child, path, false, dropped);
                            }
                        });
                    }
                }
                return;
            };
            map.retain(|key, value| {
                let type_meta = root && matches!(key.as_str(), "apiVersion" | "kind" | "metadata");
                step(path, key, |path| match node.child(key) {
                    _ if type_meta => true,
                    Some(child) => {
                        walk(value, child, path, false, dropped);
                        true
                    }
                    None if object.preserve_unknown => true,
                    None => {
                        dropped.push(path.clone());
                        false
                    }
                })
            });
        }
        Value::Array(items) => {
            let Some(item) = node.item() else { return };
            for (i, value) in items.iter_mut().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{i}]"));
                walk(value, item, path, false, dropped);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn step<T>(path: &mut String, key: &str, inside: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    if length > 0 {
        path.push('.');
    }
    path.push_str(key);
    let result = inside(path);
    path.truncate(length);
    result
}

/// Paths of repeated keys anywhere in a document, in document order.
pub fn repeated_keys(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    repeated(node, &mut String::new(), &mut found);
    found
}

fn repeated(node: &Node, path: &mut String, found: &mut Vec<String>) {
    match node {
        Node::Object(entries) => {
            let mut given = HashSet::new();
            for (key, value) in entries {
                step(path, key, |path| {
                    if !given.insert(key) && !found.contains(path) {
                        found.push(path.clone());
                    }
                    repeated(value, path, found);
                });
            }
        }
        Node::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{i}]"));
                repeated(item, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}
