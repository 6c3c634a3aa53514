//! The behaviour of custom resources: every version of every definition is an [`api::Kind`] with this strategy.
//!
//! Invariants:
//! - XR-1: the generation counts changes of everything but metadata, and but status where that is a subresource.
//! - XR-2: what is stored is pruned by the stored version's schema.

use std::sync::Arc;

use api::{Column, Kind, RequestContext, Scope, Strategy};
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, ErrorType, FieldError, Path, names};
use serde_json::{Value, json};

use super::definition::{Definition, ScalePaths, Version};
use super::{jsonpath, lists, objects, rules, scale, table, validate};

/// The verbs of custom resources, in the order upstream's discovery has them.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];

/// One served version of a custom resource.
pub struct CustomResource {
    pub definition: Arc<Definition>,
    pub version: Arc<Version>,
}

/// The custom side of a kind; `None` for built-in ones.
pub fn of(kind: &Kind) -> Option<&CustomResource> {
    kind.strategy.as_any()?.downcast_ref()
}

/// The kinds of a definition, the stored version's first.
pub fn kinds(definition: &Arc<Definition>) -> Vec<Arc<Kind>> {
    let stored = definition.versions.iter().skip(definition.storage).take(1);
    let others = definition.versions.iter().enumerate().filter(|(at, _)| *at != definition.storage).map(|(_, v)| v);
    let served = stored.chain(others).filter(|version| version.served);
    served.map(|version| Arc::new(kind(definition, version))).collect()
}

fn kind(definition: &Arc<Definition>, version: &Arc<Version>) -> Kind {
    Kind {
        group: definition.group.clone().into(),
        version: version.name.clone().into(),
        kind: definition.kind.clone().into(),
        plural: definition.plural.clone().into(),
        singular: definition.singular.clone().into(),
        short_names: definition.short_names.iter().cloned().map(Into::into).collect(),
        categories: definition.categories.iter().cloned().map(Into::into).collect(),
        scope: definition.scope,
        verbs: VERBS.into(),
        subresources: definition.subresources(version).into(),
        storage_key: definition.storage_key().into(),
        schema: table::of(&version.schema),
        strategy: Arc::new(CustomResource { definition: definition.clone(), version: version.clone() }),
    }
}

impl CustomResource {
    pub fn is_storage(&self) -> bool {
        self.definition.storage().name == self.version.name
    }

    /// The body must say that it is of this kind and version.
    ///
    /// # Errors
    /// 422, naming the kind that the body claims.
    pub fn check_type(&self, object: &Value) -> Result<(), Status> {
        let (kind, version) = (object["kind"].as_str().unwrap_or(""), object["apiVersion"].as_str().unwrap_or(""));
        let expected = format!("{}/{}", self.definition.group, self.version.name);
        let mut errors = ErrorList::new();
        if kind != self.definition.kind {
            errors.invalid(Path::new("kind"), kind, &format!("must be {}", self.definition.kind));
        }
        if version != expected {
            errors.invalid(Path::new("apiVersion"), version, &format!("must be {expected}"));
        }
        if errors.is_empty() {
            return Ok(());
        }
        let claimed = GroupKind::new(version.rsplit_once('/').map_or("", |(group, _)| group), kind);
        Err(Status::invalid(&claimed, object["metadata"]["name"].as_str().unwrap_or(""), &errors))
    }

    fn scale(&self) -> Option<&ScalePaths> {
        self.version.scale.as_ref()
    }
}

