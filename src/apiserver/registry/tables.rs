//! `meta.k8s.io` Tables: what `kubectl get` prints.

use api::Kind;
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::{Value, json};

use super::Cx;
use super::output::{ListMeta, partial_value};
use crate::wire::respond;

/// What each row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

fn include(cx: &Cx) -> Result<Include, Status> {
    match cx.info.query.get("includeObject").unwrap_or("") {
        "" | "Metadata" => Ok(Include::Metadata),
        "Object" => Ok(Include::Object),
        "None" => Ok(Include::None),
        other => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
            apimachinery::goformat::quote(other)
        ))),
    }
}

/// A table of `objects` (in the request's version).
///
/// # Errors
/// 400 for a bad `includeObject`.
pub fn table(cx: &Cx, version: &str, meta: &ListMeta, objects: &[Value], columns: bool) -> Result<Bytes, Status> {
    table_of(cx, &cx.kind, version, meta, objects, columns)
}

/// The same of objects of another kind than the request's resource.
///
/// # Errors
/// 400 for a bad `includeObject`.
pub fn table_of(
    cx: &Cx,
    kind: &Kind,
    version: &str,
    meta: &ListMeta,
    objects: &[Value],
    columns: bool,
) -> Result<Bytes, Status> {
    let include = include(cx)?;
    let now = cx.now();
    let mut out = Vec::with_capacity(1024 + objects.len() * 512);
    out.extend_from_slice(b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    meta.write(&mut out);
    out.extend_from_slice(b",\"columnDefinitions\":");
    let definitions = if columns { definitions(kind) } else { Value::Null };
    out.extend_from_slice(definitions.to_string().as_bytes());
    out.extend_from_slice(b",\"rows\":[");
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"cells\":");
        out.extend_from_slice(Value::Array(kind.strategy.row(object, now)).to_string().as_bytes());
        if let Some(condition) = completed(kind, object) {
            out.extend_from_slice(b",\"conditions\":");
            out.extend_from_slice(condition.as_bytes());
        }
        out.extend_from_slice(b",\"object\":");
        match include {
            Include::None => out.extend_from_slice(b"null"),
            Include::Metadata => out.extend_from_slice(&respond::encode(&partial_value(kind, version, object))),
            Include::Object => out.extend_from_slice(&respond::encode(object)),
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    Ok(out.into())
}

/// A finished pod's row says so.
fn completed(kind: &Kind, object: &Value) -> Option<String> {
    if kind.storage_key != "pods" {
        return None;
    }
    let (reason, message) = match object["status"]["phase"].as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]).to_string())
}

fn definitions(kind: &Kind) -> Value {
    let columns = kind.strategy.columns();
    Value::Array(
        columns
            .iter()
            .map(|column| {
                json!({
                    "name": column.name, "type": column.ty, "format": column.format,
                    "description": column.description, "priority": column.priority,
                })
            })
            .collect(),
    )
}
