//! What a pod or template may hold but should not: texts for Warning headers.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::goformat::quote;
use apimachinery::quantity::Quantity;
use apimachinery::validation::Path;
use apimachinery::validation::names::is_valid_label_value;
use serde_json::Value;

use super::annotations::{APP_ARMOR, SECCOMP_CONTAINER, SECCOMP_POD};
use super::{Scope, containers_with_paths};
use crate::access::*;

const DEPRECATED_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    ("security.alpha.kubernetes.io/sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
    ("security.alpha.kubernetes.io/unsafe-sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
];

const DEPRECATED_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

const DEPRECATED_VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
];

const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Warnings of a pod (`path` nil) or a template (`path` is that of the template).
pub fn warnings(object: &Value, scope: Scope, path: &Path) -> Vec<String> {
    let (spec, metadata) = (obj(object, "spec"), obj(object, "metadata"));
    let at = path.child("spec");
    let mut out = Vec::new();
    labels(&mut out, spec, &at);
    let annotations = obj(metadata, "annotations");
    let annotation_path = path.child("metadata").child("annotations");
    for (key, message) in DEPRECATED_ANNOTATIONS {
        if has(annotations, key) {
            out.push(format!("{}: {message}", annotation_path.key(key)));
        }
    }
    volumes(&mut out, spec, &at);
    names(&mut out, spec, &at);
    for resource in ["memory", "ephemeral-storage"] {
        fractional(&mut out, obj(spec, "overhead"), resource, &at.child("overhead"));
    }
    if !has(obj(spec, "securityContext"), "seccompProfile") && has(annotations, SECCOMP_POD) {
        let message = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
        out.push(format!("{}: {message}", annotation_path.key(SECCOMP_POD)));
    }
    let pod_app_armor = has(obj(spec, "securityContext"), "appArmorProfile");
    for (container, at) in containers_with_paths(spec, &at) {
        let context = obj(container, "securityContext");
        let name = text(container, "name");
        let key = format!("{SECCOMP_CONTAINER}{name}");
        if !has(context, "seccompProfile") && has(annotations, &key) {
            let message = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
            out.push(format!("{}: {message}", annotation_path.key(&key)));
        }
        // A pod's annotation becomes a field, which warns by itself.
        let key = format!("{APP_ARMOR}{name}");
        if scope == Scope::Template && !pod_app_armor && !has(context, "appArmorProfile") && has(annotations, &key) {
            let message = r#"deprecated since v1.30; use the "appArmorProfile" field instead"#;
            out.push(format!("{}: {message}", annotation_path.key(&key)));
        }
        for resource in ["memory", "ephemeral-storage"] {
            for list in ["limits", "requests"] {
                let at = at.child("resources").child(list);
                fractional(&mut out, obj(obj(container, "resources"), list), resource, &at);
            }
        }
        env(&mut out, container, &at);
    }
    ports(&mut out, spec, &at);
    if opt_int(spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        let message = "must be >= 0; negative values are invalid and will be treated as 1";
        out.push(format!("{}: {message}", at.child("terminationGracePeriodSeconds")));
    }
    selectors(&mut out, spec, &at);
    out
}

fn deprecated_label(key: &str) -> Option<&'static str> {
    DEPRECATED_LABELS.iter().find(|(label, _)| *label == key).map(|(_, message)| *message)
}

fn labels(out: &mut Vec<String>, spec: &Value, path: &Path) {
    for (key, _) in entries(spec, "nodeSelector") {
        if let Some(message) = deprecated_label(key) {
            out.push(format!("{}: {message}", path.child("nodeSelector").key(key)));
        }
    }
    let affinity = obj(obj(spec, "affinity"), "nodeAffinity");
    let at = path.child("affinity").child("nodeAffinity");
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in items(obj(affinity, required), "nodeSelectorTerms").iter().enumerate() {
        term_labels(out, term, false, &at.child(required).child("nodeSelectorTerms").index(i));
    }
    for (i, term) in items(affinity, preferred).iter().enumerate() {
        term_labels(out, obj(term, "preference"), true, &at.child(preferred).index(i).child("preference"));
    }
    for (i, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = path.child("topologySpreadConstraints").index(i);
        let key = text(constraint, "topologyKey");
        if let Some(message) = deprecated_label(key) {
            out.push(format!("{}: {key} is {message}", at.child("topologyKey")));
        }
        if !has(constraint, "labelSelector") {
            out.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
        }
    }
}

