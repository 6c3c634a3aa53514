//! PersistentVolume: a piece of storage.
//!
//! Invariants:
//! - PV-1: what the volume is made of never changes.
//! - PV-2: `lastPhaseTransitionTime` is when the phase last changed.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::persistentvolumeclaim::{access_modes, basic_amount, class};
use super::podspec::{round_up_resources, validate_csi_driver_name, validate_node_selector, validate_volume_source};
use crate::access::{
    copy_field, ensure_map, entries, has, map, obj, opt_text, same, set, set_blank, set_missing, text, texts,
};
use crate::checks::{immutable, meta, spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct PersistentVolume;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.core.v1.PersistentVolume";
    Kind::builtin("v1", "PersistentVolume", "persistentvolumes", Scope::Cluster, DEFINITION, PersistentVolume)
        .with_short_names(&["pv"])
        .with_subresource("status", "v1", "PersistentVolume", &["get", "patch", "update"])
}

/// In the order in which upstream looks at them.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// (source, field, default)
const SOURCE_DEFAULTS: &[(&str, &str, &str)] = &[
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
    ("scaleIO", "fsType", "xfs"),
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "kind", "Shared"),
    ("azureDisk", "fsType", "ext4"),
];

impl Strategy for PersistentVolume {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            set_blank(spec, "persistentVolumeReclaimPolicy", "Retain");
            set_missing(spec, "volumeMode", "Filesystem");
            round_up_resources(spec, "capacity");
            if let Some(path) = spec.get_mut("hostPath").filter(|p| p.is_object()) {
                set_missing(path, "type", "");
            }
            for (source, field, value) in SOURCE_DEFAULTS {
                if let Some(source) = spec.get_mut(*source).filter(|s| s.is_object()) {
                    set_blank(source, field, value);
                }
            }
            if let Some(disk) = spec.get_mut("azureDisk").filter(|d| d.is_object()) {
                set_missing(disk, "readOnly", false);
            }
        }
        ensure_map(object, "status");
        if let Some(status) = object.get_mut("status") {
            set_blank(status, "phase", "Pending");
        }
    }

    fn prepare_for_create(&self, cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": seconds(cx.now)}));
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        if cx.subresource != "status" {
            copy_field(object, old, "status");
            return;
        }
        copy_field(object, old, "spec");
        let field = "lastPhaseTransitionTime";
        let (now, was) = (status(object), status(old));
        let untouched = !has(now, field) || obj(now, field) == obj(was, field);
        if text(now, "phase") != text(was, "phase") && untouched {
            if let Some(status) = object.get_mut("status") {
                set(status, field, seconds(cx.now));
            }
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&mut errors, spec(object));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            return ErrorList::new();
        }
        let mut errors = self.validate(cx, object);
        let (now, was) = (spec(object), spec(old));
        if !same(&sources(now), &sources(was)) {
            let dump = |value: Value| serde_json::to_string_pretty(&value).unwrap_or_default();
            let difference = crate::diff::unified(&dump(sources(was)), &dump(sources(now)));
            let detail = format!("spec.persistentvolumesource is immutable after creation\n{difference}");
            errors.forbidden(Path::new("spec").child("persistentvolumesource"), &detail);
        }
        immutable(&mut errors, Path::new("volumeMode"), obj(now, "volumeMode"), obj(was, "volumeMode"));
        if has(was, "nodeAffinity") {
            let path = Path::new("spec").child("nodeAffinity");
            immutable(&mut errors, path, obj(now, "nodeAffinity"), obj(was, "nodeAffinity"));
        }
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/persistentvolumes")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec(object), status(object));
        let phase = if has(meta(object), "deletionTimestamp") { "Terminating" } else { text(status, "phase") };
        let claim = obj(spec, "claimRef");
        let claim = match claim.is_null() {
            true => String::new(),
            false => format!("{}/{}", text(claim, "namespace"), text(claim, "name")),
        };
        vec![
            name_of(object),
            json!(obj(spec, "capacity").get("storage").and_then(Value::as_str).unwrap_or("0")),
            json!(access_modes(&texts(spec, "accessModes"))),
            json!(text(spec, "persistentVolumeReclaimPolicy")),
            json!(phase),
            json!(claim),
            json!(class(object)),
            json!(opt_text(spec, "volumeAttributesClassName").unwrap_or("<unset>")),
            json!(text(status, "reason")),
            age_of(object, now),
            json!(opt_text(spec, "volumeMode").unwrap_or("<unset>")),
        ]
    }
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn sources(spec: &Value) -> Value {
    let found = SOURCES.iter().filter(|s| has(spec, s)).map(|s| ((*s).to_owned(), obj(spec, s).clone()));
    Value::Object(found.collect::<Map<_, _>>())
}

