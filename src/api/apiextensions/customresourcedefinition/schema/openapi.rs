//! Every schema in a schema by itself: what of OpenAPI v3 may be used, and how Kubernetes' extensions go together.

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::{Options, dump, lists};
use crate::access::{entries, field, flag, has, items, map, opt_flag, opt_text, text};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

pub(super) fn type_is_valid(ty: &str) -> bool {
    ty.is_empty() || TYPES.contains(&ty)
}

pub(super) fn check(errors: &mut ErrorList, path: &Path, schema: &Value, options: &Options) {
    let checker = Checker { options };
    let place = Place::default();
    errors.extend(checker.schema(path, schema, &place, true));
}

/// What the surroundings of a schema forbid.
#[derive(Debug, Clone, Default)]
struct Place {
    no_defaults: Option<String>,
    /// In TypeMeta or ObjectMeta of the object or of one in it.
    in_meta: bool,
}

struct Checker<'a> {
    options: &'a Options,
}

impl Checker<'_> {
    fn schema(&self, path: &Path, schema: &Value, place: &Place, root: bool) -> ErrorList {
        let mut errors = ErrorList::new();
        if !schema.is_object() {
            return errors;
        }
        self.forbidden(&mut errors, path, schema, place);
        if flag(schema, "uniqueItems") {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.forbidden(path.child("uniqueItems"), detail);
        }
        self.object(&mut errors, path, schema, place, root);
        for (key, several) in [("not", false), ("allOf", true), ("oneOf", true), ("anyOf", true)] {
            match several {
                false => {
                    errors.extend(self.schema(&path.child(key), schema.get(key).unwrap_or(&Value::Null), place, false))
                }
                true => {
                    for (i, part) in items(schema, key).iter().enumerate() {
                        errors.extend(self.schema(&path.child(key).index(i), part, place, false));
                    }
                }
            }
        }
        for (name, part) in entries(schema, "definitions") {
            errors.extend(self.schema(&path.child("definitions").key(name), part, place, false));
        }
        match field(schema, "items") {
            Some(Value::Array(list)) => {
                for (i, part) in list.iter().enumerate() {
                    errors.extend(self.schema(&path.child("items").index(i), part, place, false));
                }
            }
            Some(part) => errors.extend(self.schema(&path.child("items"), part, place, false)),
            None => {}
        }
        for (name, part) in entries(schema, "dependencies") {
            errors.extend(self.schema(&path.child("dependencies").key(name), part, place, false));
        }
        extensions(&mut errors, path, schema);
        lists::check(&mut errors, path, schema, self.options.atomic_sets);
        if self.options.map_keys {
            errors.extend(lists::map_key_errors(schema, path));
        }
        errors
    }

    fn forbidden(&self, errors: &mut ErrorList, path: &Path, schema: &Value, place: &Place) {
        let ty = text(schema, "type");
        if self.options.valid_types && !type_is_valid(ty) {
            errors.not_supported(path.child("type"), ty, TYPES);
        }
        if let (true, Some(reason)) = (has(schema, "default"), &place.no_defaults) {
            errors.forbidden(path.child("default"), &format!("must not be set {reason}"));
        }
        let unset = |key: &str| match schema.get(key) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => key == "id" && text.is_empty(),
            Some(Value::Object(map)) => map.is_empty() && ["patternProperties", "definitions"].contains(&key),
            Some(_) => false,
        };
        for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            if !unset(key) {
                errors.forbidden(path.child(key), &format!("{key} is not supported"));
            }
        }
        if ty == "null" {
            errors.forbidden(path.child("type"), "type cannot be set to null, use nullable as an alternative");
        }
        if !items(schema, "items").is_empty() {
            errors.forbidden(path.child("items"), "items must be a schema object and not an array");
        }
        if place.in_meta && flag(schema, "x-kubernetes-embedded-resource") {
            let detail = "must not be used inside of resource meta";
            errors.forbidden(path.child("x-kubernetes-embedded-resource"), detail);
        }
    }

    fn object(&self, errors: &mut ErrorList, path: &Path, schema: &Value, place: &Place, root: bool) {
        let named = map(schema, "properties").is_some_and(|properties| !properties.is_empty());
        if let Some(additional) = field(schema, "additionalProperties") {
            if named && *additional != Value::Bool(true) {
                let detail = "additionalProperties and properties are mutual exclusive";
                errors.forbidden(path.child("additionalProperties"), detail);
            }
            let mut inner = place.clone();
            if place.in_meta {
                inner.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
            }
            errors.extend(self.schema(&path.child("additionalProperties"), additional, &inner, false));
        }
        let has_meta = root || flag(schema, "x-kubernetes-embedded-resource");
        for (name, part) in entries(schema, "properties") {
            let mut inner = place.clone();
            if has_meta && ["metadata", "kind", "apiVersion"].contains(&name) {
                inner.in_meta = true;
                if root {
                    inner.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            errors.extend(self.schema(&path.child("properties").key(name), part, &inner, false));
        }
        for (name, part) in entries(schema, "patternProperties") {
            errors.extend(self.schema(&path.child("patternProperties").key(name), part, place, false));
        }
    }
}

fn extensions(errors: &mut ErrorList, path: &Path, schema: &Value) {
    if opt_flag(schema, "x-kubernetes-preserve-unknown-fields") == Some(false) {
        errors.invalid(path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    let Some(map_type) = opt_text(schema, "x-kubernetes-map-type") else { return };
    let ty = text(schema, "type");
    if ty != "object" {
        let detail = "must be object if x-kubernetes-map-type is specified";
        match ty {
            "" => errors.required(path.child("type"), detail),
            _ => errors.invalid(path.child("type"), ty, detail),
        }
    }
    if !["atomic", "granular"].contains(&map_type) {
        errors.not_supported(path.child("x-kubernetes-map-type"), map_type, &["atomic", "granular"]);
    }
}

/// What errors show of `items`.
pub(super) fn shown_items(value: &Value) -> String {
    dump::items_value(value)
}
