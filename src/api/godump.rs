//! Objects as Go prints upstream's internal structs: field names and order of the struct, absent fields as null.
//! Such text is part of some validation messages.
//!
//! Invariants:
//! - GD-1: field order and kinds are facts, kept in `data/internal-types.txt`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::OnceLock;

use apimachinery::goformat;
use serde_json::{Value, json};

use crate::access::*;

enum Kind {
    Text,
    Number,
    Flag,
    Pointer,
    Quantity,
    /// Left out when absent.
    Optional,
    List(&'static str),
    OptionalList(&'static str),
    Reference(&'static str),
    Struct(&'static str),
    Embedded(&'static str),
}

struct Field {
    name: &'static str,
    json: &'static str,
    kind: Kind,
}

/// A value that keeps the order of its fields.
enum Node {
    Scalar(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// `value` (in its v1 form) as the internal type `ty`, on one line.
pub(crate) fn dump(ty: &str, value: &Value) -> String {
    let mut out = String::new();
    compact(&mut out, &object(ty, value));
    out
}

/// As [`dump`], on several lines with an indent of one space. A PodSpec's host namespaces are where the internal type
/// has them: in the security context.
pub(crate) fn dump_pretty(ty: &str, value: &Value) -> String {
    let mut out = String::new();
    pretty(&mut out, &object(ty, value), 0);
    out
}

fn types() -> &'static HashMap<&'static str, Vec<Field>> {
    static TYPES: OnceLock<HashMap<&'static str, Vec<Field>>> = OnceLock::new();
    TYPES.get_or_init(|| {
        let mut types: HashMap<&'static str, Vec<Field>> = HashMap::new();
        let mut current = "";
        for line in include_str!("data/internal-types.txt").lines() {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let Some(field) = line.strip_prefix(' ') else {
                current = line;
                continue;
            };
            let (names, kind) = field.split_once(' ').expect("a field line has a kind");
            let (name, json) = names.split_once('<').expect("a field line names both forms");
            let kind = match kind.split_at(1) {
                ("s", _) => Kind::Text,
                ("i", _) => Kind::Number,
                ("b", _) => Kind::Flag,
                ("q", _) => Kind::Quantity,
                ("o", _) => Kind::Optional,
                ("[", ty) => Kind::List(ty),
                ("?", ty) => Kind::OptionalList(ty),
                ("*", ty) => Kind::Reference(ty),
                ("=", ty) => Kind::Struct(ty),
                ("+", ty) => Kind::Embedded(ty),
                _ => Kind::Pointer,
            };
            types.entry(current).or_default().push(Field { name, json, kind });
        }
        types
    })
}

fn object(ty: &str, value: &Value) -> Node {
    let mut fields = Vec::new();
    if ty == "PodSpec" {
        let mut spec = value.clone();
        set_missing(&mut spec, "securityContext", json!({}));
        for key in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
            if let (Some(own), Some(context)) = (value.get(key), spec.get_mut("securityContext")) {
                set(context, key, own.clone());
            }
        }
        collect(&mut fields, ty, &spec);
    } else {
        collect(&mut fields, ty, value);
    }
    Node::Object(fields)
}

fn collect(out: &mut Vec<(String, Node)>, ty: &str, value: &Value) {
    for field in types().get(ty).map_or(&[][..], Vec::as_slice) {
        let own = match field.json.split_once('.') {
            Some((parent, child)) => obj(obj(value, parent), child),
            None => obj(value, field.json),
        };
        let node = match &field.kind {
            Kind::Embedded(inner) => {
                collect(out, inner, value);
                continue;
            }
            Kind::Optional | Kind::OptionalList(_) if blank(own) => continue,
            Kind::Text if own.is_null() => Node::Scalar("\"\"".into()),
            Kind::Number if own.is_null() => Node::Scalar("0".into()),
            Kind::Flag if own.is_null() => Node::Scalar("false".into()),
            Kind::Quantity if own.is_null() => Node::Scalar("\"0\"".into()),
            Kind::Text | Kind::Number | Kind::Flag | Kind::Quantity => plain(own),
            Kind::Struct(inner) => object(inner, own),
            Kind::Reference(inner) if own.is_object() => object(inner, own),
            Kind::List(inner) | Kind::OptionalList(inner) if !blank(own) => {
                Node::List(own.as_array().into_iter().flatten().map(|item| object(inner, item)).collect())
            }
            // Go keeps no empty list or map that came from JSON without one.
            Kind::Pointer if own.is_array() && blank(own) => Node::Scalar("null".into()),
            Kind::Pointer | Kind::Optional => plain(own),
            Kind::Reference(_) | Kind::List(_) | Kind::OptionalList(_) => Node::Scalar("null".into()),
        };
        out.push((field.name.to_owned(), node));
    }
}

fn blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A value that prints the same in both forms; maps sorted by key.
fn plain(value: &Value) -> Node {
    match value {
        Value::Array(list) => Node::List(list.iter().map(plain).collect()),
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().map(|(k, v)| (k.clone(), plain(v))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Node::Object(fields)
        }
        other => Node::Scalar(goformat::json(other)),
    }
}

fn compact(out: &mut String, node: &Node) {
    match node {
        Node::Scalar(text) => out.push_str(text),
        Node::List(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                compact(out, item);
            }
            out.push(']');
        }
        Node::Object(fields) => {
            out.push('{');
            for (i, (name, item)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                goformat::write_json_string(out, name);
                out.push(':');
                compact(out, item);
            }
            out.push('}');
        }
    }
}

fn pretty(out: &mut String, node: &Node, depth: usize) {
    let line = |out: &mut String, first: bool, depth: usize| {
        let _ = write!(out, "{}\n{:depth$}", if first { "" } else { "," }, "");
    };
    match node {
        Node::Scalar(text) => out.push_str(text),
        Node::List(list) if list.is_empty() => out.push_str("[]"),
        Node::Object(fields) if fields.is_empty() => out.push_str("{}"),
        Node::List(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                line(out, i == 0, depth + 1);
                pretty(out, item, depth + 1);
            }
            line(out, true, depth);
            out.push(']');
        }
        Node::Object(fields) => {
            out.push('{');
            for (i, (name, item)) in fields.iter().enumerate() {
                line(out, i == 0, depth + 1);
                goformat::write_json_string(out, name);
                out.push_str(": ");
                pretty(out, item, depth + 1);
            }
            line(out, true, depth);
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line() {
        let strategy = json!({"type": "Foo"});
        assert_eq!(dump("DeploymentStrategy", &strategy), r#"{"Type":"Foo","RollingUpdate":null}"#);
        let context = json!({"privileged": true, "allowPrivilegeEscalation": false});
        assert_eq!(
            dump("SecurityContext", &context),
            r#"{"Capabilities":null,"Privileged":true,"SELinuxOptions":null,"WindowsOptions":null,"RunAsUser":null,"RunAsGroup":null,"RunAsNonRoot":null,"ReadOnlyRootFilesystem":null,"AllowPrivilegeEscalation":false,"ProcMount":null,"SeccompProfile":null,"AppArmorProfile":null}"#
        );
        let selector = json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "a", "operator": "In"}]});
        assert_eq!(
            dump("LabelSelector", &selector),
            r#"{"matchLabels":{"app":"x"},"matchExpressions":[{"key":"a","operator":"In"}]}"#
        );
    }

    #[test]
    fn several_lines() {
        let device = json!({"name": "d", "devicePath": "/p"});
        assert_eq!(dump_pretty("VolumeDevice", &device), "{\n \"Name\": \"d\",\n \"DevicePath\": \"/p\"\n}");
    }
}
