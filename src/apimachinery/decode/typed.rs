//! A document checked against a schema as Go decodes JSON into a struct: unknown and repeated fields are noted, values
//! of a wrong type are errors in Go's words, quantities and times come out as upstream writes them.
//!
//! Invariants:
//! - DD-1: the first wrong type in document order is the error, except that a value which parses itself (time, quantity,
//!   int-or-string) ends decoding at once, as in Go.
//! - DD-2: a repeated object key merges into what came before; every other repeated key replaces it.

use super::node::{self, Node};
use super::time;
use crate::goformat::quote;
use crate::quantity::Quantity;
use crate::schema::{Field, Object, Schema, Table, Type};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Upstream stops noting problems after so many.
const MAX_STRICT: usize = 100;

#[derive(Debug)]
pub struct Typed {
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "metadata.name"`, in document order.
    pub strict: Vec<String>,
}

/// Err: Go's message.
pub fn decode(node: Node, schema: &Schema) -> Result<Typed, String> {
    decode_at(node, schema, "")
}

/// `at` is the path of the value in its document, for unknown and repeated fields.
pub fn decode_at(node: Node, schema: &Schema, at: &str) -> Result<Typed, String> {
    let mut decoder = Decoder {
        table: &schema.table,
        owner: "",
        fields: Vec::new(),
        path: at.to_string(),
        strict: Vec::new(),
        seen: HashSet::new(),
        wrong: None,
        itself: None,
    };
    let root = Type::Object(schema.root);
    let context = Context { ty: &root, go_type: None };
    let value = decoder.value(node, context, None)?.unwrap_or_else(|| Value::Object(Map::new()));
    match decoder.wrong {
        Some(message) => Err(message),
        None => Ok(Typed { value, strict: decoder.strict }),
    }
}

#[derive(Clone, Copy)]
struct Context<'a> {
    ty: &'a Type,
    /// The name of the Go type, where it is not the usual one.
    go_type: Option<&'a str>,
}

struct Decoder<'a> {
    table: &'a Table,
    /// Definition name of the struct whose field is being decoded.
    owner: &'a str,
    /// Names of the fields on the way, without indexes and map keys.
    fields: Vec<&'a str>,
    /// The same with indexes and map keys.
    path: String,
    strict: Vec<String>,
    seen: HashSet<String>,
    wrong: Option<String>,
    /// In a value that decodes itself: how many of `fields` lead to it.
    itself: Option<usize>,
}

impl<'a> Decoder<'a> {
    /// `None`: absent. `before` is what an earlier occurrence of the key gave.
    fn value(&mut self, node: Node, context: Context<'a>, before: Option<Value>) -> Result<Option<Value>, String> {
        if node == Node::Null {
            let keeps = matches!(context.ty, Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Float);
            return Ok(before.filter(|_| keeps));
        }
        // containers recurse from here, in a frame that holds little else
        match context.ty {
            Type::Object(id) => self.object_value(node, &self.table.objects[*id as usize], context, before),
            Type::Map(map) => self.map_value(node, &map.value, context, before),
            Type::List(list) => self.list_value(node, &list.item, context),
            _ => self.scalar(node, context),
        }
    }

    fn object_value(
        &mut self,
        node: Node,
        object: &'a Object,
        context: Context<'a>,
        before: Option<Value>,
    ) -> Result<Option<Value>, String> {
        if object.or_any {
            return self.variant(node, object);
        }
        match node {
            Node::Object(entries) => self.object(entries, object, before).map(Some),
            node => Ok(self.mismatch(&node, context)),
        }
    }

    /// JSONSchemaPropsOrArray and its like decode themselves in Go: nothing is noted inside, and errors name the way
    /// up to here.
    fn variant(&mut self, node: Node, object: &'a Object) -> Result<Option<Value>, String> {
        let outer = self.itself.replace(self.itself.unwrap_or(self.fields.len()));
        let found = match node {
            Node::Object(entries) => self.object(entries, object, None).map(Some),
            Node::Array(items) if object.name.ends_with("OrArray") => {
                let inside = |item| match item {
                    Node::Object(entries) => self.object(entries, object, None),
                    Node::Null => Ok(Value::Object(Map::new())),
                    other => {
                        Err(format!("json: cannot unmarshal {} into Go value of type v1.JSONSchemaProps", other.kind()))
                    }
                };
                items.into_iter().map(inside).collect::<Result<Vec<_>, _>>().map(|list| Some(Value::Array(list)))
            }
            Node::Bool(allows) if object.name.ends_with("OrBool") => Ok(Some(Value::Bool(allows))),
            _ if object.name.ends_with("OrBool") => Err("boolean or JSON schema expected".to_owned()),
            node @ Node::Array(_) => Ok(Some(node.into_value())),
            // Go has an empty one here, which it writes as null
            _ => Ok(None),
        };
        self.itself = outer;
        found
    }

    fn map_value(
        &mut self,
        node: Node,
        ty: &'a Type,
        context: Context<'a>,
        before: Option<Value>,
    ) -> Result<Option<Value>, String> {
        match node {
            Node::Object(entries) => self.map(entries, Context { ty, ..context }, before).map(Some),
            node => Ok(self.mismatch(&node, context)),
        }
    }

    fn list_value(&mut self, node: Node, ty: &'a Type, context: Context<'a>) -> Result<Option<Value>, String> {
        match node {
            Node::Array(items) => self.list(items, Context { ty, ..context }).map(Some),
            node => Ok(self.mismatch(&node, context)),
        }
    }

    fn scalar(&mut self, node: Node, context: Context<'a>) -> Result<Option<Value>, String> {
        Ok(match (context.ty, node) {
            (Type::Any | Type::FieldsV1, node) => Some(node.into_value()),
            (Type::String, Node::String(s)) => Some(Value::String(s)),
            (Type::Bool, Node::Bool(b)) => Some(Value::Bool(b)),
            (Type::Int32, Node::Number(text)) => self.integer::<i32>(text, context),
            (Type::Int64, Node::Number(text)) => self.integer::<i64>(text, context),
            (Type::Float, Node::Number(text)) => match text.parse::<f64>() {
                Ok(f) if f.is_finite() => Some(Value::Number(node::number(&text))),
                _ => self.mismatch_text(&format!("number {text}"), context),
            },
            (Type::Bytes, Node::String(s)) => self.bytes(&s),
            (Type::Quantity, node) => Some(Value::String(quantity(node)?.to_string())),
            (Type::IntOrString, Node::String(s)) => Some(Value::String(s)),
            (Type::IntOrString, node) => Some(int_or_string(node)?),
            (Type::Time, node) => time_value(node, false)?,
            (Type::MicroTime, node) => time_value(node, true)?,
            (Type::Duration, Node::String(s)) => {
                let nanos = crate::duration::parse_go(&s)?;
                Some(Value::String(crate::duration::format_go(nanos)))
            }
            (Type::Duration, node) => {
                return Err(format!("json: cannot unmarshal {} into Go value of type string", node.kind()));
            }
            (_, node) => self.mismatch(&node, context),
        })
    }

    fn object(
        &mut self,
        entries: Vec<(String, Node)>,
        object: &'a Object,
        before: Option<Value>,
    ) -> Result<Value, String> {
        let mut map = match before {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let mut given: HashSet<&'a str> = HashSet::new();
        let owner = std::mem::replace(&mut self.owner, &object.name);
        for (key, node) in entries {
            match find(object, &key) {
                Some(field) => {
                    let again = !given.insert(&field.name);
                    self.field(field, node, again, &mut map)?;
                    // values inside have made themselves the owner
                    self.owner = &object.name;
                }
                None => self.unnamed(key, node, object, &mut map)?,
            }
        }
        self.owner = owner;
        Ok(Value::Object(map))
    }

    fn field(&mut self, field: &'a Field, node: Node, again: bool, map: &mut Map<String, Value>) -> Result<(), String> {
        let length = self.enter(&field.name);
        if again {
            self.note("duplicate");
        }
        self.fields.push(&field.name);
        let context = Context { ty: &field.ty, go_type: field.go_type.as_deref() };
        let before = map.remove(field.name.as_ref());
        if let Some(value) = self.value(node, context, before)? {
            map.insert(field.name.to_string(), value);
        }
        self.fields.pop();
        self.path.truncate(length);
        Ok(())
    }

    /// A key that is not a field.
    fn unnamed(
        &mut self,
        key: String,
        node: Node,
        object: &'a Object,
        map: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let length = self.enter(&key);
        if let Some(ty) = &object.additional {
            if let Some(value) = self.value(node, Context { ty, go_type: None }, None)? {
                map.insert(key, value);
            }
        } else if object.preserve_unknown {
            map.insert(key, node.into_value());
        } else {
            self.note("unknown");
        }
        self.path.truncate(length);
        Ok(())
    }

    fn map(
        &mut self,
        entries: Vec<(String, Node)>,
        context: Context<'a>,
        before: Option<Value>,
    ) -> Result<Value, String> {
        let resources = self.is_resource_list(context.ty);
        let mut map = match before {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let mut given = HashSet::new();
        for (key, node) in entries {
            let length = self.enter(&key);
            if !given.insert(key.clone()) {
                self.note("duplicate");
            }
            let value = if resources && node != Node::Null {
                // defaulting rounds these to whole thousandths
                let mut quantity = quantity(node)?;
                quantity.round_up(-3);
                Value::String(quantity.to_string())
            } else {
                self.value(node, context, None)?.unwrap_or_else(|| zero(context.ty))
            };
            map.insert(key, value);
            self.path.truncate(length);
        }
        Ok(Value::Object(map))
    }

    fn list(&mut self, items: Vec<Node>, context: Context<'a>) -> Result<Value, String> {
        let mut out = Vec::with_capacity(items.len());
        for (i, node) in items.into_iter().enumerate() {
            let length = self.path.len();
            self.path.push_str(&format!("[{i}]"));
            out.push(self.value(node, context, None)?.unwrap_or_else(|| zero(context.ty)));
            self.path.truncate(length);
        }
        Ok(Value::Array(out))
    }

    fn integer<T: std::str::FromStr + Into<i64>>(&mut self, text: String, context: Context<'a>) -> Option<Value> {
        match text.parse::<T>() {
            Ok(n) => Some(Value::from(n.into())),
            Err(_) => self.mismatch_text(&format!("number {text}"), context),
        }
    }

    fn bytes(&mut self, text: &str) -> Option<Value> {
        use base64::Engine as _;
        match decode_base64(text) {
            Ok(bytes) => Some(Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))),
            Err(at) => {
                self.wrong.get_or_insert(format!("illegal base64 data at input byte {at}"));
                None
            }
        }
    }

    /// core/v1 ResourceList and its like.
    fn is_resource_list(&self, value: &Type) -> bool {
        matches!(value, Type::Quantity)
            && ["io.k8s.api.core.", "io.k8s.api.node."].iter().any(|p| self.owner.starts_with(p))
    }

    fn mismatch(&mut self, node: &Node, context: Context<'a>) -> Option<Value> {
        self.mismatch_text(node.kind(), context)
    }

    fn mismatch_text(&mut self, what: &str, context: Context<'a>) -> Option<Value> {
        let go_type = self.go_type(context);
        let message = if self.fields.is_empty() {
            format!("json: cannot unmarshal {what} into Go value of type {go_type}")
        } else {
            let owner = self.owner.rsplit('.').next().unwrap_or_default();
            let owner = owner.split("Or").next().filter(|_| self.itself.is_some()).unwrap_or(owner);
            let fields = self.fields[..self.itself.unwrap_or(self.fields.len())].join(".");
            format!("json: cannot unmarshal {what} into Go struct field {owner}.{fields} of type {go_type}")
        };
        self.wrong.get_or_insert(message);
        None
    }

    fn go_type(&self, context: Context<'a>) -> String {
        match context.ty {
            Type::List(list) => format!("[]{}", self.go_type(Context { ty: &list.item, ..context })),
            Type::Map(map) if self.is_resource_list(&map.value) => "v1.ResourceList".into(),
            Type::Map(map) => format!("map[string]{}", self.go_type(Context { ty: &map.value, ..context })),
            Type::Object(id) => {
                let mut names = self.table.objects[*id as usize].name.rsplit('.');
                let name = names.next().unwrap_or_default();
                format!("{}.{name}", names.next().unwrap_or_default())
            }
            Type::String => context.go_type.unwrap_or("string").into(),
            Type::Bytes => "[]uint8".into(),
            Type::Bool => "bool".into(),
            Type::Int32 => "int32".into(),
            Type::Int64 => "int64".into(),
            Type::Float => "float64".into(),
            Type::Quantity => "resource.Quantity".into(),
            Type::IntOrString => "intstr.IntOrString".into(),
            Type::Time => "v1.Time".into(),
            Type::MicroTime => "v1.MicroTime".into(),
            Type::Duration => "v1.Duration".into(),
            Type::FieldsV1 => "v1.FieldsV1".into(),
            Type::Any => "runtime.RawExtension".into(),
        }
    }

    /// Appends a key to the path; gives the length to go back to.
    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    fn note(&mut self, what: &str) {
        if self.itself.is_some() {
            return;
        }
        let message = format!("{what} field {}", quote(&self.path));
        if self.strict.len() < MAX_STRICT && self.seen.insert(message.clone()) {
            self.strict.push(message);
        }
    }
}

fn find<'a>(object: &'a Object, key: &str) -> Option<&'a Field> {
    let at = object.fields.binary_search_by(|f| f.name.as_ref().cmp(key)).ok()?;
    Some(&object.fields[at])
}

/// What null is as an item of a list or a value of a map.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::String("0".into()),
        Type::Duration => Value::String("0s".into()),
        Type::Object(_) => Value::Object(Map::new()),
        Type::Time | Type::MicroTime | Type::FieldsV1 | Type::Any | Type::Map(_) | Type::List(_) => Value::Null,
    }
}

fn quantity(node: Node) -> Result<Quantity, String> {
    match node {
        Node::String(text) | Node::Number(text) => Quantity::parse(text.trim()),
        // any other JSON is taken for text, and is no number
        _ => Quantity::parse("-x"),
    }
    .map_err(|e| e.to_string())
}

fn int_or_string(node: Node) -> Result<Value, String> {
    let what = match node {
        Node::Number(text) => match text.parse::<i32>() {
            Ok(n) => return Ok(n.into()),
            Err(_) => format!("number {text}"),
        },
        other => other.kind().to_string(),
    };
    Err(format!("json: cannot unmarshal {what} into Go value of type int32"))
}

fn time_value(node: Node, micro: bool) -> Result<Option<Value>, String> {
    match node {
        Node::String(text) => Ok(time::canonical(&text, micro)?.map(Value::String)),
        other => Err(format!("json: cannot unmarshal {} into Go value of type string", other.kind())),
    }
}

/// Go's base64.StdEncoding, line breaks allowed. Err: the offset of the first bad byte, in Go's counting.
fn decode_base64(text: &str) -> Result<Vec<u8>, usize> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    let mut at = 0;
    let mut quantum: Vec<u8> = Vec::with_capacity(4);
    while at < bytes.len() {
        let b = bytes[at];
        at += 1;
        let digit = match b {
            b'\n' | b'\r' => continue,
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => return finish_base64(bytes, at, &quantum, out),
            _ => return Err(at - 1),
        };
        quantum.push(digit);
        if quantum.len() == 4 {
            push_quantum(&mut out, &quantum);
            quantum.clear();
        }
    }
    if quantum.is_empty() { Ok(out) } else { Err(bytes.len() - quantum.len()) }
}

/// After the first `=`, which stands before `at`.
fn finish_base64(bytes: &[u8], mut at: usize, quantum: &[u8], mut out: Vec<u8>) -> Result<Vec<u8>, usize> {
    let skip = |at: &mut usize| {
        while matches!(bytes.get(*at), Some(b'\n' | b'\r')) {
            *at += 1;
        }
    };
    match quantum.len() {
        2 => {
            skip(&mut at);
            match bytes.get(at) {
                Some(b'=') => at += 1,
                Some(_) => return Err(at - 1),
                None => return Err(bytes.len()),
            }
        }
        3 => {}
        _ => return Err(at - 1),
    }
    skip(&mut at);
    if at < bytes.len() {
        return Err(at);
    }
    push_quantum(&mut out, quantum);
    Ok(out)
}

/// Two, three or four base64 digits give one, two or three bytes.
fn push_quantum(out: &mut Vec<u8>, quantum: &[u8]) {
    let bits = quantum.iter().fold(0u32, |bits, d| bits << 6 | u32::from(*d)) << (6 * (4 - quantum.len()));
    let bytes = bits.to_be_bytes();
    out.extend_from_slice(&bytes[1..quantum.len()]);
}
