//! The objects every cluster has: namespaces, roles and bindings, priority classes, `default/kubernetes`.
//!
//! Everything is written through the server's own front door, so that it is defaulted, validated and tracked like
//! anybody's objects, by the manager `kube-apiserver`.
//!
//! Invariants:
//! - BO-1: what is in place is left alone; a start that has nothing to add writes nothing.
//! - BO-2: roles and bindings only ever gain rules and subjects here, and none when their
//!   `rbac.authorization.kubernetes.io/autoupdate` annotation is `false`.

mod apiservices;
mod flowcontrol;
mod kubernetes;
mod rbac;

use std::time::Duration;

use ::http::{Method, Request};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::attributes::User;
use crate::authz::MASTERS;
use crate::wire::body;
use crate::{ApiServer, Peer, PeerIdentity};

pub use rbac::default_cluster_role_rules;

/// Writes under way at once: they share the store's commits.
const AT_ONCE: usize = 48;
/// Between tries: this much more each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Brings the system objects in place, however often it takes.
pub async fn run(server: &ApiServer) {
    let front = FrontDoor::new(server);
    let clock = server.server.clock.clone();
    let start = clock.instant();
    for attempt in 1_u32.. {
        let mut errors = Vec::new();
        // Namespaces first: the rest lives in them.
        errors.extend(front.all(NAMESPACES.iter().map(|name| namespace(name)).collect()).await);
        let mut rest = rbac::objects();
        rest.extend(priority_classes(server));
        rest.extend(kubernetes::objects(server));
        rest.extend(apiservices::objects(server));
        rest.extend(flowcontrol::objects());
        errors.extend(front.all(rest).await);
        errors.extend(kubernetes::service_cidr_ready(&front, &clock).await.err());
        if errors.is_empty() {
            server.server.health.set_bootstrapped();
            let millis = clock.instant().duration_since(start).as_millis();
            info!(millis, "system objects are in place");
            apiservices::follow(&front).await;
            return;
        }
        warn!(attempt, count = errors.len(), first = errors[0], "system objects could not all be written");
        clock.sleep(PAUSE.saturating_mul(attempt).min(LONGEST_PAUSE)).await;
    }
}

/// The manager of the system's objects.
const MANAGER: &str = "kube-apiserver";

/// What an object should be, and how it is brought there.
struct Wanted {
    /// `/api/v1/namespaces`
    collection: String,
    storage_key: &'static str,
    object: Value,
    /// The object to write when one is there already; `None` when it is good.
    merge: fn(&Value, &Value) -> Merge,
    /// Whose fields these are.
    manager: &'static str,
}

enum Merge {
    Good,
    Update(Value),
    /// What is there cannot be changed into what is wanted.
    Replace,
}

impl Wanted {
    fn new(collection: impl Into<String>, storage_key: &'static str, object: Value) -> Self {
        Self { collection: collection.into(), storage_key, object, merge: |_, _| Merge::Good, manager: MANAGER }
    }

    fn managed_by(mut self, manager: &'static str) -> Self {
        self.manager = manager;
        self
    }

    fn merged(mut self, merge: fn(&Value, &Value) -> Merge) -> Self {
        self.merge = merge;
        self
    }

    fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.object["metadata"]["namespace"].as_str().unwrap_or_default()
    }
}

/// The server as its own client.
pub(crate) struct FrontDoor<'a> {
    server: &'a ApiServer,
    user: User,
}

impl<'a> FrontDoor<'a> {
    pub(crate) fn new(server: &'a ApiServer) -> Self {
        Self { server, user: User::new("system:apiserver", &[MASTERS]) }
    }

    /// The errors met.
    async fn all(&self, wanted: Vec<Wanted>) -> Vec<String> {
        let kinds = &self.server.server.kinds;
        let wanted = wanted.into_iter().filter(|w| kinds.storage_kind(w.storage_key).is_some());
        // Boxed: the compiler cannot see that the borrowing futures are `Send` for every lifetime.
        let writes: Vec<BoxFuture<'_, Option<String>>> =
            wanted.map(|wanted| async move { self.ensure(&wanted).await.err() }.boxed()).collect();
        stream::iter(writes).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn ensure(&self, wanted: &Wanted) -> Result<(), String> {
        use crate::cache::ObjectReader as _;
        let path = format!("{}/{}", wanted.collection, wanted.name());
        let kept = self.server.server.cache.peek(wanted.storage_key, wanted.namespace(), wanted.name());
        match kept.map(|kept| (wanted.merge)(&kept.value(), &wanted.object)) {
            None => self.send_as(wanted.manager, Method::POST, &wanted.collection, &wanted.object).await,
            Some(Merge::Good) => Ok(()),
            Some(Merge::Update(object)) => self.send_as(wanted.manager, Method::PUT, &path, &object).await,
            Some(Merge::Replace) => {
                self.send_as(wanted.manager, Method::DELETE, &path, &json!({})).await?;
                self.send_as(wanted.manager, Method::POST, &wanted.collection, &wanted.object).await
            }
        }
    }

    /// Applies `object` to what is at `path`, against anybody.
    pub(crate) async fn apply(&self, path: &str, manager: &str, object: &Value) -> Result<(), String> {
        self.send_as(manager, Method::PATCH, &format!("{path}?force=true&fieldManager={manager}"), object).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, object: &Value) -> Result<(), String> {
        self.send_as(MANAGER, method, path, object).await
    }

    async fn send_as(&self, manager: &str, method: Method, path: &str, object: &Value) -> Result<(), String> {
        let content = if method == Method::PATCH { "application/apply-patch+yaml" } else { "application/json" };
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("content-type", content)
            .header("accept", "application/json")
            .header("user-agent", manager)
            .body(body::full(object.to_string()))
            .map_err(|e| e.to_string())?;
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let peer = Peer { addr, identity: PeerIdentity::InProcess(self.user.clone()) };
        let response = self.server.handle(request, peer).await;
        let code = response.status();
        if code.is_success() || (method == Method::POST && code.as_u16() == 409) {
            return Ok(());
        }
        let bytes = response.into_body().collect().await.map(|c| c.to_bytes()).unwrap_or_default();
        let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Err(format!("{method} {path}: {code}: {}", status["message"].as_str().unwrap_or_default()))
    }
}

fn namespace(name: &str) -> Wanted {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    Wanted::new("/api/v1/namespaces", "namespaces", object)
}

fn priority_classes(server: &ApiServer) -> Vec<Wanted> {
    let Some(kind) = server.server.kinds.storage_kind("priorityclasses") else { return Vec::new() };
    let classes = [
        (
            "system-cluster-critical",
            2_000_000_000_i64,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ];
    classes
        .into_iter()
        .map(|(name, value, description)| {
            let object = json!({
                "apiVersion": kind.api_version(),
                "kind": "PriorityClass",
                "metadata": {"name": name},
                "value": value,
                "description": description,
            });
            Wanted::new(format!("/apis/{}/priorityclasses", kind.api_version()), "priorityclasses", object)
        })
        .collect()
}
