//! FlowSchema: which requests belong together, and at which priority level they wait.
//!
//! Invariants:
//! - FS-1: the spec of a mandatory schema (`exempt`, `catch-all`) is fixed.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{bootstrap, check_conditions};
use crate::access::{flag, has, int, items, obj, same, set_zero, text, texts};
use crate::checks::{dns_subdomain, keep_metadata, keep_spec_or_status, name, spec, start_generation, status};
use crate::godump;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct FlowSchema;

pub fn kind() -> Kind {
    const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
    const DEFINITION: &str = "io.k8s.api.flowcontrol.v1.FlowSchema";
    Kind::builtin(GROUP_VERSION, "FlowSchema", "flowschemas", Scope::Cluster, DEFINITION, FlowSchema).with_subresource(
        "status",
        GROUP_VERSION,
        "FlowSchema",
        &["get", "patch", "update"],
    )
}

const DEFAULT_PRECEDENCE: i64 = 1000;
const MAX_PRECEDENCE: i64 = 10_000;
/// The one schema that may be the first of all.
const FIRST: &str = "exempt";
const METHODS: &[&str] = &["ByNamespace", "ByUser"];
const SUBJECTS: &[&str] = &["Group", "ServiceAccount", "User"];
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

impl Strategy for FlowSchema {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            set_zero(spec, "matchingPrecedence", DEFAULT_PRECEDENCE);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        crate::access::set(object, "status", json!({}));
        start_generation(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        keep_spec_or_status(cx, object, old);
        if cx.subresource == "status" {
            keep_metadata(object, old);
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        check_spec(&mut errors, &path, name(object), spec(object));
        if bootstrap::mandatory("FlowSchema", name(object)).is_some_and(|fixed| !same(spec(object), spec(&fixed))) {
            let dump = godump::dump("FlowSchemaSpec", spec(object));
            errors.invalid_text(path, &dump, &format!("spec of '{}' must equal the fixed value", name(object)));
        }
        check_conditions(&mut errors, object);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            let mut errors = ErrorList::new();
            check_conditions(&mut errors, object);
            return errors;
        }
        self.validate(cx, object)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("flowcontrol.apiserver.k8s.io/v1/flowschemas")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let method = text(obj(spec(object), "distinguisherMethod"), "type");
        let dangling = items(status(object), "conditions").iter().find(|c| text(c, "type") == "Dangling");
        vec![
            name_of(object),
            json!(text(obj(spec(object), "priorityLevelConfiguration"), "name")),
            json!(int(spec(object), "matchingPrecedence")),
            json!(if method.is_empty() { "<none>" } else { method }),
            age_of(object, now),
            json!(dangling.map_or("?", |c| text(c, "status"))),
        ]
    }
}

