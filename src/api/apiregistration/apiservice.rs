//! APIService: which server serves a group version; without a service, this one.
//!
//! Invariants:
//! - AS-1: the name is `<version>.<group>`.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{copy_field, flag, has, int, items, obj, set, set_missing, text};
use crate::checks::{decoded_len, keep_metadata, name, spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ApiService;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService";
    const GROUP: &str = "apiregistration.k8s.io/v1";
    Kind::builtin(GROUP, "APIService", "apiservices", Scope::Cluster, DEFINITION, ApiService)
        .with_categories(&["api-extensions"])
        .with_storage_key("apiregistration.k8s.io/apiservices")
        .with_subresource("status", GROUP, "APIService", &["get", "patch", "update"])
}

const HIGHEST_GROUP_PRIORITY: i64 = 20_000;
const HIGHEST_VERSION_PRIORITY: i64 = 1000;

impl Strategy for ApiService {
    fn default(&self, object: &mut Value) {
        let service = object.get_mut("spec").and_then(|spec| spec.get_mut("service")).filter(|s| s.is_object());
        if let Some(service) = service {
            set_missing(service, "port", 443);
        }
    }

    fn prepare_for_create(&self, cx: &RequestContext, object: &mut Value) {
        let mut status = json!({});
        if !has(spec(object), "service") {
            let now = cx.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            status = json!({"conditions": [{
                "type": "Available",
                "status": "True",
                "lastTransitionTime": now,
                "reason": "Local",
                "message": "Local APIServices are always available",
            }]});
        }
        set(object, "status", status);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        if cx.subresource == "status" {
            copy_field(object, old, "spec");
            keep_metadata(object, old);
        } else {
            copy_field(object, old, "status");
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        check(object)
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == "status" { check_status(object) } else { check(object) }
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("apiregistration.k8s.io/v1/apiservices")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let service = match obj(spec(object), "service") {
            Value::Null => "Local".to_owned(),
            service => format!("{}/{}", text(service, "namespace"), text(service, "name")),
        };
        let condition = items(status(object), "conditions").iter().find(|c| text(c, "type") == "Available");
        let available = match condition.map(|c| (text(c, "status"), text(c, "reason"))) {
            None => "Unknown".to_owned(),
            Some((status, reason)) if status != "True" && !reason.is_empty() => format!("{status} ({reason})"),
            Some((status, _)) => status.to_owned(),
        };
        vec![name_of(object), json!(service), json!(available), age_of(object, now)]
    }
}

fn check(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (own, path) = (spec(object), Path::new("spec"));
    let (group, version) = (text(own, "group"), text(own, "version"));
    let required = format!("{version}.{group}");
    if name(object) != required && names::path_segment(name(object), false).is_empty() && !name(object).is_empty() {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        errors.invalid(Path::new("metadata").child("name"), name(object), &detail);
    }
    if group.is_empty() && version != "v1" {
        errors.required(path.child("group"), "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        errors.invalid_all(&path.child("group"), group, names::is_dns1123_subdomain(group));
    }
    errors.invalid_all(&path.child("version"), version, names::is_dns1035_label(version));
    for (key, highest) in
        [("groupPriorityMinimum", HIGHEST_GROUP_PRIORITY), ("versionPriority", HIGHEST_VERSION_PRIORITY)]
    {
        let priority = int(own, key);
        if priority <= 0 || priority > highest {
            errors.invalid(path.child(key), priority, &format!("must be positive and less than {highest}"));
        }
    }
    let bundle = decoded_len(text(own, "caBundle"));
    let insecure = path.child("insecureSkipTLSVerify");
    let service = obj(own, "service");
    if service.is_null() {
        if bundle > 0 {
            let detail = "local APIServices may not have a caBundle";
            errors.invalid(path.child("caBundle"), format!("{bundle} bytes"), detail);
        }
        if flag(own, "insecureSkipTLSVerify") {
            errors.invalid(insecure, true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return errors;
    }
    for key in ["namespace", "name"] {
        if text(service, key).is_empty() {
            errors.required(path.child("service").child(key), "");
        }
    }
    if flag(own, "insecureSkipTLSVerify") && bundle > 0 {
        errors.invalid(insecure, true, "may not be true if caBundle is present");
    }
    errors
}

fn check_status(object: &Value) -> ErrorList {
    const STATUSES: &[&str] = &["True", "False", "Unknown"];
    let mut errors = ErrorList::new();
    for (i, condition) in items(status(object), "conditions").iter().enumerate() {
        let state = text(condition, "status");
        if !STATUSES.contains(&state) {
            let at = Path::new("status").child("conditions").index(i);
            errors.not_supported(at.child("status"), state, STATUSES);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx};

    fn local(name: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15}})
    }

    #[test]
    fn a_local_one_is_available() {
        let made = created(&ApiService, local("v1.a.b"));
        assert_eq!(made["status"]["conditions"][0]["reason"], "Local");
        assert_eq!(ApiService.row(&made, cx("").now)[1..3], [json!("Local"), json!("True")]);
        assert!(create_errors(&ApiService, local("v1.a.b")).is_empty());
    }

    #[test]
    fn names_and_bundles() {
        assert_eq!(
            create_errors(&ApiService, local("x")),
            ["metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.a.b\""]
        );
        let mut bad = local("v1.a.b");
        bad["spec"]["caBundle"] = json!("Zm9v");
        bad["spec"]["groupPriorityMinimum"] = json!(20001);
        assert_eq!(
            create_errors(&ApiService, bad),
            [
                "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
                "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
            ]
        );
        let mut remote = local("v1.a.b");
        remote["spec"]["service"] = json!({"name": "s"});
        let made = created(&ApiService, remote.clone());
        assert_eq!((&made["spec"]["service"]["port"], &made["status"]), (&json!(443), &json!({})));
        assert_eq!(create_errors(&ApiService, remote), ["spec.service.namespace: Required value"]);
    }
}
