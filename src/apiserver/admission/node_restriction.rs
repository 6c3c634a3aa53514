//! NodeRestriction: a kubelet writes its own Node, Lease and CSINode, the status of its own pods, and nothing else.

use std::collections::BTreeSet;

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin, text};
use crate::authz::node_of;
use crate::authz::rules::go_quote;

const MIRROR: &str = "kubernetes.io/config.mirror";
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

pub struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let Some(node) = node_of(request.user) else { return Ok(()) };
        if node.is_empty() {
            return Err(
                request.forbidden(format!("could not determine node from user {}", go_quote(&request.user.name)))
            );
        }
        match (request.kind.group.as_ref(), request.kind.plural.as_ref(), request.subresource) {
            ("", "pods", "") => pod(request, node, object),
            ("", "pods", "status") => pod_status(request, node, object),
            ("", "pods", "eviction") => evict(request, node),
            ("", "pods", other) => Err(request.forbidden(format!("unexpected pod subresource {}", go_quote(other)))),
            ("", "nodes", _) => own_node(request, node, object),
            ("", "serviceaccounts", "token") => token(request, node, object),
            ("coordination.k8s.io", "leases", _) => lease(request, node),
            ("storage.k8s.io", "csinodes", _) => {
                only_own(request, node, "can only access CSINode with the same name as the requesting node")
            }
            _ => Ok(()),
        }
    }
}

fn runs_on(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"].as_str() == Some(node)
}

fn pod(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let quoted = go_quote(node);
    match request.operation {
        Operation::Create => {
            if object["metadata"]["annotations"][MIRROR].is_null() {
                return Err(request.forbidden(format!(
                    "pod does not have \"{MIRROR}\" annotation, node {quoted} can only create mirror pods"
                )));
            }
            if !runs_on(object, node) {
                return Err(
                    request.forbidden(format!("node {quoted} can only create pods with spec.nodeName set to itself"))
                );
            }
            let spec = &object["spec"];
            if !text(spec, "serviceAccountName").is_empty() {
                return Err(
                    request.forbidden(format!("node {quoted} can not create pods that reference a service account"))
                );
            }
            for volume in spec["volumes"].as_array().into_iter().flatten() {
                for (key, what) in [
                    ("secret", "secrets"),
                    ("configMap", "configmaps"),
                    ("persistentVolumeClaim", "persistentvolumeclaims"),
                ] {
                    if !volume[key].is_null() {
                        return Err(
                            request.forbidden(format!("node {quoted} can not create pods that reference {what}"))
                        );
                    }
                }
            }
            owned_by_node(request, node, object)
        }
        Operation::Delete => match request.reader.peek("pods", request.namespace, request.name) {
            // The registry says that it does not exist.
            None => Ok(()),
            Some(pod) if pod.meta.field("spec.nodeName") == Some(node) => Ok(()),
            Some(_) => {
                Err(request.forbidden(format!("node {quoted} can only delete pods with spec.nodeName set to itself")))
            }
        },
        Operation::Update => Err(request.forbidden(format!("unexpected operation {}", go_quote("UPDATE")))),
        Operation::Connect => Err(request.forbidden(format!("unexpected operation {}", go_quote("CONNECT")))),
    }
}

fn owned_by_node(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let quoted = go_quote(node);
    let owners = object["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    let [owner] = owners else {
        return match owners.is_empty() {
            true => {
                Err(request
                    .forbidden(format!("node {quoted} can only create pods with an owner reference set to itself")))
            }
            false => Err(request
                .forbidden(format!("node {quoted} can only create pods with a single owner reference set to itself"))),
        };
    };
    if text(owner, "apiVersion") != "v1" || text(owner, "kind") != "Node" || text(owner, "name") != node {
        return Err(
            request.forbidden(format!("node {quoted} can only create pods with an owner reference set to itself"))
        );
    }
    if owner["controller"].as_bool() != Some(true) {
        return Err(request
            .forbidden(format!("node {quoted} can only create pods with a controller owner reference set to itself")));
    }
    let uid = request.reader.peek("minions", "", node).map(|node| node.meta.uid.clone());
    if uid.as_deref() != Some(text(owner, "uid")) {
        return Err(request.forbidden(format!(
            "node {quoted} can only create pods with an owner reference set to itself with the right uid"
        )));
    }
    Ok(())
}

fn pod_status(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let quoted = go_quote(node);
    let Some(old) = request.old_object else { return Ok(()) };
    if !runs_on(old, node) {
        return Err(request
            .forbidden(format!("node {quoted} can only update pod status for pods with spec.nodeName set to itself")));
    }
    let empty = Value::Object(serde_json::Map::new());
    let labels = |value: &Value| match &value["metadata"]["labels"] {
        Value::Null => empty.clone(),
        labels => labels.clone(),
    };
    if labels(object) != labels(old) {
        return Err(request.forbidden(format!("node {quoted} cannot update labels through pod status")));
    }
    Ok(())
}

