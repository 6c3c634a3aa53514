//! metav1.Status: what every failed request answers, one constructor for each of upstream's reasons.
//!
//! Invariants:
//! - ST-1: `to_json` and `Serialize` give upstream's field order and leave out what upstream leaves out.
//! - ST-2: messages are upstream's for the same arguments.

use crate::gvk::{GroupKind, GroupResource};
use crate::validation::ErrorList;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub kind: String,
    pub api_version: String,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub retry_after_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

impl Cause {
    pub fn message(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }
}

impl Details {
    fn of(resource: &GroupResource, name: &str) -> Self {
        Self { name: name.into(), group: resource.group.clone(), kind: resource.resource.clone(), ..Self::default() }
    }
}

/// Constructors. `resource` prints as `deployments.apps`, `kind` as `Deployment.apps`.
impl Status {
    /// An answer to a delete that leaves no object to show.
    pub fn success(details: Option<Details>) -> Self {
        Self { status: "Success".into(), details, ..Self::failure(0, "", "") }
    }

    fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: Map::new(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(details);
        self
    }

    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }

    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// An error that upstream did not classify: code 500 without a reason.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::failure(500, "", message)
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{resource} {} not found", quote(name)))
            .with_details(Details::of(resource, name))
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::failure(409, "AlreadyExists", format!("{resource} {} already exists", quote(name)))
            .with_details(Details::of(resource, name))
    }

    /// A name is taken by an object that is being deleted.
    pub fn object_being_deleted(resource: &GroupResource, name: &str) -> Self {
        let mut status = Self::already_exists(resource, name);
        status.message = format!("object is being deleted: {}", status.message);
        status
    }

    /// generateName gave the same name several times over.
    pub fn generate_name_conflict(resource: &GroupResource, name: &str, retry_after: u32) -> Self {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::failure(409, "AlreadyExists", message)
            .with_details(Details::of(resource, name))
            .with_retry_after(retry_after)
    }

    pub fn conflict(resource: &GroupResource, name: &str, error: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {error}", quote(name));
        Self::failure(409, "Conflict", message).with_details(Details::of(resource, name))
    }

    /// A stale resourceVersion.
    pub fn optimistic_lock(resource: &GroupResource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Server-side apply conflicts: the message and a cause for each field.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        Self::failure(409, "Conflict", message).with_details(Details { causes, ..Details::default() })
    }

    pub fn invalid(kind: &GroupKind, name: &str, errors: &ErrorList) -> Self {
        let mut message = format!("{kind} {} is invalid", quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&errors.aggregate());
        }
        let cause = |e: &crate::validation::FieldError| Cause {
            reason: e.ty.reason().into(),
            message: e.body(),
            field: e.field.clone(),
        };
        Self::failure(422, "Invalid", message).with_details(Details {
            name: name.into(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes: errors.iter().map(cause).collect(),
            ..Details::default()
        })
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// Resource and name may be empty.
    pub fn forbidden(resource: &GroupResource, name: &str, error: impl fmt::Display) -> Self {
        let message = if resource.resource.is_empty() && resource.group.is_empty() {
            format!("forbidden: {error}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {error}")
        } else {
            format!("{resource} {} is forbidden: {error}", quote(name))
        };
        Self::failure(403, "Forbidden", message).with_details(Details::of(resource, name))
    }

    pub fn unauthorized(message: &str) -> Self {
        Self::failure(401, "Unauthorized", if message.is_empty() { "Unauthorized" } else { message })
    }

    /// `action` is the verb: "create", "deletecollection".
    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", quote(&resource.to_string()));
        Self::failure(405, "MethodNotAllowed", message).with_details(Details::of(resource, ""))
    }

    pub fn method_not_allowed() -> Self {
        Self::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details(Details::default())
    }

    /// A path that no handler knows.
    pub fn path_not_found() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// `accepted` are media types.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::failure(406, "NotAcceptable", message)
    }

    pub fn not_acceptable_message(message: impl Into<String>) -> Self {
        Self::failure(406, "NotAcceptable", message)
    }

    /// `accepted` are media types.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    pub fn unsupported_media_type_message(message: impl Into<String>) -> Self {
        Self::failure(415, "UnsupportedMediaType", message)
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }

    /// A resourceVersion or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// `retry_after`: seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self::failure(429, "TooManyRequests", message).with_retry_after(retry_after)
    }

    pub fn internal(error: impl fmt::Display) -> Self {
        let error = error.to_string();
        Self::failure(500, "InternalError", format!("Internal error occurred: {error}"))
            .with_causes(vec![Cause::message(error)])
    }

    /// `retry_after`: seconds.
    pub fn timeout(message: impl fmt::Display, retry_after: u32) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}")).with_retry_after(retry_after)
    }

    /// A resourceVersion the server has not reached yet.
    pub fn too_large_resource_version(wanted: u64, current: u64, retry_after: u32) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        };
        Self::timeout(message, retry_after).with_causes(vec![cause])
    }

    /// `retry_after`: seconds.
    pub fn server_timeout(resource: &GroupResource, operation: &str, retry_after: u32) -> Self {
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        Self::failure(500, "ServerTimeout", message)
            .with_details(Details::of(resource, ""))
            .with_retry_after(retry_after)
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    pub fn request_entity_too_large(message: impl fmt::Display) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// Any code and reason, for admission webhooks and policies that choose their own.
    pub fn custom(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self::failure(code, reason, message)
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a Status has only string keys")
    }

    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a Status has only string keys")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn quote(s: &str) -> String {
    crate::goformat::quote(s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::Path;

    fn text(status: &Status) -> String {
        String::from_utf8(status.to_json()).unwrap()
    }

    #[test]
    fn json_like_upstream() {
        let deployments = GroupResource::new("apps", "deployments");
        assert_eq!(
            text(&Status::not_found(&deployments, "x")),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"x\" not found","reason":"NotFound","details":{"name":"x","group":"apps","kind":"deployments"},"code":404}"#
        );
        assert_eq!(
            text(&Status::method_not_allowed()),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the server does not allow this method on the requested resource","reason":"MethodNotAllowed","details":{},"code":405}"#
        );
        let mut errors = ErrorList::new();
        errors.required(Path::new("metadata").child("name"), "name or generateName is required");
        assert_eq!(
            text(&Status::invalid(&GroupKind::new("", "ConfigMap"), "", &errors)),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required","reason":"Invalid","details":{"kind":"ConfigMap","causes":[{"reason":"FieldValueRequired","message":"Required value: name or generateName is required","field":"metadata.name"}]},"code":422}"#
        );
        assert_eq!(
            text(&Status::too_large_resource_version(9, 5, 1)),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Timeout: Too large resource version: 9, current: 5","reason":"Timeout","details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1},"code":504}"#
        );
        assert_eq!(
            text(&Status::unknown("boom")),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"boom","code":500}"#
        );
        assert_eq!(
            text(&Status::success(Some(Details {
                name: "x".into(),
                kind: "configmaps".into(),
                uid: "u".into(),
                ..Details::default()
            }))),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"x","kind":"configmaps","uid":"u"}}"#
        );
        assert_eq!(Status::forbidden(&GroupResource::new("", "pods"), "", "no").message, "pods is forbidden: no");
        let parsed: Status = serde_json::from_str(&text(&Status::not_found(&deployments, "x"))).unwrap();
        assert_eq!(parsed, Status::not_found(&deployments, "x"));
    }
}
