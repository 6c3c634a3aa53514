//! Messages as the JSON they stand for.
//!
//! Invariants:
//! - PD-1: unknown fields are skipped; a field that comes again replaces a scalar and merges into a message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::table::{self, Entry, What};
use super::wire::{Reader, Wire, varint};
use super::{Envelope, Error, MAGIC, MAX_DEPTH};
use crate::decode::{json, node};
use crate::schema::{Field, Object, ObjectId, Schema, Table, Type, builtin_schema_for};

pub fn message(bytes: &[u8], schema: &Schema, depth: usize) -> Result<Value, Error> {
    let mut out = Map::new();
    let decoder = Decoder { table: &schema.table, depth };
    if table::knows(schema) {
        decoder.fields(bytes, &schema.table.objects[schema.root as usize], table::layout(schema.root), &mut out)?;
    }
    Ok(Value::Object(out))
}

/// An object in its envelope.
pub fn object(bytes: &[u8], depth: usize) -> Result<Value, Error> {
    let envelope = Envelope::open(bytes)?;
    let gvk = envelope.gvk();
    let mut value = match builtin_schema_for(&gvk.group, &gvk.version, &gvk.kind) {
        Some(schema) => message(envelope.raw, &schema, depth)?,
        None => Value::Object(Map::new()),
    };
    if let Some(map) = value.as_object_mut() {
        for (key, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
            if !text.is_empty() {
                map.insert(key.into(), text.into());
            }
        }
    }
    Ok(value)
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    table: &'a Table,
    depth: usize,
}

impl<'a> Decoder<'a> {
    fn deeper(self) -> Result<Self, Error> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn fields(
        self,
        bytes: &[u8],
        object: &'a Object,
        entries: &[Entry],
        out: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        let mut reader = Reader::new(bytes, &object.name);
        while let Some((number, wire)) = reader.next()? {
            let Some(entry) = entries.iter().find(|e| u32::from(e.number) == number) else { continue };
            match entry.what {
                What::Field(at) | What::Always(at) => self.field(&object.fields[usize::from(at)], wire, out)?,
                What::Alone(at) => {
                    let field = &object.fields[usize::from(at)];
                    let items = self.items(wire.bytes(&field.name)?, &field.ty)?;
                    out.insert(field.name.to_string(), items);
                }
                What::Inlined(at) => {
                    let entries = table::inlined(usize::from(at));
                    self.deeper()?.fields(wire.bytes(&object.name)?, object, entries, out)?;
                }
            }
        }
        Ok(())
    }

    fn field(self, field: &'a Field, wire: Wire<'_>, out: &mut Map<String, Value>) -> Result<(), Error> {
        let name = field.name.as_ref();
        match &field.ty {
            Type::List(_) | Type::Map(_) => self.repeated(field, wire, out),
            ty => {
                let value = self.value(ty, name, wire, out.remove(name))?;
                out.insert(name.to_string(), value);
                Ok(())
            }
        }
    }

