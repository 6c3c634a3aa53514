//! Request bodies: JSON, YAML or protobuf to a checked object, with upstream's field validation and error texts.
//!
//! Invariants:
//! - DE-1: decoding never panics, whatever the bytes.
//! - DE-2: what comes out holds no unknown fields and is in the form of [`normalize_sent()`] for built-in types.

pub mod json;
pub mod node;
mod normalize;
mod repeated;
mod time;
pub mod typed;
pub mod yaml;
mod yaml_errors;

#[cfg(test)]
mod tests;

pub use node::Node;
pub use normalize::{normalize, normalize_sent};
pub use repeated::repeated_keys;

use crate::goformat::quote;
use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::protobuf;
use crate::schema::{Schema, builtin, builtin_schema};
use crate::status::Status;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    /// Built-in kinds only.
    Protobuf,
}

/// The `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// "" is the default. `None`: not one of the allowed values.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A checked object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// What strict validation refuses, one warning each.
    pub strict_errors: Vec<String>,
    /// So many of them, at the front, are YAML's and count as one error.
    yaml_errors: usize,
}

impl Decoded {
    /// `strict decoding error: ...`, if there is anything to refuse.
    pub fn strict_error(&self) -> Option<String> {
        if self.strict_errors.is_empty() {
            return None;
        }
        let (yaml, fields) = self.strict_errors.split_at(self.yaml_errors);
        let yaml = (!yaml.is_empty()).then(|| format!("yaml: unmarshal errors:\n  {}", yaml.join("\n  ")));
        let all: Vec<String> = yaml.into_iter().chain(fields.iter().cloned()).collect();
        Some(format!("strict decoding error: {}", all.join(", ")))
    }

    /// Applies the directive: the warnings to send, or the error text.
    pub fn warnings(&self, validation: FieldValidation) -> Result<&[String], String> {
        match validation {
            FieldValidation::Ignore => Ok(&[]),
            FieldValidation::Warn => Ok(&self.strict_errors),
            FieldValidation::Strict => self.strict_error().map_or(Ok(&[]), Err),
        }
    }
}

/// Why a body cannot be an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    pub message: String,
    /// What the body says it is, once that is known.
    pub gvk: Option<GroupVersionKind>,
}

impl DecodeError {
    fn unread(message: impl Into<String>) -> Self {
        Self { message: message.into(), gvk: None }
    }

    fn of(gvk: &GroupVersionKind, message: impl Into<String>) -> Self {
        Self { message: message.into(), gvk: Some(gvk.clone()) }
    }

    /// The answer to a request whose body should have been of `kind`.
    pub fn status(&self, kind: &str, body: &[u8]) -> Status {
        Status::bad_request(match &self.gvk {
            Some(gvk) if !gvk.kind.is_empty() => format!(
                "{} in version {} cannot be handled as a {kind}: {}",
                gvk.kind,
                quote(&gvk.version),
                self.message
            ),
            _ => format!(
                "the object provided is unrecognized (must be of type {kind}): {} ({})",
                self.message,
                summary(body)
            ),
        })
    }
}

/// A parsed body.
#[derive(Debug)]
pub struct Document {
    pub node: Node,
    /// YAML's complaints about repeated keys.
    pub repeated: Vec<String>,
}

/// Parses a body. Err: upstream's message for the syntax error.
pub fn parse(body: &[u8], encoding: Encoding) -> Result<Document, String> {
    match encoding {
        Encoding::Json => json::parse(body).map(|node| Document { node, repeated: Vec::new() }),
        Encoding::Yaml => yaml::parse(body).map(|y| Document { node: y.node, repeated: y.repeated }),
        Encoding::Protobuf => {
            let value = protobuf::decode_object(body).map_err(|e| e.to_string())?;
            Ok(Document { node: value.into(), repeated: Vec::new() })
        }
    }
}

