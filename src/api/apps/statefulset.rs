//! StatefulSet: pods with an identity and volumes of their own.
//!
//! Invariants:
//! - SS-1: only replicas, ordinals, template, update strategy, history limit, claim retention and minReadySeconds change.

use apimachinery::labels::Selector;
use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::template::{nonnegative_fields, not_above, workload_warnings};
use crate::access::{
    copy_field, ensure_map, has, int, items, items_mut, map, obj, remove, same, set, set_blank, set_missing, text,
};
use crate::checks::{dns_label, keep_spec_or_status, label_selector, meta, spec, start_generation, status};
use crate::core::podspec;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, containers_and_images, name_of};

pub struct StatefulSet;

pub fn kind() -> Kind {
    const UPDATE: &[&str] = &["get", "patch", "update"];
    const DEFINITION: &str = "io.k8s.api.apps.v1.StatefulSet";
    Kind::builtin("apps/v1", "StatefulSet", "statefulsets", Scope::Namespaced, DEFINITION, StatefulSet)
        .with_short_names(&["sts"])
        .with_categories(&["all"])
        .with_subresource("scale", "autoscaling/v1", "Scale", UPDATE)
        .with_subresource("status", "apps/v1", "StatefulSet", UPDATE)
}

/// The fields an update may change.
const MUTABLE: &[&str] = &[
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];
const ONLY_MUTABLE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        let Some(spec) = object.get_mut("spec") else { return };
        set_blank(spec, "podManagementPolicy", "OrderedReady");
        ensure_map(spec, "updateStrategy");
        if let Some(strategy) = spec.get_mut("updateStrategy") {
            set_blank(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                ensure_map(strategy, "rollingUpdate");
                if let Some(rolling) = strategy.get_mut("rollingUpdate") {
                    set_missing(rolling, "partition", 0);
                }
            }
        }
        ensure_map(spec, "persistentVolumeClaimRetentionPolicy");
        if let Some(policy) = spec.get_mut("persistentVolumeClaimRetentionPolicy") {
            set_blank(policy, "whenDeleted", "Retain");
            set_blank(policy, "whenScaled", "Retain");
        }
        set_missing(spec, "replicas", 1);
        set_missing(spec, "revisionHistoryLimit", 10);
        ensure_map(spec, "template");
        if let Some(template) = spec.get_mut("template") {
            podspec::default_template(template);
        }
        for claim in items_mut(spec, "volumeClaimTemplates") {
            default_claim(claim);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"replicas": 0, "availableReplicas": 0}));
        start_generation(object);
        drop_gated(object, &Value::Null);
        podspec::drop_disabled_in_template(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        drop_gated(object, old);
        podspec::drop_disabled_in_template(object);
        keep_spec_or_status(cx, object, old);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (spec(object), Path::new("spec"));
        match text(spec, "podManagementPolicy") {
            "OrderedReady" | "Parallel" => {}
            "" => errors.required(path.child("podManagementPolicy"), ""),
            other => errors.invalid(path.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
        }
        check_strategy(&mut errors, path.child("updateStrategy"), obj(spec, "updateStrategy"));
        let retention = obj(spec, "persistentVolumeClaimRetentionPolicy");
        for when in ["whenDeleted", "whenScaled"] {
            let policy = text(retention, when);
            if !["Retain", "Delete"].contains(&policy) {
                let at = path.child("persistentVolumeClaimRetentionPolicy").child(when);
                errors.not_supported(at, policy, &["Retain", "Delete"]);
            }
        }
        nonnegative_fields(&mut errors, spec, &["replicas", "minReadySeconds"], &path);
        nonnegative_fields(&mut errors, obj(spec, "ordinals"), &["start"], &path.child("ordinals"));
        check_selector(&mut errors, &path, spec);
        check_template(&mut errors, &path.child("template"), spec);
        let service = text(spec, "serviceName");
        if !service.is_empty() {
            dns_label(&mut errors, path.child("serviceName"), service);
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            return check_status(status(object));
        }
        let mut errors = self.validate(cx, object);
        let mut comparable = spec(object).clone();
        for field in MUTABLE {
            copy_field(&mut comparable, spec(old), field);
        }
        if !same(&comparable, spec(old)) {
            errors.forbidden(Path::new("spec"), ONLY_MUTABLE);
        }
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload_warnings(cx, object, old)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(name, prefix)
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("apps/v1/statefulsets")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec(object), status(object));
        let (containers, images) = containers_and_images(obj(obj(spec, "template"), "spec"));
        vec![
            name_of(object),
            json!(format!("{}/{}", int(status, "readyReplicas"), int(spec, "replicas"))),
            age_of(object, now),
            json!(containers),
            json!(images),
        ]
    }
}

