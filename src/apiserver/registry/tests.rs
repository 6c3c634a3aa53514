//! The verbs over [`ApiServer::handle`], against a real store.

mod fairness;
mod policies;
mod protobuf;
mod quota;
mod webhooks;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, Request, Response};
use component_base::{Metrics, RealClock};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use store::{SqliteConfig, SqliteStore};

use crate::wire::body;
use crate::{ApiServer, Body, Config, Peer, PeerIdentity, User, VersionInfo};

const MERGE: &str = "application/merge-patch+json";
const CONFIG_MAPS: &str = "/api/v1/namespaces/n/configmaps";

struct Fixture {
    server: ApiServer,
    store: Arc<SqliteStore>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = RealClock::shared();
        let store = SqliteStore::open(SqliteConfig::new(dir.path().join("db"), clock.clone())).await.expect("opens");
        let server = ApiServer::new(config(), store.clone(), clock, Metrics::new()).await.expect("starts");
        let this = Self { server, store, _dir: dir };
        this.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
        this
    }

    async fn send(&self, method: Method, uri: &str, content_type: &str, content: String) -> Response<Body> {
        let mut request = Request::new(body::full(content));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().expect("a path");
        if !content_type.is_empty() {
            request.headers_mut().insert("content-type", content_type.parse().expect("a header"));
        }
        let user = User::new("admin", &["system:masters"]);
        let peer = Peer { addr: ([127, 0, 0, 1], 1).into(), identity: PeerIdentity::InProcess(user) };
        self.server.handle(request, peer).await
    }

    async fn call(&self, method: Method, uri: &str, content: Value) -> (u16, Value) {
        let content_type = if method == Method::PATCH { MERGE } else { "application/json" };
        let content = if content.is_null() { String::new() } else { content.to_string() };
        let response = self.send(method, uri, content_type, content).await;
        let code = response.status().as_u16();
        let bytes = body::read(response.into_body(), usize::MAX).await.expect("a body");
        (code, serde_json::from_slice(&bytes).expect("JSON"))
    }

    async fn post(&self, uri: &str, content: Value) -> Value {
        let (code, value) = self.call(Method::POST, uri, content).await;
        assert_eq!(code, 201, "{value}");
        value
    }

    async fn get(&self, uri: &str) -> Value {
        let (code, value) = self.call(Method::GET, uri, Value::Null).await;
        assert_eq!(code, 200, "{value}");
        value
    }

    async fn config_map(&self, name: &str) -> Value {
        self.post(CONFIG_MAPS, json!({"metadata": {"name": name, "labels": {"l": name}}, "data": {"k": "1"}})).await
    }

    async fn watch(&self, query: &str) -> Events {
        let response = self.send(Method::GET, &format!("{CONFIG_MAPS}?watch=1&{query}"), "", String::new()).await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), buffer: Vec::new() }
    }
}

/// The lines of a watch.
struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame()).await.expect("in time")?;
            self.buffer.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
        }
    }

    async fn types(&mut self, count: usize) -> Vec<(String, String)> {
        let mut seen = Vec::new();
        for _ in 0..count {
            let event = self.next().await.expect("an event");
            let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
            seen.push((text(&event["type"]), text(&event["object"]["metadata"]["name"])));
        }
        seen
    }
}

