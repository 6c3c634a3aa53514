//! Kinds that are served in several versions and stored in one: the first that is registered.
//!
//! Invariants:
//! - CV-1: what is stored is always of the storage version.

use serde_json::{Value, json};

use super::Cx;

/// The request's version is the stored one: bytes can be shown as they are.
pub fn same_version(cx: &Cx) -> bool {
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
    if let (false, Some(stored)) = (same_version(cx), cx.server.kinds.storage_kind(&cx.kind.storage_key)) {
        cx.kind.strategy.to_storage(value);
        value["apiVersion"] = json!(stored.api_version());
    }
}
