//! The three kinds of patch that say how an object changes: JSON patch, merge patch, strategic merge patch.
//! (Server-side apply is [`crate::managedfields::apply`].)
//!
//! Invariants:
//! - PA-1: a patch that fails leaves nothing half done that a caller could store: the result is not returned.
//! - PA-2: messages and classes are kube-apiserver's.

pub mod gofmt;
pub mod json;
pub mod merge;
pub mod strategic;

pub use json::JsonPatch;
pub use merge::MergePatch;
pub use strategic::StrategicPatch;

use crate::schema::Schema;
use serde_json::Value;

/// Why a patch was refused, and with what the API server must answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400 BadRequest with this message.
    #[error("{0}")]
    BadRequest(String),
    /// 422 Invalid. The client sees [`UNPROCESSABLE`] and empty details; the text is for logs.
    #[error("{0}")]
    Unprocessable(String),
    /// 413 RequestEntityTooLarge with this message.
    #[error("{0}")]
    TooLarge(String),
    /// 500 with this message and no reason.
    #[error("{0}")]
    Internal(String),
    /// 415 UnsupportedMediaType: a strategic merge patch of a custom resource.
    #[error("the body of the request was in an unknown format")]
    UnsupportedMediaType,
}

/// What a client is told when a patch does not apply.
pub const UNPROCESSABLE: &str = "the server rejected our request due to an error in our request";

/// Bytes of the pointers that `opened` yields. They only say how an error message writes the object, and a few long
/// keys could make any number of them.
const MAX_OPENED: usize = 1 << 20;

/// Whether the patch document itself is checked strictly (`fieldValidation=Warn|Strict`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validation {
    Ignore,
    #[default]
    Checked,
}

/// Applies a JSON patch (RFC 6902).
pub fn apply_json(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let mut object = current.clone();
    JsonPatch::parse(patch, Validation::Checked)?.apply(&mut object)?;
    Ok(object)
}

/// Applies a merge patch (RFC 7386).
pub fn apply_merge(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let mut object = current.clone();
    MergePatch::parse(patch, Validation::Checked)?.apply(&mut object)?;
    Ok(object)
}

/// Applies a strategic merge patch.
pub fn apply_strategic(current: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    let mut object = current.clone();
    StrategicPatch::new(patch.clone()).apply(&mut object, schema)?;
    Ok(object)
}
