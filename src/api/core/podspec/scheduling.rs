//! Validation of what steers scheduling: affinity, spread, tolerations, gates.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::validation::{ErrorList, Path, meta, names};
use serde_json::Value;

use super::{label_selector, qualified_name, supported};
use crate::access::*;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHT: &str = "must be in the range 1-100";
const IN_BOTH: &str = "exists in both matchLabelKeys and labelSelector";

pub(super) fn validate_affinity(errors: &mut ErrorList, affinity: &Value, path: &Path) {
    if let Some(node) = field(affinity, "nodeAffinity") {
        let path = path.child("nodeAffinity");
        if let Some(selector) = field(node, REQUIRED) {
            validate_node_selector(errors, selector, &path.child(REQUIRED));
        }
        for (i, term) in items(node, PREFERRED).iter().enumerate() {
            let at = path.child(PREFERRED).index(i);
            validate_weight(errors, term, &at);
            // Preferences with odd label values may still succeed, so they are not looked at.
            validate_term(errors, obj(term, "preference"), false, &at.child("preference"));
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(terms) = field(affinity, kind) else { continue };
        let path = path.child(kind);
        for (i, term) in items(terms, REQUIRED).iter().enumerate() {
            validate_pod_term(errors, term, &path.child(REQUIRED).index(i));
        }
        for (i, term) in items(terms, PREFERRED).iter().enumerate() {
            let at = path.child(PREFERRED).index(i);
            validate_weight(errors, term, &at);
            validate_pod_term(errors, obj(term, "podAffinityTerm"), &at.child("podAffinityTerm"));
        }
    }
}

fn validate_weight(errors: &mut ErrorList, term: &Value, path: &Path) {
    let weight = int(term, "weight");
    if !(1..=100).contains(&weight) {
        errors.invalid(path.child("weight"), weight, WEIGHT);
    }
}

/// A NodeSelector.
pub fn validate_node_selector(errors: &mut ErrorList, selector: &Value, path: &Path) {
    let terms = items(selector, "nodeSelectorTerms");
    let path = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(path, "must have at least one node selector term");
        return;
    }
    for (i, term) in terms.iter().enumerate() {
        validate_term(errors, term, true, &path.index(i));
    }
}

fn validate_term(errors: &mut ErrorList, term: &Value, values: bool, path: &Path) {
    for (i, requirement) in items(term, "matchExpressions").iter().enumerate() {
        validate_node_requirement(errors, requirement, values, &path.child("matchExpressions").index(i));
    }
    for (i, requirement) in items(term, "matchFields").iter().enumerate() {
        validate_field_requirement(errors, requirement, &path.child("matchFields").index(i));
    }
}

fn validate_node_requirement(errors: &mut ErrorList, requirement: &Value, check_values: bool, path: &Path) {
    let values = texts(requirement, "values");
    let at = path.child("values");
    match text(requirement, "operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.required(at.clone(), "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.forbidden(at.clone(), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                errors.required(at.clone(), "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
        }
        other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
    }
    errors.extend(meta::validate_label_name(text(requirement, "key"), &path.child("key")));
    if check_values {
        for (i, value) in values.into_iter().enumerate() {
            errors.invalid_all(&at.index(i), value, names::is_valid_label_value(value));
        }
    }
}

fn validate_field_requirement(errors: &mut ErrorList, requirement: &Value, path: &Path) {
    let values = texts(requirement, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(path.child("values"), detail);
            }
        }
        other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
    }
    let key = text(requirement, "key");
    if key != "metadata.name" {
        errors.invalid(path.child("key"), key, "not a valid field selector key");
        return;
    }
    for (i, value) in values.into_iter().enumerate() {
        errors.invalid_all(&path.child("values").index(i), value, names::dns1123_subdomain(value, false));
    }
}

