//! Sends statuses to the API server: only what changed, as soon as it changed, until it is accepted.
//!
//! Invariants:
//! - SM-1: of one pod there is at most one request at a time, and the last status set is the last one sent.
//! - SM-2: a pod is deleted from the API only after its final status was sent, and only that very pod (by uid).

use std::collections::HashMap;
use std::sync::Arc;

use client::WorkQueue;
use component_base::{SharedClock, TaskGroup};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tracing::{debug, info, warn};

use crate::containers::text;
use crate::error::is_api_code;

/// Requests in flight, over all pods.
const WORKERS: usize = 16;

/// Cloning shares it.
#[derive(Clone)]
pub struct StatusManager {
    client: Client,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    queue: WorkQueue<String>,
}

struct Entry {
    namespace: String,
    name: String,
    desired: PodStatus,
    /// What the API server has, as far as we know.
    base: Value,
    delete: bool,
}

impl StatusManager {
    pub fn new(client: Client, clock: SharedClock, tasks: &TaskGroup) -> Self {
        let this = Self { client, entries: Arc::default(), queue: WorkQueue::new(clock) };
        for _ in 0..WORKERS {
            let worker = this.clone();
            tasks.spawn(async move { worker.work().await });
        }
        this
    }

    /// Sets the status of `pod`; it is sent in the background when it differs.
    pub fn set(&self, pod: &Pod, status: PodStatus) {
        let uid = text(&pod.metadata.uid).to_owned();
        {
            let mut entries = self.entries.lock();
            let entry = entries.entry(uid.clone()).or_insert_with(|| Entry {
                namespace: text(&pod.metadata.namespace).to_owned(),
                name: text(&pod.metadata.name).to_owned(),
                desired: PodStatus::default(),
                base: json!({}),
                delete: false,
            });
            entry.base = merge_foreign(&entry.base, &serde_json::to_value(&pod.status).unwrap_or_default());
            if entry.desired == status
                && diff(&entry.base, &serde_json::to_value(&status).unwrap_or_default()).is_none()
            {
                return;
            }
            entry.desired = status;
        }
        self.queue.add(uid);
    }

    /// The last status set for the pod.
    pub fn get(&self, uid: &str) -> Option<PodStatus> {
        self.entries.lock().get(uid).map(|entry| entry.desired.clone())
    }

    /// Everything of the pod is gone: removes it from the API server.
    pub fn finish(&self, pod: &Pod) {
        let uid = text(&pod.metadata.uid).to_owned();
        {
            let mut entries = self.entries.lock();
            let entry = entries.entry(uid.clone()).or_insert_with(|| Entry {
                namespace: text(&pod.metadata.namespace).to_owned(),
                name: text(&pod.metadata.name).to_owned(),
                desired: pod.status.clone().unwrap_or_default(),
                base: serde_json::to_value(&pod.status).unwrap_or_default(),
                delete: false,
            });
            entry.delete = true;
        }
        self.queue.add(uid);
    }

