//! `pods/binding`: the scheduler's word on where a pod runs.
//!
//! Invariants:
//! - BI-1: a pod is bound once.

use ::http::Response;
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use serde_json::{Value, json};

use super::super::admit::{Admission, Operation};
use super::super::options::WriteOptions;
use super::super::{Cx, Written, codec, meta};
use super::{created, set_condition};
use crate::Body;

const TRIES: usize = 64;

/// Binds the pod `name`; "" takes the name of the binding.
pub async fn bind(cx: &Cx, name: &str, body: &[u8]) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(cx, "CreateOptions", false)?;
    let kind = codec::body_kind("", "v1", "Binding")?;
    let mut binding = codec::decode_as(cx, &kind, body, options.validation)?;
    meta::match_namespace(cx, &mut binding)?;
    let bound_name = meta::text(&binding, "name").to_owned();
    let name = if name.is_empty() { bound_name.as_str() } else { name };
    if bound_name != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let errors = kind.strategy.validate(&cx.strategy_cx(), &binding);
    if !errors.is_empty() {
        return Err(Status::unknown(errors.aggregate()));
    }
    let admission = Admission::new(cx, Operation::Create, name, options.dry_run);
    admission.mutate(&mut binding, None).await?;
    admission.validate(&binding, None).await?;
    assign(cx, name, &binding, options.dry_run).await?;
    Ok(created(cx))
}

async fn assign(cx: &Cx, name: &str, binding: &Value, dry_run: bool) -> Result<(), Status> {
    let pods = GroupResource::new("", "pods");
    let resource = cx.server.cache.resource("pods").ok_or_else(|| Status::not_found(&pods, name))?;
    let key: bytes::Bytes = crate::cache::object_key(&resource.prefix, &cx.info.namespace, name).into();
    let bindings = GroupResource::new("", "pods/binding");
    let refuse = |text: String| Status::conflict(&bindings, name, text);
    crate::cache::ObjectReader::fresh(&*cx.server.cache).await;
    let mut current = resource.get(&key);
    for _ in 0..TRIES {
        let Some(old) = current else { return Err(Status::not_found(&pods, name)) };
        let uid = meta::text(binding, "uid");
        if !uid.is_empty() && uid != old.meta.uid {
            let key = String::from_utf8_lossy(&key);
            return Err(Status::conflict(
                &pods,
                name,
                format_args!(
                    "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    old.meta.uid
                ),
            ));
        }
        let mut pod = old.value();
        if old.meta.deletion_timestamp.is_some() {
            return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
            let node = apimachinery::goformat::quote(node);
            return Err(refuse(format!("pod {name} is already assigned to node {node}")));
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        bound(cx, &mut pod, binding);
        if dry_run {
            return Ok(());
        }
        match cx.put(&key, &pod, Some(&old)).await? {
            Written::Done(_) => return Ok(()),
            Written::Lost(found) => current = found,
        }
    }
    Err(Status::server_timeout(&pods, "create", 1))
}

/// The pod with its node, and the labels and annotations the binding brings.
fn bound(cx: &Cx, pod: &mut Value, binding: &Value) {
    apimachinery::value::set(pod, &["spec", "nodeName"], binding["target"]["name"].clone());
    for field in ["annotations", "labels"] {
        let Some(new) = binding["metadata"][field].as_object() else { continue };
        let known = apimachinery::value::object_entry(pod, &["metadata", field]);
        known.extend(new.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": meta::timestamp(cx.now()),
    });
    // Conditions carry a generation only where the kubelet reports one.
    if pod["status"]["observedGeneration"].as_i64().unwrap_or(0) != 0 {
        condition["observedGeneration"] = pod["metadata"]["generation"].clone();
    }
    set_condition(pod, condition);
}
