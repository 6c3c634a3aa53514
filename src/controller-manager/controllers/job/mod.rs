//! Jobs: pods that run to completion, each counted exactly once.
//!
//! Watches Jobs and pods. Writes pods and their finalizer batch.kubernetes.io/job-tracking, Job status, events
//! SuccessfulCreate, SuccessfulDelete, Suspended, Resumed, Completed, and the reason of a failure.
//!
//! Invariants:
//! - JB-1: a finished pod loses its finalizer only after the written status names it; it is counted when it has lost it.
//! - JB-2: a finished Job changes no more.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use self::plan::{Counts, FINALIZER, INDEX, INDEX_FAILURES, PolicyAction, Verdict};
use crate::controllers::replicaset::victims;
use crate::error::{Error, gone_is_fine};
use crate::expectations::Expectations;
use crate::manager::{Context, Controller};
use crate::podcontrol::{self, Owner, PodControl, count, is_active, owner_key, phase, pod_from_template, ready_since};

const BURST: usize = 500;
const CREATED_BY: &str = "job-controller";
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";

impl Owner for Job {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref()?.selector.clone()
    }
}

struct Jobs {
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    jobs: Informer<Job>,
    control: PodControl,
    /// Uids of pods whose finalizer we removed and which the cache may still show with it.
    released: Arc<Mutex<HashMap<ObjectKey, HashSet<String>>>>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let control = PodControl {
        client: cx.client.clone(),
        events: cx.recorder(CREATED_BY),
        pods: cx.informers.of(),
        expectations: Arc::new(Expectations::new(cx.clock.clone())),
    };
    let this =
        Jobs { clock: cx.clock.clone(), queue: cx.queue(), jobs: cx.informers.of(), control, released: Arc::default() };
    podcontrol::watch(&this.jobs, &this.control.pods, &this.queue, &this.control.expectations);
    let (released, queue) = (this.released.clone(), this.queue.clone());
    this.control.pods.on_change(move |change| {
        let pod = change.object();
        let gone = matches!(change, Change::Deleted(_)) || !plan::has_finalizer(pod);
        if let (Some(owner), Some(uid), true) = (owner_key::<Job>(&pod.metadata), &pod.metadata.uid, gone) {
            let mut released = released.lock();
            if let Some(uids) = released.get_mut(&owner) {
                uids.remove(uid);
                if uids.is_empty() {
                    released.remove(&owner);
                }
            }
            queue.add(owner);
        } else if let (Some(namespace), true) = (&pod.metadata.namespace, plan::has_finalizer(pod)) {
            // Of no job: nobody will count it, so it must not be held.
            if crate::owners::controller_of(&pod.metadata).is_none() {
                queue.add(ObjectKey::new(namespace.clone(), format!("{ORPHAN}{}", ObjectKey::of(pod.as_ref()).name)));
            }
        }
    });
    Arc::new(this)
}

/// Marks keys that name a pod instead of a job.
const ORPHAN: &str = "pod:";

#[async_trait]
impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.jobs.synced().await;
        self.control.pods.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        if let Some(name) = key.name.strip_prefix(ORPHAN) {
            return self.release_orphan(&key.namespace, name).await.map(|()| None);
        }
        let Some(job) = self.jobs.get(key) else {
            self.control.expectations.forget(key);
            return self.release_all(key).await.map(|()| None);
        };
        let pods = self.control.claimed(job.as_ref()).await?;
        if plan::is_finished(&job) || job.metadata.deletion_timestamp.is_some() {
            let held: Vec<&Arc<Pod>> = pods.iter().filter(|pod| plan::has_finalizer(pod)).collect();
            return self.release(key, &held).await.map(|()| None);
        }
        // Another controller has it.
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != "kubernetes.io/job-controller") {
            return Ok(None);
        }
        self.sync(key, &job, pods).await
    }
}

/// What one look at the pods changes in the status.
struct Tally {
    status: JobStatus,
    counts: Counts,
    /// To lose their finalizer once the status is written.
    release: Vec<Arc<Pod>>,
}

