//! What the two kinds of webhook configuration share.

use apimachinery::validation::meta::{LabelSelectorOptions, validate_label_selector};
use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::expressions::check_match_conditions;
use super::rules::{
    FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, check_choice, check_rule, count, default_rules,
};
use crate::access::{ensure_map, has, int, items, items_mut, obj, opt_int, opt_text, same, set_missing, text, texts};
use crate::checks::{next_generation, start_generation};
use crate::printers::{age_of, name_of};
use crate::webhooks::{check_service, check_url};

const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
/// The versions of AdmissionReview that the server speaks.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    Mutating,
    Validating,
}

pub(super) fn fill_in(object: &mut Value, flavor: Flavor) {
    for hook in items_mut(object, "webhooks") {
        set_missing(hook, "failurePolicy", "Fail");
        set_missing(hook, "matchPolicy", "Equivalent");
        ensure_map(hook, "namespaceSelector");
        ensure_map(hook, "objectSelector");
        set_missing(hook, "timeoutSeconds", 10);
        if flavor == Flavor::Mutating {
            set_missing(hook, "reinvocationPolicy", "Never");
        }
        default_rules(hook, "rules");
        let service = hook.get_mut("clientConfig").and_then(|config| config.get_mut("service"));
        if let Some(service) = service.filter(|s| s.is_object()) {
            set_missing(service, "port", 443);
        }
    }
}

pub(super) fn prepare_for_create(object: &mut Value) {
    start_generation(object);
}

pub(super) fn prepare_for_update(object: &mut Value, old: &Value) {
    let changed = !same(obj(object, "webhooks"), obj(old, "webhooks"));
    next_generation(object, old, changed);
}

/// What a stored configuration has done wrong, an update may go on doing.
struct Leniency {
    side_effects: bool,
    review_versions: bool,
    repeated_names: bool,
    selector_values: bool,
    match_conditions: bool,
}

impl Leniency {
    fn of(object: &Value, old: Option<&Value>) -> Self {
        let Some(old) = old else {
            return Self {
                side_effects: false,
                review_versions: false,
                repeated_names: false,
                selector_values: false,
                match_conditions: false,
            };
        };
        let (new, old) = (items(object, "webhooks"), items(old, "webhooks"));
        let strict = LabelSelectorOptions::default();
        let bad_selector =
            |hook: &Value, key: &str| !validate_label_selector(obj(hook, key), strict, &Path::nil()).is_empty();
        Self {
            side_effects: old.iter().any(|hook| !NO_SIDE_EFFECTS.contains(&text(hook, "sideEffects"))),
            review_versions: old.iter().any(|hook| {
                let versions = texts(hook, "admissionReviewVersions");
                !versions.is_empty() && !versions.iter().any(|v| REVIEW_VERSIONS.contains(v))
            }),
            repeated_names: old
                .iter()
                .enumerate()
                .any(|(i, hook)| old[..i].iter().any(|h| text(h, "name") == text(hook, "name"))),
            selector_values: old
                .iter()
                .any(|hook| bad_selector(hook, "namespaceSelector") || bad_selector(hook, "objectSelector")),
            match_conditions: new.len() == old.len()
                && new.iter().zip(old).all(|(n, o)| same(obj(n, "matchConditions"), obj(o, "matchConditions"))),
        }
    }
}

/// Validates a configuration; `old` is what it replaces.
pub(super) fn check(object: &Value, old: Option<&Value>, flavor: Flavor) -> ErrorList {
    let mut errors = ErrorList::new();
    let lenient = Leniency::of(object, old);
    let hooks = items(object, "webhooks");
    for (i, hook) in hooks.iter().enumerate() {
        let path = Path::new("webhooks").index(i);
        check_hook(&mut errors, &path, hook, flavor, &lenient);
        check_review_versions(&mut errors, &path.child("admissionReviewVersions"), hook, &lenient);
        let name = text(hook, "name");
        let taken = !name.is_empty() && hooks[..i].iter().any(|h| text(h, "name") == name);
        if taken && !lenient.repeated_names {
            errors.duplicate(path.child("name"), name);
        }
    }
    errors
}

fn check_hook(errors: &mut ErrorList, path: &Path, hook: &Value, flavor: Flavor, lenient: &Leniency) {
    fully_qualified(errors, path.child("name"), text(hook, "name"));
    for (i, rule) in items(hook, "rules").iter().enumerate() {
        check_rule(errors, &path.child("rules").index(i), rule);
    }
    check_choice(errors, path, hook, "failurePolicy", FAILURE_POLICIES);
    check_choice(errors, path, hook, "matchPolicy", MATCH_POLICIES);
    let effects = if lenient.side_effects { SIDE_EFFECTS } else { NO_SIDE_EFFECTS };
    if has(hook, "sideEffects") {
        check_choice(errors, path, hook, "sideEffects", effects);
    } else {
        errors.required(path.child("sideEffects"), &format!("must specify one of {}", effects.join(", ")));
    }
    if let Some(seconds) = opt_int(hook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(path.child("timeoutSeconds"), seconds, detail);
    }
    for key in ["namespaceSelector", "objectSelector"] {
        let options =
            LabelSelectorOptions { allow_invalid_values: lenient.selector_values, ..LabelSelectorOptions::default() };
        errors.extend(validate_label_selector(obj(hook, key), options, &path.child(key)));
    }
    if flavor == Flavor::Mutating {
        check_choice(errors, path, hook, "reinvocationPolicy", REINVOCATION_POLICIES);
    }
    check_client_config(errors, &path.child("clientConfig"), obj(hook, "clientConfig"));
    if !lenient.match_conditions {
        check_match_conditions(errors, path, hook);
    }
}

/// Exactly one of `url` and `service`.
fn check_client_config(errors: &mut ErrorList, path: &Path, config: &Value) {
    match (opt_text(config, "url"), obj(config, "service")) {
        (Some(url), Value::Null) => check_url(errors, &path.child("url"), url),
        (None, service) if !service.is_null() => {
            // upstream hands over name and namespace the wrong way around, which shows when one of them is missing
            let (name, namespace) = (text(service, "name"), text(service, "namespace"));
            let url_path = opt_text(service, "path");
            check_service(errors, &path.child("service"), name, namespace, url_path, int(service, "port"));
        }
        _ => errors.required(path.clone(), "exactly one of url or service is required"),
    }
}

fn fully_qualified(errors: &mut ErrorList, path: Path, name: &str) {
    let bad = names::is_dns1123_subdomain(name);
    if name.is_empty() {
        errors.required(path, "");
    } else if !bad.is_empty() {
        errors.invalid(path, name, &bad.join(","));
    } else if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

fn check_review_versions(errors: &mut ErrorList, path: &Path, hook: &Value, lenient: &Leniency) {
    let versions = texts(hook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.required(path.clone(), &format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.invalid(path.index(i), *version, "duplicate version");
            continue;
        }
        errors.invalid_all(&path.index(i), version, names::is_dns1035_label(version));
    }
    if !lenient.review_versions && !versions.iter().any(|v| REVIEW_VERSIONS.contains(v)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(path.clone(), json!(versions), &detail);
    }
}

pub(super) fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name_of(object), count(object, "webhooks"), age_of(object, now)]
}
