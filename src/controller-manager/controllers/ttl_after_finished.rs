//! Finished Jobs that said how long they are of interest: deleted when that has passed.
//!
//! Watches Jobs. Deletes Jobs, in the foreground.
//!
//! Invariants:
//! - TT-1: before it deletes, it asks the server, so that a TTL that was just raised is honoured.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, Informer, ObjectKey, WorkQueue};
use component_base::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tracing::info;

use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};

struct TtlAfterFinished {
    client: Client,
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    jobs: Informer<Job>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = TtlAfterFinished {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        queue: cx.queue(),
        jobs: cx.informers.of(),
    };
    let queue = this.queue.clone();
    this.jobs.on_change(move |change| {
        if expires(change.object()).is_some() {
            queue.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    Arc::new(this)
}

/// When the job may go; none: never, or not finished.
fn expires(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let finished =
        conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let at = finished.last_transition_time.as_ref()?.0;
    at.checked_add(jiff::SignedDuration::from_secs(i64::from(ttl))).ok()
}

#[async_trait]
impl Controller for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.jobs.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(at) = self.jobs.get(key).and_then(|job| expires(&job)) else { return Ok(None) };
        let now = self.clock.now();
        if at > now {
            return Ok(Some(Duration::try_from(at.duration_since(now)).unwrap_or_default()));
        }
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        let live = api.get_opt(&key.name).await.map_err(Error::api(format!("get job {key}")))?;
        let Some(live) = live else { return Ok(None) };
        if expires(&live).is_none_or(|at| at > now) {
            return Ok(None);
        }
        let preconditions = Preconditions { uid: live.metadata.uid, resource_version: live.metadata.resource_version };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
        let deleted = api.delete(&key.name, &params).await.map(|_| ());
        if gone_is_fine(deleted).map_err(Error::api(format!("delete finished job {key}")))?.is_some() {
            info!(job = %key, "deleted finished job");
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_finished_jobs_expire() {
        let job = |ttl: Value, kind: &str, status: &str| -> Job {
            serde_json::from_value(json!({
                "spec": { "ttlSecondsAfterFinished": ttl, "template": {} },
                "status": { "conditions": [{ "type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
            }))
            .expect("a job")
        };
        let at = |job: Job| expires(&job).map(|at| at.to_string());
        assert_eq!(at(job(json!(30), "Complete", "True")).as_deref(), Some("2026-01-01T00:00:30Z"));
        assert_eq!(at(job(json!(0), "Failed", "True")).as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(at(job(json!(30), "Suspended", "True")), None);
        assert_eq!(at(job(json!(30), "Complete", "False")), None);
        assert_eq!(at(job(Value::Null, "Complete", "True")), None);
    }
}
