//! The flow schemas and priority levels that every cluster has: facts, in `data/bootstrap-flowcontrol.json`.
//!
//! Invariants:
//! - FB-1: mandatory objects always exist with their fixed spec; suggested ones follow unless somebody took them over.

use serde_json::{Value, json};

const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// Whether the server may bring an object's spec back to its own.
pub const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const MANDATORY: &[&str] = &["exempt", "catch-all"];

fn packed() -> Value {
    serde_json::from_str(include_str!("../data/bootstrap-flowcontrol.json")).expect("the packed file is JSON")
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": GROUP_VERSION,
        "kind": kind,
        "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}},
        "spec": spec,
    })
}

/// The object of this name, when it is a mandatory one.
pub fn mandatory(kind: &str, name: &str) -> Option<Value> {
    if !MANDATORY.contains(&name) {
        return None;
    }
    packed().get(kind)?.get(name).map(|spec| object(kind, name, spec))
}

pub fn is_mandatory(name: &str) -> bool {
    MANDATORY.contains(&name)
}

/// Every object of a kind (`FlowSchema` or `PriorityLevelConfiguration`).
pub fn objects(kind: &str) -> Vec<Value> {
    let packed = packed();
    let all = packed.get(kind).and_then(Value::as_object);
    all.into_iter().flatten().map(|(name, spec)| object(kind, name, spec)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_there() {
        assert_eq!((objects("FlowSchema").len(), objects("PriorityLevelConfiguration").len()), (11, 8));
        assert!(mandatory("FlowSchema", "probes").is_none());
        assert_eq!(mandatory("PriorityLevelConfiguration", "exempt").expect("one")["spec"]["type"], "Exempt");
    }
}
