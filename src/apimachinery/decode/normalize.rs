//! What Go's encoder writes for an object: empty optional fields vanish, fields without omitempty always appear.
//!
//! Invariants:
//! - NZ-1: normalizing twice changes nothing.
//! - NZ-2: only built-in types are touched; a custom resource keeps what its schema keeps.

use crate::schema::{Field, Object, Schema, Table, Type};
use serde_json::{Map, Value};

/// Brings an object of a built-in type into the form in which the server returns it. Unknown fields go.
pub fn normalize(value: &mut Value, schema: &Schema) {
    object_value(value, schema.root_object(), &schema.table, Empty::Null);
}

/// As [`normalize()`], but empty lists and maps that are always written stay empty: what a client sent is told from
/// what it left out until the object is stored.
pub fn normalize_sent(value: &mut Value, schema: &Schema) {
    object_value(value, schema.root_object(), &schema.table, Empty::Kept);
}

/// What becomes of empty lists and maps that are always written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Null,
    Kept,
}

fn object_value(value: &mut Value, object: &Object, table: &Table, empty: Empty) {
    match value {
        Value::Object(map) => fields(map, object, table, empty),
        Value::Null => {
            *value = zero_object(object, table);
        }
        // JSONSchemaPropsOrArray and its like
        Value::Array(items) if object.or_any => {
            for item in items.iter_mut().filter(|i| i.is_object()) {
                object_value(item, object, table, empty);
            }
        }
        _ => {}
    }
}

fn zero_object(object: &Object, table: &Table) -> Value {
    let mut map = Map::new();
    fields(&mut map, object, table, Empty::Null);
    Value::Object(map)
}

fn fields(map: &mut Map<String, Value>, object: &Object, table: &Table, empty: Empty) {
    if object.name.is_empty() {
        return;
    }
    if !object.preserve_unknown && object.additional.is_none() {
        map.retain(|key, _| object.fields.binary_search_by(|f| f.name.as_ref().cmp(key)).is_ok());
    }
    for field in object.fields.iter() {
        match map.get_mut(field.name.as_ref()) {
            Some(value) if !value.is_null() => {
                inside(value, &field.ty, table, empty);
                let kept = field.always && empty == Empty::Kept && (value.is_array() || value.is_object());
                if kept || !is_empty(value, field) {
                    continue;
                }
            }
            _ => {}
        }
        if field.always {
            map.insert(field.name.to_string(), zero(field, table));
        } else {
            map.remove(field.name.as_ref());
        }
    }
}

fn inside(value: &mut Value, ty: &Type, table: &Table, empty: Empty) {
    match (ty, value) {
        (Type::Object(id), value) => object_value(value, &table.objects[*id as usize], table, empty),
        (Type::List(list), Value::Array(items)) => {
            items.iter_mut().for_each(|item| inside(item, &list.item, table, empty));
        }
        (Type::Map(map), Value::Object(entries)) => {
            entries.values_mut().for_each(|v| inside(v, &map.value, table, empty));
        }
        _ => {}
    }
}

/// What omitempty leaves out (and what is written as the zero value otherwise).
fn is_empty(value: &Value, field: &Field) -> bool {
    match (&field.ty, value) {
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        (Type::Bytes, Value::String(s)) => s.is_empty(),
        (Type::String, Value::String(s)) => s.is_empty() && !field.pointer,
        (Type::Bool, Value::Bool(b)) => !b && !field.pointer,
        (Type::Int32 | Type::Int64 | Type::Float, Value::Number(n)) => n.as_f64() == Some(0.0) && !field.pointer,
        _ => false,
    }
}

fn zero(field: &Field, table: &Table) -> Value {
    if field.pointer {
        return Value::Null;
    }
    match &field.ty {
        Type::String => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::String("0".into()),
        Type::Duration => Value::String("0s".into()),
        Type::Object(id) => zero_object(&table.objects[*id as usize], table),
        Type::Bytes | Type::Time | Type::MicroTime | Type::FieldsV1 | Type::Any | Type::Map(_) | Type::List(_) => {
            Value::Null
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin_schema_for;
    use serde_json::json;

    fn normal(group: &str, version: &str, kind: &str, mut value: Value) -> Value {
        let schema = builtin_schema_for(group, version, kind).unwrap();
        normalize(&mut value, &schema);
        let once = value.clone();
        normalize(&mut value, &schema);
        assert_eq!(value, once);
        value
    }

    #[test]
    fn empty_fields_vanish_or_appear() {
        assert_eq!(
            normal(
                "",
                "v1",
                "Pod",
                json!({"metadata": {"name": "x", "labels": {}, "creationTimestamp": null},
                "spec": {"containers": [{"name": "c", "image": "", "command": [], "stdin": false,
                    "securityContext": {}, "livenessProbe": {"initialDelaySeconds": 0}}],
                    "hostname": "", "priority": 0, "nodeSelector": {}, "bogus": 1, "hostNetwork": false}})
            ),
            json!({"metadata": {"name": "x"},
                "spec": {"containers": [{"name": "c", "resources": {}, "securityContext": {}, "livenessProbe": {}}], "priority": 0},
                "status": {}})
        );
        assert_eq!(
            normal(
                "apps",
                "v1",
                "Deployment",
                json!({"metadata": {"name": "x"}, "spec": {"replicas": 0, "template": null}})
            ),
            json!({"metadata": {"name": "x"},
                "spec": {"replicas": 0, "selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}},
                "status": {}})
        );
        assert_eq!(
            normal("", "v1", "Service", json!({"spec": {"ports": [{"port": 80}]}})),
            json!({"metadata": {},
            "spec": {"ports": [{"port": 80, "targetPort": 0}]}, "status": {"loadBalancer": {}}})
        );
        assert_eq!(
            normal("rbac.authorization.k8s.io", "v1", "Role", json!({"rules": []})),
            json!({"metadata": {}, "rules": null})
        );
        assert_eq!(
            normal("", "v1", "ConfigMap", json!({"data": {"a": ""}, "binaryData": {}})),
            json!({"metadata": {}, "data": {"a": ""}})
        );
    }
}
