//! Admission webhooks, asked over real TLS.

use super::*;
use crate::notes::AuditAnnotations;
use crate::webhooks::testing::{FakeWebhook, Reply, patch};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn hook(name: &str, config: Value) -> Value {
    json!({"name": name, "clientConfig": config, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
            "operations": ["CREATE", "UPDATE", "DELETE"]}]})
}

impl Fixture {
    async fn configure(&self, kind: &str, name: &str, webhooks: Value) {
        let uri = format!("{GROUP}/{}s", kind.to_lowercase());
        self.post(&uri, json!({"metadata": {"name": name}, "webhooks": webhooks})).await;
        self.server.server.cache.wait_for(self.server.server.store.revision()).await;
    }

    /// A create of a config map: code and message of the answer.
    async fn refused(&self, name: &str) -> (u16, String) {
        let (code, value) = self.call(Method::POST, CONFIG_MAPS, json!({"metadata": {"name": name}})).await;
        (code, value["message"].as_str().unwrap_or("").to_owned())
    }
}

#[tokio::test]
async fn mutating_webhooks_patch_what_they_see() {
    let fixture = Fixture::new().await;
    let webhook =
        FakeWebhook::start(|_, _| patch(json!([{"op": "add", "path": "/data", "value": {"k": "hooked"}}]))).await;
    fixture.configure("MutatingWebhookConfiguration", "m", json!([hook("a.example.com", webhook.by_url("/x"))])).await;
    let uri = format!("{CONFIG_MAPS}?fieldManager=me&dryRun=All");
    let made = fixture.post(&uri, json!({"metadata": {"name": "c"}})).await;
    assert_eq!(made["data"], json!({"k": "hooked"}));
    let request = webhook.last();
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("c"), &json!("n")));
    assert_eq!((&request["operation"], &request["dryRun"]), (&json!("CREATE"), &json!(true)));
    assert_eq!(request["object"]["metadata"]["name"], "c");
    assert_eq!(request["oldObject"], Value::Null);
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(
        request["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"], "fieldManager": "me"})
    );
    assert_eq!(webhook.seen.lock().reviews[0].0, "/x?timeout=10s");
    webhook.stop().await;
}

#[tokio::test]
async fn a_later_change_asks_earlier_webhooks_again() {
    let fixture = Fixture::new().await;
    let first = FakeWebhook::start(|_, _| Reply::Review(json!({"allowed": true}))).await;
    let never = FakeWebhook::start(|_, _| Reply::Review(json!({"allowed": true}))).await;
    let second = FakeWebhook::start(|_, review| {
        let known = review["request"]["object"]["data"]["k"] == "2";
        if known {
            Reply::Review(json!({"allowed": true}))
        } else {
            patch(json!([{"op": "add", "path": "/data", "value": {"k": "2"}}]))
        }
    })
    .await;
    let mut again = hook("a.example.com", first.by_url(""));
    again["reinvocationPolicy"] = json!("IfNeeded");
    let hooks = json!([again, hook("b.example.com", never.by_url("")), hook("c.example.com", second.by_url(""))]);
    fixture.configure("MutatingWebhookConfiguration", "m", hooks).await;
    fixture.post(CONFIG_MAPS, json!({"metadata": {"name": "c"}})).await;
    assert_eq!((first.count(), never.count(), second.count()), (2, 1, 1));
    assert_eq!(first.last()["object"]["data"], json!({"k": "2"}));
    // Calls one after the other share a connection.
    assert_eq!(first.seen.lock().connections.len(), 1);
    for webhook in [first, never, second] {
        webhook.stop().await;
    }
}

