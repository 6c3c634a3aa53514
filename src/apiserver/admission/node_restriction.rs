//! NodeRestriction: a kubelet writes its own Node, Lease and CSINode, the status of its own pods, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin, containers, list, projections, refers_to_secrets, text};
use crate::authz::rules::go_quote;
use crate::authz::{Attributes, Authorizer, node_of};

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
const KUBELET_SIGNERS: &[&str] = &["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
const KUBELET_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

pub struct NodeRestriction {
    authorizer: Arc<Authorizer>,
}

impl NodeRestriction {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self { authorizer }
    }
}

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
            ("", "pods", other) => Err(request.forbidden(format!(
                "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
                go_quote(other)
            ))),
            ("", "nodes", _) => own_node(request, node, object),
            ("", "serviceaccounts", "token") => token(&self.authorizer, request, node, object).await,
            ("", "persistentvolumeclaims", _) => claim(request, node, object),
            ("certificates.k8s.io", "certificatesigningrequests", _) => certificate(request, node, object),
            ("resource.k8s.io", "resourceslices", _) => slice(request, node, object),
            ("coordination.k8s.io", "leases", _) => lease(request, node),
            ("storage.k8s.io", "csinodes", _) => {
                only_own(request, node, "can only access CSINode with the same name as the requesting node")
            }
            _ => Ok(()),
        }
    }

    async fn deleting(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        match node_of(request.user) {
            Some(node) if request.is("resource.k8s.io", "resourceslices") => slice(request, node, &Value::Null),
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
            owned_by_node(request, node, object)?;
            match refers_to(&object["spec"]) {
                Some(what) => {
                    Err(request.forbidden(format!("node {quoted} can not create pods that reference {what}")))
                }
                None => Ok(()),
            }
        }
        Operation::Delete => match request.reader.peek("pods", request.namespace, request.name) {
            // The registry says that it does not exist.
            None => Ok(()),
            Some(pod) if pod.meta.field("spec.nodeName") == Some(node) => Ok(()),
            Some(_) => {
                Err(request.forbidden(format!("node {quoted} can only delete pods with spec.nodeName set to itself")))
            }
        },
        Operation::Update | Operation::Connect => Err(request.forbidden(format!(
            "unexpected operation {}, node {quoted} can only create and delete mirror pods",
            go_quote(verb(request.operation))
        ))),
    }
}

/// What of the API a mirror pod may not refer to.
fn refers_to(spec: &Value) -> Option<&'static str> {
    if !text(spec, "serviceAccountName").is_empty() {
        return Some("a service account");
    }
    if refers_to_secrets(spec) {
        return Some("secrets");
    }
    let (volumes, sources) = (list(spec, "volumes"), || projections(spec));
    let from_environment = |from: &str, key: &str| {
        containers(spec).any(|container| {
            list(container, "envFrom").iter().any(|entry| !entry[from].is_null())
                || list(container, "env").iter().any(|entry| !entry["valueFrom"][key].is_null())
        })
    };
    if from_environment("configMapRef", "configMapKeyRef")
        || volumes.iter().any(|volume| !volume["configMap"].is_null())
        || sources().any(|source| !source["configMap"].is_null())
    {
        return Some("configmaps");
    }
    if sources().any(|source| !source["clusterTrustBundle"].is_null()) {
        return Some("clustertrustbundles");
    }
    volumes.iter().any(|volume| !volume["persistentVolumeClaim"].is_null()).then_some("persistentvolumeclaims")
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
    if owner["blockOwnerDeletion"] == true {
        return Err(request.forbidden(format!("node {quoted} must not set blockOwnerDeletion on an owner reference")));
    }
    let Some(known) = request.reader.peek("minions", "", node) else {
        return Err(Status::not_found(&apimachinery::gvk::GroupResource::new("", "nodes"), node));
    };
    match text(owner, "uid") {
        uid if uid == known.meta.uid => Ok(()),
        uid => Err(request.forbidden(format!("node {node} UID mismatch: expected {uid} got {}", known.meta.uid))),
    }
}

fn pod_status(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let quoted = go_quote(node);
    let (Operation::Update, Some(old)) = (request.operation, request.old_object) else {
        return Err(unexpected(request));
    };
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
    let claims = |pod: &Value| {
        let entry = |status: &Value| (status["name"].clone(), status["resourceClaimName"].clone());
        list(&pod["status"], "resourceClaimStatuses").iter().map(entry).collect::<Vec<_>>()
    };
    if claims(object) != claims(old) {
        return Err(request.forbidden(format!("node {quoted} cannot update resource claim statues")));
    }
    Ok(())
}

