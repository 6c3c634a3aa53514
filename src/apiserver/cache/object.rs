//! One stored object: its bytes as served, and what selectors and admission ask of it, extracted once.
//!
//! Invariants:
//! - CO-1: the bytes hold no resourceVersion: it is spliced in where [`Object::write_json`] writes them.
//! - CO-2: the bytes begin `{"kind":…,"apiVersion":…,"metadata":{`, so that a list item is a suffix of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use store::Revision;

use super::encode;

/// A stored object. Shared as `Arc<Object>`; the bytes are the store's own.
#[derive(Debug, Clone)]
pub struct Object {
    pub key: Bytes,
    bytes: Bytes,
    /// Where `"metadata":` begins.
    body_at: usize,
    /// Where `"resourceVersion":"…",` belongs.
    splice_at: usize,
    pub revision: Revision,
    pub meta: Meta,
    /// The bytes are not those in the store: reading changed them (defaults, pruning).
    pub rewritten: bool,
}

/// What is asked of an object without decoding it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// "" for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub deletion_timestamp: Option<String>,
    /// The selectable fields besides `metadata.name` and `metadata.namespace`.
    pub fields: Vec<(&'static str, String)>,
}

impl Object {
    /// Wraps stored bytes. `fields` extracts the selectable fields. `None` if the bytes are no API object.
    pub fn from_stored(
        key: Bytes,
        bytes: Bytes,
        revision: Revision,
        fields: &dyn Fn(&Value) -> Vec<(&'static str, String)>,
    ) -> Option<Self> {
        let value: Value = serde_json::from_slice(&bytes).ok()?;
        let meta = Meta::of(&value, fields);
        Self::with_meta(key.clone(), bytes, revision, meta.clone()).or_else(|| {
            // Written by another hand (through etcd's face): bring it into our form.
            Self::with_meta(key, encode::encode(&value)?, revision, meta)
        })
    }

    /// As [`Self::from_stored`], read through `restore`, which says whether it changed the object.
    pub fn restored(
        key: Bytes,
        bytes: Bytes,
        revision: Revision,
        fields: &dyn Fn(&Value) -> Vec<(&'static str, String)>,
        restore: &dyn Fn(&mut Value) -> bool,
    ) -> Option<Self> {
        let mut value: Value = serde_json::from_slice(&bytes).ok()?;
        let rewritten = restore(&mut value);
        let meta = Meta::of(&value, fields);
        let plain = if rewritten { None } else { Self::with_meta(key.clone(), bytes, revision, meta.clone()) };
        let object = plain.or_else(|| Self::with_meta(key, encode::encode(&value)?, revision, meta))?;
        Some(Self { rewritten, ..object })
    }

    /// Wraps bytes of [`encode::encode`]. `None` if they are not of that form.
    pub fn with_meta(key: Bytes, bytes: Bytes, revision: Revision, meta: Meta) -> Option<Self> {
        let (body_at, splice_at) = encode::offsets(&bytes)?;
        Some(Self { key, bytes, body_at, splice_at, revision, meta, rewritten: false })
    }

    /// The stored bytes (without resourceVersion).
    pub fn stored(&self) -> &Bytes {
        &self.bytes
    }

    /// The same object at another revision (a deletion is served as the last state at the revision of the delete).
    #[must_use]
    pub fn at_revision(&self, revision: Revision) -> Self {
        Self { revision, ..self.clone() }
    }

    /// The object as JSON, with its resourceVersion.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.splice_at]);
        self.write_tail(out);
    }

    /// As [`Self::write_json`], without kind and apiVersion: how items of a list of built-in kinds look.
    pub fn write_item(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        out.extend_from_slice(&self.bytes[self.body_at..self.splice_at]);
        self.write_tail(out);
    }

    /// `metadata` alone, with its resourceVersion.
    pub fn write_metadata(&self, out: &mut Vec<u8>) {
        let opening = self.body_at + b"\"metadata\":".len();
        out.extend_from_slice(&self.bytes[opening..self.splice_at]);
        self.write_version(out, encode::end_of_object(&self.bytes, self.splice_at));
    }

    fn write_tail(&self, out: &mut Vec<u8>) {
        self.write_version(out, self.bytes.len());
    }

    /// The resourceVersion and what follows it, up to `end`.
    fn write_version(&self, out: &mut Vec<u8>, end: usize) {
        let rest = &self.bytes[self.splice_at..end];
        // Between members: `…,` before us, `,…` after us unless the object ends here.
        let first = self.bytes[self.splice_at - 1] == b'{';
        let last = rest.first() == Some(&b'}');
        if !first {
            out.push(b',');
        }
        out.extend_from_slice(b"\"resourceVersion\":\"");
        out.extend_from_slice(self.revision.to_string().as_bytes());
        out.push(b'"');
        if first && !last {
            out.push(b',');
        }
        out.extend_from_slice(rest);
    }

    pub fn json(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.bytes.len() + 48);
        self.write_json(&mut out);
        out.into()
    }

    /// The decoded object, with its resourceVersion.
    pub fn value(&self) -> Value {
        let mut value: Value = serde_json::from_slice(&self.bytes).expect("checked when the object was wrapped");
        value["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        value
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Meta {
    pub fn of(value: &Value, fields: &dyn Fn(&Value) -> Vec<(&'static str, String)>) -> Self {
        let meta = &value["metadata"];
        let text = |key: &str| meta[key].as_str().unwrap_or_default().to_owned();
        let labels = meta["labels"]
            .as_object()
            .map(|labels| labels.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect());
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            labels: labels.unwrap_or_default(),
            deletion_timestamp: meta["deletionTimestamp"].as_str().map(str::to_owned),
            fields: fields(value),
        }
    }

    /// The value of a selectable field; `None` when this kind has no such field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self.fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()),
        }
    }
}
