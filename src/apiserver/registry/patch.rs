//! PATCH: JSON, merge, strategic merge, and server-side apply.

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Response};
use api::Kind;
use apimachinery::decode::FieldValidation;
use apimachinery::goformat::json_opened;
use apimachinery::patch::{JsonPatch, MergePatch, PatchError, StrategicPatch, UNPROCESSABLE, Validation};
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;

use super::codec::Shown;
use super::options::WriteOptions;
use super::update::{Change, Changed, apply as change_object, check_name};
use super::{Cx, codec, meta};
use crate::Body;
use crate::wire::errors;

/// How often a patch is made again on a newer object (upstream's number).
pub const RETRIES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let header = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        match header.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

pub async fn patch(cx: &Cx, body: Bytes) -> Result<Response<Body>, Status> {
    patch_object(cx, &body).await?.respond(cx)
}

/// Patches the object (or its subresource that is part of it).
pub async fn patch_object(cx: &Cx, body: &Bytes) -> Result<Changed, Status> {
    let kind = PatchType::of(&cx.headers).ok_or_else(errors::route_unsupported)?;
    let options = WriteOptions::parse(cx, "PatchOptions", kind == PatchType::Apply)?;
    let applied = match kind {
        PatchType::Apply => Some(codec::decode_applied(cx, body, options.validation)?),
        _ => None,
    };
    let make = |old: Option<&Value>| {
        let object = match (&applied, old) {
            (Some(config), old) => codec::apply(cx, old, config, &options)?,
            (None, Some(old)) => patched_as(cx, &cx.kind, kind, old, body, &options)?,
            (None, None) => return Err(cx.not_found(&cx.info.name)),
        };
        finish(cx, object, old, kind, &options)
    };
    let change = Change {
        options: &options,
        uid_precondition: None,
        may_create: kind == PatchType::Apply && cx.info.subresource.is_empty(),
        retry_conflicts: RETRIES,
        make: &make,
    };
    change_object(cx, &change).await
}

/// What every patched object goes through before it is written.
fn finish(
    cx: &Cx,
    mut object: Value,
    old: Option<&Value>,
    kind: PatchType,
    options: &WriteOptions,
) -> Result<Value, Status> {
    check_name(cx, &object)?;
    meta::match_namespace(cx, &mut object)?;
    meta::dedup_owners(cx, &mut object, false);
    if kind != PatchType::Apply {
        codec::manage(cx, old, &mut object, options)?;
    }
    Ok(object)
}

/// The patch applied to the old object, decoded and with defaults.
pub fn patched_as(
    cx: &Cx,
    target: &Kind,
    kind: PatchType,
    old: &Value,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Value, Status> {
    let checked = match options.validation {
        FieldValidation::Ignore => Validation::Ignore,
        _ => Validation::Checked,
    };
    let mut object = old.clone();
    let (strict, shown) = match kind {
        PatchType::Json => {
            let patch = JsonPatch::parse(body, checked).map_err(refused)?;
            let opened = patch.opened();
            patch.apply(&mut object).map_err(refused)?;
            (patch.strict_errors, Shown::Result(json_opened(&object, target.schema.root(), &opened)))
        }
        PatchType::Merge => {
            let patch = MergePatch::parse(body, checked).map_err(refused)?;
            let strict = patch.strict_errors.clone();
            let opened = patch.opened();
            patch.apply(&mut object).map_err(refused)?;
            (strict, Shown::Result(json_opened(&object, target.schema.root(), &opened)))
        }
        PatchType::Strategic | PatchType::Apply => {
            let mut patch = StrategicPatch::parse(body, checked).map_err(refused)?;
            let strict = patch.strict_errors.clone();
            // Messages about the result of a strategic merge show the patch, the others show the result.
            let shown = patch.describe();
            patch.apply(&mut object, &target.schema).map_err(refused)?;
            (strict, Shown::Patch(shown))
        }
    };
    codec::decode_patched(cx, target, object, shown, options.validation, strict)
}

pub fn refused(error: PatchError) -> Status {
    match error {
        PatchError::BadRequest(text) => Status::bad_request(text),
        PatchError::Unprocessable(_) => errors::route(422, "Invalid", UNPROCESSABLE),
        PatchError::TooLarge(text) => Status::custom(413, "RequestEntityTooLarge", text),
        PatchError::Internal(text) => Status::unknown(text),
        PatchError::UnsupportedMediaType => Status::unsupported_media_type_message(error.to_string()),
    }
}
