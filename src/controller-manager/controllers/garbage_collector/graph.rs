//! The graph of owner references, as the caches show it. Pure.
//!
//! Invariants:
//! - GC-1: dependents are known by the owner's uid even when the owner itself was never seen.
//! - GC-2: whatever may make an object collectable, or let an owner that waits go on, names that object in the result.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::monitors::Resource;

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

#[derive(Debug, Clone)]
pub struct Item {
    pub resource: Arc<Resource>,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    orphan: bool,
    foreground: bool,
}

impl Item {
    /// None: the object has no uid, so that nothing can refer to it.
    pub fn new(resource: &Arc<Resource>, meta: &ObjectMeta) -> Option<Self> {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|other| other == finalizer);
        Some(Self {
            resource: resource.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            orphan: has(ORPHAN),
            foreground: has(FOREGROUND),
        })
    }

    /// Its dependents are to lose it as their owner before it goes.
    pub fn is_orphaning(&self) -> bool {
        self.deleting && self.orphan
    }

    /// It waits for its dependents to go.
    pub fn is_waiting(&self) -> bool {
        self.deleting && self.foreground
    }

    fn is_owned_by(&self, uid: &str) -> bool {
        self.owners.iter().any(|owner| owner.uid == uid)
    }

    pub fn blocks(&self, uid: &str) -> bool {
        self.owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
    }
}

/// What a change means.
#[derive(Debug, Default)]
pub struct Effects {
    /// Uids to look at.
    pub look: Vec<String>,
    /// An owner reference into another namespace.
    pub invalid: Vec<OwnerReference>,
}

#[derive(Default)]
pub struct Graph {
    items: HashMap<String, Arc<Item>>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<Arc<Item>> {
        self.items.get(uid).cloned()
    }

    pub fn dependents(&self, uid: &str) -> Vec<Arc<Item>> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.get(uid)).collect()
    }

    /// The owner was seen where the reference of `item` says it is.
    pub fn sees(&self, item: &Item, reference: &OwnerReference) -> Option<Arc<Item>> {
        let owner = self.get(&reference.uid)?;
        let same = owner.name == reference.name
            && owner.resource.api.kind == reference.kind
            && owner.resource.api.group == group_of(&reference.api_version)
            && (owner.namespace.is_empty() || owner.namespace == item.namespace);
        Some(owner).filter(|_| same)
    }

    pub fn put(&mut self, item: Item) -> Effects {
        let mut effects = Effects::default();
        let uid = item.uid.clone();
        let old = self.items.insert(uid.clone(), Arc::new(item.clone()));
        let old_owners = old.as_ref().map(|old| old.owners.clone()).unwrap_or_default();
        for reference in &old_owners {
            if !item.is_owned_by(&reference.uid) {
                self.unlink(&reference.uid, &uid);
            }
        }
        let mut look_at_item = item.is_orphaning() || item.is_waiting();
        for reference in &item.owners {
            self.dependents.entry(reference.uid.clone()).or_default().insert(uid.clone());
            let known = old_owners.iter().any(|old| old.uid == reference.uid);
            match self.sees(&item, reference) {
                Some(owner) => look_at_item |= owner.is_waiting(),
                // Unknown, or not where the reference says: only the server can tell.
                None => {
                    look_at_item = true;
                    let elsewhere = self.items.get(&reference.uid).map(|owner| owner.namespace.clone());
                    if !known && elsewhere.is_some_and(|namespace| !namespace.is_empty() && namespace != item.namespace)
                    {
                        effects.invalid.push(reference.clone());
                    }
                }
            }
        }
        // An owner that waits may have waited for this one.
        for reference in &old_owners {
            if !item.blocks(&reference.uid) && self.items.get(&reference.uid).is_some_and(|owner| owner.is_waiting()) {
                effects.look.push(reference.uid.clone());
            }
        }
        if item.is_waiting() && old.as_ref().is_none_or(|old| !old.is_waiting()) {
            effects.look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        // Those that referred to it before it was seen, at other coordinates.
        if old.is_none() {
            let wrong = |dependent: &Arc<Item>| {
                let references = dependent.owners.iter().filter(|reference| reference.uid == uid);
                references.into_iter().any(|reference| self.sees(dependent, reference).is_none())
            };
            effects.look.extend(self.dependents(&uid).iter().filter(|d| wrong(d)).map(|d| d.uid.clone()));
        }
        if look_at_item {
            effects.look.push(uid);
        }
        effects
    }

    pub fn remove(&mut self, uid: &str) -> Effects {
        let Some(item) = self.items.remove(uid) else { return Effects::default() };
        let mut look: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for reference in &item.owners {
            self.unlink(&reference.uid, uid);
            if self.items.get(&reference.uid).is_some_and(|owner| owner.is_waiting()) {
                look.push(reference.uid.clone());
            }
        }
        Effects { look, invalid: Vec::new() }
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

pub fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{item, owned};
    use super::*;

    fn look(effects: Effects) -> Vec<String> {
        let mut look = effects.look;
        look.sort();
        look.dedup();
        look
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_goes() {
        let mut graph = Graph::default();
        assert_eq!(look(graph.put(item("rs", "ns"))), [""; 0]);
        assert_eq!(look(graph.put(owned("pod", "ns", &["rs"]))), [""; 0]);
        assert_eq!(look(graph.remove("rs")), ["pod"]);
        assert_eq!(look(graph.remove("pod")), [""; 0]);
        assert!(graph.dependents.is_empty());
    }

    #[test]
    fn an_owner_that_was_not_seen_is_asked_for() {
        let mut graph = Graph::default();
        assert_eq!(look(graph.put(owned("pod", "ns", &["rs"]))), ["pod"]);
        // It comes later: all is well.
        assert_eq!(look(graph.put(item("rs", "ns"))), [""; 0]);
        // Another is not where its dependent says.
        graph.put(owned("lost", "other", &["far"]));
        assert_eq!(look(graph.put(item("far", "ns"))), ["lost"]);
        let effects = graph.put(owned("stray", "other", &["rs"]));
        assert_eq!((effects.look.len(), effects.invalid.len()), (1, 1));
    }

    #[test]
    fn waiting_owners_and_their_dependents() {
        let mut graph = Graph::default();
        graph.put(item("rs", "ns"));
        graph.put(owned("a", "ns", &["rs"]));
        graph.put(owned("b", "ns", &["rs"]));
        let waiting = || Item { deleting: true, foreground: true, ..item("rs", "ns") };
        assert_eq!(look(graph.put(waiting())), ["a", "b", "rs"]);
        // Who comes meanwhile is looked at, too.
        assert_eq!(look(graph.put(owned("c", "ns", &["rs"]))), ["c"]);
        assert_eq!(look(graph.remove("a")), ["rs"]);
        // b is released.
        assert_eq!(look(graph.put(item("b", "ns"))), ["rs"]);
        assert_eq!(graph.dependents("rs").len(), 1);
    }
}
