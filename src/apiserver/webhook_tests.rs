//! The token and the authorization webhook end to end: a service of the test's own, over HTTPS with an authority of its
//! own, asked by the server's authenticator and authorizer as their configuration files say.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::AUTHORIZATION;
use ::http::{HeaderMap, Request, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use component_base::{CancellationToken, FakeClock, RealClock, TaskGroup};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::authn::{AuthenticationConfig, Authenticator, TokenWebhookConfig};
use crate::authz::tests::FakeReader;
use crate::authz::{Attributes, AuthorizationConfig, AuthorizationWebhookConfig, Authorizer, Decision};
use crate::serviceaccount::TokenIssuer;
use crate::wire::body;
use crate::{Body, Peer, PeerIdentity, User, tls};

type Answers = fn(&Value) -> (u16, Value);

/// A service that is asked by posts, and remembers by whom and what.
struct Service {
    kubeconfig: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    tasks: TaskGroup,
    shutdown: CancellationToken,
}

impl Service {
    async fn start(answers: Answers) -> Self {
        let now = RealClock::shared().now();
        let authority = pki::Authority::generate("webhook", now).expect("an authority");
        let subject = pki::Subject::server("webhook", vec!["localhost".into()], vec![[127, 0, 0, 1].into()]);
        let serving = authority.issue(&subject, now).expect("a certificate");
        let config = tls::server_config(&serving.cert_pem, &serving.key_pem, authority.cert_pem()).expect("TLS");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let (tasks, shutdown) = (TaskGroup::new(), CancellationToken::new());
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let kept = asked.clone();
        let answer = move |request: Request<Body>, _: Peer| {
            let kept = kept.clone();
            async move {
                let path = request.uri().path().to_owned();
                let from = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                let from = format!("{path} {}", from.unwrap_or_default());
                let content = body::read(request.into_body(), 1 << 20).await.expect("a body");
                let document: Value = serde_json::from_slice(&content).expect("JSON");
                let (code, answer) = answers(&document);
                kept.lock().push((from, document));
                let mut response = Response::new(body::full(answer.to_string()));
                *response.status_mut() = code.try_into().expect("a status");
                response
            }
        };
        tasks.spawn(tls::serve(listener, config, shutdown.clone(), answer));
        let ca = STANDARD.encode(authority.cert_pem());
        let kubeconfig = format!(
            r#"
current-context: webhook
contexts: [{{name: webhook, context: {{cluster: service, user: server}}}}]
clusters: [{{name: service, cluster: {{server: "https://127.0.0.1:{port}/review", certificate-authority-data: {ca}}}}}]
users: [{{name: server, user: {{token: s3cret}}}}]
"#
        );
        Self { kubeconfig, asked, tasks, shutdown }
    }

    fn count(&self) -> usize {
        self.asked.lock().len()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.stop().await;
    }
}

#[tokio::test]
async fn a_service_knows_tokens() {
    let service = Service::start(|review| {
        let status = match review["spec"]["token"].as_str() {
            Some("alices") => json!({
                "authenticated": true, "audiences": review["spec"]["audiences"],
                "user": {"username": "alice", "uid": "7", "groups": ["dev"], "extra": {"k": ["v"]}},
            }),
            Some("others") => json!({"authenticated": true, "audiences": ["other"], "user": {"username": "bob"}}),
            Some("broken") => return (403, Value::Null),
            _ => json!({"authenticated": false, "error": "unknown token"}),
        };
        (201, json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}))
    })
    .await;
    let clock = FakeClock::new(RealClock::shared().now());
    let webhook = TokenWebhookConfig {
        kubeconfig: service.kubeconfig.clone(),
        version: "v1".to_owned(),
        cache_ttl: Duration::from_secs(120),
    };
    let issuer = Arc::new(TokenIssuer::new(pki::SigningKey::generate().expect("a key"), "https://api".to_owned()));
    let authenticator = Authenticator::new(FakeReader::with(&[]), issuer, clock.clone(), Vec::new())
        .configured(
            &AuthenticationConfig { webhook: Some(webhook), ..AuthenticationConfig::default() },
            "",
            &service.tasks,
        )
        .expect("configures");
    let ask = async |token: &str| {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"))]);
        let peer = Peer { addr: ([127, 0, 0, 1], 1).into(), identity: PeerIdentity::None };
        authenticator.authenticate(&headers, &peer, "/api").await
    };
    let alice = ask("alices").await.expect("comes in");
    assert_eq!((alice.name.as_str(), alice.uid.as_str()), ("alice", "7"));
    assert_eq!(alice.groups, ["dev", "system:authenticated"]);
    assert_eq!(alice.extra["k"], ["v"]);
    let (from, document) = service.asked.lock()[0].clone();
    assert_eq!(from, "/review Bearer s3cret");
    assert_eq!(document["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!(document["spec"], json!({"token": "alices", "audiences": ["https://api"]}));
    // Known for two minutes, then asked again; what failed is asked every time.
    ask("alices").await.expect("comes in");
    assert_eq!(service.count(), 1);
    clock.advance(Duration::from_secs(121));
    ask("alices").await.expect("comes in");
    assert_eq!(service.count(), 2);
    for token in ["others", "nobodys", "nobodys", "broken", "broken"] {
        assert_eq!(ask(token).await.expect_err("stays out").code, 401, "{token}");
    }
    assert_eq!(service.count(), 6);
    service.stop().await;
}

#[tokio::test]
async fn a_service_decides() {
    let service = Service::start(|review| {
        let spec = &review["spec"];
        let status = match spec["resourceAttributes"]["verb"].as_str() {
            Some("get") => json!({"allowed": true, "reason": "readers read"}),
            Some("delete") => json!({"allowed": false, "denied": true, "reason": "nobody deletes"}),
            Some("list") => return (500, Value::Null),
            _ => json!({"allowed": false, "reason": "no opinion"}),
        };
        (200, json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status}))
    })
    .await;
    let clock = FakeClock::new(RealClock::shared().now());
    let authorizer = |deny_on_failure: bool| {
        let config = AuthorizationConfig {
            modes: vec!["Webhook".to_owned(), "RBAC".to_owned()],
            abac_policies: None,
            webhook: Some(AuthorizationWebhookConfig {
                kubeconfig: service.kubeconfig.clone(),
                version: "v1".to_owned(),
                authorized_ttl: Duration::from_secs(300),
                unauthorized_ttl: Duration::from_secs(30),
                timeout: Duration::from_secs(10),
                deny_on_failure,
            }),
        };
        // What the service has no opinion on, and fails to answer, this policy allows.
        let policy = FakeReader::with(&[
            (
                "clusterroles",
                json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"},
                    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "delete", "patch"]}],
                }),
            ),
            (
                "clusterrolebindings",
                json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
                    "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "Group", "name": "dev"}],
                }),
            ),
        ]);
        let clock: component_base::SharedClock = clock.clone();
        Authorizer::configured(&config, policy, &clock, &service.tasks).expect("configures")
    };
    let lenient = authorizer(false);
    let user = User::new("u", &["dev"]);
    let ask = |verb: &str| Attributes::resource(&user, verb, "", "pods", "a", "x");
    assert_eq!(lenient.authorize(&ask("get")).await, Decision::Allow("readers read".to_owned()));
    let (from, document) = service.asked.lock()[0].clone();
    assert_eq!(from, "/review Bearer s3cret");
    assert_eq!(
        document["spec"],
        json!({
            "resourceAttributes": {"namespace": "a", "verb": "get", "resource": "pods", "name": "x"},
            "user": "u", "groups": ["dev", "system:authenticated"],
        })
    );
    // A no of the service ends the chain; no opinion and a failure do not, unless the configuration says so.
    assert_eq!(lenient.authorize(&ask("delete")).await, Decision::Refuse("nobody deletes".to_owned()));
    assert!(lenient.authorize(&ask("patch")).await.allowed());
    assert!(lenient.authorize(&ask("list")).await.allowed());
    assert_eq!(lenient.authorize(&ask("create")).await, Decision::Deny("no opinion".to_owned()));
    assert_eq!(service.count(), 5);
    // A yes is kept longer than a no, and a failure not at all.
    for verb in ["get", "delete", "list"] {
        lenient.authorize(&ask(verb)).await;
    }
    assert_eq!(service.count(), 6);
    clock.advance(Duration::from_secs(31));
    lenient.authorize(&ask("get")).await;
    lenient.authorize(&ask("delete")).await;
    assert_eq!(service.count(), 7);
    let strict = authorizer(true);
    assert!(matches!(strict.authorize(&ask("list")).await, Decision::Refuse(_)));
    service.stop().await;
}
