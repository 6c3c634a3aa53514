//! PersistentVolumeClaim: a pod's wish for storage.
//!
//! Invariants:
//! - VC-1: of the spec only the volume's name (once), the class (once, from none), the size of a bound claim and the
//!   attributes class change.
//! - VC-2: `dataSource` and `dataSourceRef` say the same.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::podspec::{default_claim_spec, validate_claim_spec};
use crate::access::{copy_field, ensure_map, entries, has, obj, opt_text, remove, same, set, set_blank, text, texts};
use crate::checks::{annotation, immutable, meta, spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct PersistentVolumeClaim;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.core.v1.PersistentVolumeClaim";
    let plural = "persistentvolumeclaims";
    Kind::builtin("v1", "PersistentVolumeClaim", plural, Scope::Namespaced, DEFINITION, PersistentVolumeClaim)
        .with_short_names(&["pvc"])
        .with_subresource("status", "v1", "PersistentVolumeClaim", &["get", "patch", "update"])
}

/// How old clients name the class.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const IMMUTABLE_SPEC: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            default_claim_spec(spec);
        }
        ensure_map(object, "status");
        if let Some(status) = object.get_mut("status") {
            set_blank(status, "phase", "Pending");
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"phase": "Pending"}));
        settle_data_sources(object, &Value::Null);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        if cx.subresource == "status" {
            copy_field(object, old, "spec");
        } else {
            copy_field(object, old, "status");
            settle_data_sources(object, old);
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate_claim_spec(&mut errors, spec(object), &Path::new("spec"));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            let mut errors = ErrorList::new();
            for (name, amount) in entries(status(object), "capacity") {
                basic_amount(&mut errors, &Path::new("status").child("capacity").key(name), amount);
            }
            return errors;
        }
        let mut errors = self.validate(cx, object);
        check_change(&mut errors, object, old);
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut found = Vec::new();
        if !cx.subresource.is_empty() {
            return found;
        }
        if annotation(object, CLASS_ANNOTATION).is_some() {
            found.push(format!(
                "metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        for list in ["requests", "limits"] {
            let amount = obj(obj(spec(object), "resources"), list).get("storage");
            let fraction = amount.and_then(|a| Quantity::from_json(a).ok()).filter(|q| q.milli_value() % 1000 != 0);
            if let Some(amount) = fraction {
                found.push(format!(
                    "spec.resources.{list}[storage]: fractional byte value \"{amount}\" is invalid, must be an integer"
                ));
            }
        }
        found
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/persistentvolumeclaims")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec(object), status(object));
        let phase = if has(meta(object), "deletionTimestamp") { "Terminating" } else { text(status, "phase") };
        let volume = text(spec, "volumeName");
        let (capacity, modes) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            let capacity = obj(status, "capacity").get("storage").and_then(Value::as_str).unwrap_or("0");
            (capacity.to_owned(), access_modes(&texts(status, "accessModes")))
        };
        vec![
            name_of(object),
            json!(phase),
            json!(volume),
            json!(capacity),
            json!(modes),
            json!(class(object)),
            json!(opt_text(spec, "volumeAttributesClassName").unwrap_or("<unset>")),
            age_of(object, now),
            json!(opt_text(spec, "volumeMode").unwrap_or("<unset>")),
        ]
    }
}

/// The storage class of a claim or a volume.
pub(super) fn class(object: &Value) -> &str {
    annotation(object, CLASS_ANNOTATION).unwrap_or_else(|| text(spec(object), "storageClassName"))
}