/// Decodes a body into the built-in kind that an endpoint takes. `known` finds the schema of a served or otherwise
/// registered kind. Gives what the body said it was (filled up from `expected`) and the object, whose apiVersion and
/// kind are set. A kind that `known` has but that is not `expected.kind` is an error, another version is not.
pub fn decode_body(
    body: &[u8],
    encoding: Encoding,
    expected: &GroupVersionKind,
    known: impl Fn(&GroupVersionKind) -> Option<Schema>,
) -> Result<(GroupVersionKind, Decoded), DecodeError> {
    let document = match encoding {
        Encoding::Protobuf => protobuf_document(body, expected, &known)?,
        _ => parse_typed(body, encoding)?,
    };
    let gvk = with_defaults(type_meta(&document.node)?, expected);
    let Some(schema) = known(&gvk) else {
        let message = format!(
            "no kind {} is registered for version {} in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
            quote(&gvk.kind),
            quote(&gvk.api_version())
        );
        return Err(DecodeError::of(&gvk, message));
    };
    let decoded = decode_document(document, &schema).map_err(|e| DecodeError::of(&gvk, e))?;
    if gvk.kind != expected.kind || (gvk.group != expected.group && gvk.kind != "Event") {
        let message = format!(
            "converting ({}.{}) to ({}.{}): unknown conversion",
            gvk.version,
            gvk.kind,
            internal_package(&expected.group),
            expected.kind
        );
        return Err(DecodeError::of(&gvk, message));
    }
    let mut decoded = decoded;
    if let Value::Object(map) = &mut decoded.value {
        map.insert("apiVersion".into(), gvk.api_version().into());
        map.insert("kind".into(), gvk.kind.clone().into());
    }
    Ok((gvk, decoded))
}

/// Parses a body that should say what it is.
fn parse_typed(body: &[u8], encoding: Encoding) -> Result<Document, DecodeError> {
    parse(body, encoding).map_err(|e| match encoding {
        Encoding::Json => DecodeError::unread(format!("couldn't get version/kind; json parse error: {e}")),
        Encoding::Yaml | Encoding::Protobuf => DecodeError::unread(e),
    })
}

/// A protobuf body as a document. A kind that is not known gives only its type.
fn protobuf_document(
    body: &[u8],
    expected: &GroupVersionKind,
    known: &impl Fn(&GroupVersionKind) -> Option<Schema>,
) -> Result<Document, DecodeError> {
    let envelope = protobuf::Envelope::open(body).map_err(|e| DecodeError::unread(e.to_string()))?;
    let gvk = with_defaults(envelope.gvk(), expected);
    let mut value = match known(&gvk) {
        Some(schema) if !std::sync::Arc::ptr_eq(&schema.table, builtin()) => {
            let message = "object *unstructured.Unstructured does not implement the protobuf message interface and cannot be encoded to a protobuf message";
            return Err(DecodeError::of(&gvk, message));
        }
        Some(schema) => protobuf::decode(envelope.raw, &schema).map_err(|e| DecodeError::of(&gvk, e.to_string()))?,
        None => Value::Object(serde_json::Map::new()),
    };
    value["apiVersion"] = gvk.api_version().into();
    value["kind"] = gvk.kind.into();
    Ok(Document { node: value.into(), repeated: Vec::new() })
}

/// Checks a parsed document against a built-in schema. Err: Go's message.
pub fn decode_document(document: Document, schema: &Schema) -> Result<Decoded, String> {
    let typed = typed::decode(document.node, schema)?;
    let mut value = typed.value;
    normalize_sent(&mut value, schema);
    let yaml_errors = document.repeated.len();
    let strict_errors = document.repeated.into_iter().chain(typed.strict).collect();
    Ok(Decoded { value, strict_errors, yaml_errors })
}

/// Checks a value that is already JSON, for instance the result of a patch.
pub fn decode_value(value: Value, schema: &Schema) -> Result<Decoded, String> {
    decode_document(Document { node: value.into(), repeated: Vec::new() }, schema)
}

/// What gives a custom resource the form its schema asks for; gives the texts of what strict validation refuses.
pub type Shape<'a> = dyn Fn(&mut Value) -> Result<Vec<String>, String> + 'a;

