//! CustomResourceDefinition: a kind that a user defines.
//!
//! Invariants:
//! - CD-1: a stored definition has at least one stored version, and every storage version it ever had until the user
//!   says that nothing is stored in it any more.

mod columns;
mod conversion;
mod dump;
mod fieldpath;
mod internal;
mod names;
mod schema;
mod spec;

use apimachinery::validation::{ErrorList, Path};
use serde_json::{Value, json};

use crate::access::{
    copy_field, ensure_map, field, flag, has, items, obj, remove, same, set, set_blank, set_missing, text, texts,
};
use crate::checks::{name, next_generation, set_generation, status};
use crate::kind::{Kind, RequestContext, Scope, Strategy};

use super::conditions::{Condition, NON_STRUCTURAL};
use internal::Spec;

pub use schema::{DefaultsCheck, UNKNOWN_FIELDS};

/// Defaults are values of a user's kind: whoever knows such kinds checks them.
pub struct CustomResourceDefinition {
    defaults: DefaultsCheck,
}

/// The kind without a check of defaults.
pub fn kind() -> Kind {
    kind_with(|_, _, _| ErrorList::new())
}

pub fn kind_with(defaults: DefaultsCheck) -> Kind {
    const API_VERSION: &str = "apiextensions.k8s.io/v1";
    const KIND: &str = "CustomResourceDefinition";
    const DEFINITION: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";
    Kind::builtin(
        API_VERSION,
        KIND,
        "customresourcedefinitions",
        Scope::Cluster,
        DEFINITION,
        CustomResourceDefinition { defaults },
    )
    .with_short_names(&["crd", "crds"])
    .with_categories(&["api-extensions"])
    .with_storage_key(STORAGE_KEY)
    .with_subresource("status", API_VERSION, KIND, &["get", "patch", "update"])
}

pub const STORAGE_KEY: &str = "apiextensions.k8s.io/customresourcedefinitions";
pub const API_PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The condition that says that a schema is not structural; `None`: all are.
pub fn structural_condition(crd: &Value) -> Option<Condition> {
    let mut errors = ErrorList::new();
    for (i, version) in items(obj(crd, "spec"), "versions").iter().enumerate() {
        let Some(schema) = field(obj(version, "schema"), "openAPIV3Schema") else { continue };
        if let Err(error) = schema::convertible(schema) {
            let message = format!("failed to check validation schema for version {}: {error}", text(version, "name"));
            return Some(Condition::new(NON_STRUCTURAL, "Unknown", "StructuralError", message));
        }
        let path = Path::new("spec").child("versions").index(i).children(&["schema", "openAPIV3Schema"]);
        errors.extend(schema::violations(schema, &path));
    }
    (!errors.is_empty()).then(|| Condition::new(NON_STRUCTURAL, "True", "Violations", errors.aggregate()))
}

impl Strategy for CustomResourceDefinition {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            default_spec(spec);
        }
        if texts(status(object), "storedVersions").is_empty() {
            if let Some(version) = storage_version(object) {
                if let Some(status) = ensure_map(object, "status") {
                    status.insert("storedVersions".to_owned(), json!([version]));
                }
            }
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}}));
        set_generation(object, 1);
        add_stored_version(object);
        drop_empty(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        if cx.subresource == "status" {
            copy_field(object, old, "spec");
            next_generation(object, old, false);
            return;
        }
        copy_field(object, old, "status");
        drop_empty(object);
        let changed = !same(obj(object, "spec"), obj(old, "spec"));
        next_generation(object, old, changed);
        add_stored_version(object);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let wanted =
            format!("{}.{}", text(obj(obj(object, "spec"), "names"), "plural"), text(obj(object, "spec"), "group"));
        if name(object) != wanted {
            let path = Path::new("metadata").child("name");
            errors.invalid(path, name(object), "must be spec.names.plural+\".\"+spec.group");
        }
        spec::check(&mut errors, &Spec::of(object), &spec::Options::for_create(self.defaults));
        check_rest(&mut errors, object, None);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.subresource == "status" {
            check_status(&mut errors, object);
            return errors;
        }
        let (new_spec, old_spec) = (Spec::of(object), Spec::of(old));
        spec::check(&mut errors, &new_spec, &spec::Options::for_update(&new_spec, old, &old_spec, self.defaults));
        spec::check_immutable(&mut errors, object, old);
        check_rest(&mut errors, object, Some(old));
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == "status" {
            return Vec::new();
        }
        let known = old.map(spec::unrecognized_formats).unwrap_or_default();
        let found = spec::unrecognized_formats(object).into_iter().filter(|format| !known.contains(format));
        found.map(|format| format!("unrecognized format {}", apimachinery::goformat::quote(&format))).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn default_spec(spec: &mut Value) {
    if let Some(kind) = field(obj(spec, "names"), "kind").and_then(Value::as_str).map(str::to_owned) {
        if let Some(names) = spec.get_mut("names") {
            set_blank(names, "singular", &kind.to_lowercase());
            if !kind.is_empty() {
                set_blank(names, "listKind", &format!("{kind}List"));
            }
        }
    }
    set_missing(spec, "conversion", json!({"strategy": "None"}));
    if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service").filter(|s| s.is_object()) {
        set_missing(service, "port", 443);
    }
}

/// The first version that says it is the stored one.
fn storage_version(object: &Value) -> Option<String> {
    let versions = items(obj(object, "spec"), "versions").iter();
    versions.filter(|version| flag(version, "storage")).map(|version| text(version, "name").to_owned()).next()
}

fn add_stored_version(object: &mut Value) {
    let Some(version) = storage_version(object) else { return };
    if texts(status(object), "storedVersions").contains(&version.as_str()) {
        return;
    }
    let Some(status) = ensure_map(object, "status") else { return };
    let stored = status.entry("storedVersions").or_insert(Value::Null);
    match stored.as_array_mut() {
        Some(list) => list.push(json!(version)),
        None => *stored = json!([version]),
    }
}

/// The internal form has no `webhook` around the client configuration: one that says nothing is not there.
fn drop_empty(object: &mut Value) {
    let Some(conversion) = object.pointer_mut("/spec/conversion") else { return };
    let Some(webhook) = field(conversion, "webhook") else { return };
    if !has(webhook, "clientConfig") && items(webhook, "conversionReviewVersions").is_empty() {
        remove(conversion, "webhook");
    }
}

fn check_status(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("status").child("acceptedNames");
    names::check(errors, &path, obj(status(object), "acceptedNames"));
}

/// What follows the spec: status, stored versions, approval, preserveUnknownFields.
fn check_rest(errors: &mut ErrorList, object: &Value, old: Option<&Value>) {
    check_status(errors, object);
    spec::check_stored_versions(errors, object);
    spec::check_approval(errors, object, old);
    let preserves = |object: &Value| flag(obj(object, "spec"), "preserveUnknownFields");
    if preserves(object) && !old.is_some_and(preserves) {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(Path::new("spec").child("preserveUnknownFields"), true, detail);
    }
}

#[cfg(test)]
mod tests;
