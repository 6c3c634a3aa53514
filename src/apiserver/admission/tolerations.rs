//! DefaultTolerationSeconds: pods stay on a node that is not ready or unreachable for five minutes, unless they say
//! otherwise.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{AdmissionRequest, Plugin, list, list_mut, text};

const SECONDS: i64 = 300;
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if !request.writes_pod() || !object["spec"].is_object() {
            return Ok(());
        }
        let spec = &mut object["spec"];
        for taint in TAINTS {
            let tolerated = list(spec, "tolerations").iter().any(|toleration| {
                let (key, effect) = (text(toleration, "key"), text(toleration, "effect"));
                (key == *taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            });
            if !tolerated {
                list_mut(spec, "tolerations").push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        Ok(())
    }
}
