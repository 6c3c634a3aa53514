//! Strategic merge on a small pod-like schema.

use super::*;
use crate::patch::apply_strategic;
use crate::schema::{Field, ListOf, ListType, MapOf, MapType, Object, Table, Type};
use proptest::prelude::*;
use serde_json::json;
use std::borrow::Cow;
use std::sync::Arc;

fn field(name: &'static str, ty: Type, merge_key: Option<&'static str>, retain_keys: bool) -> Field {
    Field {
        patch_strategy: PatchStrategy { merge: merge_key.is_some(), retain_keys },
        patch_merge_key: merge_key.filter(|key| !key.is_empty()).map(Into::into),
        ..Field::new(name, ty)
    }
}

fn list(item: Type) -> Type {
    Type::list(ListOf { item, list_type: ListType::Atomic, keys: Cow::Borrowed(&[]) })
}

fn schema() -> Schema {
    let strings = Type::map(MapOf { value: Type::String, map_type: MapType::Granular });
    let env = list(Type::Object(2));
    let objects = vec![
        Object::new(
            "io.k8s.api.core.v1.PodSpec",
            vec![
                field("containers", list(Type::Object(1)), Some("name"), false),
                field("finalizers", list(Type::String), Some(""), false),
                field("nodeSelector", strings, None, false),
                field("strategy", Type::Object(2), None, true),
                field("tolerations", list(Type::Object(2)), None, false),
            ],
        ),
        Object::new(
            "io.k8s.api.core.v1.Container",
            vec![
                field("args", list(Type::String), None, false),
                field("env", env, Some("name"), false),
                field("image", Type::String, None, false),
                field("name", Type::String, None, false),
            ],
        ),
        Object::new(
            "io.k8s.api.core.v1.EnvVar",
            vec![field("name", Type::String, None, false), field("value", Type::String, None, false)],
        ),
    ];
    Schema { table: Arc::new(Table { objects: objects.into() }), root: 0 }
}

fn live() -> Value {
    json!({
        "containers": [
            {"name": "a", "image": "a:1", "args": ["p", "q"], "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "b:1"},
        ],
        "finalizers": ["a.b/c", "d.e/f"],
        "nodeSelector": {"n": "1"},
        "strategy": {"name": "r", "value": "v"},
        "tolerations": [{"name": "t"}],
    })
}

fn run(patch: Value) -> Result<Value, PatchError> {
    apply_strategic(&live(), &patch, &schema())
}

#[test]
fn merges() {
    let a = || live()["containers"][0].clone();
    let b = || live()["containers"][1].clone();
    for (patch, pointer, want) in [
        (
            json!({"containers": [{"name": "z", "image": "z:1"}]}),
            "/containers",
            json!([{"name": "z", "image": "z:1"}, a(), b()]),
        ),
        (json!({"containers": [{"name": "a", "$patch": "delete"}]}), "/containers", json!([b()])),
        (json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}), "/containers", json!([{"name": "z"}])),
        (
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "9"}, {"name": "Z", "value": "3"}]}]}),
            "/containers/0/env",
            json!([{"name": "X", "value": "9"}, {"name": "Z", "value": "3"}, {"name": "Y", "value": "2"}]),
        ),
        (json!({"containers": [{"name": "a", "args": ["z"]}]}), "/containers/0/args", json!(["z"])),
        (
            json!({"$setElementOrder/containers": [{"name": "n"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "n"}]}),
            "/containers",
            json!([{"name": "n"}, b(), a()]),
        ),
        (json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}), "/containers", json!([b(), a()])),
        (json!({"finalizers": ["x"]}), "/finalizers", json!(["x", "a.b/c", "d.e/f"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["a.b/c"]}), "/finalizers", json!(["d.e/f"])),
        (json!({"nodeSelector": {"m": "2", "n": null}}), "/nodeSelector", json!({"m": "2"})),
        (json!({"nodeSelector": {"m": "2", "$patch": "replace"}}), "/nodeSelector", json!({"m": "2"})),
        (json!({"nodeSelector": {"$patch": "delete"}}), "/nodeSelector", json!({})),
        (json!({"strategy": {"$retainKeys": ["name"], "name": "s"}}), "/strategy", json!({"name": "s"})),
        (json!({"tolerations": [{"name": "new"}]}), "/tolerations", json!([{"name": "new"}])),
        (json!({"unknown": {"a": null, "b": 1}}), "/unknown", json!({"b": 1})),
        (json!({"strategy": "x"}), "/strategy", json!("x")),
    ] {
        assert_eq!(run(patch.clone()).unwrap().pointer(pointer), Some(&want), "{patch}");
    }
}

#[test]
fn refuses() {
    let internal = |text: &str| PatchError::Internal(text.into());
    for (patch, want) in [
        (
            json!({"containers": [{"name": "a", "$patch": "explode"}]}),
            internal("unknown patch type: explode in map: map[$patch:explode name:a]"),
        ),
        (
            json!({"containers": [{"image": "q:1"}]}),
            internal("map: map[image:q:1] does not contain declared merge key: name"),
        ),
        (
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"image": "n:1", "name": "zzz"}]}),
            internal(
                "The order in patch list:\n[map[image:n:1 name:zzz]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
            ),
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            internal("merging lists cannot yet be specified in the patch"),
        ),
        (json!({"strategy": {"$patch": "merge"}}), internal("unknown patch type: merge in map: map[$patch:merge]")),
        (
            json!({"$setElementOrder/nope": []}),
            internal("unable to find api field in struct PodSpec for the json field \"nope\""),
        ),
        (
            json!({"strategy": {"$retainKeys": ["name"], "value": "s"}}),
            PatchError::BadRequest("invalid patch format of retainKeys".into()),
        ),
        (
            json!({"strategy": {"$retainKeys": "name"}}),
            PatchError::BadRequest("invalid patch format of retainKeys".into()),
        ),
        (
            json!({"$deleteFromPrimitiveList": ["x"]}),
            PatchError::BadRequest("invalid patch format of primitive list".into()),
        ),
        (json!({"finalizers": [["x"]]}), internal("list element types are not identical: [[a.b/c d.e/f] [[x]]]")),
    ] {
        assert_eq!(run(patch.clone()), Err(want), "{patch}");
    }
}

