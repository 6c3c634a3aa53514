//! ComponentStatus: whether the control plane's parts are well. Deprecated, computed, never stored.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{items, text};
use crate::kind::{Column, Kind, Scope, Str, Strategy};
use crate::printers::{columns_of, name_of};

pub struct ComponentStatus;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.core.v1.ComponentStatus";
    Kind::builtin("v1", "ComponentStatus", "componentstatuses", Scope::Cluster, DEFINITION, ComponentStatus)
        .with_short_names(&["cs"])
        .with_verbs(&["get", "list"])
}

/// The status of one part: well, with what it said, or not, with why.
pub fn status_of(name: &str, outcome: Result<String, String>) -> Value {
    let condition = match outcome {
        Ok(message) => json!({"type": "Healthy", "status": "True", "message": message}),
        Err(message) => json!({"type": "Healthy", "status": "False", "message": message}),
    };
    json!({
        "kind": "ComponentStatus",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "conditions": [condition],
    })
}

impl Strategy for ComponentStatus {
    fn deprecation(&self) -> Option<Str> {
        Some("v1 ComponentStatus is deprecated in v1.19+".into())
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/componentstatuses")
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let healthy = items(object, "conditions").iter().find(|c| text(c, "type") == "Healthy");
        let (status, message, error) =
            healthy.map_or(("Unknown", "", ""), |c| (text(c, "status"), text(c, "message"), text(c, "error")));
        let status = match status {
            "True" => "Healthy",
            "False" => "Unhealthy",
            _ => "Unknown",
        };
        vec![name_of(object), json!(status), json!(message), json!(error)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let row = |outcome| ComponentStatus.row(&status_of("etcd-0", outcome), Timestamp::UNIX_EPOCH);
        assert_eq!(row(Ok("ok".into())), [json!("etcd-0"), json!("Healthy"), json!("ok"), json!("")]);
        assert_eq!(row(Err("gone".into()))[1], "Unhealthy");
    }
}
