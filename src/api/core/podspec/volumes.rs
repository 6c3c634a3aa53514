//! Validation of volumes: every source, and paths. Projections and claim templates have their own files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use apimachinery::goformat::quote;
use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path, names};
use regex::Regex;
use serde_json::Value;

use super::claims::validate_claim_template;
use super::env::{VOLUME_FIELDS, validate_field_ref, validate_resource_ref};
use super::projections::validate_projections;
use super::{Scope, dns_label};
use crate::access::*;

const ONE_TYPE: &str = "may not specify more than 1 volume type";
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// A source: its field, its name in paths of errors about a second source, and in those about its own fields.
const SOURCES: &[(&str, &str, &str)] = &[
    ("emptyDir", "emptyDir", "emptyDir"),
    ("hostPath", "hostPath", "hostPath"),
    ("gitRepo", "gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk", "persistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret", "secret"),
    ("nfs", "nfs", "nfs"),
    ("iscsi", "iscsi", "iscsi"),
    ("glusterfs", "glusterfs", "glusterfs"),
    ("flocker", "flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd", "rbd"),
    ("cinder", "cinder", "cinder"),
    ("cephfs", "cephFS", "cephfs"),
    ("quobyte", "quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI", "downwardAPI"),
    ("fc", "fc", "fc"),
    ("flexVolume", "flexVolume", "flexVolume"),
    ("configMap", "configMap", "configMap"),
    ("azureFile", "azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk", "azureDisk"),
    ("storageos", "storageos", "storageos"),
    ("projected", "projected", "projected"),
    ("scaleIO", "scaleIO", "scaleIO"),
    ("csi", "csi", "csi"),
    ("ephemeral", "ephemeral", "ephemeral"),
    ("image", "image", "image"),
];