fn check_spec(errors: &mut ErrorList, spec: &Value) {
    let path = Path::new("spec");
    check_modes(errors, &path.child("accessModes"), &texts(spec, "accessModes"));
    let capacity_at = path.child("capacity");
    let capacity = map(spec, "capacity").cloned().unwrap_or_default();
    if capacity.is_empty() {
        errors.required(capacity_at.clone(), "");
    }
    if capacity.len() != 1 || !capacity.contains_key("storage") {
        errors.not_supported(capacity_at.clone(), obj(spec, "capacity").clone(), &["storage"]);
    }
    for (name, amount) in entries(spec, "capacity") {
        let at = capacity_at.key(name);
        basic_amount(errors, &at, amount);
        if Quantity::from_json(amount).is_ok_and(|q| q.milli_value() <= 0) {
            errors.invalid(at, amount.clone(), "must be greater than zero");
        }
    }
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.not_supported(path.child("persistentVolumeReclaimPolicy"), policy, POLICIES);
    }
    let affinity = obj(spec, "nodeAffinity");
    if !affinity.is_null() {
        let at = path.child("nodeAffinity").child("required");
        match obj(affinity, "required") {
            Value::Null => errors.required(at, "must specify required node constraints"),
            required => validate_node_selector(errors, required, &at),
        }
    }
    check_sources(errors, spec, &path);
    let host_path = text(obj(spec, "hostPath"), "path");
    if policy == "Recycle" && !host_path.is_empty() && host_path.split('/').all(|part| matches!(part, "" | "." | ".."))
    {
        errors
            .forbidden(path.child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        errors.invalid_all(&path.child("storageClassName"), class, names::is_dns1123_subdomain(class));
    }
    const MODES: &[&str] = &["Block", "Filesystem"];
    if let Some(mode) = opt_text(spec, "volumeMode").filter(|m| !MODES.contains(m)) {
        errors.not_supported(path.child("volumeMode"), mode, MODES);
    }
    if let Some(class) = opt_text(spec, "volumeAttributesClassName") {
        let at = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.required(at, "an empty string is disallowed");
        } else {
            errors.invalid_all(&at, class, names::is_dns1123_subdomain(class));
        }
    }
}

fn check_modes(errors: &mut ErrorList, path: &Path, modes: &[&str]) {
    const KNOWN: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    if modes.is_empty() {
        errors.required(path.clone(), "");
    }
    for mode in modes.iter().filter(|m| !KNOWN.contains(m)) {
        errors.not_supported(path.clone(), *mode, KNOWN);
    }
    let others = modes.iter().any(|m| KNOWN[..3].contains(m));
    if modes.contains(&"ReadWriteOncePod") && others {
        errors.forbidden(path.clone(), "may not use ReadWriteOncePod with other access modes");
    }
}

fn check_sources(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let given: Vec<_> = SOURCES.iter().filter(|source| has(spec, source)).collect();
    for (i, source) in given.iter().enumerate() {
        let at = path.child(source);
        if i > 0 {
            errors.forbidden(at, "may not specify more than 1 volume type");
            continue;
        }
        match **source {
            "local" => {
                let value = text(obj(spec, "local"), "path");
                if value.is_empty() {
                    errors.required(at.child("path"), "");
                } else if value.split('/').any(|part| part == "..") {
                    errors.invalid(at.child("path"), value, "must not contain '..'");
                }
                if !has(spec, "nodeAffinity") {
                    errors.required(path.child("nodeAffinity"), "Local volume requires node affinity");
                }
            }
            "csi" => check_csi(errors, &at, obj(spec, "csi")),
            other => validate_volume_source(errors, other, obj(spec, other), &at),
        }
    }
    if given.is_empty() {
        errors.required(path.clone(), "must specify a volume type");
    }
}

fn check_csi(errors: &mut ErrorList, path: &Path, csi: &Value) {
    validate_csi_driver_name(errors, text(csi, "driver"), &path.child("driver"));
    if text(csi, "volumeHandle").is_empty() {
        errors.required(path.child("volumeHandle"), "");
    }
    let secrets = [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
        "nodeStageSecretRef",
    ];
    for secret in secrets.into_iter().filter(|s| has(csi, s)) {
        for field in ["name", "namespace"] {
            if text(obj(csi, secret), field).is_empty() {
                errors.required(path.child(secret).child(field), "");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx, update_errors};

    fn volume(extra: Value) -> Value {
        let mut volume = json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            volume["spec"][key] = value.clone();
        }
        volume
    }

    #[test]
    fn phases_have_times() {
        let old = created(&PersistentVolume, volume(json!({"hostPath": {"path": "/x"}})));
        assert_eq!(old["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": "2026-01-02T03:04:05Z"}));
        assert_eq!(old["spec"]["hostPath"], json!({"path": "/x", "type": ""}));
        let mut new = old.clone();
        new["status"] = json!({"phase": "Bound"});
        PersistentVolume.prepare_for_update(&cx("status"), &mut new, &old);
        assert_eq!(new["status"]["lastPhaseTransitionTime"], "2026-01-02T03:04:05Z");
    }

    #[test]
    fn has_one_source() {
        let errors = |extra: Value| create_errors(&PersistentVolume, volume(extra));
        assert_eq!(errors(json!({})), ["spec: Required value: must specify a volume type"]);
        assert_eq!(
            errors(json!({"csi": {"driver": "d"}, "nfs": {"server": "s", "path": "/"}})),
            ["spec.csi: Forbidden: may not specify more than 1 volume type"]
        );
        assert_eq!(errors(json!({"csi": {"driver": "d"}})), ["spec.csi.volumeHandle: Required value"]);
        assert_eq!(
            errors(json!({"local": {"path": "/d"}})),
            ["spec.nodeAffinity: Required value: Local volume requires node affinity"]
        );
        assert_eq!(
            errors(json!({"hostPath": {"path": "/."}, "persistentVolumeReclaimPolicy": "Recycle", "capacity": {}})),
            [
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: {}: supported values: \"storage\"",
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
            ]
        );
    }

    #[test]
    fn its_source_stays() {
        let with = |path: &str| volume(json!({"hostPath": {"path": path}}));
        assert!(update_errors(&PersistentVolume, with("/a"), with("/a")).is_empty());
        let errors = update_errors(&PersistentVolume, with("/a"), with("/b"));
        assert!(errors[0].starts_with(
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n@@"
        ));
    }
}
