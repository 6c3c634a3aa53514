//! HTTP as the API speaks it: content negotiation, bodies, responses.
//!
//! Invariants:
//! - WI-1: every error response is a Status, except where upstream answers with plain text.

pub mod body;
pub mod errors;
pub mod negotiate;
pub mod query;
pub mod respond;
pub mod yaml;

pub use negotiate::{Accepted, Format, Transform};