fn config() -> Config {
    Config {
        advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 6443,
        service_cidr: "10.43.0.0/16".parse().expect("a network"),
        node_port_range: 30000..=32767,
        version: VersionInfo {
            major: "1".into(),
            minor: "36".into(),
            git_version: "v1.36.2+kedge1".into(),
            git_commit: String::new(),
            build_date: "2026-01-01T00:00:00Z".into(),
            platform: "linux/amd64".into(),
        },
        service_account_issuer: "https://kubernetes.default.svc.cluster.local".into(),
        service_account_key: pki::SigningKey::generate().expect("a key"),
        client_ca_pem: String::new(),
        kubelet_client: None,
        static_tokens: Vec::new(),
        manage_system_objects: false,
        max_request_bytes: 3 * 1024 * 1024,
        admission: crate::admission::AdmissionConfig::default(),
        max_requests_in_flight: 600,
        authentication: Default::default(),
        authorization: Default::default(),
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[tokio::test]
async fn create_get_update_patch_delete() {
    let f = Fixture::new().await;
    let made = f.config_map("a").await;
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(f.get(&path).await, made);
    let (code, _) = f.call(Method::POST, CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    assert_eq!(code, 409);
    let mut changed = made.clone();
    changed["data"]["k"] = json!("2");
    let (code, updated) = f.call(Method::PUT, &path, changed.clone()).await;
    assert_eq!((code, &updated["data"]["k"]), (200, &json!("2")));
    let (code, conflict) = f.call(Method::PUT, &path, changed).await;
    assert_eq!(code, 409);
    assert_eq!(
        conflict["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let (_, patched) = f.call(Method::PATCH, &path, json!({"data": {"z": "3"}})).await;
    assert_eq!(patched["data"], json!({"k": "2", "z": "3"}));
    // Nothing changes: nothing is written.
    let (_, same) = f.call(Method::PATCH, &path, json!({"data": {"z": "3"}})).await;
    assert_eq!(same["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
    let (code, deleted) = f.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!((code, &deleted["status"]), (200, &json!("Success")));
    let (code, _) = f.call(Method::GET, &path, Value::Null).await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn finalizers_keep_a_deleted_object() {
    let f = Fixture::new().await;
    f.post(CONFIG_MAPS, json!({"metadata": {"name": "a", "finalizers": ["x.y/z"]}})).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (_, marked) = f.call(Method::DELETE, &path, Value::Null).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let (code, _) = f.call(Method::PATCH, &path, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    assert_eq!(f.call(Method::GET, &path, Value::Null).await.0, 404);
}

#[tokio::test]
async fn pages_of_a_list_are_of_one_revision() {
    let f = Fixture::new().await;
    for name in ["a", "b", "c"] {
        f.config_map(name).await;
    }
    let first = f.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    f.config_map("d").await;
    f.call(Method::PATCH, &format!("{CONFIG_MAPS}/c"), json!({"data": {"k": "new"}})).await;
    f.call(Method::DELETE, &format!("{CONFIG_MAPS}/a"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = f.get(&format!("{CONFIG_MAPS}?limit=5&continue={token}")).await;
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let items = second["items"].as_array().expect("items");
    assert_eq!(items.len(), 1);
    assert_eq!((&items[0]["metadata"]["name"], &items[0]["data"]["k"]), (&json!("c"), &json!("1")));
    let exact = first["metadata"]["resourceVersion"].as_str().expect("a version");
    let then = f.get(&format!("{CONFIG_MAPS}?resourceVersion={exact}&resourceVersionMatch=Exact")).await;
    assert_eq!(then["items"].as_array().map(Vec::len), Some(3));
    // Once the history is gone, the token is refused, with one to go on at the newest state.
    use store::Store as _;
    f.store.compact(f.store.revision()).await.expect("compacts");
    let (code, gone) = f.call(Method::GET, &format!("{CONFIG_MAPS}?continue={token}"), Value::Null).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    let onward = gone["metadata"]["continue"].as_str().expect("a token");
    let rest = f.get(&format!("{CONFIG_MAPS}?continue={onward}")).await;
    let names: Vec<_> = rest["items"].as_array().expect("items").iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["c", "d"]);
}

#[tokio::test]
async fn a_watch_tells_every_change_once_in_order() {
    let f = Fixture::new().await;
    let start = f.config_map("a").await;
    let version = start["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut live = f.watch(&format!("resourceVersion={version}")).await;
    let mut selected = f.watch(&format!("resourceVersion={version}&labelSelector=l%3Db")).await;
    f.config_map("b").await;
    f.call(Method::PATCH, &format!("{CONFIG_MAPS}/b"), json!({"metadata": {"labels": {"l": "c"}}})).await;
    f.call(Method::PATCH, &format!("{CONFIG_MAPS}/a"), json!({"metadata": {"labels": {"l": "b"}}})).await;
    f.call(Method::DELETE, &format!("{CONFIG_MAPS}/a"), Value::Null).await;
    let all = pairs(&[("ADDED", "b"), ("MODIFIED", "b"), ("MODIFIED", "a"), ("DELETED", "a")]);
    assert_eq!(live.types(4).await, all);
    let into_and_out = pairs(&[("ADDED", "b"), ("DELETED", "b"), ("ADDED", "a"), ("DELETED", "a")]);
    assert_eq!(selected.types(4).await, into_and_out);
    // The same from the past.
    let mut late = f.watch(&format!("resourceVersion={version}")).await;
    assert_eq!(late.types(4).await, all);
}

#[tokio::test]
async fn a_watch_reads_history_behind_the_ring_or_says_that_it_is_gone() {
    let f = Fixture::new().await;
    let made = f.config_map("a").await;
    let version = made["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    f.call(Method::PATCH, &format!("{CONFIG_MAPS}/a"), json!({"data": {"k": "2"}})).await;
    f.call(Method::DELETE, &format!("{CONFIG_MAPS}/a"), Value::Null).await;
    // A second server on the same store has an empty ring.
    let clock = RealClock::shared();
    let server = ApiServer::new(config(), f.store.clone(), clock, Metrics::new()).await.expect("starts");
    let second = Fixture { server, store: f.store.clone(), _dir: tempfile::tempdir().expect("a directory") };
    let mut events = second.watch(&format!("resourceVersion={version}")).await;
    assert_eq!(events.types(2).await, pairs(&[("MODIFIED", "a"), ("DELETED", "a")]));
    second.config_map("b").await;
    assert_eq!(events.types(1).await, pairs(&[("ADDED", "b")]));
    use store::Store as _;
    f.store.compact(f.store.revision()).await.expect("compacts");
    let clock = RealClock::shared();
    let server = ApiServer::new(config(), f.store.clone(), clock, Metrics::new()).await.expect("starts");
    let third = Fixture { server, store: f.store.clone(), _dir: tempfile::tempdir().expect("a directory") };
    let mut events = third.watch(&format!("resourceVersion={version}")).await;
    let error = events.next().await.expect("an event");
    assert_eq!((&error["type"], &error["object"]["reason"]), (&json!("ERROR"), &json!("Expired")));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let f = Fixture::new().await;
    f.config_map("a").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = f.watch(query).await;
    assert_eq!(events.types(1).await, pairs(&[("ADDED", "a")]));
    let bookmark = events.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn writers_of_one_object_lose_nothing() {
    let f = Arc::new(Fixture::new().await);
    f.config_map("a").await;
    let patches = (0..20).map(|i| {
        let f = f.clone();
        async move {
            let patch = json!({"data": {format!("k{i}"): "v"}});
            f.call(Method::PATCH, &format!("{CONFIG_MAPS}/a"), patch).await.0
        }
    });
    let codes = futures::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
    assert_eq!(f.get(&format!("{CONFIG_MAPS}/a")).await["data"].as_object().map(|data| data.len()), Some(21));
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let f = Fixture::new().await;
    for name in ["a", "b"] {
        f.config_map(name).await;
    }
    let (code, list) = f.call(Method::DELETE, &format!("{CONFIG_MAPS}?labelSelector=l%3Da"), Value::Null).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(1)));
    assert_eq!(f.get(CONFIG_MAPS).await["items"].as_array().map(Vec::len), Some(1));
}
