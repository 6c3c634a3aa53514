//! The field manager: what a write does to everybody's ownership.

use super::entries::{self, Entry, ManagerId};
use super::set::FieldSet;
use super::typed::{self, Diff};
use super::{ApplyError, ConflictCause, Conflicts, Request, ResetFields, last_applied, validate};
use crate::goformat::quote;
use crate::schema::Schema;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::OnceLock;

/// Who gets what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Tracks a create (`live` is `None`), update or patch: `new` gets the managed fields that result. What a client sent
/// in `metadata.managedFields` counts if it is valid, and resets all if it is empty.
pub fn update(request: &Request<'_>, live: Option<&Value>, new: &mut Value) {
    let mut sent = take_list(new);
    let zero;
    let old = match live {
        Some(live) => live,
        None => {
            zero = typed::zero(request.schema);
            &zero
        }
    };
    // Objects that cannot be typed are not tracked; the write itself is not affected.
    let diff = difference(request.schema, request.reset, old, new);
    // The list as it is stored can be trusted, and most of its entries stay as they are.
    let mut untouched = Vec::new();
    if let (Ok(diff), Some(list), Some(stored)) = (&diff, &mut sent, live.and_then(entries::of)) {
        if list == stored && diff.is_same() {
            put_list(new, sent);
            return;
        }
        if list == stored && (1..entries::MAX_UPDATERS).contains(&list.len()) {
            let writer = ManagerId::update(request.manager, request.api_version, request.subresource);
            let taken = diff.taken();
            untouched = entries::take_untouched(list, &writer, [&taken, &diff.removed]);
        }
    }
    let mut managed = match sent {
        Some(list) if !untouched.is_empty() => entries::decode_owned(list).unwrap_or_default(),
        sent => live_or_sent(request, live, sent),
    };
    // An object nobody tracks stays so until it is applied.
    if managed.is_empty() && untouched.is_empty() && live.is_some() {
        return;
    }
    if let Ok(diff) = diff {
        managed = track(request, old, new, diff, managed);
    }
    entries::store(new, managed, untouched);
}

/// Applies a configuration: the new object, or why not. `live` is `None` if the object does not exist. The result
/// still has to be decoded, defaulted and validated by the caller; maps and lists that lost all items are null in it.
pub fn apply(request: &Request<'_>, live: Option<&Value>, applied: &Value, force: bool) -> Result<Value, ApplyError> {
    let text = |key: &str| applied.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != request.api_version || text("kind") != request.kind {
        return Err(ApplyError::BadRequest(format!("invalid object type: {}", validate::gvk(applied))));
    }
    if applied.pointer("/metadata/managedFields").is_some_and(|list| !list.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".into()));
    }
    let list = live.and_then(entries::of).map(Vec::as_slice).unwrap_or_default();
    let mut managed = entries::decode(list)
        .map_err(|error| ApplyError::Internal(format!("failed to decode managed fields: {error}")))?;
    if let (true, Some(live)) = (managed.is_empty(), live) {
        let before = Request { manager: BEFORE_FIRST_APPLY, ..*request };
        let zero = typed::zero(request.schema);
        let diff = difference(request.schema, request.reset, &zero, live)
            .map_err(|error| ApplyError::Internal(format!("failed to create manager for existing fields: {error}")))?;
        managed = track(&before, &zero, live, diff, managed);
    }
    validate::validate(request.schema, applied).map_err(|error| {
        let object = validate::describe(applied);
        ApplyError::Internal(format!("failed to create typed patch object ({object}): {error}"))
    })?;
    let empty = Value::Object(serde_json::Map::new());
    let old = live.unwrap_or(&empty);
    // Only kubectl gets a second chance.
    let again = (request.manager == "kubectl").then(|| managed.clone());
    let mut result = match attempt(request, old, applied, managed, force) {
        Ok(result) => result,
        Err(Refused::Error(error)) => return Err(ApplyError::Internal(error)),
        Err(Refused::Conflicts(conflicts)) => {
            // kubectl's own client-side apply may be overruled by its server-side apply.
            let allowed = again.as_ref().and_then(|_| last_applied::owned_fields(request, old));
            let left = match &allowed {
                None => conflicts,
                Some(allowed) => conflicts
                    .into_iter()
                    .filter_map(|(id, version, set)| {
                        let set = set.difference(allowed);
                        (!set.is_empty()).then_some((id, version, set))
                    })
                    .collect(),
            };
            if !left.is_empty() {
                return Err(ApplyError::Conflict(describe_conflicts(left)));
            }
            match attempt(request, old, applied, again.unwrap_or_default(), true) {
                Ok(result) => result,
                Err(Refused::Error(error)) => return Err(ApplyError::Internal(error)),
                Err(Refused::Conflicts(left)) => return Err(ApplyError::Conflict(describe_conflicts(left))),
            }
        }
    };
    if request.manager == "kubectl" {
        last_applied::refresh(&mut result, applied);
    }
    Ok(result)
}

