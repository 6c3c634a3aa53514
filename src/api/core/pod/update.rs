//! Updates of a pod and of its subresources `status`, `ephemeralcontainers` and `resize`: what they keep, what they may
//! change.

use std::collections::BTreeMap;

use apimachinery::goformat::quote;
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::{Value, json};

use super::super::podspec::{
    self, ResourceMap, is_sidecar, quantities, validate_added_tolerations, validate_deleted_gates,
    validate_node_affinity_growth, validate_node_selector_growth,
};
use crate::access::*;
use crate::{diff, godump};

const MIRROR: &str = "kubernetes.io/config.mirror";
const MAY_CHANGE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An update of the status keeps the spec and the owners.
pub(super) fn keep_for_status(pod: &mut Value, old: &Value) {
    copy_field(pod, old, "spec");
    if let Some(meta) = pod.get_mut("metadata") {
        copy_field(meta, obj(old, "metadata"), "ownerReferences");
        copy_field(meta, obj(old, "metadata"), "deletionTimestamp");
    }
    ensure_map(pod, "status");
    let Some(status) = pod.get_mut("status") else { return };
    let before = obj(old, "status");
    if text(status, "qosClass").is_empty() {
        copy_field(status, before, "qosClass");
    }
    // Clients that do not know the field must not wipe it out.
    if int(status, "observedGeneration") == 0 {
        copy_field(status, before, "observedGeneration");
    }
    for condition in items_mut(status, "conditions") {
        if int(condition, "observedGeneration") != 0 {
            continue;
        }
        let was = items(before, "conditions").iter().find(|c| text(c, "type") == text(condition, "type"));
        if let Some(was) = was {
            copy_field(condition, was, "observedGeneration");
        }
    }
}

/// Everything is kept but the ephemeral containers.
pub(super) fn keep_for_ephemeral(pod: &mut Value, old: &Value) {
    let containers = obj(pod, "spec").get("ephemeralContainers").cloned();
    start_from_old(pod, old);
    if let Some(spec) = pod.get_mut("spec") {
        match containers {
            Some(list) => set(spec, "ephemeralContainers", list),
            None => {
                remove(spec, "ephemeralContainers");
            }
        }
    }
}

/// Everything is kept but the resources and resize policies of containers, and the pod-level resources.
pub(super) fn keep_for_resize(pod: &mut Value, old: &Value) {
    let wanted = obj(pod, "spec").clone();
    start_from_old(pod, old);
    let Some(spec) = pod.get_mut("spec") else { return };
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, list) {
            let name = text(container, "name").to_owned();
            if let Some(new) = items(&wanted, list).iter().find(|c| text(c, "name") == name) {
                copy_field(container, new, "resources");
                copy_field(container, new, "resizePolicy");
            }
        }
    }
    copy_field(spec, &wanted, "resources");
}

/// The old pod with the new one's resourceVersion and managed fields.
fn start_from_old(pod: &mut Value, old: &Value) {
    let meta = obj(pod, "metadata").clone();
    *pod = old.clone();
    if let Some(own) = pod.get_mut("metadata") {
        for key in ["resourceVersion", "uid", "managedFields"] {
            copy_field(own, &meta, key);
        }
    }
}

fn annotations_path() -> Path {
    Path::new("metadata").child("annotations")
}

/// An update of the pod itself.
pub(super) fn validate(pod: &Value, old: &Value) -> ErrorList {
    let mut errors = podspec::validate_pod(pod);
    errors.extend(podspec::validate_annotation_update(pod, old, &annotations_path()));
    let (new_spec, old_spec) = (obj(pod, "spec"), obj(old, "spec"));
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        if validate_images(&mut errors, items(new_spec, list), items(old_spec, list), &path.child(list)) {
            return errors;
        }
    }
    let deadline = path.child("activeDeadlineSeconds");
    match (opt_int(new_spec, "activeDeadlineSeconds"), opt_int(old_spec, "activeDeadlineSeconds")) {
        (Some(new), before) => {
            let messages = names::in_range(new, 0, i64::from(i32::MAX));
            let increased = before.is_some_and(|before| before < new);
            if let Some(message) = messages.first() {
                errors.invalid(deadline, new, message);
                return errors;
            }
            if increased {
                errors.invalid(deadline, new, "must be less than or equal to previous value");
                return errors;
            }
        }
        (None, Some(_)) => {
            errors.invalid(deadline, Value::Null, "must not update from a positive integer to nil value");
        }
        (None, None) => {}
    }
    let (new_list, old_list) = (items(new_spec, "tolerations"), items(old_spec, "tolerations"));
    validate_added_tolerations(&mut errors, new_list, old_list, &path.child("tolerations"));
    let (new_list, old_list) = (items(new_spec, "schedulingGates"), items(old_spec, "schedulingGates"));
    validate_deleted_gates(&mut errors, new_list, old_list, &path.child("schedulingGates"));
    if same(new_spec, old_spec) {
        return errors;
    }
    let masked = mask_changeable(&mut errors, new_spec, old_spec, &path);
    if !same(&masked, old_spec) {
        let (was, is) = (godump::dump_pretty("PodSpec", old_spec), godump::dump_pretty("PodSpec", &masked));
        let detail = format!("pod updates may not change fields other than {MAY_CHANGE}\n{}", diff::unified(&was, &is));
        errors.forbidden(path, &detail);
    }
    errors
}

