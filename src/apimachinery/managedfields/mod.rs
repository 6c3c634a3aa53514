//! Who owns which field of an object: the tracking of `metadata.managedFields` and server-side apply
//! (structured-merge-diff, KEP-555).
//!
//! [`update`] belongs into every create, update and patch, after decoding and defaulting the new object and before
//! admission; [`apply`] makes the new object of an apply patch. Both write `metadata.managedFields` of their result.
//!
//! Invariants:
//! - MF-9: no path is lost from a value: whatever an apply does not own stays as it is.
//! - MF-10: an entry's time changes only if its set did, or its apply changed the object.

mod configuration;
mod entries;
mod last_applied;
mod manager;
mod path;
pub mod scale;
mod set;
mod typed;
mod validate;

#[cfg(test)]
mod tests;

pub use configuration::merge_configuration;
pub use entries::{Entry, ManagerId, decode, encode};
pub use manager::{apply, keep_times_if_noop, update};
pub use path::{PathElement, PathError};
pub use set::FieldSet;

use crate::schema::Schema;
use jiff::Timestamp;
use serde_json::Value;
use std::borrow::Cow;

/// Which fields the storage resets on a write and which are therefore never owned by it: `status` on the main
/// resource, everything but `status` on the status subresource.
#[derive(Debug, Clone, Copy, Default)]
pub enum ResetFields<'a> {
    #[default]
    None,
    /// These fields and all below are not owned.
    Exclude(&'a [&'a [&'a str]]),
    /// Only what lies on, at or below these paths is owned; `*` is any path element.
    Include(&'a [&'a [&'a str]]),
}

impl ResetFields<'_> {
    fn keep(&self, set: FieldSet) -> FieldSet {
        match self {
            Self::None => set,
            Self::Exclude(paths) if !set.is_empty() => set.recursive_difference(&FieldSet::of_fields(paths)),
            Self::Exclude(_) => set,
            Self::Include(paths) => set.include(paths),
        }
    }
}

/// Other versions of a kind: ownership recorded at one version is compared and pruned at that version.
pub trait Versions {
    /// An object, whose `apiVersion` says where it is, at another version, with that version's schema; `None` if the
    /// version is no longer served.
    fn convert<'a>(&self, object: &'a Value, api_version: &str) -> Option<(Cow<'a, Value>, Schema)>;

    /// What [`ResetFields`] is at that version.
    fn reset_fields(&self, _api_version: &str) -> ResetFields<'_> {
        ResetFields::None
    }
}

/// A kind with a single version.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleVersion;

impl Versions for SingleVersion {
    fn convert<'a>(&self, _object: &'a Value, _api_version: &str) -> Option<(Cow<'a, Value>, Schema)> {
        None
    }
}

/// What does not depend on the object: the kind, the endpoint, the client and the time.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub schema: &'a Schema,
    /// `group/version` of the endpoint.
    pub api_version: &'a str,
    pub kind: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// The field manager, or what the User-Agent stands for.
    pub manager: &'a str,
    pub reset: ResetFields<'a>,
    pub versions: &'a dyn Versions,
    pub now: Timestamp,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 409 with causes of type FieldManagerConflict.
    #[error("{}", .0.message)]
    Conflict(Conflicts),
    /// 500 without a reason.
    #[error("{0}")]
    Internal(String),
}

/// Fields that others own with other values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflicts {
    /// `Apply failed with 1 conflict: conflict with "x" using v1: .spec.y`
    pub message: String,
    pub causes: Vec<ConflictCause>,
}

/// One field in conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictCause {
    /// `conflict with "x" using v1`
    pub message: String,
    /// `.spec.y`
    pub field: String,
}
