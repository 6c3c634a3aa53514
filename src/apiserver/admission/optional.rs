//! Small plugins that run only when they are asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::core::podspec::is_extended;
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{AdmissionRequest, Operation, Plugin, list, list_mut, text};
use crate::authz::{Attributes, Authorizer};

const CONTAINERS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

fn creates_or_updates(request: &AdmissionRequest<'_>) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update)
}

/// Every start of a container pulls its image, with the pod's own credentials.
pub struct AlwaysPullImages;

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let of_pod = request.is("", "pods") && matches!(request.subresource, "" | "ephemeralcontainers");
        if !of_pod || !creates_or_updates(request) {
            return Ok(());
        }
        // An update that brings no other image changes nothing that runs.
        let images = |pod: &Value| -> BTreeSet<String> {
            let all = CONTAINERS.iter().flat_map(|key| list(&pod["spec"], key));
            all.map(|container| text(container, "image").to_owned()).collect()
        };
        if request.old_object.is_some_and(|old| images(object).is_subset(&images(old))) {
            return Ok(());
        }
        for key in CONTAINERS {
            for container in object["spec"].get_mut(*key).and_then(Value::as_array_mut).into_iter().flatten() {
                container["imagePullPolicy"] = "Always".into();
            }
        }
        Ok(())
    }
}

/// Nobody claims addresses from outside for a Service.
pub struct DenyServiceExternalIPs;

#[async_trait]
impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        if !request.is("", "services") || !request.subresource.is_empty() || !creates_or_updates(request) {
            return Ok(());
        }
        let known = request.old_object.map_or(&[][..], |old| list(&old["spec"], "externalIPs"));
        if list(&object["spec"], "externalIPs").iter().all(|address| known.contains(address)) {
            return Ok(());
        }
        Err(request.forbidden("Use of external IPs is denied by admission control."))
    }
}

/// Pods that ask for a vendor's resource tolerate the taint of the nodes that have it.
pub struct ExtendedResourceToleration;

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if !request.writes_pod() || !object["spec"].is_object() {
            return Ok(());
        }
        let mut names = BTreeSet::new();
        for container in ["containers", "initContainers"].iter().flat_map(|key| list(&object["spec"], key)) {
            let asked = container["resources"]["requests"].as_object().into_iter().flatten();
            names.extend(asked.map(|(name, _)| name.clone()).filter(|name| is_extended(name)));
        }
        let kept = if names.is_empty() { return Ok(()) } else { list_mut(&mut object["spec"], "tolerations") };
        for name in names {
            let toleration = json!({"key": name, "operator": "Exists"});
            if !kept.iter().any(|known| known["key"] == toleration["key"] && known["operator"] == "Exists") {
                kept.push(toleration);
            }
        }
        Ok(())
    }
}

/// Pods keep apart by host name only: anything wider would let one tenant shut others out.
pub struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        if !request.writes_pod() {
            return Ok(());
        }
        let terms = &object["spec"]["affinity"]["podAntiAffinity"];
        let hard = list(terms, "requiredDuringSchedulingIgnoredDuringExecution");
        let Some(wrong) = hard.iter().map(|term| text(term, "topologyKey")).find(|key| *key != HOST) else {
            return Ok(());
        };
        Err(request.forbidden(format!(
            "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {wrong} but only key {HOST} is allowed"
        )))
    }
}

const HOST: &str = "kubernetes.io/hostname";

/// Objects are made in namespaces that are there.
pub struct NamespaceExists;

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Status> {
        let inside = !request.namespace.is_empty() && !request.is("", "namespaces");
        let applies = creates_or_updates(request) || request.operation == Operation::Delete;
        if !inside || !applies || request.reader.peek("namespaces", "", request.namespace).is_some() {
            return Ok(());
        }
        match request.reader.get("namespaces", "", request.namespace).await {
            Some(_) => Ok(()),
            None => Err(Status::not_found(&GroupResource::new("", "namespaces"), request.namespace)),
        }
    }
}

/// An object names as blocking owners only what its writer may set finalizers on, and its owners are changed only by
/// those who may delete it.
pub struct OwnerReferencesPermissionEnforcement {
    authorizer: Arc<Authorizer>,
}

impl OwnerReferencesPermissionEnforcement {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self { authorizer }
    }
}

fn blocking(object: &Value) -> Vec<&Value> {
    let owners = list(&object["metadata"], "ownerReferences").iter();
    owners.filter(|owner| owner["blockOwnerDeletion"] == true).collect()
}

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        if !creates_or_updates(request) || (request.is("", "pods") && !request.subresource.is_empty()) {
            return Ok(());
        }
        let owners = |value: &Value| list(&value["metadata"], "ownerReferences").to_vec();
        let old = request.old_object.map_or_else(Vec::new, owners);
        if owners(object) == old {
            return Ok(());
        }
        let (group, resource) = (request.kind.group.as_ref(), request.kind.plural.as_ref());
        if request.operation == Operation::Update {
            let mut asked =
                Attributes::resource(request.user, "delete", group, resource, request.namespace, request.name);
            asked.subresource = request.subresource.to_owned();
            let decision = self.authorizer.authorize(&asked).await;
            if !decision.allowed() {
                return Err(request.forbidden(format!(
                    "cannot set an ownerRef on a resource you can't delete: {}, <nil>",
                    decision.reason()
                )));
            }
        }
        let before = request.old_object.map_or_else(Vec::new, |old| {
            blocking(old).into_iter().map(|owner| owner["uid"].clone()).collect::<Vec<_>>()
        });
        for owner in blocking(object).into_iter().filter(|owner| !before.contains(&owner["uid"])) {
            let (group, version) =
                text(owner, "apiVersion").rsplit_once('/').unwrap_or(("", text(owner, "apiVersion")));
            let served = api::kinds()
                .iter()
                .find(|kind| kind.group == group && kind.version == version && kind.kind == text(owner, "kind"));
            let Some(kind) = served else {
                return Err(request.forbidden(format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {}",
                    text(owner, "apiVersion"),
                    text(owner, "kind")
                )));
            };
            let namespace = if kind.namespaced() { request.namespace } else { "" };
            let plural = kind.plural.as_ref();
            let mut asked = Attributes::resource(request.user, "update", group, plural, namespace, text(owner, "name"));
            asked.subresource = "finalizers".to_owned();
            let decision = self.authorizer.authorize(&asked).await;
            if !decision.allowed() {
                return Err(request.forbidden(format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {}, <nil>",
                    decision.reason()
                )));
            }
        }
        Ok(())
    }
}

/// Says yes to everything, as every other plugin does that has nothing to say.
pub struct AlwaysAdmit;

#[async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
}

/// Says no to everything.
pub struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Status> {
        Err(request.forbidden("admission control is denying all modifications"))
    }
}
