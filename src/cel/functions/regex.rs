//! Regular expressions: RE2's syntax for the `regex` crate.
//!
//! Invariants:
//! - CEL-X1: classes that RE2 takes as ASCII (`\d`, `\w`, `\s`, `\b`) stay ASCII.

use ::regex::{Regex, RegexBuilder};

use crate::value::Value;

/// Largest compiled expression, in bytes.
const SIZE_LIMIT: usize = 4 << 20;

/// Compiles an expression; the error is Go's text as far as it is known.
pub(crate) fn regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern))
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| format!("error parsing regexp: {}", complaint(pattern, &error)))
}

/// The first `limit` matches, all for a negative limit.
pub(crate) fn find_all_in<'a>(regex: &Regex, text: &str, limit: i64) -> Value<'a> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Value::list(regex.find_iter(text).take(limit).map(|found| Value::string(found.as_str())).collect())
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut class = false;
    let mut opened = 0;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str(if class { "0-9" } else { "[0-9]" }),
                Some('w') => out.push_str(if class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
                Some('s') => out.push_str(if class { "\\t\\n\\x0c\\r " } else { "[\\t\\n\\x0c\\r ]" }),
                Some('D') => out.push_str("[^0-9]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('S') => out.push_str("[^\\t\\n\\x0c\\r ]"),
                Some('b') if !class => out.push_str("(?-u:\\b)"),
                Some('B') if !class => out.push_str("(?-u:\\B)"),
                Some('Q') if !class => {
                    let rest: String = chars.by_ref().collect();
                    let (quoted, tail) = rest.split_once("\\E").unwrap_or((&rest, ""));
                    out.push_str(&::regex::escape(quoted));
                    out.push_str(&translate(tail));
                }
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            '[' if !class => {
                class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.push('^');
                    chars.next();
                }
                // A bracket that comes first is a member of the class.
                if chars.peek() == Some(&']') {
                    out.push_str("\\]");
                    chars.next();
                }
                opened = out.len();
            }
            '[' if chars.peek() == Some(&':') => out.push('['),
            '[' => out.push_str("\\["),
            ']' if class && out[opened..].rfind("[:").is_some_and(|at| !out[opened + at..].contains(":]")) => {
                out.push(']');
            }
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            '-' if class && chars.peek() == Some(&'-') => out.push_str("\\-"),
            _ => out.push(c),
        }
    }
    out
}

/// What Go says of the common mistakes.
fn complaint(pattern: &str, error: &::regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    if last.contains("unclosed group") {
        format!("missing closing ): `{pattern}`")
    } else if last.contains("unopened group") {
        format!("unexpected ): `{pattern}`")
    } else if last.contains("unclosed character class") {
        let at = pattern.rfind('[').unwrap_or_default();
        format!("missing closing ]: `{}`", &pattern[at..])
    } else if last.contains("missing expression") {
        let at = pattern.find(['*', '+', '?']).unwrap_or_default();
        format!("missing argument to repetition operator: `{}`", &pattern[at..=at])
    } else if last.contains("look-around") {
        let at = pattern.find("(?").unwrap_or_default();
        format!("invalid or unsupported Perl syntax: `{}`", pattern.get(at..at + 3).unwrap_or("(?"))
    } else if last.contains("escape") {
        "invalid escape sequence".to_owned()
    } else {
        last.strip_prefix("error: ").unwrap_or(last).to_owned()
    }
}