impl Strategy for CustomResource {
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    fn default(&self, object: &mut Value) {
        objects::default(object, &self.version.schema);
        objects::drop_nulls(object, &self.version.schema);
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        if self.version.has_status {
            remove(object, "status");
        }
        object["metadata"]["generation"] = json!(1);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        if cx.subresource == "status" {
            let status = object.get("status").cloned();
            let managed = object["metadata"].get("managedFields").cloned();
            let version = object["metadata"].get("resourceVersion").cloned();
            *object = old.clone();
            put(object, "status", status);
            put(&mut object["metadata"], "managedFields", managed);
            if version.is_some() {
                put(&mut object["metadata"], "resourceVersion", version);
            }
            return;
        }
        if self.version.has_status {
            put(object, "status", old.get("status").cloned());
        }
        if !same_but_metadata(object, old) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + 1);
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let schema = &self.version.schema;
        let mut errors = validate::validate(object, schema, None);
        scale::check(object, self.scale(), &mut errors);
        errors.extend(lists::embedded(object, schema));
        errors.extend(lists::duplicates(object, schema));
        self.check_rules(object, None, &mut errors);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let schema = &self.version.schema;
        let mut errors = ErrorList::new();
        // What was repeated before may stay so.
        let repeated = lists::duplicates(object, schema);
        let repeated =
            if repeated.is_empty() || !lists::duplicates(old, schema).is_empty() { ErrorList::new() } else { repeated };
        if cx.subresource == "status" {
            errors.extend(repeated);
            errors.extend(validate::validate(object, schema, Some(old)));
            scale::check_status(object, self.scale(), &mut errors);
        } else {
            errors.extend(validate::validate(object, schema, Some(old)));
            scale::check(object, self.scale(), &mut errors);
            errors.extend(lists::embedded(object, schema));
            errors.extend(repeated);
        }
        self.check_rules(object, Some(old), &mut errors);
        errors
    }

    fn warnings(&self, _cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        let finalizers = |object: &Value| -> Vec<String> {
            let listed = object["metadata"]["finalizers"].as_array().into_iter().flatten();
            listed.filter_map(|finalizer| finalizer.as_str().map(str::to_owned)).collect()
        };
        let before = old.map(finalizers).unwrap_or_default();
        let mut added: Vec<String> = finalizers(object).into_iter().filter(|f| !before.contains(f)).collect();
        added.sort();
        added.dedup();
        let mut warnings = Vec::new();
        for finalizer in added {
            let name = apimachinery::goformat::quote(&finalizer);
            for problem in names::is_qualified_name(&finalizer) {
                warnings.push(format!("metadata.finalizers: {name}: {problem}"));
            }
            if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
                warnings.push(format!(
                    "metadata.finalizers: {name}: prefer a domain-qualified finalizer name to avoid accidental \
                     conflicts with other finalizer writers"
                ));
            }
        }
        warnings
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let fields = self.version.selectable.iter();
        fields
            .map(|field| {
                let found = field.path.as_ref().and_then(|path| path.first(object));
                let text = match found {
                    Some(value) if !value.is_null() => jsonpath::print(value),
                    // A boolean that is absent is false.
                    _ if field.boolean => "false".to_owned(),
                    _ => String::new(),
                };
                (field.name, text)
            })
            .collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn deprecation(&self) -> Option<std::borrow::Cow<'static, str>> {
        self.version.deprecation.clone().map(Into::into)
    }

    fn to_storage(&self, object: &mut Value) {
        objects::prune(object, &self.definition.storage().schema);
    }

    fn columns(&self) -> Vec<Column> {
        self.version.columns.iter().map(|column| column.column.clone()).collect()
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let cell = |column: &super::definition::PrinterColumn| {
            let value = column.path.as_ref().and_then(|path| path.first(object));
            value.map_or(Value::Null, |value| cell(&column.column.ty, value, now))
        };
        self.version.columns.iter().map(cell).collect()
    }
}

impl CustomResource {
    /// The rules in CEL, unless what is wrong already would make their errors meaningless.
    fn check_rules(&self, object: &Value, old: Option<&Value>, errors: &mut ErrorList) {
        if !self.version.schema.below.rules {
            return;
        }
        let blocks = |error: &FieldError| {
            matches!(
                error.ty,
                ErrorType::NotSupported
                    | ErrorType::Required
                    | ErrorType::TooLong
                    | ErrorType::TooMany
                    | ErrorType::TypeInvalid
            )
        };
        if errors.iter().any(blocks) {
            errors.invalid(
                Path::nil(),
                Value::Null,
                "some validation rules were not checked because the object was invalid; correct the existing errors \
                 to complete validation",
            );
            return;
        }
        errors.extend(rules::check(object, old, &self.version.schema));
    }
}

/// A cell of a column of type `ty`.
fn cell(ty: &str, value: &Value, now: jiff::Timestamp) -> Value {
    match (ty, value) {
        ("string", value) => json!(jsonpath::print(value)),
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(n) => json!(n),
            None => number.as_f64().map_or(Value::Null, |f| json!(f as i64)),
        },
        ("number", Value::Number(number)) => json!(number.as_f64()),
        ("boolean", Value::Bool(flag)) => json!(flag),
        ("date", Value::String(text)) => match text.parse::<jiff::Timestamp>() {
            Ok(_) => json!(api::printers::since(text, now)),
            Err(_) if text.is_empty() => json!("<unknown>"),
            Err(_) => json!("<invalid>"),
        },
        _ => Value::Null,
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    match value {
        Some(value) => object[field] = value,
        None => remove(object, field),
    }
}

fn same_but_metadata(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let strip = |(key, _): &(&String, &Value)| *key != "metadata";
    a.iter().filter(strip).eq(b.iter().filter(strip))
}

/// The scope as discovery and routes ask for it.
pub fn namespaced(definition: &Definition) -> bool {
    definition.scope == Scope::Namespaced
}
