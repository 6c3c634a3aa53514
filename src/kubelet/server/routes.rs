//! From a path to what serves it.
//!
//! Invariants:
//! - KR-1: what is authorized is what is served: both look at the same decoded first segment of the path.

use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tracing::debug;

use super::http::{Body, Query, Refusal, json, method_not_allowed, text, unescape, with_type};
use super::streaming::{self, Target};
use super::tls::Peer;
use super::{State, files, logs, prometheus, stats};
use crate::config::{KUBELET_VERSION, KubeletConfig};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    path: &'static str,
    server_type: &'static str,
    long_running: &'static str,
}

#[derive(Clone)]
pub struct RequestMetrics {
    total: Family<RequestLabels, Counter>,
    running: Family<RequestLabels, Gauge>,
}

impl RequestMetrics {
    pub fn new(metrics: &component_base::Metrics) -> Self {
        Self {
            total: metrics.register(
                "kubelet_http_requests",
                "Number of the http requests received since the server started",
                Family::default(),
            ),
            running: metrics.register(
                "kubelet_http_inflight_requests",
                "Number of the inflight http requests",
                Family::default(),
            ),
        }
    }
}

/// Paths that metrics tell apart.
const PATHS: &[&str] = &[
    "attach",
    "configz",
    "containerLogs",
    "exec",
    "healthz",
    "logs",
    "metrics",
    "pods",
    "portForward",
    "run",
    "stats",
];
const LONG_RUNNING: &[&str] = &["attach", "exec", "portForward", "containerLogs"];

/// Answers one request.
pub async fn handle(state: Arc<State>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let certificate = peer.certificate.as_deref();
    if let Err(refusal) = state.auth.check(certificate, request.method(), &path, request.headers()).await {
        debug!(address = %peer.address, path, code = refusal.code.as_u16(), "refused");
        return refusal.into_response();
    }
    let segments: Vec<String> = path.trim_start_matches('/').split('/').map(unescape).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let known = PATHS.iter().find(|known| segments.first() == Some(*known)).copied().unwrap_or("");
    let labels = RequestLabels {
        method: if known.is_empty() { String::new() } else { request.method().to_string() },
        path: known,
        server_type: "readwrite",
        long_running: if LONG_RUNNING.contains(&known) { "true" } else { "false" },
    };
    state.requests.total.get_or_create(&labels).inc();
    let running = state.requests.running.get_or_create_owned(&labels);
    running.inc();
    let answer = route(&state, &segments, request).await;
    running.dec();
    answer.unwrap_or_else(Refusal::into_response)
}

