//! A version's schema: what OpenAPI v3 and Kubernetes' extensions allow in it.
//!
//! Invariants:
//! - SC-1: errors come in upstream's order: structure, defaults, OpenAPI, rules, total cost; what upstream takes from a
//!   map comes in the order of the keys.

mod lists;
mod openapi;
mod rules;
mod structural;

use apimachinery::validation::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::dump;
use super::internal::Spec;
use crate::access::{entries, field, flag, has, items, text};

pub(crate) use structural::{convertible, violations};

/// Checks the defaults in a structural schema, which is at the path: each must be valid where it stands, and (`true`)
/// have no unknown fields.
pub type DefaultsCheck = fn(&Value, &Path, bool) -> ErrorList;
/// What is wrong with a default that has unknown fields.
pub const UNKNOWN_FIELDS: &str = "must not have unknown fields";

/// What is asked of schemas.
#[derive(Clone)]
pub(super) struct Options {
    pub structural: bool,
    pub valid_types: bool,
    pub pruned_defaults: bool,
    pub atomic_sets: bool,
    pub map_keys: bool,
    /// The cost of single rules is looked at.
    pub rule_cost: bool,
    pub defaults: DefaultsCheck,
}

impl Options {
    pub fn for_create(defaults: DefaultsCheck) -> Self {
        Self {
            structural: true,
            valid_types: true,
            pruned_defaults: true,
            atomic_sets: true,
            map_keys: true,
            rule_cost: true,
            defaults,
        }
    }

    /// Nothing is asked that the old schemas do not keep.
    pub fn for_update(old: &Spec<'_>, defaults: DefaultsCheck) -> Self {
        let none = |bad: &dyn Fn(&Value) -> bool| !old.schemas().any(|schema| any(schema, bad));
        Self {
            structural: old.schemas().all(structural::holds),
            valid_types: none(&|schema| !openapi::type_is_valid(text(schema, "type"))),
            pruned_defaults: old.schemas().all(|schema| {
                let unpruned = |error: &FieldError| error.detail == UNKNOWN_FIELDS;
                !any(schema, &|schema| has(schema, "default"))
                    || !structural::holds(schema)
                    || !defaults(schema, &Path::nil(), true).iter().any(unpruned)
            }),
            atomic_sets: none(&lists::has_open_set),
            map_keys: none(&|schema| !lists::map_key_errors(schema, &Path::new("x")).is_empty()),
            rule_cost: true,
            defaults,
        }
    }

    pub fn without_rule_cost(mut self, without: bool) -> Self {
        self.rule_cost &= !without;
        self
    }
}

/// `schema` of a version, around `openAPIV3Schema`.
pub(super) fn check(errors: &mut ErrorList, path: &Path, validation: &Value, status: bool, options: &Options) {
    let Some(schema) = field(validation, "openAPIV3Schema") else { return };
    let at = path.child("openAPIV3Schema");
    let before = errors.len();
    if status {
        check_root(errors, path, schema);
    }
    if flag(schema, "nullable") {
        errors.forbidden(path.child("openAPIV3Schema.nullable"), "nullable cannot be true at the root");
    }
    let (mut late, mut compile) = (None, false);
    if options.structural {
        match structural::convertible(schema) {
            Err(error) => late = Some(error),
            Ok(()) => {
                let mut found = structural::violations(schema, &at);
                if found.is_empty() && any(schema, &|schema| has(schema, "default")) {
                    found = (options.defaults)(schema, &at, options.pruned_defaults);
                }
                compile = found.is_empty();
                errors.extend(found);
            }
        }
    }
    openapi::check(errors, &at, schema, options, compile);
    if let (Some(error), true) = (late, errors.len() == before) {
        errors.invalid(at, "", &error);
    }
}

/// With the status subresource the schema of the status is taken out of the root: what the root says besides must not
/// get lost.
fn check_root(errors: &mut ErrorList, path: &Path, schema: &Value) {
    const ALLOWED: &[&str] = &[
        "Description",
        "Type",
        "Format",
        "Title",
        "Maximum",
        "ExclusiveMaximum",
        "Minimum",
        "ExclusiveMinimum",
        "MaxLength",
        "MinLength",
        "Pattern",
        "MaxItems",
        "MinItems",
        "UniqueItems",
        "MultipleOf",
        "Required",
        "Items",
        "Properties",
        "ExternalDocs",
        "Example",
        "XPreserveUnknownFields",
        "XValidations",
    ];
    for name in dump::fields_set(schema) {
        if name == "Type" {
            let ty = text(schema, "type");
            if ty != "object" {
                let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
                return errors.invalid(path.child("openAPIV3Schema.type"), ty, detail);
            }
        } else if !ALLOWED.contains(&name) {
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                ALLOWED.join(" ")
            );
            return errors.invalid_text(path.child("openAPIV3Schema"), &dump::schema(schema), &detail);
        }
    }
}

/// Visits a schema and all below it.
pub(super) fn walk(schema: &Value, visit: &mut dyn FnMut(&Value)) {
    any_mut(schema, &mut |schema| {
        visit(schema);
        false
    });
}

/// The predicate holds for a schema or one below it.
pub(super) fn any(schema: &Value, holds: &dyn Fn(&Value) -> bool) -> bool {
    any_mut(schema, &mut |schema| holds(schema))
}

fn any_mut(schema: &Value, holds: &mut dyn FnMut(&Value) -> bool) -> bool {
    if !schema.is_object() {
        return false;
    }
    if holds(schema) {
        return true;
    }
    let one_or_many = |key: &str| match field(schema, key) {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    for key in ["items", "allOf", "anyOf", "oneOf", "not"] {
        if one_or_many(key).iter().any(|schema| any_mut(schema, holds)) {
            return true;
        }
    }
    for key in
        ["properties", "additionalProperties", "patternProperties", "additionalItems", "definitions", "dependencies"]
    {
        let found = match key {
            "additionalProperties" | "additionalItems" => one_or_many(key).iter().any(|schema| any_mut(schema, holds)),
            _ => entries(schema, key).into_iter().any(|(_, schema)| any_mut(schema, holds)),
        };
        if found {
            return true;
        }
    }
    false
}

/// A schema that says more than OpenAPI can must be structural.
pub(super) fn has_extensions(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-embedded-resource")
        || has(schema, "x-kubernetes-preserve-unknown-fields")
        || flag(schema, "x-kubernetes-int-or-string")
        || !items(schema, "x-kubernetes-list-map-keys").is_empty()
        || has(schema, "x-kubernetes-list-type")
        || !items(schema, "x-kubernetes-validations").is_empty()
}

/// Validation of values knows the format.
pub(super) fn knows_format(ty: &str, format: &str) -> bool {
    const STRINGS: &[&str] = &[
        "bsonobjectid",
        "uri",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "cidr",
        "mac",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
        "isbn",
        "isbn10",
        "isbn13",
        "creditcard",
        "ssn",
        "hexcolor",
        "rgbcolor",
        "byte",
        "password",
        "date",
        "duration",
        "datetime",
        "quantity",
        "k8sshortname",
        "k8slongname",
    ];
    match ty {
        "" | "string" => STRINGS.contains(&format.replace('-', "").as_str()),
        "integer" => ["int32", "int64"].contains(&format),
        "number" => ["float", "double"].contains(&format),
        _ => false,
    }
}
