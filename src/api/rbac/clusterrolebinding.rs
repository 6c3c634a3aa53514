//! ClusterRoleBinding: who has a cluster role, everywhere.
//!
//! Invariants:
//! - RB-1: the role reference never changes.

use apimachinery::validation::{ErrorList, names};
use jiff::Timestamp;
use serde_json::Value;

use super::rules::{binding_row, check_binding, check_role_unchanged, default_binding};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::columns_of;

pub struct ClusterRoleBinding;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.rbac.v1.ClusterRoleBinding";
    Kind::builtin(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        Scope::Cluster,
        DEFINITION,
        ClusterRoleBinding,
    )
}

impl Strategy for ClusterRoleBinding {
    fn default(&self, object: &mut Value) {
        default_binding(object);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_binding(&mut errors, object, Scope::Cluster);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        check_role_unchanged(&mut errors, object, old);
        errors
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("rbac.authorization.k8s.io/v1/clusterrolebindings")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        binding_row(object, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{created, update_errors};
    use serde_json::json;

    #[test]
    fn defaults_groups_and_keeps_the_role() {
        let with = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": "u"}]});
        let made = created(&ClusterRoleBinding, with("a"));
        assert_eq!(made["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
        assert_eq!(made["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
        assert_eq!(
            update_errors(&ClusterRoleBinding, with("a"), with("b")),
            [
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"b\"}: cannot change roleRef"
            ]
        );
    }
}
