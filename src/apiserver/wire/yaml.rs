//! JSON as the YAML that upstream writes: sorted keys, block style, lists at their key's column, folded at 80 columns.

use std::fmt::Write as _;

use serde_json::Value;

/// Where a line is folded at the next space.
const WIDTH: usize = 80;

/// The YAML of a JSON document. What is no JSON is empty.
pub fn from_json(json: &[u8]) -> Vec<u8> {
    let Ok(value) = serde_json::from_slice::<Value>(json) else { return Vec::new() };
    to_yaml(&value).into_bytes()
}

pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(&mut out, value, 0, false),
        Value::Array(list) if !list.is_empty() => object(&mut out, value, 0, false),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

/// The members of a map or the items of a list. `inline`: the first one follows a `- ` on its line.
fn object(out: &mut String, value: &Value, indent: usize, mut inline: bool) {
    let mut margin = |out: &mut String| {
        if !std::mem::replace(&mut inline, false) {
            out.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                margin(out);
                string(out, key, indent);
                out.push(':');
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        out.push('\n');
                        object(out, value, indent + 2, false);
                    }
                    Value::Array(list) if !list.is_empty() => {
                        out.push('\n');
                        object(out, value, indent, false);
                    }
                    _ => {
                        out.push(' ');
                        scalar(out, value, indent);
                        out.push('\n');
                    }
                }
            }
        }
        Value::Array(list) => {
            for item in list {
                margin(out);
                out.push_str("- ");
                match item {
                    Value::Object(map) if !map.is_empty() => object(out, item, indent + 2, true),
                    Value::Array(list) if !list.is_empty() => object(out, item, indent + 2, true),
                    _ => {
                        scalar(out, item, indent);
                        out.push('\n');
                    }
                }
            }
        }
        _ => {}
    }
}

fn scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(text) => string(out, text, indent),
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn string(out: &mut String, text: &str, indent: usize) {
    if text.contains('\n') && text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()) {
        return literal(out, text, indent);
    }
    let printable = text.chars().all(|c| !c.is_control() && c != '\u{feff}');
    if !printable || (!text.is_empty() && reads_otherwise(text)) || text.is_empty() {
        return double_quoted(out, text, indent);
    }
    if plain_allowed(text) {
        fold(out, text, indent);
    } else {
        let quoted = text.replace('\'', "''");
        out.push('\'');
        fold(out, &quoted, indent);
        out.push('\'');
    }
}

fn literal(out: &mut String, text: &str, indent: usize) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    let body = text.trim_end_matches('\n');
    match text.len() - body.len() {
        0 => out.push('-'),
        1 => {}
        _ => out.push('+'),
    }
    let lines: Vec<&str> = match text.strip_suffix('\n') {
        Some(text) => text.split('\n').collect(),
        None => text.split('\n').collect(),
    };
    for line in lines {
        out.push('\n');
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent + 2));
            out.push_str(line);
        }
    }
}

fn double_quoted(out: &mut String, text: &str, indent: usize) {
    let mut quoted = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '\0' => quoted.push_str("\\0"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\u{1b}' => quoted.push_str("\\e"),
            '\u{85}' => quoted.push_str("\\N"),
            c if c.is_control() && (c as u32) < 0x100 => {
                let _ = write!(quoted, "\\x{:02X}", c as u32);
            }
            '\u{feff}' => quoted.push_str("\\uFEFF"),
            c => quoted.push(c),
        }
    }
    out.push('"');
    fold(out, &quoted, indent);
    out.push('"');
}

/// Writes text, going on in the next line at the first single space behind the width.
fn fold(out: &mut String, text: &str, indent: usize) {
    let start = out.rfind('\n').map_or(0, |at| at + 1);
    let mut column = out[start..].chars().count();
    let mut before_space = false;
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        let single = c == ' ' && !before_space && chars.peek().is_some_and(|next| *next != ' ');
        if single && column > WIDTH && !first {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent + 2));
            column = indent + 2;
        } else {
            out.push(c);
            column += 1;
        }
        before_space = c == ' ';
        first = false;
    }
}

fn plain_allowed(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let second_is_space = text.chars().nth(1).is_none_or(|c| c == ' ');
    let indicator = match first {
        '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => true,
        '-' | '?' | ':' => second_is_space,
        _ => false,
    };
    !indicator
        && !text.starts_with("---")
        && !text.starts_with("...")
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !text.ends_with(':')
        && !text.contains(": ")
        && !text.contains(" #")
}

/// The text would be read as something else than a string.
fn reads_otherwise(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "y", "Y", "yes", "Yes", "YES", "n", "N", "no", "No", "NO", "true", "True", "TRUE", "false", "False", "FALSE",
        "on", "On", "ON", "off", "Off", "OFF", "~", "null", "Null", "NULL", ".nan", ".NaN", ".NAN", ".inf", ".Inf",
        ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", "<<",
    ];
    if WORDS.contains(&text) {
        return true;
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return false;
    }
    let number = text.replace('_', "");
    let digits = number.strip_prefix(['+', '-']).unwrap_or(&number);
    let radix = |prefix: &str, radix: u32| {
        digits.strip_prefix(prefix).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_digit(radix)))
    };
    let float = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
        && digits.parse::<f64>().is_ok();
    let base60 = digits.contains(':')
        && digits.split(':').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit() || c == '.'));
    float || base60 || radix("0x", 16) || radix("0b", 2) || radix("0o", 8) || timestamp(text)
}

/// `2026-11-20`, with or without a time.
fn timestamp(text: &str) -> bool {
    let mut date = text.splitn(2, ['T', 't', ' ']);
    let parts: Vec<&str> = date.next().unwrap_or("").split('-').collect();
    let all_digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if parts.len() != 3 || parts[0].len() != 4 || !parts.iter().all(all_digits) {
        return false;
    }
    match date.next() {
        None => true,
        Some(time) => time.contains(':') && time.starts_with(|c: char| c.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_as_go_yaml() {
        let value = json!({
            "a": {"b": [1, {"c": "x", "d": []}, ["q", "z"]], "e": {}},
            "bool": "true", "num": "1", "time": "2026-11-20T10:00:00Z", "text": "it's: so", "star": "*", "empty": "",
            "lines": "a\nb\n", "null": null, "plain": "don't stop",
        });
        let want = "a:\n  b:\n  - 1\n  - c: x\n    d: []\n  - - q\n    - z\n  e: {}\nbool: \"true\"\nempty: \"\"\nlines: |\n  a\n  b\n\"null\": null\nnum: \"1\"\nplain: don't stop\nstar: '*'\ntext: 'it''s: so'\ntime: \"2026-11-20T10:00:00Z\"\n";
        assert_eq!(to_yaml(&value), want);
    }

    #[test]
    fn folds_long_lines() {
        let text = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(
            to_yaml(&json!({"message": text})),
            "message: 'only the following media types are accepted: application/json;stream=watch,\n  application/vnd.kubernetes.protobuf;stream=watch'\n"
        );
    }
}
