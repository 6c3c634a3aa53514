//! PodTopologyLabels: a pod carries zone and region of the node it is bound to.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin, text};

const LABELS: &[&str] = &["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.is("", "pods") {
            return Ok(());
        }
        let node = match request.subresource {
            // What a binding is labelled with, its pod will be, too.
            "binding" if text(&object["target"], "kind") == "Node" => text(&object["target"], "name"),
            "" => text(&object["spec"], "nodeName"),
            _ => "",
        };
        // A node that is not there has no topology.
        let found = if node.is_empty() { None } else { request.reader.peek("minions", "", node) };
        let Some(node) = found else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = node.meta.labels.get(*label) {
                apimachinery::value::set(object, &["metadata", "labels", label], value.clone());
            }
        }
        Ok(())
    }
}
