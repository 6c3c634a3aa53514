//! What the four kinds of RBAC share: checks of rules, role references and subjects.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{items, items_mut, obj, set_blank, text, texts};
use crate::checks::{dns_subdomain, dump};
use crate::kind::Scope;
use crate::printers::{age_of, name_of};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn check_rules(errors: &mut ErrorList, object: &Value, scope: Scope) {
    for (i, rule) in items(object, "rules").iter().enumerate() {
        check_rule(errors, Path::new("rules").index(i), rule, scope);
    }
}

fn check_rule(errors: &mut ErrorList, path: Path, rule: &Value, scope: Scope) {
    let none = |field: &str| items(rule, field).is_empty();
    if none("verbs") {
        errors.required(path.child("verbs"), "verbs must contain at least one value");
    }
    if !none("nonResourceURLs") {
        let at = path.child("nonResourceURLs");
        let urls = json!(texts(rule, "nonResourceURLs"));
        if scope == Scope::Namespaced {
            errors.invalid(at.clone(), urls.clone(), "namespaced rules cannot apply to non-resource URLs");
        }
        if !none("apiGroups") || !none("resources") || !none("resourceNames") {
            errors.invalid(at, urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if none("apiGroups") {
        errors.required(path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if none("resources") {
        errors.required(path.child("resources"), "resource rules must supply at least one resource");
    }
}

/// The API groups that may be left out.
pub(super) fn default_binding(object: &mut Value) {
    if let Some(role) = object.get_mut("roleRef") {
        set_blank(role, "apiGroup", GROUP);
    }
    for subject in items_mut(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set_blank(subject, "apiGroup", GROUP);
        }
    }
}

pub(super) fn check_binding(errors: &mut ErrorList, object: &Value, scope: Scope) {
    let role = obj(object, "roleRef");
    let path = Path::new("roleRef");
    let group = text(role, "apiGroup");
    if group != GROUP {
        errors.not_supported(path.child("apiGroup"), group, &[GROUP]);
    }
    let kinds: &[&str] = if scope == Scope::Namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = text(role, "kind");
    if !kinds.contains(&kind) {
        errors.not_supported(path.child("kind"), kind, kinds);
    }
    match text(role, "name") {
        "" => errors.required(path.child("name"), ""),
        name => errors.invalid_all(&path.child("name"), name, names::path_segment(name, false)),
    }
    for (i, subject) in items(object, "subjects").iter().enumerate() {
        check_subject(errors, Path::new("subjects").index(i), subject, scope);
    }
}

fn check_subject(errors: &mut ErrorList, path: Path, subject: &Value, scope: Scope) {
    let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.required(path.child("name"), "");
    }
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                dns_subdomain(errors, path.child("name"), name);
            }
            if !group.is_empty() {
                errors.not_supported(path.child("apiGroup"), group, &[""]);
            }
            if scope == Scope::Cluster && text(subject, "namespace").is_empty() {
                errors.required(path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(path.child("apiGroup"), group, &[GROUP]);
            }
        }
        kind => errors.not_supported(path.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

/// A binding names its role for life.
pub(super) fn check_role_unchanged(errors: &mut ErrorList, object: &Value, old: &Value) {
    let (new, old) = (obj(object, "roleRef"), obj(old, "roleRef"));
    let fields = [("APIGroup", "apiGroup"), ("Kind", "kind"), ("Name", "name")];
    if fields.iter().any(|(_, key)| text(new, key) != text(old, key)) {
        let shown: Vec<_> = fields.iter().map(|(go, key)| (*go, json!(text(new, key)))).collect();
        errors.invalid_text(Path::new("roleRef"), &dump(&shown), "cannot change roleRef");
    }
}

pub(super) fn binding_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = obj(object, "roleRef");
    let subjects = |kind: &str| {
        let of_kind = items(object, "subjects").iter().filter(|s| text(s, "kind") == kind);
        let shown = of_kind.map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", text(s, "namespace"), text(s, "name")),
            _ => text(s, "name").to_owned(),
        });
        json!(shown.collect::<Vec<_>>().join(", "))
    };
    vec![
        name_of(object),
        json!(format!("{}/{}", text(role, "kind"), text(role, "name"))),
        age_of(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::texts as shown;

    #[test]
    fn rules_are_about_resources_or_urls() {
        let mut errors = ErrorList::new();
        let rules = json!({"rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]});
        check_rules(&mut errors, &rules, Scope::Cluster);
        assert_eq!(
            shown(&errors),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
            ]
        );
    }

    #[test]
    fn subjects_by_kind() {
        let mut errors = ErrorList::new();
        let binding = json!({
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "a/b"},
            "subjects": [{"kind": "ServiceAccount", "name": "s", "apiGroup": "x"}, {"kind": "User", "name": "u"}],
        });
        check_binding(&mut errors, &binding, Scope::Cluster);
        assert_eq!(
            shown(&errors),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
                "subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"\"",
                "subjects[0].namespace: Required value",
                "subjects[1].apiGroup: Unsupported value: \"\": supported values: \"rbac.authorization.k8s.io\"",
            ]
        );
    }

    #[test]
    fn row_joins_subjects() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a literal time");
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "User", "name": "v"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
        assert_eq!(binding_row(&binding, now)[3..], [json!("u, v"), json!(""), json!("n/s")]);
    }
}
