//! Paths that are no resources: health, version, metrics, discovery, OpenAPI, the service-account issuer's documents.
//!
//! Invariants:
//! - NR-1: everything here is made from the kinds that are registered now.

mod debug;
mod discovery;
mod health;
pub mod metrics;
mod openapi;

use std::sync::Arc;

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use ::http::{HeaderMap, HeaderValue, Method, Request, Response};
use apimachinery::status::Status;
use serde_json::{Value, json};

pub use health::{Health, Probe};

use crate::wire::negotiate::{Accepted, Endpoint, negotiate};
use crate::wire::{body, respond};
use crate::{Body, RequestInfo, Server, User};

const OIDC: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/openid/v1/jwks";

/// Answers a request that is no resource request.
pub async fn handle(server: &Arc<Server>, request: Request<Body>, info: RequestInfo, _user: User) -> Response<Body> {
    let (parts, _body) = request.into_parts();
    let (method, headers) = (&parts.method, &parts.headers);
    let path = info.path.as_str();
    match path {
        "/healthz" | "/livez" | "/readyz" => return health::handle(server, path, &info.query).await,
        OIDC => return document(200, &server.issuer.openid_configuration(&host(server, headers)), "application/json"),
        JWKS => return jwks(server, headers),
        "/metrics" => return metrics_text(server),
        "/" => return index(server, headers, &info),
        "/statusz" | "/flagz" => return debug::component(server, path, headers),
        _ => {}
    }
    if path.starts_with("/healthz/") || path.starts_with("/livez/") || path.starts_with("/readyz/") {
        return health::handle(server, path, &info.query).await;
    }
    if let Some(page) = path.strip_prefix("/debug/api_priority_and_fairness/") {
        return debug::fairness(server, page, &info.query);
    }
    if path == "/version" || path == "/version/" {
        return only_get(method, headers, || document(200, &version(server), "application/json"));
    }
    if let Some(answer) = openapi::handle(server, path, headers, &info.query) {
        return answer;
    }
    if let Some(answer) = discovery::handle(server, method, path, headers, &info.query) {
        return answer;
    }
    respond::text(404, "404 page not found\n")
}

fn only_get(method: &Method, headers: &HeaderMap, answer: impl FnOnce() -> Response<Body>) -> Response<Body> {
    if method == Method::GET {
        return answer();
    }
    respond::status(&Status::method_not_allowed(), &Accepted::JSON, headers)
}

fn document(code: u16, value: &Value, content_type: &'static str) -> Response<Body> {
    let text = serde_json::to_string_pretty(value).expect("JSON values always encode");
    respond::bytes(code, content_type, text.into(), &HeaderMap::new())
}

fn version(server: &Server) -> Value {
    let version = &server.config.version;
    let minor: u32 = version.minor.trim_end_matches('+').parse().unwrap_or(0);
    json!({
        "major": version.major,
        "minor": version.minor,
        "emulationMajor": version.major,
        "emulationMinor": version.minor,
        "minCompatibilityMajor": version.major,
        "minCompatibilityMinor": minor.saturating_sub(1).to_string(),
        "gitVersion": version.git_version,
        "gitCommit": version.git_commit,
        "gitTreeState": "clean",
        "buildDate": version.build_date,
        // What language the server is written in is asked of every server; ours is honest about it.
        "goVersion": "none",
        "compiler": "rustc",
        "platform": version.platform,
    })
}

/// Where the documents say that this server is: as the client reached it, else as it advertises itself.
fn host(server: &Server, headers: &HeaderMap) -> String {
    headers.get(HOST).and_then(|h| h.to_str().ok()).filter(|h| !h.is_empty()).map_or_else(
        || std::net::SocketAddr::new(server.config.advertise_address, server.config.port).to_string(),
        str::to_owned,
    )
}

fn jwks(server: &Server, headers: &HeaderMap) -> Response<Body> {
    const TYPE: &str = "application/jwk-set+json";
    let accept = headers.get("accept").and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    let fits = accept
        .split(',')
        .any(|clause| matches!(clause.split(';').next().unwrap_or("").trim(), "*/*" | "application/*" | TYPE | ""));
    if !fits {
        let text = format!("406: Not Acceptable\n\nAvailable representations: {TYPE}");
        let status = crate::wire::errors::route(406, "NotAcceptable", &text);
        return respond::status(&status, &Accepted::JSON, headers);
    }
    let mut response = document(200, &server.issuer.jwks(), TYPE);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

fn metrics_text(server: &Server) -> Response<Body> {
    let mut response = Response::new(body::full(server.metrics.render()));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn index(server: &Server, headers: &HeaderMap, info: &RequestInfo) -> Response<Body> {
    let mut paths: Vec<String> = [OIDC, JWKS, "/api", "/apis", "/healthz", "/livez", "/readyz", "/metrics", "/version"]
        .into_iter()
        .chain(["/openapi/v2", "/openapi/v3", "/openapi/v3/"])
        .map(str::to_owned)
        .collect();
    for kind in server.kinds.all().iter() {
        if kind.group.is_empty() {
            paths.push(format!("/api/{}", kind.version));
        } else {
            paths.push(format!("/apis/{}", kind.group));
            paths.push(format!("/apis/{}/{}", kind.group, kind.version));
        }
    }
    for root in ["healthz", "livez", "readyz"] {
        paths.extend(health::names(root).map(|name| format!("/{root}/{name}")));
    }
    paths.sort();
    paths.dedup();
    let accepted = negotiate(headers, &info.query, Endpoint::Plain).unwrap_or(Accepted::JSON);
    let mut response = respond::value(200, &json!({"paths": paths}), &accepted, headers);
    response.headers_mut().remove(CACHE_CONTROL);
    response
}