/// Values are errors where they are required, so they are looked at in preferences only.
fn term_labels(out: &mut Vec<String>, term: &Value, values: bool, path: &Path) {
    for (i, expression) in items(term, "matchExpressions").iter().enumerate() {
        let key = text(expression, "key");
        let at = path.child("matchExpressions").index(i);
        if let Some(message) = deprecated_label(key) {
            out.push(format!("{}: {key} is {message}", at.child("key")));
        }
        for (j, value) in texts(expression, "values").into_iter().enumerate().filter(|_| values) {
            for message in is_valid_label_value(value) {
                out.push(format!("{}: {value} is invalid, {message}", at.child("values").index(j)));
            }
        }
    }
}

fn volumes(out: &mut Vec<String>, spec: &Value, path: &Path) {
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        let at = path.child("volumes").index(i);
        for (key, shown, message) in DEPRECATED_VOLUMES {
            if has(volume, key) {
                out.push(format!("{}: {message}", at.child(shown)));
            }
        }
        let claim = obj(obj(obj(volume, "ephemeral"), "volumeClaimTemplate"), "spec");
        let at_claim = at.children(&["ephemeral", "volumeClaimTemplate", "spec"]);
        for list in ["limits", "requests"] {
            let at = at_claim.child("resources").child(list);
            fractional(out, obj(obj(claim, "resources"), list), "storage", &at);
        }
        for key in ["cephfs", "rbd"] {
            if has(volume, key) {
                out.push(format!("{}: deprecated in v1.28, non-functional in v1.31+", at.child(key)));
            }
        }
    }
    for volume in items(spec, "volumes") {
        overlaps(out, volume);
    }
}

fn item_paths(source: &Value) -> Vec<String> {
    items(source, "items").iter().map(|item| text(item, "path").to_owned()).collect()
}

fn overlaps(out: &mut Vec<String>, volume: &Value) {
    let name = quote(text(volume, "name"));
    if let Some(source) = field(volume, "configMap") {
        let shown = format!("volume {name} (ConfigMap {}): overlapping paths", quote(text(source, "name")));
        check_paths(out, &item_paths(source), &shown);
    }
    if let Some(source) = field(volume, "secret") {
        let shown = format!("volume {name} (Secret {}): overlapping paths", quote(text(source, "secretName")));
        check_paths(out, &item_paths(source), &shown);
    }
    if let Some(source) = field(volume, "downwardAPI") {
        check_paths(out, &item_paths(source), &format!("volume {name} (DownwardAPI): overlapping paths"));
    }
    let mut all: BTreeSet<String> = BTreeSet::new();
    // Upstream keeps the paths of the last source that had any; a source without items repeats them.
    let (mut paths, mut shown) = (Vec::new(), String::new());
    for source in items(obj(volume, "projected"), "sources") {
        if source.as_object().is_none_or(serde_json::Map::is_empty) {
            out.push(format!("volume {name} (Projected) has no sources provided"));
            continue;
        }
        if let Some(from) = field(source, "configMap").filter(|s| has(s, "items")) {
            paths = item_paths(from);
            shown = format!("volume {name} (Projected ConfigMap {}): overlapping paths", quote(text(from, "name")));
        } else if let Some(from) = field(source, "secret").filter(|s| has(s, "items")) {
            paths = item_paths(from);
            shown = format!("volume {name} (Projected Secret {}): overlapping paths", quote(text(from, "name")));
        } else if let Some(from) = field(source, "downwardAPI").filter(|s| has(s, "items")) {
            paths = item_paths(from);
            shown = format!("volume {name} (Projected DownwardAPI): overlapping paths");
        } else if let Some(from) = field(source, "serviceAccountToken") {
            paths = vec![text(from, "path").to_owned()];
            shown = format!("volume {name} (Projected ServiceAccountToken): overlapping paths");
        } else if let Some(from) = field(source, "clusterTrustBundle") {
            paths = vec![text(from, "path").to_owned()];
            let bundle = opt_text(from, "name").unwrap_or_else(|| text(from, "signerName"));
            shown = format!("volume {name} (Projected ClusterTrustBundle {}): overlapping paths", quote(bundle));
        }
        if paths.is_empty() {
            continue;
        }
        check_paths(out, &paths, &shown);
        let own: BTreeSet<String> = paths.iter().cloned().collect();
        let mut together: Vec<String> = own.iter().chain(&all).cloned().collect();
        together.sort();
        check_paths(out, &together, &shown);
        all.extend(own);
    }
}