/// A write that changed nothing but entries' times changed nothing: gives `new` the times of `live`.
pub fn keep_times_if_noop(live: &Value, new: &mut Value) {
    let (Some(old_list), Some(new_list)) = (entries::of(live), entries::of(new)) else { return };
    let timeless = |entry: &Value, other: &Value| match (entry.as_object(), other.as_object()) {
        (Some(a), Some(b)) => {
            let strip = |(key, _): &(&String, &Value)| *key != "time";
            a.iter().filter(strip).eq(b.iter().filter(strip))
        }
        _ => false,
    };
    if old_list == new_list
        || old_list.len() != new_list.len()
        || !old_list.iter().all(|old| new_list.iter().any(|new| timeless(old, new)))
        || !same_but_for_list(live, new)
    {
        return;
    }
    let old_list = old_list.clone();
    crate::value::object_entry(new, &["metadata"]).insert("managedFields".into(), Value::Array(old_list));
}

fn same_but_for_list(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
    a.len() == b.len()
        && a.iter().all(|(key, x)| match (b.get(key), x.as_object()) {
            (Some(Value::Object(y)), Some(x)) if key == "metadata" => {
                let strip = |(key, _): &(&String, &Value)| *key != "managedFields";
                x.iter().filter(strip).eq(y.iter().filter(strip))
            }
            (y, _) => y == Some(x),
        })
}

/// Which entries an update starts from: what the client sent if it is usable, else what is stored.
fn live_or_sent(request: &Request<'_>, live: Option<&Value>, sent: Option<Vec<Value>>) -> Vec<Entry> {
    let stored = || live.and_then(entries::of).and_then(|list| entries::decode(list).ok()).unwrap_or_default();
    let Some(sent) = sent.filter(|_| request.subresource.is_empty()) else { return stored() };
    if entries::is_reset(&sent) {
        return Vec::new();
    }
    match entries::decode_owned(sent) {
        Ok(managed) if !managed.is_empty() => managed,
        _ => stored(),
    }
}

fn take_list(object: &mut Value) -> Option<Vec<Value>> {
    match object.get_mut("metadata")?.as_object_mut()?.remove("managedFields") {
        Some(Value::Array(list)) => Some(list),
        _ => None,
    }
}

fn put_list(object: &mut Value, list: Option<Vec<Value>>) {
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        crate::value::object_entry(object, &["metadata"]).insert("managedFields".into(), list.into());
    }
}

/// An update by `request.manager` from `old` to `new`, which differ by `diff`. If another version cannot be compared,
/// nobody's ownership changes.
fn track(request: &Request<'_>, old: &Value, new: &Value, diff: Diff, managed: Vec<Entry>) -> Vec<Entry> {
    let mut managed = reconcile(request, old, managed);
    if diff.is_same() && managed.iter().all(|entry| entry.api_version == request.api_version) {
        return managed;
    }
    if take_over(request, old, new, &diff, &mut managed, None, true).is_err() {
        return managed;
    }
    let mut taken = diff.added.union(diff.modified);
    taken.subtract(never_owned());
    if !taken.is_empty() {
        let id = ManagerId::update(request.manager, request.api_version, request.subresource);
        match managed.iter_mut().find(|entry| entry.id == id) {
            Some(entry) => {
                let before = std::mem::take(entry.set_mut());
                entry.set = before.union(taken);
                entry.touch(request.now);
            }
            None => {
                let mut entry = Entry::new(id, request.api_version, taken, None);
                entry.touch(request.now);
                managed.push(entry);
            }
        }
    }
    entries::cap_updaters(&mut managed);
    managed
}

/// Why an apply did not go through.
enum Refused {
    Error(String),
    Conflicts(Vec<(ManagerId, String, FieldSet)>),
}