/// Validates the volumes of a pod named `pod_name` ("" in a template). Returns the valid ones by name.
pub(super) fn validate_volumes<'a>(
    errors: &mut ErrorList,
    volumes: &'a [Value],
    pod_name: &str,
    scope: Scope,
    path: &Path,
) -> BTreeMap<String, &'a Value> {
    let mut valid = BTreeMap::new();
    let created: BTreeSet<String> = volumes
        .iter()
        .filter(|v| !pod_name.is_empty() && has(v, "ephemeral"))
        .map(|v| format!("{pod_name}-{}", text(v, "name")))
        .collect();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        let name = text(volume, "name");
        let mut own = ErrorList::new();
        validate_source(&mut own, volume, pod_name, scope, &at);
        if name.is_empty() {
            own.required(at.child("name"), "");
        } else {
            dns_label(&mut own, name, &at.child("name"));
        }
        if valid.contains_key(name) {
            own.duplicate(at.child("name"), name);
        }
        if own.is_empty() {
            valid.insert(name.to_owned(), volume);
        } else {
            errors.extend(own);
        }
        let claim = text(obj(volume, "persistentVolumeClaim"), "claimName");
        if has(volume, "persistentVolumeClaim") && created.contains(claim) {
            let at = at.child("persistentVolumeClaim").child("claimName");
            errors.invalid(at, claim, "must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    valid
}

fn validate_source(errors: &mut ErrorList, volume: &Value, pod_name: &str, scope: Scope, path: &Path) {
    let mut count = 0;
    for (key, second, own) in SOURCES {
        let Some(source) = field(volume, key) else { continue };
        if count > 0 {
            errors.forbidden(path.child(second), ONE_TYPE);
        } else {
            validate_one(errors, key, source, scope, &path.child(own));
        }
        count += 1;
        let name = text(volume, "name");
        if *key == "iscsi" && has(source, "initiatorName") {
            if name.len() + 1 + text(source, "targetPortal").len() > 64 {
                let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
                errors.invalid(path.child("name"), name, detail);
            }
        }
        if *key == "ephemeral" && count == 1 && !pod_name.is_empty() && !name.is_empty() {
            let claim = format!("{pod_name}-{name}");
            for message in names::dns1123_subdomain(&claim, false) {
                errors.invalid(path.child("name"), name, &format!("PVC name {}: {message}", quote(&claim)));
            }
        }
    }
    if count == 0 {
        errors.required(path.clone(), "must specify a volume type");
    }
}

pub(super) fn required(errors: &mut ErrorList, source: &Value, keys: &[&str], path: &Path) {
    for key in keys {
        if text(source, key).is_empty() {
            errors.required(path.child(key), "");
        }
    }
}

fn required_list(errors: &mut ErrorList, source: &Value, key: &str, path: &Path) {
    if items(source, key).is_empty() {
        errors.required(path.child(key), "");
    }
}

fn required_secret_name(errors: &mut ErrorList, source: &Value, path: &Path) {
    if let Some(secret) = field(source, "secretRef") {
        required(errors, secret, &["name"], &path.child("secretRef"));
    }
}

fn in_range(errors: &mut ErrorList, value: i64, low: i64, high: i64, detail: &str, path: Path) {
    if value < low || value > high {
        errors.invalid(path, value, detail);
    }
}

/// One source, as a PersistentVolume holds it.
pub(crate) fn validate_volume_source(errors: &mut ErrorList, kind: &str, source: &Value, path: &Path) {
    validate_one(errors, kind, source, Scope::Template, path);
}

fn validate_one(errors: &mut ErrorList, kind: &str, source: &Value, scope: Scope, path: &Path) {
    match kind {
        "emptyDir" => {
            let negative = opt_text(source, "sizeLimit")
                .and_then(|s| Quantity::parse(s).ok())
                .is_some_and(|q| q.milli_value() < 0);
            if negative {
                errors.forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => validate_host_path(errors, source, path),
        "gitRepo" => {
            required(errors, source, &["repository"], path);
            relative_path(errors, text(source, "directory"), &path.child("directory"));
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            required(errors, source, &[if kind == "gcePersistentDisk" { "pdName" } else { "volumeID" }], path);
            let partition = int(source, "partition");
            in_range(errors, partition, 0, 255, "must be between 0 and 255, inclusive", path.child("partition"));
        }
        "secret" => {
            required(errors, source, &["secretName"], path);
            validate_mode(errors, source, "defaultMode", path);
            validate_items(errors, source, path);
        }
        "configMap" => {
            required(errors, source, &["name"], path);
            validate_mode(errors, source, "defaultMode", path);
            validate_items(errors, source, path);
        }
        "nfs" => {
            required(errors, source, &["server", "path"], path);
            if !text(source, "path").starts_with('/') {
                errors.invalid(path.child("path"), text(source, "path"), "must be an absolute path");
            }
        }
        "iscsi" => validate_iscsi(errors, source, path),
        "glusterfs" => required(errors, source, &["endpoints", "path"], path),
        "flocker" => validate_flocker(errors, source, path),
        "persistentVolumeClaim" => required(errors, source, &["claimName"], path),
        "rbd" => {
            required_list(errors, source, "monitors", path);
            required(errors, source, &["image"], path);
        }
        "cinder" => {
            required(errors, source, &["volumeID"], path);
            required_secret_name(errors, source, path);
        }
        "cephfs" => required_list(errors, source, "monitors", path),
        "quobyte" => validate_quobyte(errors, source, path),
        "downwardAPI" => {
            validate_mode(errors, source, "defaultMode", path);
            for file in items(source, "items") {
                validate_downward_file(errors, file, path);
            }
        }
        "fc" => validate_fc(errors, source, path),
        "flexVolume" => {
            required(errors, source, &["driver"], path);
            for (key, _) in entries(source, "options") {
                let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace).to_lowercase();
                let dotted = format!(".{namespace}");
                if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
                    let at = path.child("options").key(key);
                    errors.invalid(at, key, "kubernetes.io and k8s.io namespaces are reserved");
                }
            }
        }
        "azureFile" => required(errors, source, &["secretName", "shareName"], path),
        "vsphereVolume" => required(errors, source, &["volumePath"], path),
        "photonPersistentDisk" => required(errors, source, &["pdID"], path),
        "portworxVolume" => required(errors, source, &["volumeID"], path),
        "azureDisk" => validate_azure_disk(errors, source, path),
        "storageos" => {
            required(errors, source, &["volumeName"], path);
            for key in ["volumeName", "volumeNamespace"] {
                if !text(source, key).is_empty() {
                    dns_label(errors, text(source, key), &path.child(key));
                }
            }
            required_secret_name(errors, source, path);
        }
        "projected" => {
            validate_mode(errors, source, "defaultMode", path);
            validate_projections(errors, source, path);
        }
        "scaleIO" => required(errors, source, &["gateway", "system", "volumeName"], path),
        "csi" => validate_csi(errors, source, path),
        "ephemeral" => match field(source, "volumeClaimTemplate") {
            None => errors.required(path.child("volumeClaimTemplate"), ""),
            Some(template) => validate_claim_template(errors, template, &path.child("volumeClaimTemplate")),
        },
        "image" => {
            if scope == Scope::Pod {
                required(errors, source, &["reference"], path);
            }
            super::validate_pull_policy(errors, text(source, "pullPolicy"), &path.child("pullPolicy"));
        }
        _ => {}
    }
}

fn validate_host_path(errors: &mut ErrorList, source: &Value, path: &Path) {
    let target = text(source, "path");
    if target.is_empty() {
        errors.required(path.child("path"), "");
        return;
    }
    backsteps(errors, target, &path.child("path"));
    let known = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if let Some(ty) = opt_text(source, "type").filter(|t| !known.contains(t)) {
        errors.not_supported(path.child("type"), ty, &known);
    }
}

pub(super) fn validate_mode(errors: &mut ErrorList, holder: &Value, key: &str, path: &Path) {
    if let Some(mode) = opt_int(holder, key) {
        in_range(errors, mode, 0, 0o777, FILE_MODE, path.child(key));
    }
}

fn validate_items(errors: &mut ErrorList, source: &Value, path: &Path) {
    for (i, item) in items(source, "items").iter().enumerate() {
        validate_key_to_path(errors, item, &path.child("items").index(i));
    }
}

pub(super) fn validate_key_to_path(errors: &mut ErrorList, item: &Value, path: &Path) {
    required(errors, item, &["key", "path"], path);
    local_path(errors, text(item, "path"), &path.child("path"));
    validate_mode(errors, item, "mode", path);
}

pub(super) fn validate_downward_file(errors: &mut ErrorList, file: &Value, path: &Path) {
    required(errors, file, &["path"], path);
    local_path(errors, text(file, "path"), &path.child("path"));
    match (field(file, "fieldRef"), field(file, "resourceFieldRef")) {
        (Some(reference), other) => {
            validate_field_ref(errors, reference, VOLUME_FIELDS, &path.child("fieldRef"));
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path.clone(), "resource", detail);
            }
        }
        (None, Some(reference)) => validate_resource_ref(errors, reference, true, &path.child("resourceFieldRef")),
        (None, None) => errors.required(path.clone(), "one of fieldRef and resourceFieldRef is required"),
    }
    validate_mode(errors, file, "mode", path);
}

