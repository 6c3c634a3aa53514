//! JSON paths that name a field of a schema: `.spec.replicas`, `.spec['a.b']`.
//!
//! Invariants:
//! - FP-1: what upstream's scanner takes apart is taken apart alike, with its error texts.

use serde_json::Value;

use crate::access::{field, map};

/// The segments of a path and the schema it leads to. `brackets`: `['name']` is allowed.
pub(super) fn resolve<'a>(path: &str, schema: &'a Value, brackets: bool) -> Result<(Vec<String>, &'a Value), String> {
    const END: &str = "unexpected end of JSON path";
    let mut tokens = tokens(path).into_iter();
    let mut found = Vec::new();
    let mut at = schema;
    while let Some(token) = tokens.next() {
        match token {
            "[" if !brackets => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let token = tokens.next().ok_or(END)?;
                if token.len() < 2 || !token.starts_with('\'') || !token.ends_with('\'') {
                    return Err(format!("expected single quoted string but got {token}"));
                }
                let name =
                    unescape(&token[1..token.len() - 1]).map_err(|error| format!("invalid string literal: {error}"))?;
                at = below(at, &name)?;
                found.push(name);
                match tokens.next() {
                    Some("]") => {}
                    Some(other) => return Err(format!("expected ] but got {other}")),
                    None => return Err(END.to_owned()),
                }
            }
            "." => {
                let name = tokens.next().ok_or(END)?;
                at = below(at, name)?;
                found.push(name.to_owned());
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok((found, at))
}

/// The schema of a property, or of a map's values.
fn below<'a>(schema: &'a Value, name: &str) -> Result<&'a Value, String> {
    let none = || "does not refer to a valid field".to_owned();
    match map(schema, "properties").filter(|properties| !properties.is_empty()) {
        Some(properties) => properties.get(name).ok_or_else(none),
        None => field(schema, "additionalProperties").filter(|schema| schema.is_object()).ok_or_else(none),
    }
}

/// Delimiters, quoted strings (quotes included), and what is between them.
fn tokens(path: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let bytes = rest.as_bytes();
        let end = match bytes[0] {
            b'.' | b'[' | b']' => 1,
            b'\'' => {
                let closing = (1..bytes.len()).find(|i| bytes[*i] == b'\'' && bytes[*i - 1] != b'\\');
                closing.map_or(rest.len(), |i| i + 1)
            }
            _ => rest.find(['.', '[', ']']).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(end);
        out.push(token);
        rest = after;
    }
    out
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some(c @ ('\'' | '\\')) => out.push(c),
            Some(other) => return Err(format!("invalid escape char \\{other}")),
            None => out.push('\\'),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let schema = json!({"properties": {
            "a.b": {"properties": {"c": {"type": "string"}}},
            "m": {"additionalProperties": {"type": "integer"}}}});
        let at = |path: &str| resolve(path, &schema, true).map(|(found, _)| found);
        assert_eq!(at("['a.b'].c"), Ok(vec!["a.b".to_owned(), "c".to_owned()]));
        assert_eq!(at(".m.x"), Ok(vec!["m".to_owned(), "x".to_owned()]));
        for (path, error) in [
            ("m", "expected [ or . but got: m"),
            (".", "unexpected end of JSON path"),
            (".zz", "does not refer to a valid field"),
            ("[0]", "expected single quoted string but got 0"),
            ("['m'", "unexpected end of JSON path"),
        ] {
            assert_eq!(at(path), Err(error.to_owned()), "{path}");
        }
        assert_eq!(resolve("['m']", &schema, false).err().as_deref(), Some("array notation is not allowed"));
    }
}
