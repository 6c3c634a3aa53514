//! `string.format(list)`.

use crate::error::EvalError;
use crate::functions::convert::format_double;
use crate::functions::no_overload;
use crate::functions::strings::MAX_TEXT;
use crate::value::{Result, Value};

/// Most decimals that a clause may ask for.
const MAX_PRECISION: usize = 1_000;

pub(super) fn string_format<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::String(text), Value::List(list)] = args else { return no_overload("format", args) };
    let mut out = String::with_capacity(text.len());
    let mut next = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.peek().filter(|c| c.is_ascii_digit()) {
                digits.push(*digit);
                chars.next();
            }
            let number = digits.parse().ok().filter(|number| *number <= MAX_PRECISION);
            precision = Some(number.ok_or_else(|| {
                EvalError::new(format!("could not parse formatting clause: error while parsing precision: {digits}"))
            })?);
        }
        let Some(verb) = chars.next() else {
            return Err(EvalError::new("could not parse formatting clause: unexpected end of string"));
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(arg) = list.get(next) else {
            return Err(EvalError::new(format!("index {next} out of range")));
        };
        next += 1;
        clause(verb, precision, &arg?, &mut out)?;
        if out.len() > MAX_TEXT {
            return Err(EvalError::CostLimit);
        }
    }
    if next < list.len() {
        return Err(EvalError::new(format!("too many arguments supplied to string.format(): got {}", list.len())));
    }
    Ok(Value::string(out))
}

fn clause(verb: char, precision: Option<usize>, arg: &Value<'_>, out: &mut String) -> Result<()> {
    let wrong = |what: &str| EvalError::new(format!("error during formatting: {what}, was given {}", arg.type_name()));
    match verb {
        's' => show(arg, out)?,
        'd' => match arg {
            Value::Int(i) => out.push_str(&i.to_string()),
            Value::Uint(u) => out.push_str(&u.to_string()),
            Value::Double(d) if d.is_nan() || d.is_infinite() => out.push_str(&special(*d)),
            _ => return Err(wrong("decimal clause can only be used on integers")),
        },
        'f' | 'e' => {
            let number = match arg {
                Value::Double(d) => *d,
                Value::Int(i) => *i as f64,
                Value::Uint(u) => *u as f64,
                Value::String(s) if matches!(&**s, "NaN" | "Infinity" | "-Infinity") => {
                    out.push_str(s);
                    return Ok(());
                }
                _ if verb == 'f' => return Err(wrong("fixed-point clause can only be used on doubles")),
                _ => return Err(wrong("scientific clause can only be used on doubles")),
            };
            if !number.is_finite() {
                out.push_str(&special(number));
            } else if verb == 'f' {
                out.push_str(&format!("{number:.*}", precision.unwrap_or(6)));
            } else {
                let text = format!("{number:.*e}", precision.unwrap_or(6));
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let exponent: i32 = exponent.parse().unwrap_or_default();
                let sign = if exponent < 0 { '-' } else { '+' };
                out.push_str(&format!("{digits}e{sign}{:02}", exponent.abs()));
            }
        }
        'b' => match arg {
            Value::Int(i) => out.push_str(&signed(*i, |u| format!("{u:b}"))),
            Value::Uint(u) => out.push_str(&format!("{u:b}")),
            Value::Bool(b) => out.push(if *b { '1' } else { '0' }),
            _ => return Err(wrong("only integers and bools can be formatted as binary")),
        },
        'o' => match arg {
            Value::Int(i) => out.push_str(&signed(*i, |u| format!("{u:o}"))),
            Value::Uint(u) => out.push_str(&format!("{u:o}")),
            _ => return Err(wrong("octal clause can only be used on integers")),
        },
        'x' | 'X' => {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let text = match arg {
                Value::Int(i) => signed(*i, |u| format!("{u:x}")),
                Value::Uint(u) => format!("{u:x}"),
                Value::String(s) => hex(s.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => {
                    return Err(wrong("only integers, byte buffers, and strings can be formatted as hex"));
                }
            };
            out.push_str(&if verb == 'X' { text.to_uppercase() } else { text });
        }
        other => {
            return Err(EvalError::new(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            )));
        }
    }
    Ok(())
}

fn special(double: f64) -> String {
    match double {
        d if d.is_nan() => "NaN".to_owned(),
        d if d > 0.0 => "Infinity".to_owned(),
        _ => "-Infinity".to_owned(),
    }
}

fn signed(number: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if number < 0 { "-" } else { "" }, digits(number.unsigned_abs()))
}

/// `%s`: any value as text.
fn show(value: &Value<'_>, out: &mut String) -> Result<()> {
    if out.len() > MAX_TEXT || !crate::fuel::spend() {
        return Err(EvalError::CostLimit);
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(i) => out.push_str(&i.to_string()),
        Value::Uint(u) => out.push_str(&u.to_string()),
        Value::Double(d) if !d.is_finite() => out.push_str(&special(*d)),
        Value::Double(d) => out.push_str(&format_double(*d)),
        Value::String(s) => out.push_str(s),
        Value::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Value::Duration(nanos) => out.push_str(&crate::time::format_duration_seconds(*nanos)),
        Value::Timestamp(at) => out.push_str(&crate::time::format_timestamp(*at)),
        Value::Type(ty) => out.push_str(ty.name()),
        Value::List(list) => {
            out.push('[');
            for (at, element) in list.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                show(&element?, out)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.entries()? {
                let mut text = String::new();
                show(&key, &mut text)?;
                text.push_str(": ");
                show(&value, &mut text)?;
                entries.push(text);
            }
            entries.sort();
            out.push('{');
            out.push_str(&entries.join(", "));
            out.push('}');
        }
        other => {
            return Err(EvalError::new(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, \
                 maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            )));
        }
    }
    Ok(())
}