fn check_spec(errors: &mut ErrorList, path: &Path, name: &str, spec: &Value) {
    let precedence = int(spec, "matchingPrecedence");
    let at = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(at.clone(), precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        errors.invalid(at.clone(), precedence, &format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if precedence == 1 && name != FIRST {
        errors.invalid(at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if has(spec, "distinguisherMethod") {
        let method = text(obj(spec, "distinguisherMethod"), "type");
        if !METHODS.contains(&method) {
            errors.not_supported(path.children(&["distinguisherMethod", "type"]), json!({"Type": method}), METHODS);
        }
    }
    let at = path.children(&["priorityLevelConfiguration", "name"]);
    match text(obj(spec, "priorityLevelConfiguration"), "name") {
        "" => errors.required(at, "must reference a priority level"),
        level => dns_subdomain(errors, at, level),
    }
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        check_rule(errors, &path.child("rules").index(i), rule);
    }
}

fn check_rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    let subjects = items(rule, "subjects");
    if subjects.is_empty() {
        errors.required(path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in subjects.iter().enumerate() {
        check_subject(errors, &path.child("subjects").index(i), subject);
    }
    let (resources, others) = (items(rule, "resourceRules"), items(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(path.clone(), detail);
    }
    for (i, rule) in resources.iter().enumerate() {
        check_resource_rule(errors, &path.child("resourceRules").index(i), rule);
    }
    for (i, rule) in others.iter().enumerate() {
        check_other_rule(errors, &path.child("nonResourceRules").index(i), rule);
    }
}

fn check_subject(errors: &mut ErrorList, path: &Path, subject: &Value) {
    let kind = text(subject, "kind");
    const FIELDS: &[(&str, &str)] = &[("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let Some((_, own)) = FIELDS.iter().find(|(known, _)| *known == kind) else {
        errors.not_supported(path.child("kind"), kind, SUBJECTS);
        return;
    };
    let at = path.child(own);
    let value = obj(subject, own);
    if value.is_null() {
        errors.required(at, &format!("{own} is required when subject kind is '{kind}'"));
    } else {
        match text(value, "name") {
            "" => errors.required(at.child("name"), ""),
            "*" => {}
            name if kind == "ServiceAccount" => dns_subdomain(errors, at.child("name"), name),
            _ => {}
        }
        if kind == "ServiceAccount" {
            let at = at.child("namespace");
            match text(value, "namespace") {
                "" => errors.required(at, "must specify namespace for service account"),
                namespace => errors.invalid_all(&at, namespace, names::is_dns1123_label(namespace)),
            }
        }
    }
    for (other, field) in FIELDS.iter().filter(|(other, field)| *other != kind && has(subject, field)) {
        errors.forbidden(path.child(field), &format!("{field} is forbidden when subject kind is not '{other}'"));
    }
}

fn wildcard(values: &[&str]) -> bool {
    values.contains(&"*")
}

fn check_verbs(errors: &mut ErrorList, path: &Path, rule: &Value) {
    let verbs = texts(rule, "verbs");
    let at = path.child("verbs");
    if verbs.is_empty() {
        errors.required(at, "verbs must contain at least one value");
    } else if wildcard(&verbs) {
        if verbs.len() > 1 {
            errors.invalid(at, json!(verbs), "if '*' is present, must not specify other verbs");
        }
    } else if verbs.iter().any(|verb| !VERBS.contains(verb)) {
        errors.not_supported(at, json!(verbs), VERBS);
    }
}

fn check_other_rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    check_verbs(errors, path, rule);
    let urls = texts(rule, "nonResourceURLs");
    let at = path.child("nonResourceURLs");
    if urls.is_empty() {
        errors.required(at, "nonResourceURLs must contain at least one value");
    } else if wildcard(&urls) {
        if urls.len() > 1 {
            errors.invalid(at, json!(urls), "if '*' is present, must not specify other non-resource URLs");
        }
    } else {
        for (i, url) in urls.iter().enumerate() {
            if let Some(detail) = url_error(url) {
                errors.invalid(at.index(i), *url, detail);
            }
        }
    }
}

fn url_error(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn check_resource_rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    check_verbs(errors, path, rule);
    for (field, one, many) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let values = texts(rule, field);
        if values.is_empty() {
            errors.required(path.child(field), &format!("resource rules must supply at least one {one}"));
        } else if values.len() > 1 && wildcard(&values) {
            let detail = format!("if '*' is present, must not specify other {many}");
            errors.invalid(path.child(field), json!(values), &detail);
        }
    }
    let namespaces = texts(rule, "namespaces");
    let at = path.child("namespaces");
    if namespaces.is_empty() && !flag(rule, "clusterScope") {
        errors.required(at, "resource rules that are not cluster scoped must supply at least one namespace");
    } else if wildcard(&namespaces) {
        if namespaces.len() > 1 {
            errors.invalid(at, json!(namespaces), "if '*' is present, must not specify other namespaces");
        }
    } else {
        for (i, namespace) in namespaces.iter().enumerate() {
            for detail in names::is_dns1123_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {detail}");
                errors.invalid(at.index(i), *namespace, &detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;

    fn errors(rule: Value) -> Vec<String> {
        let spec = json!({"priorityLevelConfiguration": {"name": "l"}, "rules": [rule]});
        create_errors(&FlowSchema, json!({"metadata": {"name": "x"}, "spec": spec}))
    }

    #[test]
    fn subjects_have_their_own_field_only() {
        let rule = json!({
            "subjects": [
                {"kind": "User", "group": {"name": "g"}},
                {"kind": "ServiceAccount", "serviceAccount": {"name": "*"}},
            ],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a*", "/b/*"]}],
        });
        assert_eq!(
            errors(rule),
            [
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].subjects[1].serviceAccount.namespace: Required value: must specify namespace for service account",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ]
        );
    }

    #[test]
    fn resource_rules() {
        let rule = json!({
            "subjects": [{"kind": "User", "user": {"name": "*"}}],
            "resourceRules": [{"verbs": ["*", "get"], "apiGroups": [], "resources": ["*", "a"]}],
        });
        assert_eq!(
            errors(rule),
            [
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "spec.rules[0].resourceRules[0].resources: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other resources",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ]
        );
    }

    #[test]
    fn mandatory_specs_are_fixed() {
        let object = json!({"metadata": {"name": "catch-all"}, "spec": {"priorityLevelConfiguration": {"name": "l"}}});
        let errors = create_errors(&FlowSchema, object);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].ends_with("spec of 'catch-all' must equal the fixed value"), "{errors:?}");
        let fixed = bootstrap::mandatory("FlowSchema", "exempt").expect("there is one");
        assert!(create_errors(&FlowSchema, fixed).is_empty());
    }
}
