//! Job: pods that run to completion.
//!
//! Invariants:
//! - JB-1: unless the selector is manual, it is made of the job's uid, and pods carry the matching labels.
//! - JB-2: selector, completion mode and template do not change (the template's scheduling may while suspended and
//!   never started).

use apimachinery::labels::Selector;
use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::policies::{check_failure_policy, check_success_policy};
use crate::access::{
    copy_field, ensure_map, flag, has, int, items, items_mut, map, obj, opt_int, opt_text, remove, set, set_blank,
    set_missing, text,
};
use crate::apps::template::{nonnegative_fields, workload_warnings};
use crate::checks::{
    IMMUTABLE, domain_prefixed_path, immutable, keep_spec_or_status, label_selector, meta, name, spec,
    start_generation, status,
};
use crate::core::podspec;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, containers_and_images, format_label_selector, name_of, since};

pub struct Job;

pub fn kind() -> Kind {
    Kind::builtin("batch/v1", "Job", "jobs", Scope::Namespaced, "io.k8s.api.batch.v1.Job", Job)
        .with_categories(&["all"])
        .with_subresource("status", "batch/v1", "Job", &["get", "patch", "update"])
}

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";
const MAX_PARALLELISM: i64 = 100_000;
const MAX_MANAGER: usize = 63;
const COUNTS: &[&str] =
    &["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"];

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        let Some(spec) = object.get_mut("spec") else { return };
        if !has(spec, "completions") && !has(spec, "parallelism") {
            set(spec, "completions", 1);
        }
        set_missing(spec, "parallelism", 1);
        let retries = if has(spec, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
        set_missing(spec, "backoffLimit", retries);
        set_missing(spec, "completionMode", "NonIndexed");
        set_missing(spec, "suspend", false);
        set_missing(spec, "manualSelector", false);
        let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        set_missing(spec, "podReplacementPolicy", replacement);
        default_template(spec);
        let labels = obj(meta(obj(spec, "template")), "labels").clone();
        if map(meta(object), "labels").is_none_or(serde_json::Map::is_empty)
            && labels.as_object().is_some_and(|l| !l.is_empty())
        {
            if let Some(metadata) = ensure_map(object, "metadata") {
                metadata.insert("labels".to_owned(), labels);
            }
        }
    }

    /// Needs `metadata.name` and `metadata.uid`.
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        generate_selector(object);
        set(object, "status", json!({}));
        start_generation(object);
        podspec::drop_disabled_in_template(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        podspec::drop_disabled_in_template(object);
        keep_spec_or_status(cx, object, old);
    }

    /// The template has got labels, which the job without labels takes over.
    fn default_stored(&self, object: &mut Value) {
        self.default(object);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_generated_selector(&mut errors, object);
        errors.extend(validate_spec_and_selector(spec(object)));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            let mut errors = ErrorList::new();
            let counts = ["active", "succeeded", "failed", "ready", "terminating"];
            nonnegative_fields(&mut errors, status(object), &counts, &Path::new("status"));
            return errors;
        }
        let mut errors = validate_spec_and_selector(spec(object));
        check_change(&mut errors, object, old);
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload_warnings(cx, object, old)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.successful", int(status(object), "succeeded").to_string())]
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn delete_warnings(&self, propagation: Option<&str>) -> Vec<String> {
        if propagation.is_some() {
            return Vec::new();
        }
        vec!["child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning".to_owned()]
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("batch/v1/jobs")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec(object), status(object));
        let (containers, images) = containers_and_images(obj(obj(spec, "template"), "spec"));
        vec![
            name_of(object),
            json!(shown_status(object)),
            json!(completions(spec, status)),
            json!(duration(status, now)),
            age_of(object, now),
            json!(containers),
            json!(images),
            json!(format_label_selector(obj(spec, "selector"))),
        ]
    }
}

