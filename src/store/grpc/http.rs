//! What etcd serves to plain HTTP clients on the same port: health, version, metrics.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use tonic::body::Body;

use super::{CLUSTER_VERSION, Face, VERSION};
use crate::Alarm;

impl Face {
    pub(super) async fn http(&self, method: &Method, path: &str) -> Response<Body> {
        let known = ["/health", "/livez", "/readyz", "/version", "/metrics"].contains(&path);
        if known && method != Method::GET && method != Method::HEAD {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "Method Not Allowed\n".into());
        }
        match path {
            "/health" => {
                let reason = self.unhealthy();
                let status = if reason.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
                let (health, reason) = (reason.is_none(), reason.unwrap_or(""));
                let text = format!("{{\"health\":\"{health}\",\"reason\":\"{reason}\"}}");
                answer(status, "application/json", text)
            }
            "/livez" | "/readyz" => match self.store.is_on(Alarm::Corrupt) {
                false => answer(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".into()),
                true => answer(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "text/plain; charset=utf-8",
                    format!("[-]data_corruption failed: alarm activated: CORRUPT\n{} check failed\n", &path[1..]),
                ),
            },
            "/version" => {
                let text = format!(
                    "{{\"etcdserver\":\"{VERSION}\",\"etcdcluster\":\"{CLUSTER_VERSION}\",\"storage\":\"{CLUSTER_VERSION}\"}}"
                );
                answer(StatusCode::OK, "application/json", text)
            }
            "/metrics" => answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics().await),
            _ => answer(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into()),
        }
    }

    /// Under etcd's names, so that dashboards for etcd work.
    async fn metrics(&self) -> String {
        let mut out = String::new();
        let mut gauge = |name: &str, help: &str, value: u64| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        };
        gauge("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.", 1);
        gauge("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.", 1);
        gauge(
            "etcd_server_health_success",
            "Whether reads and writes are served.",
            u64::from(self.unhealthy().is_none()),
        );
        gauge(
            "etcd_server_quota_backend_bytes",
            "Largest size of the database in bytes, 0 is unbounded.",
            self.store.quota().unwrap_or(0),
        );
        let revision = |revision: i64| revision.unsigned_abs();
        gauge(
            "etcd_debugging_mvcc_current_revision",
            "The current revision of store.",
            revision(self.store.revision()),
        );
        gauge(
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.",
            revision(self.store.compacted_revision()),
        );
        if let Ok(size) = self.store.size().await {
            gauge(
                "etcd_mvcc_db_total_size_in_bytes",
                "Total size of the underlying database physically allocated in bytes.",
                size.bytes,
            );
            gauge(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Total size of the underlying database logically in use in bytes.",
                size.bytes_in_use,
            );
        }
        if let Ok(leases) = self.store.leases().await {
            gauge("etcd_debugging_lease_total", "Leases that are granted.", leases.len() as u64);
        }
        out
    }
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