#[test]
fn parses() {
    let bad = |text: &str| StrategicPatch::parse(text.as_bytes(), Validation::Checked).unwrap_err();
    assert_eq!(bad("{"), PatchError::BadRequest("unexpected end of JSON input".into()));
    let message = "json: cannot unmarshal array into Go value of type map[string]interface {}";
    assert_eq!(bad("[]"), PatchError::BadRequest(message.into()));
    let patch = StrategicPatch::parse(br#"{"spec":{"a":1,"a":2}}"#, Validation::Checked).unwrap();
    assert_eq!(patch.strict_errors, ["duplicate field \"spec.a\""]);
    assert_eq!(patch.describe(), "map[spec:map[a:2]]");
}

fn any_object() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[a-c]", "[x-z]", 0..3)
        .prop_map(|map| Value::from_iter(map.into_iter().map(|(name, value)| json!({"name": name, "value": value}))));
    let container = ("[a-d]", "[x-z]", env);
    (
        prop::collection::btree_map("[a-d]", container, 0..4),
        prop::collection::btree_set("[a-e]", 0..4),
        prop::collection::btree_map("[a-c]", "[x-z]", 0..3),
    )
        .prop_map(|(containers, finalizers, selector)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (_, image, env))| json!({"name": name, "image": image, "env": env}))
                .collect();
            json!({"containers": containers, "finalizers": finalizers, "nodeSelector": selector})
        })
}

/// The patch that makes `b` of `a`.
fn diff(a: &Value, b: &Value) -> Value {
    let mut patch = Map::new();
    let named = |list: &Value, key: &Value| list.as_array().unwrap().iter().find(|item| item["name"] == *key).cloned();
    let by_name = |a: &Value, b: &Value, changed: &dyn Fn(&Value, &Value) -> Value| -> Vec<Value> {
        let mut items = Vec::new();
        for new in b.as_array().unwrap() {
            match named(a, &new["name"]) {
                Some(old) if old == *new => {}
                Some(old) => items.push(changed(&old, new)),
                None => items.push(new.clone()),
            }
        }
        let gone = a.as_array().unwrap().iter().filter(|old| named(b, &old["name"]).is_none());
        items.extend(gone.map(|old| json!({"name": old["name"], "$patch": "delete"})));
        items
    };
    let order =
        |list: &Value| -> Value { list.as_array().unwrap().iter().map(|item| json!({"name": item["name"]})).collect() };
    let env = |a: &Value, b: &Value| by_name(a, b, &|_, new| new.clone());
    let both_empty = |a: &Value, b: &Value| a.as_array().unwrap().is_empty() && b.as_array().unwrap().is_empty();
    let container = |old: &Value, new: &Value| {
        let mut item = json!({"name": new["name"], "image": new["image"]});
        if !both_empty(&old["env"], &new["env"]) {
            item["$setElementOrder/env"] = order(&new["env"]);
            item["env"] = env(&old["env"], &new["env"]).into();
        }
        item
    };
    if !both_empty(&a["containers"], &b["containers"]) {
        patch.insert("containers".into(), by_name(&a["containers"], &b["containers"], &container).into());
        patch.insert("$setElementOrder/containers".into(), order(&b["containers"]));
    }
    let strings = |v: &Value| v.as_array().unwrap().clone();
    let (old, new) = (strings(&a["finalizers"]), strings(&b["finalizers"]));
    let gone: Vec<Value> = old.iter().filter(|item| !new.contains(item)).cloned().collect();
    patch.insert("$deleteFromPrimitiveList/finalizers".into(), gone.into());
    let added: Vec<Value> = new.iter().filter(|item| !old.contains(item)).cloned().collect();
    patch.insert("finalizers".into(), added.into());
    let mut selector = b["nodeSelector"].as_object().unwrap().clone();
    for key in a["nodeSelector"].as_object().unwrap().keys() {
        selector.entry(key.clone()).or_insert(Value::Null);
    }
    patch.insert("nodeSelector".into(), selector.into());
    Value::Object(patch)
}

proptest! {
    #[test]
    fn merging_a_diff_gives_the_new_object(a in any_object(), b in any_object()) {
        let patch = diff(&a, &b);
        let mut got = apply_strategic(&a, &patch, &schema()).map_err(|e| TestCaseError::fail(format!("{e} {patch}")))?;
        let sort = |v: &mut Value| v["finalizers"].as_array_mut().unwrap().sort_by_key(|s| s.as_str().map(str::to_owned));
        sort(&mut got);
        prop_assert_eq!(got, b);
    }

    #[test]
    fn an_object_is_its_own_patch(a in any_object()) {
        prop_assert_eq!(apply_strategic(&a, &a, &schema()).unwrap(), a);
    }
}