/// True: the lists differ so much that nothing else can be compared.
fn validate_images(errors: &mut ErrorList, new: &[Value], old: &[Value], path: &Path) -> bool {
    if new.len() != old.len() {
        errors.forbidden(path.clone(), "pod updates may not add or remove containers");
        return true;
    }
    for (i, container) in new.iter().enumerate() {
        let image = text(container, "image");
        let at = path.index(i).child("image");
        if image.is_empty() {
            errors.required(at.clone(), "");
        }
        if image.trim().len() != image.len() {
            errors.invalid(at, image, "must not have leading or trailing whitespace");
        }
    }
    false
}

/// The new spec with the old values of everything that may change.
fn mask_changeable(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) -> Value {
    let mut masked = new.clone();
    for list in ["containers", "initContainers"] {
        for (container, was) in items_mut(&mut masked, list).iter_mut().zip(items(old, list)) {
            copy_field(container, was, "image");
        }
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy_field(&mut masked, old, key);
    }
    let grace = "terminationGracePeriodSeconds";
    if opt_int(old, grace).is_some_and(|s| s < 0) && opt_int(new, grace) == Some(1) {
        copy_field(&mut masked, old, grace);
    }
    if !items(old, "schedulingGates").is_empty() {
        if !same(obj(new, "nodeSelector"), obj(old, "nodeSelector")) {
            validate_node_selector_growth(errors, new, old, &path.child("nodeSelector"));
            copy_field(&mut masked, old, "nodeSelector");
        }
        mask_node_affinity(errors, &mut masked, old, &path.child("affinity").child("nodeAffinity"));
    }
    masked
}

fn mask_node_affinity(errors: &mut ErrorList, masked: &mut Value, old: &Value, path: &Path) {
    let before = obj(obj(old, "affinity"), "nodeAffinity").clone();
    let after = obj(obj(masked, "affinity"), "nodeAffinity").clone();
    if same(&before, &after) {
        return;
    }
    validate_node_affinity_growth(errors, &after, &before, path);
    let affinity = obj(masked, "affinity");
    if affinity.is_null() {
        if !before.is_null() {
            set(masked, "affinity", json!({"nodeAffinity": before}));
        }
    } else if !has(old, "affinity") && !has(affinity, "podAffinity") && !has(affinity, "podAntiAffinity") {
        remove(masked, "affinity");
    } else if let Some(affinity) = masked.get_mut("affinity") {
        copy_field(affinity, obj(old, "affinity"), "nodeAffinity");
    }
}

/// An update of `ephemeralcontainers`.
pub(super) fn validate_ephemeral(pod: &Value, old: &Value) -> ErrorList {
    if has(obj(obj(old, "metadata"), "annotations"), MIRROR) {
        let mut errors = ErrorList::new();
        errors.forbidden(Path::new(""), "static pods do not support ephemeral containers");
        return errors;
    }
    let mut errors = podspec::validate_pod(pod);
    errors.extend(podspec::validate_annotation_update(pod, old, &annotations_path()));
    let path = Path::new("spec").child("ephemeralContainers");
    let new = items(obj(pod, "spec"), "ephemeralContainers");
    for was in items(obj(old, "spec"), "ephemeralContainers") {
        let name = quote(text(was, "name"));
        match new.iter().rfind(|c| text(c, "name") == text(was, "name")) {
            None => {
                errors.forbidden(path.clone(), &format!("existing ephemeral containers {name} may not be removed\n"))
            }
            Some(is) if !same(is, was) => {
                let before = godump::dump_pretty("EphemeralContainer", was);
                let after = godump::dump_pretty("EphemeralContainer", is);
                let shown = diff::unified(&before, &after);
                errors.forbidden(
                    path.clone(),
                    &format!("existing ephemeral containers {name} may not be changed\n{shown}"),
                );
            }
            Some(_) => {}
        }
    }
    errors
}