    /// The pod is no longer in the API.
    pub fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
        self.queue.forget(&uid.to_owned());
    }

    async fn work(&self) {
        loop {
            let uid = self.queue.get().await;
            match self.send(&uid).await {
                Ok(()) => self.queue.forget(&uid),
                Err(error) => {
                    warn!(%uid, %error, "pod status not accepted, will be sent again");
                    self.queue.add_rate_limited(uid.clone());
                }
            }
            self.queue.done(&uid);
        }
    }

    async fn send(&self, uid: &str) -> kube::Result<()> {
        let (namespace, name, desired, base, delete) = {
            let entries = self.entries.lock();
            let Some(e) = entries.get(uid) else { return Ok(()) };
            let desired = serde_json::to_value(&e.desired).unwrap_or_default();
            (e.namespace.clone(), e.name.clone(), desired, e.base.clone(), e.delete)
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        if let Some(change) = diff(&base, &desired) {
            let patch = json!({ "metadata": { "uid": uid }, "status": change });
            match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => {
                    if let Some(entry) = self.entries.lock().get_mut(uid) {
                        entry.base = desired;
                    }
                    debug!(pod = %format!("{namespace}/{name}"), "status sent");
                }
                // Gone, or another pod of that name.
                Err(error) if is_api_code(&error, 404) || is_api_code(&error, 409) => {
                    debug!(pod = %format!("{namespace}/{name}"), %error, "no such pod any more");
                    if is_api_code(&error, 404) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if delete {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(&name, &params).await {
                Ok(_) => info!(pod = %format!("{namespace}/{name}"), "pod is gone"),
                Err(error) if is_api_code(&error, 404) || is_api_code(&error, 409) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What others wrote into the status (readiness gates, other conditions) comes from the API server's version; what we
/// wrote is what we sent last, which may be newer than that version.
fn merge_foreign(base: &Value, current: &Value) -> Value {
    if base.as_object().is_none_or(Map::is_empty) {
        return if current.is_object() { current.clone() } else { json!({}) };
    }
    base.clone()
}

/// A strategic merge patch from `old` to `new`; `None` when they are the same.
fn diff(old: &Value, new: &Value) -> Option<Value> {
    let empty = Map::new();
    let old = old.as_object().unwrap_or(&empty);
    let new = new.as_object().unwrap_or(&empty);
    let mut out = Map::new();
    for (key, value) in new {
        if old.get(key) == Some(value) {
            continue;
        }
        let change = match key.as_str() {
            "conditions" => merged_list(old.get(key), &owned(value), "type", false),
            "podIPs" | "hostIPs" => merged_list(old.get(key), value, "ip", true),
            _ => Some(value.clone()),
        };
        if let Some(change) = change {
            out.insert(key.clone(), change);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Conditions of others are theirs to change.
fn owned(conditions: &Value) -> Value {
    let ours = |item: &&Value| item["type"].as_str().is_some_and(|t| super::conditions::OWNED.contains(&t));
    Value::Array(conditions.as_array().into_iter().flatten().filter(ours).cloned().collect())
}

/// The items that changed; with `remove`, also deletions of those that are gone.
fn merged_list(old: Option<&Value>, new: &Value, key: &str, remove: bool) -> Option<Value> {
    let empty = Vec::new();
    let old = old.and_then(Value::as_array).unwrap_or(&empty);
    let new = new.as_array().unwrap_or(&empty);
    let before = |item: &Value| old.iter().find(|o| o.get(key) == item.get(key));
    let mut out = Vec::new();
    for item in new.iter().filter(|item| before(item) != Some(item)) {
        let mut item = item.clone();
        // A field that is gone must be told, or merging keeps it.
        if let (Some(Value::Object(before)), Some(after)) = (before(&item).cloned(), item.as_object_mut()) {
            for gone in before.keys() {
                after.entry(gone.clone()).or_insert(Value::Null);
            }
        }
        out.push(item);
    }
    if remove {
        for gone in old.iter().filter(|o| !new.iter().any(|n| n.get(key) == o.get(key))) {
            out.push(json!({ "$patch": "delete", key: gone.get(key) }));
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent() {
        let old = json!({
            "phase": "Pending", "message": "x",
            "conditions": [{"type": "Ready", "status": "False", "reason": "R"}, {"type": "Initialized", "status": "True"}],
            "podIPs": [{"ip": "1"}]});
        let new = json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
            "podIPs": [{"ip": "2"}]});
        assert_eq!(
            diff(&old, &new),
            Some(json!({
                "phase": "Running", "message": null,
                "conditions": [{"type": "Ready", "status": "True", "reason": null}],
                "podIPs": [{"ip": "2"}, {"$patch": "delete", "ip": "1"}]}))
        );
        assert_eq!(diff(&new, &new), None);
    }
}
