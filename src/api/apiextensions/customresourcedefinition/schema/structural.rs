//! Structural schemas: every field is described once, outside of value validation; conditions (`anyOf` and its like) only
//! restrict what is described.
//!
//! Invariants:
//! - ST-1: the errors of one schema are sorted by their text, as upstream sorts them.

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use crate::access::{entries, field, flag, has, items, map, obj, opt_flag, text};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// The schema is structural.
pub(super) fn holds(schema: &Value) -> bool {
    convertible(schema).is_ok() && violations(schema, &Path::nil()).is_empty()
}

/// The schema can be looked at as a structural one at all. Err: upstream's text.
pub(crate) fn convertible(schema: &Value) -> Result<(), String> {
    if !schema.is_object() {
        return Ok(());
    }
    let blank = |key: &str| match schema.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Object(map)) => map.is_empty() && key != "additionalItems",
        Some(_) => false,
    };
    for (key, shown) in [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "$ref"),
        ("patternProperties", "patternProperties"),
        ("dependencies", "dependencies"),
        ("additionalItems", "additionalItems"),
        ("definitions", "definitions"),
    ] {
        if !blank(key) {
            return Err(format!("OpenAPIV3Schema '{shown}' is not supported"));
        }
    }
    convertible(obj(schema, "not"))?;
    for key in ["allOf", "anyOf", "oneOf"] {
        items(schema, key).iter().try_for_each(convertible)?;
    }
    convertible(obj(schema, "additionalProperties"))?;
    if opt_flag(schema, PRESERVE) == Some(false) {
        return Err("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".to_owned());
    }
    if !items(schema, "items").is_empty() {
        return Err("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    convertible(obj(schema, "items"))?;
    entries(schema, "properties").into_iter().try_for_each(|(_, part)| convertible(part))
}

/// What keeps a schema from being structural.
pub(crate) fn violations(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(&mut errors, schema, Level::Root, path);
    completeness(&mut errors, schema, schema, path, path);
    if errors.len() > 1 {
        errors.0.sort_by_cached_key(ToString::to_string);
    }
    errors
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

fn invariants(errors: &mut ErrorList, schema: &Value, level: Level, path: &Path) {
    let ty = text(schema, "type");
    let item = field(schema, "items").filter(|item| item.is_object());
    if ty == "array" && item.is_none() {
        errors.required(path.child("items"), "must be specified");
    }
    if let Some(item) = item {
        invariants(errors, item, Level::Item, &path.child("items"));
    }
    for (name, part) in entries(schema, "properties") {
        invariants(errors, part, Level::Field, &path.child("properties").key(name));
    }
    let additional = field(schema, "additionalProperties");
    if let Some(additional) = additional {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.forbidden(at.clone(), "must not be used at the root");
        }
        if additional.is_object() {
            invariants(errors, additional, Level::Field, &at);
        }
    }
    let (embedded, preserve) = (flag(schema, EMBEDDED), flag(schema, PRESERVE));
    let int_or_string = flag(schema, INT_OR_STRING);
    if int_or_string && preserve {
        errors.invalid(path.child(PRESERVE), true, "must be false if x-kubernetes-int-or-string is true");
    }
    if int_or_string && embedded {
        errors.invalid(path.child(EMBEDDED), true, "must be false if x-kubernetes-int-or-string is true");
    }
    let any_of = is_int_or_string(schema);
    let all_of = items(schema, "allOf").first().is_some_and(is_int_or_string);
    conditions(errors, schema, any_of, all_of, path);
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        match ty {
            "" => errors.required(path.child("type"), detail),
            _ => errors.invalid(path.child("type"), ty, detail),
        }
    } else if ty.is_empty() && !int_or_string && !preserve {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(path.child("type"), detail);
    }
    if embedded && additional.is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.invalid(path.child("type"), ty, "must be object at the root");
    }
    metadata(errors, schema, level, path);
    let named = map(schema, "properties").is_some_and(|properties| !properties.is_empty());
    if embedded && !preserve && !named {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(path.child("properties"), detail);
    }
}

/// Type and metadata of an object are the server's: a schema may restrict the name alone.
fn metadata(errors: &mut ErrorList, schema: &Value, level: Level, path: &Path) {
    let checked = level == Level::Root || flag(schema, EMBEDDED);
    let part = |name: &str| map(schema, "properties").and_then(|properties| properties.get(name));
    let at = |name: &str| path.child("properties").key(name);
    for name in ["kind", "apiVersion"] {
        if let Some(ty) = part(name).filter(|_| checked).map(|part| text(part, "type")).filter(|ty| *ty != "string") {
            errors.invalid(at(name).child("type"), ty, "must be string");
        }
    }
    let Some(own) = part("metadata") else { return };
    let ty = text(own, "type");
    if checked && ty != "object" {
        errors.invalid(at("metadata").child("type"), ty, "must be object");
    }
    if level == Level::Root && says_more_than_names(own) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(at("metadata"), detail);
    }
}