/// A claim template is a whole claim, as it would be stored.
fn default_claim(claim: &mut Value) {
    if !claim.is_object() {
        return;
    }
    set(claim, "apiVersion", "v1");
    set(claim, "kind", "PersistentVolumeClaim");
    ensure_map(claim, "spec");
    if let Some(spec) = claim.get_mut("spec") {
        podspec::default_claim_spec(spec);
    }
    ensure_map(claim, "status");
    if let Some(status) = claim.get_mut("status") {
        set_blank(status, "phase", "Pending");
    }
}

/// `maxUnavailable` is not on by default; it stays where it is stored.
fn drop_gated(object: &mut Value, old: &Value) {
    const AT: &str = "/spec/updateStrategy/rollingUpdate";
    if old.pointer(AT).is_some_and(|rolling| has(rolling, "maxUnavailable")) {
        return;
    }
    if let Some(rolling) = object.pointer_mut(AT) {
        remove(rolling, "maxUnavailable");
    }
}

fn check_strategy(errors: &mut ErrorList, path: Path, strategy: &Value) {
    let rolling = obj(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "" => errors.required(path, ""),
        "OnDelete" => {
            if !rolling.is_null() {
                let shown = crate::godump::dump("RollingUpdateStatefulSetStrategy", rolling);
                errors.invalid_text(
                    path.child("rollingUpdate"),
                    &shown,
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
            }
        }
        "RollingUpdate" => nonnegative_fields(errors, rolling, &["partition"], &path.child("rollingUpdate")),
        _ => {
            let shown = crate::godump::dump("StatefulSetUpdateStrategy", strategy);
            errors.invalid_text(path, &shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn check_selector(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let (selector, at) = (obj(spec, "selector"), path.child("selector"));
    if selector.is_null() {
        errors.required(at, "");
        return;
    }
    label_selector(errors, &at, selector);
    let empty = map(selector, "matchLabels").is_none_or(serde_json::Map::is_empty);
    if empty && items(selector, "matchExpressions").is_empty() {
        errors.invalid(at, selector.clone(), "empty selector is invalid for statefulset");
    }
}

fn check_template(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let template = obj(spec, "template");
    let labels = obj(meta(template), "labels");
    if let Ok(selector) = Selector::from_label_selector(obj(spec, "selector")) {
        if !selector.is_everything() && !selector.matches(labels) {
            let at = path.child("metadata").child("labels");
            errors.invalid(at, labels.clone(), "`selector` does not match template `labels`");
        }
        errors.extend(podspec::validate_template(template, path));
    }
    let pod = obj(template, "spec");
    if text(pod, "restartPolicy") != "Always" {
        errors.not_supported(path.child("spec").child("restartPolicy"), text(pod, "restartPolicy"), &["Always"]);
    }
    if has(pod, "activeDeadlineSeconds") {
        let at = path.child("spec").child("activeDeadlineSeconds");
        errors.forbidden(at, "activeDeadlineSeconds in StatefulSet is not Supported");
    }
}

fn check_status(status: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let counts = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    nonnegative_fields(&mut errors, status, &counts, &path);
    for count in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        not_above(&mut errors, status, count, "replicas", "cannot be greater than status.replicas", &path);
    }
    let detail = "cannot be greater than status.readyReplicas";
    not_above(&mut errors, status, "availableReplicas", "readyReplicas", detail, &path);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, update_errors};

    fn object(extra: Value) -> Value {
        let mut object = json!({"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {
            "metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        object
    }

    #[test]
    fn defaults() {
        let made = created(&StatefulSet, object(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}})));
        let spec = &made["spec"];
        assert_eq!(spec["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        let claims =
            created(&StatefulSet, object(json!({"volumeClaimTemplates": [{"metadata": {"name": "v"}, "spec": {}}]})));
        let claim = &claims["spec"]["volumeClaimTemplates"][0];
        assert_eq!((&claim["kind"], &claim["status"]), (&json!("PersistentVolumeClaim"), &json!({"phase": "Pending"})));
    }

    #[test]
    fn checks_fields() {
        assert!(create_errors(&StatefulSet, object(json!({}))).is_empty());
        assert_eq!(
            create_errors(
                &StatefulSet,
                object(json!({"podManagementPolicy": "X", "updateStrategy": {"type": "Y"}, "replicas": -1}))
            ),
            [
                "spec.podManagementPolicy: Invalid value: \"X\": must be 'OrderedReady' or 'Parallel'",
                "spec.updateStrategy: Invalid value: {\"Type\":\"Y\",\"RollingUpdate\":null}: must be 'RollingUpdate' or 'OnDelete'",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }

    #[test]
    fn most_of_the_spec_stays() {
        assert!(
            update_errors(&StatefulSet, object(json!({})), object(json!({"replicas": 3, "minReadySeconds": 1})))
                .is_empty()
        );
        assert_eq!(
            update_errors(&StatefulSet, object(json!({})), object(json!({"serviceName": "s"}))),
            [format!("spec: Forbidden: {ONLY_MUTABLE}")]
        );
    }
}
