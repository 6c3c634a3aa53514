//! Go's ways of writing values, where they are visible to clients: `%q` quoting, `encoding/json` strings and floats.
//!
//! Invariants:
//! - GF-1: `json` is byte for byte what Go's encoder emits for the same value (sorted keys, `<`, `>`, `&` escaped).

use crate::schema::Node;
use serde_json::{Number, Value};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// `strconv.Quote`: a Go string literal.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_print(c) => out.push(c),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if (c as u32) < 0x10000 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
        }
    }
    out.push('"');
    out
}

/// `strconv.IsPrint`, near enough: letters, marks, numbers, punctuation, symbols and the ASCII space.
pub fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    let invisible = c.is_control()
        || c.is_whitespace()
        || matches!(c as u32,
            0xad | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f
            | 0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb | 0xfffe | 0xffff | 0xe0000..=0x10ffff);
    !invisible
}

/// What `json.Marshal` gives for a value.
pub fn json(value: &Value) -> String {
    let mut out = String::new();
    write_json(&mut out, value);
    out
}

pub fn write_json(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&number(n)),
        Value::String(s) => write_json_string(out, s),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json_string(out, key);
                out.push(':');
                write_json(out, item);
            }
            out.push('}');
        }
    }
}

/// The same with the fields of built-in types in the order of the Go structs, as errors show them.
pub fn json_of(value: &Value, node: Node<'_>) -> String {
    let mut out = String::new();
    write_json_of(&mut out, value, Some(node));
    out
}

fn write_json_of(out: &mut String, value: &Value, node: Option<Node<'_>>) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json_of(out, item, node.and_then(|n| n.item()));
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| node.and_then(|n| n.field(key)).map_or(u8::MAX, |f| f.order));
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json_string(out, key);
                out.push(':');
                write_json_of(out, item, node.and_then(|n| n.child(key)));
            }
            out.push('}');
        }
        scalar => write_json(out, scalar),
    }
}

/// As [`json_of`], but the objects at these JSON pointers have sorted fields: the JSON patch library reads the objects
/// on its way as maps, and leaves the text of all others alone.
pub fn json_opened(value: &Value, node: Node<'_>, opened: &BTreeSet<String>) -> String {
    let mut out = String::new();
    write_opened(&mut out, value, Some(node), opened, &mut String::new());
    out
}

fn write_opened(out: &mut String, value: &Value, node: Option<Node<'_>>, opened: &BTreeSet<String>, at: &mut String) {
    if !opened.contains(at.as_str()) {
        return write_json_of(out, value, node);
    }
    let length = at.len();
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let _ = write!(at, "/{i}");
                write_opened(out, item, node.and_then(|n| n.item()), opened, at);
                at.truncate(length);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json_string(out, key);
                out.push(':');
                let _ = write!(at, "/{}", pointer_segment(key));
                write_opened(out, item, node.and_then(|n| n.child(key)), opened, at);
                at.truncate(length);
            }
            out.push('}');
        }
        scalar => write_json(out, scalar),
    }
}

/// A key as a segment of a JSON pointer.
pub fn pointer_segment(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A JSON string with Go's HTML-safe escapes.
pub fn write_json_string(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number as Go's encoder writes it: integers plainly, floats as [`float`].
pub fn number(n: &Number) -> String {
    if n.is_i64() || n.is_u64() { n.to_string() } else { float(n.as_f64().unwrap_or_default()) }
}

/// A float64 as `encoding/json` writes it: shortest form, exponent below 1e-6 and from 1e21 on.
pub fn float(f: f64) -> String {
    if f == 0.0 {
        return if f.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let abs = f.abs();
    if (1e-6..1e21).contains(&abs) {
        return format!("{f}");
    }
    // Rust writes 1e-9 and 1e21; Go wants a sign on positive exponents.
    let text = format!("{f:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if !exponent.starts_with('-') => format!("{mantissa}e+{exponent:0>2}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quotes_like_go() {
        for (input, want) in
            [("a", r#""a""#), ("a\"b\\", r#""a\"b\\""#), ("\n\u{1}é", "\"\\n\\x01é\""), ("\u{200b}", "\"\\u200b\"")]
        {
            assert_eq!(quote(input), want);
        }
    }

    #[test]
    fn fields_in_go_order() {
        let schema = crate::schema::builtin_schema("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").unwrap();
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x"]}],
            "matchLabels": {"b": "2", "a": "1"}});
        assert_eq!(
            json_of(&selector, schema.root()),
            r#"{"matchLabels":{"a":"1","b":"2"},"matchExpressions":[{"key":"a","operator":"In","values":["x"]}]}"#
        );
    }

    #[test]
    fn opened_objects_are_sorted() {
        let schema = crate::schema::builtin_schema("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").unwrap();
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x"]}],
            "matchLabels": {"a": "1"}});
        let opened = BTreeSet::from([String::new()]);
        assert_eq!(
            json_opened(&selector, schema.root(), &opened),
            r#"{"matchExpressions":[{"key":"a","operator":"In","values":["x"]}],"matchLabels":{"a":"1"}}"#
        );
        assert_eq!(json_opened(&selector, schema.root(), &BTreeSet::new()), json_of(&selector, schema.root()));
    }

    #[test]
    fn json_like_go() {
        assert_eq!(json(&json!({"b": "<a>&", "a": [1, 1.5, null]})), r#"{"a":[1,1.5,null],"b":"\u003ca\u003e\u0026"}"#);
        for (f, want) in
            [(1e21, "1e+21"), (1e-7, "1e-7"), (0.1, "0.1"), (100.0, "100"), (1e20, "100000000000000000000")]
        {
            assert_eq!(float(f), want);
        }
    }
}
