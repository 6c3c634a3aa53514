//! Event (events.k8s.io/v1): the same objects as core/v1 events under other field names.
//!
//! Invariants:
//! - EE-1: [`convert`] there and back is the identity on what both forms can say.
//! - EE-2: errors name the stored form's fields, as upstream's do.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::access::{has, int, obj, same, text};
use crate::checks::immutable;
use crate::core::event::{Event as CoreEvent, validate_common};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::columns_of;

pub struct Event;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.events.v1.Event";
    Kind::builtin("events.k8s.io/v1", "Event", "events", Scope::Namespaced, DEFINITION, Event).with_short_names(&["ev"])
}

/// The name of a field in core/v1 and in events.k8s.io/v1.
const RENAMED: &[(&str, &str)] = &[
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

const CORE: &str = "v1";
const EVENTS: &str = "events.k8s.io/v1";

/// An event of one version as the other; unchanged when the versions are the same or unknown.
pub fn convert(object: &Value, from: &str, to: &str) -> Value {
    match (from, to) {
        (CORE, EVENTS) => {
            let mut out = renamed(object, |(core, events)| (core, events));
            for reporter in ["reportingController", "reportingInstance"] {
                if out.get(reporter).is_some_and(|v| v == "") {
                    out.remove(reporter);
                }
            }
            finish(
                out,
                EVENTS,
                "regarding",
                &["deprecatedFirstTimestamp", "deprecatedLastTimestamp"],
                "deprecatedSource",
            )
        }
        (EVENTS, CORE) => {
            let mut out = renamed(object, |(core, events)| (events, core));
            for reporter in ["reportingComponent", "reportingInstance"] {
                out.entry(reporter).or_insert_with(|| json!(""));
            }
            finish(out, CORE, "involvedObject", &["firstTimestamp", "lastTimestamp"], "source")
        }
        _ => object.clone(),
    }
}

fn renamed(
    object: &Value,
    pair: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
) -> Map<String, Value> {
    let new_name =
        |key: &str| RENAMED.iter().map(&pair).find(|(from, _)| *from == key).map_or(key, |(_, to)| to).to_owned();
    object.as_object().into_iter().flatten().map(|(key, value)| (new_name(key), value.clone())).collect()
}

/// Adds what Go's encoder always writes.
fn finish(mut out: Map<String, Value>, version: &str, about: &str, times: &[&str], source: &str) -> Value {
    out.insert("apiVersion".to_owned(), json!(version));
    for field in [about, source] {
        out.entry(field).or_insert_with(|| json!({}));
    }
    for field in times.iter().chain(&["eventTime"]) {
        out.entry(*field).or_insert(Value::Null);
    }
    Value::Object(out)
}

fn stored(object: &Value) -> Value {
    convert(object, EVENTS, CORE)
}

impl Strategy for Event {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let event = stored(object);
        let mut errors = validate_common(&event, "reportingController");
        check_series(&mut errors, &event);
        if !has(&event, "eventTime") {
            errors.required(Path::new("eventTime"), "");
        }
        check_type(&mut errors, &event);
        let mut unset = |field: &str, is_set: bool| {
            if is_set {
                errors.invalid(Path::new(field), "", "needs to be unset");
            }
        };
        unset("firstTimestamp", has(&event, "firstTimestamp"));
        unset("lastTimestamp", has(&event, "lastTimestamp"));
        unset("count", int(&event, "count") != 0);
        let source = obj(&event, "source");
        unset("source", !text(source, "component").is_empty() || !text(source, "host").is_empty());
        errors
    }

    fn validate_update(&self, _cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let (event, old) = (stored(object), stored(old));
        let mut errors = validate_common(&event, "reportingController");
        if !same(obj(&event, "series"), obj(&old, "series")) {
            check_series(&mut errors, &event);
        }
        for field in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
        ] {
            let shown = if field == "reportingComponent" { "reportingController" } else { field };
            immutable(&mut errors, Path::new(shown), obj(&event, field), obj(&old, field));
        }
        errors
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let about = obj(object, "regarding");
        let named = |key: &str| text(about, key).to_owned();
        vec![
            ("regarding.kind", named("kind")),
            ("regarding.namespace", named("namespace")),
            ("regarding.name", named("name")),
            ("regarding.uid", named("uid")),
            ("regarding.apiVersion", named("apiVersion")),
            ("regarding.resourceVersion", named("resourceVersion")),
            ("regarding.fieldPath", named("fieldPath")),
            ("reason", text(object, "reason").to_owned()),
            ("reportingController", text(object, "reportingController").to_owned()),
            ("type", text(object, "type").to_owned()),
        ]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn internal_group(&self) -> Option<&'static str> {
        Some("")
    }

    fn to_storage(&self, object: &mut Value) {
        *object = convert(object, EVENTS, CORE);
    }

    fn from_storage(&self, object: &mut Value) {
        *object = convert(object, CORE, EVENTS);
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("events.k8s.io/v1/events")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        CoreEvent.row(&stored(object), now)
    }
}

