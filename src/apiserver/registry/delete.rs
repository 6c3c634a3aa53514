//! DELETE: preconditions, grace, finalizers.
//!
//! Invariants:
//! - DL-1: an object with finalizers, or with grace left, is marked and stays; nothing else stays.
//! - DL-2: a deletion under way can only be shortened.

use std::sync::Arc;

use ::http::Response;
use apimachinery::gvk::GroupResource;
use apimachinery::status::{Details, Status};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::admit::Admission;
use super::options::{DeleteOptions, Propagation};
use super::{Cx, Written, conversion, meta};
use crate::{Body, Object};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const TRIES: usize = 64;

/// Resources that have no dependents to care for.
const NO_DEPENDENTS: &[&str] = &["events"];

pub async fn delete(cx: &Cx, body: Bytes) -> Result<Response<Body>, Status> {
    let options = DeleteOptions::parse(cx, &body)?;
    for warning in cx.kind.strategy.delete_warnings(options.policy()) {
        cx.warn(warning);
    }
    let name = cx.info.name.clone();
    let deleted = delete_named(cx, &name, &options).await?;
    let accepted = !deleted.gone && options.orphan_dependents == Some(false);
    let code = if accepted { 202 } else { 200 };
    match deleted.shown {
        Shown::Object(object) => cx.show_value(code, &object),
        Shown::Status(status) => Ok(cx.show_plain(code, status.to_json().into())),
    }
}

pub enum Shown {
    Object(Value),
    Status(Status),
}

pub struct Deleted {
    /// It is out of the store.
    pub gone: bool,
    pub shown: Shown,
}

/// Deletes one object of the request's namespace, or begins to.
pub async fn delete_named(cx: &Cx, name: &str, options: &DeleteOptions) -> Result<Deleted, Status> {
    let key = cx.key(name);
    let mut options = options.clone();
    // Deleting with a negative grace is deleting with the shortest.
    options.grace_period = options.grace_period.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let admission = Admission::of_deletion(cx, name, &options);
    admission.mutate_delete().await?;
    let mut current = cx.current(&key).await;
    for _ in 0..TRIES {
        let Some(object) = current else { return Err(cx.not_found(name)) };
        conversion::prepare(cx, std::slice::from_ref(&object)).await?;
        let value = cx.served_value(&object);
        check_preconditions(cx, &object, &options)?;
        admission.validate_delete(&value).await?;
        match attempt(cx, &key, &object, value, &options).await? {
            Attempt::Done(deleted) => return Ok(deleted),
            Attempt::Lost(found) => current = found,
        }
    }
    Err(Status::server_timeout(&cx.group_resource(), "delete", 1))
}

pub fn check_preconditions(cx: &Cx, object: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let resource = GroupResource::new(cx.kind.group.as_ref(), cx.kind.kind.as_ref());
    let conflict = |text: String| Status::conflict(&resource, &object.meta.name, text);
    if let Some(uid) = options.uid.as_ref().filter(|uid| **uid != object.meta.uid) {
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            object.meta.uid
        )));
    }
    let revision = object.revision.to_string();
    if let Some(version) = options.resource_version.as_ref().filter(|version| **version != revision) {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({revision}). The object might have been modified"
        )));
    }
    Ok(())
}

enum Attempt {
    Done(Deleted),
    Lost(super::Current),
}

/// What grace does to a deletion.
enum Grace {
    /// This kind, or this object, knows none.
    None,
    /// Marked with so many seconds.
    Marked(i64),
    /// A deletion with no more than the asked-for grace is under way.
    Pending,
}

