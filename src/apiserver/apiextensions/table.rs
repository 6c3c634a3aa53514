//! The schema of a custom resource in the form that managed fields and server-side apply work with.
//!
//! Invariants:
//! - XT-1: the types of metadata come first in the table, ObjectMeta at [`META`].

use std::borrow::Cow;
use std::sync::Arc;

use apimachinery::decode::object_meta;
use apimachinery::schema::{
    Field, ListOf, ListType as Merge, MapOf, MapType, Object, ObjectId, Schema, Shared, Str, Table, Type,
};

use super::structural::{ListType, Node, Ty};

/// The schema of the whole object: its own fields and the metadata every object has.
pub fn of(root: &Node) -> Schema {
    let mut builder = Builder { objects: Vec::new() };
    builder.copy(object_meta(), object_meta().root, &mut Vec::new());
    let id = builder.object(root, true);
    Schema { table: Arc::new(Table { objects: Cow::Owned(builder.objects) }), root: id }
}

/// Where metadata's type is.
const META: ObjectId = 0;

struct Builder {
    objects: Vec<Object>,
}

impl Builder {
    fn push(&mut self, object: Object) -> ObjectId {
        self.objects.push(object);
        (self.objects.len() - 1) as ObjectId
    }

    /// Copies an object type and all it needs from another table. `known`: what was copied already.
    fn copy(&mut self, from: &Schema, id: ObjectId, known: &mut Vec<(ObjectId, ObjectId)>) -> ObjectId {
        if let Some((_, copied)) = known.iter().find(|(old, _)| *old == id) {
            return *copied;
        }
        let object = from.table.objects[id as usize].clone();
        let copied = self.push(object.clone());
        known.push((id, copied));
        let fields: Vec<Field> = object
            .fields
            .iter()
            .map(|field| Field { ty: self.copy_type(from, &field.ty, known), ..field.clone() })
            .collect();
        self.objects[copied as usize].fields = fields.into();
        copied
    }

    fn copy_type(&mut self, from: &Schema, ty: &Type, known: &mut Vec<(ObjectId, ObjectId)>) -> Type {
        match ty {
            Type::Object(id) => Type::Object(self.copy(from, *id, known)),
            Type::List(list) => {
                let item = self.copy_type(from, &list.item, known);
                Type::List(Shared::new(ListOf { item, list_type: list.list_type, keys: list.keys.clone() }))
            }
            Type::Map(map) => {
                let value = self.copy_type(from, &map.value, known);
                Type::Map(Shared::new(MapOf { value, map_type: map.map_type }))
            }
            other => other.clone(),
        }
    }

    /// `whole`: an object with type and metadata.
    fn object(&mut self, node: &Node, whole: bool) -> ObjectId {
        let mut fields: Vec<Field> = Vec::with_capacity(node.properties.len());
        for (name, child) in &node.properties {
            if whole && matches!(name.as_ref(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let ty = self.ty(child);
            let default = child.default.as_ref().map(|value| Str::Owned(value.to_string()));
            fields.push(Field { default, ..Field::new(name.to_string(), ty) });
        }
        if whole {
            fields.push(Field::new("apiVersion", Type::String));
            fields.push(Field::new("kind", Type::String));
            fields.push(Field::new("metadata", Type::Object(META)));
        }
        let mut object = Object::new("", fields);
        object.map_type = if node.atomic_map { MapType::Atomic } else { MapType::Granular };
        object.preserve_unknown = node.preserve_unknown;
        if let Some(additional) = node.additional.as_deref() {
            object.additional = Some(self.ty(additional));
        }
        self.push(object)
    }

    fn ty(&mut self, node: &Node) -> Type {
        match node.ty {
            Ty::String => Type::String,
            Ty::Integer => Type::Int64,
            Ty::Number => Type::Float,
            Ty::Boolean => Type::Bool,
            Ty::IntOrString => Type::IntOrString,
            Ty::Array => {
                let item = node.items.as_deref().map_or(Type::Any, |item| self.ty(item));
                let list_type = match node.list_type {
                    ListType::Atomic => Merge::Atomic,
                    ListType::Set => Merge::Set,
                    ListType::Map => Merge::Map,
                };
                let keys = node.list_keys.iter().map(|key| Str::Owned(key.to_string())).collect();
                Type::list(ListOf { item, list_type, keys })
            }
            Ty::Object if node.embedded => Type::Object(self.object(node, true)),
            Ty::Object if node.properties.is_empty() => {
                let value = node.additional.as_deref().map_or(Type::Any, |value| self.ty(value));
                let map_type = if node.atomic_map { MapType::Atomic } else { MapType::Granular };
                Type::map(MapOf { value, map_type })
            }
            Ty::Object => Type::Object(self.object(node, false)),
            Ty::Any => Type::Any,
        }
    }
}
