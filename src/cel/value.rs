//! The values that expressions compute with.
//!
//! Invariants:
//! - CEL-V1: a JSON document is looked at in place: no part of it is copied before an expression asks for it.
//! - CEL-V2: numbers compare and hash by value across int, uint and double.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use jiff::Timestamp;
use serde_json::Value as Json;

use crate::error::EvalError;
use crate::ext::Ext;
use crate::schema::{DeclType, ListKind};
use crate::types::Type;

/// Largest value that is made JSON, in nodes: values share parts, JSON does not.
const MAX_JSON_NODES: usize = 1_000_000;

pub type Result<T> = std::result::Result<T, EvalError>;

/// A value of an expression; borrows from the documents and the program for `'a`.
#[derive(Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Str<'a>),
    Bytes(Rc<[u8]>),
    /// In nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Rc<Value<'a>>>),
    Type(Type),
    /// A value of one of Kubernetes' own types (quantity, IP, URL, authorizer, …).
    Ext(Ext<'a>),
}

/// A string, borrowed or shared.
#[derive(Clone)]
pub enum Str<'a> {
    Borrowed(&'a str),
    Shared(Rc<str>),
}

impl Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Str::Borrowed(text) => text,
            Str::Shared(text) => text,
        }
    }
}

/// A constant that a program owns.
#[derive(Debug, Clone)]
pub enum Const {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
    Duration(i64),
    Timestamp(Timestamp),
    Type(Type),
    List(Vec<Const>),
    Map(ConstMap),
}

/// A map of constants.
#[derive(Debug, Clone)]
pub struct ConstMap {
    entries: Vec<(Const, Const)>,
    index: HashMap<Key, usize>,
}

impl ConstMap {
    /// The map; the error names the key that is there twice, or is none.
    pub(crate) fn new(entries: Vec<(Const, Const)>) -> Result<ConstMap> {
        let mut index = HashMap::with_capacity(entries.len());
        for (at, (key, _)) in entries.iter().enumerate() {
            let key = Value::of_const(key);
            if index.insert(key_of(&key)?, at).is_some() {
                let shown = crate::functions::show_key(&key);
                return Err(EvalError::new(format!("Failed with repeated key: {shown}")));
            }
        }
        Ok(ConstMap { entries, index })
    }

    fn get(&self, key: &Key) -> Option<&Const> {
        self.index.get(key).map(|at| &self.entries[*at].1)
    }
}

fn key_of(value: &Value<'_>) -> Result<Key> {
    Key::of(value).ok_or_else(|| EvalError::new(format!("unsupported key type: {}", value.type_name())))
}

