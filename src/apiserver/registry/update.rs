//! UPDATE, and the read-modify-write loop that every change of an existing object goes through.

use std::sync::Arc;

use ::http::Response;
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, Path};
use bytes::Bytes;
use serde_json::{Value, json};

use super::admit::{Admission, Operation};
use super::options::WriteOptions;
use super::{Cx, Written, codec, conversion, create, meta};
use crate::Body;
use crate::cache::Object;

/// A loser of this many races in a row gives up.
const TRIES: usize = 64;

pub async fn update(cx: &Cx, body: Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(cx, "UpdateOptions", false)?;
    let mut sent = codec::decode(cx, &body, options.validation)?;
    check_name(cx, &sent)?;
    meta::match_namespace(cx, &mut sent)?;
    let uid = meta::text(&sent, "uid").to_owned();
    let change = Change {
        options: &options,
        uid_precondition: (!uid.is_empty()).then_some(uid),
        may_create: cx.kind.strategy.allow_create_on_update(),
        retry_conflicts: 0,
        make: &|old| {
            let mut object = sent.clone();
            if old.is_none() {
                meta::wipe_system_fields(&mut object);
            }
            meta::dedup_owners(cx, &mut object, false);
            codec::manage(cx, old, &mut object, &options)?;
            Ok(object)
        },
    };
    apply(cx, &change).await?.respond(cx)
}

/// The name in the body must be the one of the path, or absent.
///
/// # Errors
/// 400 when it differs.
pub fn check_name(cx: &Cx, object: &Value) -> Result<(), Status> {
    let name = meta::text(object, "name");
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            cx.info.name
        )));
    }
    if name != cx.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            cx.info.name
        )));
    }
    Ok(())
}

/// A change to one object.
pub struct Change<'a> {
    pub options: &'a WriteOptions,
    pub uid_precondition: Option<String>,
    /// The change makes the object when there is none.
    pub may_create: bool,
    /// How often a conflict of versions is tried again (patches).
    pub retry_conflicts: usize,
    /// The new object (of the request's version, with managed fields) from the old one.
    pub make: &'a (dyn Fn(Option<&Value>) -> Result<Value, Status> + Send + Sync),
}

/// What a change came to: the object in the request's version.
pub struct Changed {
    pub object: Value,
    pub created: bool,
}

impl Changed {
    pub fn respond(&self, cx: &Cx) -> Result<Response<Body>, Status> {
        cx.show_value(if self.created { 201 } else { 200 }, &self.object)
    }
}

pub async fn apply(cx: &Cx, change: &Change<'_>) -> Result<Changed, Status> {
    let name = &cx.info.name;
    let key = cx.key(name);
    let mut current = cx.current(&key).await;
    let mut conflicts = 0;
    for _ in 0..TRIES {
        let Some(old) = current.clone() else {
            if !change.may_create {
                return Err(cx.not_found(name));
            }
            if let Some(uid) = &change.uid_precondition {
                return Err(uid_conflict(cx, name, uid, ""));
            }
            let mut object = (change.make)(None)?;
            meta::of(&mut object).remove("resourceVersion");
            match create::store_new(cx, object, change.options).await {
                // Somebody made it meanwhile: change that one.
                Err(status) if status.reason == "AlreadyExists" && conflicts < TRIES => {
                    conflicts += 1;
                    current = cx.current(&key).await;
                    if current.is_none() {
                        return Err(status);
                    }
                    continue;
                }
                outcome => return Ok(Changed { object: outcome?, created: true }),
            }
        };
        match attempt(cx, change, &key, &old).await {
            Ok(Outcome::Done(object)) => return Ok(Changed { object, created: false }),
            Ok(Outcome::Lost(found)) => current = found,
            Err(status) if status.reason == "Conflict" && conflicts < change.retry_conflicts => {
                conflicts += 1;
                let newer = cx.current(&key).await;
                if newer.as_ref().map(|object| object.revision) == Some(old.revision) {
                    return Err(status);
                }
                current = newer;
            }
            Err(status) => return Err(status),
        }
    }
    Err(Status::server_timeout(&cx.group_resource(), "update", 1))
}

enum Outcome {
    Done(Value),
    Lost(super::Current),
}

async fn attempt(cx: &Cx, change: &Change<'_>, key: &Bytes, old: &Arc<Object>) -> Result<Outcome, Status> {
    let name = &cx.info.name;
    if let Some(uid) = &change.uid_precondition {
        if *uid != old.meta.uid {
            return Err(uid_conflict(cx, name, uid, &old.meta.uid));
        }
    }
    conversion::prepare(cx, std::slice::from_ref(old)).await?;
    let old_value = cx.served_value(old);
    let mut object = (change.make)(Some(&old_value))?;
    let admission = Admission::new(cx, Operation::Update, name, change.options.dry_run);
    admission.mutate(&mut object, Some(&old_value)).await?;
    meta::dedup_owners(cx, &mut object, true);
    check_version(cx, &mut object, old)?;
    let numbers = create::reserve(cx, &mut object, Some(&old_value), change.options.dry_run)?;
    prepare_and_validate(cx, &mut object, &old_value)?;
    apimachinery::managedfields::keep_times_if_noop(&old_value, &mut object);
    admission.validate(&object, Some(&old_value)).await?;
    let outcome = finish(cx, key, old, object, change.options.dry_run).await?;
    if let (Outcome::Done(object), false) = (&outcome, change.options.dry_run) {
        numbers.commit();
        let strategy = &cx.kind.strategy;
        cx.server.services.free(&strategy.claims(&old_value), &strategy.claims(object));
    }
    Ok(outcome)
}