fn tally(job: &Job, pods: &[Arc<Pod>], released: &HashSet<String>, ending: bool) -> Tally {
    let mut status = job.status.clone().unwrap_or_default();
    let spec = plan::spec(job);
    let indexed = plan::is_indexed(job);
    let mut counts = Counts {
        completed: plan::parse_indexes(status.completed_indexes.as_deref()),
        failed_indexes: plan::parse_indexes(status.failed_indexes.as_deref()),
        ..Counts::default()
    };
    let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
    let held: BTreeMap<String, &Arc<Pod>> = pods
        .iter()
        .filter(|pod| plan::has_finalizer(pod) && !released.contains(&uid(pod)))
        .map(|pod| (uid(pod), pod))
        .collect();
    let mut waiting = status.uncounted_terminated_pods.take().unwrap_or_default();
    // Named by the status before, and without their finalizer now: counted.
    let settle = |list: &mut Option<Vec<String>>| {
        let before = list.as_ref().map_or(0, Vec::len);
        if let Some(uids) = list {
            uids.retain(|uid| held.contains_key(uid));
        }
        count(before - list.as_ref().map_or(0, Vec::len))
    };
    let settled = (settle(&mut waiting.succeeded), settle(&mut waiting.failed));
    let failed = status.failed.unwrap_or(0) + settled.1;
    let mut succeeded = status.succeeded.unwrap_or(0) + settled.0;
    let named: HashSet<String> = waiting.succeeded.iter().chain(&waiting.failed).flatten().cloned().collect();
    let mut release = Vec::new();
    for (uid, pod) in &held {
        let has_failed = plan::has_failed(job, pod) || (ending && !matches!(phase(pod), "Succeeded"));
        let index = plan::index_of(pod).filter(|index| *index < spec.completions.unwrap_or(0));
        if named.contains(uid) {
            release.push((*pod).clone());
        } else if phase(pod) == "Succeeded" {
            release.push((*pod).clone());
            match (indexed, index) {
                (true, Some(index)) => {
                    counts.completed.insert(index);
                }
                (true, None) => {}
                _ => waiting.succeeded.get_or_insert_default().push(uid.clone()),
            }
        } else if has_failed {
            // A pod that the job's end deletes is waited for: its containers may still run.
            if ending && phase(pod) != "Failed" && pod.metadata.deletion_timestamp.is_none() {
                continue;
            }
            release.push((*pod).clone());
            let action = plan::failure_policy(job, pod);
            if let (PolicyAction::FailJob(message), None) = (&action, &counts.fail_job) {
                counts.fail_job = Some(message.clone());
            }
            if action == PolicyAction::Ignore || (indexed && index.is_none()) {
                continue;
            }
            waiting.failed.get_or_insert_default().push(uid.clone());
            if let (Some(limit), Some(index)) = (spec.backoff_limit_per_index, index) {
                if action == PolicyAction::FailIndex || plan::index_failures(pod) >= limit {
                    counts.failed_indexes.insert(index);
                }
            }
        }
    }
    if indexed {
        succeeded = count(counts.completed.len());
    }
    counts.failed_indexes.retain(|index| !counts.completed.contains(index));
    counts.succeeded = succeeded + count(waiting.succeeded.as_ref().map_or(0, Vec::len));
    counts.failed = failed + count(waiting.failed.as_ref().map_or(0, Vec::len));
    counts.active = pods.iter().filter(|pod| is_active(pod)).count();
    let going =
        |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_some() && !matches!(phase(pod), "Succeeded" | "Failed");
    counts.terminating = pods.iter().filter(going).count();
    let containers = pods.iter().filter(|pod| matches!(phase(pod), "Running" | "Pending")).flat_map(|pod| &pod.status);
    counts.restarts = containers
        .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten())
        .map(|container| container.restart_count)
        .sum();
    let nonzero = |n: i32| (n != 0).then_some(n);
    status.succeeded = nonzero(succeeded);
    status.failed = nonzero(failed);
    status.completed_indexes =
        (indexed && !counts.completed.is_empty()).then(|| plan::format_indexes(&counts.completed));
    status.failed_indexes = spec.backoff_limit_per_index.map(|_| plan::format_indexes(&counts.failed_indexes));
    waiting.succeeded = waiting.succeeded.filter(|uids| !uids.is_empty());
    waiting.failed = waiting.failed.filter(|uids| !uids.is_empty());
    status.uncounted_terminated_pods = Some(waiting);
    status.active = nonzero(count(counts.active));
    status.terminating = Some(count(counts.terminating));
    let ready = pods.iter().filter(|pod| is_active(pod) && ready_since(pod).is_some()).count();
    status.ready = Some(count(ready));
    Tally { status, counts, release }
}

