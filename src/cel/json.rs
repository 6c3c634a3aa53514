//! JSON documents as CEL values, through the declaration of their schema where there is one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::rc::Rc;

use crate::error::EvalError;
use crate::escape::{escape, is_reserved, unescape};
use crate::schema::{DeclType, ListKind, Shape};
use crate::types::Type;
use crate::value::{Key, List, Map, Result, Str, Value};

impl<'a> Value<'a> {
    /// A JSON value as its declaration says, or as it is without one.
    pub fn from_json(json: &'a Json, decl: Option<&'a DeclType>) -> Result<Value<'a>> {
        let Some(decl) = decl else { return Ok(plain(json)) };
        if json.is_null() && !matches!(decl.shape, Shape::Any) {
            return if decl.nullable {
                Ok(Value::Null)
            } else {
                Err(EvalError::new("invalid data, got null for schema with nullable=false"))
            };
        }
        match &decl.shape {
            Shape::Any => Ok(plain(json)),
            Shape::IntOrString => match json {
                Json::String(text) => Ok(Value::str(text)),
                Json::Number(number) if number.is_i64() => Ok(plain(json)),
                _ => Err(EvalError::new("invalid data, expected XIntOrString value to be either a string or integer")),
            },
            Shape::List(element, kind) => match json {
                Json::Array(elements) => Ok(Value::List(List::Json(elements, Some(element), Some(kind)))),
                _ => Err(EvalError::new("invalid data, expected an array for the provided schema with type=array")),
            },
            Shape::Map(_) | Shape::Object => match json {
                Json::Object(object) => Ok(Value::Map(Map::Json(object, Some(decl)))),
                _ => Err(EvalError::new("invalid data, expected a map for the provided schema with type=object")),
            },
            Shape::Scalar => scalar(json, &decl.ty),
        }
    }
}

fn plain(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(number) => match number.as_i64() {
            Some(i) => Value::Int(i),
            None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Str::Borrowed(text)),
        Json::Array(elements) => Value::List(List::Json(elements, None, None)),
        Json::Object(object) => Value::Map(Map::Json(object, None)),
    }
}

fn scalar<'a>(json: &'a Json, ty: &Type) -> Result<Value<'a>> {
    let wrong = |want: &str| EvalError::new(format!("invalid data, expected {want}, got {}", kind(json)));
    match ty {
        Type::Bool => json.as_bool().map(Value::Bool).ok_or_else(|| wrong("bool")),
        Type::Int => json.as_i64().map(Value::Int).ok_or_else(|| wrong("int")),
        Type::Double => json.as_f64().map(Value::Double).ok_or_else(|| wrong("double")),
        Type::String => json.as_str().map(Value::str).ok_or_else(|| wrong("string")),
        Type::Bytes => {
            let text = json.as_str().ok_or_else(|| wrong("byte"))?;
            let bytes = STANDARD.decode(text).map_err(|error| {
                EvalError::new(format!("byte formatted string {text} has invalid base64 encoding: {error}"))
            })?;
            Ok(Value::Bytes(Rc::from(bytes)))
        }
        Type::Duration => {
            let text = json.as_str().ok_or_else(|| wrong("duration"))?;
            let nanos = crate::time::parse_openapi_duration(text)
                .ok_or_else(|| EvalError::new(format!("invalid duration {text}")))?;
            Ok(Value::Duration(nanos))
        }
        Type::Timestamp => {
            let text = json.as_str().ok_or_else(|| wrong("date-time"))?;
            let at = crate::time::parse_openapi_time(text)
                .ok_or_else(|| EvalError::new(format!("invalid date formatted string {text}")))?;
            Ok(Value::Timestamp(at))
        }
        _ => Ok(plain(json)),
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// How many entries of an object an expression can see.
pub(crate) fn visible(json: &serde_json::Map<String, Json>, decl: Option<&DeclType>) -> usize {
    match decl.map(|decl| (&decl.shape, decl)) {
        Some((Shape::Object, decl)) => {
            json.keys().filter(|key| escape(key).is_some_and(|identifier| decl.field(&identifier).is_some())).count()
        }
        _ => json.len(),
    }
}

/// A field of an object by identifier; the declaration decides how names are escaped.
pub(crate) fn field<'a>(
    json: &'a serde_json::Map<String, Json>,
    decl: Option<&'a DeclType>,
    name: &str,
) -> Option<Result<Value<'a>>> {
    match decl {
        None => json.get(name).map(|value| Ok(plain(value))),
        Some(decl) => match &decl.shape {
            Shape::Map(values) => json.get(name).map(|value| Value::from_json(value, Some(values))),
            Shape::Object => {
                let field = match decl.field(name) {
                    Some(field) => field,
                    None if is_reserved(name) => decl.field(&escape(name)?)?,
                    None => return None,
                };
                let value = match json.get(name) {
                    Some(value) => value,
                    None if name.contains("__") => json.get(&unescape(name)?)?,
                    None => return None,
                };
                Some(Value::from_json(value, Some(field)))
            }
            _ => json.get(name).map(|value| Ok(plain(value))),
        },
    }
}