/// World wide names of iSCSI initiators and targets.
fn iscsi_name_is_valid(name: &str) -> bool {
    static PATTERNS: OnceLock<[Regex; 3]> = OnceLock::new();
    let [iqn, eui, naa] = PATTERNS.get_or_init(|| {
        [r"iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$", r"^eui\.[[:alnum:]]{16}$", r"^naa\.[[:alnum:]]{32}$"]
            .map(|p| Regex::new(p).expect("a constant pattern"))
    });
    match name.get(..3) {
        Some("iqn") => iqn.is_match(name),
        Some("eui") => eui.is_match(name),
        Some("naa") => naa.is_match(name),
        _ => true,
    }
}

fn iscsi_prefix(name: &str) -> bool {
    ["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p))
}

fn validate_iscsi(errors: &mut ErrorList, source: &Value, path: &Path) {
    required(errors, source, &["targetPortal"], path);
    let iqn = text(source, "iqn");
    if iqn.is_empty() {
        errors.required(path.child("iqn"), "");
    } else if !iscsi_prefix(iqn) {
        errors.invalid(path.child("iqn"), iqn, "must be valid format starting with iqn, eui, or naa");
    } else if !iscsi_name_is_valid(iqn) {
        errors.invalid(path.child("iqn"), iqn, "must be valid format");
    }
    in_range(errors, int(source, "lun"), 0, 255, "must be between 0 and 255, inclusive", path.child("lun"));
    if (flag(source, "chapAuthDiscovery") || flag(source, "chapAuthSession")) && !has(source, "secretRef") {
        errors.required(path.child("secretRef"), "");
    }
    if let Some(initiator) = opt_text(source, "initiatorName") {
        if !iscsi_prefix(initiator) {
            let detail = "must be valid format starting with iqn, eui, or naa";
            errors.invalid(path.child("initiatorname"), initiator, detail);
        } else if !iscsi_name_is_valid(initiator) {
            errors.invalid(path.child("initiatorname"), initiator, "must be valid format");
        }
    }
}

fn validate_fc(errors: &mut ErrorList, source: &Value, path: &Path) {
    let (wwns, wwids) = (items(source, "targetWWNs"), items(source, "wwids"));
    if wwns.is_empty() && wwids.is_empty() {
        errors.required(path.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both");
    }
    if !wwns.is_empty() && !wwids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(path.child("targetWWNs"), obj(source, "targetWWNs").clone(), detail);
    }
    if !wwns.is_empty() {
        match opt_int(source, "lun") {
            None => errors.required(path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) => in_range(errors, lun, 0, 255, "must be between 0 and 255, inclusive", path.child("lun")),
        }
    }
}

fn validate_flocker(errors: &mut ErrorList, source: &Value, path: &Path) {
    let (name, uuid) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.required(path.clone(), "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid(path.clone(), "resource", detail);
    }
    if name.contains('/') {
        errors.invalid(path.child("datasetName"), name, "must not contain '/'");
    }
}

fn validate_quobyte(errors: &mut ErrorList, source: &Value, path: &Path) {
    let registry = text(source, "registry");
    let pair = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_empty() {
        errors.required(path.child("registry"), pair);
    } else if text(source, "tenant").len() >= 65 {
        errors.required(path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for part in registry.split(',') {
            let valid = match part.strip_prefix('[') {
                Some(rest) => rest.split_once("]:").is_some_and(|(_, port)| !port.contains([':', '[', ']'])),
                None => part
                    .split_once(':')
                    .is_some_and(|(host, port)| !port.contains([':', '[', ']']) && !host.contains([']', '['])),
            };
            if !valid {
                errors.invalid(path.child("registry"), registry, pair);
            }
        }
    }
    required(errors, source, &["volume"], path);
}

fn validate_azure_disk(errors: &mut ErrorList, source: &Value, path: &Path) {
    required(errors, source, &["diskName", "diskURI"], path);
    let caching = ["None", "ReadOnly", "ReadWrite"];
    let kinds = ["Dedicated", "Managed", "Shared"];
    if let Some(mode) = opt_text(source, "cachingMode").filter(|m| !caching.contains(m)) {
        errors.not_supported(path.child("cachingMode"), mode, &caching);
    }
    let Some(kind) = opt_text(source, "kind") else { return };
    if !kinds.contains(&kind) {
        errors.not_supported(path.child("kind"), kind, &kinds);
    }
    let uri = text(source, "diskURI");
    let managed = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    let blob = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    if kind == "Managed" && !uri.starts_with("/subscriptions/") {
        errors.not_supported(path.child("diskURI"), uri, &[managed]);
    }
    if kind != "Managed" && !uri.starts_with("https://") {
        errors.not_supported(path.child("diskURI"), uri, &[blob]);
    }
}

fn validate_csi(errors: &mut ErrorList, source: &Value, path: &Path) {
    validate_csi_driver_name(errors, text(source, "driver"), &path.child("driver"));
    if let Some(secret) = field(source, "nodePublishSecretRef") {
        let name = text(secret, "name");
        if name.is_empty() {
            errors.required(path.child("nodePublishSecretRef").child("name"), "");
        } else {
            errors.invalid_all(&path.child("name"), name, names::dns1123_subdomain(name, false));
        }
    }
}

/// The name of a CSI driver.
pub fn validate_csi_driver_name(errors: &mut ErrorList, driver: &str, path: &Path) {
    if driver.is_empty() {
        errors.required(path.clone(), "");
        return;
    }
    if driver.len() > 63 {
        errors.too_long(path.clone(), "", 63);
    }
    errors.invalid_all(path, driver, names::is_dns1123_subdomain(&driver.to_lowercase()));
}

/// There is no `..` among the parts of a path.
pub(super) fn no_backsteps(target: &str) -> bool {
    target.split('/').all(|part| part != "..")
}

fn backsteps(errors: &mut ErrorList, target: &str, path: &Path) {
    if !no_backsteps(target) {
        errors.invalid(path.clone(), target, "must not contain '..'");
    }
}

/// Relative, and never up.
pub(super) fn relative_path(errors: &mut ErrorList, target: &str, path: &Path) {
    if target.starts_with('/') {
        errors.invalid(path.clone(), target, "must be a relative path");
    }
    backsteps(errors, target, path);
}

/// As [`relative_path`], and not one of the names (`..data`) that the volume writer uses itself.
pub(super) fn local_path(errors: &mut ErrorList, target: &str, path: &Path) {
    relative_path(errors, target, path);
    if target.starts_with("..") && !target.starts_with("../") && target != ".." {
        errors.invalid(path.clone(), target, "must not start with '..'");
    }
}
