//! Parts of a definition as Go prints the internal structs: some messages show them.
//!
//! Invariants:
//! - DU-1: fields in the order of the internal structs, absent ones as Go's zero values.

use std::fmt::Write as _;

use apimachinery::goformat;
use serde_json::Value;

use super::internal::{Parts, Spec};
use crate::access::{entries, field, flag, items, obj, text};

/// `spec.versions`
pub(super) fn versions(spec: &Spec<'_>) -> String {
    let mut out = String::from("[");
    for (i, version) in spec.versions.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let _ = write!(
            out,
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{}",
            quoted(version.name()),
            flag(version.value, "served"),
            version.storage(),
            flag(version.value, "deprecated"),
            goformat::json(obj(version.value, "deprecationWarning")),
        );
        parts(&mut out, &version.parts);
        out.push('}');
    }
    out.push(']');
    out
}

fn parts(out: &mut String, parts: &Parts<'_>) {
    out.push_str(",\"Schema\":");
    match parts.validation {
        Some(_) => {
            out.push_str("{\"OpenAPIV3Schema\":");
            optional(out, parts.schema(), write_schema);
            out.push('}');
        }
        None => out.push_str("null"),
    }
    out.push_str(",\"Subresources\":");
    match parts.subresources {
        Some(sub) => {
            let status = if field(sub, "status").is_some() { "{}" } else { "null" };
            let _ = write!(out, "{{\"Status\":{status},\"Scale\":");
            optional(out, field(sub, "scale"), |out, scale| {
                let _ = write!(
                    out,
                    "{{\"SpecReplicasPath\":{},\"StatusReplicasPath\":{},\"LabelSelectorPath\":{}}}",
                    quoted(text(scale, "specReplicasPath")),
                    quoted(text(scale, "statusReplicasPath")),
                    goformat::json(obj(scale, "labelSelectorPath")),
                );
            });
            out.push('}');
        }
        None => out.push_str("null"),
    }
    out.push_str(",\"AdditionalPrinterColumns\":");
    list(out, parts.columns, |out, column| {
        let string = |key| quoted(text(column, key));
        let _ = write!(
            out,
            "{{\"Name\":{},\"Type\":{},\"Format\":{},\"Description\":{},\"Priority\":{},\"JSONPath\":{}}}",
            string("name"),
            string("type"),
            string("format"),
            string("description"),
            crate::access::int(column, "priority"),
            string("jsonPath"),
        );
    });
    out.push_str(",\"SelectableFields\":");
    list(out, parts.selectable, |out, selectable| {
        let _ = write!(out, "{{\"JSONPath\":{}}}", quoted(text(selectable, "jsonPath")));
    });
}

/// One rule of `x-kubernetes-validations`.
pub(super) fn rule(rule: &Value) -> String {
    let mut out = String::new();
    write_rule(&mut out, rule);
    out
}

fn write_rule(out: &mut String, rule: &Value) {
    let _ = write!(
        out,
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        quoted(text(rule, "rule")),
        quoted(text(rule, "message")),
        quoted(text(rule, "messageExpression")),
        goformat::json(obj(rule, "reason")),
        quoted(text(rule, "fieldPath")),
        goformat::json(obj(rule, "optionalOldSelf")),
    );
}

enum Kind {
    Text,
    Flag,
    /// A pointer to something that prints as it is.
    Plain,
    /// A list that prints as it is.
    List,
    Schema,
    Schemas,
    SchemaMap,
    OrArray,
    OrBool,
    Dependencies,
    Docs,
    Rules,
}

const FIELDS: &[(&str, &str, Kind)] = &[
    ("ID", "id", Kind::Text),
    ("Schema", "$schema", Kind::Text),
    ("Ref", "$ref", Kind::Plain),
    ("Description", "description", Kind::Text),
    ("Type", "type", Kind::Text),
    ("Nullable", "nullable", Kind::Flag),
    ("Format", "format", Kind::Text),
    ("Title", "title", Kind::Text),
    ("Default", "default", Kind::Plain),
    ("Maximum", "maximum", Kind::Plain),
    ("ExclusiveMaximum", "exclusiveMaximum", Kind::Flag),
    ("Minimum", "minimum", Kind::Plain),
    ("ExclusiveMinimum", "exclusiveMinimum", Kind::Flag),
    ("MaxLength", "maxLength", Kind::Plain),
    ("MinLength", "minLength", Kind::Plain),
    ("Pattern", "pattern", Kind::Text),
    ("MaxItems", "maxItems", Kind::Plain),
    ("MinItems", "minItems", Kind::Plain),
    ("UniqueItems", "uniqueItems", Kind::Flag),
    ("MultipleOf", "multipleOf", Kind::Plain),
    ("Enum", "enum", Kind::List),
    ("MaxProperties", "maxProperties", Kind::Plain),
    ("MinProperties", "minProperties", Kind::Plain),
    ("Required", "required", Kind::List),
    ("Items", "items", Kind::OrArray),
    ("AllOf", "allOf", Kind::Schemas),
    ("OneOf", "oneOf", Kind::Schemas),
    ("AnyOf", "anyOf", Kind::Schemas),
    ("Not", "not", Kind::Schema),
    ("Properties", "properties", Kind::SchemaMap),
    ("AdditionalProperties", "additionalProperties", Kind::OrBool),
    ("PatternProperties", "patternProperties", Kind::SchemaMap),
    ("Dependencies", "dependencies", Kind::Dependencies),
    ("AdditionalItems", "additionalItems", Kind::OrBool),
    ("Definitions", "definitions", Kind::SchemaMap),
    ("ExternalDocs", "externalDocs", Kind::Docs),
    ("Example", "example", Kind::Plain),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields", Kind::Plain),
    ("XEmbeddedResource", "x-kubernetes-embedded-resource", Kind::Flag),
    ("XIntOrString", "x-kubernetes-int-or-string", Kind::Flag),
    ("XListMapKeys", "x-kubernetes-list-map-keys", Kind::List),
    ("XListType", "x-kubernetes-list-type", Kind::Plain),
    ("XMapType", "x-kubernetes-map-type", Kind::Plain),
    ("XValidations", "x-kubernetes-validations", Kind::Rules),
];

