//! The node authorizer: a kubelet reads what its pods refer to, and its own Node, Lease and CSINode.
//!
//! Invariants:
//! - NA-1: an object belongs to a node only through a pod bound to that node.
//! - NA-2: what nodes may write is limited further by the NodeRestriction admission plugin.

use std::sync::OnceLock;

use serde_json::Value;

use super::rules::{Rule, go_quote};
use super::{Attributes, Decision};
use crate::attributes::User;
use crate::bootstrap;
use crate::cache::{Object, ObjectReader};

const NODES: &str = "system:nodes";
const PREFIX: &str = "system:node:";
const LEASES: &str = "kube-node-lease";

/// The node this user is; `None` for other users, `Some("")` for a node without a name.
pub fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    user.groups.iter().any(|g| g == NODES).then_some(name)
}

pub fn authorize(reader: &dyn ObjectReader, attributes: &Attributes) -> Decision {
    let deny = |reason: &str| Decision::Deny(reason.to_owned());
    let Some(node) = node_of(&attributes.user) else { return deny("") };
    if node.is_empty() {
        return Decision::Deny(format!("unknown node for user {}", go_quote(&attributes.user.name)));
    }
    if attributes.is_resource {
        match (attributes.group.as_str(), attributes.resource.as_str()) {
            ("", "secrets") => return read_referred(reader, node, attributes, Referred::Secret),
            ("", "configmaps") => return read_referred(reader, node, attributes, Referred::ConfigMap),
            ("", "persistentvolumeclaims") if attributes.subresource == "status" => {
                return match attributes.verb.as_str() {
                    "update" | "patch" => related(reader, node, attributes, Referred::Claim),
                    _ => deny("can only update or patch status"),
                };
            }
            ("", "persistentvolumeclaims") => return get_referred(reader, node, attributes, Referred::Claim),
            ("", "persistentvolumes") => return get_referred(reader, node, attributes, Referred::Volume),
            ("", "serviceaccounts") => return service_account(reader, node, attributes),
            ("coordination.k8s.io", "leases") => return lease(node, attributes),
            ("storage.k8s.io", "csinodes") => return csi_node(node, attributes),
            ("", "nodes") => return own_node(node, attributes),
            ("", "pods") => return pod(reader, node, attributes),
            _ => {}
        }
    }
    if node_rules().iter().any(|rule| rule.allows(&attributes.asked())) {
        return Decision::Allow(String::new());
    }
    deny("")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Referred {
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ServiceAccount,
}

fn read_referred(reader: &dyn ObjectReader, node: &str, attributes: &Attributes, what: Referred) -> Decision {
    let deny = |reason: &str| Decision::Deny(reason.to_owned());
    if !matches!(attributes.verb.as_str(), "get" | "list" | "watch") {
        return deny("can only read resources of this type");
    }
    if !attributes.subresource.is_empty() {
        return deny("cannot read subresource");
    }
    if attributes.namespace.is_empty() {
        return deny("can only read namespaced object of this type");
    }
    related(reader, node, attributes, what)
}

fn get_referred(reader: &dyn ObjectReader, node: &str, attributes: &Attributes, what: Referred) -> Decision {
    if attributes.verb != "get" {
        return Decision::Deny("can only get individual resources of this type".to_owned());
    }
    if !attributes.subresource.is_empty() {
        return Decision::Deny("cannot get subresource".to_owned());
    }
    related(reader, node, attributes, what)
}

fn service_account(reader: &dyn ObjectReader, node: &str, attributes: &Attributes) -> Decision {
    let deny = |reason: &str| Decision::Deny(reason.to_owned());
    match (attributes.verb.as_str(), attributes.subresource.as_str()) {
        ("get", "") => related(reader, node, attributes, Referred::ServiceAccount),
        ("create", "token") => related(reader, node, attributes, Referred::ServiceAccount),
        ("create", _) => deny("can only create token subresource of serviceaccount"),
        _ => deny("can only create tokens for individual service accounts"),
    }
}

fn lease(node: &str, attributes: &Attributes) -> Decision {
    let deny = |reason: &str| Decision::Deny(reason.to_owned());
    if !matches!(attributes.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return deny("can only get, create, update, patch, or delete a node lease");
    }
    if attributes.namespace != LEASES {
        return Decision::Deny(format!("can only access leases in the {} system namespace", go_quote(LEASES)));
    }
    if attributes.verb != "create" && attributes.name != node {
        return deny("can only access node lease with the same name as the requesting node");
    }
    Decision::Allow(String::new())
}

fn csi_node(node: &str, attributes: &Attributes) -> Decision {
    let deny = |reason: &str| Decision::Deny(reason.to_owned());
    if !matches!(attributes.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return deny("can only get, create, update, patch, or delete a CSINode");
    }
    if !attributes.subresource.is_empty() {
        return deny("cannot authorize CSINode subresources");
    }
    if attributes.verb != "create" && attributes.name != node {
        return deny("can only access CSINode with the same name as the requesting node");
    }
    Decision::Allow(String::new())
}

fn own_node(node: &str, attributes: &Attributes) -> Decision {
    match (attributes.subresource.as_str(), attributes.verb.as_str()) {
        // NodeRestriction limits these to the node itself.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Decision::Allow(String::new()),
        ("", "get" | "list" | "watch") if attributes.name == node => Decision::Allow(String::new()),
        ("", "get" | "list" | "watch") if attributes.name.is_empty() => {
            Decision::Deny(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Decision::Deny(format!("node '{node}' cannot read '{}', only its own Node object", attributes.name))
        }
        _ => Decision::Deny(String::new()),
    }
}

fn pod(reader: &dyn ObjectReader, node: &str, attributes: &Attributes) -> Decision {
    match (attributes.subresource.as_str(), attributes.verb.as_str()) {
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
            Decision::Allow(String::new())
        }
        ("", "get") => {
            let own = reader
                .peek("pods", &attributes.namespace, &attributes.name)
                .is_some_and(|pod| pod.meta.field("spec.nodeName") == Some(node));
            if own { Decision::Allow(String::new()) } else { unrelated(node) }
        }
        ("", "list" | "watch") => {
            if attributes.fields.iter().any(|(field, value)| field == "spec.nodeName" && value == node) {
                Decision::Allow(String::new())
            } else {
                Decision::Deny("can only list/watch pods with spec.nodeName field selector".to_owned())
            }
        }
        _ => Decision::Deny(String::new()),
    }
}

fn unrelated(node: &str) -> Decision {
    Decision::Deny(format!("no relationship found between node '{node}' and this object"))
}

/// NA-1.
fn related(reader: &dyn ObjectReader, node: &str, attributes: &Attributes, what: Referred) -> Decision {
    if attributes.name.is_empty() {
        return Decision::Deny("No Object name found".to_owned());
    }
    let (namespace, name) = match what {
        // A volume belongs to whoever mounts the claim it is bound to.
        Referred::Volume => {
            let claim =
                reader.peek("persistentvolumes", "", &attributes.name).map(|pv| pv.value()["spec"]["claimRef"].take());
            let text = |key: &str| claim.as_ref().and_then(|c| c[key].as_str()).unwrap_or_default().to_owned();
            (text("namespace"), text("name"))
        }
        _ => (attributes.namespace.clone(), attributes.name.clone()),
    };
    let what = if what == Referred::Volume { Referred::Claim } else { what };
    let found = !name.is_empty()
        && reader
            .peek_all("pods", Some(&namespace))
            .iter()
            .filter(|pod| pod.meta.field("spec.nodeName") == Some(node))
            .any(|pod| may_name(pod, &name) && refers(&pod.value(), what, &name));
    if found { Decision::Allow(String::new()) } else { unrelated(node) }
}

/// A cheap look before decoding.
fn may_name(pod: &Object, name: &str) -> bool {
    let needle = name.as_bytes();
    pod.stored().windows(needle.len()).any(|window| window == needle)
}

fn refers(pod: &Value, what: Referred, name: &str) -> bool {
    let spec = &pod["spec"];
    let is = |value: &Value| value.as_str() == Some(name);
    if what == Referred::ServiceAccount {
        return is(&spec["serviceAccountName"]);
    }
    if what == Referred::Secret && list(&spec["imagePullSecrets"]).any(|s| is(&s["name"])) {
        return true;
    }
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    let in_environment = containers.iter().flat_map(|key| list(&spec[*key])).any(|container| {
        let (from, key) = match what {
            Referred::Secret => ("secretRef", "secretKeyRef"),
            Referred::ConfigMap => ("configMapRef", "configMapKeyRef"),
            _ => return false,
        };
        list(&container["envFrom"]).any(|e| is(&e[from]["name"]))
            || list(&container["env"]).any(|e| is(&e["valueFrom"][key]["name"]))
    });
    in_environment || list(&spec["volumes"]).any(|volume| volume_refers(pod, volume, what, name))
}

fn volume_refers(pod: &Value, volume: &Value, what: Referred, name: &str) -> bool {
    let is = |value: &Value| value.as_str() == Some(name);
    match what {
        Referred::ConfigMap => {
            is(&volume["configMap"]["name"])
                || list(&volume["projected"]["sources"]).any(|source| is(&source["configMap"]["name"]))
        }
        Referred::Secret => {
            is(&volume["secret"]["secretName"])
                || list(&volume["projected"]["sources"]).any(|source| is(&source["secret"]["name"]))
                || ["csi", "cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"].iter().any(|kind| {
                    is(&volume[*kind]["secretRef"]["name"]) || is(&volume[*kind]["nodePublishSecretRef"]["name"])
                })
                || is(&volume["azureFile"]["secretName"])
        }
        Referred::Claim => {
            is(&volume["persistentVolumeClaim"]["claimName"])
                || (!volume["ephemeral"].is_null()
                    && format!(
                        "{}-{}",
                        pod["metadata"]["name"].as_str().unwrap_or_default(),
                        volume["name"].as_str().unwrap_or_default()
                    ) == name)
        }
        Referred::Volume | Referred::ServiceAccount => false,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What every node may do besides: the rules of the bootstrap role `system:node`.
fn node_rules() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| bootstrap::default_cluster_role_rules("system:node"))
}
