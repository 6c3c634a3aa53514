//! Kinds that are served in several versions and stored in one: the first that is registered, or the one that a
//! definition names.
//!
//! Invariants:
//! - CV-1: what is stored is always of the storage version.

use serde_json::{Value, json};

use super::Cx;

/// The request's version is the stored one: bytes can be shown as they are.
pub fn same_version(cx: &Cx) -> bool {
    if let Some(custom) = cx.custom() {
        return custom.is_storage();
    }
    match cx.server.kinds.storage_kind(&cx.kind.storage_key) {
        Some(stored) => stored.group == cx.kind.group && stored.version == cx.kind.version,
        None => true,
    }
}

/// A stored object in the request's version.
pub fn from_storage(cx: &Cx, value: &mut Value) {
    if !same_version(cx) {
        cx.kind.strategy.from_storage(value);
        value["apiVersion"] = json!(cx.kind.api_version());
    }
}

/// An object of the request's version as it is stored.
pub fn to_storage(cx: &Cx, value: &mut Value) {
    if same_version(cx) {
        return;
    }
    let stored = match cx.custom() {
        Some(custom) => Some(custom.definition.storage_api_version()),
        None => cx.server.kinds.storage_kind(&cx.kind.storage_key).map(|kind| kind.api_version()),
    };
    if let Some(stored) = stored {
        cx.kind.strategy.to_storage(value);
        value["apiVersion"] = json!(stored);
    }
}

/// What a write shows of `object` is what was stored of it: another version's schema may have kept less.
pub fn as_stored(cx: &Cx, object: &mut Value, stored: Value) {
    if cx.custom().is_some() && !same_version(cx) {
        *object = stored;
        from_storage(cx, object);
    }
}