pub(crate) fn keys<'a>(json: &'a serde_json::Map<String, Json>, decl: Option<&'a DeclType>) -> Vec<Value<'a>> {
    match decl {
        Some(decl) if matches!(decl.shape, Shape::Object) => json
            .keys()
            .filter_map(|key| {
                let identifier = escape(key)?;
                decl.field(&identifier)?;
                Some(if identifier == *key { Value::str(key) } else { Value::string(identifier) })
            })
            .collect(),
        _ => json.keys().map(|key| Value::str(key)).collect(),
    }
}

/// What makes an element the same as another in a set or a list of type map, for a hash.
fn identity<'a>(element: &Value<'a>, kind: &ListKind) -> Result<Vec<Option<Key>>> {
    let part = |value: &Value<'a>| match Key::of(value) {
        Some(key) => Ok(key),
        None => Ok(Key::String(value.to_json()?.to_string().into_boxed_str())),
    };
    match (kind, element) {
        (ListKind::Map(keys), Value::Map(map)) => keys
            .iter()
            .map(|key| {
                let field = match escape(key) {
                    Some(identifier) => map.field(&identifier),
                    None => map.field(key),
                };
                field.map(|value| part(&value?)).transpose()
            })
            .collect(),
        _ => Ok(vec![Some(part(element)?)]),
    }
}

/// Sets and lists of type map: equal where every element has an equal one, in any order.
pub(crate) fn lists_equal<'a>(left: &List<'a>, right: &List<'a>, kind: &ListKind) -> bool {
    let index = |list: &List<'a>| -> Result<HashMap<Vec<Option<Key>>, Value<'a>>> {
        list.iter()
            .map(|element| {
                let element = element?;
                Ok((identity(&element, kind)?, element))
            })
            .collect()
    };
    let (Ok(left), Ok(right)) = (index(left), index(right)) else { return false };
    left.len() == right.len()
        && left.iter().all(|(key, element)| right.get(key).is_some_and(|other| element.equals(other)))
}

/// `left + right` of declared lists: sets append what is missing, maps replace elements of the same keys.
pub(crate) fn add_lists<'a>(left: &List<'a>, right: &List<'a>) -> Result<Vec<Value<'a>>> {
    let mut out = left.iter().collect::<Result<Vec<_>>>()?;
    let kind = match left {
        List::Json(_, _, Some(kind)) if **kind != ListKind::Atomic => *kind,
        _ => {
            out.extend(right.iter().collect::<Result<Vec<_>>>()?);
            return Ok(out);
        }
    };
    let mut places = HashMap::with_capacity(out.len());
    for (at, element) in out.iter().enumerate() {
        places.entry(identity(element, kind)?).or_insert(at);
    }
    for element in right.iter() {
        let element = element?;
        match places.entry(identity(&element, kind)?) {
            Slot::Occupied(place) => out[*place.get()] = element,
            Slot::Vacant(place) => {
                place.insert(out.len());
                out.push(element);
            }
        }
    }
    Ok(out)
}