fn evict(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Err(request.forbidden(format!("unexpected operation {}", go_quote("UPDATE"))));
    }
    match request.reader.peek("pods", request.namespace, request.name) {
        // The registry says that it does not exist.
        None => Ok(()),
        Some(pod) if pod.meta.field("spec.nodeName") == Some(node) => Ok(()),
        Some(_) => Err(request.forbidden(format!("node {node} can only evict pods with spec.nodeName set to itself"))),
    }
}

fn own_node(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let quoted = go_quote(node);
    let name = if request.name.is_empty() { text(&object["metadata"], "name") } else { request.name };
    if name != node && request.operation != Operation::Connect {
        let status = format!("node {quoted} is not allowed to modify node {}", go_quote(name));
        return Err(Status::forbidden(&request.resource(), name, status));
    }
    let refuse = |text: String| Err(Status::forbidden(&request.resource(), name, text));
    match request.operation {
        Operation::Create => {
            let forbidden = forbidden_labels(changed_labels(object, &Value::Null), true);
            if !forbidden.is_empty() {
                return refuse(format!(
                    "node {quoted} is not allowed to set the following labels: {}",
                    forbidden.into_iter().collect::<Vec<_>>().join(", ")
                ));
            }
        }
        Operation::Update => {
            let Some(old) = request.old_object else { return Ok(()) };
            if normal(&object["spec"]["taints"]) != normal(&old["spec"]["taints"]) {
                return refuse(format!("node {quoted} is not allowed to modify taints"));
            }
            let forbidden = forbidden_labels(changed_labels(object, old), false);
            if !forbidden.is_empty() {
                return refuse(format!(
                    "is not allowed to modify labels: {}",
                    forbidden.into_iter().collect::<Vec<_>>().join(", ")
                ));
            }
        }
        Operation::Delete | Operation::Connect => {}
    }
    Ok(())
}

fn normal(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// Labels that were added, changed or removed.
fn changed_labels(object: &Value, old: &Value) -> BTreeSet<String> {
    let (new, old) = (&object["metadata"]["labels"], &old["metadata"]["labels"]);
    let keys = |labels: &Value| labels.as_object().into_iter().flat_map(|m| m.keys().cloned()).collect::<Vec<_>>();
    keys(new).into_iter().chain(keys(old)).filter(|key| new[key.as_str()] != old[key.as_str()]).collect()
}

/// Of these labels, those that are not a node's to write. A new node may name its role.
fn forbidden_labels(changed: BTreeSet<String>, create: bool) -> BTreeSet<String> {
    let within = |namespace: &str, domain: &str| {
        namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    };
    changed
        .into_iter()
        .filter(|label| {
            let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
            if within(namespace, "node-restriction.kubernetes.io") {
                return true;
            }
            if create && namespace == "node-role.kubernetes.io" {
                return false;
            }
            let reserved = within(namespace, "kubernetes.io") || within(namespace, "k8s.io");
            reserved
                && !KUBELET_LABELS.contains(&label.as_str())
                && !KUBELET_NAMESPACES.iter().any(|domain| within(namespace, domain))
        })
        .collect()
}

fn token(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let reference = &object["spec"]["boundObjectRef"];
    if reference.is_null() || text(reference, "apiVersion") != "v1" || text(reference, "kind") != "Pod" {
        return Err(request.forbidden("node requested token not bound to a pod"));
    }
    if text(reference, "uid").is_empty() {
        return Err(request.forbidden("node requested token with a pod binding without a uid"));
    }
    match request.reader.peek("pods", request.namespace, text(reference, "name")) {
        Some(pod) if pod.meta.uid != text(reference, "uid") => Err(request.forbidden(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text(reference, "uid")
        ))),
        Some(pod) if pod.meta.field("spec.nodeName") == Some(node) => Ok(()),
        Some(_) => Err(request.forbidden("node requested token bound to a pod scheduled on a different node")),
        None => Err(Status::not_found(
            &apimachinery::gvk::GroupResource::new("", "pods"),
            text(reference, "name"),
        )),
    }
}

fn lease(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    if request.namespace != "kube-node-lease" {
        return Err(request.forbidden("can only access leases in the \"kube-node-lease\" system namespace"));
    }
    only_own(request, node, "can only access node lease with the same name as the requesting node")
}

fn only_own(request: &AdmissionRequest<'_>, node: &str, otherwise: &str) -> Result<(), Status> {
    if request.operation == Operation::Connect || request.name == node {
        return Ok(());
    }
    Err(request.forbidden(otherwise))
}
