//! TaintNodesByCondition: a new node takes no pods until it is known to be ready.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{AdmissionRequest, Operation, Plugin, list, list_mut, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.is("", "nodes") || !request.subresource.is_empty() {
            return Ok(());
        }
        if object["spec"].is_null() {
            object["spec"] = json!({});
        }
        let tainted = list(&object["spec"], "taints")
            .iter()
            .any(|taint| text(taint, "key") == NOT_READY && text(taint, "effect") == "NoSchedule");
        if !tainted {
            list_mut(&mut object["spec"], "taints").push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
