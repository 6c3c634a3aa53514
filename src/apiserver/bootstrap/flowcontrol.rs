//! The bootstrap flow schemas and priority levels.
//!
//! Invariants:
//! - BF-1: a mandatory object's spec is brought back; a suggested one's too, while its autoupdate annotation says so, or
//!   while nobody has changed it since it was made.

use api::flowcontrol::bootstrap::{AUTOUPDATE, is_mandatory, objects as bootstrap_objects};
use serde_json::{Value, json};

use super::{Merge, Wanted};

const MANAGER: &str = "api-priority-and-fairness-config-producer-v1";

pub fn objects() -> Vec<Wanted> {
    let kinds = [("PriorityLevelConfiguration", "prioritylevelconfigurations"), ("FlowSchema", "flowschemas")];
    let mut all = Vec::new();
    for (kind, plural) in kinds {
        for object in bootstrap_objects(kind) {
            let collection = format!("/apis/flowcontrol.apiserver.k8s.io/v1/{plural}");
            all.push(Wanted::new(collection, plural, object).merged(merge).managed_by(MANAGER));
        }
    }
    all
}

fn merge(kept: &Value, wanted: &Value) -> Merge {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let mandatory = is_mandatory(name);
    let annotation = kept["metadata"]["annotations"][AUTOUPDATE].as_str();
    let ours = match annotation.map(str::parse::<bool>) {
        Some(Ok(ours)) => ours,
        // Never changed by anybody: the server's.
        _ => kept["metadata"]["generation"] == 1,
    };
    let ours = mandatory || ours;
    let mut merged = kept.clone();
    if ours {
        let mut spec = wanted["spec"].clone();
        if name == "exempt" && kept["spec"]["exempt"].is_object() {
            spec["exempt"] = kept["spec"]["exempt"].clone();
        }
        merged["spec"] = spec;
    }
    let text = ours.to_string();
    if annotation != Some(text.as_str()) {
        if !merged["metadata"]["annotations"].is_object() {
            merged["metadata"]["annotations"] = json!({});
        }
        merged["metadata"]["annotations"][AUTOUPDATE] = text.into();
    }
    if merged == *kept { Merge::Good } else { Merge::Update(merged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kept: &Value) -> Option<Value> {
        let mut wanted = kept.clone();
        wanted["spec"] = json!({"matchingPrecedence": 7});
        match merge(kept, &wanted) {
            Merge::Update(object) => Some(object),
            _ => None,
        }
    }

    #[test]
    fn follows_unless_taken_over() {
        let of = |annotation: &str, generation: i64| {
            json!({
                "metadata": {"name": "probes", "generation": generation, "annotations": {AUTOUPDATE: annotation}},
                "spec": {"matchingPrecedence": 3},
            })
        };
        assert_eq!(outcome(&of("true", 4)).expect("an update")["spec"]["matchingPrecedence"], 7);
        assert!(outcome(&of("false", 1)).is_none());
        let mut plain = of("", 2);
        plain["metadata"]["annotations"] = Value::Null;
        let updated = outcome(&plain).expect("an annotation");
        assert_eq!(updated["metadata"]["annotations"][AUTOUPDATE], "false");
        assert_eq!(updated["spec"]["matchingPrecedence"], 3);
    }
}
