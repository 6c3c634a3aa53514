//! APIServices: one for every group version that this server serves itself, and whether the others' services are there.
//!
//! Watches: APIServices, CustomResourceDefinitions, and the services and endpoints that APIServices name.
//! Writes: APIServices labelled as automanaged; the `Available` condition of those that name a service.
//!
//! Invariants:
//! - AR-1: an APIService without our label is its owner's: only its status is written.
//! - AR-2: a service that is there but was not asked yet is not called available here; that is the aggregator's to say.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ::http::Method;
use api::Kind;
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};
use tracing::warn;

use super::{FrontDoor, Merge, Wanted};
use crate::ApiServer;
use crate::cache::{Event, Object, ObjectReader as _};

const COLLECTION: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const STORAGE_KEY: &str = "apiregistration.k8s.io/apiservices";
const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
const SERVICES: &str = "services/specs";
const SLICES: &str = "endpointslices";
/// `onstart`: ours since the start; `true`: a custom resource's, which comes and goes.
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const CUSTOM_GROUP_PRIORITY: i64 = 1000;
const CUSTOM_VERSION_PRIORITY: i64 = 100;

/// Upstream's order of groups: the group's priority and that of each version.
const PRIORITIES: &[(&str, i64, &[(&str, i64)])] = &[
    ("", 18000, &[("v1", 1)]),
    ("apps", 17800, &[("v1", 15)]),
    ("events.k8s.io", 17750, &[("v1", 15)]),
    ("authentication.k8s.io", 17700, &[("v1", 15)]),
    ("authorization.k8s.io", 17600, &[("v1", 15)]),
    ("autoscaling", 17500, &[("v1", 15), ("v2", 30)]),
    ("batch", 17400, &[("v1", 15)]),
    ("certificates.k8s.io", 17300, &[("v1", 15)]),
    ("networking.k8s.io", 17200, &[("v1", 15)]),
    ("policy", 17100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17000, &[("v1", 15)]),
    ("storage.k8s.io", 16800, &[("v1", 15)]),
    ("apiextensions.k8s.io", 16700, &[("v1", 15)]),
    ("admissionregistration.k8s.io", 16700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16600, &[("v1", 15)]),
    ("coordination.k8s.io", 16500, &[("v1", 15)]),
    ("node.k8s.io", 16300, &[("v1", 15)]),
    ("discovery.k8s.io", 16200, &[("v1", 15)]),
    ("resource.k8s.io", 16200, &[("v1", 20)]),
    ("flowcontrol.apiserver.k8s.io", 16100, &[("v1", 21)]),
];

/// An APIService of a group version that is served here.
fn local(group: &str, version: &str, priorities: (i64, i64), managed: &str) -> Wanted {
    let mut spec = json!({
        "version": version,
        "groupPriorityMinimum": priorities.0,
        "versionPriority": priorities.1,
    });
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {LABEL: managed}},
        "spec": spec,
    });
    Wanted::new(COLLECTION, STORAGE_KEY, object).merged(merge)
}

fn merge(kept: &Value, wanted: &Value) -> Merge {
    let label = |object: &Value| object["metadata"]["labels"][LABEL].as_str().unwrap_or_default().to_owned();
    let had = label(kept);
    if had.is_empty() || (had == label(wanted) && kept["spec"] == wanted["spec"]) {
        return Merge::Good;
    }
    let mut merged = kept.clone();
    merged["spec"] = wanted["spec"].clone();
    merged["metadata"]["labels"][LABEL] = wanted["metadata"]["labels"][LABEL].clone();
    Merge::Update(merged)
}

/// The APIServices of the built-in group versions.
pub fn objects(server: &ApiServer) -> Vec<Wanted> {
    built_in(&server.server.kinds.all())
}

fn built_in(kinds: &[Arc<Kind>]) -> Vec<Wanted> {
    let mut out = Vec::new();
    for (group, priority, versions) in PRIORITIES {
        for (version, order) in *versions {
            if kinds.iter().any(|kind| kind.group == *group && kind.version == *version) {
                out.push(local(group, version, (*priority, *order), "onstart"));
            }
        }
    }
    out
}

