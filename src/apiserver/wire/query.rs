//! Query parameters as upstream's conversion reads them.

pub use apimachinery::goformat::quote;
use apimachinery::status::Status;

use crate::attributes::Query;

/// A whole number.
///
/// # Errors
/// 400 with strconv's words.
pub fn int(query: &Query, key: &str) -> Result<Option<i64>, Status> {
    match query.get(key) {
        // Go's conversion leaves an empty number alone.
        None | Some("") => Ok(None),
        Some(text) => parse_int(text).map(Some).map_err(Status::bad_request),
    }
}

/// As Go's `strconv.ParseInt`, errors included.
pub fn parse_int(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("strconv.ParseInt: parsing {}: invalid syntax", quote(text)));
    }
    text.parse().map_err(|_| format!("strconv.ParseInt: parsing {}: value out of range", quote(text)))
}

/// As Go's `strconv.ParseUint`, errors included.
pub fn parse_uint(text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("strconv.ParseUint: parsing {}: invalid syntax", quote(text)));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {}: value out of range", quote(text)))
}

/// A flag: what is neither `false` nor `0` is true.
pub fn flag(query: &Query, key: &str) -> Option<bool> {
    query.get(key).map(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
}
