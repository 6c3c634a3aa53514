//! One step of a field path: a field, a list item by its keys, a set item by its value, or an index.
//!
//! Invariants:
//! - MF-1: the order of path elements is upstream's (fields, keys, values, indices), which is also their order in
//!   FieldsV1.

use crate::schema::Str;
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;

/// One step of a path.
#[derive(Debug, Clone)]
pub enum PathElement {
    /// Fields of built-in kinds borrow their name from the schema.
    Field(Str),
    /// The item of an associative list with these key fields, sorted by name.
    Key(Box<[(Str, Value)]>),
    /// The item of a set.
    Value(Value),
    Index(i64),
}

/// Why a FieldsV1 key is not a path element.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("key must be 2 characters long: {0}")]
    Short(String),
    #[error("missing colon: {0}")]
    NoColon(String),
    #[error("invalid path element {0}")]
    Invalid(String),
    /// A kind of a later version: the field is skipped.
    #[error("unknown path element type")]
    Unknown,
}

impl PathElement {
    pub fn field(name: &str) -> Self {
        Self::Field(Str::Owned(name.to_owned()))
    }

    /// The FieldsV1 key: `f:name`, `k:{"a":1}`, `v:"x"`, `i:0`.
    pub fn encode(&self) -> String {
        match self {
            Self::Field(name) => {
                let mut out = String::with_capacity(name.len() + 2);
                out.push_str("f:");
                out.push_str(name);
                out
            }
            Self::Value(value) => {
                let mut out = String::from("v:");
                push_json(&mut out, value);
                out
            }
            Self::Index(index) => format!("i:{index}"),
            Self::Key(fields) => {
                let mut out = String::with_capacity(32);
                out.push_str("k:{");
                for (i, (name, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    push_json_string(&mut out, name);
                    out.push(':');
                    push_json(&mut out, value);
                }
                out.push('}');
                out
            }
        }
    }

    pub fn decode(text: &str) -> Result<Self, PathError> {
        let (Some(kind), Some(colon)) = (text.as_bytes().first(), text.as_bytes().get(1)) else {
            return Err(PathError::Short(text.into()));
        };
        if *colon != b':' {
            return Err(PathError::NoColon(text.into()));
        }
        let rest = &text[2..];
        let invalid = || PathError::Invalid(text.into());
        match kind {
            b'f' => Ok(Self::field(rest)),
            b'v' => serde_json::from_str(rest).map(Self::Value).map_err(|_| invalid()),
            b'i' => rest.parse().map(Self::Index).map_err(|_| invalid()),
            b'k' => match serde_json::from_str(rest) {
                Ok(Value::Object(map)) => {
                    Ok(Self::Key(map.into_iter().map(|(name, value)| (Str::Owned(name), value)).collect()))
                }
                _ => Err(invalid()),
            },
            _ => Err(PathError::Unknown),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

/// As upstream prints a step in errors and conflicts: `.name`, `[a=1]`, `[="x"]`, `[0]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Value(value) => write!(f, "[={}]", show(value)),
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={}", show(value))?;
                }
                f.write_str("]")
            }
        }
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((an, av), (bn, bv)) in a.iter().zip(b.iter()) {
                    let order = an.cmp(bn).then_with(|| compare_values(av, bv));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

/// A total order of values: numbers, strings, booleans, lists, maps, null. Integers equal the same floats.
pub fn compare_values(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x.as_f64().unwrap_or(f64::MAX).total_cmp(&y.as_f64().unwrap_or(f64::MAX)),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => {
            for (x, y) in x.iter().zip(y) {
                let order = compare_values(x, y);
                if order != Ordering::Equal {
                    return order;
                }
            }
            x.len().cmp(&y.len())
        }
        (Value::Object(x), Value::Object(y)) => {
            for ((xk, xv), (yk, yv)) in x.iter().zip(y) {
                let order = xk.cmp(yk).then_with(|| compare_values(xv, yv));
                if order != Ordering::Equal {
                    return order;
                }
            }
            x.len().cmp(&y.len())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn push_json(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => push_json_string(out, text),
        other => out.push_str(&other.to_string()),
    }
}

fn push_json_string(out: &mut String, text: &str) {
    // Nearly all keys need no escapes.
    if text.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&Value::from(text).to_string());
    }
}

/// A value in a path, as upstream prints it.
fn show(value: &Value) -> String {
    match value {
        Value::String(s) => crate::goformat::quote(s),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_round_trip_and_print() {
        for (text, shown) in [
            ("f:a.b/c", ".a.b/c"),
            (r#"k:{"port":80,"protocol":"TCP"}"#, r#"[port=80,protocol="TCP"]"#),
            (r#"v:"q.r/s""#, r#"[="q.r/s"]"#),
            ("v:true", "[=true]"),
            ("i:3", "[3]"),
        ] {
            let element = PathElement::decode(text).unwrap();
            assert_eq!(element.encode(), text);
            assert_eq!(element.to_string(), shown);
        }
    }

    #[test]
    fn bad_keys() {
        assert!(matches!(PathElement::decode("bad"), Err(PathError::NoColon(_))));
        assert!(matches!(PathElement::decode("f"), Err(PathError::Short(_))));
        assert!(matches!(PathElement::decode("k:[1]"), Err(PathError::Invalid(_))));
        assert!(matches!(PathElement::decode("z:1"), Err(PathError::Unknown)));
    }

    #[test]
    fn order() {
        let key = PathElement::Key([("a".into(), json!(1))].into());
        let sorted = [
            PathElement::field("a"),
            PathElement::field("b"),
            key,
            PathElement::Value(json!(2)),
            PathElement::Value(json!("1")),
            PathElement::Index(0),
        ];
        assert!(sorted.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(compare_values(&json!(1), &json!(1.0)), Ordering::Equal);
    }
}