#[tokio::test]
async fn validating_webhooks_refuse_warn_and_annotate() {
    let fixture = Fixture::new().await;
    let webhook = FakeWebhook::start(|_, review| match review["request"]["name"].as_str() {
        Some("bad") => Reply::Review(json!({"allowed": false, "warnings": ["w"],
            "status": {"code": 418, "reason": "Teapot", "message": "short and stout"}})),
        _ => Reply::Review(json!({"allowed": true, "warnings": ["careful"], "auditAnnotations": {"k": "v"}})),
    })
    .await;
    fixture
        .configure("ValidatingWebhookConfiguration", "v", json!([hook("a.example.com", webhook.by_url("/v"))]))
        .await;
    let (code, value) = fixture.call(Method::POST, CONFIG_MAPS, json!({"metadata": {"name": "bad"}})).await;
    assert_eq!(code, 418);
    assert_eq!(value["message"], "admission webhook \"a.example.com\" denied the request: short and stout");
    assert_eq!(value["reason"], "Teapot");
    let content = json!({"metadata": {"name": "good"}}).to_string();
    let response = fixture.send(Method::POST, CONFIG_MAPS, "application/json", content).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"careful\"");
    let notes = response.extensions().get::<AuditAnnotations>().expect("annotations");
    assert_eq!(notes.0["a.example.com/k"], "v");
    // A deletion shows what is deleted.
    let (code, _) = fixture.call(Method::DELETE, &format!("{CONFIG_MAPS}/good"), Value::Null).await;
    assert_eq!(code, 200);
    let request = webhook.last();
    assert_eq!((&request["operation"], &request["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(request["oldObject"]["metadata"]["name"], "good");
    webhook.stop().await;
}

#[tokio::test]
async fn webhooks_that_do_not_answer_properly() {
    let fixture = Fixture::new().await;
    let webhook = FakeWebhook::start(|path, _| match path.split('?').next() {
        Some("/never") => Reply::Never,
        Some("/broken") => Reply::Raw(500, "oh no".to_owned()),
        Some("/garbage") => Reply::Raw(200, "<html>".to_owned()),
        Some("/empty") => Reply::Raw(200, "{}".to_owned()),
        _ => patch(json!([{"op": "remove", "path": "/data/nope"}])),
    })
    .await;
    let url = format!("https://127.0.0.1:{}", webhook.port);
    let post = |path: &str, seconds: u32| format!("Post \"{url}{path}?timeout={seconds}s\": ");
    let mut untrusted = webhook.by_url("/trust");
    untrusted["caBundle"] = json!(FakeWebhook::start(|_, _| Reply::Never).await.ca_bundle);
    for (config, want) in [
        (webhook.by_url("/never"), format!("failed to call webhook: {}context deadline exceeded", post("/never", 1))),
        (
            webhook.by_url("/broken"),
            "failed to call webhook: an error on the server (\"oh no\") has prevented the request from succeeding".into(),
        ),
        (
            webhook.by_url("/garbage"),
            "failed to call webhook: couldn't get version/kind; json parse error: invalid character '<' looking for beginning of value".into(),
        ),
        (webhook.by_url("/empty"), "received invalid webhook response: webhook response was absent".into()),
        (
            untrusted,
            format!(
                "failed to call webhook: {}tls: failed to verify certificate: x509: certificate signed by unknown authority",
                post("/trust", 1)
            ),
        ),
        (
            json!({"url": "https://127.0.0.1:1/", "caBundle": webhook.ca_bundle}),
            "failed to call webhook: Post \"https://127.0.0.1:1/?timeout=1s\": dial tcp 127.0.0.1:1: connect: connection refused".into(),
        ),
    ] {
        let mut hook = hook("a.example.com", config);
        hook["timeoutSeconds"] = json!(1);
        fixture.configure("ValidatingWebhookConfiguration", "v", json!([hook])).await;
        let want = format!("Internal error occurred: failed calling webhook \"a.example.com\": {want}");
        assert_eq!(fixture.refused("c").await, (500, want));
        fixture.call(Method::DELETE, &format!("{GROUP}/validatingwebhookconfigurations/v"), Value::Null).await;
        hook["failurePolicy"] = json!("Ignore");
        fixture.configure("ValidatingWebhookConfiguration", "i", json!([hook])).await;
        let uri = format!("{CONFIG_MAPS}?dryRun=All");
        fixture.post(&uri, json!({"metadata": {"name": "c"}})).await;
        fixture.call(Method::DELETE, &format!("{GROUP}/validatingwebhookconfigurations/i"), Value::Null).await;
    }
    fixture.configure("MutatingWebhookConfiguration", "m", json!([hook("a.example.com", webhook.by_url("/p"))])).await;
    let (code, message) = fixture.refused("c").await;
    assert_eq!(code, 500);
    let want =
        "Internal error occurred: remove operation does not apply: doc is missing path: \"/data/nope\": missing value";
    assert_eq!(message, want);
    webhook.stop().await;
}

#[tokio::test]
async fn rules_of_another_version_and_conditions() {
    let fixture = Fixture::new().await;
    let webhook = FakeWebhook::start(|_, _| Reply::Review(json!({"allowed": true}))).await;
    let mut hook = hook("a.example.com", webhook.by_url(""));
    hook["rules"] = json!([{"apiGroups": ["autoscaling"], "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"], "operations": ["*"]}]);
    hook["matchConditions"] = json!([{"name": "c", "expression":
        "object.metadata.name != 'free' && authorizer.group('').resource('pods').check('get').allowed()"}]);
    fixture.configure("ValidatingWebhookConfiguration", "v", json!([hook])).await;
    let uri = "/apis/autoscaling/v2/namespaces/n/horizontalpodautoscalers";
    let scaler = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    fixture.post(uri, scaler("free")).await;
    assert_eq!(webhook.count(), 0);
    fixture.post(uri, scaler("s")).await;
    let request = webhook.last();
    assert_eq!(request["kind"]["version"], "v1");
    assert_eq!(request["requestKind"]["version"], "v2");
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
    webhook.stop().await;
}

#[tokio::test]
async fn services_lead_to_webhooks() {
    let fixture = Fixture::new().await;
    let webhook = FakeWebhook::start(|_, _| Reply::Review(json!({"allowed": false}))).await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    fixture.post("/api/v1/namespaces/n/services", service).await;
    let reference = json!({"namespace": "n", "name": "hook", "path": "/s", "port": webhook.port});
    let config = json!({"service": reference, "caBundle": webhook.ca_bundle});
    fixture.configure("ValidatingWebhookConfiguration", "v", json!([hook("a.example.com", config)])).await;
    let want = "admission webhook \"a.example.com\" denied the request without explanation";
    assert_eq!(fixture.refused("c").await, (400, want.to_owned()));
    assert_eq!(webhook.seen.lock().reviews[0].0, "/s?timeout=10s");
    // Configuration of admission can always be repaired.
    let all = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"]}]);
    let mut everything = hook("b.example.com", webhook.by_url(""));
    everything["rules"] = all;
    fixture.configure("ValidatingWebhookConfiguration", "w", json!([everything])).await;
    for name in ["v", "w"] {
        let uri = format!("{GROUP}/validatingwebhookconfigurations/{name}");
        assert_eq!(fixture.call(Method::DELETE, &uri, Value::Null).await.0, 200);
    }
    fixture.server.server.cache.wait_for(fixture.server.server.store.revision()).await;
    fixture.post(CONFIG_MAPS, json!({"metadata": {"name": "c"}})).await;
    webhook.stop().await;
}