/// An update of `resize`.
pub(super) fn validate_resize(pod: &Value, old: &Value) -> ErrorList {
    let alone = |detail: &str| {
        let mut errors = ErrorList::new();
        errors.forbidden(Path::new(""), detail);
        errors
    };
    if has(obj(obj(old, "metadata"), "annotations"), MIRROR) {
        return alone("static pods cannot be resized");
    }
    let (new_spec, old_spec) = (obj(pod, "spec"), obj(old, "spec"));
    if text(obj(old_spec, "os"), "name") == "windows" {
        return alone("windows pods cannot be resized");
    }
    let mut errors = podspec::validate_pod(pod);
    let path = Path::new("spec");
    let qos = text(obj(old, "status"), "qosClass");
    let before = if qos.is_empty() { podspec::qos_class(old_spec) } else { qos };
    if before != podspec::qos_class(new_spec) {
        errors.invalid(path.clone(), qos, "Pod QOS Class may not change as a result of resizing");
    }
    if !resize_supported(old) {
        errors.forbidden(path.clone(), "Pod running on node without support for resize");
    }
    for list in ["initContainers", "containers"] {
        for (i, (new, old)) in items(new_spec, list).iter().zip(items(old_spec, list)).enumerate() {
            if list == "initContainers" && !is_sidecar(old) {
                continue;
            }
            let at = path.child(list).index(i).child("resources");
            validate_container_resize(&mut errors, new, old, &at);
        }
    }
    let mut masked = new_spec.clone();
    for (list, detail) in [
        ("containers", "only cpu and memory resources are mutable"),
        ("initContainers", "only cpu and memory resources for sidecar containers are mutable"),
    ] {
        for (container, was) in items_mut(&mut masked, list).iter_mut().zip(items(old_spec, list)) {
            if list == "initContainers" && !is_sidecar(was) {
                if !same(container, was) {
                    errors.forbidden(path.clone(), "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            mask_compute(container, was);
            if !same(container, was) {
                errors.forbidden(path.clone(), detail);
            }
        }
    }
    if errors.is_empty() {
        mask_compute(&mut masked, old_spec);
        if !same(&masked, old_spec) {
            errors.forbidden(path, "only cpu and memory resources are mutable");
        }
    }
    errors
}

/// A running container whose status shows no resources is on a node that cannot resize.
fn resize_supported(pod: &Value) -> bool {
    let running = items(obj(pod, "status"), "containerStatuses").iter().find(|c| has(obj(c, "state"), "running"));
    running.is_none_or(|c| has(c, "resources"))
}

fn validate_container_resize(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let removed = |key: &str| {
        let (before, after) = (quantities(obj(old, "resources"), key), quantities(obj(new, "resources"), key));
        before.keys().any(|name| !after.contains_key(name))
    };
    if removed("requests") {
        errors.forbidden(path.child("requests"), "resource requests cannot be removed");
    }
    if removed("limits") {
        errors.forbidden(path.child("limits"), "resource limits cannot be removed");
    }
}

/// Gives a holder of `resources` its old CPU and memory.
fn mask_compute(holder: &mut Value, old: &Value) {
    let was = obj(old, "resources").clone();
    let Some(resources) = holder.get_mut("resources") else { return };
    for list in ["limits", "requests"] {
        let before: ResourceMap = quantities(&was, list);
        if before.is_empty() && map(resources, list).is_none() {
            continue;
        }
        let Some(own) = ensure_map(resources, list) else { continue };
        for name in ["cpu", "memory"] {
            match obj(&was, list).get(name) {
                Some(value) => {
                    own.insert(name.to_owned(), value.clone());
                }
                None => {
                    own.remove(name);
                }
            }
        }
        if own.is_empty() && !has(&was, list) {
            remove(resources, list);
        }
    }
}

/// An update of `status`.
pub(super) fn validate_status(pod: &Value, old: &Value) -> ErrorList {
    let mut errors = podspec::validate_annotation_update(pod, old, &annotations_path());
    let (new, was) = (obj(pod, "status"), obj(old, "status"));
    let path = Path::new("status");
    for (i, condition) in items(new, "conditions").iter().enumerate() {
        let ty = text(condition, "type");
        if !matches!(ty, "PodScheduled" | "Ready" | "Initialized") {
            let at = path.child("conditions").index(i).child("Type");
            podspec::qualified_name(&mut errors, ty, &at);
        }
        if int(condition, "observedGeneration") < 0 {
            let at = path.child("conditions").index(i).child("observedGeneration");
            errors.invalid(at, int(condition, "observedGeneration"), podspec::NEGATIVE);
        }
    }
    let nominated = text(new, "nominatedNodeName");
    if nominated != text(was, "nominatedNodeName") && !nominated.is_empty() {
        let at = path.child("nominatedNodeName");
        errors.invalid_all(&at, nominated, names::dns1123_subdomain(nominated, false));
    }
    if int(new, "observedGeneration") < 0 {
        errors.invalid(path.child("observedGeneration"), int(new, "observedGeneration"), podspec::NEGATIVE);
    }
    if text(new, "qosClass") != text(was, "qosClass") {
        errors.invalid(path.child("qosClass"), text(new, "qosClass"), "field is immutable");
    }
    validate_transitions(&mut errors, pod, old, &path);
    validate_ips(&mut errors, new, &path);
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        validate_users(&mut errors, items(new, list), obj(pod, "spec"), &path.child(list));
    }
    errors
}

/// A container that ended for good does not come back.
fn validate_transitions(errors: &mut ErrorList, pod: &Value, old: &Value, path: &Path) {
    let spec = obj(old, "spec");
    let of_pod = text(spec, "restartPolicy");
    for (list, specs) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        let containers: BTreeMap<&str, &Value> = items(spec, specs).iter().map(|c| (text(c, "name"), c)).collect();
        for (i, was) in items(obj(old, "status"), list).iter().enumerate() {
            let Some(ended) = field(obj(was, "state"), "terminated") else { continue };
            let name = text(was, "name");
            let policy = match containers.get(name).and_then(|c| opt_text(c, "restartPolicy")) {
                _ if list == "ephemeralContainerStatuses" => "Never",
                Some(own) => own,
                None => of_pod,
            };
            let rules = containers.get(name).is_some_and(|c| !items(c, "restartPolicyRules").is_empty());
            let may_restart = policy == "Always" || (policy == "OnFailure" && int(ended, "exitCode") != 0) || rules;
            if may_restart {
                continue;
            }
            for is in items(obj(pod, "status"), list) {
                if text(is, "name") == name && !has(obj(is, "state"), "terminated") {
                    let at = path.child(list).index(i).child("state");
                    errors.forbidden(at, "may not be transitioned to non-terminated state");
                }
            }
        }
    }
}

fn validate_ips(errors: &mut ErrorList, status: &Value, path: &Path) {
    for (list, single) in [("podIPs", ""), ("hostIPs", "hostIP")] {
        let ips: Vec<&str> = items(status, list).iter().map(|ip| text(ip, "ip")).collect();
        let at = path.child(list);
        if let Some(first) = ips.first().filter(|first| !single.is_empty() && text(status, single) != **first) {
            errors.invalid(at.index(0).child("ip"), *first, "must be equal to `hostIP`");
        }
        for (i, ip) in ips.iter().enumerate() {
            errors.invalid_all(&at.index(i), ip, names::is_valid_ip(ip));
        }
        if ips.len() < 2 {
            continue;
        }
        let v6 = ips.iter().filter(|ip| ip.contains(':')).count();
        let both = v6 > 0 && v6 < ips.len();
        if !both || ips.len() > 2 {
            let shown: Vec<String> = ips.iter().map(|ip| format!("{{\"IP\":{}}}", json!(ip))).collect();
            let detail = "may specify no more than one IP for each IP family";
            errors.invalid_text(at.clone(), &format!("[{}]", shown.join(",")), detail);
        }
        for (i, ip) in ips.iter().enumerate() {
            if ips[..i].contains(ip) {
                let ty = apimachinery::validation::ErrorType::Duplicate;
                let mut error = apimachinery::validation::FieldError::new(ty, &at.index(i), *ip, "");
                error.value_text = Some(format!("{{\"IP\":{}}}", json!(ip)));
                errors.push(error);
            }
        }
    }
}

fn validate_users(errors: &mut ErrorList, statuses: &[Value], spec: &Value, path: &Path) {
    let windows = text(obj(spec, "os"), "name") == "windows";
    for (i, status) in statuses.iter().enumerate() {
        let Some(user) = field(obj(status, "user"), "linux") else { continue };
        let at = path.index(i).child("linux");
        if windows {
            errors.forbidden(at, "cannot be set for a windows pod");
            continue;
        }
        for key in ["uid", "gid"] {
            for message in names::in_range(int(user, key), 0, i64::from(i32::MAX)) {
                errors.invalid(at.child(key), int(user, key), &message);
            }
        }
        for (j, group) in items(user, "supplementalGroups").iter().enumerate() {
            let group = group.as_i64().unwrap_or(0);
            for message in names::in_range(group, 0, i64::from(i32::MAX)) {
                errors.invalid(at.child("supplementalGroups").index(j), group, &message);
            }
        }
    }
}
