//! From an OpenAPI v3 (structural) schema to a CEL declaration, as upstream's `SchemaDeclType`, with the largest
//! sizes that a request could bring, for cost estimates.
//!
//! Invariants:
//! - CEL-S1: what upstream does not expose (schemas without a type, arrays without items, objects that only
//!   preserve unknown fields inside) is not exposed here either: `from_openapi` answers `None` for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::escape::escape;
use crate::limits::MAX_REQUEST_SIZE_BYTES;
use crate::types::{Field, ObjectType, Type};

/// A declared type with what only the schema knows: sizes, list semantics, how JSON maps to it.
#[derive(Debug, Clone)]
pub struct DeclType {
    pub ty: Type,
    pub shape: Shape,
    /// Largest number of elements (list, map), or of characters (string, bytes); 0 where upstream has none.
    pub max_elements: i64,
    pub min_serialized_size: i64,
    pub nullable: bool,
}

/// How JSON is seen through a declaration.
#[derive(Debug, Clone)]
pub enum Shape {
    /// No schema: as the JSON is.
    Any,
    IntOrString,
    Scalar,
    List(Arc<DeclType>, ListKind),
    /// The declaration of the values; keys are strings.
    Map(Arc<DeclType>),
    /// Fields are in the object type.
    Object,
}

/// x-kubernetes-list-type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Vec<String>),
}

impl DeclType {
    /// A declaration of a type without a schema behind it.
    pub fn of(ty: Type) -> DeclType {
        let shape = match &ty {
            Type::Object(_) => Shape::Object,
            _ => Shape::Any,
        };
        DeclType { ty, shape, max_elements: 0, min_serialized_size: 1, nullable: false }
    }

    /// The declaration of an OpenAPI schema, named `name` where it is an object (nested objects are
    /// `<name>.<field>`, `<name>.@idx`, `<name>.@elem`). `root` says that it is the root of a resource, whose
    /// apiVersion, kind, metadata.name and metadata.generateName are always known.
    pub fn from_openapi(schema: &Json, root: bool, name: &str) -> Option<DeclType> {
        declare(schema, root, name)
    }

    fn scalar(ty: Type, max_elements: i64, min_serialized_size: i64) -> DeclType {
        DeclType { ty, shape: Shape::Scalar, max_elements, min_serialized_size, nullable: false }
    }

    /// The declaration of the elements of a list or the values of a map.
    pub fn element(&self) -> Option<&DeclType> {
        match &self.shape {
            Shape::List(element, _) | Shape::Map(element) => Some(element),
            _ => None,
        }
    }

    /// The declaration of a field, by the identifier that expressions use.
    pub fn field(&self, identifier: &str) -> Option<&DeclType> {
        match &self.ty {
            Type::Object(object) => object.fields.get(identifier).map(|field| &field.decl),
            _ => None,
        }
    }
}

const MAX_STRING: i64 = MAX_REQUEST_SIZE_BYTES - 2;

fn declare(schema: &Json, root: bool, name: &str) -> Option<DeclType> {
    let mut decl = declare_inner(schema, root, name)?;
    decl.nullable = flag(schema, "nullable");
    Some(decl)
}

