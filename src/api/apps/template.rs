//! What the kinds that run pods from a template have in common.

use apimachinery::labels::Selector;
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use crate::access::*;
use crate::core::podspec::{self, Scope};
use crate::kind::RequestContext;

/// `spec.selector` and `spec.template`: valid, and the one selects the other.
pub(crate) fn validate_selector_and_template(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let selector = obj(spec, "selector");
    let at = path.child("selector");
    let dump = || crate::godump::dump("LabelSelector", selector);
    if selector.is_null() {
        errors.required(at.clone(), "");
    } else {
        podspec::label_selector(errors, selector, &at);
        let empty = map(selector, "matchLabels").is_none_or(|m| m.is_empty());
        if empty && items(selector, "matchExpressions").is_empty() {
            errors.invalid_text(at.clone(), &dump(), "empty selector is invalid for deployment");
        }
    }
    match Selector::from_label_selector(selector) {
        Err(_) => errors.invalid_text(at, &dump(), "invalid label selector"),
        Ok(selector) => {
            let template = obj(spec, "template");
            let path = path.child("template");
            let labels = obj(obj(template, "metadata"), "labels");
            if !selector.is_everything() && !selector.matches(labels) {
                let at = path.child("metadata").child("labels");
                errors.invalid(at, labels.clone(), "`selector` does not match template `labels`");
            }
            errors.extend(podspec::validate_template(template, &path));
            validate_always_running(errors, spec, template, &path);
        }
    }
}

fn validate_always_running(errors: &mut ErrorList, spec: &Value, template: &Value, path: &Path) {
    let pod = obj(template, "spec");
    let path = path.child("spec");
    if int(spec, "replicas") > 1 {
        for (i, volume) in items(pod, "volumes").iter().enumerate() {
            if let Some(disk) = field(volume, "gcePersistentDisk").filter(|d| !flag(d, "readOnly")) {
                let at = path.child("volumes").index(i).children(&["gcePersistentDisk", "readOnly"]);
                let detail = "must be true for replicated pods > 1; GCE PD can only be mounted on multiple machines if it is read-only";
                errors.invalid(at, flag(disk, "readOnly"), detail);
            }
        }
    }
    let policy = text(pod, "restartPolicy");
    if policy != "Always" {
        errors.not_supported(path.child("restartPolicy"), policy, &["Always"]);
    }
    if has(pod, "activeDeadlineSeconds") {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.forbidden(path.child("activeDeadlineSeconds"), detail);
    }
}

pub(crate) fn selector_immutable(errors: &mut ErrorList, object: &Value, old: &Value) {
    let selector = obj(obj(object, "spec"), "selector");
    if !same(selector, obj(obj(old, "spec"), "selector")) {
        let dump = match selector {
            Value::Null => "null".to_owned(),
            other => crate::godump::dump("LabelSelector", other),
        };
        errors.invalid_text(Path::new("spec").child("selector"), &dump, "field is immutable");
    }
}

pub(crate) fn nonnegative_fields(errors: &mut ErrorList, holder: &Value, keys: &[&str], path: &Path) {
    for key in keys {
        podspec::nonnegative(errors, int(holder, key), &path.child(key));
    }
}

/// One count of the status may not be more than another.
pub(crate) fn not_above(errors: &mut ErrorList, status: &Value, key: &str, limit: &str, detail: &str, path: &Path) {
    if int(status, key) > int(status, limit) {
        errors.invalid(path.child(key), int(status, key), detail);
    }
}

/// An update of `status` keeps everything but the status (and the labels, where `labels`).
pub(crate) fn keep_status_update(object: &mut Value, old: &Value, labels: bool) {
    copy_field(object, old, "spec");
    if let (true, Some(meta)) = (labels, object.get_mut("metadata")) {
        copy_field(meta, obj(old, "metadata"), "labels");
    }
    ensure_map(object, "status");
}

/// One more than before when the spec (or, where asked, an annotation) changed.
pub(crate) fn bump_generation(object: &mut Value, old: &Value, annotations: bool) {
    let (new_meta, old_meta) = (obj(object, "metadata"), obj(old, "metadata"));
    let noted = annotations && !same(obj(new_meta, "annotations"), obj(old_meta, "annotations"));
    let changed = noted || !same(obj(object, "spec"), obj(old, "spec"));
    let generation = int(old_meta, "generation") + i64::from(changed);
    if let Some(meta) = object.get_mut("metadata") {
        if generation == 0 {
            remove(meta, "generation");
        } else {
            set(meta, "generation", generation);
        }
    }
}

/// Warnings of a template, and of a name that makes no host name.
pub(crate) fn workload_warnings(cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
    if !cx.subresource.is_empty() {
        return Vec::new();
    }
    let mut out = Vec::new();
    if old.is_none() {
        out.extend(name_warning(
            text(obj(object, "metadata"), "name"),
            "Pod names and hostnames, which can result in surprising behavior",
        ));
    }
    let generation = |o: &Value| int(obj(o, "metadata"), "generation");
    if old.is_none_or(|old| generation(old) != generation(object)) {
        let path = Path::new("spec").child("template");
        out.extend(podspec::warnings(obj(obj(object, "spec"), "template"), Scope::Template, &path));
    }
    out
}

/// A name that is a subdomain but no label, which `what` is made from.
pub(crate) fn name_warning(name: &str, what: &str) -> Option<String> {
    let problems = names::is_dns1123_label(name);
    if problems.is_empty() {
        return None;
    }
    // Go prints a list of strings without quotes.
    let shown = problems.join(" ");
    Some(format!("metadata.name: this is used in {what}; a DNS label is recommended: [{shown}]"))
}
