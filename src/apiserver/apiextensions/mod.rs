//! Custom resources: definitions become kinds at run time, and their objects are pruned, given defaults, checked,
//! converted and shown by what the definition says.
//!
//! Invariants:
//! - XA-1: without definitions nothing here holds memory or runs.
//! - XA-2: one cache serves all versions of a resource.

pub mod controllers;
pub mod conversion;
mod crds;
pub mod decode;
pub mod default_checks;
mod definition;
mod formats;
mod jsonpath;
mod lists;
mod objects;
mod openapi;
mod openapi_v2;
pub mod route;
mod rules;
pub mod scale;
pub mod strategy;
mod structural;
mod table;
mod validate;
mod webhook;

pub use crds::{Crds, KEY};
pub use definition::{Definition, Version};
pub use strategy::{CustomResource, of};
pub use webhook::convert;