async fn attempt(
    cx: &Cx,
    key: &Bytes,
    old: &Arc<Object>,
    value: Value,
    options: &DeleteOptions,
) -> Result<Attempt, Status> {
    if cx.kind.storage_key == "namespaces" {
        if let Some(outcome) = begin_namespace(cx, key, old, &value, options).await? {
            return Ok(outcome);
        }
    }
    if cx.kind.storage_key == api::apiextensions::customresourcedefinition::STORAGE_KEY {
        if let Some(outcome) = begin_definition(cx, key, old, &value, options).await? {
            return Ok(outcome);
        }
    }
    let mut marked = value.clone();
    let grace = mark_graceful(cx, &mut marked, options);
    if matches!(grace, Grace::Pending) {
        return Ok(Attempt::Done(Deleted { gone: false, shown: finished(cx, old, value) }));
    }
    set_finalizers(cx, &mut marked, options);
    let pending = !meta_list(&marked, "finalizers").is_empty();
    if pending && matches!(grace, Grace::None) {
        mark_deleting(&mut marked, cx.now());
    }
    let stays = pending || matches!(grace, Grace::Marked(seconds) if seconds > 0);
    let marks = pending || matches!(grace, Grace::Marked(_));
    if options.dry_run {
        let shown = if stays { Shown::Object(marked) } else { finished(cx, old, if marks { marked } else { value }) };
        return Ok(Attempt::Done(Deleted { gone: !stays, shown }));
    }
    let mut last = old.clone();
    if marks {
        let mut stored = marked.clone();
        conversion::to_storage(cx, &mut stored).await?;
        match cx.put(key, &stored, Some(old)).await? {
            Written::Done(written) => last = written,
            Written::Lost(found) => return Ok(Attempt::Lost(found)),
        }
        meta::of(&mut marked).insert("resourceVersion".into(), json!(last.revision.to_string()));
        if stays {
            return Ok(Attempt::Done(Deleted { gone: false, shown: Shown::Object(marked) }));
        }
    }
    match cx.remove(&last).await? {
        Written::Done(gone) => {
            cx.released(&gone.value());
            let shown = finished(cx, &gone, cx.served_value(&gone));
            Ok(Attempt::Done(Deleted { gone: true, shown }))
        }
        // Who deletes without grace races the kubelet: gone is gone.
        Written::Lost(None) if marks => Ok(Attempt::Done(Deleted { gone: true, shown: finished(cx, &last, marked) })),
        Written::Lost(found) => Ok(Attempt::Lost(found)),
    }
}

/// What a finished deletion answers: the object or a Status that names it.
fn finished(cx: &Cx, object: &Object, value: Value) -> Shown {
    if cx.kind.strategy.returns_deleted_object() {
        return Shown::Object(value);
    }
    Shown::Status(Status::success(Some(Details {
        name: object.meta.name.clone(),
        group: cx.kind.group.to_string(),
        kind: cx.kind.plural.to_string(),
        uid: object.meta.uid.clone(),
        ..Details::default()
    })))
}

fn mark_graceful(cx: &Cx, object: &mut Value, options: &DeleteOptions) -> Grace {
    let strategy = &cx.kind.strategy;
    let Some(wanted) = strategy.grace_period(object, options.grace_period) else { return Grace::None };
    let wanted = wanted.max(0);
    let metadata = &object["metadata"];
    if let Some(deletion) = metadata["deletionTimestamp"].as_str().map(str::to_owned) {
        let left = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if left == 0 {
            return Grace::None;
        }
        let Some(period) = options.grace_period.filter(|period| *period < left) else { return Grace::Pending };
        let metadata = meta::of(object);
        if let Ok(deletion) = deletion.parse::<Timestamp>() {
            let earlier = deletion.saturating_sub(SignedDuration::from_secs(left - period));
            metadata.insert("deletionTimestamp".into(), json!(meta::timestamp(earlier.unwrap_or(deletion))));
        }
        metadata.insert("deletionGracePeriodSeconds".into(), json!(period));
        return Grace::Marked(period);
    }
    let now = cx.now();
    let end = now.saturating_add(SignedDuration::from_secs(wanted)).unwrap_or(now);
    bump_generation(object);
    let metadata = meta::of(object);
    metadata.insert("deletionTimestamp".into(), json!(meta::timestamp(end)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(wanted));
    Grace::Marked(wanted)
}

/// Marks an object that only its finalizers keep.
fn mark_deleting(object: &mut Value, now: Timestamp) {
    let known = object["metadata"]["deletionTimestamp"].as_str().map(str::to_owned);
    if known.is_none() {
        bump_generation(object);
    }
    let later = known.as_deref().and_then(|text| text.parse::<Timestamp>().ok()).is_none_or(|known| known > now);
    let metadata = meta::of(object);
    if known.is_none() || later {
        metadata.insert("deletionTimestamp".into(), json!(meta::timestamp(now)));
    }
    metadata.insert("deletionGracePeriodSeconds".into(), json!(0));
}

fn bump_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|generation| *generation > 0) {
        meta::of(object).insert("generation".into(), json!(generation + 1));
    }
}