async fn route(state: &State, segments: &[&str], request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(request.uri().query());
    let get = request.method() == Method::GET;
    let streams = get || request.method() == Method::POST;
    // A slash at the end is no segment, but for files.
    let trimmed = match segments {
        [rest @ .., ""] if !rest.is_empty() && rest[0] != "logs" => rest,
        all => all,
    };
    match trimmed {
        ["healthz", ..] => Ok(match state.pods.health() {
            Ok(()) => text("ok"),
            Err(why) => return Err(Refusal::internal(format!("[-]syncloop failed: {why}\nhealthz check failed\n"))),
        }),
        ["pods"] if get => Ok(json(&pod_list(state))),
        ["configz"] if get => Ok(json(&json!({"kubeletconfig": state.config.configz}))),
        ["metrics"] if get => Ok(with_type(
            http::StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            state.metrics.render(),
        )),
        ["metrics", "resource"] if get => Ok(with_type(
            http::StatusCode::OK,
            prometheus::CONTENT_TYPE,
            prometheus::resource(&stats::gather(state).await),
        )),
        ["metrics", "cadvisor"] if get => {
            let snapshot = stats::gather(state).await;
            let kernel = sys::process::kernel().map(|(_, release)| release).unwrap_or_default();
            let page = prometheus::cadvisor(&snapshot, &kernel, KUBELET_VERSION);
            Ok(with_type(http::StatusCode::OK, prometheus::CONTENT_TYPE, page))
        }
        ["stats", "summary"] if streams => {
            Ok(json(&stats::summary(&stats::gather(state).await, &state.config.node_name, &query)))
        }
        ["logs", rest @ ..] if get => files::serve(&state.config.log_dir, &rest.join("/")).await,
        ["containerLogs", namespace, pod, container] if get => {
            logs::serve(state, namespace, pod, container, &query).await
        }
        [verb @ ("exec" | "attach"), rest @ ..] if streams => {
            let target = target(rest).ok_or_else(Refusal::page_not_found)?;
            match *verb {
                "exec" => streaming::exec(state, target, &query, request).await,
                _ => streaming::attach(state, target, &query, request).await,
            }
        }
        ["run", rest @ ..] if request.method() == Method::POST => {
            streaming::run(state, target(rest).ok_or_else(Refusal::page_not_found)?, &query).await
        }
        ["portForward", namespace, pod, uid @ ..] if streams && uid.len() < 2 => {
            let target = Target { namespace, pod, uid: uid.first().copied(), container: "" };
            streaming::port_forward(state, target, &query, request).await
        }
        ["pods" | "configz" | "metrics"]
        | ["metrics", "resource" | "cadvisor"]
        | ["logs", ..]
        | ["containerLogs", _, _, _] => Ok(method_not_allowed("GET")),
        ["stats", "summary"] | ["exec" | "attach", _, _, _] | ["exec" | "attach", _, _, _, _] => {
            Ok(method_not_allowed("GET, POST"))
        }
        ["portForward", _, _] | ["portForward", _, _, _] => Ok(method_not_allowed("GET, POST")),
        ["run", _, _, _] | ["run", _, _, _, _] => Ok(method_not_allowed("POST")),
        _ => Err(Refusal::page_not_found()),
    }
}

fn target<'a>(segments: &[&'a str]) -> Option<Target<'a>> {
    match *segments {
        [namespace, pod, container] => Some(Target { namespace, pod, uid: None, container }),
        [namespace, pod, uid, container] => Some(Target { namespace, pod, uid: Some(uid), container }),
        _ => None,
    }
}

fn pod_list(state: &State) -> Value {
    let pods = state.pods.pods();
    let items: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let mut value = serde_json::to_value(pod.as_ref()).unwrap_or_default();
            // Items of a list do not say what they are.
            if let Some(map) = value.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            value
        })
        .collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// The kubelet's configuration under upstream's names.
pub fn configz(config: &KubeletConfig) -> Value {
    let percent = |fraction: f64| format!("{}%", (fraction * 100.0).round());
    let eviction = &config.eviction;
    json!({
        "address": config.server.bind.ip().to_string(),
        "port": config.server.bind.port(),
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
        },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": config.cgroup_root,
        "cgroupsPerQOS": true,
        "clusterDNS": config.cluster_dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "clusterDomain": config.cluster_domain,
        "containerLogMaxFiles": config.log_rotation.max_files,
        "containerLogMaxSize": format!("{}Mi", config.log_rotation.max_bytes >> 20),
        "containerRuntimeEndpoint": config.runtime_endpoint(),
        "enableDebuggingHandlers": true,
        "enableSystemLogHandler": true,
        "evictionHard": {
            "memory.available": format!("{}Mi", eviction.memory_available >> 20),
            "nodefs.available": percent(eviction.nodefs_available),
            "nodefs.inodesFree": percent(eviction.nodefs_inodes_free),
            "imagefs.available": percent(eviction.imagefs_available),
        },
        "imageGCHighThresholdPercent": config.image_gc.high_percent,
        "imageGCLowThresholdPercent": config.image_gc.low_percent,
        "maxPods": config.max_pods,
        "podLogsDir": config.pods_log_dir.display().to_string(),
        "providerID": config.provider_id.clone().unwrap_or_default(),
        "resolvConf": config.resolv_conf.display().to_string(),
    })
}
