//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy beyond what the oracle's cases say.

use super::*;
use crate::notes::AuditAnnotations;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn rules(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "resources": [resource],
        "operations": ["CREATE", "UPDATE"]}]})
}

impl Fixture {
    /// A policy `p` of this spec, and its binding `b`.
    async fn policy(&self, kind: &str, mut spec: Value, mut binding: Value) {
        if spec["matchConstraints"].is_null() {
            spec["matchConstraints"] = rules("", "configmaps");
        }
        self.post(&format!("{GROUP}/{kind}policies"), json!({"metadata": {"name": "p"}, "spec": spec})).await;
        binding["policyName"] = json!("p");
        if kind.starts_with("validating") && binding["validationActions"].is_null() {
            binding["validationActions"] = json!(["Deny"]);
        }
        self.post(&format!("{GROUP}/{kind}policybindings"), json!({"metadata": {"name": "b"}, "spec": binding})).await;
        self.server.server.cache.wait_for(self.server.server.store.revision()).await;
    }

    async fn attempt(&self, object: Value) -> (u16, Value) {
        self.call(Method::POST, &format!("{CONFIG_MAPS}?dryRun=All"), object).await
    }
}

fn denied(text: &str) -> String {
    format!("configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {text}")
}

#[tokio::test]
async fn parameters_by_selector() {
    let fixture = Fixture::new().await;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": rules("", "secrets"),
        "validations": [{"expression": "object.metadata.name != params.data.k",
            "messageExpression": "'not ' + params.metadata.name + ' in ' + namespaceObject.metadata.name"}]});
    let reference = json!({"selector": {"matchLabels": {"l": "x"}}, "parameterNotFoundAction": "Allow"});
    fixture.policy("validatingadmission", spec, json!({"paramRef": reference})).await;
    let secrets = "/api/v1/namespaces/n/secrets?dryRun=All";
    fixture.post(secrets, json!({"metadata": {"name": "1"}})).await;
    fixture.config_map("x").await;
    fixture.server.server.cache.wait_for(fixture.server.server.store.revision()).await;
    fixture.post(secrets, json!({"metadata": {"name": "2"}})).await;
    let (code, status) = fixture.call(Method::POST, secrets, json!({"metadata": {"name": "1"}})).await;
    assert_eq!(code, 422);
    let want = "secrets \"1\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not x in n";
    assert_eq!(status["message"], want);
}

#[tokio::test]
async fn unknown_kinds_of_parameters() {
    let fixture = Fixture::new().await;
    let spec = json!({"paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"}, "validations": [{"expression": "true"}]});
    let reference = json!({"name": "x", "parameterNotFoundAction": "Allow"});
    fixture.policy("validatingadmission", spec, json!({"paramRef": reference})).await;
    let (code, status) = fixture.attempt(json!({"metadata": {"name": "c"}})).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Limit'"
    );
}

#[tokio::test]
async fn variables_budgets_and_annotations() {
    let fixture = Fixture::new().await;
    let spec = json!({
        "variables": [{"name": "n", "expression": "int(object.data.k)"}],
        "validations": [{"expression": "variables.n < 10", "message": " small ", "reason": "Forbidden"}],
        "auditAnnotations": [{"key": "n", "valueExpression": "'n is ' + string(variables.n)"},
            {"key": "none", "valueExpression": "null"}]});
    fixture.policy("validatingadmission", spec, json!({"validationActions": ["Deny", "Audit"]})).await;
    let (code, status) = fixture.attempt(json!({"metadata": {"name": "c"}, "data": {"k": "11"}})).await;
    assert_eq!((code, status["reason"].as_str()), (403, Some("Forbidden")));
    assert_eq!(status["message"], denied("small"));
    let (_, status) = fixture.attempt(json!({"metadata": {"name": "c"}, "data": {"k": "x"}})).await;
    let message = status["message"].as_str().expect("a message");
    let want = denied("expression 'variables.n < 10' resulted in error: composited variable \"n\" fails to evaluate: ");
    assert!(message.starts_with(&want), "{message}");
    let content = json!({"metadata": {"name": "c"}, "data": {"k": "3"}}).to_string();
    let response = fixture.send(Method::POST, CONFIG_MAPS, "application/json", content).await;
    assert_eq!(response.status(), 201);
    let notes = &response.extensions().get::<AuditAnnotations>().expect("annotations").0;
    assert_eq!(notes.get("p/n").map(String::as_str), Some("n is 3"));
    assert_eq!(notes.len(), 1, "{notes:?}");
}

#[tokio::test]
async fn what_fails_is_passed_over_if_the_policy_says_so() {
    let fixture = Fixture::new().await;
    let spec = json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.data.missing == 'x'"}]});
    fixture.policy("validatingadmission", spec, json!({})).await;
    assert_eq!(fixture.attempt(json!({"metadata": {"name": "c"}})).await.0, 201);
}

fn mutation(expression: &str) -> Value {
    json!({"reinvocationPolicy": "IfNeeded", "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]})
}

#[tokio::test]
async fn configurations_are_merged() {
    let fixture = Fixture::new().await;
    let spec = mutation("Object{metadata: Object.metadata{labels: Object.metadata.labels{a: 'b'}}}");
    fixture.policy("mutatingadmission", spec, json!({})).await;
    let (code, made) = fixture.attempt(json!({"metadata": {"name": "c", "labels": {"x": "y"}}})).await;
    assert_eq!((code, &made["metadata"]["labels"]), (201, &json!({"a": "b", "x": "y"})));
}

#[tokio::test]
async fn atomic_values_are_not_merged() {
    let fixture = Fixture::new().await;
    let spec = mutation("Object{subsets: [Object.subsets{}]}");
    let spec = {
        let mut spec = spec;
        spec["matchConstraints"] = rules("", "endpoints");
        spec
    };
    fixture.policy("mutatingadmission", spec, json!({})).await;
    let uri = "/api/v1/namespaces/n/endpoints?dryRun=All";
    let (code, status) = fixture.call(Method::POST, uri, json!({"metadata": {"name": "e"}})).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "policy 'p' with binding 'b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .subsets"
    );
}

#[tokio::test]
async fn patches_with_tests_and_values() {
    let fixture = Fixture::new().await;
    let patch = "[JSONPatch{op: 'test', path: '/data/k', value: '1'}, JSONPatch{op: 'add', path: '/metadata/labels', value: {'n': string(size(object.data))}}]";
    let spec = json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]});
    fixture.policy("mutatingadmission", spec, json!({})).await;
    let (_, made) = fixture.attempt(json!({"metadata": {"name": "c"}, "data": {"k": "1", "l": "2"}})).await;
    assert_eq!(made["metadata"]["labels"], json!({"n": "2"}));
    let (code, made) = fixture.attempt(json!({"metadata": {"name": "c"}, "data": {"k": "2"}})).await;
    assert_eq!((code, &made["metadata"]["labels"]), (201, &Value::Null));
}