/// Keeps the APIServices of custom resources and the conditions of remote ones, until the server stops.
pub async fn follow(front: &FrontDoor<'_>) {
    let cache = &front.server.server.cache;
    let mut known = Known::default();
    loop {
        let Some(mut apiservices) = cache.subscribe(STORAGE_KEY) else { return };
        let mut definitions = cache.subscribe(DEFINITIONS);
        let (mut services, mut slices) = (cache.subscribe(SERVICES), cache.subscribe(SLICES));
        loop {
            cache.fresh().await;
            let remote = reconcile(front, &mut known).await;
            let lagged = tokio::select! {
                event = apiservices.recv() => event.map(drop),
                event = next(&mut definitions, |_| true) => event,
                event = next(&mut services, |o| {
                    remote.contains(&(o.meta.namespace.clone(), o.meta.name.clone()))
                }) => event,
                event = next(&mut slices, |o| remote.contains(&(o.meta.namespace.clone(), owner(o)))) => event,
            };
            match lagged {
                Ok(()) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            }
            if definitions.is_none() && cache.subscribe(DEFINITIONS).is_some() {
                break;
            }
        }
        if cache.subscribe(STORAGE_KEY).is_none() {
            return;
        }
    }
}

/// The group versions of definitions by name, at the revision they were read: definitions are long.
type Known = HashMap<String, (i64, Vec<(String, String)>)>;

/// The service that a slice belongs to.
fn owner(slice: &Object) -> String {
    slice.meta.labels.get("kubernetes.io/service-name").cloned().unwrap_or_default()
}

/// The next event about something that matters; never, where there is no such resource.
async fn next(
    events: &mut Option<broadcast::Receiver<Arc<Event>>>,
    matters: impl Fn(&Object) -> bool,
) -> Result<(), RecvError> {
    let Some(events) = events else { return std::future::pending().await };
    loop {
        if matters(&events.recv().await?.object) {
            return Ok(());
        }
    }
}

/// One pass. The services (namespace, name) that APIServices name.
async fn reconcile(front: &FrontDoor<'_>, known: &mut Known) -> BTreeSet<(String, String)> {
    let cache = &front.server.server.cache;
    let definitions = cache.peek_all(DEFINITIONS, None);
    let still: HashSet<&str> = definitions.iter().map(|d| d.meta.name.as_str()).collect();
    known.retain(|name, _| still.contains(name.as_str()));
    for definition in &definitions {
        if known.get(&definition.meta.name).is_none_or(|(revision, _)| *revision != definition.revision) {
            known.insert(definition.meta.name.clone(), (definition.revision, custom(&definition.value())));
        }
    }
    let versions: BTreeSet<&(String, String)> = known.values().flat_map(|(_, versions)| versions).collect();
    let priorities = (CUSTOM_GROUP_PRIORITY, CUSTOM_VERSION_PRIORITY);
    let wanted: Vec<Wanted> =
        versions.into_iter().map(|(group, version)| local(group, version, priorities, "true")).collect();
    let names: BTreeSet<String> = wanted.iter().map(|w| w.name().to_owned()).collect();
    for error in front.all(wanted).await {
        warn!(error, "an APIService of a custom resource could not be written");
    }
    let kinds = front.server.server.kinds.all();
    let own: BTreeSet<String> = built_in(&kinds).iter().map(|w| w.name().to_owned()).collect();
    let mut remote = BTreeSet::new();
    for kept in cache.peek_all(STORAGE_KEY, None) {
        let object = kept.value();
        let name = kept.meta.name.as_str();
        let managed = object["metadata"]["labels"][LABEL].as_str().unwrap_or_default();
        let outcome = if !managed.is_empty() && !names.contains(name) && !own.contains(name) {
            front.send(Method::DELETE, &format!("{COLLECTION}/{name}"), &json!({})).await
        } else if let Some(service) = object["spec"]["service"].as_object() {
            let text = |key: &str| service.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            remote.insert((text("namespace"), text("name")));
            judge(front, object).await
        } else {
            Ok(())
        };
        if let Err(error) = outcome {
            warn!(apiservice = name, error, "an APIService could not be brought up to date");
        }
    }
    remote
}