/// Defaults that a cron job's template has too: those of the pod template and of the failure policy.
pub(super) fn default_template(spec: &mut Value) {
    for rule in spec.get_mut("podFailurePolicy").map_or(&mut [][..], |policy| items_mut(policy, "rules")) {
        for pattern in items_mut(rule, "onPodConditions") {
            set_blank(pattern, "status", "True");
        }
    }
    ensure_map(spec, "template");
    if let Some(template) = spec.get_mut("template") {
        podspec::default_template(template);
    }
}

fn generate_selector(object: &mut Value) {
    if flag(spec(object), "manualSelector") {
        return;
    }
    let (name, uid) = (name(object).to_owned(), text(meta(object), "uid").to_owned());
    let Some(spec) = object.get_mut("spec") else { return };
    ensure_map(spec, "template");
    if let Some(template) = spec.get_mut("template") {
        ensure_map(template, "metadata");
        if let Some(labels) = template.get_mut("metadata").and_then(|m| ensure_map(m, "labels")) {
            for (label, value) in
                [(OLD_NAME_LABEL, &name), (NAME_LABEL, &name), (OLD_UID_LABEL, &uid), (UID_LABEL, &uid)]
            {
                labels.entry(label).or_insert_with(|| json!(value));
            }
        }
    }
    ensure_map(spec, "selector");
    if let Some(labels) = spec.get_mut("selector").and_then(|s| ensure_map(s, "matchLabels")) {
        labels.entry(UID_LABEL).or_insert_with(|| json!(uid));
    }
}

fn check_generated_selector(errors: &mut ErrorList, object: &Value) {
    let spec = spec(object);
    if flag(spec, "manualSelector") || !has(spec, "selector") {
        return;
    }
    let uid = text(meta(object), "uid");
    if uid.is_empty() {
        errors.required(Path::new("metadata").child("uid"), "");
    }
    let labels = obj(meta(obj(spec, "template")), "labels");
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let pairs = [(OLD_UID_LABEL, uid), (OLD_NAME_LABEL, name(object)), (UID_LABEL, uid), (NAME_LABEL, name(object))];
    for (label, expected) in pairs {
        let detail = format!("must be '{expected}'");
        match opt_text(labels, label) {
            None => errors.required(path.key(label), &detail),
            Some(actual) if actual != expected => errors.invalid(path.key(label), labels.clone(), &detail),
            Some(_) => {}
        }
    }
    let expected: serde_json::Map<String, Value> = pairs.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    let selector = obj(spec, "selector");
    if Selector::from_label_selector(selector).is_ok_and(|s| !s.matches(&Value::Object(expected))) {
        errors.invalid(Path::new("spec").child("selector"), selector.clone(), "`selector` not auto-generated");
    }
}

fn validate_spec_and_selector(spec: &Value) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = validate_spec(spec, &path);
    let selector = obj(spec, "selector");
    if selector.is_null() {
        errors.required(path.child("selector"), "");
    } else {
        label_selector(&mut errors, &path.child("selector"), selector);
    }
    let labels = obj(meta(obj(spec, "template")), "labels");
    let matches = match (selector.is_null(), Selector::from_label_selector(selector)) {
        (true, _) => false,
        (false, Ok(selector)) => selector.matches(labels),
        (false, Err(_)) => true,
    };
    if !matches {
        let at = path.child("template").child("metadata").child("labels");
        errors.invalid(at, labels.clone(), "`selector` does not match template `labels`");
    }
    errors
}

