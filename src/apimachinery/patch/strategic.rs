//! Strategic merge patch: a merge patch that knows which lists merge by key, with directives: `$patch` (replace,
//! merge, delete), `$deleteFromPrimitiveList/f`, `$setElementOrder/f`, `$retainKeys`.
//!
//! Invariants:
//! - SP-1: nulls and directives of the patch never count as values where the patch is merged.
//! - SP-2: in a merged list the order is: `$setElementOrder`, else the patch's, else the live one.

use super::merge::{cannot_unmarshal, duplicate_fields};
use super::{PatchError, Validation, gofmt};
use crate::decode;
use crate::schema::{Node, PatchStrategy, Schema};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// A strategic merge patch.
#[derive(Debug, Clone)]
pub struct StrategicPatch {
    /// The patch; after [`Self::apply`] without the directives that were carried out.
    pub patch: Value,
    /// What is wrong with the document under strict validation: `duplicate field "spec.replicas"`.
    pub strict_errors: Vec<String>,
}

impl StrategicPatch {
    pub fn new(patch: Value) -> Self {
        Self { patch, strict_errors: Vec::new() }
    }

    pub fn parse(text: &[u8], validation: Validation) -> Result<Self, PatchError> {
        let document = decode::json::parse(text).map_err(PatchError::BadRequest)?;
        let strict_errors = match validation {
            Validation::Checked => duplicate_fields(&document),
            Validation::Ignore => Vec::new(),
        };
        let patch = match document.into_value() {
            patch @ Value::Object(_) => patch,
            Value::Null => Value::Object(Map::new()),
            other => return Err(PatchError::BadRequest(cannot_unmarshal(&other))),
        };
        Ok(Self { patch, strict_errors })
    }

    /// Merges the patch into an object. On an error the object is left in between and must be thrown away.
    pub fn apply(&mut self, object: &mut Value, schema: &Schema) -> Result<(), PatchError> {
        let Value::Object(patch) = &mut self.patch else {
            return Err(PatchError::BadRequest(cannot_unmarshal(&self.patch)));
        };
        merge_map(as_map(object), patch, schema.root()).map_err(PatchError::from)
    }

    /// The patch as errors about the patched object show it: `map[spec:map[replicas:x]]`.
    pub fn describe(&self) -> String {
        gofmt::value(&self.patch)
    }
}

/// Upstream's errors, by the class they get.
enum Error {
    Format(&'static str),
    Content(&'static str),
    Other(String),
}

impl From<Error> for PatchError {
    fn from(error: Error) -> Self {
        match error {
            Error::Format(text) => Self::BadRequest(text.into()),
            Error::Content(text) => Self::Unprocessable(text.into()),
            Error::Other(text) => Self::Internal(text),
        }
    }
}

const BAD_PRIMITIVE_LIST: Error = Error::Format("invalid patch format of primitive list");
const BAD_RETAIN_KEYS: Error = Error::Format("invalid patch format of retainKeys");
const BAD_SET_ORDER: Error = Error::Format("invalid patch format of setElementOrder list");
const LIST_OF_LISTS: Error = Error::Content("lists of lists are not supported");

fn no_merge_key(item: &Value, key: &str) -> Error {
    Error::Other(format!("map: {} does not contain declared merge key: {key}", gofmt::value(item)))
}

fn bad_arg(expected: &str, actual: &Value) -> Error {
    Error::Other(format!("expected a {expected}, but received a {}", gofmt::type_name(actual)))
}

fn bad_directive(directive: &Value, patch: Value) -> Error {
    let patch = gofmt::value(&patch);
    Error::Other(format!("unknown patch type: {} in map: {patch}", gofmt::value(directive)))
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object just above")
}

/// How a field merges.
struct Meta<'a> {
    node: Option<Node<'a>>,
    strategy: PatchStrategy,
    merge_key: &'a str,
}

fn lookup<'a>(node: Node<'a>, key: &str) -> Result<Meta<'a>, Error> {
    if let Some(field) = node.field(key) {
        return Ok(Meta {
            node: Some(Node::of(node.table, &field.ty)),
            strategy: field.patch_strategy,
            merge_key: field.patch_merge_key.as_deref().unwrap_or_default(),
        });
    }
    match node.child(key) {
        Some(child) => Ok(Meta { node: Some(child), strategy: PatchStrategy::default(), merge_key: "" }),
        None => {
            let name =
                node.object().map_or("RawExtension", |object| object.name.rsplit('.').next().unwrap_or_default());
            Err(Error::Other(format!("unable to find api field in struct {name} for the json field \"{key}\"")))
        }
    }
}

