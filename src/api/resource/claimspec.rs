//! What a claim asks for: requests of devices, constraints between them, configuration for the drivers.
//!
//! Invariants:
//! - DC-1: constraints and configuration name requests that are there.

use std::collections::HashMap;

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::{names, selector};
use crate::access::{has, int, items, items_mut, obj, opt_text, set_blank, set_zero, text, texts};
use crate::checks::dns_subdomain;

const MAX_REQUESTS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_CONSTRAINTS: usize = 32;
const MAX_CONFIGS: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_TOLERATIONS: usize = 16;
const MAX_PARAMETERS: usize = 10 * 1024;
const REFERENCE: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Defaults of a ResourceClaimSpec.
pub(super) fn default(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly").filter(|e| e.is_object()) {
            default_request(exactly);
        }
        items_mut(request, "firstAvailable").iter_mut().for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    set_blank(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        set_zero(request, "count", 1);
    }
    for toleration in items_mut(request, "tolerations") {
        set_blank(toleration, "operator", "Equal");
    }
}

/// The requests' names, each with those of its alternatives.
pub(super) struct Requests<'a>(HashMap<&'a str, Vec<&'a str>>);

impl<'a> Requests<'a> {
    pub(super) fn of(spec: &'a Value) -> Self {
        let requests = items(obj(spec, "devices"), "requests").iter();
        Self(
            requests
                .map(|r| (text(r, "name"), items(r, "firstAvailable").iter().map(|s| text(s, "name")).collect()))
                .collect(),
        )
    }

    fn has(&self, request: &str, alternative: Option<&str>) -> bool {
        let Some(alternatives) = self.0.get(request) else { return false };
        alternative.is_none_or(|name| alternatives.contains(&name))
    }

    /// Checks the name of a request, or of one of its alternatives as `request/alternative`.
    pub(super) fn check(&self, errors: &mut ErrorList, path: &Path, name: &str) {
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 {
            errors.invalid(path.clone(), name, REFERENCE);
            return;
        }
        for part in &parts {
            names::label(errors, path, part);
        }
        if !self.has(parts[0], parts.get(1).copied()) {
            errors.invalid(path.clone(), name, REFERENCE);
        }
    }

    pub(super) fn check_all(&self, errors: &mut ErrorList, path: &Path, names: &[&str]) {
        let check = |errors: &mut ErrorList, path: &Path, name: &&str| self.check(errors, path, name);
        names::set(errors, path, names, MAX_REQUESTS, check, |name| (*name).to_owned());
    }
}

/// Checks a ResourceClaimSpec.
pub(super) fn check(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let (devices, path) = (obj(spec, "devices"), path.child("devices"));
    let requests = Requests::of(spec);
    names::set(errors, &path.child("requests"), items(devices, "requests"), MAX_REQUESTS, check_request, |request| {
        text(request, "name").to_owned()
    });
    let constraints = items(devices, "constraints");
    names::slice(errors, &path.child("constraints"), constraints, MAX_CONSTRAINTS, |errors, path, constraint| {
        requests.check_all(errors, &path.child("requests"), &texts(constraint, "requests"));
        check_constraint(errors, path, constraint);
    });
    names::slice(errors, &path.child("config"), items(devices, "config"), MAX_CONFIGS, |errors, path, config| {
        requests.check_all(errors, &path.child("requests"), &texts(config, "requests"));
        check_config(errors, path, config, false);
    });
}

fn check_request(errors: &mut ErrorList, path: &Path, request: &Value) {
    names::label(errors, &path.child("name"), text(request, "name"));
    let alternatives = items(request, "firstAvailable");
    match (has(request, "exactly"), !alternatives.is_empty()) {
        (false, false) => {
            errors.required(path.clone(), "exactly one of `exactly` or `firstAvailable` is required");
        }
        (true, true) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path.clone(), Value::Null, detail);
        }
        (true, false) => check_devices(errors, &path.child("exactly"), obj(request, "exactly")),
        (false, true) => {
            let path = path.child("firstAvailable");
            let check = |errors: &mut ErrorList, path: &Path, alternative: &Value| {
                names::label(errors, &path.child("name"), text(alternative, "name"));
                check_devices(errors, path, alternative);
            };
            names::set(errors, &path, alternatives, MAX_ALTERNATIVES, check, |a| text(a, "name").to_owned());
        }
    }
}

