//! GET of one object.

use ::http::Response;
use apimachinery::goformat::quote;
use apimachinery::status::Status;

use super::Cx;
use crate::cache::ObjectReader as _;
use crate::wire::query;
use crate::{Body, Object};
use std::sync::Arc;

pub async fn get(cx: &Cx) -> Result<Response<Body>, Status> {
    let object = read(cx, &cx.info.name).await?;
    cx.show(200, &object)
}

/// The named object, as new as the request wants it.
///
/// # Errors
/// 404; 500 and 504 for a bad or future resourceVersion.
pub async fn read(cx: &Cx, name: &str) -> Result<Arc<Object>, Status> {
    match cx.info.query.get("resourceVersion").unwrap_or("") {
        "" => cx.server.cache.fresh().await,
        "0" => {}
        text => {
            let wanted = query::parse_uint(text).map_err(|error| {
                Status::unknown(format!("resourceVersion: Invalid value: {}: {error}", quote(text)))
            })?;
            wait_for(cx, wanted).await?;
        }
    }
    let object = cx.resource.get(&cx.key(name)).ok_or_else(|| cx.not_found(name))?;
    super::conversion::prepare(cx, std::slice::from_ref(&object)).await?;
    Ok(object)
}

/// Waits until the cache has reached `wanted`.
///
/// # Errors
/// 504 when it does not in time.
pub async fn wait_for(cx: &Cx, wanted: u64) -> Result<(), Status> {
    let reached = match i64::try_from(wanted) {
        Ok(wanted) => cx.server.cache.wait_for(wanted).await,
        Err(_) => false,
    };
    if reached {
        return Ok(());
    }
    let current = u64::try_from(cx.server.cache.revision()).unwrap_or(0);
    Err(Status::too_large_resource_version(wanted, current, 1))
}