/// Decodes a body into a custom resource: metadata as the built-in type, the rest by `shape`. Whether values have the
/// right types is left to the schema's validation, and whether the kind is the endpoint's, to the caller.
pub fn decode_custom_body(
    body: &[u8],
    encoding: Encoding,
    shape: &Shape<'_>,
) -> Result<(GroupVersionKind, Decoded), DecodeError> {
    let document = parse_typed(body, encoding)?;
    let gvk = type_meta(&document.node)?;
    if gvk.kind.is_empty() {
        let body = String::from_utf8_lossy(body);
        return Err(DecodeError::unread(format!("Object 'Kind' is missing in '{body}'")));
    }
    let decoded = decode_custom_document(document, shape).map_err(|e| DecodeError::of(&gvk, e))?;
    Ok((gvk, decoded))
}

/// The same for a value that is already JSON.
pub fn decode_custom_value(value: Value, shape: &Shape<'_>) -> Result<Decoded, String> {
    decode_custom_document(Document { node: value.into(), repeated: Vec::new() }, shape)
}

fn decode_custom_document(document: Document, shape: &Shape<'_>) -> Result<Decoded, String> {
    let yaml_errors = document.repeated.len();
    let mut strict_errors = document.repeated;
    strict_errors.extend(repeated_keys(&document.node).iter().map(|p| format!("duplicate field {}", quote(p))));
    let mut value = document.node.into_value();
    if let Some(metadata) = value.get_mut("metadata").filter(|m| !m.is_null()) {
        strict_errors.extend(decode_metadata(metadata, "metadata")?);
    }
    strict_errors.extend(shape(&mut value)?);
    Ok(Decoded { value, strict_errors, yaml_errors })
}

/// Brings metadata inside untyped JSON into the form of metav1.ObjectMeta: that of a custom resource, or of an object
/// embedded in one. Gives what strict validation refuses; `path` is where it stands. Err: Go's message.
pub fn decode_metadata(metadata: &mut Value, path: &str) -> Result<Vec<String>, String> {
    let typed = typed::decode_at(metadata.take().into(), object_meta(), path)?;
    *metadata = typed.value;
    normalize(metadata, object_meta());
    Ok(typed.strict)
}

/// The schema of metav1.ObjectMeta.
pub fn object_meta() -> &'static Schema {
    static META: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(|| {
        builtin_schema("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("schema.txt has ObjectMeta")
    });
    &META
}

/// The apiVersion and kind of a document; either may be empty.
pub fn type_meta(node: &Node) -> Result<GroupVersionKind, DecodeError> {
    let entries = match node {
        Node::Object(entries) => entries.as_slice(),
        Node::Null => &[],
        other => {
            return Err(DecodeError::unread(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                other.kind()
            )));
        }
    };
    // this first look at the body does not care about the case of keys
    let text = |name: &str| match entries.iter().rev().find(|(k, _)| k.eq_ignore_ascii_case(name)) {
        Some((_, Node::String(s))) => Ok(s.clone()),
        None | Some((_, Node::Null)) => Ok(String::new()),
        Some((_, other)) => Err(DecodeError::unread(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{name} of type string",
            other.kind()
        ))),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let gv = GroupVersion::parse(&api_version).map_err(DecodeError::unread)?;
    Ok(gv.with_kind(kind))
}

fn with_defaults(mut gvk: GroupVersionKind, expected: &GroupVersionKind) -> GroupVersionKind {
    if gvk.kind.is_empty() {
        gvk.kind = expected.kind.clone();
    }
    if gvk.version.is_empty() && (gvk.group.is_empty() || gvk.group == expected.group) {
        gvk.group = expected.group.clone();
        gvk.version = expected.version.clone();
    }
    gvk
}

/// The Go package of a group's internal types.
fn internal_package(group: &str) -> &str {
    match group {
        "" | "events.k8s.io" => "core",
        _ => group.split('.').next().unwrap_or_default(),
    }
}

/// The start of a body, for an error: as text if it looks like JSON, else in hex.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let shown = &body[..body.len().min(MAX)];
    let more = if body.len() > MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{more}", shown.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}