fn check_paths(out: &mut Vec<String>, paths: &[String], message: &str) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for path in paths {
        let path = path.trim_end_matches('/');
        let clash = seen.iter().find(|other| {
            **other == path || format!("{other}/").starts_with(path) || format!("{path}/").starts_with(**other)
        });
        let blank = path.is_empty() || seen.contains("");
        if let Some(other) = clash.filter(|_| !blank) {
            out.push(format!("{message}: {} with {}", quote(path), quote(other)));
        }
        seen.insert(path);
    }
}

/// Duplicates among host aliases and pull secrets, and pull secrets without a name.
fn names(out: &mut Vec<String>, spec: &Value, path: &Path) {
    for (list, key) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen = BTreeSet::new();
        for (i, item) in items(spec, list).iter().enumerate() {
            let value = text(item, key);
            if !seen.insert(value) {
                let at = path.child(list).index(i).child(key);
                out.push(format!("{at}: duplicate {key} {}", quote(value)));
            }
        }
    }
    for (i, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            let at = path.child("imagePullSecrets").index(i).child("name");
            out.push(format!("{at}: invalid empty name \"\""));
        }
    }
}

fn fractional(out: &mut Vec<String>, list: &Value, resource: &str, path: &Path) {
    let Ok(quantity) = Quantity::from_json(obj(list, resource)) else { return };
    if quantity.milli_value() % 1000 != 0 {
        let shown = quote(&quantity.to_string());
        out.push(format!("{}: fractional byte value {shown} is invalid, must be an integer", path.key(resource)));
    }
}

fn env(out: &mut Vec<String>, container: &Value, path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, var) in items(container, "env").iter().enumerate() {
        let name = text(var, "name");
        if seen.insert(name) {
            continue;
        }
        let (value, reference) = (text(var, "value"), format!("$({name})"));
        if has(var, "valueFrom") || value == reference || !value.contains(&reference) {
            let message = "which may be dropped when using apply";
            let at = path.child("env").index(i);
            out.push(format!("{at}: hides previous definition of {}, {message}", quote(name)));
        }
    }
}

fn ports(out: &mut Vec<String>, spec: &Value, path: &Path) {
    let mut all: BTreeMap<String, Vec<(Path, &Value)>> = BTreeMap::new();
    for (container, at) in containers_with_paths(spec, path) {
        for (i, port) in items(container, "ports").iter().enumerate() {
            let at = at.child("ports").index(i);
            let (ip, host) = (text(port, "hostIP"), int(port, "hostPort"));
            if !ip.is_empty() && host == 0 {
                let (name, number, protocol) = (text(port, "name"), int(port, "containerPort"), text(port, "protocol"));
                out.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}"
                ));
            }
            let key = format!("{}/{}", int(port, "containerPort"), text(port, "protocol"));
            let others = all.entry(key).or_default();
            for (other_at, other) in others.iter() {
                let (other_ip, other_host) = (text(other, "hostIP"), int(other, "hostPort"));
                if ip == other_ip && host == other_host {
                    out.push(format!("{at}: duplicate port definition with {other_at}"));
                } else if host == 0 || other_host == 0 {
                    out.push(format!("{at}: overlapping port definition with {other_at}"));
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    out.push(format!("{at}: dangerously ambiguous port definition with {other_at}"));
                }
            }
            others.push((at, port));
        }
    }
}

fn selectors(out: &mut Vec<String>, spec: &Value, path: &Path) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let terms = obj(obj(spec, "affinity"), kind);
        let at = path.child("affinity").child(kind);
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in items(terms, required).iter().enumerate() {
            if !has(term, "labelSelector") {
                out.push(format!("{}: {NULL_SELECTOR}", at.child(required).index(i).child("labelSelector")));
            }
        }
        for (i, term) in items(terms, preferred).iter().enumerate() {
            if !has(obj(term, "podAffinityTerm"), "labelSelector") {
                let at = at.child(preferred).index(i).child("podAffinityTerm").child("labelSelector");
                out.push(format!("{at}: {NULL_SELECTOR}"));
            }
        }
    }
}
