//! Event (core/v1): something that happened to an object. Stored in this form, also when written as `events.k8s.io`.
//!
//! Invariants:
//! - EV-1: an event lives in the namespace of the object it is about.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{has, int, obj, text};
use crate::checks::{namespace, qualified_name};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{columns_of, name_of, since};

pub struct Event;

pub fn kind() -> Kind {
    Kind::builtin("v1", "Event", "events", Scope::Namespaced, "io.k8s.api.core.v1.Event", Event)
        .with_short_names(&["ev"])
}

impl Strategy for Event {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        validate_common(object, "reportingComponent")
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let about = obj(object, "involvedObject");
        let source = match text(obj(object, "source"), "component") {
            "" => text(object, "reportingComponent"),
            component => component,
        };
        let named = |key: &str| text(about, key).to_owned();
        vec![
            ("involvedObject.kind", named("kind")),
            ("involvedObject.namespace", named("namespace")),
            ("involvedObject.name", named("name")),
            ("involvedObject.uid", named("uid")),
            ("involvedObject.apiVersion", named("apiVersion")),
            ("involvedObject.resourceVersion", named("resourceVersion")),
            ("involvedObject.fieldPath", named("fieldPath")),
            ("reason", text(object, "reason").to_owned()),
            ("reportingComponent", text(object, "reportingComponent").to_owned()),
            ("source", source.to_owned()),
            ("type", text(object, "type").to_owned()),
        ]
    }

    /// Old clients name events freely.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/events")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ago = |value: &str| since(value, now);
        let first = match text(object, "firstTimestamp") {
            "" => ago(text(object, "eventTime")),
            time => ago(time),
        };
        let mut last = match text(object, "lastTimestamp") {
            "" => first.clone(),
            time => ago(time),
        };
        let mut count = int(object, "count");
        if has(object, "series") {
            last = ago(text(obj(object, "series"), "lastObservedTime"));
            count = int(obj(object, "series"), "count");
        } else if count == 0 {
            count = 1;
        }
        let about = obj(object, "involvedObject");
        let kind = text(about, "kind").to_lowercase();
        let target = match text(about, "name") {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        vec![
            json!(last),
            json!(text(object, "type")),
            json!(text(object, "reason")),
            json!(target),
            json!(text(about, "fieldPath")),
            json!(source(object)),
            json!(text(object, "message").trim()),
            json!(first),
            json!(count),
            name_of(object),
        ]
    }
}

/// What both versions check, on the stored form. `reporter` is the version's name for `reportingComponent`.
pub(crate) fn validate_common(object: &Value, reporter: &str) -> ErrorList {
    const LIMIT: usize = 128;
    const NOTE_LIMIT: usize = 1024;
    let mut errors = ErrorList::new();
    let about = text(obj(object, "involvedObject"), "namespace");
    let own = namespace(object);
    let new_style = has(object, "eventTime");
    let fits = match (about.is_empty(), new_style) {
        (true, false) => own.is_empty() || own == "default",
        (true, true) => own == "default" || own == "kube-system",
        (false, false) => own == about,
        (false, true) => true,
    };
    if !fits {
        let path = Path::new("involvedObject").child("namespace");
        errors.invalid(path, about, "does not match event.namespace");
    }
    if new_style {
        let too_long = |errors: &mut ErrorList, field: &str, value: &str, limit: usize| {
            if value.len() > limit {
                errors.invalid(Path::new(field), "", &format!("can have at most {limit} characters"));
            }
        };
        let controller = text(object, "reportingComponent");
        if controller.is_empty() {
            errors.required(Path::new(reporter), "");
        }
        qualified_name(&mut errors, Path::new(reporter), controller);
        for field in ["reportingInstance", "action", "reason"] {
            let value = text(object, field);
            if value.is_empty() {
                errors.required(Path::new(field), "");
            }
            too_long(&mut errors, field, value, LIMIT);
        }
        too_long(&mut errors, "message", text(object, "message"), NOTE_LIMIT);
    }
    errors.invalid_all(&Path::new("namespace"), own, names::is_dns1123_subdomain(own));
    errors
}

fn source(object: &Value) -> String {
    let source = obj(object, "source");
    let or = |value: &str, other: &str| if value.is_empty() { other.to_owned() } else { value.to_owned() };
    let component = or(text(source, "component"), text(object, "reportingComponent"));
    let instance = or(text(source, "host"), text(object, "reportingInstance"));
    if instance.is_empty() { component } else { format!("{component}, {instance}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, cx};

    #[test]
    fn belongs_to_the_namespace_of_its_object() {
        for (own, about, time, ok) in [
            ("a", "a", false, true),
            ("a", "b", false, false),
            ("a", "", false, false),
            ("default", "", false, true),
            ("kube-system", "", true, true),
            ("a", "", true, false),
        ] {
            let mut event = json!({
                "metadata": {"namespace": own}, "involvedObject": {"namespace": about},
                "reportingComponent": "c", "reportingInstance": "i", "action": "a", "reason": "r",
            });
            if time {
                event["eventTime"] = json!("2026-01-01T00:00:00.000000Z");
            }
            assert_eq!(create_errors(&Event, event).is_empty(), ok, "{own} {about} {time}");
        }
    }

    #[test]
    fn new_events_need_a_reporter() {
        let got = create_errors(
            &Event,
            json!({"metadata": {"namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z",
                   "reason": "r".repeat(129), "message": "m".repeat(1025), "reportingInstance": "i"}),
        );
        assert_eq!(got[0], "reportingComponent: Required value");
        assert_eq!(
            got[got.len() - 3..],
            [
                "action: Required value",
                "reason: Invalid value: \"\": can have at most 128 characters",
                "message: Invalid value: \"\": can have at most 1024 characters",
            ]
        );
    }

    #[test]
    fn prints_series_and_source() {
        let now = cx("").now;
        let row = Event.row(
            &json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "message": " m\n",
                    "firstTimestamp": "2026-01-02T03:03:05Z", "reportingComponent": "c", "reportingInstance": "i",
                    "series": {"count": 4, "lastObservedTime": "2026-01-02T03:04:00.000000Z"}}),
            now,
        );
        assert_eq!(
            row,
            [
                json!("5s"),
                json!(""),
                json!(""),
                json!("pod/p"),
                json!(""),
                json!("c, i"),
                json!("m"),
                json!("60s"),
                json!(4),
                json!("e")
            ]
        );
    }
}
