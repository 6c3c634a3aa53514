//! Keys that a document repeats, for values that are kept as untyped JSON.

use super::node::Node;
use std::collections::HashSet;

/// More are not told of (upstream's number): a document of repeated keys must not make an error many times its size.
const MAX_FOUND: usize = 100;

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

/// Paths of repeated keys anywhere in a document, in document order; at most [`MAX_FOUND`].
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
                    if !given.insert(key) && found.len() < MAX_FOUND && !found.contains(path) {
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
