//! Validation of projected volumes: secrets, config maps, downward API, tokens, trust bundles, certificates.

use std::collections::BTreeSet;

use apimachinery::goformat::quote;
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use super::volumes::{local_path, required, validate_downward_file, validate_key_to_path};
use crate::access::*;

const DUPLICATE_PATHS: &str = "conflicting duplicate paths";

pub(super) fn validate_projections(errors: &mut ErrorList, projected: &Value, path: &Path) {
    let mut paths: BTreeSet<String> = BTreeSet::new();
    for (i, source) in items(projected, "sources").iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut count = 0;
        for key in ["secret", "configMap"] {
            let Some(from) = field(source, key) else { continue };
            count += 1;
            let name = text(from, "name");
            if name.is_empty() {
                errors.required(at.child(key).child("name"), "");
            }
            for (j, item) in items(from, "items").iter().enumerate() {
                validate_key_to_path(errors, item, &at.child(key).child("items").index(j));
                let target = text(item, "path");
                if !target.is_empty() && !paths.insert(target.to_owned()) {
                    errors.invalid(path.clone(), name, DUPLICATE_PATHS);
                }
            }
        }
        if let Some(from) = field(source, "downwardAPI") {
            count += 1;
            for file in items(from, "items") {
                validate_downward_file(errors, file, &at.child("downwardAPI"));
                let target = text(file, "path");
                if !target.is_empty() && !paths.insert(target.to_owned()) {
                    errors.invalid(path.clone(), target, DUPLICATE_PATHS);
                }
            }
        }
        if let Some(token) = field(source, "serviceAccountToken") {
            count += 1;
            validate_token(errors, token, &at.child("serviceAccountToken"), path);
        }
        if let Some(bundle) = field(source, "clusterTrustBundle") {
            count += 1;
            validate_trust_bundle(errors, bundle, &at.child("clusterTrustBundle"));
            let target = text(bundle, "path");
            if !paths.insert(target.to_owned()) {
                errors.invalid(path.clone(), target, DUPLICATE_PATHS);
            }
        }
        if has(source, "podCertificate") {
            count += 1;
            validate_pod_certificate(errors, obj(source, "podCertificate"), &mut paths, &at.child("podCertificate"));
        }
        if count > 1 {
            errors.forbidden(at, "may not specify more than 1 volume type per source");
        }
    }
}

fn validate_token(errors: &mut ErrorList, token: &Value, path: &Path, projected: &Path) {
    let seconds = int(token, "expirationSeconds");
    if seconds < 600 {
        errors.invalid(path.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(path.child("expirationSeconds"), seconds, detail);
    }
    // Upstream names the projected volume here, not the source.
    let target = text(token, "path");
    if target.is_empty() {
        errors.required(projected.child("path"), "");
    } else {
        local_path(errors, target, &projected.child("path"));
    }
}

fn validate_trust_bundle(errors: &mut ErrorList, bundle: &Value, path: &Path) {
    match (opt_text(bundle, "name"), opt_text(bundle, "signerName")) {
        (Some(_), Some(_)) => {
            let dump = crate::godump::dump("ClusterTrustBundleProjection", bundle);
            errors.invalid_text(path.clone(), &dump, "only one of name and signerName may be used");
        }
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(path.child("name"), "must be a valid object name");
            }
            for message in trust_bundle_name(name) {
                let detail = format!("not a valid clustertrustbundlename: {message}");
                errors.invalid(path.child("name"), name, &detail);
            }
            if has(bundle, "labelSelector") {
                let selector = obj(bundle, "labelSelector").clone();
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid(path.child("labelSelector"), selector, detail);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(path.child("signerName"), "must be a valid signer name");
            }
            validate_signer_name(errors, signer, &path.child("signerName"));
            super::label_selector(errors, obj(bundle, "labelSelector"), &path.child("labelSelector"));
        }
        (None, None) => errors.required(path.clone(), "either name or signerName must be specified"),
    }
    required(errors, bundle, &["path"], path);
    local_path(errors, text(bundle, "path"), &path.child("path"));
}

/// `<signer with dots for slashes>:<name>`, or a plain name without a colon.
fn trust_bundle_name(name: &str) -> Vec<String> {
    match name.rsplit_once(':') {
        None => names::dns1123_subdomain(name, false),
        Some((_, own)) => names::dns1123_subdomain(own, false),
    }
}

/// `domain/path`, each part a subdomain.
pub(crate) fn validate_signer_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.required(path.clone(), "");
        return;
    }
    let segments: Vec<&str> = name.split('/').collect();
    let [domain, rest] = segments[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.invalid(path.clone(), name, detail);
        return;
    };
    for message in names::is_dns1123_subdomain(domain) {
        errors.invalid(path.clone(), domain, &format!("validating label {}: {message}", quote(domain)));
    }
    if domain.split('.').count() < 2 {
        errors.invalid(path.clone(), domain, "should be a domain with at least two segments separated by dots");
    }
    for label in rest.split('.') {
        for message in names::is_dns1123_label(label) {
            errors.invalid(path.clone(), rest, &format!("validating label {}: {message}", quote(label)));
        }
    }
}

fn validate_pod_certificate(errors: &mut ErrorList, source: &Value, paths: &mut BTreeSet<String>, path: &Path) {
    validate_signer_name(errors, text(source, "signerName"), &path.child("signerName"));
    let key_types = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    let key_type = text(source, "keyType");
    if !key_types.contains(&key_type) {
        errors.not_supported(path.child("keyType"), key_type, &key_types);
    }
    if let Some(seconds) = opt_int(source, "maxExpirationSeconds") {
        if seconds < 3600 {
            errors.invalid(
                path.child("maxExpirationSeconds"),
                seconds,
                "if provided, maxExpirationSeconds must be >= 3600",
            );
        }
        let top = if text(source, "signerName").starts_with("kubernetes.io/") { 86400 } else { 7_862_400 };
        if seconds > top {
            let detail = format!("if provided, maxExpirationSeconds must be <= {top}");
            errors.invalid(path.child("maxExpirationSeconds"), seconds, &detail);
        }
    }
    let targets = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    for key in targets {
        let target = text(source, key);
        if target.is_empty() {
            continue;
        }
        local_path(errors, target, &path.child(key));
        if !paths.insert(target.to_owned()) {
            errors.invalid(path.child(key), target, DUPLICATE_PATHS);
        }
    }
    if targets.iter().all(|key| text(source, key).is_empty()) {
        errors
            .required(path.clone(), "specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
    }
}
