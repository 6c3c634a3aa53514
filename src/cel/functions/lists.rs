//! Functions of lists and maps: Kubernetes' list library, sets, and what the macros need.

use std::cmp::Ordering;
use std::rc::Rc;

use crate::error::EvalError;
use crate::functions::{Func, compare, no_overload};
use crate::value::{Entries, List, Map, Result, Value};

pub(super) fn lookup(name: &str) -> Option<Func> {
    Some(match name {
        "isSorted" => is_sorted,
        "sum" => sum,
        "min" => |args| extreme(args, "min", Ordering::is_lt),
        "max" => |args| extreme(args, "max", Ordering::is_gt),
        "first" => |args| match args {
            [Value::List(list)] => end(list, 0),
            _ => no_overload("first", args),
        },
        "last" => |args| match args {
            [Value::List(list)] => end(list, list.len().wrapping_sub(1)),
            _ => no_overload("last", args),
        },
        "optional.unwrap" | "unwrapOpt" => unwrap_all,
        "sets.contains" => |args| sets(args, "sets.contains", contains),
        "sets.equivalent" => |args| sets(args, "sets.equivalent", |a, b| Ok(contains(a, b)? && contains(b, a)?)),
        "sets.intersects" => |args| {
            sets(args, "sets.intersects", |a, b| {
                for element in a.iter() {
                    if b.contains(&element?) {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
        },
        "cel.@mapInsert" => |args| {
            let mut args = args.to_vec();
            let rest = args.split_off(1);
            map_insert(args.remove(0), &rest)
        },
        _ => return None,
    })
}

fn is_sorted<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no_overload("isSorted", args) };
    let mut before: Option<Value<'a>> = None;
    for element in list.iter() {
        let element = element?;
        if let Some(before) = &before
            && compare(before, &element)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
        before = Some(element);
    }
    Ok(Value::Bool(true))
}

/// The sum, from the zero that the planner passes as second argument.
fn sum<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(Value::List(list)) = args.first() else { return no_overload("sum", args) };
    let add = super::lookup("_+_").expect("addition is a function");
    let mut total: Option<Value<'a>> = None;
    for element in list.iter() {
        let element = element?;
        total = Some(match total {
            None => element,
            Some(total) => add(&[total, element])?,
        });
    }
    Ok(total.or_else(|| args.get(1).cloned()).unwrap_or(Value::Int(0)))
}

fn extreme<'a>(args: &[Value<'a>], name: &str, better: fn(Ordering) -> bool) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no_overload(name, args) };
    let mut best: Option<Value<'a>> = None;
    for element in list.iter() {
        let element = element?;
        if match &best {
            None => true,
            Some(best) => better(compare(&element, best)?),
        } {
            best = Some(element);
        }
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn end<'a>(list: &List<'a>, at: usize) -> Result<Value<'a>> {
    match list.get(at) {
        Some(element) => Ok(Value::some(element?)),
        None => Ok(Value::Optional(None)),
    }
}

fn unwrap_all<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no_overload("optional.unwrap", args) };
    let mut out = Vec::new();
    for element in list.iter() {
        match element? {
            Value::Optional(Some(inner)) => out.push((*inner).clone()),
            Value::Optional(None) => {}
            _ => return no_overload("optional.unwrap", args),
        }
    }
    Ok(Value::list(out))
}

fn sets<'a>(args: &[Value<'a>], name: &str, run: impl Fn(&List<'a>, &List<'a>) -> Result<bool>) -> Result<Value<'a>> {
    match args {
        [Value::List(a), Value::List(b)] => run(a, b).map(Value::Bool),
        _ => no_overload(name, args),
    }
}

fn contains<'a>(list: &List<'a>, part: &List<'a>) -> Result<bool> {
    for element in part.iter() {
        if !list.contains(&element?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The map with a key and value, or with the entries of another map, added; a key must be new.
pub(crate) fn map_insert<'a>(map: Value<'a>, rest: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Map(map) = map else { return Err(EvalError::no_such_overload()) };
    let mut entries = match map {
        Map::Shared(entries) => entries,
        other => {
            let mut entries = Entries::default();
            for (key, value) in other.entries()? {
                entries.insert(key, value)?;
            }
            Rc::new(entries)
        }
    };
    let target = Rc::make_mut(&mut entries);
    let mut add = |key: Value<'a>, value: Value<'a>| {
        let shown = show_key(&key);
        match target.insert(key, value)? {
            true => Ok(()),
            false => Err(EvalError::new(format!("insert failed: key {shown} already exists"))),
        }
    };
    match rest {
        [key, value] => add(key.clone(), value.clone())?,
        [Value::Map(other)] => {
            for (key, value) in other.entries()? {
                add(key, value)?;
            }
        }
        _ => return Err(EvalError::no_such_overload()),
    }
    Ok(Value::Map(Map::Shared(entries)))
}

/// A key as messages show it.
pub(crate) fn show_key(key: &Value<'_>) -> String {
    match key {
        Value::String(text) => text.to_string(),
        Value::Uint(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}
