//! What a call costs at run time: cel-go's counts and Kubernetes' for its own functions.

use crate::ext::Ext;
use crate::limits::{
    LIST_CREATE_BASE_COST, REGEX_STRING_LENGTH_COST_FACTOR, STRING_TRAVERSAL_COST_FACTOR, STRUCT_CREATE_BASE_COST,
};
use crate::value::Value;

/// The cost of `left == right` (or `!=`).
pub(crate) fn equality(left: &Value<'_>, right: &Value<'_>, equal: bool) -> u64 {
    if equal && matches!(left, Value::Ext(_)) {
        return 1;
    }
    traverse(size(left).min(size(right)))
}

/// The cost of a call with its values; the overload is known where the checker found only one.
pub(crate) fn call(name: &str, overload: Option<&str>, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    let arg = |at: usize| args.get(at).map_or(0, size);
    match name {
        "check" => 350_000,
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed"
        | "reason" | "error" | "errored" => 1,
        "fieldSelector" | "labelSelector" => selector(arg(1)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => traverse(arg(0)),
        "replace" | "split" => traverse_twice(arg(0)),
        "join" => traverse_twice(result.map_or(0, size)),
        "find" | "findAll" => pattern(arg(0), arg(1)),
        "ip" if overload == Some("cidr_ip") => 1,
        "ip" => traverse(arg(0)),
        "ip.isCanonical" => traverse_twice(arg(0)),
        "containsIP" => {
            let parse = if overload == Some("cidr_contains_ip_string") { traverse(arg(1)) } else { 0 };
            traverse_twice(arg(0)) + parse
        }
        "containsCIDR" => {
            let parse = if overload == Some("cidr_contains_cidr_string") { traverse(arg(1)) } else { 0 };
            traverse_twice(arg(0)) + traverse(arg(0)) + 1 + parse
        }
        "validate" => match args.first() {
            Some(Value::Ext(Ext::Format(format))) => pattern(arg(1), format.regex_size),
            _ => 1,
        },
        "sets.contains" | "sets.intersects" => 1 + arg(0).saturating_mul(arg(1)),
        "sets.equivalent" => 1 + arg(0).saturating_mul(arg(1)).saturating_mul(2),
        "matches" if overload == Some("matches_string") => pattern(arg(0), arg(1)),
        "format" => traverse(arg(0)),
        "strings.quote" => traverse(arg(0)),
        _ => by_overload(overload.unwrap_or_default(), args),
    }
}

fn by_overload(overload: &str, args: &[Value<'_>]) -> u64 {
    let arg = |at: usize| args.get(at).map_or(0, size);
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" => traverse(arg(0)),
        "in_list" => arg(1),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes" => traverse(arg(0).min(arg(1))),
        "add_string" | "add_bytes" => traverse(arg(0).saturating_add(arg(1))),
        "contains_string" => traverse(arg(0)).saturating_mul(traverse(arg(1))),
        _ => 1,
    }
}

fn size(value: &Value<'_>) -> u64 {
    value.size().unwrap_or(1)
}

fn factor(size: f64, factor: f64) -> u64 {
    (size * factor).ceil() as u64
}

fn traverse(size: u64) -> u64 {
    factor(size as f64, STRING_TRAVERSAL_COST_FACTOR)
}

fn traverse_twice(size: u64) -> u64 {
    factor(size as f64, 2.0 * STRING_TRAVERSAL_COST_FACTOR)
}

fn pattern(text: u64, pattern: u64) -> u64 {
    let text = factor(1.0 + text as f64, STRING_TRAVERSAL_COST_FACTOR);
    text.saturating_mul(factor(pattern as f64, REGEX_STRING_LENGTH_COST_FACTOR))
}

fn selector(length: u64) -> u64 {
    let requirements = factor(length as f64, 0.5);
    LIST_CREATE_BASE_COST
        + traverse(length)
        + requirements.saturating_mul(LIST_CREATE_BASE_COST + STRUCT_CREATE_BASE_COST)
}

/// The cost of looking at every part of a value.
fn traversal(value: &Value<'_>) -> u64 {
    if !crate::fuel::spend() {
        return 1;
    }
    match value {
        Value::String(text) => (text.len() as f64 * STRING_TRAVERSAL_COST_FACTOR) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * STRING_TRAVERSAL_COST_FACTOR) as u64,
        Value::List(list) => {
            list.iter().fold(0, |sum, element| sum.saturating_add(element.map_or(1, |element| traversal(&element))))
        }
        Value::Map(map) => match map.entries() {
            Ok(entries) => entries
                .iter()
                .fold(0, |sum: u64, (key, value)| sum.saturating_add(traversal(key)).saturating_add(traversal(value))),
            Err(_) => 1,
        },
        _ => 1,
    }
}