fn check_series(errors: &mut ErrorList, event: &Value) {
    let series = obj(event, "series");
    if series.is_null() {
        return;
    }
    if int(series, "count") < 2 {
        errors.invalid(Path::new("series.count"), "", "should be at least 2");
    }
    if !has(series, "lastObservedTime") {
        errors.required(Path::new("series.lastObservedTime"), "");
    }
}

fn check_type(errors: &mut ErrorList, event: &Value) {
    let ty = text(event, "type");
    if ty != "Normal" && ty != "Warning" {
        errors.invalid(Path::new("type"), "", &format!("has invalid value: {ty}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    fn full() -> Value {
        json!({
            "apiVersion": EVENTS, "kind": "Event", "metadata": {"name": "x", "namespace": "n"},
            "eventTime": "2020-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i",
            "action": "a", "reason": "R", "type": "Normal", "note": "m", "regarding": {"kind": "Pod", "namespace": "n"},
            "deprecatedSource": {}, "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null,
        })
    }

    #[test]
    fn converts_both_ways() {
        let core = convert(&full(), EVENTS, CORE);
        assert_eq!(
            core,
            json!({
                "apiVersion": "v1", "kind": "Event", "metadata": {"name": "x", "namespace": "n"},
                "eventTime": "2020-01-01T00:00:00.000000Z", "reportingComponent": "example.com/c", "reportingInstance": "i",
                "action": "a", "reason": "R", "type": "Normal", "message": "m", "involvedObject": {"kind": "Pod", "namespace": "n"},
                "source": {}, "firstTimestamp": null, "lastTimestamp": null,
            })
        );
        assert_eq!(convert(&core, CORE, EVENTS), full());
        let bare = json!({"apiVersion": "v1", "reportingComponent": "", "reportingInstance": ""});
        assert_eq!(
            convert(&bare, CORE, EVENTS),
            json!({"apiVersion": EVENTS, "eventTime": null, "regarding": {}, "deprecatedSource": {},
                   "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null})
        );
    }

    #[test]
    fn is_strict_where_core_is_not() {
        assert!(create_errors(&Event, full()).is_empty());
        let mut bad = full();
        for (key, value) in [
            ("series", json!({"count": 1})),
            ("type", json!("Odd")),
            ("deprecatedCount", json!(3)),
            ("deprecatedSource", json!({"host": "h"})),
            ("deprecatedFirstTimestamp", json!("2020-01-01T00:00:00Z")),
        ] {
            bad[key] = value;
        }
        assert_eq!(
            create_errors(&Event, bad),
            [
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "firstTimestamp: Invalid value: \"\": needs to be unset",
                "count: Invalid value: \"\": needs to be unset",
                "source: Invalid value: \"\": needs to be unset",
            ]
        );
        let mut changed = full();
        changed["note"] = json!("other");
        assert_eq!(update_errors(&Event, full(), changed), ["message: Invalid value: \"other\": field is immutable"]);
    }
}