#[derive(Clone)]
pub enum List<'a> {
    /// JSON, with the declaration of its elements.
    Json(&'a [Json], Option<&'a DeclType>, Option<&'a ListKind>),
    Const(&'a [Const]),
    Shared(Rc<Vec<Value<'a>>>),
}

#[derive(Clone)]
pub enum Map<'a> {
    /// JSON, with its declaration.
    Json(&'a serde_json::Map<String, Json>, Option<&'a DeclType>),
    Const(&'a ConstMap),
    Shared(Rc<Entries<'a>>),
    /// An object whose fields come on demand.
    Lookup(Rc<dyn Lookup<'a> + 'a>),
    /// What a struct constructor made.
    Struct(Rc<Struct<'a>>),
}

/// An object whose fields are computed on demand (and kept, if they are dear, by the implementor).
pub trait Lookup<'a> {
    /// The field's value; `None` where there is no such field.
    fn get(&self, field: &str) -> Option<Result<Value<'a>>>;

    /// The names of the fields, for expressions that iterate over them.
    fn keys(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A constructed object: `Object.spec{…}`, `JSONPatch{…}`.
#[derive(Clone)]
pub struct Struct<'a> {
    pub ty: Type,
    pub fields: Vec<(String, Value<'a>)>,
}

/// The entries of a map in order of insertion.
#[derive(Clone, Default)]
pub struct Entries<'a> {
    entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key, usize>,
}

/// A map key by which equal keys of different types meet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Bool(bool),
    Int(i64),
    /// Above the range of int.
    Uint(u64),
    String(Box<str>),
}

impl<'a> Entries<'a> {
    /// Adds an entry; false where the key is there already.
    pub fn insert(&mut self, key: Value<'a>, value: Value<'a>) -> Result<bool> {
        let hash = key_of(&key)?;
        if self.index.contains_key(&hash) {
            return Ok(false);
        }
        self.index.insert(hash, self.entries.len());
        self.entries.push((key, value));
        Ok(true)
    }

    pub fn get(&self, key: &Key) -> Option<&Value<'a>> {
        self.index.get(key).map(|at| &self.entries[*at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Value<'a>, Value<'a>)> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Key {
    pub fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Key::Uint(*u), Key::Int),
            Value::Double(d) if d.fract() == 0.0 && (-9.2e18..9.2e18).contains(d) => Key::Int(*d as i64),
            Value::Double(d) if d.fract() == 0.0 && (0.0..1.8e19).contains(d) => Key::Uint(*d as u64),
            Value::String(s) => Key::String(Box::from(&**s)),
            _ => return None,
        })
    }
}

impl<'a> Value<'a> {
    pub fn string(text: impl Into<Rc<str>>) -> Value<'a> {
        Value::String(Str::Shared(text.into()))
    }

    pub fn str(text: &'a str) -> Value<'a> {
        Value::String(Str::Borrowed(text))
    }

    pub fn list(elements: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Shared(Rc::new(elements)))
    }

    pub fn map(entries: Entries<'a>) -> Value<'a> {
        Value::Map(Map::Shared(Rc::new(entries)))
    }

    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Rc::new(value)))
    }

    pub fn quantity(quantity: apimachinery::quantity::Quantity) -> Value<'a> {
        Value::Ext(Ext::Quantity(Rc::new(quantity)))
    }

    pub fn semver(version: crate::semver::Semver) -> Value<'a> {
        Value::Ext(Ext::Semver(Rc::new(version)))
    }

    /// An object whose fields come on demand.
    pub fn lookup(lookup: impl Lookup<'a> + 'a) -> Value<'a> {
        Value::Map(Map::Lookup(Rc::new(lookup)))
    }

    pub fn of_const(constant: &'a Const) -> Value<'a> {
        match constant {
            Const::Null => Value::Null,
            Const::Bool(b) => Value::Bool(*b),
            Const::Int(i) => Value::Int(*i),
            Const::Uint(u) => Value::Uint(*u),
            Const::Double(d) => Value::Double(*d),
            Const::String(s) => Value::str(s),
            Const::Bytes(b) => Value::Bytes(Rc::from(&**b)),
            Const::Duration(nanos) => Value::Duration(*nanos),
            Const::Timestamp(at) => Value::Timestamp(*at),
            Const::Type(ty) => Value::Type(ty.clone()),
            Const::List(elements) => Value::List(List::Const(elements)),
            Const::Map(entries) => Value::Map(Map::Const(entries)),
        }
    }

    /// The constant that equals this value, for folding; `None` for what cannot be kept.
    pub(crate) fn to_const(&self) -> Option<Const> {
        Some(match self {
            Value::Null => Const::Null,
            Value::Bool(b) => Const::Bool(*b),
            Value::Int(i) => Const::Int(*i),
            Value::Uint(u) => Const::Uint(*u),
            Value::Double(d) => Const::Double(*d),
            Value::String(s) => Const::String(Box::from(&**s)),
            Value::Bytes(b) => Const::Bytes(Box::from(&**b)),
            Value::Duration(nanos) => Const::Duration(*nanos),
            Value::Timestamp(at) => Const::Timestamp(*at),
            Value::Type(ty) => Const::Type(ty.clone()),
            _ => return None,
        })
    }

    /// The type of this value at run time.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Duration(_) => Type::Duration,
            Value::Timestamp(_) => Type::Timestamp,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(Map::Struct(object)) => object.ty.clone(),
            Value::Map(Map::Json(_, Some(decl))) if matches!(decl.ty, Type::Object(_)) => decl.ty.clone(),
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Type(_) => Type::Type(None),
            Value::Ext(ext) => Type::Opaque(ext.type_name()),
        }
    }

    pub fn type_name(&self) -> String {
        self.type_of().name().to_owned()
    }

    /// What `size()` says, in characters, bytes or elements; `None` for a value without size.
    pub fn size(&self) -> Option<u64> {
        Some(match self {
            Value::String(s) => s.chars().count() as u64,
            Value::Bytes(b) => b.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Ext(ext) => return ext.size(),
            _ => return None,
        })
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// CEL's equality: never an error; numbers by value, unlike types unequal.
    pub fn equals(&self, other: &Value<'a>) -> bool {
        if !crate::fuel::spend() {
            return false;
        }
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::String(a), Value::String(b)) => **a == **b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::List(a), Value::List(b)) => a.equals(b),
            (Value::Map(a), Value::Map(b)) => a.equals(b),
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (Value::Type(a), Value::Type(b)) => a.name() == b.name(),
            (Value::Ext(a), Value::Ext(b)) => a.equals(b),
            _ => self.compare_numbers(other) == Some(Ordering::Equal),
        }
    }

    /// How two numbers compare; `None` for NaN and for what is not a number.
    pub fn compare_numbers(&self, other: &Value<'a>) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Value::Double(a), Value::Int(b)) => compare_double(*a, i128::from(*b)),
            (Value::Double(a), Value::Uint(b)) => compare_double(*a, i128::from(*b)),
            (Value::Int(a), Value::Double(b)) => compare_double(*b, i128::from(*a)).map(Ordering::reverse),
            (Value::Uint(a), Value::Double(b)) => compare_double(*b, i128::from(*a)).map(Ordering::reverse),
            _ => None,
        }
    }

    /// JSON as upstream's `structpb` conversion gives it (for patches, messages and audit annotations).
    ///
    /// # Errors
    /// For a map whose keys are not strings, and for a value that is too large.
    pub fn to_json(&self) -> Result<Json> {
        self.json_within(&mut { MAX_JSON_NODES })
    }

    fn json_within(&self, left: &mut usize) -> Result<Json> {
        *left = left.checked_sub(1).ok_or(EvalError::CostLimit)?;
        Ok(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Uint(u) => Json::from(*u),
            Value::Double(d) => Json::from(*d),
            Value::String(s) => Json::from(&**s),
            Value::Bytes(b) => Json::from(crate::functions::encode_base64(b)),
            Value::Duration(nanos) => Json::from(crate::time::format_duration_seconds(*nanos)),
            Value::Timestamp(at) => Json::from(crate::time::format_timestamp(*at)),
            Value::List(list) => {
                list.iter().map(|element| element?.json_within(left)).collect::<Result<Vec<_>>>().map(Json::Array)?
            }
            Value::Map(Map::Json(json, _)) => Json::Object((*json).clone()),
            Value::Map(map) => {
                let mut out = serde_json::Map::new();
                for (key, value) in map.entries()? {
                    let Some(key) = key.as_str() else {
                        return Err(EvalError::new(format!("unsupported map key type: {}", key.type_name())));
                    };
                    if !matches!(value, Value::Optional(None)) {
                        out.insert(key.to_owned(), value.json_within(left)?);
                    }
                }
                Json::Object(out)
            }
            Value::Optional(Some(inner)) => inner.json_within(left)?,
            Value::Type(ty) => Json::from(ty.name()),
            Value::Ext(ext) => Json::from(ext.to_string()),
        })
    }
}