fn attempt(
    request: &Request<'_>,
    live: &Value,
    applied: &Value,
    managed: Vec<Entry>,
    force: bool,
) -> Result<Value, Refused> {
    let mut managed = reconcile(request, live, managed);
    let mut new = live.clone();
    take_list(&mut new);
    typed::merge(request.schema, &mut new, applied)
        .map_err(|error| Refused::Error(format!("failed to merge config: {error}")))?;
    let set = typed::field_set(request.schema, applied)
        .map_err(|error| Refused::Error(format!("failed to get field set: {error}")))?;
    let mut set = request.reset.keep(set);
    set.subtract(never_owned());
    let id = ManagerId::apply(request.manager, request.subresource);
    let last = match managed.iter_mut().find(|entry| entry.id == id) {
        Some(entry) if entry.set == set && entry.api_version == request.api_version => Some(entry.clone()),
        Some(entry) => {
            let time = entry.time.clone();
            Some(std::mem::replace(entry, Entry::new(id.clone(), request.api_version, set, time)))
        }
        None => {
            managed.push(Entry::new(id.clone(), request.api_version, set, None));
            None
        }
    };
    if let Some(last) = last.filter(|last| !last.set.is_empty()) {
        prune(request, &mut new, &managed, &last)
            .map_err(|error| Refused::Error(format!("failed to prune fields: {error}")))?;
    }
    let diff = difference(request.schema, request.reset, live, &new)
        .map_err(|error| Refused::Error(format!("failed to compare objects: {error}")))?;
    take_over(request, live, &new, &diff, &mut managed, Some(&id), force)?;
    if let Some(entry) = managed.iter_mut().find(|entry| entry.id == id) {
        if !diff.is_same() {
            entry.touch(request.now);
        }
    }
    managed.retain(|entry| !entry.set.is_empty());
    entries::store(&mut new, managed, Vec::new());
    Ok(new)
}

/// What a change from `old` to `new` takes away from everybody but `writer`.
fn take_over(
    request: &Request<'_>,
    old: &Value,
    new: &Value,
    diff: &Diff,
    managed: &mut Vec<Entry>,
    writer: Option<&ManagerId>,
    force: bool,
) -> Result<(), Refused> {
    let mut at_version: Vec<(String, Option<(FieldSet, FieldSet)>)> = Vec::new();
    let taken = diff.taken();
    let mut conflicts = Vec::new();
    let mut losses = Vec::with_capacity(managed.len());
    for entry in managed.iter() {
        if Some(&entry.id) == writer {
            losses.push(None);
            continue;
        }
        let (taken, removed) = if entry.api_version == request.api_version {
            (&taken, &diff.removed)
        } else {
            if !at_version.iter().any(|(version, _)| *version == entry.api_version) {
                let other = other_version(request, &entry.api_version, old, new).map_err(Refused::Error)?;
                at_version.push((entry.api_version.clone(), other));
            }
            let known = at_version.iter().find(|(version, _)| *version == entry.api_version);
            match known.and_then(|(_, sets)| sets.as_ref()) {
                Some((taken, removed)) => (taken, removed),
                // The version is gone, and with it what was owned there.
                None => {
                    losses.push(Some((entry.set.clone(), FieldSet::new())));
                    continue;
                }
            }
        };
        let conflict = entry.set.intersection(taken);
        let gone = if removed.is_empty() { FieldSet::new() } else { entry.set.intersection(removed) };
        if !conflict.is_empty() && !force {
            conflicts.push((entry.id.clone(), entry.api_version.clone(), conflict.clone()));
        }
        losses.push(Some((conflict, gone)));
    }
    if !conflicts.is_empty() {
        return Err(Refused::Conflicts(conflicts));
    }
    for (entry, loss) in managed.iter_mut().zip(losses) {
        if let Some((conflict, gone)) = loss {
            entry.subtract(&conflict);
            entry.subtract(&gone);
        }
    }
    managed.retain(|entry| !entry.set.is_empty() || Some(&entry.id) == writer);
    Ok(())
}

fn other_version(
    request: &Request<'_>,
    version: &str,
    old: &Value,
    new: &Value,
) -> Result<Option<(FieldSet, FieldSet)>, String> {
    let (Some((old, schema)), Some((new, _))) =
        (request.versions.convert(old, version), request.versions.convert(new, version))
    else {
        return Ok(None);
    };
    let diff = difference(&schema, request.versions.reset_fields(version), &old, &new)?;
    Ok(Some((diff.taken(), diff.removed)))
}

fn difference(schema: &Schema, reset: ResetFields<'_>, old: &Value, new: &Value) -> Result<Diff, String> {
    let diff = typed::compare(schema, old, new)?;
    Ok(if diff.is_same() { diff } else { diff.filter(|set| reset.keep(set)) })
}

