//! Showing objects in the form the client asked for.

use ::http::Response;
use api::Kind;
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;

use super::{Cx, conversion, tables};
use crate::Body;
use crate::cache::Object;
use crate::wire::negotiate::{Target, Transform};
use crate::wire::respond;

/// What a list says about itself.
#[derive(Debug, Clone, Default)]
pub struct ListMeta {
    pub resource_version: String,
    pub continue_token: String,
    pub remaining: Option<i64>,
    /// The token is shown even when it is empty: lists of custom resources.
    pub always_continue: bool,
}

impl ListMeta {
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.resource_version.is_empty() {
            out.extend_from_slice(b"{}");
            return;
        }
        out.extend_from_slice(b"{\"resourceVersion\":\"");
        out.extend_from_slice(self.resource_version.as_bytes());
        out.push(b'"');
        if !self.continue_token.is_empty() || self.always_continue {
            out.extend_from_slice(b",\"continue\":\"");
            out.extend_from_slice(self.continue_token.as_bytes());
            out.push(b'"');
        }
        if let Some(remaining) = self.remaining {
            out.extend_from_slice(format!(",\"remainingItemCount\":{remaining}").as_bytes());
        }
        out.push(b'}');
    }
}

impl Cx {
    /// The object as JSON in the request's version.
    pub fn served_json(&self, object: &Object) -> Bytes {
        if conversion::same_version(self) { object.json() } else { respond::encode(&self.served_value(object)) }
    }

    /// The decoded object in the request's version.
    pub fn served_value(&self, object: &Object) -> Value {
        let mut value = object.value();
        conversion::from_storage(self, &mut value);
        value
    }

    /// Answers with a stored object.
    ///
    /// # Errors
    /// When the representation asked for does not fit.
    pub fn show(&self, code: u16, object: &Object) -> Result<Response<Body>, Status> {
        let json = match &self.accepted.transform {
            None => self.served_json(object),
            Some(transform) => self.transformed(transform, object, &mut true)?,
        };
        Ok(respond::json(code, json, &self.accepted, &self.headers))
    }

    /// Answers with an object that is not stored like this (dry run, the result of a deletion by update).
    ///
    /// # Errors
    /// When the representation asked for does not fit.
    pub fn show_value(&self, code: u16, value: &Value) -> Result<Response<Body>, Status> {
        let json = match &self.accepted.transform {
            None => respond::encode(value),
            Some(transform) => self.transformed_value(transform, value, &mut true)?,
        };
        Ok(respond::json(code, json, &self.accepted, &self.headers))
    }

    /// Answers with a Status that is a success, or another body that has no transformation.
    pub fn show_plain(&self, code: u16, json: Bytes) -> Response<Body> {
        respond::json(code, json, &self.accepted, &self.headers)
    }

    /// One object transformed. `columns`: the table names its columns (it is set to false once they were named).
    pub fn transformed(&self, transform: &Transform, object: &Object, columns: &mut bool) -> Result<Bytes, Status> {
        match transform.target {
            Target::PartialObjectMetadata if self.kind.strategy.version_annotation().is_none() => {
                let mut out = Vec::with_capacity(512);
                write_partial(&mut out, transform.version, object);
                Ok(out.into())
            }
            _ => self.transformed_value(transform, &self.served_value(object), columns),
        }
    }

    pub fn transformed_value(&self, transform: &Transform, value: &Value, columns: &mut bool) -> Result<Bytes, Status> {
        self.transformed_as(&self.kind, transform, value, columns)
    }

    /// The same for an object of another kind than the request's resource.
    ///
    /// # Errors
    /// When the representation asked for does not fit.
    pub fn transformed_as(
        &self,
        kind: &Kind,
        transform: &Transform,
        value: &Value,
        columns: &mut bool,
    ) -> Result<Bytes, Status> {
        match transform.target {
            Target::Table => {
                let meta = ListMeta {
                    resource_version: super::meta::text(value, "resourceVersion").to_owned(),
                    ..ListMeta::default()
                };
                let named = std::mem::replace(columns, false);
                tables::table_of(self, kind, transform.version, &meta, std::slice::from_ref(value), named)
            }
            Target::PartialObjectMetadata => Ok(respond::encode(&partial_value(kind, transform.version, value))),
            Target::PartialObjectMetadataList => Err(Status::not_acceptable_message(format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list ({})",
                go_type(self, "")
            ))),
        }
    }
}

/// Upstream names its Go type; core is the internal package of the core group.
pub fn go_type(cx: &Cx, suffix: &str) -> String {
    if cx.custom().is_some() {
        return format!("*unstructured.Unstructured{suffix}");
    }
    let package = if cx.kind.group.is_empty() { "core" } else { cx.kind.group.split('.').next().unwrap_or("") };
    format!("*{package}.{}{suffix}", cx.kind.kind)
}

pub fn write_partial(out: &mut Vec<u8>, version: &str, object: &Object) {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    object.write_metadata(out);
    out.push(b'}');
}

pub fn partial_value(kind: &Kind, version: &str, value: &Value) -> Value {
    let mut metadata = value["metadata"].clone();
    if let Some(hidden) = kind.strategy.version_annotation() {
        let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
        if annotations.is_some_and(|annotations| annotations.remove(hidden).is_some() && annotations.is_empty()) {
            metadata.as_object_mut().and_then(|metadata| metadata.remove("annotations"));
        }
    }
    serde_json::json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
    })
}
