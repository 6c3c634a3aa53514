//! ServiceAccount: an identity for pods.
//!
//! Invariants:
//! - SA-1: of a reference in `secrets` only the name is kept.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{items_mut, text};
use crate::checks::annotation;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ServiceAccount;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.core.v1.ServiceAccount";
    Kind::builtin("v1", "ServiceAccount", "serviceaccounts", Scope::Namespaced, DEFINITION, ServiceAccount)
        .with_short_names(&["sa"])
        .with_subresource("token", "authentication.k8s.io/v1", "TokenRequest", &["create"])
}

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

impl Strategy for ServiceAccount {
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        keep_names_only(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, _old: &Value) {
        keep_names_only(object);
    }

    fn warnings(&self, _cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        let had = old.is_some_and(|old| annotation(old, MOUNTABLE).is_some());
        if annotation(object, MOUNTABLE).is_none() || had {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/serviceaccounts")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), age_of(object, now)]
    }
}

fn keep_names_only(object: &mut Value) {
    for secret in items_mut(object, "secrets") {
        let name = text(secret, "name").to_owned();
        *secret = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{created, cx};

    #[test]
    fn strips_secret_references() {
        let made = created(&ServiceAccount, json!({"secrets": [{"name": "a", "namespace": "b"}, {"kind": "x"}]}));
        assert_eq!(made, json!({"secrets": [{"name": "a"}, {}]}));
    }

    #[test]
    fn warns_of_mountable_secrets_once() {
        let account = json!({"metadata": {"annotations": {MOUNTABLE: "true"}}});
        assert_eq!(ServiceAccount.warnings(&cx(""), &account, None).len(), 1);
        assert!(ServiceAccount.warnings(&cx(""), &account, Some(&account)).is_empty());
    }
}
