//! Conversions between types, and the constructors of optional values.

use std::rc::Rc;

use crate::error::EvalError;
use crate::functions::{Func, no_overload};
use crate::time;
use crate::types::Type;
use crate::value::{Result, Value};

pub(super) fn lookup(name: &str) -> Option<Func> {
    Some(match name {
        "bool" => to_bool,
        "bytes" => to_bytes,
        "double" => to_double,
        "duration" => to_duration,
        "dyn" => |args| Ok(args[0].clone()),
        "int" => to_int,
        "uint" => to_uint,
        "string" => to_string,
        "timestamp" => to_timestamp,
        "type" => |args| Ok(Value::Type(args[0].type_of())),
        "optional.of" => |args| Ok(Value::some(args[0].clone())),
        "optional.none" => |_| Ok(Value::Optional(None)),
        "optional.ofNonZeroValue" => {
            |args| Ok(if is_zero(&args[0]) { Value::Optional(None) } else { Value::some(args[0].clone()) })
        }
        "hasValue" => |args| match &args[0] {
            Value::Optional(inner) => Ok(Value::Bool(inner.is_some())),
            _ => no_overload("hasValue", args),
        },
        "value" => |args| match &args[0] {
            Value::Optional(Some(inner)) => Ok((**inner).clone()),
            Value::Optional(None) => Err(EvalError::new("optional.none() dereference")),
            _ => no_overload("value", args),
        },
        "or" => |args| match (&args[0], &args[1]) {
            (Value::Optional(Some(_)), Value::Optional(_)) => Ok(args[0].clone()),
            (Value::Optional(None), Value::Optional(_)) => Ok(args[1].clone()),
            _ => no_overload("or", args),
        },
        "orValue" => |args| match &args[0] {
            Value::Optional(Some(inner)) => Ok((**inner).clone()),
            Value::Optional(None) => Ok(args[1].clone()),
            _ => no_overload("orValue", args),
        },
        _ => return None,
    })
}

fn wrong<'a>(from: &Value<'a>, to: &Type) -> Result<Value<'a>> {
    Err(EvalError::new(format!("type conversion error from '{}' to '{}'", from.type_name(), to.name())))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Uint(u) => *u == 0,
        Value::Double(d) => *d == 0.0,
        Value::Duration(nanos) => *nanos == 0,
        Value::Timestamp(at) => at.as_nanosecond() == 0,
        Value::String(s) => s.is_empty(),
        Value::Bytes(b) => b.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        _ => false,
    }
}

fn to_bool<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Bool(_) => Ok(args[0].clone()),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => wrong(&args[0], &Type::Bool),
        },
        other => wrong(other, &Type::Bool),
    }
}

fn to_bytes<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Bytes(_) => Ok(args[0].clone()),
        Value::String(text) => Ok(Value::Bytes(Rc::from(text.as_bytes()))),
        other => wrong(other, &Type::Bytes),
    }
}

fn to_double<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Double(_) => Ok(args[0].clone()),
        Value::Int(i) => Ok(Value::Double(*i as f64)),
        Value::Uint(u) => Ok(Value::Double(*u as f64)),
        Value::String(text) => match text.trim_start_matches('+').parse::<f64>() {
            Ok(number) if !text.ends_with(char::is_whitespace) => Ok(Value::Double(number)),
            _ => wrong(&args[0], &Type::Double),
        },
        other => wrong(other, &Type::Double),
    }
}

fn to_int<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let overflow = || EvalError::new("integer overflow");
    match &args[0] {
        Value::Int(_) => Ok(args[0].clone()),
        Value::Uint(u) => i64::try_from(*u).map(Value::Int).map_err(|_| overflow()),
        Value::Double(d) if d.is_finite() && *d > i64::MIN as f64 && *d < i64::MAX as f64 => Ok(Value::Int(*d as i64)),
        Value::Double(_) => Err(overflow()),
        Value::Timestamp(at) => Ok(Value::Int(at.as_second() - i64::from(at.subsec_nanosecond() < 0))),
        Value::Duration(nanos) => Ok(Value::Int(*nanos)),
        Value::String(text) => match text.parse() {
            Ok(number) => Ok(Value::Int(number)),
            Err(_) => wrong(&args[0], &Type::Int),
        },
        other => wrong(other, &Type::Int),
    }
}

fn to_uint<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let overflow = || EvalError::new("unsigned integer overflow");
    match &args[0] {
        Value::Uint(_) => Ok(args[0].clone()),
        Value::Int(i) => u64::try_from(*i).map(Value::Uint).map_err(|_| overflow()),
        Value::Double(d) if d.is_finite() && *d >= 0.0 && *d < u64::MAX as f64 => Ok(Value::Uint(*d as u64)),
        Value::Double(_) => Err(overflow()),
        Value::String(text) => match text.parse() {
            Ok(number) if !text.starts_with('+') => Ok(Value::Uint(number)),
            _ => wrong(&args[0], &Type::Uint),
        },
        other => wrong(other, &Type::Uint),
    }
}

fn to_string<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::String(_) => Ok(args[0].clone()),
        Value::Bool(b) => Ok(Value::str(if *b { "true" } else { "false" })),
        Value::Int(i) => Ok(Value::string(i.to_string())),
        Value::Uint(u) => Ok(Value::string(u.to_string())),
        Value::Double(d) => Ok(Value::string(format_double(*d))),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::string(text)),
            Err(_) => Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Duration(nanos) => Ok(Value::string(time::format_duration_seconds(*nanos))),
        Value::Timestamp(at) => Ok(Value::string(time::format_timestamp(*at))),
        Value::Ext(ext @ (crate::ext::Ext::Ip(_) | crate::ext::Ext::Cidr(..))) => Ok(Value::string(ext.to_string())),
        other => wrong(other, &Type::String),
    }
}

fn to_duration<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Duration(_) => Ok(args[0].clone()),
        Value::Int(nanos) => Ok(Value::Duration(*nanos)),
        Value::String(text) => match time::parse_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => wrong(&args[0], &Type::Duration),
        },
        other => wrong(other, &Type::Duration),
    }
}

fn to_timestamp<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let overflow = || EvalError::new("timestamp overflow");
    match &args[0] {
        Value::Timestamp(_) => Ok(args[0].clone()),
        Value::Int(seconds) => jiff::Timestamp::from_second(*seconds)
            .ok()
            .filter(|at| time::in_range(*at))
            .map(Value::Timestamp)
            .ok_or_else(overflow),
        Value::String(text) => match time::parse_timestamp(text) {
            Some(at) if time::in_range(at) => Ok(Value::Timestamp(at)),
            Some(_) => Err(overflow()),
            None => wrong(&args[0], &Type::Timestamp),
        },
        other => wrong(other, &Type::Timestamp),
    }
}

/// A double as Go's `%g` prints it.
pub(super) fn format_double(double: f64) -> String {
    if double.is_nan() {
        return "NaN".to_owned();
    }
    if double.is_infinite() {
        return if double > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let scientific = format!("{double:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{double}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
