//! `spec` as a whole: names, group, versions, what may change, and where the parts stand.
//!
//! Invariants:
//! - CS-1: an update is not refused for what the old definition already had.

use std::collections::BTreeSet;

use apimachinery::validation::{ErrorList, Path, names as rules};
use serde_json::Value;

use super::internal::{Spec, Version};
use super::{columns, conversion, dump, names, schema};
use crate::access::{flag, has, items, obj, opt_text, text, texts};
use crate::apiextensions::conditions::{self, Approval};
use crate::checks::{immutable, one_of, status};

/// How strict validation is: on update, what the old definition got away with is not asked for.
pub(super) struct Options {
    pub recognized_review_required: bool,
    pub bad_bundle_allowed: bool,
    pub schemas_required: bool,
    pub schema: schema::Options,
    /// Versions whose schema is as it was: the cost of single rules is not looked at again.
    pub unchanged: BTreeSet<String>,
}

impl Options {
    pub fn for_create(defaults: schema::DefaultsCheck) -> Self {
        Self {
            recognized_review_required: true,
            bad_bundle_allowed: true,
            schemas_required: true,
            schema: schema::Options::for_create(defaults),
            unchanged: BTreeSet::new(),
        }
    }

    pub fn for_update(new: &Spec<'_>, old_object: &Value, old: &Spec<'_>, defaults: schema::DefaultsCheck) -> Self {
        let unchanged = |version: &&Version<'_>| {
            let name = version.name();
            old.schema_of(name).is_some_and(|was| new.schema_of(name) == Some(was))
        };
        Self {
            recognized_review_required: conversion::recognized_before(old_object),
            bad_bundle_allowed: conversion::bad_bundle_allowed(old_object),
            schemas_required: old.top.schema().is_some()
                || old.versions.iter().all(|version| version.parts.schema().is_some()),
            schema: schema::Options::for_update(old, defaults),
            unchanged: new.versions.iter().filter(unchanged).map(|version| version.name().to_owned()).collect(),
        }
    }
}

pub(super) fn check(errors: &mut ErrorList, spec: &Spec<'_>, options: &Options) {
    let path = Path::new("spec");
    check_group(errors, path.child("group"), text(spec.value, "group"));
    one_of(errors, path.child("scope"), text(spec.value, "scope"), &["Cluster", "Namespaced"]);
    let preserve = flag(spec.value, "preserveUnknownFields");
    let mut options_of_schemas = options.schema.clone();
    options_of_schemas.structural |= !preserve;
    check_presence(errors, &path, spec, options, preserve);
    if spec.schemas().any(|s| schema::any(s, &|s| has(s, "default"))) {
        options_of_schemas.structural = true;
        if preserve {
            let detail = "must be false in order to use defaults in the schema";
            errors.invalid(path.child("preserveUnknownFields"), true, detail);
        }
    }
    options_of_schemas.structural |= spec.schemas().any(|s| schema::any(s, &schema::has_extensions));
    check_versions(errors, &path, spec, options, &options_of_schemas);
    let wanted = obj(spec.value, "names");
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(wanted, key).is_empty() {
            errors.required(path.child("names").child(key), "");
        }
    }
    names::check(errors, &path.child("names"), wanted);
    check_top(errors, &path, spec, options, &options_of_schemas);
    let conversion = obj(spec.value, "conversion");
    if preserve && conversion.is_object() && text(conversion, "strategy") != "None" {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.invalid(path.child("conversion").child("strategy"), text(conversion, "strategy"), detail);
    }
    conversion::check(
        errors,
        &path.child("conversion"),
        conversion,
        options.recognized_review_required,
        options.bad_bundle_allowed,
    );
}

fn check_group(errors: &mut ErrorList, path: Path, group: &str) {
    if group.is_empty() {
        return errors.required(path, "");
    }
    let found = rules::is_dns1123_subdomain(group);
    if !found.is_empty() {
        errors.invalid(path, group, &found.join(","));
    } else if !group.contains('.') {
        errors.invalid(path, group, "should be a domain with at least one dot");
    }
}

/// Every version has a schema, or (for old definitions) every served one.
fn check_presence(errors: &mut ErrorList, path: &Path, spec: &Spec<'_>, options: &Options, preserve: bool) {
    if spec.top.schema().is_some() || (!options.schemas_required && preserve) {
        return;
    }
    for (i, version) in spec.versions.iter().enumerate().filter(|(_, version)| version.parts.schema().is_none()) {
        let at = path.child("versions").index(i).children(&["schema", "openAPIV3Schema"]);
        if options.schemas_required {
            errors.required(at, "schemas are required");
        } else if flag(version.value, "served") {
            errors.required(at, "because otherwise all fields are pruned");
        }
    }
}

fn check_versions(errors: &mut ErrorList, path: &Path, spec: &Spec<'_>, options: &Options, schemas: &schema::Options) {
    let at = path.child("versions");
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for (i, version) in spec.versions.iter().enumerate() {
        unique &= seen.insert(version.name());
        let found = rules::is_dns1035_label(version.name());
        if !found.is_empty() {
            errors.invalid(at.index(i).child("name"), version.name(), &found.join(","));
        }
        check_version(errors, &at.index(i), spec, version, options, schemas);
    }
    if !unique {
        errors.invalid_text(at.clone(), &dump::versions(spec), "must contain unique version names");
    }
    if spec.versions.iter().filter(|version| version.storage()).count() != 1 {
        errors.invalid_text(at, &dump::versions(spec), "must have exactly one version marked as storage version");
    }
    let Some(first) = spec.versions.first() else { return };
    let found = rules::is_dns1035_label(first.name());
    if !first.name().is_empty() && !found.is_empty() {
        errors.invalid(path.child("version"), first.name(), &found.join(","));
    }
}

