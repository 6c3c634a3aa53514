//! What upstream's unstructured converter says of the result of a strategic merge patch that does not fit its type.

use apimachinery::schema::{Node, NodeType, Type};
use serde_json::Value;

/// The first value that does not fit, in upstream's words. What has its own text form (quantities, times, bytes) is
/// left to the decoder.
pub fn mismatch(value: &Value, node: Node<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let restore = |what: &str| Some(format!("cannot restore {what} from {}", kind(value)));
    if let Some(object) = node.object() {
        if object.or_any {
            return None;
        }
        let Some(map) = value.as_object() else { return restore("struct") };
        return map.iter().find_map(|(key, value)| mismatch(value, node.child(key)?));
    }
    if node.map().is_some() {
        let Some(map) = value.as_object() else { return restore("map") };
        return map.iter().find_map(|(key, value)| mismatch(value, node.child(key)?));
    }
    if node.list().is_some() {
        let Some(list) = value.as_array() else { return restore("slice") };
        let item = node.item()?;
        return list.iter().find_map(|value| mismatch(value, item));
    }
    let NodeType::Type(ty) = node.ty else { return None };
    let (fits, name) = match ty {
        Type::String => (value.is_string(), "string"),
        Type::Bool => (value.is_boolean(), "bool"),
        Type::Int32 => (value.is_number(), "int32"),
        Type::Int64 => (value.is_number(), "int64"),
        Type::Float => (value.is_number(), "float64"),
        _ => return None,
    };
    (!fits).then(|| format!("unrecognized type: {name}"))
}

/// Go's kind of a decoded JSON value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}
