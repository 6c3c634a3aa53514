//! ValidatingWebhookConfiguration: who may refuse objects before they are stored.
//!
//! Invariants:
//! - WH-1: the generation counts changes of the webhooks.

use apimachinery::validation::ErrorList;
use jiff::Timestamp;
use serde_json::Value;

use super::webhooks::{self, Flavor};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::columns_of;

pub struct ValidatingWebhookConfiguration;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration";
    Kind::builtin(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        Scope::Cluster,
        DEFINITION,
        ValidatingWebhookConfiguration,
    )
    .with_categories(&["api-extensions"])
}

impl Strategy for ValidatingWebhookConfiguration {
    fn default(&self, object: &mut Value) {
        webhooks::fill_in(object, Flavor::Validating);
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        webhooks::prepare_for_create(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        webhooks::prepare_for_update(object, old);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        webhooks::check(object, None, Flavor::Validating)
    }

    fn validate_update(&self, _cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        webhooks::check(object, Some(old), Flavor::Validating)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("admissionregistration.k8s.io/v1/validatingwebhookconfigurations")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        webhooks::row(object, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, update_errors};
    use serde_json::json;

    fn with(hook: Value) -> Value {
        json!({"metadata": {"name": "x"}, "webhooks": [hook]})
    }

    #[test]
    fn fills_in_what_is_not_said() {
        let made = created(
            &ValidatingWebhookConfiguration,
            with(json!({"name": "a.b.c", "clientConfig": {"service": {"name": "s", "namespace": "n"}}, "rules": [{}]})),
        );
        let hook = &made["webhooks"][0];
        assert_eq!((&hook["failurePolicy"], &hook["timeoutSeconds"]), (&json!("Fail"), &json!(10)));
        assert_eq!((&hook["clientConfig"]["service"]["port"], &hook["rules"][0]["scope"]), (&json!(443), &json!("*")));
        assert_eq!(hook["reinvocationPolicy"], Value::Null);
        assert_eq!(made["metadata"]["generation"], 1);
    }

    #[test]
    fn one_place_a_webhook() {
        let errors = |config: Value| {
            create_errors(
                &ValidatingWebhookConfiguration,
                with(
                    json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": config}),
                ),
            )
        };
        assert!(errors(json!({"service": {"name": "s", "namespace": "n", "path": "/a/b.c/"}})).is_empty());
        assert_eq!(
            errors(json!({})),
            ["webhooks[0].clientConfig: Required value: exactly one of url or service is required"]
        );
        assert_eq!(
            errors(json!({"service": {"name": "s"}})),
            ["webhooks[0].clientConfig.service.name: Required value"]
        );
        assert_eq!(
            errors(json!({"url": "https:///x"})),
            [
                "webhooks[0].clientConfig.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]"
            ]
        );
    }

    #[test]
    fn an_old_fault_may_stay() {
        let bad = |timeout: i64| {
            with(
                json!({"name": "a.b.c", "sideEffects": "Some", "admissionReviewVersions": ["v2"], "timeoutSeconds": timeout,
                        "clientConfig": {"url": "https://h/p"}}),
            )
        };
        assert_eq!(
            create_errors(&ValidatingWebhookConfiguration, bad(3)),
            [
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ]
        );
        assert_eq!(
            update_errors(&ValidatingWebhookConfiguration, bad(3), bad(31)),
            ["webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"]
        );
    }
}
