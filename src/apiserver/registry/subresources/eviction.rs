//! `pods/eviction`: a deletion that asks first.

use ::http::Response;
use apimachinery::status::Status;
use serde_json::json;

use super::super::admit::{Admission, Operation};
use super::super::options::{DeleteOptions, WriteOptions};
use super::super::{Cx, Written, codec, delete, meta};
use super::{created, set_condition};
use crate::Body;

const TRIES: usize = 64;

pub async fn evict(cx: &Cx, body: &[u8]) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(cx, "CreateOptions", false)?;
    let kind = codec::body_kind("policy", "v1", "Eviction")?;
    let mut eviction = codec::decode_as(cx, &kind, body, options.validation)?;
    meta::match_namespace(cx, &mut eviction)?;
    let name = cx.info.name.as_str();
    if meta::text(&eviction, "name") != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut delete_options = DeleteOptions::of_value(&eviction["deleteOptions"])?;
    delete_options.dry_run |= options.dry_run;
    let key = cx.key(name);
    let Some(pod) = cx.current(&key).await else { return Err(cx.not_found(name)) };
    let admission = Admission::new(cx, Operation::Create, name, delete_options.dry_run);
    admission.mutate(&mut eviction, None).await?;
    admission.validate(&eviction, None).await?;
    if pod.meta.deletion_timestamp.is_none() && !delete_options.dry_run {
        mark(cx, &delete_options).await?;
    }
    delete::delete_named(cx, name, &delete_options).await?;
    Ok(created(cx))
}

/// Says in the pod's status why it goes.
async fn mark(cx: &Cx, options: &DeleteOptions) -> Result<(), Status> {
    let name = cx.info.name.as_str();
    let key = cx.key(name);
    let mut current = cx.current(&key).await;
    for _ in 0..TRIES {
        let Some(old) = current else { return Err(cx.not_found(name)) };
        delete::check_preconditions(cx, &old, options)?;
        let mut pod = old.value();
        set_condition(
            &mut pod,
            json!({
                "type": "DisruptionTarget",
                "status": "True",
                "lastProbeTime": null,
                "lastTransitionTime": meta::timestamp(cx.now()),
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
            }),
        );
        match cx.put(&key, &pod, Some(&old)).await? {
            Written::Done(_) => return Ok(()),
            Written::Lost(found) => current = found,
        }
    }
    Err(Status::server_timeout(&cx.group_resource(), "create", 1))
}