fn check_devices(errors: &mut ErrorList, path: &Path, request: &Value) {
    let at = path.child("deviceClassName");
    match text(request, "deviceClassName") {
        "" => errors.required(at, ""),
        class => dns_subdomain(errors, at, class),
    }
    check_selectors(errors, &path.child("selectors"), items(request, "selectors"), false);
    let (mode, count) = (text(request, "allocationMode"), int(request, "count"));
    let at = path.child("count");
    match mode {
        "All" if count != 0 => {
            errors.invalid(at, count, "must not be specified when allocationMode is 'All'");
        }
        "All" => {}
        "ExactCount" if count <= 0 => errors.invalid(at, count, "must be greater than zero"),
        "ExactCount" => {}
        _ => errors.not_supported(path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    let tolerations = items(request, "tolerations");
    names::slice(errors, &path.child("tolerations"), tolerations, MAX_TOLERATIONS, names::toleration);
}

/// Selectors of devices. Those that are `stored` have been compiled before.
pub(super) fn check_selectors(errors: &mut ErrorList, path: &Path, selectors: &[Value], stored: bool) {
    names::slice(errors, path, selectors, MAX_SELECTORS, |errors, path, selector| {
        if !has(selector, "cel") {
            errors.required(path.child("cel"), "");
            return;
        }
        let (expression, at) = (text(obj(selector, "cel"), "expression"), path.children(&["cel", "expression"]));
        if !stored {
            selector::check(errors, &at, expression);
        }
    });
}

fn check_constraint(errors: &mut ErrorList, path: &Path, constraint: &Value) {
    for field in ["matchAttribute", "distinctAttribute"] {
        if let Some(name) = opt_text(constraint, field) {
            names::fully_qualified(errors, &path.child(field), name);
            return;
        }
    }
    let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
    errors.required(path.clone(), detail);
}

/// A driver's own configuration.
pub(super) fn check_config(errors: &mut ErrorList, path: &Path, config: &Value, stored: bool) {
    let (opaque, path) = (obj(config, "opaque"), path.child("opaque"));
    if opaque.is_null() {
        errors.required(path, "");
        return;
    }
    names::driver(errors, &path.child("driver"), text(opaque, "driver"));
    names::raw(errors, &path.child("parameters"), obj(opaque, "parameters"), MAX_PARAMETERS, stored);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::messages;

    fn errors(mut devices: Value) -> Vec<String> {
        devices = json!({"devices": devices});
        default(&mut devices);
        let mut errors = ErrorList::new();
        check(&mut errors, &Path::new("spec"), &devices);
        messages(&errors)
    }

    #[test]
    fn counts_fit_modes() {
        let request = |mode: &str, count: i64| {
            errors(json!({"requests": [
                {"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": mode, "count": count}},
            ]}))
        };
        assert!(request("", 0).is_empty() && request("All", 0).is_empty() && request("ExactCount", 3).is_empty());
        assert_eq!(
            request("All", 1),
            [
                "spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'"
            ]
        );
    }

    #[test]
    fn references_are_known() {
        let devices = json!({
            "requests": [{"name": "a", "firstAvailable": [{"name": "b", "deviceClassName": "c"}]}],
            "config": [{"requests": ["a", "a/b", "a/x"], "opaque": {"driver": "d", "parameters": [1]}}],
            "constraints": [{"requests": ["a", "a"]}],
        });
        assert_eq!(
            errors(devices),
            [
                "spec.devices.constraints[0].requests[1]: Duplicate value: \"a\"".to_owned(),
                "spec.devices.constraints[0]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set".to_owned(),
                format!("spec.devices.config[0].requests[2]: Invalid value: \"a/x\": {REFERENCE}"),
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object".to_owned(),
            ]
        );
    }
}
