//! Controllers and their dependents: owner references, selection, adoption.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;

/// The reference by which a controller owns `dependent`s of `owner`.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The one reference that is marked as controller.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|reference| reference.controller == Some(true))
}

/// Whether the object that carries `uid` controls the one with `meta`.
pub fn is_controlled_by(meta: &ObjectMeta, uid: Option<&String>) -> bool {
    controller_of(meta).is_some_and(|reference| Some(&reference.uid) == uid)
}

pub type Labels = BTreeMap<String, String>;

/// An empty selector selects everything.
pub fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let get = |key: &str| labels.and_then(|labels| labels.get(key));
    selector.match_labels.iter().flatten().all(|(key, value)| get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            let actual = get(&requirement.key);
            match requirement.operator.as_str() {
                "In" => actual.is_some_and(|value| values.contains(value)),
                "NotIn" => actual.is_none_or(|value| !values.contains(value)),
                "Exists" => actual.is_some(),
                "DoesNotExist" => actual.is_none(),
                _ => false,
            }
        })
}

/// What the controller with `uid` and `selector` should do about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    Mine,
    /// It matches and nobody controls it.
    Adopt,
    /// It is ours but does not match any more.
    Release,
    NotMine,
}

pub fn claim(meta: &ObjectMeta, owner: &ObjectMeta, selector: &LabelSelector) -> Claim {
    let matches = selects(selector, meta.labels.as_ref());
    match controller_of(meta) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::NotMine,
        Some(_) if matches => Claim::Mine,
        Some(_) if owner.deletion_timestamp.is_some() => Claim::NotMine,
        Some(_) => Claim::Release,
        None if owner.deletion_timestamp.is_some() || meta.deletion_timestamp.is_some() || !matches => Claim::NotMine,
        None => Claim::Adopt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).expect("metadata")
    }

    #[test]
    fn claims() {
        let selector: LabelSelector =
            serde_json::from_value(json!({ "matchLabels": { "app": "x" } })).expect("a selector");
        let owner = meta(json!({ "uid": "u1" }));
        let owned = |uid: &str, label: &str| {
            meta(json!({ "labels": { "app": label }, "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true }
            ] }))
        };
        assert_eq!(claim(&owned("u1", "x"), &owner, &selector), Claim::Mine);
        assert_eq!(claim(&owned("u1", "y"), &owner, &selector), Claim::Release);
        assert_eq!(claim(&owned("u2", "x"), &owner, &selector), Claim::NotMine);
        let orphan = meta(json!({ "labels": { "app": "x" } }));
        assert_eq!(claim(&orphan, &owner, &selector), Claim::Adopt);
        let leaving = meta(json!({ "uid": "u1", "deletionTimestamp": "2026-01-01T00:00:00Z" }));
        assert_eq!(claim(&orphan, &leaving, &selector), Claim::NotMine);
    }
}
