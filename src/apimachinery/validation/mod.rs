//! Field errors as upstream words them, and the checks every object shares.
//!
//! Invariants:
//! - VD-1: `FieldError`'s text is upstream's, byte for byte, for the same type, field, value and detail.
//! - VD-2: the errors of one list keep the order in which they were found.

pub mod meta;
pub mod names;

use crate::goformat;
use serde_json::{Value, json};
use std::fmt;

/// A field path: `spec.containers[0].name`, `metadata.annotations[a/b]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(root: &str) -> Self {
        // upstream prints a nameless element as an empty index
        Self(if root.is_empty() { "[]".into() } else { root.into() })
    }

    /// No path at all; prints as upstream's nil path.
    pub fn nil() -> Self {
        Self(String::new())
    }

    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.into()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// `child` for several names.
    pub fn children(&self, names: &[&str]) -> Self {
        names.iter().fold(self.clone(), |at, name| at.child(name))
    }

    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

impl From<&str> for Path {
    fn from(root: &str) -> Self {
        Self::new(root)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
    Internal,
}

impl ErrorType {
    /// The `reason` of a Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }
}

/// One problem with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub ty: ErrorType,
    pub field: String,
    /// The bad value.
    pub value: Value,
    pub detail: String,
    /// Text that stands for the value: Go's own dump of an internal struct, or "" to leave the value out.
    pub value_text: Option<String>,
}

impl FieldError {
    pub fn new(ty: ErrorType, field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { ty, field: field.to_string(), value: value.into(), detail: detail.into(), value_text: None }
    }

