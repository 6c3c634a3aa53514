//! LimitRanger: defaults and bounds for what pods and claims of a namespace ask for.
//!
//! Invariants:
//! - LR-1: defaults are filled in before bounds are checked, and only for containers that left them out.

use std::collections::BTreeMap;

use api::core::podspec::{aggregate_limits, aggregate_requests};
use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{AdmissionRequest, Operation, Plugin, list, text};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

pub struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if !applies(request) || !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        for range in ranges(request).await {
            set_defaults(object, &range);
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        if !applies(request) {
            return Ok(());
        }
        // Pods cannot change what they ask for, but by resizing, which is checked as a change of its own.
        if request.is("", "pods") && request.operation == Operation::Update && request.subresource.is_empty() {
            return Ok(());
        }
        for range in ranges(request).await {
            let errors: Vec<String> = list(&range["spec"], "limits")
                .iter()
                .flat_map(|limit| match (request.kind.plural.as_ref(), text(limit, "type")) {
                    ("pods", "Container") => list(&object["spec"], "containers")
                        .iter()
                        .chain(list(&object["spec"], "initContainers"))
                        .flat_map(|container| check_container(limit, container))
                        .collect(),
                    ("pods", "Pod") => check_pod(limit, &object["spec"]),
                    ("persistentvolumeclaims", "PersistentVolumeClaim") => check_claim(limit, object),
                    _ => Vec::new(),
                })
                .collect();
            match errors.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(one)),
                many => return Err(request.forbidden(format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

fn applies(request: &AdmissionRequest<'_>) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update)
        && (request.is("", "pods") && matches!(request.subresource, "" | "resize")
            || request.is("", "persistentvolumeclaims") && request.subresource.is_empty())
}

/// Where the cache knows none, one may just have been made.
async fn ranges(request: &AdmissionRequest<'_>) -> Vec<Value> {
    let mut found = request.reader.peek_all("limitranges", Some(request.namespace));
    if found.is_empty() {
        found = request.reader.list("limitranges", Some(request.namespace)).await;
    }
    found.iter().map(|range| range.value()).collect()
}

fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(k, v)| Some((k.clone(), Quantity::from_json(v).ok()?))).collect()
}

/// LR-1.
fn set_defaults(object: &mut Value, range: &Value) {
    let (mut limits, mut requests) = (serde_json::Map::new(), serde_json::Map::new());
    for limit in list(&range["spec"], "limits").iter().filter(|l| text(l, "type") == "Container") {
        for (into, from) in [(&mut limits, "default"), (&mut requests, "defaultRequest")] {
            into.extend(limit[from].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    let mut said = Vec::new();
    for (key, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = object.get_mut("spec").and_then(|s| s.get_mut(key)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = text(container, "name").to_owned();
            for (list, defaults, word) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let mut set: Vec<&str> = Vec::new();
                for (resource, amount) in defaults {
                    if container["resources"][list][resource].is_null() {
                        if !container["resources"].is_object() {
                            container["resources"] = json!({});
                        }
                        if !container["resources"][list].is_object() {
                            container["resources"][list] = json!({});
                        }
                        container["resources"][list][resource] = amount.clone();
                        set.push(resource);
                    }
                }
                if !set.is_empty() {
                    said.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() {
        let metadata = &mut object["metadata"];
        if !metadata["annotations"].is_object() {
            metadata["annotations"] = json!({});
        }
        metadata["annotations"][ANNOTATION] = format!("LimitRanger plugin set: {}", said.join("; ")).into();
    }
}

fn check_container(limit: &Value, container: &Value) -> Vec<String> {
    let (requests, limits) = (amounts(&container["resources"]["requests"]), amounts(&container["resources"]["limits"]));
    check(limit, "Container", &requests, &limits)
}

fn check_pod(limit: &Value, spec: &Value) -> Vec<String> {
    // What is said for the pod counts instead of what its containers say.
    let (mut requests, mut limits) = (aggregate_requests(spec), aggregate_limits(spec));
    requests.extend(amounts(&spec["resources"]["requests"]));
    limits.extend(amounts(&spec["resources"]["limits"]));
    check(limit, "Pod", &requests, &limits)
}

fn check(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut errors = Vec::new();
    for (resource, least) in amounts(&limit["min"]) {
        let (request, at_most) = (requests.get(&resource), limits.get(&resource));
        match request {
            None => errors.push(format!("minimum {resource} usage per {kind} is {least}.  No request is specified")),
            Some(request) if *request < least => {
                errors.push(format!("minimum {resource} usage per {kind} is {least}, but request is {request}"));
            }
            _ => {}
        }
        if let Some(at_most) = at_most.filter(|l| **l < least) {
            errors.push(format!("minimum {resource} usage per {kind} is {least}, but limit is {at_most}"));
        }
    }
    for (resource, most) in amounts(&limit["max"]) {
        let (request, at_most) = (requests.get(&resource), limits.get(&resource));
        match at_most {
            None => errors.push(format!("maximum {resource} usage per {kind} is {most}.  No limit is specified")),
            Some(at_most) if *at_most > most => {
                errors.push(format!("maximum {resource} usage per {kind} is {most}, but limit is {at_most}"));
            }
            _ => {
                if let Some(request) = request.filter(|r| **r > most) {
                    errors.push(format!("maximum {resource} usage per {kind} is {most}, but request is {request}"));
                }
            }
        }
    }
    for (resource, ratio) in amounts(&limit["maxLimitRequestRatio"]) {
        let head = format!("{resource} max limit to request ratio per {kind} is {ratio}, but");
        let request = requests.get(&resource).filter(|r| !r.is_zero());
        let at_most = limits.get(&resource).filter(|l| !l.is_zero());
        match (request, at_most) {
            (None, _) => errors.push(format!("{head} no request is specified or request is 0")),
            (_, None) => errors.push(format!("{head} no limit is specified or limit is 0")),
            (Some(request), Some(at_most)) => {
                let actual = at_most.as_f64() / request.as_f64();
                if actual > ratio.as_f64() {
                    errors.push(format!("{head} provided ratio is {actual:.6}"));
                }
            }
        }
    }
    errors
}

fn check_claim(limit: &Value, claim: &Value) -> Vec<String> {
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    let mut errors = Vec::new();
    let kind = "PersistentVolumeClaim";
    for (resource, least) in amounts(&limit["min"]) {
        match requests.get(&resource) {
            None => errors.push(format!("minimum {resource} usage per {kind} is {least}.  No request is specified")),
            Some(request) if *request < least => {
                errors.push(format!("minimum {resource} usage per {kind} is {least}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (resource, most) in amounts(&limit["max"]) {
        match requests.get(&resource) {
            None => errors.push(format!("maximum {resource} usage per {kind} is {most}.  No request is specified")),
            Some(request) if *request > most => {
                errors.push(format!("maximum {resource} usage per {kind} is {most}, but request is {request}"));
            }
            _ => {}
        }
    }
    errors
}
