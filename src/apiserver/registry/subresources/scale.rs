//! `scale`: the replicas of a workload, and nothing else of it.

use ::http::Response;
use apimachinery::gvk::GroupKind;
use apimachinery::labels::Selector;
use apimachinery::managedfields::scale as ownership;
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::{Value, json};

use super::super::options::WriteOptions;
use super::super::patch::{self, PatchType};
use super::super::update::{self, Change};
use super::super::{Cx, codec, get, meta};
use crate::Body;
use crate::apiextensions::scale as custom_scale;
use crate::wire::respond;

/// Where the workloads keep their replicas.
const REPLICAS: ownership::ReplicasPaths<'static> =
    &[("apps/v1", &["spec", "replicas"]), ("v1", &["spec", "replicas"])];

/// Calls `with` with where this resource keeps its replicas, in each version.
fn with_replicas<T>(cx: &Cx, with: impl FnOnce(ownership::ReplicasPaths<'_>) -> T) -> T {
    let Some(custom) = cx.custom() else { return with(REPLICAS) };
    let owned = custom_scale::replicas_paths(&custom.definition);
    let paths: Vec<(&str, Vec<&str>)> =
        owned.iter().map(|(version, path)| (version.as_str(), path.iter().map(String::as_str).collect())).collect();
    let paths: Vec<(&str, &[&str])> = paths.iter().map(|(version, path)| (*version, path.as_slice())).collect();
    with(&paths)
}

pub async fn handle(cx: &Cx, body: Bytes) -> Result<Response<Body>, Status> {
    if cx.info.verb == "get" {
        let parent = get::read(cx, &cx.info.name).await?;
        return show(cx, &cx.served_value(&parent));
    }
    let patching = cx.info.verb == "patch";
    let kind = codec::body_kind("autoscaling", "v1", "Scale")?;
    let patch_type = PatchType::of(&cx.headers).filter(|_| patching);
    let apply = patch_type == Some(PatchType::Apply);
    let options = WriteOptions::parse(cx, if patching { "PatchOptions" } else { "UpdateOptions" }, apply)?;
    let sent = match patch_type {
        None => Some(codec::decode_as(cx, &kind, &body, options.validation)?),
        Some(PatchType::Apply) => Some(codec::decode_applied(cx, &body, options.validation)?),
        Some(_) => None,
    };
    if let (Some(sent), false) = (&sent, apply) {
        update::check_name(cx, sent)?;
    }
    let uid = sent.as_ref().map(|sent| meta::text(sent, "uid").to_owned()).filter(|uid| !uid.is_empty());
    let make = |old: Option<&Value>| {
        let Some(parent) = old else { return Err(cx.not_found(&cx.info.name)) };
        let live = of_parent(cx, parent, true)?;
        let mut scale = match (&sent, patch_type) {
            (Some(config), Some(_)) => codec::apply_as(cx, &kind, Some(&live), config, &options)?,
            (Some(sent), None) => sent.clone(),
            (None, kind_of_patch) => {
                let patch_type = kind_of_patch.unwrap_or(PatchType::Merge);
                patch::patched_as(cx, &kind, patch_type, &live, &body, &options)?
            }
        };
        update::check_name(cx, &scale)?;
        meta::match_namespace(cx, &mut scale)?;
        if !apply {
            codec::manage_as(cx, &kind, Some(&live), &mut scale, &options)?;
        }
        let errors = match cx.custom() {
            // The object's own validation says what is wrong with its numbers.
            Some(_) => apimachinery::validation::ErrorList::new(),
            None => kind.strategy.validate(&cx.strategy_cx(), &scale),
        };
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new("autoscaling", "Scale"), meta::text(&scale, "name"), &errors));
        }
        into_parent(cx, parent, &scale)
    };
    let change = Change {
        options: &options,
        uid_precondition: uid,
        may_create: false,
        retry_conflicts: if patching { patch::RETRIES } else { 0 },
        make: &make,
    };
    let changed = update::apply(cx, &change).await?;
    show(cx, &changed.object)
}

/// Who owns the replicas is shown by the parent alone.
fn show(cx: &Cx, parent: &Value) -> Result<Response<Body>, Status> {
    let mut scale = of_parent(cx, parent, false)?;
    meta::of(&mut scale).remove("managedFields");
    let json = match &cx.accepted.transform {
        None => respond::encode(&scale),
        Some(transform) => {
            let kind = codec::body_kind("autoscaling", "v1", "Scale")?;
            cx.transformed_as(&kind, transform, &scale, &mut true)?
        }
    };
    Ok(cx.show_plain(200, json))
}

/// `writing`: the scale is for changing, and an object without replicas is no error.
fn of_parent(cx: &Cx, parent: &Value, writing: bool) -> Result<Value, Status> {
    if let Some(paths) = cx.custom().and_then(|custom| custom.version.scale.as_ref()) {
        let mut scale = custom_scale::of_object(parent, paths, writing)?;
        add_owners(cx, parent, meta::of(&mut scale))?;
        return Ok(scale);
    }
    let selector = &parent["spec"]["selector"];
    let selector = if cx.kind.group.is_empty() {
        let labels = selector.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)));
        Selector::from_set(labels).to_string()
    } else {
        Selector::from_label_selector(selector).map_err(Status::unknown)?.to_string()
    };
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = parent["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    add_owners(cx, parent, &mut metadata)?;
    let mut spec = json!({});
    if let Some(replicas) = parent["spec"]["replicas"].as_i64().filter(|replicas| *replicas != 0) {
        spec["replicas"] = json!(replicas);
    }
    let mut status = json!({"replicas": parent["status"]["replicas"].as_i64().unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}))
}

fn add_owners(cx: &Cx, parent: &Value, metadata: &mut serde_json::Map<String, Value>) -> Result<(), Status> {
    let Some(list) = parent["metadata"]["managedFields"].as_array() else { return Ok(()) };
    let owners = with_replicas(cx, |paths| ownership::to_subresource(list, paths)).map_err(Status::unknown)?;
    if !owners.is_empty() {
        metadata.insert("managedFields".into(), Value::Array(owners));
    }
    Ok(())
}

fn into_parent(cx: &Cx, parent: &Value, scale: &Value) -> Result<Value, Status> {
    let mut object = parent.clone();
    let custom = cx.custom().and_then(|custom| custom.version.scale.as_ref());
    match custom {
        Some(paths) => custom_scale::into_object(&mut object, paths, scale)?,
        None => {
            let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            apimachinery::value::set(&mut object, &["spec", "replicas"], replicas);
        }
    }
    let version = meta::text(scale, "resourceVersion");
    let metadata = meta::of(&mut object);
    // A scale without a version changes whatever version there is.
    if version.is_empty() && custom.is_some() {
        // The version of the object that was read stays.
    } else if version.is_empty() {
        metadata.remove("resourceVersion");
    } else {
        metadata.insert("resourceVersion".into(), json!(version));
    }
    let none = Vec::new();
    let of_parent = parent["metadata"]["managedFields"].as_array().unwrap_or(&none);
    let of_scale = scale["metadata"]["managedFields"].as_array().unwrap_or(&none);
    let owners = with_replicas(cx, |paths| ownership::to_parent(of_parent, of_scale, &cx.kind.api_version(), paths))
        .map_err(Status::unknown)?;
    if owners.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), Value::Array(owners));
    }
    Ok(object)
}