fn declare_inner(schema: &Json, root: bool, name: &str) -> Option<DeclType> {
    let number = |key: &str| schema.get(key).and_then(Json::as_i64).map(|n| n.max(0));
    if flag(schema, "x-kubernetes-int-or-string") {
        let max = number("maxLength").map_or(MAX_STRING, |n| n.saturating_mul(4));
        return Some(DeclType {
            ty: Type::Dyn,
            shape: Shape::IntOrString,
            max_elements: max,
            min_serialized_size: 1,
            nullable: false,
        });
    }
    let kind = schema.get("type").and_then(Json::as_str).unwrap_or_default();
    match kind {
        "array" => {
            let items = schema.get("items").filter(|items| items.is_object())?;
            let element = declare(items, embedded(items), &format!("{name}.@idx"))?;
            let max = number("maxItems").unwrap_or((MAX_REQUEST_SIZE_BYTES - 2) / (element.min_serialized_size + 1));
            let list = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(strings(schema.get("x-kubernetes-list-map-keys"))),
                _ => ListKind::Atomic,
            };
            Some(DeclType {
                ty: Type::list(element.ty.clone()),
                shape: Shape::List(Arc::new(element), list),
                max_elements: max,
                min_serialized_size: 2,
                nullable: false,
            })
        }
        "object" => {
            if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
                let value = declare(values, embedded(values), &format!("{name}.@elem"))?;
                let max =
                    number("maxProperties").unwrap_or((MAX_REQUEST_SIZE_BYTES - 2) / (value.min_serialized_size + 6));
                return Some(DeclType {
                    ty: Type::map(Type::String, value.ty.clone()),
                    shape: Shape::Map(Arc::new(value)),
                    max_elements: max,
                    min_serialized_size: 2,
                    nullable: false,
                });
            }
            Some(declare_object(schema, root, name))
        }
        "string" => Some(match schema.get("format").and_then(Json::as_str).unwrap_or_default() {
            "byte" => DeclType::scalar(Type::Bytes, number("maxLength").unwrap_or(MAX_STRING), 2),
            "duration" => DeclType::scalar(Type::Duration, 32, 3),
            "date" => DeclType::scalar(Type::Timestamp, 12, 12),
            "date-time" => DeclType::scalar(Type::Timestamp, 32, 21),
            _ => {
                let longest = || {
                    let values = schema.get("enum").and_then(Json::as_array).filter(|values| !values.is_empty())?;
                    Some(values.iter().filter_map(Json::as_str).map(|v| v.len() as i64).max().unwrap_or(0))
                };
                let max = number("maxLength").map(|n| n.saturating_mul(4)).or_else(longest).unwrap_or(MAX_STRING);
                DeclType::scalar(Type::String, max, 2)
            }
        }),
        "boolean" => Some(DeclType::scalar(Type::Bool, 0, 4)),
        "number" => Some(DeclType::scalar(Type::Double, 0, 1)),
        "integer" => Some(DeclType::scalar(Type::Int, 0, 1)),
        _ => None,
    }
}

fn declare_object(schema: &Json, root: bool, name: &str) -> DeclType {
    let required = strings(schema.get("required"));
    let mut size = 2;
    let mut fields = BTreeMap::new();
    let mut add = |property: &str, decl: DeclType, has_default: bool| {
        let needed = required.iter().any(|r| r == property);
        if needed && !has_default {
            size += property.len() as i64 + decl.min_serialized_size + 4;
        }
        if let Some(identifier) = escape(property) {
            fields.insert(identifier, Field { decl, required: needed });
        }
    };
    // A root that does not declare all of its identity itself gets upstream's.
    let identity = root && !declares_identity(schema);
    for (property, child) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
        if identity && matches!(property.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let path = escape(property).map_or_else(|| name.to_owned(), |identifier| format!("{name}.{identifier}"));
        if let Some(decl) = declare(child, embedded(child), &path) {
            add(property, decl, child.get("default").is_some_and(|d| !d.is_null()));
        }
    }
    if identity {
        add("apiVersion", DeclType::scalar(Type::String, MAX_STRING, 2), false);
        add("kind", DeclType::scalar(Type::String, MAX_STRING, 2), false);
        add("metadata", metadata(name), false);
    }
    DeclType {
        ty: Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields, open: false })),
        shape: Shape::Object,
        max_elements: 0,
        min_serialized_size: size,
        nullable: false,
    }
}

fn declares_identity(schema: &Json) -> bool {
    let kind = |path: &str| schema.pointer(path).and_then(Json::as_str).unwrap_or_default();
    kind("/properties/kind/type") == "string"
        && kind("/properties/apiVersion/type") == "string"
        && kind("/properties/metadata/type") == "object"
        && kind("/properties/metadata/properties/name/type") == "string"
        && kind("/properties/metadata/properties/generateName/type") == "string"
}

/// The metadata of a resource root: name and generateName.
fn metadata(name: &str) -> DeclType {
    let fields = ["name", "generateName"]
        .into_iter()
        .map(|field| {
            let decl = DeclType::scalar(Type::String, MAX_STRING, 2);
            (field.to_owned(), Field { decl, required: false })
        })
        .collect();
    DeclType {
        ty: Type::Object(Arc::new(ObjectType { name: format!("{name}.metadata"), fields, open: false })),
        shape: Shape::Object,
        max_elements: 0,
        min_serialized_size: 2,
        nullable: false,
    }
}

fn embedded(schema: &Json) -> bool {
    flag(schema, "x-kubernetes-embedded-resource")
}

fn flag(schema: &Json, key: &str) -> bool {
    schema.get(key).and_then(Json::as_bool).unwrap_or(false)
}

fn strings(value: Option<&Json>) -> Vec<String> {
    value.and_then(Json::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
