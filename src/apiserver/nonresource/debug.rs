//! What operators look at: `/statusz`, `/flagz` and the pages of priority and fairness.

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue, Response};
use apimachinery::status::Status;

use crate::attributes::Query;
use crate::wire::negotiate::Accepted;
use crate::wire::{body, query, respond};
use crate::{Body, Server};

const OFFERED: &[&str] = &["text/plain"];
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";

/// `/statusz` and `/flagz`: text, and only text.
pub fn component(server: &Server, path: &str, headers: &HeaderMap) -> Response<Body> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let fits = |clause: &str| matches!(clause.split(';').next().unwrap_or("").trim(), "text/plain" | "text/*" | "*/*");
    if !accept.split(',').any(fits) {
        return respond::status(&Status::not_acceptable(OFFERED), &Accepted::JSON, headers);
    }
    plain(if path == "/flagz" { flagz(server) } else { statusz(server) })
}

/// `/debug/api_priority_and_fairness/<page>`
pub fn fairness(server: &Server, page: &str, query: &Query) -> Response<Body> {
    let details = query::flag(query, "includeRequestDetails").unwrap_or(false);
    server.flow.dump(page, details).map_or_else(|| respond::text(404, "404 page not found\n"), plain)
}

fn statusz(server: &Server) -> String {
    let version = &server.config.version;
    let started = server.health.started();
    let up = server.clock.now().duration_since(started).as_secs().max(0);
    let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
    format!(
        "\nkube-apiserver statusz\n{WARNING}\n\nStarted: {}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\nBinary version: {}\nEmulation version: {}.{}\n\nPaths: /healthz /livez /metrics /readyz /statusz /version\n",
        started.strftime("%a %b %d %H:%M:%S UTC %Y"),
        version.git_version,
        version.major,
        version.minor,
    )
}

fn flagz(server: &Server) -> String {
    let config = &server.config;
    let mut flags = vec![
        ("advertise-address", config.advertise_address.to_string()),
        ("authorization-mode", "[Node,RBAC]".to_owned()),
        ("https-listen-port", config.port.to_string()),
        ("max-request-bytes", config.max_request_bytes.to_string()),
        ("max-requests-in-flight", config.max_requests_in_flight.to_string()),
        ("service-account-issuer", format!("[{}]", config.service_account_issuer)),
        ("service-cluster-ip-range", config.service_cidr.to_string()),
        ("service-node-port-range", format!("{}-{}", config.node_port_range.start(), config.node_port_range.end())),
    ];
    flags.sort();
    let lines: Vec<String> = flags.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    format!("\nkube-apiserver flagz\n{WARNING}\n\n{}", lines.concat())
}

fn plain(text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
