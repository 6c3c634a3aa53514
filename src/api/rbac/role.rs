//! Role: rights within a namespace.

use apimachinery::validation::{ErrorList, names};
use serde_json::Value;

use super::rules::check_rules;
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct Role;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.rbac.v1.Role";
    Kind::builtin("rbac.authorization.k8s.io/v1", "Role", "roles", Scope::Namespaced, DEFINITION, Role)
}

impl Strategy for Role {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_rules(&mut errors, object, Scope::Namespaced);
        errors
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}
