//! ClusterRole: rights in all namespaces and on what has none. Aggregation is a controller's.

use apimachinery::validation::{ErrorList, Path, meta, names};
use serde_json::Value;

use super::rules::check_rules;
use crate::access::{has, items, obj};
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct ClusterRole;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.rbac.v1.ClusterRole";
    Kind::builtin(
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        "clusterroles",
        Scope::Cluster,
        DEFINITION,
        ClusterRole,
    )
}

impl Strategy for ClusterRole {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_rules(&mut errors, object, Scope::Cluster);
        if has(object, "aggregationRule") {
            let path = Path::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = items(obj(object, "aggregationRule"), "clusterRoleSelectors");
            if selectors.is_empty() {
                errors
                    .required(path.clone(), "at least one clusterRoleSelector required if aggregationRule is non-nil");
            }
            for (i, selector) in selectors.iter().enumerate() {
                errors.extend(meta::validate_label_selector(
                    selector,
                    meta::LabelSelectorOptions::default(),
                    &path.index(i),
                ));
            }
        }
        errors
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}