    fn repeated(self, field: &'a Field, wire: Wire<'_>, out: &mut Map<String, Value>) -> Result<(), Error> {
        let name = field.name.as_ref();
        match &field.ty {
            Type::List(list) => {
                let slot = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = slot else { return Ok(()) };
                match (&list.item, wire) {
                    // numbers may come packed
                    (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(mut packed)) => {
                        while !packed.is_empty() {
                            let number = Wire::Varint(varint(&mut packed)?);
                            items.push(self.value(&list.item, name, number, None)?);
                        }
                    }
                    _ => items.push(self.value(&list.item, name, wire, None)?),
                }
            }
            Type::Map(map) => {
                let (key, value) = self.entry(wire.bytes(name)?, name, &map.value)?;
                let slot = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = slot {
                    entries.insert(key, value);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// An entry of a map: a message of key and value, either of which may be missing.
    fn entry(self, bytes: &[u8], name: &str, ty: &'a Type) -> Result<(String, Value), Error> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes, name);
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => key = wire.text(name)?,
                2 => value = Some(self.value(ty, name, wire, value)?),
                _ => {}
            }
        }
        let zero = || match ty {
            Type::Bool => Wire::Varint(0),
            Type::Int32 | Type::Int64 => Wire::Varint(0),
            Type::Float => Wire::Fixed64(0),
            _ => Wire::Bytes(&[]),
        };
        Ok((key, value.map_or_else(|| self.value(ty, name, zero(), None), Ok)?))
    }

    /// `before`: what an earlier occurrence of the field gave.
    fn value(self, ty: &'a Type, name: &str, wire: Wire<'_>, before: Option<Value>) -> Result<Value, Error> {
        // containers recurse from here, in a frame that holds little else
        match ty {
            Type::Object(id) => self.object(*id, wire.bytes(name)?, before),
            // inside a map or a list these are messages with one list
            Type::List(_) => self.items(wire.bytes(name)?, ty),
            _ => self.scalar(ty, name, wire),
        }
    }

    fn scalar(self, ty: &Type, name: &str, wire: Wire<'_>) -> Result<Value, Error> {
        Ok(match ty {
            Type::String => Value::String(wire.text(name)?),
            Type::Bytes => Value::String(STANDARD.encode(wire.bytes(name)?)),
            Type::Bool => Value::Bool(wire.varint(name)? != 0),
            Type::Int32 => Value::from(wire.varint(name)? as i32),
            Type::Int64 => Value::from(wire.varint(name)? as i64),
            Type::Float => float(wire.double(name)?)?,
            Type::Quantity => quantity(wire.bytes(name)?)?,
            Type::IntOrString => int_or_string(wire.bytes(name)?)?,
            Type::Time => time(wire.bytes(name)?, false)?,
            Type::MicroTime => time(wire.bytes(name)?, true)?,
            Type::Duration => duration(wire.bytes(name)?)?,
            Type::FieldsV1 | Type::Any => self.raw(wire.bytes(name)?)?,
            Type::Object(_) | Type::List(_) | Type::Map(_) => return Err(wire.wrong(name)),
        })
    }

    fn object(self, id: ObjectId, bytes: &[u8], before: Option<Value>) -> Result<Value, Error> {
        let inside = self.deeper()?;
        let object = &self.table.objects[id as usize];
        if object.or_any {
            return inside.variant(&object.name, id, bytes);
        }
        let mut out = match before {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        inside.fields(bytes, object, table::layout(id), &mut out)?;
        Ok(Value::Object(out))
    }

    /// A schema, or what stands in its place: a bool, a list of schemas, a list of names.
    fn variant(self, name: &str, id: ObjectId, bytes: &[u8]) -> Result<Value, Error> {
        let bool_first = name.ends_with("OrBool");
        let schema_id = schema_of_variant(self.table, id);
        let (mut allows, mut schema, mut list) = (false, None, Vec::new());
        let mut reader = Reader::new(bytes, name);
        while let Some((number, wire)) = reader.next()? {
            match (number, bool_first) {
                (1, true) => allows = wire.varint("Allows")? != 0,
                (1, false) | (2, true) => schema = Some(self.object(schema_id, wire.bytes("Schema")?, schema)?),
                (2, false) if name.ends_with("OrStringArray") => list.push(Value::String(wire.text("Property")?)),
                (2, false) => list.push(self.object(schema_id, wire.bytes("JSONSchemas")?, None)?),
                _ => {}
            }
        }
        Ok(match schema {
            // Go's encoder prefers the list, and the schema to the bool
            _ if !list.is_empty() => Value::Array(list),
            Some(schema) => schema,
            None if bool_first => Value::Bool(allows),
            None => Value::Null,
        })
    }

    /// A message that is only a list.
    fn items(self, bytes: &[u8], ty: &'a Type) -> Result<Value, Error> {
        let inside = self.deeper()?;
        let mut items = Vec::new();
        let mut reader = Reader::new(bytes, "Items");
        while let Some((number, wire)) = reader.next()? {
            if let (1, Type::List(list)) = (number, ty) {
                items.push(inside.value(&list.item, "items", wire, None)?);
            }
        }
        Ok(Value::Array(items))
    }

    /// RawExtension, JSON and FieldsV1: bytes that are JSON, or an object in its envelope.
    fn raw(self, bytes: &[u8]) -> Result<Value, Error> {
        let mut raw: &[u8] = &[];
        let mut reader = Reader::new(bytes, "RawExtension");
        while let Some((number, wire)) = reader.next()? {
            if number == 1 {
                raw = wire.bytes("Raw")?;
            }
        }
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        if raw.starts_with(MAGIC) {
            return object(raw, self.deeper()?.depth);
        }
        json::parse(raw).map(node::Node::into_value).map_err(Error::Value)
    }
}

/// The type of the schema inside JSONSchemaPropsOrBool and its like: they stand right behind it in the table.
pub fn schema_of_variant(table: &Table, id: ObjectId) -> ObjectId {
    let name = table.objects[id as usize].name.as_ref();
    let plain = name.rfind("Or").map_or(name, |at| &name[..at]);
    table.objects.binary_search_by(|o| o.name.as_ref().cmp(plain)).map_or(id, |at| at as ObjectId)
}

fn float(f: f64) -> Result<Value, Error> {
    let number = Number::from_f64(f).ok_or_else(|| Error::Value(format!("json: unsupported value: {f}")))?;
    Ok(Value::Number(node::number(&crate::goformat::number(&number))))
}

fn quantity(bytes: &[u8]) -> Result<Value, Error> {
    let mut text = "0".to_string();
    let mut reader = Reader::new(bytes, "Quantity");
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            text = wire.text("String_")?;
        }
    }
    Ok(Value::String(text))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Error> {
    let (mut ty, mut int, mut text) = (0, 0, String::new());
    let mut reader = Reader::new(bytes, "IntOrString");
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => ty = wire.varint("Type")?,
            2 => int = wire.varint("IntVal")? as i32,
            3 => text = wire.text("StrVal")?,
            _ => {}
        }
    }
    match ty {
        0 => Ok(int.into()),
        1 => Ok(text.into()),
        _ => Err(Error::Value("impossible IntOrString.Type".into())),
    }
}

fn time(bytes: &[u8], micro: bool) -> Result<Value, Error> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes, "Timestamp");
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => seconds = wire.varint("Seconds")? as i64,
            2 => nanos = wire.varint("Nanos")? as i32,
            _ => {}
        }
    }
    let outside = || Error::Value("Time.MarshalJSON: year outside of range [0,9999]".into());
    // Go's times carry what is more than a second
    let seconds = seconds.checked_add(i64::from(nanos.div_euclid(1_000_000_000))).filter(|_| micro).unwrap_or(seconds);
    let nanos = if micro { nanos.rem_euclid(1_000_000_000) } else { 0 };
    let time = Timestamp::new(seconds, 0).map_err(|_| outside())?;
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    if time.year() < 0 {
        return Err(outside());
    }
    let fraction = if micro { format!(".{:06}", nanos / 1000) } else { String::new() };
    Ok(Value::String(format!("{}{fraction}Z", time.strftime("%Y-%m-%dT%H:%M:%S"))))
}

fn duration(bytes: &[u8]) -> Result<Value, Error> {
    let mut nanos = 0;
    let mut reader = Reader::new(bytes, "Duration");
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            nanos = wire.varint("Duration")? as i64;
        }
    }
    Ok(Value::String(crate::duration::format_go(nanos)))
}