fn check_version(
    errors: &mut ErrorList,
    path: &Path,
    spec: &Spec<'_>,
    version: &Version<'_>,
    options: &Options,
    schemas: &schema::Options,
) {
    check_deprecation(errors, path.child("deprecationWarning"), version.value);
    if let Some(validation) = version.parts.validation {
        let own = schemas.clone().without_rule_cost(options.unchanged.contains(version.name()));
        schema::check(errors, &path.child("schema"), validation, spec.status_enabled(version), &own);
    }
    columns::check_subresources(errors, &path.child("subresources"), version.parts.subresources);
    columns::check_columns(errors, &path.child("additionalPrinterColumns"), version.parts.columns);
    let at = path.child("selectableFields");
    if !version.parts.selectable.is_empty() {
        match version.parts.schema() {
            Some(schema) => columns::check_selectable(errors, &at, version.parts.selectable, schema),
            None => {
                let detail = "selectableFields may only be set when version.schema.openAPIV3Schema is not included";
                errors.invalid(at, "", detail);
            }
        }
    }
}

/// What stands at the top.
fn check_top(errors: &mut ErrorList, path: &Path, spec: &Spec<'_>, options: &Options, schemas: &schema::Options) {
    if let Some(validation) = spec.top.validation {
        let first = spec.versions.first().map_or("", |version| version.name());
        let own = schemas.clone().without_rule_cost(options.unchanged.contains(first));
        schema::check(errors, &path.child("validation"), validation, spec.any_status_enabled(), &own);
    }
    columns::check_subresources(errors, &path.child("subresources"), spec.top.subresources);
    columns::check_columns(errors, &path.child("additionalPrinterColumns"), spec.top.columns);
    if !spec.top.selectable.is_empty() {
        let at = path.child("selectableFields");
        match spec.top.schema() {
            Some(schema) => columns::check_selectable(errors, &at, spec.top.selectable, schema),
            None => errors.invalid(at, "", "selectableFields may only be set when validations.schema is included"),
        }
    }
}

fn check_deprecation(errors: &mut ErrorList, path: Path, version: &Value) {
    let Some(warning) = opt_text(version, "deprecationWarning") else { return };
    if !flag(version, "deprecated") {
        return errors.invalid(path, warning, "can only be set for deprecated versions");
    }
    if warning.len() > 256 {
        errors.invalid(path.clone(), warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(path.clone(), warning, "must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| !apimachinery::goformat::is_print(*c)) {
        let detail =
            format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        errors.invalid(path, warning, &detail);
    }
}

/// What an update may not change.
pub(super) fn check_immutable(errors: &mut ErrorList, object: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new_spec, old_spec) = (obj(object, "spec"), obj(old, "spec"));
    let mut fixed = |keys: &[&str]| {
        let find = |spec| keys.iter().fold(spec, |at, key| obj(at, key));
        immutable(errors, path.children(keys), find(new_spec), find(old_spec));
    };
    if conditions::is_true(old, conditions::ESTABLISHED) {
        fixed(&["scope"]);
        fixed(&["names", "kind"]);
    }
    fixed(&["group"]);
    fixed(&["names", "plural"]);
}

pub(super) fn check_stored_versions(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("status").child("storedVersions");
    let stored = texts(status(object), "storedVersions");
    if stored.is_empty() {
        return errors.invalid(path, Value::Null, "must have at least one stored version");
    }
    let versions = items(obj(object, "spec"), "versions");
    for version in versions.iter().filter(|version| flag(version, "storage")) {
        let name = text(version, "name");
        if !stored.contains(&name) {
            errors.invalid(path.clone(), stored.clone(), &format!("must have the storage version {name}"));
        }
    }
    for (i, name) in stored.iter().enumerate() {
        let last = !stored[i + 1..].contains(name);
        if last && !versions.iter().any(|version| text(version, "name") == *name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(path.index(i), *name, &detail);
        }
    }
}

/// A definition in a group of the Kubernetes project names its approval.
pub(super) fn check_approval(errors: &mut ErrorList, object: &Value, old: Option<&Value>) {
    if !conditions::is_protected_group(text(obj(object, "spec"), "group")) {
        return;
    }
    let (state, reason) = conditions::approval(object);
    if old.is_some_and(|old| conditions::approval(old).0 == state) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(conditions::APPROVED_ANNOTATION);
    match state {
        Approval::Missing => errors.required(path, &reason),
        Approval::Invalid => {
            let annotations = obj(obj(object, "metadata"), "annotations");
            errors.invalid(path, text(annotations, conditions::APPROVED_ANNOTATION), &reason);
        }
        Approval::Approved | Approval::Bypassed => {}
    }
}

/// Formats of the schemas that validation does not know, in the order in which they are found.
pub(super) fn unrecognized_formats(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for schema in Spec::of(object).schemas() {
        schema::walk(schema, &mut |schema| {
            let format = text(schema, "format");
            if !format.is_empty() && !schema::knows_format(text(schema, "type"), format) {
                found.push(format.to_owned());
            }
        });
    }
    found
}
