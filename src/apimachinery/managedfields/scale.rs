//! Ownership of a parent's replicas, seen through its scale subresource.

use super::entries::{self, Entry};
use super::path::PathElement;
use super::set::FieldSet;
use serde_json::Value;

const SCALE_VERSION: &str = "autoscaling/v1";

/// Where a kind keeps its replicas: `(group/version, path)` for each served version; an empty path where that version
/// has no scale subresource.
pub type ReplicasPaths<'a> = &'a [(&'a str, &'a [&'a str])];

fn replicas_in_scale() -> Vec<PathElement> {
    vec![PathElement::field("spec"), PathElement::field("replicas")]
}

fn replicas_in_parent(paths: ReplicasPaths<'_>, version: &str) -> Option<Vec<PathElement>> {
    let (_, path) = paths.iter().find(|(v, _)| *v == version)?;
    Some(path.iter().map(|name| PathElement::field(name)).collect())
}

/// The parent's managed fields as those of its scale: only who owns the replicas.
pub fn to_subresource(parent: &[Value], paths: ReplicasPaths<'_>) -> Result<Vec<Value>, String> {
    let mut scale = Vec::new();
    for entry in entries::decode(parent)? {
        let owns = replicas_in_parent(paths, &entry.api_version).is_some_and(|path| entry.set.has(&path));
        if owns {
            let mut set = FieldSet::new();
            set.insert(&replicas_in_scale());
            scale.push(Entry::new(entry.id, SCALE_VERSION, set, entry.time));
        }
    }
    Ok(entries::encode(scale))
}

/// The parent's managed fields after a write to its scale, at the parent version `api_version`.
pub fn to_parent(
    parent: &[Value],
    scale: &[Value],
    api_version: &str,
    paths: ReplicasPaths<'_>,
) -> Result<Vec<Value>, String> {
    let parent = entries::decode(parent)?;
    let mut scale = decode_scale(scale, api_version)?;
    let mut out = Vec::with_capacity(parent.len() + 1);
    let times: Vec<_> = parent.iter().map(|entry| (entry.id.clone(), entry.time.clone())).collect();
    for mut entry in parent {
        let Some(path) = replicas_in_parent(paths, &entry.api_version) else { continue };
        if path.is_empty() || !entry.set.has(&path) {
            out.push(entry);
            continue;
        }
        match scale.iter().position(|other| other.id == entry.id) {
            Some(at) => {
                scale.remove(at);
            }
            None => {
                let mut stolen = FieldSet::new();
                stolen.insert(&path);
                entry.subtract(&stolen);
            }
        }
        if !entry.set.is_empty() {
            out.push(entry);
        }
    }
    let Some(path) = replicas_in_parent(paths, api_version).filter(|path| !path.is_empty()) else {
        return Ok(entries::encode(out));
    };
    for entry in scale {
        if !entry.set.has(&replicas_in_scale()) {
            continue;
        }
        let mut set = FieldSet::new();
        set.insert(&path);
        let id = entry.id;
        let time = times.iter().find(|(other, _)| *other == id).and_then(|(_, time)| time.clone());
        match out.iter_mut().find(|other| other.id == id) {
            Some(other) => {
                let before = std::mem::take(other.set_mut());
                other.set = before.union(set);
            }
            None => out.push(Entry::new(id, api_version, set, time)),
        }
    }
    Ok(entries::encode(out))
}

/// In the scale an updater carries the scale's version; in the parent it has the parent's.
fn decode_scale(scale: &[Value], api_version: &str) -> Result<Vec<Entry>, String> {
    let mut entries = entries::decode(scale)?;
    for entry in entries.iter_mut().filter(|entry| !entry.id.applied) {
        entry.id.api_version = api_version.into();
    }
    Ok(entries)
}
