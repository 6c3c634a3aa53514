//! What every API object has in common, as pure functions: names, metadata, selectors, quantities, Status, schemas,
//! decoding, patches, server-side apply, codecs.
//!
//! Invariants:
//! - AM-1: no I/O, no clock, no tokio: time and randomness are arguments.
//! - AM-2: list semantics, defaults and field numbers are facts in `data/`, read in one place each.

pub mod decode;
pub mod duration;
pub mod fields;
pub mod goformat;
pub mod gvk;
pub mod labels;
pub mod managedfields;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod status;
pub mod validation;
pub mod value;
