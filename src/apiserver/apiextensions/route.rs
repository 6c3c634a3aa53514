//! Which requests a custom resource answers at all: upstream serves these beside its router, so the refusals differ
//! from those of built-in kinds.

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Method, Response};
use api::Kind;
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;

use crate::wire::respond;
use crate::{Body, RequestInfo};

/// Media types of patches.
const PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// Why a request is not served.
pub enum Refusal {
    /// As if nothing were there.
    NoRoute,
    Status(Status),
}

impl Refusal {
    pub fn respond(self, show: impl FnOnce(&Status) -> Response<Body>) -> Response<Body> {
        match self {
            Self::NoRoute => respond::text(404, "404 page not found\n"),
            Self::Status(status) => show(&status),
        }
    }
}

/// Checks path, verb and media type of a patch.
///
/// # Errors
/// 404, 405 and 415.
pub fn check(kind: &Kind, info: &RequestInfo, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let in_namespace = !info.namespace.is_empty();
    let spans = matches!(info.verb.as_str(), "list" | "watch");
    if in_namespace != kind.namespaced() && !(kind.namespaced() && spans) {
        return Err(Refusal::NoRoute);
    }
    if info.parts.len() > 3 || info.parts.iter().any(String::is_empty) {
        return Err(Refusal::NoRoute);
    }
    let resource = GroupResource::new(kind.group.as_ref(), kind.plural.as_ref());
    let verbs = if info.subresource.is_empty() {
        &kind.verbs
    } else {
        match crate::registry::find_subresource(kind, &info.subresource) {
            Some(sub) => &sub.verbs,
            None => return Err(Refusal::Status(Status::not_found(&resource, &info.name))),
        }
    };
    if !verbs.contains(&info.verb.as_str()) {
        return Err(Refusal::Status(Status::method_not_supported(&resource, &info.verb)));
    }
    if *method == Method::PATCH {
        let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let media = given.split(';').next().unwrap_or("").trim();
        if !PATCHES.contains(&media) {
            return Err(Refusal::Status(Status::unsupported_media_type(PATCHES)));
        }
    }
    Ok(())
}
