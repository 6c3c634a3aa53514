//! Values as Go's `fmt` prints them, where that reaches clients: `%v` of unstructured maps, `%#v`, and type names.
//!
//! Invariants:
//! - GV-1: maps print their keys sorted.

use crate::goformat;
use serde_json::Value;

/// `%v`: `map[a:1 b:[x y]]`.
pub fn value(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(s) => out.push_str(s),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                write_value(out, &map[key]);
            }
            out.push(']');
        }
        Value::Number(n) if n.is_f64() => out.push_str(&general(n.as_f64().unwrap_or_default())),
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// `%v` of a float: the shortest digits, with an exponent from 1e21 on and below 1e-4.
fn general(f: f64) -> String {
    let abs = f.abs();
    if abs == 0.0 || (1e-4..1e21).contains(&abs) {
        return format!("{f}");
    }
    match format!("{f:e}").split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => format!("{f}"),
    }
}

/// `%#v`: Go syntax.
pub fn syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(s) => goformat::quote(s),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> =
                map.iter().map(|(key, item)| format!("{}:{}", goformat::quote(key), syntax(item))).collect();
            format!("map[string]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Number(n) if n.is_f64() => general(n.as_f64().unwrap_or_default()),
        scalar => scalar.to_string(),
    }
}

/// `%T` of an unstructured value.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// What `encoding/json` calls a value it cannot store.
pub fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prints_like_go() {
        let map = json!({"name": "a", "$patch": "explode", "l": [1, true, null], "f": 1.5});
        assert_eq!(value(&map), "map[$patch:explode f:1.5 l:[1 true <nil>] name:a]");
        assert_eq!(value(&json!(1e30)), "1e+30");
        assert_eq!(value(&json!(0.00001)), "1e-05");
        assert_eq!(syntax(&json!({"a": ["x"]})), r#"map[string]interface {}{"a":[]interface {}{"x"}}"#);
    }
}
