//! `/healthz`, `/livez`, `/readyz`: each a list of named checks.
//!
//! Invariants:
//! - HE-1: a check says what it names: `etcd` asks the store, `informer-sync` and the start-up hooks are good once the
//!   caches are loaded and the system objects are in place, `shutdown` until the server stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::attributes::Query;
use crate::wire::{body, respond};
use crate::{Body, Server};
use ::http::Response;
use api::core::componentstatus::status_of;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

/// Whether a component is well.
pub type Probe = Arc<dyn Fn() -> bool + Send + Sync>;

/// What the checks look at. Everything starts out false.
#[derive(Default)]
pub struct Health {
    started: Timestamp,
    caches_loaded: AtomicBool,
    bootstrapped: watch::Sender<bool>,
    stopping: AtomicBool,
    /// The other components of the control plane, as this process knows them.
    components: Mutex<Vec<(&'static str, Probe)>>,
}

impl Health {
    /// Of a server that starts now.
    pub fn new(started: Timestamp) -> Self {
        Self { started, ..Self::default() }
    }

    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// The watch caches hold everything.
    pub fn set_caches_loaded(&self) {
        self.caches_loaded.store(true, Ordering::Release);
    }

    /// The system namespaces, roles and so on are there.
    pub fn set_bootstrapped(&self) {
        self.bootstrapped.send_replace(true);
    }

    /// Returns when [`Self::set_bootstrapped`] was called.
    pub async fn bootstrapped(&self) {
        // The sender is ours, so that this cannot fail.
        let _ = self.bootstrapped.subscribe().wait_for(|done| *done).await;
    }

    /// Makes a component of the control plane known.
    pub fn add_component(&self, name: &'static str, probe: Probe) {
        self.components.lock().push((name, probe));
    }

    /// The ComponentStatuses of now.
    pub async fn components(&self, server: &Server) -> Vec<Value> {
        let ok = || "ok".to_owned();
        let mut all: Vec<Value> = {
            let known = self.components.lock();
            let state = |probe: &Probe| if probe() { Ok(ok()) } else { Err("the component is not ready".to_owned()) };
            known.iter().map(|(name, probe)| status_of(name, state(probe))).collect()
        };
        let store = server.store.size().await.map(|_| ok()).map_err(|error| error.to_string());
        all.push(status_of("etcd-0", store));
        all
    }

    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

#[derive(Clone, Copy)]
enum Check {
    /// Answering is the proof.
    Ping,
    Store,
    Caches,
    Bootstrap,
    NotStopping,
}

const HEAD: &[(&str, Check)] = &[("ping", Check::Ping), ("log", Check::Ping)];
const ALIVE: &[(&str, Check)] = &[("loopback-serving-certificate", Check::Ping), ("etcd", Check::Store)];
const READY: &[(&str, Check)] = &[("informer-sync", Check::Caches)];
const LAST: &[(&str, Check)] = &[("shutdown", Check::NotStopping)];
/// Upstream's start-up hooks, so that whoever watches them by name finds them.
const HOOKS: &[(&str, Check)] = &[
    ("poststarthook/start-apiserver-admission-initializer", Check::Caches),
    ("poststarthook/generic-apiserver-start-informers", Check::Caches),
    ("poststarthook/priority-and-fairness-config-consumer", Check::Caches),
    ("poststarthook/priority-and-fairness-filter", Check::Caches),
    ("poststarthook/storage-object-count-tracker-hook", Check::Caches),
    ("poststarthook/start-apiextensions-informers", Check::Caches),
    ("poststarthook/start-apiextensions-controllers", Check::Caches),
    ("poststarthook/crd-informer-synced", Check::Caches),
    ("poststarthook/start-system-namespaces-controller", Check::Bootstrap),
    ("poststarthook/peer-endpoint-reconciler-controller", Check::Caches),
    ("poststarthook/start-cluster-authentication-info-controller", Check::Bootstrap),
    ("poststarthook/start-kube-apiserver-identity-lease-controller", Check::Caches),
    ("poststarthook/start-kube-apiserver-identity-lease-garbage-collector", Check::Caches),
    ("poststarthook/storage-readiness", Check::Store),
    ("poststarthook/start-legacy-token-tracking-controller", Check::Caches),
    ("poststarthook/start-service-ip-repair-controllers", Check::Caches),
    ("poststarthook/rbac/bootstrap-roles", Check::Bootstrap),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", Check::Bootstrap),
    ("poststarthook/priority-and-fairness-config-producer", Check::Bootstrap),
    ("poststarthook/bootstrap-controller", Check::Bootstrap),
    ("poststarthook/start-kubernetes-service-cidr-controller", Check::Bootstrap),
    ("poststarthook/start-kube-aggregator-informers", Check::Caches),
    ("poststarthook/apiservice-status-local-available-controller", Check::Caches),
    ("poststarthook/apiservice-status-remote-available-controller", Check::Caches),
    ("poststarthook/apiservice-registration-controller", Check::Caches),
    ("poststarthook/apiservice-wait-for-first-sync", Check::Caches),
    ("poststarthook/apiservice-discovery-controller", Check::Caches),
    ("poststarthook/kube-apiserver-autoregistration", Check::Caches),
    ("autoregister-completion", Check::Caches),
    ("poststarthook/apiservice-openapi-controller", Check::Caches),
    ("poststarthook/apiservice-openapiv3-controller", Check::Caches),
];

fn checks(root: &str) -> impl Iterator<Item = &'static (&'static str, Check)> {
    let (own, last): (&[_], &[_]) = if root == "readyz" { (READY, LAST) } else { (ALIVE, &[]) };
    HEAD.iter().chain(own).chain(HOOKS).chain(last)
}

pub fn names(root: &str) -> impl Iterator<Item = &'static str> {
    checks(root).map(|(name, _)| *name)
}