/// `RWO,ROX`.
pub(super) fn access_modes(modes: &[&str]) -> String {
    const SHORT: &[(&str, &str)] =
        &[("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let shown: Vec<_> = SHORT.iter().filter(|(mode, _)| modes.contains(mode)).map(|(_, short)| *short).collect();
    shown.join(",")
}

/// Upstream's first check of an amount of storage; the value prints as a number.
pub(super) fn basic_amount(errors: &mut ErrorList, path: &Path, amount: &Value) {
    if let Ok(parsed) = Quantity::from_json(amount) {
        if parsed.value() < 0 {
            errors.invalid(path.clone(), json!(parsed.value()), "must be a valid resource quantity");
        }
    }
}

/// Makes the two fields for a data source agree, and drops what is not supported.
fn settle_data_sources(object: &mut Value, old: &Value) {
    let Some(now) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    let was = spec(old);
    if !has(was, "dataSource") && !has(was, "dataSourceRef") {
        let source = obj(now, "dataSource");
        let known = matches!(
            (text(source, "apiGroup"), text(source, "kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        );
        if !known {
            remove(now, "dataSource");
        }
        // references across namespaces are not on by default
        if !text(obj(now, "dataSourceRef"), "namespace").is_empty() {
            remove(now, "dataSourceRef");
        }
    }
    let plain = |source: &Value| {
        let fields = ["apiGroup", "kind", "name"].into_iter();
        let kept = fields.filter(|f| has(source, f)).map(|f| (f.to_owned(), obj(source, f).clone()));
        Value::Object(kept.collect::<Map<_, _>>())
    };
    match (has(now, "dataSource"), has(now, "dataSourceRef")) {
        (true, false) => {
            let source = plain(obj(now, "dataSource"));
            set(now, "dataSourceRef", source);
        }
        (false, true) if text(obj(now, "dataSourceRef"), "namespace").is_empty() => {
            let source = plain(obj(now, "dataSourceRef"));
            set(now, "dataSource", source);
        }
        _ => {}
    }
}

fn storage<'a>(holder: &'a Value, list: &str) -> Option<&'a Value> {
    obj(holder, list).get("storage")
}

fn check_change(errors: &mut ErrorList, object: &Value, old: &Value) {
    let (mut now, mut was) = (spec(object).clone(), spec(old).clone());
    if text(&was, "volumeName").is_empty() {
        copy_field(&mut was, &now, "volumeName");
    }
    let key = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
    let old_class = annotation(old, CLASS_ANNOTATION);
    let new_class = opt_text(spec(object), "storageClassName");
    let from_annotation = old_class.is_some() && new_class.is_some() && opt_text(&was, "storageClassName").is_none();
    if from_annotation && new_class == old_class {
        copy_field(&mut now, &was, "storageClassName");
    } else {
        let value = |object: &Value| annotation(object, CLASS_ANNOTATION).map_or(Value::Null, |v| json!(v));
        if annotation(object, CLASS_ANNOTATION) != old_class {
            immutable(errors, key, &value(object), &value(old));
        }
        if opt_text(&was, "storageClassName").is_none() && new_class.is_some() && old_class.is_none() {
            copy_field(&mut now, &was, "storageClassName");
        }
    }
    if text(status(object), "phase") == "Bound" {
        let before = storage(obj(&was, "resources"), "requests").cloned();
        if let (Some(before), Some(requests)) = (before, now.pointer_mut("/resources/requests")) {
            set(requests, "storage", before);
        }
    }
    copy_field(&mut now, &was, "volumeAttributesClassName");
    if !same(&now, &was) {
        let dump = |spec: &Value| crate::godump::dump_pretty("PersistentVolumeClaimSpec", spec);
        let detail = format!("{IMMUTABLE_SPEC}\n{}", crate::diff::unified(&dump(&was), &dump(&now)));
        errors.forbidden(Path::new("spec"), &detail);
    }
    let size = |value: Option<&Value>| value.and_then(|v| Quantity::from_json(v).ok()).map_or(0, |q| q.milli_value());
    let requested = |object: &Value| size(storage(obj(spec(object), "resources"), "requests"));
    let held = size(storage(status(old), "capacity"));
    if requested(object) < requested(old) && requested(object) <= held {
        let path = Path::new("spec").children(&["resources", "requests", "storage"]);
        errors.forbidden(path, "field can not be less than status.capacity");
    }
    immutable(errors, Path::new("volumeMode"), obj(spec(object), "volumeMode"), obj(spec(old), "volumeMode"));
    let attributes = |object: &Value| text(spec(object), "volumeAttributesClassName").to_owned();
    if !attributes(old).is_empty() && attributes(object).is_empty() {
        let path = Path::new("spec").child("volumeAttributesClassName");
        errors.forbidden(path, "update from non-nil value to nil is forbidden");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{created, cx, texts as shown, update_errors};

    fn claim(extra: Value) -> Value {
        let mut claim =
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            claim["spec"][key] = value.clone();
        }
        claim
    }

    #[test]
    fn data_sources_agree() {
        let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
        let made = created(&PersistentVolumeClaim, claim(json!({"dataSource": snapshot})));
        assert_eq!(made["spec"]["dataSourceRef"], snapshot);
        let odd = created(&PersistentVolumeClaim, claim(json!({"dataSource": {"kind": "X", "name": "s"}})));
        assert!(odd["spec"].get("dataSource").is_none());
        let other = json!({"apiGroup": "a.b", "kind": "X", "name": "s"});
        let made = created(&PersistentVolumeClaim, claim(json!({"dataSourceRef": other})));
        assert_eq!(made["spec"]["dataSource"], other);
    }

    #[test]
    fn the_class_is_set_once() {
        let with = |class: &str| claim(json!({"storageClassName": class}));
        assert!(update_errors(&PersistentVolumeClaim, claim(json!({})), with("a")).is_empty());
        let errors = update_errors(&PersistentVolumeClaim, with("a"), with("b"));
        assert_eq!(
            errors,
            [format!(
                "spec: Forbidden: {IMMUTABLE_SPEC}\n@@ -10,7 +10,7 @@\n   }}\n  }},\n  \"VolumeName\": \"\",\n- \"StorageClassName\": \"a\",\n+ \"StorageClassName\": \"b\",\n  \"VolumeMode\": \"Filesystem\",\n  \"DataSource\": null,\n  \"DataSourceRef\": null,\n"
            )]
        );
    }

    #[test]
    fn a_bound_claim_grows_and_shrinks_to_its_capacity() {
        let mut old = created(&PersistentVolumeClaim, claim(json!({"volumeName": "v"})));
        old["status"] = json!({"phase": "Bound", "capacity": {"storage": "500Mi"}});
        for (size, ok) in [("2Gi", true), ("600Mi", true), ("400Mi", false)] {
            let mut new = old.clone();
            new["spec"]["resources"]["requests"]["storage"] = json!(size);
            let errors = shown(&PersistentVolumeClaim.validate_update(&cx(""), &new, &old));
            assert_eq!(errors.is_empty(), ok, "{errors:?}");
        }
    }

    #[test]
    fn prints_what_is_bound() {
        let bound = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "s"},
                           "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"]}});
        let row = PersistentVolumeClaim.row(&bound, cx("").now);
        assert_eq!(
            row[1..7],
            [json!("Bound"), json!("v"), json!("1Gi"), json!("RWO,ROX"), json!("s"), json!("<unset>")]
        );
    }
}
