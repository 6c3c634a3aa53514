//! CREATE.

use ::http::Response;
use api::AllocationError;
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;

use super::admit::{self, Operation};
use super::options::WriteOptions;
use super::{Cx, Written, codec, conversion, meta};
use crate::Body;
use crate::alloc::Transaction;

/// How often a generated name is tried again when it is taken.
const NAME_TRIES: usize = 8;

pub async fn create(cx: &Cx, body: Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(cx, "CreateOptions", false)?;
    let mut object = codec::decode(cx, &body, options.validation)?;
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(Status::unknown("resourceVersion should not be set on objects to be created"));
    }
    meta::wipe_system_fields(&mut object);
    meta::match_namespace(cx, &mut object)?;
    meta::dedup_owners(cx, &mut object, false);
    codec::manage(cx, None, &mut object, &options)?;
    let stored = store_new(cx, object, &options).await?;
    cx.show_value(201, &stored)
}

/// From the decoded object with its managed fields to the stored one, as the request's version shows it.
pub async fn store_new(cx: &Cx, object: Value, options: &WriteOptions) -> Result<Value, Status> {
    let mut tries = 0;
    loop {
        let generated = meta::text(&object, "name").is_empty() && !meta::text(&object, "generateName").is_empty();
        match attempt(cx, object.clone(), options).await {
            Err(status) if generated && status.reason == "AlreadyExists" && tries + 1 < NAME_TRIES => tries += 1,
            Err(status) if generated && status.reason == "AlreadyExists" => {
                let name = status.details.map(|details| details.name).unwrap_or_default();
                return Err(Status::generate_name_conflict(&cx.group_resource(), &name, 1));
            }
            outcome => return outcome,
        }
    }
}

async fn attempt(cx: &Cx, mut object: Value, options: &WriteOptions) -> Result<Value, Status> {
    for warning in cx.kind.strategy.early_warnings(&cx.strategy_cx(), &object) {
        cx.warn(warning);
    }
    if cx.custom().is_some_and(|custom| custom.definition.terminating) {
        let text = "create not allowed while custom resource definition is terminating";
        return Err(Status::forbidden(&cx.group_resource(), meta::text(&object, "name"), text));
    }
    let name = meta::text(&object, "name").to_owned();
    let admission = admit::Admission::new(cx, Operation::Create, &name, options.dry_run);
    if name.is_empty() && !meta::text(&object, "generateName").is_empty() {
        let generated = meta::generate_name(meta::text(&object, "generateName"));
        meta::of(&mut object).insert("name".into(), generated.into());
    }
    admission.mutate(&mut object, None).await?;
    meta::dedup_owners(cx, &mut object, true);
    meta::fill_system_fields(&mut object, cx.now());
    let numbers = reserve(cx, &mut object, None, options.dry_run)?;
    prepare_and_validate(cx, &mut object)?;
    admission.validate(&object, None).await?;
    let name = meta::text(&object, "name").to_owned();
    let key = cx.key(&name);
    let mut stored = object.clone();
    conversion::to_storage(cx, &mut stored).await?;
    if options.dry_run {
        let existing = cx.current(&key).await;
        return match existing {
            Some(existing) => Err(taken(cx, &name, &existing)),
            None => Ok(object),
        };
    }
    match cx.put(&key, &stored, None).await? {
        Written::Done(written) => {
            numbers.commit();
            let revision = written.revision.to_string();
            conversion::as_stored(cx, &mut object, stored);
            meta::of(&mut object).insert("resourceVersion".into(), revision.into());
            Ok(object)
        }
        Written::Lost(Some(existing)) => Err(taken(cx, &name, &existing)),
        Written::Lost(None) => Err(Status::server_timeout(&cx.group_resource(), "create", 1)),
    }
}

/// What the object takes of the cluster's shared numbers. Dropped, it is given back.
///
/// # Errors
/// 422 for what cannot be had, 500 when nothing is left.
pub fn reserve(cx: &Cx, object: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Transaction, Status> {
    let mut numbers = cx.server.services.begin(dry_run);
    if cx.info.subresource.is_empty() {
        cx.kind.strategy.allocate(object, old, &mut numbers).map_err(|error| match error {
            AllocationError::Invalid(errors) => Status::invalid(&cx.group_kind(), meta::text(object, "name"), &errors),
            AllocationError::Internal(text) => Status::internal(text),
        })?;
    }
    Ok(numbers)
}

/// The strategy's part of a create.
pub fn prepare_and_validate(cx: &Cx, object: &mut Value) -> Result<(), Status> {
    let strategy_cx = cx.strategy_cx();
    let strategy = &cx.kind.strategy;
    if let Some(custom) = cx.custom() {
        custom.check_type(object)?;
    }
    strategy.prepare_for_create(&strategy_cx, object);
    let mut errors = meta::validate_new(cx, object);
    errors.extend(strategy.validate(&strategy_cx, object));
    if !errors.is_empty() {
        return Err(Status::invalid(&cx.group_kind(), meta::text(object, "name"), &errors));
    }
    for warning in strategy.warnings(&strategy_cx, object, None) {
        cx.warn(warning);
    }
    strategy.default_stored(object);
    Ok(())
}

fn taken(cx: &Cx, name: &str, existing: &crate::Object) -> Status {
    if existing.meta.deletion_timestamp.is_some() {
        Status::object_being_deleted(&cx.group_resource(), name)
    } else {
        Status::already_exists(&cx.group_resource(), name)
    }
}
