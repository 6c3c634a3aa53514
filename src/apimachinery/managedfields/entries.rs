//! `metadata.managedFields`: its entries, decoded and encoded.
//!
//! Invariants:
//! - MF-7: an entry whose set and time did not change is written back as it was read.
//! - MF-8: entries are ordered by operation, time, manager, version, subresource.

use super::set::FieldSet;
use crate::schema::Node;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Who manages: the identity of an entry. Appliers are the same whatever version they last applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerId {
    pub manager: String,
    pub applied: bool,
    /// Empty for appliers.
    pub api_version: String,
    pub subresource: String,
}

impl ManagerId {
    pub fn update(manager: &str, api_version: &str, subresource: &str) -> Self {
        let manager = if manager.is_empty() { "unknown" } else { manager };
        Self {
            manager: manager.into(),
            applied: false,
            api_version: api_version.into(),
            subresource: subresource.into(),
        }
    }

    pub fn apply(manager: &str, subresource: &str) -> Self {
        Self { applied: true, ..Self::update(manager, "", subresource) }
    }

    fn operation(&self) -> &'static str {
        if self.applied { "Apply" } else { "Update" }
    }

    /// Upstream identifies managers by this text and sorts by it.
    pub(super) fn sort_key(&self) -> String {
        let mut map = format!("{{\"manager\":{},\"operation\":\"{}\"", Value::from(&*self.manager), self.operation());
        if !self.api_version.is_empty() {
            map.push_str(&format!(",\"apiVersion\":{}", Value::from(&*self.api_version)));
        }
        if !self.subresource.is_empty() {
            map.push_str(&format!(",\"subresource\":{}", Value::from(&*self.subresource)));
        }
        map + "}"
    }
}

/// One manager's fields, at one version.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: ManagerId,
    pub api_version: String,
    pub time: Option<String>,
    pub set: FieldSet,
    /// The entry as it was read, while nothing in it changed.
    raw: Option<Value>,
}

impl Entry {
    pub fn new(id: ManagerId, api_version: &str, set: FieldSet, time: Option<String>) -> Self {
        Self { id, api_version: api_version.into(), time, set, raw: None }
    }

    pub fn set_mut(&mut self) -> &mut FieldSet {
        self.raw = None;
        &mut self.set
    }

    /// Removes paths; keeps the entry as read if there are none of them in it.
    pub fn subtract(&mut self, paths: &FieldSet) {
        if self.set.subtract(paths) {
            self.raw = None;
        }
    }

    pub(super) fn collapse_atomic(&mut self, root: Node<'_>) {
        if self.set.collapse_atomic(root) {
            self.raw = None;
        }
    }

    pub fn touch(&mut self, now: Timestamp) {
        self.raw = None;
        self.time = Some(rfc3339(now));
    }

    fn seconds(&self) -> i64 {
        self.time.as_deref().map_or(0, seconds)
    }

    fn encode(self) -> Value {
        if let Some(raw) = self.raw {
            return raw;
        }
        let mut entry = Map::new();
        if !self.id.manager.is_empty() {
            entry.insert("manager".into(), self.id.manager.clone().into());
        }
        entry.insert("operation".into(), self.id.operation().into());
        entry.insert("apiVersion".into(), self.api_version.into());
        if let Some(time) = self.time {
            entry.insert("time".into(), time.into());
        }
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), self.set.to_fields_v1());
        if !self.id.subresource.is_empty() {
            entry.insert("subresource".into(), self.id.subresource.into());
        }
        Value::Object(entry)
    }
}

/// Seconds, in UTC.
pub(super) fn rfc3339(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Decodes `metadata.managedFields`; later entries of one manager replace earlier ones.
pub fn decode(list: &[Value]) -> Result<Vec<Entry>, String> {
    decode_owned(list.to_vec())
}

pub(super) fn decode_owned(list: Vec<Value>) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    for (i, raw) in list.into_iter().enumerate() {
        let text = |key: &str| raw.get(key).and_then(Value::as_str).unwrap_or_default();
        let applied = match text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return Err("operation must be `Apply` or `Update`".into()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
            other => {
                return Err(format!(
                    "invalid fieldsType {} in managed fields entry {i}",
                    crate::goformat::quote(other)
                ));
            }
        }
        let set = match raw.get("fieldsV1") {
            None | Some(Value::Null) => FieldSet::new(),
            Some(fields) => FieldSet::from_fields_v1(fields)
                .map_err(|error| format!("error decoding versioned set: error decoding fields: {error}"))?,
        };
        let id = ManagerId {
            manager: text("manager").into(),
            applied,
            api_version: if applied { String::new() } else { api_version.into() },
            subresource: text("subresource").into(),
        };
        let time = raw.get("time").and_then(Value::as_str).map(str::to_owned);
        let api_version = api_version.to_owned();
        let entry = Entry { id, api_version, time, set, raw: Some(raw) };
        match entries.iter_mut().find(|other| other.id == entry.id) {
            Some(other) => *other = entry,
            None => entries.push(entry),
        }
    }
    Ok(entries)
}

