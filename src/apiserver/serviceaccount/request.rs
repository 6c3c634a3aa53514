//! `serviceaccounts/<name>/token`: TokenRequest.

use std::sync::Arc;

use apimachinery::gvk::{GroupKind, GroupResource};
use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, Path};
use serde_json::{Value, json};

use super::{Bound, MAX_SECONDS};
use crate::Server;
use crate::cache::{Object, ObjectReader};
use crate::reviews::seconds;

const MIN_SECONDS: i64 = 600;
const DEFAULT_SECONDS: i64 = 3600;

/// Answers a decoded TokenRequest for a service account: `object` becomes the response, with the token in it.
///
/// # Errors
/// 404 without the account, 400 and 409 when the bound object does not fit, 422 for bad durations.
pub async fn token_request(server: &Server, namespace: &str, name: &str, object: &mut Value) -> Result<(), Status> {
    let reader: &dyn ObjectReader = server.cache.as_ref();
    let accounts = GroupResource::new("", "serviceaccounts");
    let account =
        reader.get("serviceaccounts", namespace, name).await.ok_or_else(|| Status::not_found(&accounts, name))?;
    for (key, own) in [("name", name), ("namespace", namespace)] {
        let given = object["metadata"][key].as_str().unwrap_or_default();
        if !given.is_empty() && given != own {
            return Err(Status::bad_request(match key {
                "name" => format!("the name of the object ({given}) does not match the name on the URL ({own})"),
                _ => "the namespace of the provided object does not match the namespace sent on the request".to_owned(),
            }));
        }
    }
    if object["spec"].is_null() {
        object["spec"] = json!({});
    }
    let asked = object["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("expirationSeconds");
    if asked < MIN_SECONDS {
        errors.invalid(path, asked, "may not specify a duration less than 10 minutes");
    } else if asked > MAX_SECONDS {
        errors.invalid(path, asked, "may not specify a duration larger than 2^32 seconds");
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&GroupKind::new("authentication.k8s.io", "TokenRequest"), name, &errors));
    }
    let mut audiences: Vec<String> = object["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences = server.issuer.audiences().to_vec();
    }
    let bound = bound_to(reader, namespace, name, &object["spec"]["boundObjectRef"]).await?;
    let now = server.clock.now();
    let id = uuid::Uuid::new_v4().to_string();
    let (token, expires) = server
        .issuer
        .issue(&account, &bound, &audiences, asked, &id, now)
        .map_err(|e| Status::internal(format!("failed to generate token: {e}")))?;
    let spec = &mut object["spec"];
    spec["expirationSeconds"] = asked.into();
    spec["audiences"] = audiences.into();
    if spec["boundObjectRef"].is_null() {
        spec["boundObjectRef"] = Value::Null;
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata["name"] = account.meta.name.clone().into();
    metadata["namespace"] = account.meta.namespace.clone().into();
    metadata["creationTimestamp"] = seconds(now).into();
    metadata["uid"] = account.meta.uid.clone().into();
    object["kind"] = "TokenRequest".into();
    object["apiVersion"] = "authentication.k8s.io/v1".into();
    object["status"] = json!({"token": token, "expirationTimestamp": seconds(expires)});
    Ok(())
}

async fn bound_to(
    reader: &dyn ObjectReader,
    namespace: &str,
    account: &str,
    reference: &Value,
) -> Result<Bound, Status> {
    let text = |key: &str| reference[key].as_str().unwrap_or_default();
    let mut bound = Bound::default();
    if reference.is_null() {
        return Ok(bound);
    }
    let (kind, name) = (text("kind"), text("name"));
    let (storage, resource, home) = match (text("apiVersion"), kind) {
        ("v1", "Pod") => ("pods", "pods", namespace),
        ("v1", "Secret") => ("secrets", "secrets", namespace),
        ("v1", "Node") => ("minions", "nodes", ""),
        (version, kind) => {
            let group_version = if version.is_empty() { "" } else { version };
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {}",
                match group_version.split_once('/') {
                    Some((group, version)) => format!("{group}/{version}, Kind={kind}"),
                    None => format!("/{group_version}, Kind={kind}"),
                }
            )));
        }
    };
    let found: Arc<Object> = reader
        .get(storage, home, name)
        .await
        .ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))?;
    let uid = text("uid");
    if !uid.is_empty() && uid != found.meta.uid {
        return Err(Status::conflict(
            &GroupResource::new("", kind),
            name,
            format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    match kind {
        "Pod" => {
            let value = found.value();
            if value["spec"]["serviceAccountName"].as_str() != Some(account) {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
                )));
            }
            // A pod's token also says where the pod runs.
            if let Some(node) = value["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                bound.node = reader.peek("minions", "", node);
            }
            bound.pod = Some(found);
        }
        "Secret" => bound.secret = Some(found),
        _ => bound.node = Some(found),
    }
    Ok(bound)
}
