//! What to do about one object, given the server's own word about it and its owners. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PropagationPolicy;

use super::graph::{FOREGROUND, ORPHAN};

/// What became of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Solid,
    Absent,
    /// It waits for its dependents to go.
    Waiting,
}

pub struct Observed<'a> {
    /// The object as the server has it now.
    pub latest: &'a ObjectMeta,
    /// What became of each of its owner references.
    pub owners: &'a [Owner],
    pub has_dependents: bool,
    /// One of its dependents waits for its own dependents: there may be a circle.
    pub dependent_waits: bool,
}

#[derive(Debug, PartialEq)]
pub enum Action {
    Delete(PropagationPolicy),
    /// Keep these owners only.
    SetOwners(Vec<OwnerReference>),
}

pub fn plan(observed: &Observed<'_>) -> Vec<Action> {
    let references = observed.latest.owner_references.as_deref().unwrap_or_default();
    let has = |wanted: Owner| observed.owners.contains(&wanted);
    if references.is_empty() {
        return Vec::new();
    }
    if has(Owner::Solid) {
        if !has(Owner::Absent) && !has(Owner::Waiting) {
            return Vec::new();
        }
        let kept = references.iter().zip(observed.owners).filter(|(_, owner)| **owner == Owner::Solid);
        return vec![Action::SetOwners(kept.map(|(reference, _)| reference.clone()).collect())];
    }
    if has(Owner::Waiting) && observed.has_dependents {
        let mut actions = Vec::new();
        let blocks = references.iter().any(|reference| reference.block_owner_deletion == Some(true));
        if observed.dependent_waits && blocks {
            let unblocked =
                |reference: &OwnerReference| OwnerReference { block_owner_deletion: Some(false), ..reference.clone() };
            actions.push(Action::SetOwners(references.iter().map(unblocked).collect()));
        }
        actions.push(Action::Delete(PropagationPolicy::Foreground));
        return actions;
    }
    let finalizer = |name: &str| observed.latest.finalizers.iter().flatten().any(|other| other == name);
    vec![Action::Delete(if finalizer(ORPHAN) {
        PropagationPolicy::Orphan
    } else if finalizer(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(owners: &[Owner], finalizer: Option<&str>, has_dependents: bool, dependent_waits: bool) -> Vec<Action> {
        let references: Vec<_> = (0..owners.len())
            .map(|n| json!({ "apiVersion": "v1", "kind": "K", "name": n.to_string(), "uid": n.to_string(), "blockOwnerDeletion": true }))
            .collect();
        let latest: ObjectMeta =
            serde_json::from_value(json!({ "ownerReferences": references, "finalizers": finalizer.as_slice() }))
                .expect("metadata");
        plan(&Observed { latest: &latest, owners, has_dependents, dependent_waits })
    }

    #[test]
    fn table() {
        use Owner::{Absent, Solid, Waiting};
        let delete = |policy| vec![Action::Delete(policy)];
        assert_eq!(run(&[], None, false, false), []);
        assert_eq!(run(&[Solid], None, false, false), []);
        assert_eq!(run(&[Absent], None, false, false), delete(PropagationPolicy::Background));
        assert_eq!(run(&[Absent, Absent], Some(ORPHAN), true, false), delete(PropagationPolicy::Orphan));
        assert_eq!(run(&[Absent], Some(FOREGROUND), true, false), delete(PropagationPolicy::Foreground));
        assert_eq!(run(&[Waiting], None, false, false), delete(PropagationPolicy::Background));
        assert_eq!(run(&[Waiting, Absent], None, true, false), delete(PropagationPolicy::Foreground));
        for other in [Absent, Waiting] {
            let actions = run(&[other, Solid], None, true, true);
            let [Action::SetOwners(kept)] = actions.as_slice() else { panic!("{actions:?}") };
            assert_eq!(kept.iter().map(|reference| reference.name.as_str()).collect::<Vec<_>>(), ["1"]);
        }
        let circle = run(&[Waiting], None, true, true);
        let [Action::SetOwners(unblocked), Action::Delete(PropagationPolicy::Foreground)] = circle.as_slice() else {
            panic!("{circle:?}")
        };
        assert_eq!(unblocked[0].block_owner_deletion, Some(false));
    }
}
