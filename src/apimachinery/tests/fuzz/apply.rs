//! Server-side apply, and the managed fields that clients send.

use crate::support::{bounded, damaged, json, map, objects, schema_of, word};
use apimachinery::managedfields::{self, Request, ResetFields, SingleVersion};
use apimachinery::schema::Schema;
use proptest::prelude::*;
use serde_json::Value;

fn request<'a>(schema: &'a Schema, object: &'a Value, manager: &'a str) -> Request<'a> {
    Request {
        schema,
        api_version: object["apiVersion"].as_str().unwrap_or("v1"),
        kind: object["kind"].as_str().unwrap_or_default(),
        subresource: "",
        manager,
        reset: ResetFields::None,
        versions: &SingleVersion,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn entry() -> impl Strategy<Value = Value> {
    let operation = prop::sample::select(vec!["Apply", "Update", "", "x"]);
    let fields = prop_oneof![json(), (word(), json()).prop_map(|(key, value)| map(&[(&format!("f:{key}"), value)]))];
    (word(), operation, fields, prop::option::of(json())).prop_map(|(manager, operation, fields, time)| {
        map(&[
            ("manager", manager.into()),
            ("operation", operation.into()),
            ("apiVersion", "v1".into()),
            ("fieldsType", "FieldsV1".into()),
            ("fieldsV1", fields),
            ("time", time.unwrap_or_default()),
        ])
    })
}

proptest! {
    #[test]
    fn applying_anything(line in any::<prop::sample::Index>(), applied in damaged(), small in json(), force in any::<bool>()) {
        let all = objects();
        let live: Value = serde_json::from_str(all[line.index(all.len())]).expect("JSON");
        let Some(schema) = schema_of(&live) else { return Ok(()) };
        let of_kind = |spec: Value| map(&[("apiVersion", live["apiVersion"].clone()), ("kind", live["kind"].clone()), ("spec", spec)]);
        for config in [applied, of_kind(small)] {
            let size = config.to_string().len() + live.to_string().len();
            for live in [Some(&live), None] {
                if let Err(error) = managedfields::apply(&request(&schema, &config, "m"), live, &config, force) {
                    prop_assert!(bounded(&error.to_string(), size), "{} bytes", error.to_string().len());
                }
            }
        }
    }

    /// What a client claims about who owns what is never a reason to fall over.
    #[test]
    fn managed_fields_of_clients(line in any::<prop::sample::Index>(), sent in prop::collection::vec(entry(), 0..5)) {
        let all = objects();
        let live: Value = serde_json::from_str(all[line.index(all.len())]).expect("JSON");
        let Some(schema) = schema_of(&live) else { return Ok(()) };
        let mut new = live.clone();
        if !new["metadata"].is_object() {
            return Ok(());
        }
        new["metadata"]["managedFields"] = sent.into();
        let mut config = new.clone();
        config["metadata"]["labels"] = map(&[("fuzz", "x".into())]);
        managedfields::update(&request(&schema, &live, "u"), Some(&live), &mut new);
        let _ = managedfields::apply(&request(&schema, &live, "m"), Some(&config), &live, true);
        let mut created = config;
        managedfields::update(&request(&schema, &live, "u"), None, &mut created);
    }

    /// Who applies a real object owns it; doing it again changes nothing.
    #[test]
    fn applying_twice(line in any::<prop::sample::Index>()) {
        let all = objects();
        let mut config: Value = serde_json::from_str(all[line.index(all.len())]).expect("JSON");
        let Some(schema) = schema_of(&config) else { return Ok(()) };
        if let Some(metadata) = config["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let of = request(&schema, &config, "m");
        let Ok(once) = managedfields::apply(&of, None, &config, false) else { return Ok(()) };
        prop_assert_eq!(managedfields::apply(&of, Some(&once), &config, false), Ok(once));
    }
}