/// All of a JobSpec but its selector: of a job as of a cron job's template.
pub(super) fn validate_spec(spec: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    nonnegative_fields(&mut errors, spec, COUNTS, path);
    nonnegative_fields(&mut errors, spec, &["backoffLimitPerIndex"], path);
    if has(spec, "maxFailedIndexes") {
        nonnegative_fields(&mut errors, spec, &["maxFailedIndexes"], path);
        if !has(spec, "backoffLimitPerIndex") {
            errors.required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
        }
    }
    if let Some(manager) = opt_text(spec, "managedBy") {
        let at = path.child("managedBy");
        domain_prefixed_path(&mut errors, at.clone(), manager);
        if manager.len() > MAX_MANAGER {
            errors.too_long(at, manager, MAX_MANAGER);
        }
    }
    check_completion_mode(&mut errors, spec, path);
    if has(spec, "podFailurePolicy") {
        check_failure_policy(&mut errors, spec, &path.child("podFailurePolicy"));
    }
    if has(spec, "successPolicy") {
        check_success_policy(&mut errors, spec, &path.child("successPolicy"));
    }
    if let Some(policy) = opt_text(spec, "podReplacementPolicy") {
        let known: &[&str] =
            if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        if !known.contains(&policy) {
            errors.not_supported(path.child("podReplacementPolicy"), policy, known);
        }
    }
    let template = obj(spec, "template");
    errors.extend(podspec::validate_template(template, &path.child("template")));
    let at = path.child("template").child("spec").child("restartPolicy");
    match text(obj(template, "spec"), "restartPolicy") {
        "" | "Always" => errors.required(at, "valid values: \"OnFailure\", \"Never\""),
        policy @ ("OnFailure" | "Never") => {
            if policy != "Never" && has(spec, "podFailurePolicy") {
                errors.invalid(at, policy, "only \"Never\" is supported when podFailurePolicy is specified");
            }
        }
        policy => errors.not_supported(at, policy, &["OnFailure", "Never"]),
    }
    errors
}

fn check_completion_mode(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mode = opt_text(spec, "completionMode");
    match mode {
        Some("Indexed") => {
            if !has(spec, "completions") {
                errors.required(path.child("completions"), "when completion mode is Indexed");
            }
            if int(spec, "parallelism") > MAX_PARALLELISM {
                let detail = format!("must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed");
                errors.invalid(path.child("parallelism"), int(spec, "parallelism"), &detail);
            }
            return;
        }
        Some("NonIndexed") | None => {}
        Some(other) => {
            errors.not_supported(path.child("completionMode"), other, &["NonIndexed", "Indexed"]);
        }
    }
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if let Some(value) = opt_int(spec, field) {
            errors.invalid(path.child(field), value, "requires indexed completion mode");
        }
    }
}

fn check_change(errors: &mut ErrorList, object: &Value, old: &Value) {
    let (new, was) = (spec(object), spec(old));
    let path = Path::new("spec");
    let indexed = text(new, "completionMode") == "Indexed";
    let completions = |spec: &Value| opt_int(spec, "completions");
    if completions(new) != completions(was) {
        if !indexed {
            immutable(errors, path.child("completions"), obj(new, "completions"), obj(was, "completions"));
        } else if completions(new) != opt_int(new, "parallelism") {
            let at = path.child("completions");
            errors.invalid(at, obj(new, "completions").clone(), "can only be modified in tandem with spec.parallelism");
        }
    }
    immutable(errors, path.child("selector"), obj(new, "selector"), obj(was, "selector"));
    let mut before = obj(was, "template").clone();
    if flag(was, "suspend") && !has(status(old), "startTime") {
        allow_scheduling_changes(&mut before, obj(new, "template"));
    }
    if !crate::access::same(obj(new, "template"), &before) {
        errors.invalid_text(path.child("template"), &template_text(obj(new, "template")), IMMUTABLE);
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(errors, path.child(field), obj(new, field), obj(was, field));
    }
}

/// What may change of the template of a job that waits for its start.
fn allow_scheduling_changes(template: &mut Value, new: &Value) {
    ensure_map(template, "metadata");
    if let Some(metadata) = template.get_mut("metadata") {
        copy_field(metadata, meta(new), "labels");
        copy_field(metadata, meta(new), "annotations");
    }
    let Some(pod) = template.get_mut("spec") else { return };
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy_field(pod, spec(new), field);
    }
    if !has(spec(new), "affinity")
        && !has(obj(pod, "affinity"), "podAffinity")
        && !has(obj(pod, "affinity"), "podAntiAffinity")
    {
        remove(pod, "affinity");
        return;
    }
    ensure_map(pod, "affinity");
    if let Some(affinity) = pod.get_mut("affinity") {
        copy_field(affinity, obj(spec(new), "affinity"), "nodeAffinity");
    }
}

