//! Just enough of the API for one kubelet: objects in memory, list, watch, create, patch, delete.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::InProcessRequest;
use component_base::RealClock;
use futures::{StreamExt as _, stream};
use http::{Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changes: broadcast::Sender<(String, &'static str, Value)>,
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// By path (`/api/v1/namespaces/ns/pods/p`).
    objects: BTreeMap<String, Value>,
    version: u64,
    /// What was written when, for who wants to know where the time goes.
    story: Vec<(Instant, String)>,
}

impl Api {
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            changes: broadcast::Sender::new(1000),
            moved: watch::Sender::new(0),
        }))
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: InProcessRequest| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        // kube wants one service for all clones.
        client::in_process(service, "kubelet/test").expect("a client")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.state.lock().objects.get(path).cloned()
    }

    /// Messages of the events with this reason.
    pub fn events(&self, reason: &str) -> Vec<String> {
        let state = self.0.state.lock();
        let events = state.objects.iter().filter(|(path, _)| path.contains("/events/"));
        events
            .filter(|(_, e)| e["reason"] == reason)
            .map(|(_, e)| e["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.0.state.lock();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
        }
        let now = RealClock::shared().instant();
        state.story.push((now, summary(path, &object)));
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.to_owned(), object.clone());
        // Nobody watching is fine.
        let _ = self.0.changes.send((path.to_owned(), kind, object.clone()));
        drop(state);
        self.0.moved.send_replace(version);
        object
    }

    /// What was written about `name` after `since`, with the time passed.
    pub fn story(&self, name: &str, since: Instant) -> Vec<String> {
        let state = self.0.state.lock();
        let told = state.story.iter().filter(|(at, text)| *at >= since && text.contains(name));
        told.map(|(at, text)| format!("{:?} {text}", *at - since)).collect()
    }

    pub fn remove(&self, path: &str) -> Option<Value> {
        let mut state = self.0.state.lock();
        let object = state.objects.remove(path)?;
        state.version += 1;
        let version = state.version;
        let _ = self.0.changes.send((path.to_owned(), "DELETED", object.clone()));
        drop(state);
        self.0.moved.send_replace(version);
        Some(object)
    }

    /// Waits until `test` holds for what is at `path`.
    pub async fn until(&self, path: &str, what: &str, test: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let mut moved = self.0.moved.subscribe();
        let wait = async {
            loop {
                moved.borrow_and_update();
                let object = self.get(path);
                if test(object.as_ref()) {
                    return object;
                }
                let _ = moved.changed().await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), wait).await {
            Ok(object) => object,
            Err(_) => panic!("{what}: not in time; {path} is {:#}", self.get(path).unwrap_or_default()),
        }
    }

    async fn serve(&self, request: InProcessRequest) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_item = {
            let last = path.rsplit('/').next().unwrap_or_default();
            !matches!(last, "pods" | "services" | "nodes" | "leases" | "events" | "configmaps" | "secrets")
        };
        match parts.method {
            Method::GET if !is_item && query.contains("watch=true") => self.watch(&path, &query),
            Method::GET if !is_item => self.list(&path, &query),
            Method::GET => self.get(&path).map_or_else(|| status(404), |object| answer(StatusCode::OK, &object)),
            Method::POST if path.ends_with("/token") => answer(
                StatusCode::CREATED,
                &json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {"audiences": []},
                    "status": {"token": "a-token", "expirationTimestamp": "2099-01-01T00:00:00Z"}}),
            ),
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let item = format!("{path}/{name}");
                if self.get(&item).is_some() {
                    return status(409);
                }
                answer(StatusCode::CREATED, &self.put(&item, body))
            }
            Method::PATCH => {
                let target = path.strip_suffix("/status").unwrap_or(&path).to_owned();
                let Some(mut object) = self.get(&target) else { return status(404) };
                let uid = body["metadata"]["uid"].clone();
                if !uid.is_null() && uid != object["metadata"]["uid"] {
                    return status(409);
                }
                merge(&mut object, &body);
                answer(StatusCode::OK, &self.put(&target, object))
            }
            Method::DELETE => self.remove(&path).map_or_else(|| status(404), |o| answer(StatusCode::OK, &o)),
            _ => status(405),
        }
    }

    fn list(&self, path: &str, query: &str) -> Response<Body> {
        let state = self.0.state.lock();
        let items: Vec<Value> =
            state.objects.iter().filter(|(p, o)| selected(path, query, p, o)).map(|(_, o)| o.clone()).collect();
        let version = state.version.to_string();
        answer(
            StatusCode::OK,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn watch(&self, path: &str, query: &str) -> Response<Body> {
        let state = self.0.state.lock();
        let from: u64 =
            query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).and_then(|v| v.parse().ok()).unwrap_or(0);
        let receiver = self.0.changes.subscribe();
        // What happened between the list and now.
        let version = |o: &Value| o["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
        let missed: Vec<_> = state
            .objects
            .iter()
            .filter(|(p, o)| selected(path, query, p, o) && version(o).unwrap_or(0) > from)
            .map(|(p, o)| (p.clone(), "MODIFIED", o.clone()))
            .collect();
        drop(state);
        let (path, query) = (path.to_owned(), query.to_owned());
        let live = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.ok().map(|change| (change, receiver))
        });
        let frames = stream::iter(missed).chain(live).filter_map(move |(object_path, kind, object)| {
            let wanted = selected(&path, &query, &object_path, &object);
            async move {
                let line = format!("{}\n", json!({"type": kind, "object": object}));
                wanted.then(|| Ok(Frame::data(Bytes::from(line))))
            }
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn summary(path: &str, object: &Value) -> String {
    if path.contains("/events/") {
        return format!("event of {}: {}", object["involvedObject"]["name"], object["reason"]);
    }
    let states: Vec<String> = object["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| format!("{} ready={} {}", c["name"], c["ready"], c["state"]))
        .collect();
    let name = &object["metadata"]["name"];
    format!("{path} {name} {} {}", object["status"]["phase"], states.join(" "))
}

/// Whether the object at `object_path` is in the collection, and selected.
fn selected(collection: &str, query: &str, object_path: &str, object: &Value) -> bool {
    let resource = collection.rsplit('/').next().unwrap_or_default();
    let mut parts = object_path.rsplit('/');
    let (name, of) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let namespaced = !collection.contains("/namespaces/") || object_path.starts_with(&format!("{collection}/"));
    let query = query.replace("%3D", "=").replace("%3d", "=");
    let field = query.split('&').find_map(|p| p.strip_prefix("fieldSelector="));
    let field_matches = match field.and_then(|f| f.split_once('=')) {
        Some(("metadata.name", value)) => name == value,
        Some(("spec.nodeName", value)) => object["spec"]["nodeName"] == value,
        _ => true,
    };
    of == resource && namespaced && field_matches
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match (key.as_str(), value) {
            (_, Value::Null) => {
                target.as_object_mut().expect("an object").remove(key);
            }
            ("conditions" | "podIPs" | "hostIPs" | "addresses", Value::Array(items)) => {
                let id = if key.ends_with("IPs") { "ip" } else { "type" };
                let mut list = target[key].as_array().cloned().unwrap_or_default();
                for item in items.iter().filter(|item| item["$patch"].is_null()) {
                    match list.iter_mut().find(|known| known[id] == item[id]) {
                        Some(known) => merge(known, item),
                        None => list.push(item.clone()),
                    }
                }
                target[key] = Value::Array(list);
            }
            (_, Value::Object(_)) => merge(&mut target[key], value),
            _ => target[key] = value.clone(),
        }
    }
}

fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn status(code: u16) -> Response<Body> {
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no",
        "reason": "NotFound", "code": code});
    answer(StatusCode::from_u16(code).expect("a code"), &value)
}
