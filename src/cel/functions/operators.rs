//! Operators: arithmetic, order, membership, size, and the parts of times.

use std::cmp::Ordering;
use std::rc::Rc;

use jiff::Timestamp;
use jiff::civil::Weekday;

use crate::error::EvalError;
use crate::functions::Func;
use crate::json::add_lists;
use crate::time;
use crate::value::{List, Result, Value};

pub(super) fn lookup(name: &str) -> Option<Func> {
    Some(match name {
        "_+_" => add,
        "_-_" => subtract,
        "_*_" => multiply,
        "_/_" => divide,
        "_%_" => modulo,
        "-_" => negate,
        "!_" => not,
        "@not_strictly_false" => |args| Ok(args[0].clone()),
        "_<_" => |args| ordered(args, Ordering::is_lt),
        "_<=_" => |args| ordered(args, Ordering::is_le),
        "_>_" => |args| ordered(args, Ordering::is_gt),
        "_>=_" => |args| ordered(args, Ordering::is_ge),
        "@in" => |args| in_collection(&args[0], &args[1]),
        "size" => size,
        "getFullYear" => |args| part(args, |at| i64::from(at.year()), None),
        "getMonth" => |args| part(args, |at| i64::from(at.month()) - 1, None),
        "getDayOfYear" => |args| part(args, |at| i64::from(at.day_of_year()) - 1, None),
        "getDayOfMonth" => |args| part(args, |at| i64::from(at.day()) - 1, None),
        "getDate" => |args| part(args, |at| i64::from(at.day()), None),
        "getDayOfWeek" => |args| part(args, |at| i64::from(Weekday::to_sunday_zero_offset(at.weekday())), None),
        "getHours" => |args| part(args, |at| i64::from(at.hour()), Some(|nanos| nanos / 3_600_000_000_000)),
        "getMinutes" => |args| part(args, |at| i64::from(at.minute()), Some(|nanos| nanos / 60_000_000_000)),
        "getSeconds" => |args| part(args, |at| i64::from(at.second()), Some(|nanos| nanos / 1_000_000_000)),
        "getMilliseconds" => {
            |args| part(args, |at| i64::from(at.subsec_nanosecond()) / 1_000_000, Some(|nanos| nanos / 1_000_000))
        }
        _ => return None,
    })
}

fn int_overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn uint_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn duration_overflow() -> EvalError {
    EvalError::new("duration overflow")
}

fn moved<'a>(at: Timestamp, nanos: i128) -> Result<Value<'a>> {
    time::add(at, nanos).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
}

fn add<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or_else(int_overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint).ok_or_else(uint_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            let mut sum = String::with_capacity(a.len() + b.len());
            sum.push_str(a);
            sum.push_str(b);
            Ok(Value::string(sum))
        }
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes(Rc::from([&**a, &**b].concat()))),
        (Value::List(a), Value::List(b)) => Ok(Value::List(List::Shared(Rc::new(add_lists(a, b)?)))),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map(Value::Duration).ok_or_else(duration_overflow)
        }
        (Value::Timestamp(at), Value::Duration(nanos)) | (Value::Duration(nanos), Value::Timestamp(at)) => {
            moved(*at, i128::from(*nanos))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn subtract<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => a.checked_sub(*b).map(Value::Int).ok_or_else(int_overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_sub(*b).map(Value::Uint).ok_or_else(uint_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_sub(*b).map(Value::Duration).ok_or_else(duration_overflow)
        }
        (Value::Timestamp(at), Value::Duration(nanos)) => moved(*at, -i128::from(*nanos)),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            time::between(*a, *b).map(Value::Duration).ok_or_else(duration_overflow)
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn multiply<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => a.checked_mul(*b).map(Value::Int).ok_or_else(int_overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_mul(*b).map(Value::Uint).ok_or_else(uint_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn divide<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => Err(EvalError::new("division by zero")),
        (Value::Int(a), Value::Int(b)) => a.checked_div(*b).map(Value::Int).ok_or_else(int_overflow),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a / b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn modulo<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => Err(EvalError::new("modulus by zero")),
        (Value::Int(a), Value::Int(b)) => a.checked_rem(*b).map(Value::Int).ok_or_else(int_overflow),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a % b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn negate<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Int(a) => a.checked_neg().map(Value::Int).ok_or_else(int_overflow),
        Value::Double(a) => Ok(Value::Double(-a)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn not<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    args[0].as_bool().map(|b| Value::Bool(!b)).ok_or_else(EvalError::no_such_overload)
}

/// How two values of one order compare.
pub(crate) fn compare<'a>(left: &Value<'a>, right: &Value<'a>) -> Result<Ordering> {
    match (left, right) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Ok((**a).cmp(&**b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
        (Value::Double(a), _) if a.is_nan() => Err(EvalError::new("NaN values cannot be ordered")),
        (_, Value::Double(b)) if b.is_nan() => Err(EvalError::new("NaN values cannot be ordered")),
        _ => left.compare_numbers(right).ok_or_else(EvalError::no_such_overload),
    }
}

fn ordered<'a>(args: &[Value<'a>], accept: fn(Ordering) -> bool) -> Result<Value<'a>> {
    compare(&args[0], &args[1]).map(|order| Value::Bool(accept(order)))
}

/// `element in collection`.
pub(crate) fn in_collection<'a>(element: &Value<'a>, collection: &Value<'a>) -> Result<Value<'a>> {
    match collection {
        Value::List(list) => Ok(Value::Bool(list.contains(element))),
        Value::Map(map) => Ok(Value::Bool(map.has(element))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn size<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => {
            Ok(Value::Int(args[0].size().unwrap_or_default() as i64))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A part of a time (in UTC, or the zone that the second argument names) or of a duration.
fn part<'a>(
    args: &[Value<'a>],
    of_time: fn(&jiff::Zoned) -> i64,
    of_duration: Option<fn(i64) -> i64>,
) -> Result<Value<'a>> {
    match (args, of_duration) {
        ([Value::Timestamp(at)], _) => {
            let zoned = time::in_zone(*at, "").ok_or_else(EvalError::no_such_overload)?;
            Ok(Value::Int(of_time(&zoned)))
        }
        ([Value::Timestamp(at), Value::String(zone)], _) => match time::in_zone(*at, zone) {
            Some(zoned) => Ok(Value::Int(of_time(&zoned))),
            None => Err(EvalError::new(format!("unknown time zone {}", &**zone))),
        },
        ([Value::Duration(nanos)], Some(of_duration)) => Ok(Value::Int(of_duration(*nanos))),
        _ => Err(EvalError::no_such_overload()),
    }
}