fn validate_pod_term(errors: &mut ErrorList, term: &Value, path: &Path) {
    for key in ["labelSelector", "namespaceSelector"] {
        label_selector(errors, obj(term, key), &path.child(key));
    }
    for namespace in texts(term, "namespaces") {
        // Upstream says `namespace`.
        errors.invalid_all(&path.child("namespace"), namespace, names::dns1123_label(namespace, false));
    }
    validate_label_keys(errors, term, path);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(path.child("topologyKey"), "can not be empty");
    }
    errors.extend(meta::validate_label_name(key, &path.child("topologyKey")));
}

/// `matchLabelKeys` and `mismatchLabelKeys` of a pod affinity term. The selector already holds what they mean
/// (see [`super::super::pod`]), so a key that appears there twice was also given by the user.
fn validate_label_keys(errors: &mut ErrorList, term: &Value, path: &Path) {
    let selector = field(term, "labelSelector");
    let (same, other) = (texts(term, "matchLabelKeys"), texts(term, "mismatchLabelKeys"));
    for (key, keys) in [("matchLabelKeys", &same), ("mismatchLabelKeys", &other)] {
        if keys.is_empty() {
            continue;
        }
        if selector.is_none() {
            errors.forbidden(path.child(key), "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, name) in keys.iter().enumerate() {
            errors.extend(meta::validate_label_name(name, &path.child(key).index(i)));
        }
    }
    if let Some(selector) = selector {
        let positions: BTreeMap<&str, usize> = same.iter().enumerate().map(|(i, k)| (*k, i)).collect();
        let mut seen: BTreeSet<&str> = entries(selector, "matchLabels").into_iter().map(|(k, _)| k).collect();
        for expression in items(selector, "matchExpressions") {
            let key = text(expression, "key");
            if let Some(i) = positions.get(key).filter(|_| seen.contains(key)) {
                errors.invalid(path.index(*i), key, IN_BOTH);
            }
            seen.insert(key);
        }
    }
    for (i, key) in same.iter().enumerate() {
        if other.contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(path.child("matchLabelKeys").index(i), *key, detail);
        }
    }
}

