//! Pods that lose their place: the condition that says why, and the index by node.

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::error::{Error, gone_is_fine};

/// On pods: the node that they are bound to ("" for none).
const BY_NODE: &str = "node-name";

pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub fn index_by_node(pods: &Informer<Pod>) {
    pods.add_index(BY_NODE, |pod| vec![node_of(pod).to_owned()]);
}

pub fn pods_on(pods: &Informer<Pod>, node: &str) -> Vec<std::sync::Arc<Pod>> {
    pods.by_index(BY_NODE, node)
}

pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Why a pod is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Why {
    pub reason: &'static str,
    pub message: &'static str,
    /// Nobody else will say that it failed.
    pub fails: bool,
}

/// Writes the condition `DisruptionTarget`, once.
///
/// # Errors
/// When the server refuses it for another reason than that the pod is gone.
pub async fn tell(client: &Client, pod: &Pod, why: Why, now: Timestamp) -> Result<(), Error> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let told = conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "DisruptionTarget"
            && condition.status == "True"
            && condition.reason.as_deref() == Some(why.reason)
    });
    let fails = why.fails && !is_finished(pod);
    if told && !fails {
        return Ok(());
    }
    let mut status = json!({ "conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": why.reason,
        "message": why.message,
        "observedGeneration": pod.metadata.generation,
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }] });
    if fails {
        status["phase"] = json!("Failed");
    }
    let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref());
    let name = name.unwrap_or_default();
    let patch = Patch::Strategic(json!({ "metadata": { "uid": pod.metadata.uid }, "status": status }));
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let result = api.patch_status(name, &PatchParams::default(), &patch).await;
    gone_is_fine(result).map_err(Error::api(format!("update status of pod {namespace}/{name}"))).map(|_| ())
}
