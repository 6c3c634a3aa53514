//! Persistent volume claims: how many, and how much they ask for, together and by storage class.

use std::collections::BTreeSet;

use apimachinery::quantity::Quantity;
use serde_json::Value;

use super::{Amounts, Requirement, number};
use crate::access::*;

const CLAIMS: &str = "persistentvolumeclaims";
const REQUESTS: &str = "requests.storage";
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

pub fn covers(name: &str) -> bool {
    let own = |name: &str| name == CLAIMS || name == REQUESTS;
    name == "count/persistentvolumeclaims"
        || own(name)
        || name.rfind(BY_CLASS).is_some_and(|at| own(&name[at + BY_CLASS.len()..]))
}

pub fn usage(claim: &Value) -> Amounts {
    let spec = obj(claim, "spec");
    let annotations = obj(obj(claim, "metadata"), "annotations");
    let class = opt_text(annotations, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| text(spec, "storageClassName"));
    let mut usage =
        Amounts::from([("count/persistentvolumeclaims".to_owned(), number(1)), (CLAIMS.to_owned(), number(1))]);
    if !class.is_empty() {
        usage.insert(format!("{class}{BY_CLASS}{CLAIMS}"), number(1));
    }
    if let Some(size) = size(claim) {
        if !class.is_empty() {
            usage.insert(format!("{class}{BY_CLASS}{REQUESTS}"), size.clone());
        }
        usage.insert(REQUESTS.to_owned(), size);
    }
    usage
}

/// What is asked for, or has been given if that is more, in whole bytes.
fn size(claim: &Value) -> Option<Quantity> {
    let asked = obj(obj(obj(claim, "spec"), "resources"), "requests");
    let mut size = Quantity::from_json(obj(asked, "storage")).ok()?;
    size.round_up(0);
    let given = Quantity::from_json(obj(obj(obj(claim, "status"), "allocatedResources"), "storage")).ok();
    Some(given.filter(|given| *given > size).unwrap_or(size))
}

/// The volume attributes classes that the claim has, wants, or is changing to.
pub fn classes(claim: &Value) -> BTreeSet<&str> {
    let (spec, status) = (obj(claim, "spec"), obj(claim, "status"));
    [
        text(spec, "volumeAttributesClassName"),
        text(status, "currentVolumeAttributesClassName"),
        text(obj(status, "modifyVolumeStatus"), "targetVolumeAttributesClassName"),
    ]
    .into_iter()
    .filter(|name| !name.is_empty())
    .collect()
}

pub fn in_scope(requirement: &Requirement, claim: &Value) -> bool {
    if requirement.scope != "VolumeAttributesClass" {
        return false;
    }
    let classes = classes(claim);
    match classes.is_empty() {
        true => requirement.selects(None),
        false => classes.into_iter().any(|class| requirement.selects(Some(class))),
    }
}
