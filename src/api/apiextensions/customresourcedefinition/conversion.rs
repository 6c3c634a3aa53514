//! How objects of one version become those of another.

use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use crate::access::{field, obj, opt_text, text, texts};
use crate::checks::one_of;
use crate::webhooks;

/// Versions of ConversionReview this server speaks.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

/// `conversion` in its v1 form; errors name the fields of the internal form.
pub(super) fn check(
    errors: &mut ErrorList,
    path: &Path,
    conversion: &Value,
    recognized_required: bool,
    bad_bundle_allowed: bool,
) {
    if !conversion.is_object() {
        return;
    }
    let strategy = text(conversion, "strategy");
    one_of(errors, path.child("strategy"), strategy, &["None", "Webhook"]);
    let webhook = obj(conversion, "webhook");
    let (config, at) = (field(webhook, "clientConfig"), path.child("webhookClientConfig"));
    let (versions, versions_at) = (texts(webhook, "conversionReviewVersions"), path.child("conversionReviewVersions"));
    if strategy != "Webhook" {
        const UNUSED: &str = "should not be set when strategy is not set to Webhook";
        if config.is_some() {
            errors.forbidden(at, UNUSED);
        }
        if !versions.is_empty() {
            errors.forbidden(versions_at, UNUSED);
        }
        return;
    }
    match config {
        None => errors.required(at, "required when strategy is set to Webhook"),
        Some(config) => check_client_config(errors, &at, config, bad_bundle_allowed),
    }
    check_review_versions(errors, &versions_at, &versions, recognized_required);
}

fn check_client_config(errors: &mut ErrorList, path: &Path, config: &Value, bad_bundle_allowed: bool) {
    match (opt_text(config, "url"), field(config, "service")) {
        (Some(url), None) => webhooks::check_url(errors, &path.child("url"), url),
        // upstream hands the two over the wrong way round, so the errors name the other one
        (None, Some(service)) => {
            let (namespace, name) = (text(service, "namespace"), text(service, "name"));
            let rest = (opt_text(service, "path"), service.get("port").and_then(Value::as_i64).unwrap_or(0));
            webhooks::check_service(errors, &path.child("service"), name, namespace, rest.0, rest.1);
        }
        _ => errors.required(path.clone(), "exactly one of url or service is required"),
    }
    let bundle = text(config, "caBundle");
    if !bundle.is_empty() && !bad_bundle_allowed {
        webhooks::check_ca_bundle(errors, &path.child("caBundle"), bundle);
    }
}

fn check_review_versions(errors: &mut ErrorList, path: &Path, versions: &[&str], recognized_required: bool) {
    if versions.is_empty() {
        errors.required(path.clone(), "");
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.invalid(path.index(i), *version, "duplicate version");
            continue;
        }
        errors.invalid_all(&path.index(i), version, names::is_dns1035_label(version));
    }
    if recognized_required && !versions.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(path.clone(), versions.to_vec(), &detail);
    }
}

/// The old definition already had a version that this server speaks, or none at all.
pub(super) fn recognized_before(old: &Value) -> bool {
    let conversion = obj(obj(old, "spec"), "conversion");
    let versions = texts(obj(conversion, "webhook"), "conversionReviewVersions");
    versions.is_empty() || versions.iter().any(|version| REVIEW_VERSIONS.contains(version))
}

/// A bad CA bundle stays allowed while the definition is not established, or if the old one was bad.
pub(super) fn bad_bundle_allowed(old: &Value) -> bool {
    if !super::super::conditions::is_true(old, super::super::conditions::ESTABLISHED) {
        return true;
    }
    let webhook = obj(obj(obj(old, "spec"), "conversion"), "webhook");
    let bundle = text(obj(webhook, "clientConfig"), "caBundle");
    let mut errors = ErrorList::new();
    if !bundle.is_empty() {
        webhooks::check_ca_bundle(&mut errors, &Path::new("caBundle"), bundle);
    }
    !errors.is_empty()
}
