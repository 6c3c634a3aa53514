//! Kubernetes' protobuf form of built-in kinds: the envelope (`k8s\0`, then a runtime.Unknown), messages to and from the
//! JSON they stand for, events of a watch.
//!
//! Invariants:
//! - PB-1: field numbers come from `data/protobuf.txt`, everything else about a type from `data/schema.txt`.
//! - PB-2: decoding never panics and never recurses deeper than [`MAX_DEPTH`], whatever the bytes.
//! - PB-3: encoding never fails: what does not fit its type counts as absent.
//! - PB-4: a message has its fields in number order; a field that is no pointer in Go is written even when it is zero.

mod decode;
mod encode;
mod table;
mod wire;

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::schema::{Schema, builtin_schema_for};
use wire::{Reader, Scalar, Writer};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
pub const WATCH_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may nest; about as deep as JSON may.
const MAX_DEPTH: usize = 125;

/// What is wrong with a message, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("empty data")]
    EmptyData,
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("empty body")]
    EmptyBody,
    #[error("unexpected EOF")]
    Eof,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: negative length found during unmarshaling")]
    NegativeLength,
    #[error("proto: unexpected end of group")]
    EndOfGroup,
    #[error("proto: illegal wireType {0}")]
    IllegalWireType(u64),
    #[error("proto: {message}: wiretype end group for non-group")]
    StrayEndGroup { message: String },
    #[error("proto: {message}: illegal tag {number} (wire type {wire_type})")]
    IllegalTag { message: String, number: i32, wire_type: u64 },
    #[error("proto: wrong wireType = {wire_type} for field {field}")]
    WrongWireType { wire_type: u64, field: String },
    #[error("exceeded max depth")]
    TooDeep,
    /// A value that JSON cannot hold.
    #[error("{0}")]
    Value(String),
}

/// A runtime.Unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
    pub content_encoding: String,
    pub content_type: String,
}

impl<'a> Envelope<'a> {
    /// Reads the magic and the envelope.
    ///
    /// # Errors
    /// Upstream's message for what is no envelope.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Err(Error::EmptyData);
        }
        let content = bytes.strip_prefix(MAGIC).ok_or(Error::NoMagic)?;
        if content.is_empty() {
            return Err(Error::EmptyBody);
        }
        let mut envelope = Self::default();
        let mut reader = Reader::new(content, "Unknown");
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => envelope.read_type(value.bytes("TypeMeta")?)?,
                2 => envelope.raw = value.bytes("Raw")?,
                3 => envelope.content_encoding = value.text("ContentEncoding")?,
                4 => envelope.content_type = value.text("ContentType")?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn read_type(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut reader = Reader::new(bytes, "TypeMeta");
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => self.api_version = value.text("APIVersion")?,
                2 => self.kind = value.text("Kind")?,
                _ => {}
            }
        }
        Ok(())
    }

    /// What the envelope says is in it. An API version that is none leaves only the kind, as upstream has it.
    pub fn gvk(&self) -> GroupVersionKind {
        match GroupVersion::parse(&self.api_version) {
            Ok(version) => version.with_kind(self.kind.clone()),
            Err(_) => GroupVersionKind::new("", "", self.kind.clone()),
        }
    }
}

/// A message of a built-in type as JSON. Its defaults and normal form are left to [`crate::decode`].
///
/// # Errors
/// Upstream's message for a malformed message.
pub fn decode(message: &[u8], schema: &Schema) -> Result<Value, Error> {
    decode::message(message, schema, 0)
}

/// An object in its envelope as JSON, its type included. A kind that is not built in gives only its type.
///
/// # Errors
/// Upstream's message for a malformed body.
pub fn decode_object(bytes: &[u8]) -> Result<Value, Error> {
    decode::object(bytes, 0)
}

/// The message of a built-in type, without envelope.
pub fn encode(value: &Value, schema: &Schema) -> Vec<u8> {
    let mut out = Writer::default();
    encode::message(&mut out, value, schema);
    out.finish()
}

/// An object, list, Status or other body in its envelope, by its apiVersion and kind. `None`: its kind has no protobuf
/// form (Tables, custom resources).
pub fn encode_object(value: &Value) -> Option<Vec<u8>> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut out = Writer::default();
    envelope(&mut out, api_version, kind, |out| encode::object(out, value, api_version, kind))?;
    out.bytes(MAGIC);
    Some(out.finish())
}

/// A list of objects of `kind` in its envelope. Its items are encoded, and let go, one after the other.
pub fn encode_list(
    schema: &Schema,
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl DoubleEndedIterator<Item = Value>,
) -> Vec<u8> {
    let mut out = Writer::default();
    let written = envelope(&mut out, api_version, &format!("{kind}List"), |out| {
        encode::list(out, schema, metadata, items);
        Some(())
    });
    written.expect("a list's content is always written");
    out.bytes(MAGIC);
    out.finish()
}

/// True if objects of this kind have a protobuf form.
pub fn has_form(gvk: &GroupVersionKind) -> bool {
    encode::is_partial(gvk) || builtin_schema_for(&gvk.group, &gvk.version, &gvk.kind).is_some_and(|s| table::knows(&s))
}

/// A frame of a watch: the length, then a metav1.WatchEvent around an object in its envelope.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.message(2, |out| out.field(1, Scalar::Bytes(object)));
    out.field(1, Scalar::Bytes(event.as_bytes()));
    let length = u32::try_from(out.len()).expect("objects are smaller than a request may be");
    out.bytes(&length.to_be_bytes());
    out.finish()
}

/// Writes a runtime.Unknown, back to front.
fn envelope(
    out: &mut Writer,
    api_version: &str,
    kind: &str,
    raw: impl FnOnce(&mut Writer) -> Option<()>,
) -> Option<()> {
    out.field(4, Scalar::Bytes(b""));
    out.field(3, Scalar::Bytes(b""));
    let end = out.len();
    raw(out)?;
    out.close(2, end);
    out.message(1, |out| {
        out.field(2, Scalar::Bytes(kind.as_bytes()));
        out.field(1, Scalar::Bytes(api_version.as_bytes()));
    });
    Some(())
}
