//! Requests that are handed on: logs, exec, attach and port-forward to the pod's kubelet, proxies to nodes, pods and
//! services.
//!
//! Invariants:
//! - CN-1: what the client sent to authenticate itself is never passed on; kubelets see this server's certificate.
//! - CN-2: a stream that was handed on ends when either side does, or when the server stops.

mod address;
mod exec;
mod kubelet;
mod log;
mod proxy;
mod spdy;
mod tunnel;
mod websocket;

use std::sync::Arc;

use ::http::{HeaderMap, Method, Request, Response};
use api::Kind;
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use serde_json::{Value, json};

pub use kubelet::{Kubelets, Target};

use crate::admission::{AdmissionRequest, Operation, Reinvocation};
use crate::cache::{Object, ObjectReader as _};
use crate::notes::RequestNotes;
use crate::wire::negotiate::Accepted;
use crate::wire::respond;
use crate::{Body, RequestInfo, Server, User};

/// This request is for [`handle`].
pub fn serves(info: &RequestInfo) -> bool {
    info.group.is_empty()
        && matches!(
            (info.resource.as_str(), info.subresource.as_str()),
            ("pods", "log" | "exec" | "attach" | "portforward" | "proxy") | ("nodes" | "services", "proxy")
        )
}

/// What the parts of this module need.
pub(crate) struct Connect<'a> {
    server: &'a Arc<Server>,
    info: &'a RequestInfo,
}

/// Answers one request on a connect subresource.
pub async fn handle(
    server: &Arc<Server>,
    request: Request<Body>,
    info: RequestInfo,
    user: User,
    kind: Arc<Kind>,
) -> Response<Body> {
    let headers = request.headers().clone();
    let notes = RequestNotes::default();
    let outcome = dispatch(server, request, &info, &user, &kind, &notes).await;
    let mut response = outcome.unwrap_or_else(|status| respond::status(&status, &Accepted::JSON, &headers));
    notes.attach(&mut response);
    response
}

async fn dispatch(
    server: &Arc<Server>,
    request: Request<Body>,
    info: &RequestInfo,
    user: &User,
    kind: &Kind,
    notes: &RequestNotes,
) -> Result<Response<Body>, Status> {
    let proxies = info.subresource == "proxy";
    if !proxies && info.parts.len() > 3 {
        return Err(Status::path_not_found());
    }
    if kind.namespaced() && info.namespace.is_empty() {
        return Err(Status::path_not_found());
    }
    let allowed = match info.subresource.as_str() {
        "proxy" => true,
        "log" => request.method() == Method::GET,
        _ => matches!(*request.method(), Method::GET | Method::POST),
    };
    if !allowed {
        return Err(Status::method_not_allowed());
    }
    let connect = Connect { server, info };
    if info.subresource == "log" {
        return log::serve(&connect).await;
    }
    admit(&connect, user, kind, notes).await?;
    match info.subresource.as_str() {
        "exec" | "attach" => exec::serve(&connect, request).await,
        "portforward" => tunnel::port_forward(&connect, request).await,
        _ => proxy::serve(&connect, request).await,
    }
}

async fn admit(connect: &Connect<'_>, user: &User, kind: &Kind, notes: &RequestNotes) -> Result<(), Status> {
    let options = Value::Null;
    let request = AdmissionRequest {
        user,
        kind,
        operation: Operation::Connect,
        subresource: &connect.info.subresource,
        namespace: &connect.info.namespace,
        name: &connect.info.name,
        old_object: None,
        dry_run: false,
        options: &options,
        reader: connect.server.cache.as_ref(),
        notes,
        writer: connect.server,
        in_collection: false,
        server: Some(connect.server),
        reinvocation: Reinvocation::default(),
    };
    let mut asked = asked(connect.info, kind);
    connect.server.admission.mutate(&request, &mut asked).await?;
    connect.server.admission.validate(&request, &asked).await
}

/// What is asked for, as the object that admission sees: `PodExecOptions` and its like.
fn asked(info: &RequestInfo, kind: &Kind) -> Value {
    let Some(sub) = crate::registry::find_subresource(kind, &info.subresource) else { return Value::Null };
    let mut options = json!({"kind": sub.kind, "apiVersion": "v1"});
    let query = &info.query;
    match info.subresource.as_str() {
        "exec" | "attach" => {
            for key in ["stdin", "stdout", "stderr", "tty"] {
                if crate::wire::query::flag(query, key) == Some(true) {
                    options[key] = json!(true);
                }
            }
            if let Some(container) = query.get("container").filter(|name| !name.is_empty()) {
                options["container"] = json!(container);
            }
            let command = query.all("command");
            if !command.is_empty() && info.subresource == "exec" {
                options["command"] = json!(command);
            }
        }
        "portforward" => {
            let numbers = query.all("ports").into_iter().flat_map(|text| text.split(','));
            let ports: Vec<u16> = numbers.filter_map(|text| text.trim().parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = json!(ports);
            }
        }
        _ => {
            let path = info.parts.get(3..).unwrap_or_default().join("/");
            match query.get("path") {
                Some(path) => options["path"] = json!(path),
                None if !path.is_empty() => options["path"] = json!(path),
                None => {}
            }
        }
    }
    options
}

impl Connect<'_> {
    async fn pod(&self) -> Result<Arc<Object>, Status> {
        let found = self.server.cache.get("pods", &self.info.namespace, &self.info.name).await;
        found.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), &self.info.name))
    }

    fn flag(&self, key: &str) -> bool {
        crate::wire::query::flag(&self.info.query, key).unwrap_or(false)
    }
}

/// The container that is meant: the one named, or the only one.
fn container(pod: &Value, named: Option<&str>) -> Result<String, Status> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let of = |key: &str| -> Vec<String> {
        pod["spec"][key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c["name"].as_str())
            .map(str::to_owned)
            .collect()
    };
    let main = of("containers");
    let all = [of("initContainers"), main.clone(), of("ephemeralContainers")].concat();
    match named.filter(|n| !n.is_empty()) {
        Some(named) if all.iter().any(|c| c == named) => Ok(named.to_owned()),
        Some(named) => Err(Status::bad_request(format!("container {named} is not valid for pod {name}"))),
        None => match main.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
            _ => Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                all.join(" ")
            ))),
        },
    }
}

/// The node a pod is on.
fn node_of(pod: &Value) -> Result<String, Status> {
    match pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        Some(node) => Ok(node.to_owned()),
        None => Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            pod["metadata"]["name"].as_str().unwrap_or_default()
        ))),
    }
}

/// The protocol the client wants to change to, in lower case.
fn upgrade_of(headers: &HeaderMap) -> Option<String> {
    let connection = headers.get_all("connection").iter().filter_map(|v| v.to_str().ok());
    let upgrades = connection.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get("upgrade").and_then(|v| v.to_str().ok())?;
    upgrades.then(|| protocol.to_ascii_lowercase())
}

/// Percent-encodes a path segment or a query value.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod tests;
