//! JSON at random, and objects of a real server to damage.

use apimachinery::schema::{Schema, builtin_schema_for};
use proptest::prelude::*;
use serde_json::{Map, Value};

/// An error may show its input, but never be many times as long.
pub fn bounded(error: &str, input: usize) -> bool {
    error.len() <= 16 * input + 4096
}

/// Objects as a real server returned them: the largest and the smallest of each kind.
pub fn objects() -> Vec<&'static str> {
    include_str!("../../decode/testdata/objects.jsonl").lines().collect()
}

pub fn schema_of(object: &Value) -> Option<Schema> {
    let (group, version) = match object["apiVersion"].as_str()?.split_once('/') {
        Some(split) => split,
        None => ("", object["apiVersion"].as_str()?),
    };
    builtin_schema_for(group, version, object["kind"].as_str()?)
}

/// Words that mean something to somebody, and any other text.
pub fn word() -> impl Strategy<Value = String> {
    let words = [
        "metadata",
        "spec",
        "name",
        "labels",
        "containers",
        "ports",
        "env",
        "template",
        "$patch",
        "$retainKeys",
        "data",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "finalizers",
        "ownerReferences",
        "uid",
        "managedFields",
        "fieldsV1",
        "f:spec",
        "k:{\"name\":\"a\"}",
        "delete",
        "replace",
        "merge",
        "kind",
        "apiVersion",
        "v1",
        "Pod",
        "apps/v1",
        "a",
        "b",
        "",
        "/",
        "~0",
        "-",
        "0",
        "containerPort",
        "protocol",
        "resources",
        "limits",
    ];
    prop_oneof![4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,8}", 1 => any::<String>()]
}

pub fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
        prop::sample::select(vec!["1Gi", "1e9999", "100m", "2020-01-02T03:04:05Z", "80%", "TCP"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..6).prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

/// Puts a value somewhere into an object: `way` says which child to go into, as long as there are any.
pub fn damage(object: &mut Value, way: &[prop::sample::Index], by: Value) {
    let Some((index, rest)) = way.split_first() else {
        *object = by;
        return;
    };
    match object {
        Value::Object(map) if !map.is_empty() => {
            let which = index.index(map.len());
            damage(map.values_mut().nth(which).expect("one of them"), rest, by);
        }
        Value::Array(list) if !list.is_empty() => {
            let which = index.index(list.len());
            damage(&mut list[which], rest, by);
        }
        other => *other = by,
    }
}

/// A real object with something else in one place.
pub fn damaged() -> impl Strategy<Value = Value> {
    let all = objects();
    (0..all.len(), prop::collection::vec(any::<prop::sample::Index>(), 1..7), json()).prop_map(
        move |(line, way, by)| {
            let mut object: Value = serde_json::from_str(all[line]).expect("JSON");
            let (kind, version) = (object["kind"].clone(), object["apiVersion"].clone());
            damage(&mut object, &way, by);
            if let Value::Object(map) = &mut object {
                map.insert("kind".into(), kind);
                map.insert("apiVersion".into(), version);
            }
            object
        },
    )
}

pub fn map(entries: &[(&str, Value)]) -> Value {
    Value::Object(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect::<Map<_, _>>())
}