fn evict(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Err(request.forbidden(format!("unexpected operation {}", verb(request.operation))));
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
    let source = |node: &Value| node["spec"]["configSource"].clone();
    match request.operation {
        Operation::Create => {
            if !source(object).is_null() {
                return refuse(format!("node {quoted} is not allowed to create pods with a non-nil configSource"));
            }
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
            if !source(object).is_null() && source(object) != source(old) {
                let text = format!("node {quoted} is not allowed to update configSource to a new non-nil configSource");
                return refuse(text);
            }
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

/// A kubelet publishes what its own node has. Updates are the node authorizer's business: it knows what is there.
fn slice(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let (about, verb) = match (request.operation, request.old_object) {
        (Operation::Create, _) => (object, "create"),
        (Operation::Delete, Some(old)) => (old, "delete"),
        _ => return Ok(()),
    };
    if text(&about["spec"], "nodeName") == node {
        return Ok(());
    }
    Err(request.forbidden(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")))
}

/// A kubelet asks for certificates in its own name only.
fn certificate(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let signer = text(&object["spec"], "signerName");
    if request.operation != Operation::Create || !KUBELET_SIGNERS.contains(&signer) {
        return Ok(());
    }
    let requested = api::certificates::parse_request(text(&object["spec"], "request"))
        .map_err(|error| request.forbidden(format!("unable to parse csr: {error}")))?;
    let name = format!("system:node:{node}");
    if requested.common_name == name {
        return Ok(());
    }
    Err(request.forbidden(format!("can only create a node CSR with CN={name}")))
}

/// Of a claim, a kubelet writes what it knows: how large the volume is, and how far a resize got.
fn claim(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Result<(), Status> {
    if request.subresource != "status" {
        return Err(request.forbidden("may only update PVC status"));
    }
    let (Operation::Update, Some(old)) = (request.operation, request.old_object) else {
        return Err(unexpected(request));
    };
    let others = |claim: &Value| {
        let mut claim = claim.clone();
        for (holder, keys) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"]),
        ] {
            let Some(fields) = claim.get_mut(holder).and_then(Value::as_object_mut) else { continue };
            fields.retain(|key, _| !keys.contains(&key.as_str()));
        }
        claim
    };
    let (new, old) = (others(object), others(old));
    let changed: Vec<String> = ["metadata", "spec", "status"]
        .iter()
        .flat_map(|holder| {
            let names = [&new, &old].into_iter().flat_map(|claim| claim[*holder].as_object().into_iter().flatten());
            let names: BTreeSet<&String> = names.map(|(name, _)| name).collect();
            let differ = names.into_iter().filter(|name| new[*holder][name.as_str()] != old[*holder][name.as_str()]);
            differ.map(|name| format!("{holder}.{name}")).collect::<Vec<_>>()
        })
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(request.forbidden(format!(
        "node {} is not allowed to update fields other than status.quantity and status.conditions: {}",
        go_quote(node),
        changed.join(", ")
    )))
}

fn unexpected(request: &AdmissionRequest<'_>) -> Status {
    request.forbidden(format!("unexpected operation {}", go_quote(verb(request.operation))))
}

fn verb(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// Some volume of the pod asks for a token for this audience.
fn mounts_token_for(request: &AdmissionRequest<'_>, pod: &Value, audience: &str) -> bool {
    let namespace = request.namespace;
    let of_driver = |driver: &str| {
        let found = (!driver.is_empty()).then(|| request.reader.peek("csidrivers", "", driver)).flatten();
        found.is_some_and(|driver| {
            list(&driver.value()["spec"], "tokenRequests").iter().any(|asked| text(asked, "audience") == audience)
        })
    };
    let of_claim = |name: &str| {
        let claim = request.reader.peek("persistentvolumeclaims", namespace, name)?;
        let volume = request.reader.peek("persistentvolumes", "", text(&claim.value()["spec"], "volumeName"))?;
        Some(of_driver(text(&volume.value()["spec"]["csi"], "driver")))
    };
    list(&pod["spec"], "volumes").iter().any(|volume| {
        let projected = list(&volume["projected"], "sources").iter().map(|source| &source["serviceAccountToken"]);
        let ephemeral = format!("{}-{}", text(&pod["metadata"], "name"), text(volume, "name"));
        projected.filter(|source| !source.is_null()).any(|source| text(source, "audience") == audience)
            || of_driver(text(&volume["csi"], "driver"))
            || match (&volume["persistentVolumeClaim"], volume["ephemeral"].is_null()) {
                (Value::Null, true) => false,
                (Value::Null, false) => of_claim(&ephemeral).unwrap_or(false),
                (claim, _) => of_claim(text(claim, "claimName")).unwrap_or(false),
            }
    })
}

/// A token that a node asks for is for an audience that its pod uses, or that the node may ask for.
async fn check_audience(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    node: &str,
    object: &Value,
    pod: &Value,
) -> Result<(), Status> {
    let audience = match list(&object["spec"], "audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err(request.forbidden("node may only request 0 or 1 audiences")),
    };
    if mounts_token_for(request, pod, audience) {
        return Ok(());
    }
    const VERB: &str = "request-serviceaccounts-token-audience";
    let asked = Attributes::resource(request.user, VERB, "", audience, request.namespace, request.name);
    if authorizer.authorize(&asked).await.allowed() {
        return Ok(());
    }
    Err(request.forbidden(format!(
        "audience {} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        go_quote(audience),
        format_args!("system:node:{node}")
    )))
}

async fn token(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    node: &str,
    object: &Value,
) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let reference = &object["spec"]["boundObjectRef"];
    if reference.is_null()
        || text(reference, "apiVersion") != "v1"
        || text(reference, "kind") != "Pod"
        || text(reference, "name").is_empty()
    {
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
        Some(pod) if pod.meta.field("spec.nodeName") == Some(node) => {
            check_audience(authorizer, request, node, object, &pod.value()).await
        }
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
