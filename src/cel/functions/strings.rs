//! Functions of strings: the standard ones, and the string extensions of version 2.

use crate::error::EvalError;
use crate::functions::{Func, format, no_overload, regex};
use crate::value::{Result, Str, Value};

/// Longest text that a function may make, in bytes; costs alone do not bound what grows by repetition.
pub(super) const MAX_TEXT: usize = 16 << 20;

/// A part of a text, borrowed where the text is.
fn part_of<'a>(text: &Str<'a>, start: usize, end: usize) -> Value<'a> {
    match text {
        Str::Borrowed(whole) => Value::str(&whole[start..end]),
        Str::Shared(whole) => Value::string(&whole[start..end]),
    }
}

pub(super) fn lookup(name: &str) -> Option<Func> {
    Some(match name {
        "contains" => |args| two(args, "contains", |s, part| Ok(Value::Bool(s.contains(part)))),
        "startsWith" => |args| two(args, "startsWith", |s, part| Ok(Value::Bool(s.starts_with(part)))),
        "endsWith" => |args| two(args, "endsWith", |s, part| Ok(Value::Bool(s.ends_with(part)))),
        "matches" => |args| {
            two(args, "matches", |s, pattern| {
                regex(pattern).map(|regex| Value::Bool(regex.is_match(s))).map_err(EvalError::new)
            })
        },
        "find" => |args| {
            two(args, "find", |s, pattern| {
                let regex = regex(pattern).map_err(EvalError::new)?;
                Ok(Value::string(regex.find(s).map_or("", |found| found.as_str())))
            })
        },
        "findAll" => find_all,
        "charAt" => char_at,
        "indexOf" => index_of,
        "lastIndexOf" => last_index_of,
        "join" => join,
        "lowerAscii" => |args| one(args, "lowerAscii", |s| Ok(Value::string(s.to_ascii_lowercase()))),
        "upperAscii" => |args| one(args, "upperAscii", |s| Ok(Value::string(s.to_ascii_uppercase()))),
        "trim" => |args| one(args, "trim", |s| Ok(Value::string(s.trim()))),
        "strings.quote" => |args| one(args, "strings.quote", |s| Ok(Value::string(quote(s)))),
        "jsonpatch.escapeKey" => {
            |args| one(args, "jsonpatch.escapeKey", |s| Ok(Value::string(s.replace('~', "~0").replace('/', "~1"))))
        }
        "replace" => replace,
        "split" => split,
        "substring" => substring,
        "format" => format::string_format,
        _ => return None,
    })
}

fn one<'a>(args: &[Value<'a>], name: &str, run: impl Fn(&str) -> Result<Value<'a>>) -> Result<Value<'a>> {
    match args {
        [Value::String(text)] => run(text),
        _ => no_overload(name, args),
    }
}

fn two<'a>(args: &[Value<'a>], name: &str, run: impl Fn(&str, &str) -> Result<Value<'a>>) -> Result<Value<'a>> {
    match args {
        [Value::String(text), Value::String(other)] => run(text, other),
        _ if matches!(name, "find" | "findAll") => no_overload(name, args),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn out_of_range<'a>(index: i64) -> Result<Value<'a>> {
    Err(EvalError::new(format!("index out of range: {index}")))
}

fn find_all<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let (text, pattern, limit) = match args {
        [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
        [Value::String(text), Value::String(pattern), Value::Int(limit)] => (text, pattern, *limit),
        _ => return no_overload("findAll", args),
    };
    let regex = regex(pattern).map_err(EvalError::new)?;
    Ok(regex::find_all_in(&regex, text, limit))
}

fn char_at<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::String(text), Value::Int(index)] = args else { return no_overload("charAt", args) };
    let Ok(at) = usize::try_from(*index) else { return out_of_range(*index) };
    match text.chars().nth(at) {
        Some(c) => Ok(Value::string(c.to_string())),
        None if at == text.chars().count() => Ok(Value::str("")),
        None => out_of_range(*index),
    }
}