impl Jobs {
    async fn sync(&self, key: &ObjectKey, job: &Arc<Job>, pods: Vec<Arc<Pod>>) -> Result<Option<Duration>, Error> {
        let now = self.clock.now();
        let spec = plan::spec(job);
        let suspended = spec.suspend == Some(true);
        let released = self.released.lock().get(key).cloned().unwrap_or_default();
        let ending =
            plan::condition(job, "FailureTarget").is_some() || plan::condition(job, "SuccessCriteriaMet").is_some();
        let Tally { mut status, counts, release } = tally(job, &pods, &released, ending);
        let about = object_reference(job.as_ref());
        let event = |kind, reason: &str, message: &str| self.control.events.event(&about, kind, reason, message);
        if status.start_time.is_none() && !suspended {
            status.start_time = Some(Time(now));
        }
        let settled = self.control.expectations.met(key);
        let verdict = plan::verdict(job, &counts, now);
        let mut conditions = status.conditions.take().unwrap_or_default();
        let mut failure = None;
        let mut again = plan::deadline(job, now);
        if status.start_time.is_some() && job.status.as_ref().is_none_or(|status| status.start_time.is_none()) {
            again = spec.active_deadline_seconds.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0)));
        }
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let (mut deleting, mut creating) = (Vec::new(), Vec::new());
        match &verdict {
            Verdict::Goes if suspended => {
                deleting.clone_from(&active);
                if plan::set_condition(&mut conditions, "Suspended", "True", "JobSuspended", "Job suspended", now) {
                    event(EventType::Normal, "Suspended", "Job suspended");
                }
                again = None;
            }
            Verdict::Goes => {
                if plan::set_condition(&mut conditions, "Suspended", "False", "JobResumed", "Job resumed", now) {
                    event(EventType::Normal, "Resumed", "Job resumed");
                    status.start_time = Some(Time(now));
                }
                (deleting, creating) = self.balance(job, &pods, &active, &counts);
                let wait = plan::backoff(&pods, job, now);
                if !creating.is_empty() && !wait.is_zero() {
                    creating.clear();
                    again = Some(again.map_or(wait, |again| again.min(wait)));
                }
            }
            Verdict::Fails(..) | Verdict::Succeeds(..) => deleting.clone_from(&active),
        }
        let (announced, finished) = match &verdict {
            Verdict::Goes => (None, false),
            Verdict::Fails(reason, message) => (Some(("FailureTarget", "Failed", *reason, message)), true),
            Verdict::Succeeds(reason, message) => (Some(("SuccessCriteriaMet", "Complete", *reason, message)), true),
        };
        if let Some((target, last, reason, message)) = announced {
            plan::set_condition(&mut conditions, target, "True", reason, message, now);
            let waiting = status.uncounted_terminated_pods.as_ref();
            let uncounted = waiting.is_some_and(|waiting| waiting.succeeded.is_some() || waiting.failed.is_some());
            // The end is said when no pod runs any more and all are counted.
            if ending && finished && counts.active == 0 && counts.terminating == 0 && !uncounted {
                plan::set_condition(&mut conditions, last, "True", reason, message, now);
                status.active = None;
                status.ready = Some(0);
                if last == "Complete" {
                    status.completion_time = Some(Time(now));
                    event(EventType::Normal, "Completed", "Job completed");
                } else {
                    event(EventType::Warning, reason, message);
                }
            }
        }
        status.conditions = (!conditions.is_empty()).then_some(conditions);
        if job.status.as_ref() != Some(&status) {
            let changed = Job { status: Some(status), ..Job::clone(job) };
            let api = Api::<Job>::namespaced(self.control.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
            gone_is_fine(written).map_err(Error::api(format!("write the status of job {key}")))?;
        }
        // JB-1: only now.
        let release: Vec<&Arc<Pod>> = release.iter().collect();
        self.release(key, &release).await?;
        if settled {
            creating.truncate(BURST);
            deleting.truncate(BURST);
            if !deleting.is_empty() {
                if verdict == Verdict::Goes {
                    // Pods that we take away ourselves are no failures.
                    let uncounted: Vec<&Arc<Pod>> = deleting.iter().filter(|pod| plan::has_finalizer(pod)).collect();
                    self.release(key, &uncounted).await?;
                }
                failure = self.control.delete(job.as_ref(), &deleting).await.err();
            }
            if !creating.is_empty() && failure.is_none() {
                failure = self.control.create(job.as_ref(), &creating).await.err();
            }
        }
        failure.map_or(Ok(again), |failure| Err(failure.error))
    }

    /// The pods that are too many, and those that lack.
    fn balance(&self, job: &Job, pods: &[Arc<Pod>], active: &[Arc<Pod>], counts: &Counts) -> (Vec<Arc<Pod>>, Vec<Pod>) {
        let spec = plan::spec(job);
        let wanted = plan::wanted(&spec, counts);
        let indexed = plan::is_indexed(job);
        let mut extra = Vec::new();
        let mut taken = BTreeSet::new();
        if indexed {
            // One pod an index, and only indexes that there are.
            for pod in active {
                match plan::index_of(pod) {
                    Some(i)
                        if i < spec.completions.unwrap_or(0) && !counts.completed.contains(&i) && taken.insert(i) => {}
                    _ => extra.push(pod.clone()),
                }
            }
        }
        let kept: Vec<Arc<Pod>> =
            active.iter().filter(|pod| !extra.iter().any(|other| Arc::ptr_eq(pod, other))).cloned().collect();
        if kept.len() > wanted {
            let now = self.clock.now();
            extra.extend(victims(&kept, kept.len() - wanted, pods, now));
            return (extra, Vec::new());
        }
        let going = if plan::only_failed_are_replaced(job) {
            let leaving = pods.iter().filter(|pod| {
                pod.metadata.deletion_timestamp.is_some() && !matches!(phase(pod), "Succeeded" | "Failed")
            });
            taken.extend(leaving.clone().filter_map(|pod| plan::index_of(pod)));
            leaving.count()
        } else {
            0
        };
        let lacking = wanted.saturating_sub(kept.len() + going);
        let created = if indexed {
            let indexes = plan::next_indexes(&spec, counts, &taken, lacking);
            indexes.into_iter().map(|index| indexed_pod(job, pods, index)).collect()
        } else {
            vec![new_pod(job); lacking]
        };
        (extra, created)
    }

    /// Takes the finalizer from the pods, and remembers that until the cache shows it.
    async fn release(&self, key: &ObjectKey, pods: &[&Arc<Pod>]) -> Result<(), Error> {
        for pod in pods {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let known = self.released.lock().get(key).is_some_and(|uids| uids.contains(&uid));
            if known {
                continue;
            }
            self.released.lock().entry(key.clone()).or_default().insert(uid.clone());
            if let Err(error) = self.unhold(pod).await {
                if let Some(uids) = self.released.lock().get_mut(key) {
                    uids.remove(&uid);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn unhold(&self, pod: &Pod) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        let api = Api::<Pod>::namespaced(self.control.client.clone(), &key.namespace);
        let patch = Patch::Strategic(json!({ "metadata": {
            "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER],
        } }));
        let patched = api.patch(&key.name, &PatchParams::default(), &patch).await;
        match gone_is_fine(patched) {
            // Another pod of that name is not ours to touch.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(|_| ()).map_err(Error::api(format!("release pod {key} from its job"))),
        }
    }

    async fn release_orphan(&self, namespace: &str, name: &str) -> Result<(), Error> {
        match self.control.pods.get(&ObjectKey::new(namespace, name)) {
            Some(pod) if plan::has_finalizer(&pod) && crate::owners::controller_of(&pod.metadata).is_none() => {
                self.unhold(&pod).await
            }
            _ => Ok(()),
        }
    }

    /// The job is gone: its pods are held by nobody.
    async fn release_all(&self, key: &ObjectKey) -> Result<(), Error> {
        let pods = self.control.pods.list_in(&key.namespace);
        for pod in pods.iter().filter(|pod| plan::has_finalizer(pod)) {
            if owner_key::<Job>(&pod.metadata).as_ref() == Some(key) {
                self.unhold(pod).await?;
            }
        }
        self.released.lock().remove(key);
        Ok(())
    }
}

fn new_pod(job: &Job) -> Pod {
    let mut pod = pod_from_template(job, &plan::spec(job).template);
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    pod
}

fn indexed_pod(job: &Job, pods: &[Arc<Pod>], index: i32) -> Pod {
    let mut pod = new_pod(job);
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let text = index.to_string();
    pod.metadata.generate_name = Some(podcontrol::generate_name(&format!("{name}-{index}")));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), text.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), text);
    if plan::spec(job).backoff_limit_per_index.is_some() {
        let before = pods.iter().filter(|pod| plan::index_of(pod) == Some(index) && plan::has_failed(job, pod));
        let counted = before.filter(|pod| plan::failure_policy(job, pod) != PolicyAction::Ignore);
        let failures = counted.map(|pod| plan::index_failures(pod) + 1).max().unwrap_or(0);
        annotations.insert(INDEX_FAILURES.into(), failures.to_string());
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname =
            Some(format!("{}-{index}", name.get(..name.len().min(61 - index.to_string().len())).unwrap_or(name)));
        let inits = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(inits) {
            add_index_env(container);
        }
    }
    pod
}

fn add_index_env(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|var| var.name == INDEX_ENV) {
        return;
    }
    let field_ref = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let value_from = Some(EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() });
    env.push(EnvVar { name: INDEX_ENV.into(), value: None, value_from });
}
