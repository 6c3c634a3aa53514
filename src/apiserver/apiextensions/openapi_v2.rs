//! Schemas as the protobuf form of OpenAPI v2 (gnostic's `openapi.v2.Document`), which kubectl up to 1.27 asks for.
//!
//! Invariants:
//! - XQ-1: what is written is a document with definitions alone: appended to another document it adds to it.

use serde_json::{Map, Value};

/// Field numbers of `openapi.v2.Document` and of what is below `definitions`.
const DEFINITIONS: u32 = 9;
const NAMED: u32 = 1;

/// A document with these definitions.
pub fn encode(schemas: &Map<String, Value>) -> Vec<u8> {
    let mut definitions = Vec::new();
    for (name, schema) in schemas {
        bytes(&mut definitions, NAMED, &named(name, &encode_schema(schema)));
    }
    let mut out = Vec::new();
    bytes(&mut out, DEFINITIONS, &definitions);
    out
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, value);
    out
}

fn encode_schema(schema: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(map) = schema.as_object() else { return out };
    let text = |key: &str| map.get(key).and_then(Value::as_str);
    for (number, key) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description")] {
        if let Some(text) = text(key) {
            bytes(&mut out, number, text.as_bytes());
        }
    }
    let number = |out: &mut Vec<u8>, field: u32, key: &str| {
        if let Some(value) = map.get(key).and_then(Value::as_f64).filter(|value| *value != 0.0) {
            varint(out, u64::from(field << 3 | 1));
            out.extend_from_slice(&value.to_le_bytes());
        }
    };
    let count = |out: &mut Vec<u8>, field: u32, key: &str| {
        let value = map.get(key).and_then(|value| value.as_u64().or(value.as_bool().map(u64::from)));
        if let Some(value) = value.filter(|value| *value != 0) {
            varint(out, u64::from(field << 3));
            varint(out, value);
        }
    };
    number(&mut out, 6, "multipleOf");
    number(&mut out, 7, "maximum");
    count(&mut out, 8, "exclusiveMaximum");
    number(&mut out, 9, "minimum");
    count(&mut out, 10, "exclusiveMinimum");
    count(&mut out, 11, "maxLength");
    count(&mut out, 12, "minLength");
    if let Some(pattern) = text("pattern") {
        bytes(&mut out, 13, pattern.as_bytes());
    }
    count(&mut out, 14, "maxItems");
    count(&mut out, 15, "minItems");
    count(&mut out, 16, "uniqueItems");
    count(&mut out, 17, "maxProperties");
    count(&mut out, 18, "minProperties");
    for name in map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        bytes(&mut out, 19, name.as_bytes());
    }
    for value in map.get("enum").and_then(Value::as_array).into_iter().flatten() {
        bytes(&mut out, 20, &any(value));
    }
    match map.get("additionalProperties") {
        // AdditionalPropertiesItem: a schema or a boolean.
        Some(value @ Value::Object(_)) => {
            let mut item = Vec::new();
            bytes(&mut item, 1, &encode_schema(value));
            bytes(&mut out, 21, &item);
        }
        Some(Value::Bool(true)) => bytes(&mut out, 21, &[2 << 3, 1]),
        _ => {}
    }
    if let Some(ty) = text("type") {
        let mut item = Vec::new();
        bytes(&mut item, 1, ty.as_bytes());
        bytes(&mut out, 22, &item);
    }
    if let Some(items) = map.get("items") {
        let mut item = Vec::new();
        bytes(&mut item, 1, &encode_schema(items));
        bytes(&mut out, 23, &item);
    }
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        let mut all = Vec::new();
        for (name, schema) in properties {
            bytes(&mut all, NAMED, &named(name, &encode_schema(schema)));
        }
        bytes(&mut out, 25, &all);
    }
    for (key, value) in map.iter().filter(|(key, _)| key.starts_with("x-")) {
        bytes(&mut out, 31, &named(key, &any(value)));
    }
    out
}

/// gnostic's Any: the value as YAML, which JSON is.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 2, format!("{value}\n").as_bytes());
    out
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(out, u64::from(field << 3 | 2));
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn is_protobuf() {
        let Value::Object(schemas) = json!({"a": {"type": "string"}}) else { unreachable!("an object") };
        assert_eq!(encode(&schemas), b"\x4a\x12\x0a\x10\x0a\x01a\x12\x0b\xb2\x01\x08\x0a\x06string");
    }
}