    /// The message without the field name, as in a Status cause.
    pub fn body(&self) -> String {
        let mut out = self.ty.text().to_string();
        let shows_value =
            !matches!(self.ty, ErrorType::Required | ErrorType::Forbidden | ErrorType::TooLong | ErrorType::Internal);
        if shows_value {
            match &self.value_text {
                Some(text) if text.is_empty() => {}
                Some(text) => {
                    out.push_str(": ");
                    out.push_str(text);
                }
                None => {
                    out.push_str(": ");
                    match &self.value {
                        Value::String(s) => out.push_str(&goformat::quote(s)),
                        other => out.push_str(&goformat::json(other)),
                    }
                }
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    /// The entry in a Status's `details.causes`.
    pub fn cause(&self) -> Value {
        json!({"reason": self.ty.reason(), "message": self.body(), "field": self.field})
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// Errors in the order they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(pub Vec<FieldError>);

impl ErrorList {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub fn extend(&mut self, other: ErrorList) {
        self.0.extend(other.0);
    }

    pub fn invalid(&mut self, path: Path, value: impl Into<Value>, detail: &str) {
        self.push(FieldError::new(ErrorType::Invalid, &path, value, detail));
    }

    /// One error for each message.
    pub fn invalid_all(&mut self, path: &Path, value: &str, messages: Vec<String>) {
        for message in messages {
            self.push(FieldError::new(ErrorType::Invalid, path, value, message));
        }
    }

    /// `invalid` with a value that prints as `text`: a dump in Go's own field order, or nothing if empty.
    pub fn invalid_text(&mut self, path: Path, text: &str, detail: &str) {
        let mut error = FieldError::new(ErrorType::Invalid, &path, Value::Null, detail);
        error.value_text = Some(text.into());
        self.push(error);
    }

    pub fn required(&mut self, path: Path, detail: &str) {
        self.push(FieldError::new(ErrorType::Required, &path, "", detail));
    }

    pub fn not_supported(&mut self, path: Path, value: impl Into<Value>, supported: &[&str]) {
        let quoted: Vec<_> = supported.iter().map(|s| goformat::quote(s)).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        self.push(FieldError::new(ErrorType::NotSupported, &path, value, detail));
    }

    pub fn duplicate(&mut self, path: Path, value: impl Into<Value>) {
        self.push(FieldError::new(ErrorType::Duplicate, &path, value, ""));
    }

    pub fn forbidden(&mut self, path: Path, detail: &str) {
        self.push(FieldError::new(ErrorType::Forbidden, &path, "", detail));
    }

    pub fn too_long(&mut self, path: Path, value: impl Into<Value>, max: usize) {
        let detail = format!("may not be more than {max} bytes");
        self.push(FieldError::new(ErrorType::TooLong, &path, value, detail));
    }

    pub fn too_many(&mut self, path: Path, actual: usize, max: usize) {
        let detail = format!("must have at most {max} {}", if max == 1 { "item" } else { "items" });
        self.push(FieldError::new(ErrorType::TooMany, &path, actual as u64, detail));
    }

    pub fn not_found(&mut self, path: Path, value: impl Into<Value>) {
        self.push(FieldError::new(ErrorType::NotFound, &path, value, ""));
    }

    pub fn type_invalid(&mut self, path: Path, value: impl Into<Value>, detail: &str) {
        self.push(FieldError::new(ErrorType::TypeInvalid, &path, value, detail));
    }

    pub fn internal(&mut self, path: Path, detail: &str) {
        self.push(FieldError::new(ErrorType::Internal, &path, Value::Null, detail));
    }

    /// The text of all errors together, repeated ones once: upstream's aggregate.
    pub fn aggregate(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        for error in &self.0 {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        if texts.len() == 1 { texts.swap_remove(0) } else { format!("[{}]", texts.join(", ")) }
    }
}

impl fmt::Display for ErrorList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.aggregate())
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ErrorList {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_errors_like_upstream() {
        let p = Path::new("spec").child("containers").index(0).child("image");
        let mut e = ErrorList::new();
        e.invalid(p.clone(), " x ", "must not have leading or trailing whitespace");
        e.required(p.clone(), "");
        e.required(Path::new("spec"), "must specify a volume type");
        e.not_supported(Path::new("fieldValidation"), "strict", &["", "Ignore"]);
        e.not_supported(Path::new("dryRun"), json!(["Some"]), &["All"]);
        e.duplicate(p.clone(), "c");
        e.forbidden(Path::new("metadata").child("namespace"), "not allowed on this type");
        e.too_long(Path::new("metadata").child("annotations"), "", 262144);
        e.too_many(Path::new("spec.a"), 3, 2);
        e.not_found(p.clone(), "nope");
        e.type_invalid(Path::new("spec"), "string", "spec in body must be of type object: \"string\"");
        e.invalid(Path::new("spec.replicas"), -1, "must be greater than or equal to 0");
        e.invalid(Path::new("spec.x"), Value::Null, "bad");
        e.invalid_text(Path::new("spec.y"), r#"{"B":1,"A":2}"#, "field is immutable");
        e.invalid_text(Path::nil(), "", "failed rule: x");
        e.too_long(Path::new(""), "", 1048576);
        e.invalid(Path::new("metadata").child("annotations").key("a/b"), "v", "no");
        let want = [
            "spec.containers[0].image: Invalid value: \" x \": must not have leading or trailing whitespace",
            "spec.containers[0].image: Required value",
            "spec: Required value: must specify a volume type",
            "fieldValidation: Unsupported value: \"strict\": supported values: \"\", \"Ignore\"",
            "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            "spec.containers[0].image: Duplicate value: \"c\"",
            "metadata.namespace: Forbidden: not allowed on this type",
            "metadata.annotations: Too long: may not be more than 262144 bytes",
            "spec.a: Too many: 3: must have at most 2 items",
            "spec.containers[0].image: Not found: \"nope\"",
            "spec: Invalid value: \"string\": spec in body must be of type object: \"string\"",
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.x: Invalid value: null: bad",
            "spec.y: Invalid value: {\"B\":1,\"A\":2}: field is immutable",
            "<nil>: Invalid value: failed rule: x",
            "[]: Too long: may not be more than 1048576 bytes",
            "metadata.annotations[a/b]: Invalid value: \"v\": no",
        ];
        let got: Vec<_> = e.iter().map(ToString::to_string).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn aggregates_without_repeats() {
        let mut e = ErrorList::new();
        e.required(Path::new("a"), "");
        e.required(Path::new("a"), "");
        assert_eq!(e.aggregate(), "a: Required value");
        e.required(Path::new("b"), "");
        assert_eq!(e.aggregate(), "[a: Required value, b: Required value]");
    }
}