fn merge_map(original: &mut Map<String, Value>, patch: &mut Map<String, Value>, node: Node<'_>) -> Result<(), Error> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                *original = patch.clone();
            }
            Some("delete") => original.clear(),
            _ => return Err(bad_directive(directive, Value::Object(patch.clone()))),
        }
        return Ok(());
    }
    retain_keys(original, patch)?;
    order_lists(original, patch, node)?;
    let keys: Vec<String> = patch.keys().cloned().collect();
    for patch_key in keys {
        let Some(value) = patch.get_mut(&patch_key) else { continue };
        let (key, deletes) = if patch_key.starts_with(DELETE_PRIMITIVES) {
            (extract_key(&patch_key, DELETE_PRIMITIVES).ok_or(BAD_PRIMITIVE_LIST)?, true)
        } else {
            (patch_key.as_str(), false)
        };
        if value.is_null() {
            original.remove(key);
            continue;
        }
        let same_type = |old: &Value| (old.is_object() && value.is_object()) || (old.is_array() && value.is_array());
        match original.get_mut(key) {
            Some(old) if same_type(old) => {
                let meta = lookup(node, key)?;
                merge_value(old, value, &meta, deletes)?;
            }
            _ if deletes => {}
            _ => {
                discard_nulls(value);
                original.insert(key.to_owned(), value.clone());
            }
        }
    }
    Ok(())
}

/// Two maps, or two lists.
fn merge_value(old: &mut Value, patch: &mut Value, meta: &Meta<'_>, deletes: bool) -> Result<(), Error> {
    match (old, patch) {
        (Value::Object(old), Value::Object(patch)) => match meta.node {
            Some(node) => merge_map(old, patch, node)?,
            None => *old = patch.clone(),
        },
        (Value::Array(old), Value::Array(patch)) => {
            if meta.strategy.merge {
                let merged = merge_list(std::mem::take(old), patch, meta, deletes)?;
                *old = merged;
            } else {
                *old = patch.clone();
            }
        }
        (old, patch) => *old = patch.clone(),
    }
    Ok(())
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, item| !item.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

fn extract_key<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.split_once('/').filter(|(before, _)| *before == prefix).map(|(_, after)| after)
}

/// `$retainKeys`: of the original only these keys stay; the patch may have no others.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(keep) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keep) = keep else { return Err(BAD_RETAIN_KEYS) };
    let kept = |key: &str| keep.iter().any(|name| name.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_PRIMITIVES) || key.starts_with(SET_ORDER);
        if !value.is_null() && !directive && !kept(key) {
            return Err(BAD_RETAIN_KEYS);
        }
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// `$setElementOrder/f`: merges field `f` and orders it.
fn order_lists(original: &mut Map<String, Value>, patch: &mut Map<String, Value>, node: Node<'_>) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            Some(other) => return Err(bad_arg("[]interface {}", &other)),
            None => continue,
        };
        let key = extract_key(&directive, SET_ORDER).ok_or(BAD_SET_ORDER)?;
        let list = |value: Option<&Value>| match value {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(other) => Err(bad_arg("[]interface {}", other)),
        };
        let old = list(original.get(key))?;
        let mut new = list(patch.get(key))?;
        let meta = lookup(node, key)?;
        check_order(new.as_deref().unwrap_or_default(), &order, meta.merge_key)?;
        let merged = match (&old, &mut new) {
            (Some(old), None) => old.clone(),
            (None, Some(new)) => new.clone(),
            (Some(old), Some(new)) if meta.strategy.merge => merge_list(old.clone(), new, &meta, false)?,
            (Some(_), Some(new)) => new.clone(),
            (None, None) => continue,
        };
        let (in_order, server_only) = partition(merged, &order, meta.merge_key)?;
        let old = old.unwrap_or_default();
        let maps = maps_in(&old, new.as_deref().unwrap_or_default())?
            .ok_or_else(|| Error::Other("no elements in any given slices".into()))?;
        let ordered = normalize(in_order, server_only, &order, &old, meta.merge_key, maps)?;
        original.insert(key.to_owned(), Value::Array(ordered));
        patch.remove(key);
    }
    Ok(())
}

/// The items of the patch must come in the order of the directive and all be in it.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        loop {
            let Some(next) = wanted.next() else {
                return Err(Error::Other(format!(
                    "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                    gofmt::value(&Value::from(patch.to_vec())),
                    gofmt::value(&Value::from(order.to_vec()))
                )));
            };
            if merge_key.is_empty() {
                if item == next {
                    break;
                }
            } else if key_of(item, merge_key)? == key_of(next, merge_key)? {
                break;
            }
        }
    }
    Ok(())
}

fn key_of<'v>(item: &'v Value, merge_key: &str) -> Result<&'v Value, Error> {
    let Value::Object(map) = item else { return Err(bad_arg("map[string]interface {}", item)) };
    map.get(merge_key).ok_or_else(|| no_merge_key(item, merge_key))
}