/// Stores the changed object, or deletes it when the change removed the last thing that kept it.
async fn finish(cx: &Cx, key: &Bytes, old: &Object, mut object: Value, dry_run: bool) -> Result<Outcome, Status> {
    let gone = deletes(cx, &object, old);
    if dry_run {
        return Ok(Outcome::Done(object));
    }
    if gone {
        return Ok(match cx.remove(old).await? {
            Written::Done(_) => {
                cx.released(&cx.served_value(old));
                Outcome::Done(object)
            }
            Written::Lost(found) => Outcome::Lost(found),
        });
    }
    let mut stored = object.clone();
    conversion::to_storage(cx, &mut stored).await?;
    match cx.put(key, &stored, Some(old)).await? {
        Written::Done(written) => {
            let revision = written.revision.to_string();
            conversion::as_stored(cx, &mut object, stored);
            meta::of(&mut object).insert("resourceVersion".into(), revision.into());
            Ok(Outcome::Done(object))
        }
        Written::Lost(found) => Ok(Outcome::Lost(found)),
    }
}

/// An object that is being deleted goes with its last finalizer (and a namespace's own).
pub fn deletes(cx: &Cx, object: &Value, old: &Object) -> bool {
    let none = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    if old.meta.deletion_timestamp.is_none() || !none(&object["metadata"]["finalizers"]) {
        return false;
    }
    if cx.kind.strategy.deletion_blocked(object) {
        return false;
    }
    let grace = cx.served_value(old)["metadata"]["deletionGracePeriodSeconds"].as_i64();
    grace.unwrap_or(0) == 0
}

fn uid_conflict(cx: &Cx, name: &str, wanted: &str, found: &str) -> Status {
    let key = cx.key(name);
    let key = String::from_utf8_lossy(&key);
    Status::conflict(
        &cx.group_resource(),
        name,
        format_args!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        ),
    )
}

/// The version the object was made from must be the stored one.
fn check_version(cx: &Cx, object: &mut Value, old: &Object) -> Result<(), Status> {
    let version = meta::resource_version(object)?;
    if version == 0 {
        if !cx.kind.strategy.allow_unconditional_update() {
            let mut errors = ErrorList::new();
            errors.invalid(Path::new("metadata").child("resourceVersion"), 0, "must be specified for an update");
            let kind = GroupKind::new(cx.kind.group.as_ref(), cx.kind.plural.as_ref());
            return Err(Status::invalid(&kind, &cx.info.name, &errors));
        }
    } else if i64::try_from(version) != Ok(old.revision) {
        return Err(Status::optimistic_lock(&cx.group_resource(), &cx.info.name));
    }
    meta::of(object).insert("resourceVersion".into(), json!(old.revision.to_string()));
    Ok(())
}

/// The strategy's part of an update.
pub fn prepare_and_validate(cx: &Cx, object: &mut Value, old: &Value) -> Result<(), Status> {
    meta::match_namespace(cx, object)?;
    let strategy_cx = cx.strategy_cx();
    let strategy = &cx.kind.strategy;
    let old_meta = old["metadata"].clone();
    let metadata = meta::of(object);
    let mut keep = |field: &str, force: bool| {
        let old = &old_meta[field];
        if force || metadata.get(field).is_none_or(Value::is_null) || metadata[field] == "" {
            if old.is_null() {
                metadata.remove(field);
            } else {
                metadata.insert(field.to_owned(), old.clone());
            }
        }
    };
    keep("generation", true);
    keep("uid", false);
    keep("creationTimestamp", true);
    if !old_meta["deletionTimestamp"].is_null() {
        keep("deletionTimestamp", true);
    }
    keep("deletionGracePeriodSeconds", false);
    if let Some(custom) = cx.custom() {
        custom.check_type(object)?;
    }
    strategy.prepare_for_update(&strategy_cx, object, old);
    let mut errors = meta::validate_update(cx, object, old);
    errors.extend(strategy.validate_update(&strategy_cx, object, old));
    if !errors.is_empty() {
        return Err(Status::invalid(&cx.group_kind(), meta::text(object, "name"), &errors));
    }
    for warning in strategy.warnings(&strategy_cx, object, Some(old)) {
        cx.warn(warning);
    }
    Ok(())
}
