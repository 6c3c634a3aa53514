//! A webhook of a test's own: a real HTTPS server with an authority of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::http::{Request, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use component_base::{CancellationToken, Clock as _, RealClock, TaskGroup};
use parking_lot::Mutex;
use pki::{Authority, Subject};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::wire::body;
use crate::{Body, tls};

/// What the webhook does with a review.
pub(crate) enum Reply {
    /// The `response` of a v1 AdmissionReview, without its uid.
    Review(Value),
    Raw(u16, String),
    Never,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// Path and query, and the review.
    pub reviews: Vec<(String, Value)>,
    pub connections: BTreeSet<std::net::SocketAddr>,
}

pub(crate) struct FakeWebhook {
    pub port: u16,
    /// As `caBundle` wants it.
    pub ca_bundle: String,
    pub seen: Arc<Mutex<Seen>>,
    tasks: TaskGroup,
}

impl FakeWebhook {
    pub async fn start(answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let now = RealClock.now();
        let authority = Authority::generate("webhook-ca", now).expect("an authority");
        let names = vec!["localhost".to_owned(), "hook.n.svc".to_owned()];
        let subject = Subject::server("webhook", names, vec![[127, 0, 0, 1].into()]);
        let identity = authority.issue(&subject, now).expect("a certificate");
        let config = tls::server_config(&identity.cert_pem, &identity.key_pem, authority.cert_pem()).expect("TLS");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let (seen, tasks) = (Arc::new(Mutex::new(Seen::default())), TaskGroup::new());
        let (answer, log) = (Arc::new(answer), seen.clone());
        let handle = move |request: Request<Body>, peer: crate::Peer| {
            let (answer, log) = (answer.clone(), log.clone());
            async move {
                let path = request.uri().to_string();
                let bytes = body::read(request.into_body(), usize::MAX).await.expect("a body");
                let review: Value = serde_json::from_slice(&bytes).expect("a review");
                {
                    let mut log = log.lock();
                    log.connections.insert(peer.addr);
                    log.reviews.push((path.clone(), review.clone()));
                }
                reply(answer(&path, &review), &review).await
            }
        };
        tasks.spawn(tls::serve(listener, config, CancellationToken::new(), handle));
        Self { port, ca_bundle: STANDARD.encode(authority.cert_pem()), seen, tasks }
    }

    /// `clientConfig` of this webhook by URL.
    pub fn by_url(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.ca_bundle})
    }

    pub fn count(&self) -> usize {
        self.seen.lock().reviews.len()
    }

    /// The `request` of the last review.
    pub fn last(&self) -> Value {
        self.seen.lock().reviews.last().expect("a review").1["request"].clone()
    }

    pub async fn stop(&self) {
        self.tasks.stop().await;
    }
}

async fn reply(reply: Reply, review: &Value) -> Response<Body> {
    let respond = |code: u16, content: String| {
        let mut response = Response::new(body::full(content));
        *response.status_mut() = code.try_into().expect("a status code");
        response
    };
    match reply {
        Reply::Never => std::future::pending().await,
        Reply::Raw(code, content) => respond(code, content),
        Reply::Review(mut response) => {
            response["uid"] = review["request"]["uid"].clone();
            let answer = json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response});
            respond(200, answer.to_string())
        }
    }
}

/// A JSON patch as an answer carries it.
pub(crate) fn patch(operations: Value) -> Reply {
    let patch = STANDARD.encode(operations.to_string());
    Reply::Review(json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}
