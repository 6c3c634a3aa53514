//! Conditions of a CustomResourceDefinition, its names, and the approval of protected groups: what validation and the
//! controllers both need.
//!
//! Invariants:
//! - CC-1: a condition keeps its lastTransitionTime as long as its status stays.

use apimachinery::goformat::quote;
use serde_json::{Value, json};

use crate::access::{ensure_map, items, obj, text, texts};

/// Removes every custom resource before its definition goes.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Where a definition in a protected group names its approval.
pub const APPROVED_ANNOTATION: &str = "api-approved.kubernetes.io";

pub const NAMES_ACCEPTED: &str = "NamesAccepted";
pub const ESTABLISHED: &str = "Established";
pub const TERMINATING: &str = "Terminating";
pub const NON_STRUCTURAL: &str = "NonStructuralSchema";
pub const APPROVAL: &str = "KubernetesAPIApprovalPolicyConformant";

/// What a condition says, without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub ty: &'static str,
    pub status: &'static str,
    pub reason: String,
    pub message: String,
}

impl Condition {
    pub fn new(ty: &'static str, status: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { ty, status, reason: reason.to_owned(), message: message.into() }
    }

    /// The stored condition says the same.
    pub fn equals(&self, stored: &Value) -> bool {
        text(stored, "status") == self.status
            && text(stored, "reason") == self.reason
            && text(stored, "message") == self.message
    }
}

/// The stored condition of a type.
pub fn find<'a>(crd: &'a Value, ty: &str) -> Option<&'a Value> {
    items(obj(crd, "status"), "conditions").iter().find(|condition| text(condition, "type") == ty)
}

pub fn is_true(crd: &Value, ty: &str) -> bool {
    find(crd, ty).is_some_and(|condition| text(condition, "status") == "True")
}

/// Sets a condition; `now` is RFC 3339.
pub fn set(crd: &mut Value, condition: &Condition, now: &str) {
    let Some(status) = ensure_map(crd, "status") else { return };
    let slot = status.entry("conditions").or_insert(Value::Null);
    if !slot.is_array() {
        *slot = json!([]);
    }
    let Some(list) = slot.as_array_mut() else { return };
    let mut made = json!({
        "type": condition.ty,
        "status": condition.status,
        "lastTransitionTime": now,
        "reason": condition.reason,
        "message": condition.message,
    });
    match list.iter_mut().find(|known| text(known, "type") == condition.ty) {
        Some(known) => {
            let kept = text(known, "status") == condition.status && !text(known, "lastTransitionTime").is_empty();
            if kept {
                made["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            *known = made;
        }
        None => list.push(made),
    }
}

pub fn remove(crd: &mut Value, ty: &str) {
    if let Some(list) = crd.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        list.retain(|condition| text(condition, "type") != ty);
    }
}

pub fn has_finalizer(crd: &Value) -> bool {
    texts(obj(crd, "metadata"), "finalizers").contains(&CLEANUP_FINALIZER)
}

pub fn is_deleting(crd: &Value) -> bool {
    !text(obj(crd, "metadata"), "deletionTimestamp").is_empty()
}

/// Marks a definition whose deletion starts: its custom resources go first.
pub fn mark_deleting(crd: &mut Value, now: &str) {
    if let Some(meta) = ensure_map(crd, "metadata") {
        let known = meta.get("deletionTimestamp").and_then(Value::as_str).is_some_and(|time| !time.is_empty());
        if !known {
            meta.insert("deletionTimestamp".to_owned(), json!(now));
        }
        let finalizers = meta.entry("finalizers").or_insert(Value::Null);
        if !finalizers.is_array() {
            *finalizers = json!([]);
        }
        if let Some(list) = finalizers.as_array_mut() {
            if !list.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER) {
                list.push(json!(CLEANUP_FINALIZER));
            }
        }
    }
    const MESSAGE: &str = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set(crd, &Condition::new(TERMINATING, "True", "InstanceDeletionPending", MESSAGE), now);
}

/// A group of the Kubernetes project.
pub fn is_protected_group(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group == *own || group.strip_suffix(own).is_some_and(|rest| rest.ends_with('.')))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    Invalid,
    Approved,
    Bypassed,
    Missing,
}

/// What the annotation of a definition in a protected group says, and upstream's words for it.
pub fn approval(crd: &Value) -> (Approval, String) {
    let annotation = text(obj(obj(crd, "metadata"), "annotations"), APPROVED_ANNOTATION);
    let key = quote(APPROVED_ANNOTATION);
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    if annotation.is_empty() {
        return (Approval::Missing, format!("protected groups must have approval annotation {key}, {SEE}"));
    }
    if annotation.starts_with("unapproved") {
        return (Approval::Bypassed, format!("not approved: {}", quote(annotation)));
    }
    if crate::urls::parse_request_uri(annotation).is_ok_and(|url| !url.host.is_empty() && !url.scheme.is_empty()) {
        return (Approval::Approved, format!("approved in {annotation}"));
    }
    let text = format!(
        "protected groups must have approval annotation {key} with either a URL or a reason starting with \
         \"unapproved\", {SEE}"
    );
    (Approval::Invalid, text)
}

/// The condition that says so; `None` outside the protected groups.
pub fn approval_condition(crd: &Value) -> Option<Condition> {
    if !is_protected_group(text(obj(crd, "spec"), "group")) {
        return None;
    }
    let (state, message) = approval(crd);
    let (status, reason) = match state {
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
    };
    Some(Condition::new(APPROVAL, status, reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time() {
        let mut crd = json!({"status": {"conditions": null}});
        set(&mut crd, &Condition::new(ESTABLISHED, "False", "Installing", "a"), "t1");
        set(&mut crd, &Condition::new(ESTABLISHED, "False", "Other", "b"), "t2");
        assert_eq!(crd["status"]["conditions"][0]["lastTransitionTime"], "t1");
        set(&mut crd, &Condition::new(ESTABLISHED, "True", "Other", "b"), "t3");
        assert_eq!(crd["status"]["conditions"][0]["lastTransitionTime"], "t3");
        assert!(is_true(&crd, ESTABLISHED) && !is_true(&crd, TERMINATING));
    }

    #[test]
    fn approvals() {
        let state = |value: &str| approval(&json!({"metadata": {"annotations": {APPROVED_ANNOTATION: value}}})).0;
        assert_eq!(state(""), Approval::Missing);
        assert_eq!(state("unapproved, experimental"), Approval::Bypassed);
        assert_eq!(state("https://github.com/kubernetes/kubernetes/pull/1"), Approval::Approved);
        assert_eq!(state("yes"), Approval::Invalid);
        assert!(
            is_protected_group("a.k8s.io") && is_protected_group("kubernetes.io") && !is_protected_group("xk8s.io")
        );
    }
}
