//! Structural schemas: what a field is, how lists and maps merge, what is defaulted. One model for built-in kinds
//! (static tables generated from `data/`) and for custom resources (built at run time).
//!
//! A [`Schema`] is a cheap handle: a table and the root type in it. [`Node`] walks it.

mod builtin;

pub use builtin::{builtin, builtin_schema, builtin_schema_for};

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

pub type Str = Cow<'static, str>;
/// Index of an [`Object`] in its table.
pub type ObjectId = u32;

/// All object types of one world (the built-in kinds, or one custom resource version).
#[derive(Debug)]
pub struct Table {
    pub objects: Cow<'static, [Object]>,
}

/// An object type: named fields, sorted by name.
#[derive(Debug, Clone)]
pub struct Object {
    /// OpenAPI definition name (`io.k8s.api.core.v1.Pod`); empty for anonymous ones.
    pub name: Str,
    pub fields: Cow<'static, [Field]>,
    pub map_type: MapType,
    /// Unknown fields are kept (custom resources).
    pub preserve_unknown: bool,
    /// What a value under an unnamed key is (an object that also has additionalProperties); usually `None`.
    pub additional: Option<Type>,
    /// Names of required fields of a custom resource; built-in types have [`Field::required`] instead.
    pub required: Cow<'static, [Str]>,
    /// A value of another JSON type is kept as it is (JSONSchemaPropsOrBool and its like).
    pub or_any: bool,
}

impl Object {
    /// An object with these fields, granular, nothing else allowed.
    pub fn new(name: impl Into<Str>, mut fields: Vec<Field>) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields.shrink_to_fit();
        Self {
            name: name.into(),
            fields: fields.into(),
            map_type: MapType::default(),
            preserve_unknown: false,
            additional: None,
            required: Cow::Borrowed(&[]),
            or_any: false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Field {
    pub name: Str,
    pub ty: Type,
    /// JSON text of the OpenAPI default, if any.
    pub default: Option<Str>,
    pub patch_strategy: PatchStrategy,
    pub patch_merge_key: Option<Str>,
    pub required: bool,
    /// A pointer in Go: an explicit zero value is kept.
    pub pointer: bool,
    /// Written even when empty: as null, "", 0, false or {}.
    pub always: bool,
    /// Place in the Go struct, from 0.
    pub order: u8,
    /// Name of the Go type if it is not the plain one for `ty` (`v1.PullPolicy`).
    pub go_type: Option<Str>,
}

impl Field {
    /// A field without defaults or merge rules; what is given is kept as it is.
    pub fn new(name: impl Into<Str>, ty: Type) -> Self {
        Self {
            name: name.into(),
            ty,
            default: None,
            patch_strategy: PatchStrategy::default(),
            patch_merge_key: None,
            required: false,
            pointer: true,
            always: false,
            order: 0,
            go_type: None,
        }
    }
}

/// What a value may be.
#[derive(Debug, Clone)]
pub enum Type {
    String,
    /// Base64 in JSON.
    Bytes,
    Bool,
    Int32,
    Int64,
    Float,
    Quantity,
    IntOrString,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Go duration text (`5m0s`).
    Duration,
    /// metav1.FieldsV1: an object kept as it is.
    FieldsV1,
    /// Any JSON (RawExtension, JSON, x-kubernetes-preserve-unknown-fields without properties).
    Any,
    Object(ObjectId),
    Map(Shared<MapOf>),
    List(Shared<ListOf>),
}

impl Type {
    pub fn list(list: ListOf) -> Self {
        Self::List(Shared::new(list))
    }

    pub fn map(map: MapOf) -> Self {
        Self::Map(Shared::new(map))
    }
}

/// A part of a type that many types may share: static, or counted.
#[derive(Debug)]
pub enum Shared<T: 'static> {
    Static(&'static T),
    Counted(Arc<T>),
}

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        Self::Counted(Arc::new(value))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Static(value) => Self::Static(value),
            Self::Counted(value) => Self::Counted(value.clone()),
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Self::Static(value) => value,
            Self::Counted(value) => value,
        }
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

#[derive(Debug, Clone)]
pub struct MapOf {
    pub value: Type,
    pub map_type: MapType,
}

#[derive(Debug, Clone)]
pub struct ListOf {
    pub item: Type,
    pub list_type: ListType,
    /// For [`ListType::Map`]: the fields that identify an item.
    pub keys: Cow<'static, [Str]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MapType {
    #[default]
    Granular,
    Atomic,
}

/// x-kubernetes-patch-strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
}

/// A root object type in a table.
#[derive(Debug, Clone)]
pub struct Schema {
    pub table: Arc<Table>,
    pub root: ObjectId,
}

impl Schema {
    pub fn root(&self) -> Node<'_> {
        Node { table: &self.table, ty: NodeType::Object(self.root) }
    }

    pub fn root_object(&self) -> &Object {
        &self.table.objects[self.root as usize]
    }
}

/// A position in a schema while walking a value.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    pub table: &'a Table,
    pub ty: NodeType<'a>,
}

/// The root is an object without a field around it, hence this split.
#[derive(Debug, Clone, Copy)]
pub enum NodeType<'a> {
    Object(ObjectId),
    Type(&'a Type),
}

impl<'a> Node<'a> {
    pub fn of(table: &'a Table, ty: &'a Type) -> Self {
        match ty {
            Type::Object(id) => Self { table, ty: NodeType::Object(*id) },
            other => Self { table, ty: NodeType::Type(other) },
        }
    }

    /// The object type here, if this is an object with named fields.
    pub fn object(&self) -> Option<&'a Object> {
        match self.ty {
            NodeType::Object(id) => self.table.objects.get(id as usize),
            NodeType::Type(_) => None,
        }
    }

    pub fn list(&self) -> Option<&'a ListOf> {
        match self.ty {
            NodeType::Type(Type::List(list)) => Some(list),
            _ => None,
        }
    }

    pub fn map(&self) -> Option<&'a MapOf> {
        match self.ty {
            NodeType::Type(Type::Map(map)) => Some(map),
            _ => None,
        }
    }

    pub fn field(&self, name: &str) -> Option<&'a Field> {
        let fields = &self.object()?.fields;
        let at = fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok()?;
        Some(&fields[at])
    }

    /// The node below `key`: a named field, a map value, or an additional property.
    pub fn child(&self, key: &str) -> Option<Node<'a>> {
        if let Some(field) = self.field(key) {
            return Some(Node::of(self.table, &field.ty));
        }
        if let Some(map) = self.map() {
            return Some(Node::of(self.table, &map.value));
        }
        self.object()?.additional.as_ref().map(|ty| Node::of(self.table, ty))
    }

    /// The node of a list's items.
    pub fn item(&self) -> Option<Node<'a>> {
        self.list().map(|list| Node::of(self.table, &list.item))
    }
}
