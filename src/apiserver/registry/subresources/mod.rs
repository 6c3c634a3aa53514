//! Subresources that are the registry's: status and its like, scale, binding, eviction, finalize.

pub mod binding;
mod eviction;
mod scale;

use ::http::Response;
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;

use super::admit::{Admission, Operation};
use super::options::WriteOptions;
use super::{Cx, codec, find_subresource, get, patch, update};
use crate::Body;
use crate::wire::respond;

pub async fn handle(cx: &Cx, body: Bytes) -> Result<Response<Body>, Status> {
    let sub = find_subresource(&cx.kind, &cx.info.subresource).ok_or_else(Status::path_not_found)?;
    match sub.name.as_ref() {
        "binding" => binding::bind(cx, &cx.info.name, &body).await,
        "eviction" => eviction::evict(cx, &body).await,
        "scale" => scale::handle(cx, body).await,
        "token" => token(cx, &body).await,
        // The body is the object itself: the strategy knows from the subresource's name what may change.
        _ if sub.kind == cx.kind.kind => match cx.info.verb.as_str() {
            "get" => get::get(cx).await,
            "update" => update::update(cx, body).await,
            "patch" => patch::patch(cx, body).await,
            _ => Err(Status::method_not_allowed()),
        },
        _ => Err(Status::path_not_found()),
    }
}

/// `serviceaccounts/token`
async fn token(cx: &Cx, body: &[u8]) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(cx, "CreateOptions", false)?;
    let kind = codec::body_kind("authentication.k8s.io", "v1", "TokenRequest")?;
    let mut request = codec::decode_as(cx, &kind, body, options.validation)?;
    codec::manage_as(cx, &kind, None, &mut request, &options)?;
    let admission = Admission::new(cx, Operation::Create, &cx.info.name, options.dry_run);
    admission.mutate(&mut request, None).await?;
    admission.validate(&request, None).await?;
    crate::serviceaccount::token_request(&cx.server, &cx.info.namespace, &cx.info.name, &mut request).await?;
    Ok(cx.show_plain(201, respond::encode(&request)))
}

/// A create of what is only ever answered.
pub async fn review(cx: &Cx, body: &[u8]) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(cx, "CreateOptions", false)?;
    let mut object = codec::decode_as(cx, &cx.kind, body, options.validation)?;
    codec::manage(cx, None, &mut object, &options)?;
    let errors = cx.kind.strategy.validate(&cx.strategy_cx(), &object);
    if !errors.is_empty() {
        // Upstream names no kind here.
        let nameless = apimachinery::gvk::GroupKind::new(cx.kind.group.as_ref(), "");
        return Err(Status::invalid(&nameless, "", &errors));
    }
    crate::reviews::answer(&cx.server, &cx.user, &cx.info, &mut object).await?;
    Ok(cx.show_plain(201, respond::encode(&object)))
}

/// `{"status":"Success"}` of a create that makes no object.
pub fn created(cx: &Cx) -> Response<Body> {
    let status = Status { code: 201, ..Status::success(None) };
    cx.show_plain(201, status.to_json().into())
}

/// Sets a condition of `status.conditions` in place, or adds it.
pub fn set_condition(object: &mut Value, condition: Value) {
    let status = apimachinery::value::object_entry(object, &["status"]);
    let conditions = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    if !conditions.is_array() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|known| known["type"] == condition["type"]) {
        Some(known) => {
            let mut condition = condition;
            if known["status"] == condition["status"] {
                condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            *known = condition;
        }
        None => list.push(condition),
    }
}