fn compare_double(double: f64, integer: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    if double >= 2f64.powi(65) {
        return Some(Ordering::Greater);
    }
    if double <= -(2f64.powi(65)) {
        return Some(Ordering::Less);
    }
    let whole = double.trunc();
    Some((whole as i128).cmp(&integer).then_with(|| (double - whole).partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Json(elements, ..) => elements.len(),
            List::Const(elements) => elements.len(),
            List::Shared(elements) => elements.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, at: usize) -> Option<Result<Value<'a>>> {
        match self {
            List::Json(elements, decl, _) => elements.get(at).map(|json| Value::from_json(json, *decl)),
            List::Const(elements) => elements.get(at).map(|constant| Ok(Value::of_const(constant))),
            List::Shared(elements) => elements.get(at).cloned().map(Ok),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    pub fn contains(&self, value: &Value<'a>) -> bool {
        self.iter().any(|element| element.is_ok_and(|element| element.equals(value)))
    }

    pub fn equals(&self, other: &List<'a>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        match self {
            List::Json(_, _, Some(kind)) if *kind != &ListKind::Atomic => {
                return crate::json::lists_equal(self, other, kind);
            }
            _ => {}
        }
        self.iter().zip(other.iter()).all(|pair| matches!(pair, (Ok(a), Ok(b)) if a.equals(&b)))
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Map::Json(json, decl) => crate::json::visible(json, *decl),
            Map::Const(map) => map.entries.len(),
            Map::Shared(entries) => entries.len(),
            Map::Lookup(lookup) => lookup.keys().len(),
            Map::Struct(object) => object.fields.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key; `None` where it is not there.
    pub fn get(&self, key: &Value<'a>) -> Option<Result<Value<'a>>> {
        match (self, key) {
            (Map::Shared(entries), _) => entries.get(&Key::of(key)?).cloned().map(Ok),
            (Map::Const(map), _) => map.get(&Key::of(key)?).map(|value| Ok(Value::of_const(value))),
            (_, Value::String(name)) => self.field(name),
            _ => None,
        }
    }

    /// The value of a field, by identifier.
    pub fn field(&self, name: &str) -> Option<Result<Value<'a>>> {
        match self {
            Map::Json(json, decl) => crate::json::field(json, *decl, name),
            Map::Shared(entries) => entries.get(&Key::String(Box::from(name))).cloned().map(Ok),
            Map::Const(map) => map.get(&Key::String(Box::from(name))).map(|value| Ok(Value::of_const(value))),
            Map::Lookup(lookup) => lookup.get(name),
            Map::Struct(object) => object.fields.iter().find(|(have, _)| have == name).map(|(_, v)| Ok(v.clone())),
        }
    }

    pub fn has(&self, key: &Value<'a>) -> bool {
        self.get(key).is_some()
    }

    /// All keys, in the map's order.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(json, decl) => crate::json::keys(json, *decl),
            Map::Const(map) => map.entries.iter().map(|(key, _)| Value::of_const(key)).collect(),
            Map::Shared(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            Map::Lookup(lookup) => lookup.keys().into_iter().map(Value::string).collect(),
            Map::Struct(object) => object.fields.iter().map(|(name, _)| Value::string(name.as_str())).collect(),
        }
    }

    pub fn entries(&self) -> Result<Vec<(Value<'a>, Value<'a>)>> {
        self.keys().into_iter().filter_map(|key| self.get(&key).map(|value| value.map(|value| (key, value)))).collect()
    }

    pub fn equals(&self, other: &Map<'a>) -> bool {
        if let (Map::Struct(a), Map::Struct(b)) = (self, other)
            && a.ty.name() != b.ty.name()
        {
            return false;
        }
        self.len() == other.len()
            && self
                .keys()
                .iter()
                .all(|key| matches!((self.get(key), other.get(key)), (Some(Ok(a)), Some(Ok(b))) if a.equals(&b)))
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => out.write_str("null"),
            Value::Bool(b) => write!(out, "{b}"),
            Value::Int(i) => write!(out, "{i}"),
            Value::Uint(u) => write!(out, "{u}u"),
            Value::Double(d) => write!(out, "{d:?}"),
            Value::String(s) => write!(out, "{:?}", &**s),
            Value::Bytes(b) => write!(out, "b{b:?}"),
            Value::Duration(nanos) => write!(out, "duration({})", crate::time::format_duration_seconds(*nanos)),
            Value::Timestamp(at) => write!(out, "timestamp({})", crate::time::format_timestamp(*at)),
            Value::List(list) => {
                let mut elements = out.debug_list();
                for element in list.iter() {
                    match element {
                        Ok(element) => elements.entry(&element),
                        Err(error) => elements.entry(&error),
                    };
                }
                elements.finish()
            }
            Value::Map(map) => match map.entries() {
                Ok(entries) => out.debug_map().entries(entries).finish(),
                Err(error) => write!(out, "<{error}>"),
            },
            Value::Optional(None) => out.write_str("optional.none()"),
            Value::Optional(Some(inner)) => write!(out, "optional({inner:?})"),
            Value::Type(ty) => out.write_str(ty.name()),
            Value::Ext(ext) => write!(out, "{}({ext})", ext.type_name()),
        }
    }
}
