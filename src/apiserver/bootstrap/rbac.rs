//! Upstream's default roles and bindings, packed by `scripts/gen-bootstrap-rbac.py`.

use serde_json::{Map, Value, json};

use super::{Merge, Wanted};
use crate::authz::Rule;
use crate::authz::rules::missing;

static PACKED: &str = include_str!("../data/bootstrap-rbac.json");
const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const LABEL: &str = "kubernetes.io/bootstrapping";

fn packed() -> Value {
    serde_json::from_str(PACKED).expect("the packed file is JSON")
}

/// The rules of a default ClusterRole; none for an unknown one.
pub fn default_cluster_role_rules(name: &str) -> Vec<Rule> {
    let all = packed();
    let found = all["clusterroles"].as_array().into_iter().flatten().find(|role| role["name"] == name);
    found.map(|role| Rule::list(&role["rules"])).unwrap_or_default()
}

pub fn objects() -> Vec<Wanted> {
    let all = packed();
    let mut out = Vec::new();
    for (key, kind, roles) in [
        ("clusterroles", "ClusterRole", true),
        ("clusterrolebindings", "ClusterRoleBinding", false),
        ("roles", "Role", true),
        ("rolebindings", "RoleBinding", false),
    ] {
        for packed in all[key].as_array().into_iter().flatten() {
            let object = unpack(packed, kind);
            let collection = match packed["namespace"].as_str() {
                Some(namespace) => format!("/apis/{GROUP}/v1/namespaces/{namespace}/{key}"),
                None => format!("/apis/{GROUP}/v1/{key}"),
            };
            out.push(Wanted::new(collection, key, object).merged(if roles { merge_role } else { merge_binding }));
        }
    }
    out
}

fn unpack(packed: &Value, kind: &str) -> Value {
    let mut labels = packed["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(LABEL.into(), "rbac-defaults".into());
    let mut metadata = json!({
        "name": packed["name"],
        "labels": labels,
        "annotations": {AUTOUPDATE: "true"},
    });
    if let Some(namespace) = packed["namespace"].as_str() {
        metadata["namespace"] = namespace.into();
    }
    let mut object = Map::new();
    object.insert("apiVersion".into(), format!("{GROUP}/v1").into());
    object.insert("kind".into(), kind.into());
    object.insert("metadata".into(), metadata);
    for key in ["rules", "aggregationRule", "roleRef", "subjects"] {
        if let Some(value) = packed.get(key) {
            object.insert(key.into(), value.clone());
        }
    }
    Value::Object(object)
}

fn is_left_alone(kept: &Value) -> bool {
    kept["metadata"]["annotations"][AUTOUPDATE].as_str() == Some("false")
}

/// Adds labels and annotations that are not there; true when there were any.
fn add_metadata(merged: &mut Value, wanted: &Value) -> bool {
    let mut changed = false;
    for key in ["labels", "annotations"] {
        for (name, value) in wanted["metadata"][key].as_object().into_iter().flatten() {
            if merged["metadata"][key][name].is_null() {
                if !merged["metadata"][key].is_object() {
                    merged["metadata"][key] = json!({});
                }
                merged["metadata"][key][name] = value.clone();
                changed = true;
            }
        }
    }
    changed
}

/// Appends to the list at `key` what is missing in it.
fn append(merged: &mut Value, key: &str, missing: Vec<Value>) -> bool {
    if missing.is_empty() {
        return false;
    }
    let mut list = merged[key].as_array().cloned().unwrap_or_default();
    list.extend(missing);
    merged[key] = list.into();
    true
}

fn merge_role(kept: &Value, wanted: &Value) -> Merge {
    if is_left_alone(kept) {
        return Merge::Good;
    }
    let mut merged = kept.clone();
    let mut changed = add_metadata(&mut merged, wanted);
    let selectors = &wanted["aggregationRule"]["clusterRoleSelectors"];
    if let Some(selectors) = selectors.as_array() {
        let had = kept["aggregationRule"]["clusterRoleSelectors"].as_array().cloned().unwrap_or_default();
        let lacking: Vec<Value> = selectors.iter().filter(|s| !had.contains(s)).cloned().collect();
        if !lacking.is_empty() {
            merged["aggregationRule"] = json!({"clusterRoleSelectors": ([had, lacking].concat())});
            changed = true;
        }
    } else {
        let lacking = missing(&Rule::list(&kept["rules"]), &Rule::list(&wanted["rules"]));
        changed |= append(&mut merged, "rules", lacking.iter().map(Rule::to_value).collect());
    }
    if changed { Merge::Update(merged) } else { Merge::Good }
}

fn merge_binding(kept: &Value, wanted: &Value) -> Merge {
    if is_left_alone(kept) {
        return Merge::Good;
    }
    if kept["roleRef"] != wanted["roleRef"] {
        return Merge::Replace;
    }
    let mut merged = kept.clone();
    let mut changed = add_metadata(&mut merged, wanted);
    let same =
        |a: &Value, b: &Value| a["kind"] == b["kind"] && a["name"] == b["name"] && a["namespace"] == b["namespace"];
    let had = kept["subjects"].as_array().map_or(&[][..], Vec::as_slice);
    let lacking: Vec<Value> = wanted["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|subject| !had.iter().any(|h| same(h, subject)))
        .cloned()
        .collect();
    changed |= append(&mut merged, "subjects", lacking);
    if changed { Merge::Update(merged) } else { Merge::Good }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(key: &str, name: &str) -> Value {
        let found = objects().into_iter().find(|w| w.storage_key == key && w.object["metadata"]["name"] == name);
        found.expect("a default object").object
    }

    #[test]
    fn every_object_is_whole() {
        let all = objects();
        assert_eq!(all.len(), 71 + 52 + 7 + 7);
        assert!(all.iter().all(|w| w.object["metadata"]["labels"][LABEL] == "rbac-defaults"));
        assert!(!default_cluster_role_rules("system:node").is_empty());
        let view = wanted("clusterroles", "view");
        assert!(view["rules"].is_null() && view["aggregationRule"].is_object());
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let whole = wanted("clusterroles", "system:node");
        assert!(matches!(merge_role(&whole, &whole), Merge::Good));
        let mut less = whole.clone();
        less["rules"].as_array_mut().expect("rules").truncate(2);
        less["metadata"]["labels"]["mine"] = "kept".into();
        let Merge::Update(merged) = merge_role(&less, &whole) else { panic!("rules are missing") };
        assert_eq!(missing(&Rule::list(&merged["rules"]), &Rule::list(&whole["rules"])), []);
        assert_eq!(merged["metadata"]["labels"]["mine"], "kept");
        less["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert!(matches!(merge_role(&less, &whole), Merge::Good));

        let binding = wanted("clusterrolebindings", "cluster-admin");
        let mut mine = binding.clone();
        mine["subjects"] = json!([{"kind": "User", "name": "me", "apiGroup": GROUP}]);
        let Merge::Update(merged) = merge_binding(&mine, &binding) else { panic!("a subject is missing") };
        assert_eq!(merged["subjects"].as_array().expect("subjects").len(), 2);
        mine["roleRef"]["name"] = "other".into();
        assert!(matches!(merge_binding(&mine, &binding), Merge::Replace));
    }
}
