//! Reading a patch document: repeated keys are reported, errors are worded as Go's JSON decoder words them.
//!
//! Invariants:
//! - PP-1: of a repeated key the last value counts.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// A parsed document and the places of keys that occur more than once, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub value: Value,
    /// Paths such as `spec.replicas` or `[0].op`.
    pub duplicates: Vec<String>,
    /// All keys of the objects in a top-level list, with their path, in order; used to find unknown fields.
    pub(super) item_keys: Vec<(String, String)>,
}

/// Parses JSON. The error is Go's text, without a prefix.
pub fn parse(text: &[u8]) -> Result<Document, String> {
    let found = Found::default();
    let mut input = serde_json::Deserializer::from_slice(text);
    let seed = Seed { path: String::new(), depth: 0, found: &found };
    let value = seed.deserialize(&mut input).and_then(|value| input.end().map(|()| value));
    match value {
        Ok(value) => {
            Ok(Document { value, duplicates: found.duplicates.into_inner(), item_keys: found.item_keys.into_inner() })
        }
        Err(error) => Err(syntax_error(text).unwrap_or_else(|| error.to_string())),
    }
}

#[derive(Default)]
struct Found {
    duplicates: RefCell<Vec<String>>,
    item_keys: RefCell<Vec<(String, String)>>,
}

struct Seed<'a> {
    path: String,
    depth: u32,
    found: &'a Found,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            match seq.next_element_seed(Seed { path, depth: self.depth + 1, found: self.found })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{key}", self.path);
            if self.depth == 1 {
                self.found.item_keys.borrow_mut().push((key.clone(), path.clone()));
            }
            if map.contains_key(&key) {
                self.found.duplicates.borrow_mut().push(path.clone());
            }
            let value = access.next_value_seed(Seed { path, depth: self.depth + 1, found: self.found })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// What Go's scanner says about text that is not JSON; `None` if it finds nothing wrong.
pub fn syntax_error(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner { text, at: 0 };
    match scanner.value(0).and_then(|()| scanner.end()) {
        Ok(()) => None,
        Err(Bad::End) => Some("unexpected end of JSON input".into()),
        Err(Bad::Char(c, context)) => Some(format!("invalid character {} {context}", quote_char(c))),
        Err(Bad::Deep) => Some("exceeded max depth".into()),
    }
}

enum Bad {
    End,
    Char(u8, String),
    Deep,
}

/// The nesting Go's decoder allows.
const MAX_DEPTH: u32 = 10_000;

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Result<u8, Bad> {
        self.text.get(self.at).copied().ok_or(Bad::End)
    }

    fn skip_space(&mut self) -> Result<u8, Bad> {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    fn bad<T>(&self, c: u8, context: impl Into<String>) -> Result<T, Bad> {
        Err(Bad::Char(c, context.into()))
    }

    fn end(&mut self) -> Result<(), Bad> {
        match self.skip_space() {
            Ok(c) => self.bad(c, "after top-level value"),
            Err(_) => Ok(()),
        }
    }

    fn value(&mut self, depth: u32) -> Result<(), Bad> {
        if depth > MAX_DEPTH {
            return Err(Bad::Deep);
        }
        match self.skip_space()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            c => self.bad(c, "looking for beginning of value"),
        }
    }

    fn object(&mut self, depth: u32) -> Result<(), Bad> {
        self.at += 1;
        let mut first = true;
        loop {
            match self.skip_space()? {
                b'}' if first => break,
                b'"' => self.string()?,
                c => return self.bad(c, "looking for beginning of object key string"),
            }
            first = false;
            match self.skip_space()? {
                b':' => self.at += 1,
                c => return self.bad(c, "after object key"),
            }
            self.value(depth + 1)?;
            match self.skip_space()? {
                b',' => self.at += 1,
                b'}' => break,
                c => return self.bad(c, "after object key:value pair"),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: u32) -> Result<(), Bad> {
        self.at += 1;
        if self.skip_space()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.skip_space()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                c => return self.bad(c, "after array element"),
            }
        }
    }

    fn string(&mut self) -> Result<(), Bad> {
        self.at += 1;
        loop {
            let c = self.peek()?;
            self.at += 1;
            match c {
                b'"' => return Ok(()),
                b'\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    match escape {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                        b'u' => {
                            for _ in 0..4 {
                                let c = self.peek()?;
                                if !c.is_ascii_hexdigit() {
                                    return self.bad(c, "in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        c => return self.bad(c, "in string escape code"),
                    }
                }
                c if c < 0x20 => return self.bad(c, "in string literal"),
                _ => {}
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), Bad> {
        for (i, want) in word.bytes().enumerate() {
            let c = self.peek()?;
            if c != want {
                let name = &word[..1];
                let rest = if i == 0 { name } else { word };
                return self.bad(c, format!("in literal {rest} (expecting {})", quote_char(want)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Bad> {
        if self.peek()? == b'-' {
            self.at += 1;
            let c = self.peek()?;
            if !c.is_ascii_digit() {
                return self.bad(c, "in numeric literal");
            }
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits();
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            let c = self.peek()?;
            if !c.is_ascii_digit() {
                return self.bad(c, "after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            let c = self.peek()?;
            if !c.is_ascii_digit() {
                return self.bad(c, "in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.text.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }
}

fn quote_char(c: u8) -> String {
    match c {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        c => {
            let quoted = crate::goformat::quote(&char::from(c).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_like_go() {
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("[{", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("tru x", "invalid character ' ' in literal true (expecting 'e')"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn duplicates() {
        let doc = parse(br#"{"spec":{"replicas":1,"a":[{"b":1,"b":2}],"replicas":2}}"#).unwrap();
        assert_eq!(doc.value, json!({"spec": {"replicas": 2, "a": [{"b": 2}]}}));
        assert_eq!(doc.duplicates, ["spec.a[0].b", "spec.replicas"]);
    }
}
