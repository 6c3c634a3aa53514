//! JSON patches, merge patches, strategic merge patches.

use crate::support::{bounded, damaged, json, map, objects, schema_of, word};
use apimachinery::patch::{self, JsonPatch, MergePatch, PatchError, StrategicPatch, Validation};
use proptest::prelude::*;
use serde_json::Value;

fn check<T>(result: Result<T, PatchError>, size: usize) -> Option<T> {
    result
        .map_err(|error| assert!(bounded(&error.to_string(), size), "{} bytes of error", error.to_string().len()))
        .ok()
}

fn pointer() -> impl Strategy<Value = Value> {
    prop_oneof![
        5 => prop::collection::vec(word(), 0..5).prop_map(|parts| format!("/{}", parts.join("/")).into()),
        1 => any::<String>().prop_map(Value::from),
        1 => json(),
    ]
}

fn operation() -> impl Strategy<Value = Value> {
    let op = prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test", "", "Add"]);
    (op, pointer(), prop::option::of(pointer()), prop::option::of(json())).prop_map(|(op, path, from, value)| {
        let mut operation = map(&[("op", op.into()), ("path", path)]);
        if let Some(from) = from {
            operation["from"] = from;
        }
        if let Some(value) = value {
            operation["value"] = value;
        }
        operation
    })
}

proptest! {
    #[test]
    fn any_document(text in "\\PC{0,200}", value in json()) {
        for text in [text, value.to_string()] {
            for validation in [Validation::Ignore, Validation::Checked] {
                check(JsonPatch::parse(text.as_bytes(), validation), text.len());
                check(MergePatch::parse(text.as_bytes(), validation), text.len());
                check(StrategicPatch::parse(text.as_bytes(), validation), text.len());
            }
        }
    }

    #[test]
    fn operations(object in damaged(), operations in prop::collection::vec(operation(), 0..8)) {
        let text = Value::from(operations).to_string();
        let size = text.len() + object.to_string().len();
        if let Some(patch) = check(JsonPatch::parse(text.as_bytes(), Validation::Checked), size) {
            let _ = patch.opened();
            let mut patched = object;
            check(patch.apply(&mut patched), size);
        }
    }

    /// RFC 7386: applying a merge patch again changes nothing.
    #[test]
    fn merging(object in json(), patch in json()) {
        let text = patch.to_string();
        let Ok(once) = patch::apply_merge(&object, text.as_bytes()) else { return Ok(()) };
        prop_assert_eq!(patch::apply_merge(&once, text.as_bytes()), Ok(once));
    }

    #[test]
    fn strategic_patches(line in any::<prop::sample::Index>(), patch in damaged(), small in json()) {
        let all = objects();
        let object: Value = serde_json::from_str(all[line.index(all.len())]).expect("JSON");
        let Some(schema) = schema_of(&object) else { return Ok(()) };
        for patch in [patch, map(&[("spec", small.clone())]), map(&[("metadata", small)])] {
            let size = patch.to_string().len() + object.to_string().len();
            if let Some(patched) = check(patch::apply_strategic(&object, &patch, &schema), size) {
                prop_assert!(patched.to_string().len() <= 4 * size + 4096);
            }
        }
    }

    /// A part of an object is no change to it.
    #[test]
    fn an_object_patches_itself(line in any::<prop::sample::Index>()) {
        let all = objects();
        let object: Value = serde_json::from_str(all[line.index(all.len())]).expect("JSON");
        let Some(schema) = schema_of(&object) else { return Ok(()) };
        // What is null goes. Items whose keys are not unique (a port for UDP and for TCP) become one; then nothing changes any more.
        let Ok(once) = patch::apply_strategic(&object, &object, &schema) else { return Ok(()) };
        let twice = patch::apply_strategic(&once, &object, &schema);
        prop_assert_eq!(twice.as_ref(), Ok(&once));
        prop_assert_eq!(patch::apply_merge(&once, once.to_string().as_bytes()), Ok(once));
    }
}
