//! Follows the objects of priority and fairness, and says in each schema whether its level exists.
//!
//! Invariants:
//! - CD-1: a condition that is right is not written again.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tracing::debug;

use super::{LEVELS, SCHEMAS};
use crate::ApiServer;
use crate::bootstrap::FrontDoor;
use crate::cache::{Event, ObjectReader as _};

const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Changes come in groups.
const SETTLE: Duration = Duration::from_millis(5);

type Changes = Receiver<std::sync::Arc<Event>>;

/// Follows until the server stops.
pub async fn run(server: &ApiServer) {
    let inner = &server.server;
    let changes = (inner.cache.subscribe(SCHEMAS), inner.cache.subscribe(LEVELS));
    let (Some(mut schemas), Some(mut levels)) = changes else { return };
    loop {
        inner.flow.reconfigure(inner.cache.as_ref());
        tell(server).await;
        let ended = tokio::select! {
            ended = changed(&mut schemas) => ended,
            ended = changed(&mut levels) => ended,
        };
        if ended {
            return;
        }
        inner.clock.sleep(SETTLE).await;
        while schemas.try_recv().is_ok() || levels.try_recv().is_ok() {}
    }
}

/// Waits for a change; true when there will be none any more.
async fn changed(changes: &mut Changes) -> bool {
    matches!(changes.recv().await, Err(RecvError::Closed))
}

async fn tell(server: &ApiServer) {
    let inner = &server.server;
    let front = FrontDoor::new(server);
    let now = inner.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for schema in inner.cache.peek_all(SCHEMAS, None) {
        let schema = schema.value();
        let wanted = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let exists = inner.cache.peek(LEVELS, "", wanted).is_some();
        let Some(condition) = missing(&schema, wanted, exists, &now) else { continue };
        let name = schema["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}/status");
        let object = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": name},
            "status": {"conditions": [condition]},
        });
        if let Err(error) = front.apply(&path, MANAGER, &object).await {
            debug!(schema = name, error, "condition not written");
        }
    }
}

/// The condition to write, unless it is there.
fn missing(schema: &Value, level: &str, exists: bool, now: &str) -> Option<Value> {
    let level = format!("{level:?}");
    let found = if exists { "it exists" } else { "there is no such object" };
    let joint = if exists { "and" } else { "but" };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level} {joint} {found}");
    let (status, reason) = if exists { ("False", "Found") } else { ("True", "NotFound") };
    let conditions = schema["status"]["conditions"].as_array();
    let known = conditions.into_iter().flatten().find(|condition| condition["type"] == "Dangling");
    let mut time = json!(now);
    if let Some(known) = known {
        if known["status"] == status && known["reason"] == reason && known["message"] == message.as_str() {
            return None;
        }
        if known["status"] == status {
            time = known["lastTransitionTime"].clone();
        }
    }
    Some(json!({
        "type": "Dangling",
        "status": status,
        "lastTransitionTime": time,
        "reason": reason,
        "message": message,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_told_once() {
        let mut schema = json!({"metadata": {"name": "s"}});
        let told = missing(&schema, "l", false, "2026-01-01T00:00:00Z").expect("news");
        assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("NotFound")));
        schema["status"] = json!({"conditions": [told]});
        assert!(missing(&schema, "l", false, "2026-01-02T00:00:00Z").is_none());
        let told = missing(&schema, "l", true, "2026-01-02T00:00:00Z").expect("news");
        assert_eq!(
            told["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"l\" and it exists"
        );
    }
}