fn meta_list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object["metadata"][field].as_array().map_or(&[], Vec::as_slice)
}

/// Puts the garbage collector's finalizers in or out, as the options, the finalizers that are there, or the resource's
/// default say. True: they changed.
fn set_finalizers(cx: &Cx, object: &mut Value, options: &DeleteOptions) -> bool {
    let old = meta_list(object, "finalizers");
    let has = |name: &str| old.iter().any(|finalizer| finalizer == name);
    let supported = !NO_DEPENDENTS.contains(&cx.kind.plural.as_ref());
    let by_default = cx.kind.strategy.orphans_by_default();
    let orphan = supported
        && match (options.orphan_dependents, options.propagation) {
            (Some(orphan), _) => orphan,
            (None, Some(policy)) => policy == Propagation::Orphan,
            (None, None) => has(ORPHAN) || (by_default && !has(FOREGROUND)),
        };
    let foreground = supported
        && match (options.orphan_dependents, options.propagation) {
            (Some(_), _) => false,
            (None, Some(policy)) => policy == Propagation::Foreground,
            (None, None) => has(FOREGROUND) && !has(ORPHAN),
        };
    if (orphan, foreground) == (has(ORPHAN), has(FOREGROUND)) {
        return false;
    }
    let mut new: Vec<Value> = old.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        new.push(json!(ORPHAN));
    }
    if foreground {
        new.push(json!(FOREGROUND));
    }
    let metadata = meta::of(object);
    if new.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), Value::Array(new));
    }
    true
}

/// A namespace goes in two steps: the first deletion turns it Terminating; it goes for good only when its content is
/// gone, which the namespace controller says by taking its finalizer away. `None`: go on as for any object.
async fn begin_namespace(
    cx: &Cx,
    key: &Bytes,
    old: &Arc<Object>,
    value: &Value,
    options: &DeleteOptions,
) -> Result<Option<Attempt>, Status> {
    if old.meta.deletion_timestamp.is_some() {
        return Ok(cx
            .kind
            .strategy
            .deletion_blocked(value)
            .then(|| Attempt::Done(Deleted { gone: false, shown: Shown::Object(value.clone()) })));
    }
    let mut marked = value.clone();
    meta::of(&mut marked).insert("deletionTimestamp".into(), json!(meta::timestamp(cx.now())));
    cx.kind.strategy.mark_deleting(&mut marked);
    set_finalizers(cx, &mut marked, options);
    if options.dry_run {
        return Ok(Some(Attempt::Done(Deleted { gone: false, shown: Shown::Object(marked) })));
    }
    match cx.put(key, &marked, Some(old)).await? {
        Written::Done(written) => {
            let shown = Shown::Object(cx.served_value(&written));
            Ok(Some(Attempt::Done(Deleted { gone: false, shown })))
        }
        Written::Lost(found) => Ok(Some(Attempt::Lost(found))),
    }
}

/// The first deletion of a CustomResourceDefinition gives it the finalizer that takes its custom resources along.
async fn begin_definition(
    cx: &Cx,
    key: &Bytes,
    old: &Arc<Object>,
    value: &Value,
    options: &DeleteOptions,
) -> Result<Option<Attempt>, Status> {
    if old.meta.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let mut marked = value.clone();
    api::apiextensions::conditions::mark_deleting(&mut marked, &meta::timestamp(cx.now()));
    if options.dry_run {
        return Ok(Some(Attempt::Done(Deleted { gone: false, shown: Shown::Object(marked) })));
    }
    match cx.put(key, &marked, Some(old)).await? {
        Written::Done(written) => {
            let shown = Shown::Object(cx.served_value(&written));
            Ok(Some(Attempt::Done(Deleted { gone: false, shown })))
        }
        Written::Lost(found) => Ok(Some(Attempt::Lost(found))),
    }
}