/// An OpenAPI schema.
pub(super) fn schema(value: &Value) -> String {
    let mut out = String::new();
    write_schema(&mut out, value);
    out
}

/// A schema of `items`, which is one or several.
pub(super) fn items_value(value: &Value) -> String {
    let mut out = String::new();
    write_or_array(&mut out, value);
    out
}

/// The names of the fields that are set, in the order of the struct.
pub(super) fn fields_set(value: &Value) -> Vec<&'static str> {
    let set = |(_, json, kind): &&(&str, &str, Kind)| {
        let own = obj(value, json);
        match kind {
            Kind::Text => !text(value, json).is_empty(),
            Kind::Flag => flag(value, json),
            Kind::List | Kind::Schemas | Kind::Rules => !items(value, json).is_empty(),
            _ => !own.is_null(),
        }
    };
    FIELDS.iter().filter(set).map(|(name, ..)| *name).collect()
}

fn write_schema(out: &mut String, value: &Value) {
    out.push('{');
    for (i, (name, json, kind)) in FIELDS.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let _ = write!(out, "\"{name}\":");
        let own = obj(value, json);
        match kind {
            Kind::Text => out.push_str(&quoted(text(value, json))),
            Kind::Flag => out.push_str(if flag(value, json) { "true" } else { "false" }),
            Kind::Plain => goformat::write_json(out, own),
            Kind::List => list(out, items(value, json), goformat::write_json),
            Kind::Schema => optional(out, field(value, json), write_schema),
            Kind::Schemas => list(out, items(value, json), write_schema),
            Kind::SchemaMap => map(out, value, json, write_schema),
            Kind::OrArray => optional(out, field(value, json), write_or_array),
            Kind::OrBool => optional(out, field(value, json), write_or_bool),
            Kind::Dependencies => map(out, value, json, write_dependency),
            Kind::Docs => optional(out, field(value, json), |out, docs| {
                let (description, url) = (quoted(text(docs, "description")), quoted(text(docs, "url")));
                let _ = write!(out, "{{\"Description\":{description},\"URL\":{url}}}");
            }),
            Kind::Rules => list(out, items(value, json), write_rule),
        }
    }
    out.push('}');
}

fn write_or_array(out: &mut String, value: &Value) {
    out.push_str("{\"Schema\":");
    optional(out, Some(value).filter(|v| v.is_object()), write_schema);
    out.push_str(",\"JSONSchemas\":");
    list(out, value.as_array().map_or(&[], Vec::as_slice), write_schema);
    out.push('}');
}

fn write_or_bool(out: &mut String, value: &Value) {
    let allows = value.is_object() || *value == Value::Bool(true);
    let _ = write!(out, "{{\"Allows\":{allows},\"Schema\":");
    optional(out, Some(value).filter(|v| v.is_object()), write_schema);
    out.push('}');
}

fn write_dependency(out: &mut String, value: &Value) {
    out.push_str("{\"Schema\":");
    optional(out, Some(value).filter(|v| v.is_object()), write_schema);
    out.push_str(",\"Property\":");
    list(out, value.as_array().map_or(&[], Vec::as_slice), goformat::write_json);
    out.push('}');
}

fn map(out: &mut String, value: &Value, key: &str, write: impl Fn(&mut String, &Value)) {
    if crate::access::map(value, key).is_none() {
        return out.push_str("null");
    }
    out.push('{');
    for (i, (name, item)) in entries(value, key).into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&quoted(name));
        out.push(':');
        write(out, item);
    }
    out.push('}');
}

fn list(out: &mut String, list: &[Value], write: impl Fn(&mut String, &Value)) {
    if list.is_empty() {
        return out.push_str("null");
    }
    out.push('[');
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

fn optional(out: &mut String, value: Option<&Value>, write: impl Fn(&mut String, &Value)) {
    match value {
        Some(value) => write(out, value),
        None => out.push_str("null"),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    goformat::write_json_string(&mut out, text);
    out
}
