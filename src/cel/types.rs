//! CEL's types as the checker, the values and the callers see them.
//!
//! Invariants:
//! - CEL-T1: `Display` prints what cel-go's `Type.String()` prints ("google.protobuf.Timestamp"), which is what
//!   "must evaluate to bool but got …" shows; [`Type::format`] prints what checker messages show ("timestamp").

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::schema::DeclType;

/// A CEL type.
#[derive(Debug, Clone)]
pub enum Type {
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    Null,
    Dyn,
    /// The type of an expression that failed to check.
    Error,
    /// The type of a type; `None` where the inner type is not known.
    Type(Option<Arc<Type>>),
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// An object with known fields (equal by name).
    Object(Arc<ObjectType>),
    /// An opaque type of a library, by its full name (`kubernetes.Quantity`, `net.IP`, …).
    Opaque(&'static str),
    /// A type parameter; a number for those that the checker makes.
    Param(Param),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Param {
    Named(&'static str),
    Fresh(u32),
}

/// An object type: its name and its fields, by the names that an expression uses (escaped).
#[derive(Debug)]
pub struct ObjectType {
    pub name: String,
    pub fields: BTreeMap<String, Field>,
    /// Any field name is allowed and dyn: `Object`, `Object.spec`, … of a MutatingAdmissionPolicy.
    pub open: bool,
}

#[derive(Debug, Clone)]
pub struct Field {
    pub decl: DeclType,
    pub required: bool,
}

impl Type {
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// An object type of the named fields.
    pub fn object<N: Into<String>>(name: &str, fields: impl IntoIterator<Item = (N, Type)>) -> Type {
        let fields = fields
            .into_iter()
            .map(|(field, ty)| (field.into(), Field { decl: DeclType::of(ty), required: false }))
            .collect();
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields, open: false }))
    }

    /// What the checker's messages call this type.
    pub fn format(&self) -> String {
        match self {
            Type::Duration => "duration".to_owned(),
            Type::Timestamp => "timestamp".to_owned(),
            Type::Null => "null".to_owned(),
            Type::Error => "!error!".to_owned(),
            Type::Type(Some(inner)) => format!("type({})", inner.format()),
            Type::List(element) => format!("list({})", element.format()),
            Type::Map(key, value) => format!("map({}, {})", key.format(), value.format()),
            Type::Optional(inner) => format!("optional_type({})", inner.format()),
            _ => self.to_string(),
        }
    }

    /// The name of the type of a value, without parameters: what `type(x)` compares by.
    pub fn name(&self) -> &str {
        match self {
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Null => "null_type",
            Type::Dyn => "dyn",
            Type::Error => "!error!",
            Type::Type(_) => "type",
            Type::List(_) => "list",
            Type::Map(..) => "map",
            Type::Optional(_) => "optional_type",
            Type::Object(object) => &object.name,
            Type::Opaque(name) => name,
            Type::Param(Param::Named(name)) => name,
            Type::Param(Param::Fresh(_)) => "_var",
        }
    }

    /// The same type (parameters included); dyn equals dyn only.
    pub fn is_exactly(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.is_exactly(b),
            (Type::Map(a, b), Type::Map(c, d)) => a.is_exactly(c) && b.is_exactly(d),
            (Type::Type(Some(a)), Type::Type(Some(b))) => a.is_exactly(b),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::Param(a), Type::Param(b)) => a == b,
            (Type::Param(_), _) | (_, Type::Param(_)) => false,
            _ => self.name() == other.name(),
        }
    }

    pub fn is_bool(&self) -> bool {
        matches!(self, Type::Bool)
    }

    pub fn is_string(&self) -> bool {
        matches!(self, Type::String)
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Type(Some(inner)) => write!(out, "type({inner})"),
            Type::List(element) => write!(out, "list({element})"),
            Type::Map(key, value) => write!(out, "map({key}, {value})"),
            Type::Optional(inner) => write!(out, "optional_type({inner})"),
            Type::Param(Param::Fresh(number)) => write!(out, "_var{number}"),
            _ => out.write_str(self.name()),
        }
    }
}