/// A pod template as upstream dumps it: metadata inlined.
fn template_text(template: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    for field in ["name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers"] {
        if has(meta(template), field) {
            parts.push(format!("\"{field}\":{}", apimachinery::goformat::json(obj(meta(template), field))));
        }
    }
    parts.push(format!("\"Spec\":{}", crate::godump::dump("PodSpec", spec(template))));
    format!("{{{}}}", parts.join(","))
}

fn shown_status(object: &Value) -> &'static str {
    let holds = |ty: &str| {
        let conditions = items(status(object), "conditions");
        conditions.iter().any(|c| text(c, "type") == ty && text(c, "status") == "True")
    };
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if has(meta(object), "deletionTimestamp") => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () if holds("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(spec: &Value, status: &Value) -> String {
    let succeeded = int(status, "succeeded");
    match (opt_int(spec, "completions"), int(spec, "parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(status: &Value, now: Timestamp) -> String {
    let start = text(status, "startTime");
    if start.is_empty() {
        return String::new();
    }
    since(start, text(status, "completionTime").parse().unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx, texts};

    fn job(extra: Value) -> Value {
        let mut job = json!({"metadata": {"name": "x", "uid": "u"}, "spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            job["spec"][key] = value.clone();
        }
        job
    }

    #[test]
    fn generates_selector_and_labels() {
        let mut made = created(&Job, job(json!({})));
        Job.default_stored(&mut made);
        let labels = json!({UID_LABEL: "u", NAME_LABEL: "x", OLD_UID_LABEL: "u", OLD_NAME_LABEL: "x"});
        assert_eq!((&made["metadata"]["labels"], &made["spec"]["template"]["metadata"]["labels"]), (&labels, &labels));
        assert_eq!(made["spec"]["selector"], json!({"matchLabels": {UID_LABEL: "u"}}));
        assert!(Job.validate(&cx(""), &made).is_empty());
    }

    #[test]
    fn checks_modes_and_policies() {
        assert_eq!(
            create_errors(
                &Job,
                job(json!({"completionMode": "Indexed", "parallelism": 100001, "maxFailedIndexes": 1}))
            ),
            [
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.completions: Required value: when completion mode is Indexed",
                "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
            ]
        );
        assert_eq!(
            create_errors(
                &Job,
                job(json!({"podFailurePolicy": {"rules": []}, "podReplacementPolicy": "TerminatingOrFailed"}))
            ),
            ["spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\""]
        );
    }

    #[test]
    fn a_suspended_job_may_be_scheduled_elsewhere() {
        let old = created(&Job, job(json!({"suspend": true})));
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        assert!(Job.validate_update(&cx(""), &new, &old).is_empty());
        let mut started = old.clone();
        started["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
        let errors = texts(&Job.validate_update(&cx(""), &new, &started));
        assert!(errors[0].starts_with("spec.template: Invalid value: {\"labels\":{"), "{errors:?}");
        new["spec"]["completions"] = json!(7);
        assert_eq!(
            texts(&Job.validate_update(&cx(""), &new, &old)),
            ["spec.completions: Invalid value: 7: field is immutable"]
        );
    }

    #[test]
    fn prints_progress() {
        let mut made = created(&Job, job(json!({"parallelism": 3})));
        made["status"] = json!({"succeeded": 1, "startTime": "2026-01-02T03:03:05Z", "completionTime": "2026-01-02T03:04:00Z",
                                "conditions": [{"type": "Complete", "status": "True"}]});
        assert_eq!(Job.row(&made, cx("").now)[1..4], [json!("Complete"), json!("1/1 of 3"), json!("55s")]);
    }
}
