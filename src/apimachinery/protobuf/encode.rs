//! JSON as messages, written back to front.
//!
//! Invariants:
//! - PE-1: the map entries of a message come in key order, its fields in number order.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::decode::schema_of_variant;
use super::table::{self, Entry, What};
use super::wire::{Scalar, Writer};
use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::schema::{Field, Object, ObjectId, Schema, Table, Type, builtin, builtin_schema, builtin_schema_for};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

pub fn message(out: &mut Writer, value: &Value, schema: &Schema) {
    let encoder = Encoder { table: builtin() };
    if let (Value::Object(map), true) = (value, table::knows(schema)) {
        encoder.fields(out, map, schema.root_object(), table::layout(schema.root));
    }
}

/// A list: its metadata is field 1 and its items are field 2, whatever the kind.
pub fn list(out: &mut Writer, schema: &Schema, metadata: &Value, items: impl DoubleEndedIterator<Item = Value>) {
    for item in items.rev() {
        out.message(2, |out| message(out, &item, schema));
    }
    out.message(1, |out| {
        if let Some(schema) = builtin_schema(LIST_META) {
            message(out, metadata, &schema);
        }
    });
}

/// The content of an object by its type; `None`: it has no protobuf form.
pub fn object(out: &mut Writer, value: &Value, api_version: &str, kind: &str) -> Option<()> {
    // the list of core versions has no apiVersion
    let api_version = if api_version.is_empty() { "v1" } else { api_version };
    let gvk = GroupVersion::parse(api_version).ok()?.with_kind(kind.to_string());
    if is_partial(&gvk) {
        partial(out, value, &gvk);
        return Some(());
    }
    let schema = builtin_schema_for(&gvk.group, &gvk.version, &gvk.kind).filter(table::knows)?;
    message(out, value, &schema);
    Some(())
}

/// PartialObjectMetadata and its list, which no schema document has.
pub fn is_partial(gvk: &GroupVersionKind) -> bool {
    gvk.group == "meta.k8s.io" && matches!(gvk.kind.as_str(), "PartialObjectMetadata" | "PartialObjectMetadataList")
}

fn partial(out: &mut Writer, value: &Value, gvk: &GroupVersionKind) {
    let metadata = |out: &mut Writer, value: &Value, number: u32, definition: &str| {
        let end = out.len();
        if let Some(schema) = builtin_schema(definition) {
            let empty = Value::Object(Map::new());
            message(out, value.get("metadata").filter(|m| m.is_object()).unwrap_or(&empty), &schema);
        }
        out.close(number, end);
    };
    if gvk.kind == "PartialObjectMetadata" {
        return metadata(out, value, 1, OBJECT_META);
    }
    let items = |out: &mut Writer, number: u32| {
        for item in value.get("items").and_then(Value::as_array).into_iter().flatten().rev() {
            out.message(number, |out| metadata(out, item, 1, OBJECT_META));
        }
    };
    // the two versions disagree
    if gvk.version == "v1beta1" {
        metadata(out, value, 2, LIST_META);
        items(out, 1);
    } else {
        items(out, 2);
        metadata(out, value, 1, LIST_META);
    }
}

#[derive(Clone, Copy)]
struct Encoder<'a> {
    table: &'a Table,
}

