//! Every schema in a schema by itself: what of OpenAPI v3 may be used, and how Kubernetes' extensions go together.

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::rules::{self, Cardinality, RULES, TotalCost};
use super::{Options, dump, lists};
use crate::access::{entries, field, flag, has, items, map, opt_flag, opt_text, text};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

pub(super) fn type_is_valid(ty: &str) -> bool {
    ty.is_empty() || TYPES.contains(&ty)
}

/// Checks a schema and all below it. `compile`: the structure is good, so that rules can be looked at.
pub(super) fn check(errors: &mut ErrorList, path: &Path, schema: &Value, options: &Options, compile: bool) {
    let mut checker = Checker { options, total: TotalCost::default() };
    let place = Place { rules: compile.then_some(Some(1)), root: true, ..Place::default() };
    let found = checker.schema(path, schema, &place);
    errors.extend(found.schema);
    errors.extend(found.rules);
    checker.total.check(errors, path);
}

/// What the surroundings of a schema mean for it.
#[derive(Debug, Clone, Default)]
struct Place {
    root: bool,
    no_defaults: Option<String>,
    /// In TypeMeta or ObjectMeta of the object or of one in it.
    in_meta: bool,
    uncorrelatable: Option<Path>,
    /// `None`: rules are not compiled here.
    rules: Option<Cardinality>,
}

impl Place {
    fn inner(&self) -> Self {
        Self { root: false, ..self.clone() }
    }

    /// The place of what lists, maps and objects of this schema hold.
    fn below(&self, schema: &Value) -> Self {
        Self { rules: self.rules.map(|own| rules::below(own, schema)), ..self.inner() }
    }

    /// The place of a condition.
    fn condition(&self) -> Self {
        Self { rules: None, ..self.inner() }
    }

    fn uncorrelatable_within(mut self, path: &Path) -> Self {
        self.uncorrelatable.get_or_insert_with(|| path.clone());
        self
    }
}

/// Errors of schemas, and those of rules, which come after all others.
#[derive(Default)]
struct Found {
    schema: ErrorList,
    rules: ErrorList,
}

impl Found {
    fn add(&mut self, other: Found) {
        self.schema.extend(other.schema);
        self.rules.extend(other.rules);
    }
}

struct Checker<'a> {
    options: &'a Options,
    total: TotalCost,
}

impl Checker<'_> {
    fn schema(&mut self, path: &Path, schema: &Value, place: &Place) -> Found {
        let mut found = Found::default();
        if !schema.is_object() {
            return found;
        }
        self.forbidden(&mut found.schema, path, schema, place);
        if flag(schema, "uniqueItems") {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            found.schema.forbidden(path.child("uniqueItems"), detail);
        }
        self.object(&mut found, path, schema, place);
        let condition = place.condition();
        for key in ["not", "allOf", "oneOf", "anyOf"] {
            match field(schema, key) {
                Some(Value::Array(list)) => {
                    for (i, part) in list.iter().enumerate() {
                        found.add(self.schema(&path.child(key).index(i), part, &condition));
                    }
                }
                Some(part) => found.add(self.schema(&path.child(key), part, &condition)),
                None => {}
            }
        }
        for (name, part) in entries(schema, "definitions") {
            found.add(self.schema(&path.child("definitions").key(name), part, &condition));
        }
        self.items(&mut found, path, schema, place);
        for (name, part) in entries(schema, "dependencies") {
            found.add(self.schema(&path.child("dependencies").key(name), part, &condition));
        }
        extensions(&mut found.schema, path, schema);
        lists::check(&mut found.schema, path, schema, self.options.atomic_sets);
        if self.options.map_keys {
            found.schema.extend(lists::map_key_errors(schema, path));
        }
        if !items(schema, RULES).is_empty() {
            rules::check_texts(&mut found.schema, path, schema);
            if let (Some(cardinality), true) = (place.rules, found.schema.is_empty()) {
                let at = rules::Place {
                    root: place.root,
                    cardinality,
                    uncorrelatable: place.uncorrelatable.as_ref(),
                    rule_cost: self.options.rule_cost,
                };
                rules::compile(&mut found.rules, path, schema, &at, &mut self.total);
            }
        }
        found
    }

    fn items(&mut self, found: &mut Found, path: &Path, schema: &Value, place: &Place) {
        let Some(own) = field(schema, "items") else { return };
        let mut inner = place.below(schema);
        // only the items of maps are known again after a change
        if opt_text(schema, "x-kubernetes-list-type") != Some("map") {
            inner = inner.uncorrelatable_within(path);
        }
        match own {
            Value::Array(list) => {
                for (i, part) in list.iter().enumerate() {
                    found.add(self.schema(&path.child("items").index(i), part, &inner));
                }
            }
            part => found.add(self.schema(&path.child("items"), part, &inner)),
        }
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

    fn object(&mut self, found: &mut Found, path: &Path, schema: &Value, place: &Place) {
        let named = map(schema, "properties").is_some_and(|properties| !properties.is_empty());
        if let Some(additional) = field(schema, "additionalProperties") {
            if named && *additional != Value::Bool(true) {
                let detail = "additionalProperties and properties are mutual exclusive";
                found.schema.forbidden(path.child("additionalProperties"), detail);
            }
            let mut inner = place.below(schema);
            if place.in_meta {
                inner.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
            }
            found.add(self.schema(&path.child("additionalProperties"), additional, &inner));
        }
        let has_meta = place.root || flag(schema, "x-kubernetes-embedded-resource");
        let correlatable =
            opt_text(schema, "x-kubernetes-map-type").is_none_or(|own| ["granular", "atomic"].contains(&own));
        for (name, part) in entries(schema, "properties") {
            let mut inner = place.below(schema);
            if !correlatable {
                inner = inner.uncorrelatable_within(path);
            }
            if has_meta && ["metadata", "kind", "apiVersion"].contains(&name) {
                inner.in_meta = true;
                if place.root {
                    inner.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            found.add(self.schema(&path.child("properties").key(name), part, &inner));
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
