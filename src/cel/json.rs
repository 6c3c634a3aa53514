//! JSON documents as CEL values, through the declaration of their schema where there is one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use std::rc::Rc;

use crate::error::EvalError;
use crate::escape::{escape, is_reserved, unescape};
use crate::schema::{DeclType, ListKind, Shape};
use crate::types::Type;
use crate::value::{List, Map, Result, Str, Value};

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

/// Lists of type map: equal where every element has an equal one of the same keys.
pub(crate) fn map_lists_equal<'a>(left: &List<'a>, right: &List<'a>, keys: &[String]) -> bool {
    left.iter().all(|element| {
        element.is_ok_and(|element| {
            right
                .iter()
                .any(|other| other.is_ok_and(|other| same_keys(&element, &other, keys) && element.equals(&other)))
        })
    })
}

fn same_keys<'a>(left: &Value<'a>, right: &Value<'a>, keys: &[String]) -> bool {
    let (Value::Map(left), Value::Map(right)) = (left, right) else { return false };
    keys.iter().all(|key| {
        let identifier = escape(key).unwrap_or_else(|| key.clone());
        match (left.field(&identifier), right.field(&identifier)) {
            (Some(Ok(a)), Some(Ok(b))) => a.equals(&b),
            (None, None) => true,
            _ => false,
        }
    })
}

/// `left + right` of declared lists: sets append what is missing, maps replace elements of the same keys.
pub(crate) fn add_lists<'a>(left: &List<'a>, right: &List<'a>) -> Result<Vec<Value<'a>>> {
    let mut out = left.iter().collect::<Result<Vec<_>>>()?;
    let kind = match left {
        List::Json(_, _, Some(kind)) => kind,
        _ => &ListKind::Atomic,
    };
    for element in right.iter() {
        let element = element?;
        let same = match kind {
            ListKind::Atomic => None,
            ListKind::Set => out.iter().position(|have| have.equals(&element)),
            ListKind::Map(keys) => out.iter().position(|have| same_keys(have, &element, keys)),
        };
        match same {
            Some(at) => out[at] = element,
            None => out.push(element),
        }
    }
    Ok(out)
}