fn index_of<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    if let [Value::List(list), element] = args {
        let at = list.iter().position(|have| have.is_ok_and(|have| have.equals(element)));
        return Ok(Value::Int(at.map_or(-1, |at| at as i64)));
    }
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return no_overload("indexOf", args),
    };
    if part.is_empty() && args.len() == 2 {
        return Ok(Value::Int(0));
    }
    let chars: Vec<char> = text.chars().collect();
    let part: Vec<char> = part.chars().collect();
    let from = match usize::try_from(offset) {
        Ok(from) if from <= chars.len() => from,
        _ => return out_of_range(offset),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    let at = chars[from..].windows(part.len()).position(|window| window == part);
    Ok(Value::Int(at.map_or(-1, |at| (from + at) as i64)))
}

fn last_index_of<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    if let [Value::List(list), element] = args {
        let found = (0..list.len())
            .rev()
            .find(|at| list.get(*at).is_some_and(|have| have.is_ok_and(|have| have.equals(element))));
        return Ok(Value::Int(found.map_or(-1, |at| at as i64)));
    }
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, Some(*offset)),
        _ => return no_overload("lastIndexOf", args),
    };
    let chars: Vec<char> = text.chars().collect();
    let part: Vec<char> = part.chars().collect();
    if part.is_empty() && offset.is_none() {
        return Ok(Value::Int(chars.len() as i64));
    }
    if part.len() > chars.len() {
        return Ok(Value::Int(-1));
    }
    let last = chars.len() - part.len();
    let from = match offset {
        None => last,
        Some(offset) => match usize::try_from(offset) {
            Ok(from) if from < chars.len() => from.min(last),
            _ => return out_of_range(offset),
        },
    };
    let at = (0..=from).rev().find(|at| chars[*at..].starts_with(&part));
    Ok(Value::Int(at.map_or(-1, |at| at as i64)))
}

fn join<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return no_overload("join", args),
    };
    let mut out = String::new();
    for (at, element) in list.iter().enumerate() {
        let element = element?;
        let Some(text) = element.as_str() else { return no_overload("join", args) };
        if out.len() + separator.len() + text.len() > MAX_TEXT {
            return Err(EvalError::CostLimit);
        }
        if at > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    Ok(Value::string(out))
}

fn replace<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let (text, from, to, count) = match args {
        [Value::String(text), Value::String(from), Value::String(to)] => (text, from, to, -1),
        [Value::String(text), Value::String(from), Value::String(to), Value::Int(count)] => (text, from, to, *count),
        _ => return no_overload("replace", args),
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let found = text.matches(&**from).take(count).count();
    if text.len().saturating_add(found.saturating_mul(to.len())) > MAX_TEXT {
        return Err(EvalError::CostLimit);
    }
    Ok(Value::string(text.replacen(&**from, to, count)))
}

fn split<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let (text, separator, limit) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(limit)] => (text, separator, *limit),
        _ => return no_overload("split", args),
    };
    let limit = match limit {
        0 => return Ok(Value::list(Vec::new())),
        limit if limit < 0 => usize::MAX,
        limit => limit as usize,
    };
    let mut parts = Vec::new();
    let mut start = 0;
    if separator.is_empty() {
        while let Some(c) = text[start..].chars().next() {
            let end = if parts.len() + 1 == limit { text.len() } else { start + c.len_utf8() };
            parts.push(part_of(text, start, end));
            start = end;
        }
    } else {
        while parts.len() + 1 < limit
            && let Some(at) = text[start..].find(&**separator)
        {
            parts.push(part_of(text, start, start + at));
            start += at + separator.len();
        }
        parts.push(part_of(text, start, text.len()));
    }
    Ok(Value::list(parts))
}

fn substring<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let (text, start, end) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return no_overload("substring", args),
    };
    let length = text.chars().count() as i64;
    if let Some(end) = end
        && start > end
    {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    if start < 0 || start > length {
        return out_of_range(start);
    }
    let end = end.unwrap_or(length);
    if end < 0 || end > length {
        return out_of_range(end);
    }
    let offset = |index: i64| text.char_indices().nth(index as usize).map_or(text.len(), |(at, _)| at);
    Ok(part_of(text, offset(start), offset(end)))
}

/// The text in double quotes, with control characters escaped.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