impl Encoder<'_> {
    fn fields(self, out: &mut Writer, map: &Map<String, Value>, object: &Object, entries: &[Entry]) {
        for entry in entries.iter().rev() {
            let number = u32::from(entry.number);
            match entry.what {
                What::Field(at) => {
                    let field = &object.fields[usize::from(at)];
                    let value = map.get(field.name.as_ref()).filter(|v| !v.is_null());
                    self.field(out, number, field, value);
                }
                What::Always(at) => {
                    let field = &object.fields[usize::from(at)];
                    self.value(out, number, &field.ty, map.get(field.name.as_ref()).unwrap_or(&Value::Null));
                }
                What::Alone(at) => {
                    let field = &object.fields[usize::from(at)];
                    if let Some(value) = map.get(field.name.as_ref()).filter(|v| v.is_array()) {
                        self.value(out, number, &field.ty, value);
                    }
                }
                What::Inlined(at) => {
                    out.message(number, |out| self.fields(out, map, object, table::inlined(usize::from(at))));
                }
            }
        }
    }

    fn field(self, out: &mut Writer, number: u32, field: &Field, value: Option<&Value>) {
        match (&field.ty, value) {
            (Type::List(list), Some(Value::Array(items))) => {
                for item in items.iter().rev() {
                    self.value(out, number, &list.item, item);
                }
            }
            (Type::Map(of), Some(Value::Object(entries))) => {
                for (key, value) in entries.iter().rev() {
                    out.message(number, |out| {
                        self.value(out, 2, &of.value, value);
                        out.field(1, Scalar::Bytes(key.as_bytes()));
                    });
                }
            }
            (Type::List(_) | Type::Map(_), _) => {}
            // what is no pointer is always there, except bytes
            (ty, None) if !field.pointer && !matches!(ty, Type::Bytes) => self.value(out, number, ty, &Value::Null),
            (_, None) => {}
            (ty, Some(value)) => self.value(out, number, ty, value),
        }
    }

    /// One value, the zero value if it does not fit its type.
    fn value(self, out: &mut Writer, number: u32, ty: &Type, value: &Value) {
        // objects recurse from here, in a frame that holds little else
        match ty {
            Type::Object(id) => {
                let end = out.len();
                self.object(out, *id, value);
                out.close(number, end);
            }
            Type::List(list) => {
                let end = out.len();
                for item in value.as_array().into_iter().flatten().rev() {
                    self.value(out, 1, &list.item, item);
                }
                out.close(number, end);
            }
            _ => scalar(out, number, ty, value),
        }
    }

    fn object(self, out: &mut Writer, id: ObjectId, value: &Value) {
        let object = &self.table.objects[id as usize];
        if object.or_any {
            return self.variant(out, id, value);
        }
        let empty = Map::new();
        self.fields(out, value.as_object().unwrap_or(&empty), object, table::layout(id));
    }

    /// See the decoder's `variant`.
    fn variant(self, out: &mut Writer, id: ObjectId, value: &Value) {
        let schema = schema_of_variant(self.table, id);
        let bool_first = self.table.objects[id as usize].name.ends_with("OrBool");
        let write = |out: &mut Writer, number: u32, value: &Value| {
            out.message(number, |out| self.object(out, schema, value));
        };
        match value {
            Value::Bool(allows) => out.field(1, Scalar::Varint(u64::from(*allows))),
            Value::Object(_) if bool_first => {
                write(out, 2, value);
                out.field(1, Scalar::Varint(1));
            }
            Value::Object(_) => write(out, 1, value),
            Value::Array(items) => {
                for item in items.iter().rev() {
                    match item {
                        Value::String(text) => out.field(2, Scalar::Bytes(text.as_bytes())),
                        item => write(out, 2, item),
                    }
                }
            }
            _ => {}
        }
    }
}

fn scalar(out: &mut Writer, number: u32, ty: &Type, value: &Value) {
    let int = || value.as_i64().unwrap_or(0);
    let text = || value.as_str().unwrap_or_default();
    match ty {
        Type::String => out.field(number, Scalar::Bytes(text().as_bytes())),
        Type::Bytes => out.field(number, Scalar::Bytes(&STANDARD.decode(text()).unwrap_or_default())),
        Type::Bool => out.field(number, Scalar::Varint(u64::from(value == &Value::Bool(true)))),
        Type::Int32 | Type::Int64 => out.field(number, Scalar::int(int())),
        Type::Float => out.field(number, Scalar::Double(value.as_f64().unwrap_or(0.0))),
        Type::Quantity => {
            let text = value.as_str().unwrap_or("0");
            out.message(number, |out| out.field(1, Scalar::Bytes(text.as_bytes())));
        }
        Type::IntOrString => out.message(number, |out| {
            out.field(3, Scalar::Bytes(text().as_bytes()));
            out.field(2, Scalar::int(int()));
            out.field(1, Scalar::int(i64::from(value.is_string())));
        }),
        Type::Time | Type::MicroTime => {
            let micro = matches!(ty, Type::MicroTime);
            out.message(number, |out| time(out, value, micro));
        }
        Type::Duration => {
            let nanos = crate::duration::parse_go(text()).unwrap_or(0);
            out.message(number, |out| out.field(1, Scalar::int(nanos)));
        }
        Type::FieldsV1 | Type::Any => out.message(number, |out| {
            if !value.is_null() {
                out.field(1, Scalar::Bytes(value.to_string().as_bytes()));
            }
        }),
        Type::Object(_) | Type::List(_) | Type::Map(_) => {}
    }
}

/// Nothing at all for no time.
fn time(out: &mut Writer, value: &Value, micro: bool) {
    let Some(time) = value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else { return };
    let nanos = if micro { i64::from(time.subsec_nanosecond()) / 1000 * 1000 } else { 0 };
    // before 1970 the two have one sign in jiff, in Go nanoseconds only count up
    let seconds = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
    let nanos = if nanos < 0 { nanos + 1_000_000_000 } else { nanos };
    out.field(2, Scalar::int(nanos));
    out.field(1, Scalar::int(seconds));
}