/// Answers `/<root>` and `/<root>/<check>`.
pub async fn handle(server: &Server, path: &str, query: &Query) -> Response<Body> {
    let (root, one) = path[1..].split_once('/').map_or((&path[1..], None), |(root, one)| (root, Some(one)));
    if let Some(one) = one {
        let Some((_, check)) = checks(root).find(|(name, _)| *name == one) else {
            return respond::text(404, "404 page not found\n");
        };
        return match passes(server, *check).await {
            true => plain(200, "ok".to_owned()),
            false => plain(500, format!("internal server error: {one} failed\n")),
        };
    }
    let mut excluded: Vec<&str> = query.all("exclude");
    let (mut text, mut failed) = (String::new(), Vec::new());
    for (name, check) in checks(root) {
        if let Some(at) = excluded.iter().position(|e| e == name) {
            excluded.remove(at);
            text.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if passes(server, *check).await {
            text.push_str(&format!("[+]{name} ok\n"));
        } else {
            text.push_str(&format!("[-]{name} failed: reason withheld\n"));
            failed.push(*name);
        }
    }
    if !excluded.is_empty() {
        excluded.sort_unstable();
        let quoted: Vec<String> = excluded.iter().map(|e| format!("\"{e}\"")).collect();
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", quoted.join(", ")));
    }
    if !failed.is_empty() {
        tracing::warn!(root, failed = failed.join(","), "health check failed");
        return plain(500, format!("{text}{root} check failed\n"));
    }
    if query.get("verbose").is_none() {
        return plain(200, "ok".to_owned());
    }
    plain(200, format!("{text}{root} check passed\n"))
}

async fn passes(server: &Server, check: Check) -> bool {
    let health = &server.health;
    match check {
        Check::Ping => true,
        Check::Store => server.store.size().await.is_ok(),
        Check::Caches => health.caches_loaded.load(Ordering::Acquire),
        Check::Bootstrap => !server.config.manage_system_objects || *health.bootstrapped.borrow(),
        Check::NotStopping => !health.stopping.load(Ordering::Acquire),
    }
}

fn plain(code: u16, text: String) -> Response<Body> {
    let mut response = respond::text(code, "");
    *response.body_mut() = body::full(text);
    response
}