/// Removes what the applier owned and no longer wants, unless somebody else owns it.
fn prune(request: &Request<'_>, merged: &mut Value, managed: &[Entry], last: &Entry) -> Result<(), String> {
    let owned_at = |version: &str| {
        let sets = managed.iter().filter(|entry| entry.api_version == version).map(|entry| entry.set.clone());
        sets.fold(FieldSet::new(), FieldSet::union)
    };
    let version = last.api_version.as_str();
    // The common case: everything applied last time is applied again.
    if last.set.is_subset(&owned_at(version)) {
        return Ok(());
    }
    let Some((at_last, schema)) = at_version(request, merged, version) else { return Ok(()) };
    let root = Some(schema.root());
    let last_set = last.set.with_named_fields(root);
    let mut pruned = at_last.clone().into_owned();
    typed::remove(&schema, &mut pruned, &last_set);
    // First the pruned version, then the others.
    let mut versions = vec![version];
    for entry in managed {
        if !versions.contains(&entry.api_version.as_str()) {
            versions.push(&entry.api_version);
        }
    }
    let mut pruned_version = version.to_owned();
    for other in versions {
        let owned = owned_at(other);
        if owned.is_empty() {
            continue;
        }
        let Some((full, schema)) = at_version(request, merged, other) else { continue };
        let Some((left, _)) = convert_from(request, &pruned, &pruned_version, other) else { continue };
        let root = Some(schema.root());
        let full_set = typed::field_set(&schema, &full)?.with_named_fields(root);
        let left_set = typed::field_set(&schema, &left)?.with_named_fields(root);
        let unwanted = full_set.difference(&left_set.union(owned.with_named_fields(root)));
        let mut next = full.into_owned();
        typed::remove(&schema, &mut next, &unwanted);
        pruned = next;
        pruned_version = other.to_owned();
    }
    // What else was swept away with a removed item, but was not the applier's, comes back.
    let Some((left, _)) = convert_from(request, &pruned, &pruned_version, version) else { return Ok(()) };
    let left_set = typed::field_set(&schema, &left)?.with_named_fields(root);
    let full_set = typed::field_set(&schema, &at_last)?.with_named_fields(root);
    let unwanted = full_set.difference(&left_set).intersection(&last_set);
    let mut result = at_last.into_owned();
    typed::remove(&schema, &mut result, &unwanted);
    if version != request.api_version {
        if let Some((converted, _)) = request.versions.convert(&result, request.api_version) {
            result = converted.into_owned();
        }
    }
    *merged = result;
    Ok(())
}

/// A value of the request's version, at `version`.
fn at_version<'v>(request: &Request<'_>, value: &'v Value, version: &str) -> Option<(Cow<'v, Value>, Schema)> {
    convert_from(request, value, request.api_version, version)
}

fn convert_from<'v>(request: &Request<'_>, value: &'v Value, from: &str, to: &str) -> Option<(Cow<'v, Value>, Schema)> {
    if to == request.api_version && from == to {
        return Some((Cow::Borrowed(value), request.schema.clone()));
    }
    request.versions.convert(value, to)
}

/// Brings stored sets in line with a schema in which some field has become atomic.
fn reconcile(request: &Request<'_>, live: &Value, mut managed: Vec<Entry>) -> Vec<Entry> {
    for entry in &mut managed {
        if entry.api_version == request.api_version {
            entry.collapse_atomic(request.schema.root());
        } else if let Some((_, schema)) = request.versions.convert(live, &entry.api_version) {
            entry.collapse_atomic(schema.root());
        }
    }
    managed
}

/// Identity and system metadata are nobody's.
fn never_owned() -> &'static FieldSet {
    static SET: OnceLock<FieldSet> = OnceLock::new();
    SET.get_or_init(|| {
        FieldSet::of_fields(&[
            &["apiVersion"],
            &["kind"],
            &["metadata"],
            &["metadata", "name"],
            &["metadata", "namespace"],
            &["metadata", "creationTimestamp"],
            &["metadata", "selfLink"],
            &["metadata", "uid"],
            &["metadata", "clusterName"],
            &["metadata", "generation"],
            &["metadata", "managedFields"],
            &["metadata", "resourceVersion"],
        ])
    })
}

fn describe_conflicts(mut conflicts: Vec<(ManagerId, String, FieldSet)>) -> Conflicts {
    conflicts.sort_by_cached_key(|(id, _, _)| id.sort_key());
    let mut causes = Vec::new();
    let mut blocks = Vec::new();
    for (id, version, set) in &conflicts {
        let mut who = quote(&id.manager);
        if !id.subresource.is_empty() {
            who.push_str(&format!(" with subresource {}", quote(&id.subresource)));
        }
        if !id.applied {
            who.push_str(&format!(" using {version}"));
        }
        let paths = set.paths();
        blocks.push(format!("conflicts with {who}:\n- {}", paths.join("\n- ")));
        causes.extend(paths.into_iter().map(|field| ConflictCause { message: format!("conflict with {who}"), field }));
    }
    let message = match &causes[..] {
        [only] => format!("Apply failed with 1 conflict: {}: {}", only.message, only.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), blocks.join("\n")),
    };
    Conflicts { message, causes }
}
