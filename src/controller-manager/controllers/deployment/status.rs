//! The status of a Deployment: counts, conditions, and whether it gets on.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::PostParams;

use super::run::Run;
use crate::controllers::rollout;
use crate::error::{Error, gone_is_fine};

impl Run<'_> {
    pub async fn pause_condition(&mut self) -> Result<(), Error> {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        if spec.progress_deadline_seconds.is_none() {
            return Ok(());
        }
        let reason = self.find_condition("Progressing").and_then(|condition| condition.reason.clone());
        if reason.as_deref() == Some("ProgressDeadlineExceeded") {
            return Ok(());
        }
        match (spec.paused == Some(true), reason.as_deref() == Some("DeploymentPaused")) {
            (true, false) => self.condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused").await,
            (false, true) => {
                self.condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed").await
            }
            _ => Ok(()),
        }
    }

    fn find_condition(&self, kind: &str) -> Option<&DeploymentCondition> {
        let conditions = self.deployment.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == kind)
    }

    pub async fn condition(&mut self, kind: &str, value: &str, reason: &str, message: &str) -> Result<(), Error> {
        let mut status = self.deployment.status.clone().unwrap_or_default();
        set_condition(&mut status, kind, value, reason, message, self.cx.clock.now());
        self.put_status(status).await
    }

    pub async fn put_status(&mut self, status: DeploymentStatus) -> Result<(), Error> {
        if self.deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<Deployment>::namespaced(self.cx.client.clone(), &self.key.namespace);
        let changed = Deployment { status: Some(status), ..self.deployment.clone() };
        let written = gone_is_fine(api.replace_status(&self.key.name, &PostParams::default(), &changed).await);
        if let Some(written) = written.map_err(Error::api(format!("write the status of deployment {}", self.key)))? {
            self.deployment = written;
        }
        Ok(())
    }

    /// Status, progress and what comes next.
    pub async fn finish(&mut self) -> Result<Option<Duration>, Error> {
        let new = self.new_set();
        self.write_status(new).await
    }

    pub async fn write_status(&mut self, new: Option<Arc<ReplicaSet>>) -> Result<Option<Duration>, Error> {
        let now = self.cx.clock.now();
        let mut status = self.status(new.as_deref());
        let before = self.deployment.status.clone().unwrap_or_default();
        let (_, max_unavailable) = rollout::fenceposts(&self.deployment);
        if status.available_replicas.unwrap_or(0) >= rollout::replicas(&self.deployment) - max_unavailable {
            set_condition(
                &mut status,
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
                now,
            );
        } else {
            let message = "Deployment does not have minimum availability.";
            set_condition(&mut status, "Available", "False", "MinimumReplicasUnavailable", message, now);
        }
        self.replica_failure(&mut status, new.as_deref(), now);
        let check_at = self.progress(&mut status, &before, new.as_deref(), now);
        self.put_status(status).await?;
        Ok(check_at)
    }

    pub fn status(&self, new: Option<&ReplicaSet>) -> DeploymentStatus {
        let new = new.cloned().or_else(|| self.new_set().map(|set| ReplicaSet::clone(&set)));
        let total = rollout::total(&self.sets);
        let available = rollout::total_available(&self.sets);
        let ready: i32 = self.sets.iter().filter_map(|set| set.status.as_ref()?.ready_replicas).sum();
        let terminating: i32 = self.sets.iter().filter_map(|set| set.status.as_ref()?.terminating_replicas).sum();
        let updated = new.and_then(|set| set.status).map_or(0, |status| status.replicas);
        let nonzero = |n: i32| (n != 0).then_some(n);
        let before = self.deployment.status.clone().unwrap_or_default();
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: nonzero(rollout::actual(&self.sets)),
            updated_replicas: nonzero(updated),
            ready_replicas: nonzero(ready),
            available_replicas: nonzero(available),
            unavailable_replicas: nonzero((total - available).max(0)),
            terminating_replicas: Some(terminating),
            collision_count: before.collision_count,
            conditions: before.conditions,
        }
    }

    fn replica_failure(&self, status: &mut DeploymentStatus, new: Option<&ReplicaSet>, now: Timestamp) {
        let failing = |set: &ReplicaSet| {
            let conditions = set.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
        };
        let failure = new.and_then(failing).or_else(|| self.sets.iter().find_map(|set| failing(set)));
        match failure {
            Some(condition) => {
                let (reason, message) = (condition.reason.unwrap_or_default(), condition.message.unwrap_or_default());
                set_condition(status, "ReplicaFailure", &condition.status, &reason, &message, now);
            }
            None => {
                if let Some(conditions) = &mut status.conditions {
                    conditions.retain(|condition| condition.type_ != "ReplicaFailure");
                }
            }
        }
    }

    /// Keeps the condition `Progressing`; when to look again if nothing happens.
    fn progress(
        &self,
        status: &mut DeploymentStatus,
        before: &DeploymentStatus,
        new: Option<&ReplicaSet>,
        now: Timestamp,
    ) -> Option<Duration> {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let deadline = i64::from(spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?);
        let current = status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing").cloned();
        let done_before = current.as_ref().is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
        let name = new.and_then(|set| set.metadata.name.clone());
        let what =
            name.map_or_else(|| format!("Deployment {:?}", self.key.name), |name| format!("ReplicaSet {name:?}"));
        let settled = status.replicas == status.updated_replicas && done_before;
        if settled && is_complete(&self.deployment, status) {
            return None;
        }
        if is_complete(&self.deployment, status) {
            let message = format!("{what} has successfully progressed.");
            set_condition(status, "Progressing", "True", "NewReplicaSetAvailable", &message, now);
            return None;
        }
        let unavailable_now = rollout::total(&self.sets) - status.available_replicas.unwrap_or(0);
        let n = |value: Option<i32>| value.unwrap_or(0);
        let unavailable_before = n(before.unavailable_replicas);
        let progressing = n(status.updated_replicas) > n(before.updated_replicas)
            || (n(before.replicas) - n(before.updated_replicas)) > (n(status.replicas) - n(status.updated_replicas))
            || n(status.ready_replicas) > n(before.ready_replicas)
            || n(status.available_replicas) > n(before.available_replicas)
            || unavailable_now < unavailable_before;
        let paused = spec.paused == Some(true);
        if progressing || current.is_none() {
            let message = format!("{what} is progressing.");
            if let Some(conditions) = &mut status.conditions {
                if progressing && current.as_ref().is_some_and(|c| c.status == "True") {
                    // Every step of progress restarts the deadline, although the condition stays true.
                    for condition in conditions.iter_mut().filter(|c| c.type_ == "Progressing") {
                        condition.last_update_time = Some(Time(seconds(now)));
                        condition.reason = Some("ReplicaSetUpdated".into());
                        condition.message = Some(message.clone());
                    }
                }
            }
            set_condition(status, "Progressing", "True", "ReplicaSetUpdated", &message, now);
        } else if let Some(condition) = &current {
            let since = condition.last_update_time.as_ref().map_or(now, |time| time.0);
            let over = now.as_second() - since.as_second() >= deadline;
            let waiting = !paused && !done_before && condition.reason.as_deref() != Some("ProgressDeadlineExceeded");
            if over && waiting {
                let message = format!("{what} has timed out progressing.");
                set_condition(status, "Progressing", "False", "ProgressDeadlineExceeded", &message, now);
                return None;
            }
        }
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing")?;
        if paused || condition.reason.as_deref() == Some("ProgressDeadlineExceeded") {
            return None;
        }
        let since = condition.last_update_time.as_ref().map_or(now, |time| time.0);
        let left = deadline - (now.as_second() - since.as_second()) + 1;
        Some(Duration::from_secs(u64::try_from(left.max(1)).unwrap_or(1)))
    }
}

pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = rollout::replicas(deployment);
    let n = |value: Option<i32>| value.unwrap_or(0);
    n(status.updated_replicas) == wanted
        && n(status.replicas) == wanted
        && n(status.available_replicas) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Changes a condition only if its status or reason differ, as upstream does; the transition time follows the status.
/// Changes a condition only if its status or reason differ, as upstream does; the transition time follows the status.
fn set_condition(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let now = Time(seconds(now));
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == kind);
    let mut transition = now.clone();
    if let Some(at) = known {
        let condition = &conditions[at];
        if condition.status == value && condition.reason.as_deref() == Some(reason) {
            return;
        }
        if condition.status == value {
            transition = condition.last_transition_time.clone().unwrap_or(transition);
        }
        conditions.remove(at);
    }
    conditions.push(DeploymentCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(now),
        last_transition_time: Some(transition),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_transition_while_its_status_stays() {
        let mut status = DeploymentStatus::default();
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        set_condition(&mut status, "Progressing", "True", "A", "m", at(10));
        set_condition(&mut status, "Progressing", "True", "A", "other", at(20));
        set_condition(&mut status, "Progressing", "True", "B", "m", at(30));
        let condition = &status.conditions.expect("there")[0];
        assert_eq!(condition.last_transition_time.as_ref().map(|t| t.0), Some(at(10)));
        assert_eq!(condition.last_update_time.as_ref().map(|t| t.0), Some(at(30)));
    }
}