/// A schema of metadata with anything but `type`, `default`, and `name` and `generateName` below.
fn says_more_than_names(schema: &Value) -> bool {
    // what a structural schema does not keep does not count, nor do zero values
    const IGNORED: &[&str] = &["type", "default", "example", "$schema", "id"];
    schema.as_object().into_iter().flatten().any(|(key, value)| match value {
        _ if IGNORED.contains(&key.as_str()) => false,
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) if key == "properties" => map.keys().any(|name| name != "name" && name != "generateName"),
        _ => true,
    })
}

/// `anyOf: [{type: integer}, {type: string}]` and nothing more in the two.
fn is_int_or_string(schema: &Value) -> bool {
    let any_of = items(schema, "anyOf");
    let only = |schema: &Value, ty: &str| {
        text(schema, "type") == ty && super::dump::fields_set(schema).iter().all(|name| *name == "Type")
    };
    any_of.len() == 2 && only(&any_of[0], "integer") && only(&any_of[1], "string")
}

/// The value validation of a schema: the schemas in its conditions, and its pattern.
fn conditions(errors: &mut ErrorList, schema: &Value, skip_any_of: bool, skip_first_all_of: bool, path: &Path) {
    if !skip_any_of {
        for (i, part) in items(schema, "anyOf").iter().enumerate() {
            nested(errors, part, false, &path.child("anyOf").index(i));
        }
    }
    for (i, part) in items(schema, "allOf").iter().enumerate() {
        nested(errors, part, skip_first_all_of && i == 0, &path.child("allOf").index(i));
    }
    for (i, part) in items(schema, "oneOf").iter().enumerate() {
        nested(errors, part, false, &path.child("oneOf").index(i));
    }
    if let Some(not) = field(schema, "not") {
        nested(errors, not, false, &path.child("not"));
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty() {
        if let Err(error) = crate::goregex::check(pattern) {
            let detail = format!("must be a valid regular expression, but isn't: {error}");
            errors.invalid(path.child("pattern"), pattern, &detail);
        }
    }
}

/// A schema in a condition: it describes nothing.
fn nested(errors: &mut ErrorList, schema: &Value, skip_any_of: bool, path: &Path) {
    conditions(errors, schema, skip_any_of, false, path);
    if let Some(item) = field(schema, "items").filter(|item| item.is_object()) {
        nested(errors, item, false, &path.child("items"));
    }
    for (name, part) in entries(schema, "properties") {
        nested(errors, part, false, &path.child("properties").key(name));
    }
    const UNDEFINED: &str = "must be undefined to be structural";
    const EMPTY: &str = "must be empty to be structural";
    const FALSE: &str = "must be false to be structural";
    let mut forbid = |key: &str, set: bool, detail: &str| {
        if set {
            errors.forbidden(path.child(key), detail);
        }
    };
    let written = |key: &str| !text(schema, key).is_empty();
    forbid("type", written("type"), EMPTY);
    forbid("additionalProperties", has(schema, "additionalProperties"), UNDEFINED);
    forbid("default", has(schema, "default"), UNDEFINED);
    forbid("title", written("title"), EMPTY);
    forbid("description", written("description"), EMPTY);
    forbid("nullable", flag(schema, "nullable"), FALSE);
    forbid("externalDocs", has(schema, "externalDocs"), UNDEFINED);
    for key in [PRESERVE, EMBEDDED, INT_OR_STRING] {
        forbid(key, flag(schema, key), FALSE);
    }
    forbid("x-kubernetes-list-map-keys", !items(schema, "x-kubernetes-list-map-keys").is_empty(), EMPTY);
    for key in ["x-kubernetes-list-type", "x-kubernetes-map-type"] {
        forbid(key, has(schema, key), UNDEFINED);
    }
    forbid("x-kubernetes-validations", !items(schema, "x-kubernetes-validations").is_empty(), EMPTY);
    if map(schema, "properties").is_some_and(|properties| properties.contains_key("metadata")) {
        let at = path.child("properties").key("metadata");
        errors.forbidden(at, "must not be specified in a nested context");
    }
}

/// What the conditions of `value` name must be described in `schema`.
fn completeness(errors: &mut ErrorList, value: &Value, schema: &Value, at: &Path, value_at: &Path) {
    if let Some(not) = field(value, "not") {
        nested_completeness(errors, not, schema, at, &value_at.child("not"));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, part) in items(value, key).iter().enumerate() {
            nested_completeness(errors, part, schema, at, &value_at.child(key).index(i));
        }
    }
}

fn nested_completeness(errors: &mut ErrorList, value: &Value, schema: &Value, at: &Path, value_at: &Path) {
    completeness(errors, value, schema, at, value_at);
    let because = |value_at: &Path| format!("because it is defined in {value_at}");
    if let Some(item) = field(value, "items").filter(|item| item.is_object()) {
        let (at, value_at) = (at.child("items"), value_at.child("items"));
        match field(schema, "items").filter(|own| own.is_object()) {
            Some(own) => nested_completeness(errors, item, own, &at, &value_at),
            None => errors.required(at, &because(&value_at)),
        }
    }
    for (name, part) in entries(value, "properties") {
        let (at, value_at) = (at.child("properties").key(name), value_at.child("properties").key(name));
        match map(schema, "properties").and_then(|properties| properties.get(name)) {
            Some(own) => nested_completeness(errors, part, own, &at, &value_at),
            None => errors.required(at, &because(&value_at)),
        }
    }
}