/// Encodes entries in their order.
pub fn encode(entries: Vec<Entry>) -> Vec<Value> {
    encode_with(entries, Vec::new())
}

/// Encodes entries, with others that are encoded already.
fn encode_with(entries: Vec<Entry>, mut list: Vec<Value>) -> Vec<Value> {
    list.extend(entries.into_iter().map(Entry::encode));
    if list.len() > 1 {
        list.sort_by_cached_key(|entry| {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            (text("operation"), seconds(&text("time")), text("manager"), text("apiVersion"), text("subresource"))
        });
    }
    list
}

fn seconds(time: &str) -> i64 {
    time.parse::<Timestamp>().map_or(0, Timestamp::as_second)
}

/// Takes those entries out of a stored list that a write does not concern: other managers', of this version, with none
/// of these paths.
pub(super) fn take_untouched(list: &mut Vec<Value>, writer: &ManagerId, paths: [&FieldSet; 2]) -> Vec<Value> {
    let untouched = |raw: &mut Value| {
        let text = |key: &str| raw.get(key).and_then(Value::as_str).unwrap_or_default();
        let own = text("manager") == writer.manager
            && text("subresource") == writer.subresource
            && text("operation") == writer.operation();
        let fields = raw.get("fieldsV1").unwrap_or(&Value::Null);
        text("apiVersion") == writer.api_version
            && !own
            && paths.iter().all(|paths| !paths.intersects_fields_v1(fields))
    };
    list.extract_if(.., untouched).collect()
}

/// The most entries of updaters an object keeps.
pub(super) const MAX_UPDATERS: usize = 10;

/// Merges the oldest updaters into one bucket a version, "ancient-changes", until at most ten are left.
pub(super) fn cap_updaters(entries: &mut Vec<Entry>) {
    let mut updaters: Vec<ManagerId> = entries.iter().filter(|e| !e.id.applied).map(|e| e.id.clone()).collect();
    let mut left = updaters.len();
    if left <= MAX_UPDATERS {
        return;
    }
    let seconds = |id: &ManagerId| entries.iter().find(|e| e.id == *id).map_or(0, Entry::seconds);
    updaters.sort_by_cached_key(|id| (seconds(id), id.sort_key()));
    let mut first_of: Vec<(String, ManagerId)> = Vec::new();
    for id in updaters {
        if left <= MAX_UPDATERS {
            break;
        }
        let Some(at) = entries.iter().position(|e| e.id == id) else { continue };
        let version = entries[at].api_version.clone();
        let bucket = ManagerId::update("ancient-changes", &version, "");
        let Some((_, first)) = first_of.iter().find(|(v, _)| *v == version).cloned() else {
            first_of.push((version, id));
            continue;
        };
        let merged = entries.remove(at);
        if !entries.iter().any(|e| e.id == bucket) {
            if let Some(first) = entries.iter_mut().find(|e| e.id == first) {
                first.id = bucket.clone();
            }
        }
        if let Some(target) = entries.iter_mut().find(|e| e.id == bucket) {
            let old = std::mem::take(target.set_mut());
            target.set = old.union(merged.set);
            target.time = merged.time;
        }
        left -= 1;
    }
}

/// The list in an object, if it is there.
pub(super) fn of(object: &Value) -> Option<&Vec<Value>> {
    object.get("metadata")?.get("managedFields")?.as_array()
}

/// Writes entries, and others that are encoded already, into an object; none at all removes the field.
pub(super) fn store(object: &mut Value, entries: Vec<Entry>, untouched: Vec<Value>) {
    if entries.is_empty() && untouched.is_empty() {
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
        return;
    }
    let meta = crate::value::object_entry(object, &["metadata"]);
    meta.insert("managedFields".into(), Value::Array(encode_with(entries, untouched)));
}

/// True if a client asked to forget all ownership: an empty list, or one entry without anything in it.
pub(super) fn is_reset(list: &[Value]) -> bool {
    let blank = |value: &Value| value.is_null() || *value == json!("");
    match list {
        [] => true,
        [Value::Object(entry)] => entry.values().all(blank),
        _ => false,
    }
}