/// Whether the items are maps; all must be of one type. `None` if there are none.
fn maps_in(a: &[Value], b: &[Value]) -> Result<Option<bool>, Error> {
    let mut items = a.iter().chain(b);
    let Some(first) = items.next() else { return Ok(None) };
    if first.is_array() {
        return Err(LIST_OF_LISTS);
    }
    let kind = gofmt::type_name(first);
    if items.any(|item| gofmt::type_name(item) != kind) {
        let lists = Value::Array(vec![Value::from(a.to_vec()), Value::from(b.to_vec())]);
        return Err(Error::Other(format!("list element types are not identical: {}", gofmt::value(&lists))));
    }
    Ok(Some(first.is_object()))
}

fn merge_list(
    mut original: Vec<Value>,
    patch: &mut [Value],
    meta: &Meta<'_>,
    deletes: bool,
) -> Result<Vec<Value>, Error> {
    let Some(maps) = maps_in(&original, patch)? else { return Ok(original) };
    if !maps {
        if deletes {
            original.retain(|item| !patch.contains(item));
            return Ok(original);
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(patch.iter()) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        let (in_patch, server_only) = partition(merged, patch, "")?;
        return normalize(in_patch, server_only, patch, &original, "", false);
    }
    let key = meta.merge_key;
    if key.is_empty() {
        return Err(Error::Other("cannot merge lists without merge key for type struct".into()));
    }
    let mut replace = false;
    for item in patch.iter() {
        let Some(directive) = item.get(DIRECTIVE) else { continue };
        match directive.as_str() {
            Some("delete") => {
                let value = item.get(key).ok_or_else(|| no_merge_key(item, key))?;
                original.retain(|old| old.get(key) != Some(value));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(Error::Other("merging lists cannot yet be specified in the patch".into())),
            _ => return Err(bad_directive(directive, item.clone())),
        }
    }
    if replace {
        return Ok(patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect());
    }
    let server_order = original.clone();
    let mut merged = original;
    let mut plain = Vec::with_capacity(patch.len());
    for item in patch.iter_mut().filter(|item| item.get(DIRECTIVE).is_none()) {
        let value = item.get(key).ok_or_else(|| no_merge_key(item, key))?;
        match merged.iter_mut().find(|old| old.get(key) == Some(value)) {
            Some(old) => {
                let node = meta.node.and_then(|node| node.item());
                match (old, &mut *item, node) {
                    (Value::Object(old), Value::Object(new), Some(node)) => merge_map(old, new, node)?,
                    (old, new, _) => *old = new.clone(),
                }
            }
            None => merged.push(item.clone()),
        }
        plain.push(item.clone());
    }
    let (in_patch, server_only) = partition(merged, &plain, key)?;
    normalize(in_patch, server_only, &plain, &server_order, key, true)
}

/// The items that are in `by`, and the others.
fn partition(items: Vec<Value>, by: &[Value], merge_key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let (mut inside, mut outside) = (Vec::with_capacity(items.len()), Vec::new());
    for item in items {
        let found = if merge_key.is_empty() {
            by.contains(&item)
        } else {
            let value = key_of(&item, merge_key)?;
            by.iter().any(|other| other.get(merge_key) == Some(value))
        };
        if found {
            inside.push(item);
        } else {
            outside.push(item);
        }
    }
    Ok((inside, outside))
}

fn position(order: &[Value], item: &Value, merge_key: &str, maps: bool) -> Option<usize> {
    if maps {
        let value = item.get(merge_key)?;
        order.iter().position(|other| other.get(merge_key) == Some(value))
    } else {
        order.iter().position(|other| other == item)
    }
}

/// Sorts the items of the patch by its order and the others by the live order, and puts the others in between where
/// the live order says so.
fn normalize(
    mut patch: Vec<Value>,
    mut server_only: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    merge_key: &str,
    maps: bool,
) -> Result<Vec<Value>, Error> {
    if maps {
        for item in patch.iter().chain(&server_only).chain(patch_order).chain(server_order) {
            key_of(item, merge_key)?;
        }
    }
    patch.sort_by_key(|item| position(patch_order, item, merge_key, maps).unwrap_or(usize::MAX));
    server_only.sort_by_key(|item| position(server_order, item, merge_key, maps).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(patch.len() + server_only.len());
    let mut left = server_only.into_iter().peekable();
    let mut right = patch.into_iter().peekable();
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => {
                let at = |item: &Value| position(server_order, item, merge_key, maps);
                matches!((at(l), at(r)), (Some(l), Some(r)) if l < r)
            }
        };
        out.extend(if take_left { left.next() } else { right.next() });
    }
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