/// The served group versions of an established definition.
fn custom(definition: &Value) -> Vec<(String, String)> {
    let conditions = definition["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    if !conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
        return Vec::new();
    }
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    versions
        .filter(|version| version["served"] == true)
        .map(|version| (group.to_owned(), version["name"].as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// Says of a remote APIService that its service cannot be had, if that is so.
async fn judge(front: &FrontDoor<'_>, mut object: Value) -> Result<(), String> {
    let server = &front.server.server;
    let service = &object["spec"]["service"];
    let (namespace, name) = (service["namespace"].as_str().unwrap_or(""), service["name"].as_str().unwrap_or(""));
    let found = server.cache.peek(SERVICES, namespace, name).map(|s| s.value());
    let slices: Vec<Value> = server
        .cache
        .peek_all(SLICES, Some(namespace))
        .into_iter()
        .filter(|slice| owner(slice) == name)
        .map(|slice| slice.value())
        .collect();
    let Some((reason, message)) = missing(service, found.as_ref(), &slices) else { return Ok(()) };
    let old = object["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Available");
    if old.is_some_and(|c| c["status"] == "False" && c["reason"] == reason && c["message"] == message.as_str()) {
        return Ok(());
    }
    let since = old.filter(|c| c["status"] == "False").map(|c| c["lastTransitionTime"].clone());
    let now = server.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({
        "type": "Available",
        "status": "False",
        "lastTransitionTime": since.unwrap_or_else(|| now.into()),
        "reason": reason,
        "message": message,
    });
    let others = object["status"]["conditions"].as_array().into_iter().flatten().filter(|c| c["type"] != "Available");
    let conditions: Vec<Value> = others.cloned().chain([condition]).collect();
    object["status"] = json!({"conditions": conditions});
    let path = format!("{COLLECTION}/{}/status", object["metadata"]["name"].as_str().unwrap_or_default());
    match front.send(Method::PUT, &path, &object).await {
        // Somebody wrote it meanwhile, which brings us back.
        Err(error) if error.contains(": 409 ") || error.contains(": 404 ") => Ok(()),
        outcome => outcome,
    }
}

/// Why nobody answers at a service (a ServiceReference): reason and message; `None` when somebody may.
fn missing(reference: &Value, service: Option<&Value>, slices: &[Value]) -> Option<(&'static str, String)> {
    let text = |key: &str| reference[key].as_str().unwrap_or_default();
    let place = format!("service/{} in {:?}", text("name"), text("namespace"));
    let Some(service) = service else {
        return Some(("ServiceNotFound", format!("{place} is not present")));
    };
    if service["spec"]["type"].as_str().is_some_and(|ty| ty != "ClusterIP") {
        return None;
    }
    let port = reference["port"].as_i64().unwrap_or(443);
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(found) = ports.iter().find(|p| p["port"] == port) else {
        return Some(("ServicePortError", format!("{place} is not listening on port {port}")));
    };
    if slices.is_empty() {
        return Some(("EndpointsNotFound", format!("cannot find endpointslices for {place}")));
    }
    let name = found["name"].as_str().unwrap_or_default();
    let serves = |slice: &&Value| {
        !slice["endpoints"].as_array().is_none_or(Vec::is_empty)
            && slice["ports"].as_array().into_iter().flatten().any(|p| p["name"].as_str().unwrap_or_default() == name)
    };
    if !slices.iter().any(|slice| serves(&slice)) {
        let text = format!("endpointslices for {place} have no addresses with port name {name:?}");
        return Some(("MissingEndpoints", text));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_group_version_has_one() {
        let wanted = built_in(api::kinds());
        let names: BTreeSet<&str> = wanted.iter().map(Wanted::name).collect();
        for kind in api::kinds().iter().filter(|kind| kind.group != "apiregistration.k8s.io") {
            let name = format!("{}.{}", kind.version, kind.group);
            assert!(names.contains(name.as_str()), "{name}");
        }
        assert!(!names.contains("v1.apiregistration.k8s.io"));
    }

    #[test]
    fn what_others_made_is_theirs() {
        let wanted = local("apps", "v1", (17800, 15), "onstart").object;
        assert!(matches!(merge(&wanted, &wanted), Merge::Good));
        let mut changed = wanted.clone();
        changed["spec"]["versionPriority"] = 1.into();
        assert!(matches!(merge(&changed, &wanted), Merge::Update(_)));
        changed["metadata"]["labels"] = json!({});
        assert!(matches!(merge(&changed, &wanted), Merge::Good));
    }

    #[test]
    fn what_is_missing() {
        let reference = json!({"namespace": "n", "name": "s", "port": 443});
        let service = |port: i64| json!({"spec": {"type": "ClusterIP", "ports": [{"port": port, "name": "https"}]}});
        let slice = json!({"endpoints": [{}], "ports": [{"name": "https"}]});
        let reason = |service: Option<Value>, slices: &[Value]| {
            missing(&reference, service.as_ref(), slices).map_or("", |(reason, _)| reason)
        };
        assert_eq!(missing(&reference, None, &[]).expect("none").1, "service/s in \"n\" is not present");
        assert_eq!(reason(Some(service(80)), &[]), "ServicePortError");
        assert_eq!(reason(Some(service(443)), &[]), "EndpointsNotFound");
        assert_eq!(reason(Some(service(443)), &[json!({"endpoints": []})]), "MissingEndpoints");
        assert_eq!(reason(Some(service(443)), &[slice]), "");
    }

    #[test]
    fn established_definitions_are_registered() {
        let mut definition = json!({"spec": {"group": "g.x", "versions": [
            {"name": "v1", "served": true}, {"name": "v0", "served": false}]}});
        assert!(custom(&definition).is_empty());
        definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        assert_eq!(custom(&definition), [("g.x".to_owned(), "v1".to_owned())]);
    }
}
