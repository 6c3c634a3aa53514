//! Kinds that are served in several versions and stored in one: the first that is registered, or the one that a
//! definition names.
//!
//! Invariants:
//! - CV-1: what is stored is always of the storage version.
//! - CV-2: what a webhook converts is asked for ahead ([`prepare`]): showing objects waits for nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use apimachinery::status::Status;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Cx;
use crate::Object;
use crate::apiextensions;

/// Objects that a webhook converted for this request: by namespace, name and resourceVersion.
#[derive(Default)]
pub struct Converted(Mutex<HashMap<(String, String, String), Value>>);

fn key(value: &Value) -> (String, String, String) {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or("").to_owned();
    (text("namespace"), text("name"), text("resourceVersion"))
}

/// The request's version is the stored one: bytes can be shown as they are.
pub fn same_version(cx: &Cx) -> bool {
    if let Some(custom) = cx.custom() {
        return custom.is_storage() && !custom.definition.mixed.load(Ordering::Relaxed);
    }
    match cx.server.kinds.storage_kind(&cx.kind.storage_key) {
        Some(stored) => stored.group == cx.kind.group && stored.version == cx.kind.version,
        None => true,
    }
}

/// Has a webhook convert what the request is going to show or change.
///
/// # Errors
/// 500 with what went wrong there.
pub async fn prepare(cx: &Cx, objects: &[Arc<Object>]) -> Result<(), Status> {
    let Some(custom) = cx.custom().filter(|_| !same_version(cx)) else { return Ok(()) };
    let Some(webhook) = custom.definition.conversion.webhook() else { return Ok(()) };
    let desired = cx.kind.api_version();
    let foreign = objects.iter().map(|object| object.value()).filter(|value| value["apiVersion"] != desired.as_str());
    let foreign: Vec<Value> = foreign.collect();
    let converted = apiextensions::convert(&cx.server, webhook, &foreign, &desired).await.map_err(Status::unknown)?;
    cx.converted.0.lock().extend(foreign.iter().map(key).zip(converted));
    Ok(())
}

/// Forgets what was prepared: a watch goes on for long.
pub fn forget(cx: &Cx) {
    cx.converted.0.lock().clear();
}

/// A stored object in the request's version.
pub fn from_storage(cx: &Cx, value: &mut Value) {
    if same_version(cx) {
        return;
    }
    if let Some(converted) = cx.converted.0.lock().get(&key(value)) {
        *value = converted.clone();
        return;
    }
    cx.kind.strategy.from_storage(value);
    value["apiVersion"] = json!(cx.kind.api_version());
}

/// An object of the request's version as it is stored.
///
/// # Errors
/// 500 when a webhook does not convert it.
pub async fn to_storage(cx: &Cx, value: &mut Value) -> Result<(), Status> {
    if let Some(custom) = cx.custom() {
        let stored = custom.definition.storage_api_version();
        if custom.is_storage() {
            return Ok(());
        }
        match custom.definition.conversion.webhook() {
            Some(webhook) => {
                let sent = std::slice::from_ref(value);
                let converted = apiextensions::convert(&cx.server, webhook, sent, &stored).await;
                *value = converted.map_err(Status::unknown)?.pop().unwrap_or_default();
            }
            None => value["apiVersion"] = json!(stored),
        }
        cx.kind.strategy.to_storage(value);
        return Ok(());
    }
    builtin_to_storage(cx, value);
    Ok(())
}

/// The same for built-in kinds.
pub fn builtin_to_storage(cx: &Cx, value: &mut Value) {
    if let (false, Some(stored)) = (same_version(cx), cx.server.kinds.storage_kind(&cx.kind.storage_key)) {
        cx.kind.strategy.to_storage(value);
        value["apiVersion"] = json!(stored.api_version());
    }
}

/// What a write shows of `object` is what was stored of it: another version's schema may have kept less.
pub fn as_stored(cx: &Cx, object: &mut Value, stored: Value) {
    let Some(custom) = cx.custom() else { return };
    if custom.definition.conversion.webhook().is_none() && !custom.is_storage() {
        *object = stored;
        from_storage(cx, object);
    }
}
