//! A deleted definition takes its custom resources along.
//!
//! Invariants:
//! - XF-1: the finalizer goes when no custom resource is left, or when there never was one.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method};
use api::apiextensions::conditions::{self, CLEANUP_FINALIZER, Condition, ESTABLISHED, TERMINATING};
use api::apiextensions::customresourcedefinition::STORAGE_KEY;
use http_body_util::BodyExt as _;
use serde_json::Value;
use store::{RangeRequest, Revision};
use tracing::{info, warn};

use super::writer::{Refused, Writer};
use crate::cache::ObjectReader as _;
use crate::wire::body;
use crate::{RequestInfo, Server};

/// How long the last custom resources may take before the condition says that they do.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(5);

/// Deletes the custom resources, then lets the definition go. `Some`: to be tried again after that long.
pub async fn finalize(server: &Arc<Server>, writer: &Writer, name: &str) -> Option<Duration> {
    match attempt(server, writer, name).await {
        Ok(done) => (!done).then_some(PAUSE),
        // the change that was faster brings us back
        Err(refused) if refused.is_conflict() => Some(Duration::ZERO),
        Err(refused) => {
            warn!(crd = name, error = %refused, "cannot finalize a definition");
            Some(PAUSE)
        }
    }
}

async fn attempt(server: &Arc<Server>, writer: &Writer, name: &str) -> Result<bool, Refused> {
    let Some(object) = server.cache.get(STORAGE_KEY, "", name).await else { return Ok(true) };
    let mut crd = object.value();
    if !conditions::is_deleting(&crd) || !conditions::has_finalizer(&crd) {
        return Ok(true);
    }
    let now = || crate::registry::timestamp(server.clock.now());
    const IN_PROGRESS: &str = "CustomResource deletion is in progress";
    let running = Condition::new(TERMINATING, "True", "InstanceDeletionInProgress", IN_PROGRESS);
    conditions::set(&mut crd, &running, &now());
    crd = writer.put_status(name, &crd).await?;
    let group = crd["spec"]["group"].as_str().unwrap_or_default().to_owned();
    let plural = crd["spec"]["names"]["plural"].as_str().unwrap_or_default().to_owned();
    let (outcome, done) = if overlaps(&group, &plural) {
        const MESSAGE: &str = "instances overlap with built-in resources in storage";
        (Condition::new(TERMINATING, "False", "OverlappingBuiltInResource", MESSAGE), true)
    } else if conditions::is_true(&crd, ESTABLISHED) {
        match delete_instances(server, &group, &plural).await {
            Ok(()) => {
                const MESSAGE: &str = "removed all instances";
                (Condition::new(TERMINATING, "False", "InstanceDeletionCompleted", MESSAGE), true)
            }
            Err((reason, message)) => (Condition::new(TERMINATING, "True", reason, message), false),
        }
    } else {
        const MESSAGE: &str = "resource was never established";
        (Condition::new(TERMINATING, "False", "NeverEstablished", MESSAGE), true)
    };
    conditions::set(&mut crd, &outcome, &now());
    if done {
        if let Some(list) = crd["metadata"]["finalizers"].as_array_mut() {
            list.retain(|finalizer| finalizer != CLEANUP_FINALIZER);
        }
    }
    writer.put_status(name, &crd).await?;
    if done {
        info!(crd = name, reason = outcome.reason, "definition finalized");
    }
    Ok(done)
}

/// Built-in resources whose keys in the store a definition could take for its own.
fn overlaps(group: &str, plural: &str) -> bool {
    matches!(
        (group, plural),
        ("apiregistration.k8s.io", "apiservices") | ("apiextensions.k8s.io", "customresourcedefinitions")
    )
}

/// Err: reason and message of the condition.
async fn delete_instances(server: &Arc<Server>, group: &str, plural: &str) -> Result<(), (&'static str, String)> {
    let storage_key = format!("{group}/{plural}");
    let Some(mut changes) = server.cache.subscribe(&storage_key) else {
        return nothing_stored(server, &storage_key).await;
    };
    let rest = server.cache.list(&storage_key, None).await;
    let mut namespaces: Vec<&str> = rest.iter().map(|object| object.meta.namespace.as_str()).collect();
    namespaces.dedup();
    let mut failures = Vec::new();
    for namespace in namespaces {
        failures.extend(delete_in(server, &storage_key, namespace).await.err());
    }
    if !failures.is_empty() {
        let all = if failures.len() == 1 { failures.remove(0) } else { format!("[{}]", failures.join(", ")) };
        return Err(("InstanceDeletionFailed", format!("could not issue all deletes: {all}")));
    }
    let late = server.clock.sleep(PATIENCE);
    tokio::pin!(late);
    loop {
        if server.cache.list(&storage_key, None).await.is_empty() {
            return Ok(());
        }
        tokio::select! {
            // whatever comes, lagging included, the state is looked at again
            _ = changes.recv() => {}
            () = &mut late => {
                const MESSAGE: &str =
                    "could not confirm zero CustomResources remaining: timed out waiting for the condition";
                return Err(("InstanceDeletionCheck", MESSAGE.to_owned()));
            }
        }
    }
}

/// A resource that is not served can only be let go when nothing of it is stored.
async fn nothing_stored(server: &Server, storage_key: &str) -> Result<(), (&'static str, String)> {
    let prefix = format!("/registry/{storage_key}/");
    let failed = |error: String| ("InstanceDeletionFailed", format!("could not list instances: {error}"));
    let mut request = RangeRequest::prefix(prefix.as_bytes());
    request.revision = Revision::default();
    let found = server.store.range(request).await.map_err(|error| failed(error.to_string()))?;
    match found.kvs.is_empty() {
        true => Ok(()),
        false => Err(failed(format!("unable to find a custom resource client for {}", storage_key.replace('/', ".")))),
    }
}

/// DELETE of the collection in one namespace ("": of a cluster-scoped resource).
async fn delete_in(server: &Arc<Server>, storage_key: &str, namespace: &str) -> Result<(), String> {
    let Some(kind) = server.kinds.storage_kind(storage_key) else {
        return Err(format!("unable to find a custom resource client for {storage_key}"));
    };
    let place = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let path = format!("/apis/{}{place}/{}", kind.api_version(), kind.plural);
    let uri = path.parse::<::http::Uri>().map_err(|error| error.to_string())?;
    let info = RequestInfo::parse(&Method::DELETE, &uri);
    let (user, method) = (Writer::user(), Method::DELETE);
    let answer = crate::registry::handle(server, kind, info, user, &method, HeaderMap::new(), body::full("")).await;
    let code = answer.status();
    if code.is_success() {
        return Ok(());
    }
    let bytes = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Err(status["message"].as_str().unwrap_or("the deletion was refused").to_owned())
}