pub(super) fn validate_spread(errors: &mut ErrorList, constraints: &[Value], path: &Path) {
    for (i, constraint) in constraints.iter().enumerate() {
        let at = path.index(i);
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        let skew = int(constraint, "maxSkew");
        if skew <= 0 {
            errors.invalid(at.child("maxSkew"), skew, super::POSITIVE);
        }
        if key.is_empty() {
            errors.required(at.child("topologyKey"), "can not be empty");
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(at.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let repeated = constraints[i + 1..]
            .iter()
            .any(|other| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action);
        if repeated {
            errors.duplicate(at.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = opt_int(constraint, "minDomains") {
            if domains <= 0 {
                errors.invalid(at.child("minDomains"), domains, super::POSITIVE);
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(at.child("minDomains"), domains, &detail);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            supported(errors, constraint, policy, &["Honor", "Ignore"], &at);
        }
        validate_spread_keys(errors, constraint, &at.child("matchLabelKeys"));
        label_selector(errors, obj(constraint, "labelSelector"), &at.child("labelSelector"));
    }
}

/// As in affinity terms, the selector already holds the keys when the pod is validated.
fn validate_spread_keys(errors: &mut ErrorList, constraint: &Value, path: &Path) {
    let keys = texts(constraint, "matchLabelKeys");
    if keys.is_empty() {
        return;
    }
    let selector = field(constraint, "labelSelector");
    if selector.is_none() {
        errors.forbidden(path.clone(), "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().enumerate() {
        errors.extend(meta::validate_label_name(key, &path.index(i)));
    }
    let Some(selector) = selector else { return };
    let mut seen: BTreeSet<&str> = entries(selector, "matchLabels").into_iter().map(|(k, _)| k).collect();
    for expression in items(selector, "matchExpressions") {
        let key = text(expression, "key");
        if let Some(i) = keys.iter().position(|k| *k == key).filter(|_| seen.contains(key)) {
            errors.invalid(path.index(i), key, IN_BOTH);
        }
        seen.insert(key);
    }
}

pub fn validate_tolerations(errors: &mut ErrorList, tolerations: &[Value], path: &Path) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            errors.extend(meta::validate_label_name(key, &at.child("key")));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(at.child("operator"), operator, detail);
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            errors.invalid(at.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" => {
                let messages = names::is_valid_label_value(value);
                if !messages.is_empty() {
                    errors.invalid(at.child("operator"), value, &messages.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.invalid(at.child("operator"), value, "value must be empty when `operator` is 'Exists'");
                }
            }
            // Lt and Gt are named although the feature that allows them is off: upstream does so, too.
            other => errors.not_supported(at.child("operator"), other, &["Equal", "Exists", "Lt", "Gt"]),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            errors.not_supported(at.child("effect"), effect, &effects);
        }
    }
}

/// On update, tolerations may only be added (the time of a kept one may change).
pub fn validate_added_tolerations(errors: &mut ErrorList, new: &[Value], old: &[Value], path: &Path) {
    let untimed = |toleration: &Value| {
        let mut copy = toleration.clone();
        remove(&mut copy, "tolerationSeconds");
        copy
    };
    for gone in old {
        if !new.iter().any(|kept| same(&untimed(kept), &untimed(gone))) {
            errors.forbidden(path.clone(), "existing toleration can not be modified except its tolerationSeconds");
            return;
        }
    }
    validate_tolerations(errors, new, path);
}

pub(super) fn validate_gates(errors: &mut ErrorList, gates: &[Value], path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, gate) in gates.iter().enumerate() {
        let name = text(gate, "name");
        qualified_name(errors, name, &path.index(i));
        if !seen.insert(name) {
            errors.duplicate(path.index(i), name);
        }
    }
}

/// On update, scheduling gates may only be removed.
pub fn validate_deleted_gates(errors: &mut ErrorList, new: &[Value], old: &[Value], path: &Path) {
    let known: BTreeSet<&str> = old.iter().map(|g| text(g, "name")).collect();
    for (i, gate) in new.iter().enumerate() {
        let name = text(gate, "name");
        if !known.contains(name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(path.index(i).child("name"), &detail);
        }
    }
}

/// The node selector of a gated pod may only grow.
pub fn validate_node_selector_growth(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let kept =
        entries(old, "nodeSelector").into_iter().all(|(key, value)| obj(new, "nodeSelector").get(key) == Some(value));
    if !kept {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(path.clone(), obj(new, "nodeSelector").clone(), detail);
    }
}

/// The required node affinity of a gated pod may only become stricter.
pub fn validate_node_affinity_growth(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let before = items(obj(old, REQUIRED), "nodeSelectorTerms");
    let after = items(obj(new, REQUIRED), "nodeSelectorTerms");
    if before.is_empty() {
        return;
    }
    let path = path.child(REQUIRED).child("nodeSelectorTerms");
    if before.len() != after.len() {
        let dump: Vec<_> = after.iter().map(|t| crate::godump::dump("NodeSelectorTerm", t)).collect();
        let shown = if after.is_empty() { "null".to_owned() } else { format!("[{}]", dump.join(",")) };
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid_text(path, &shown, detail);
        return;
    }
    for (i, (was, is)) in before.iter().zip(after).enumerate() {
        if !only_added(is, was) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid_text(path.index(i), &crate::godump::dump("NodeSelectorTerm", is), detail);
        }
    }
}

fn only_added(new: &Value, old: &Value) -> bool {
    let keys = ["matchExpressions", "matchFields"];
    if keys.iter().all(|k| items(old, k).is_empty()) && keys.iter().any(|k| !items(new, k).is_empty()) {
        // An empty term matches nothing; with a requirement it might match something.
        return false;
    }
    keys.iter().all(|key| {
        let (before, after) = (items(old, key), items(new, key));
        after.len() >= before.len() && before.iter().zip(after).all(|(a, b)| same(a, b))
    })
}
