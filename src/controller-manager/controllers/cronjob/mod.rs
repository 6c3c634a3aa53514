//! CronJobs: a Job whenever the schedule is due.
//!
//! Watches CronJobs and Jobs. Writes Jobs, CronJob status, events SuccessfulCreate, SuccessfulDelete, SawCompletedJob,
//! MissingJob, JobAlreadyActive, MissSchedule, TooManyMissedTimes, FailedCreate, UnknownTimeZone, UnparseableSchedule.
//!
//! Invariants:
//! - CJ-1: one Job per due time: its name is made of the time. Nothing is polled; the next time is waited for.

pub mod schedule;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use self::schedule::Schedule;
use crate::error::{Error, exists_is_fine, gone_is_fine};
use crate::manager::{Context, Controller};
use crate::owners::{controller_of, controller_reference, is_controlled_by};
use crate::podcontrol::text;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a word.
const MANY: usize = 100;

struct CronJobs {
    client: Client,
    clock: SharedClock,
    events: EventRecorder,
    queue: WorkQueue<ObjectKey>,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = CronJobs {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        events: cx.recorder("cronjob-controller"),
        queue: cx.queue(),
        crons: cx.informers.of(),
        jobs: cx.informers.of(),
    };
    let queue = this.queue.clone();
    this.crons.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let queue = this.queue.clone();
    this.jobs.on_change(move |change| {
        let meta = &change.object().metadata;
        if let Some(owner) = controller_of(meta).filter(|owner| owner.kind == "CronJob") {
            queue.add(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()));
        }
    });
    Arc::new(this)
}

fn finished(job: &Job) -> Option<&'static str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let is = |kind: &str| conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True");
    if is("Complete") { Some("Complete") } else { is("Failed").then_some("Failed") }
}

/// The latest due time that was not met yet, how many were missed, and the next one.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    last: Option<Timestamp>,
    missed: usize,
    next: Option<Timestamp>,
}

fn due(cron: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Due {
    let status = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let created = cron.metadata.creation_timestamp.as_ref();
    let mut earliest = status.or(created).map_or(now, |time| time.0);
    let deadline = cron.spec.starting_deadline_seconds;
    if let Some(oldest) = deadline.and_then(|s| Timestamp::from_second(now.as_second().saturating_sub(s)).ok()) {
        earliest = earliest.max(oldest);
    }
    let (mut last, mut missed) = (None, 0);
    let mut next = schedule.next(earliest, zone);
    while let Some(at) = next.filter(|at| *at <= now) {
        last = Some(at);
        missed += 1;
        // Long asleep: go on from near the end.
        let from = if missed == MANY + 1 { at.max(near(schedule, now)) } else { at };
        next = schedule.next(from, zone);
    }
    Due { last, missed, next }
}

fn near(schedule: &Schedule, now: Timestamp) -> Timestamp {
    let back = match schedule {
        Schedule::Every(_) => return Timestamp::MIN,
        Schedule::Fields { .. } => 3600,
    };
    Timestamp::from_second(now.as_second() - back).unwrap_or(now)
}

/// `<cron job>-<minutes since 1970>`.
fn job_for(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.clone().job_template;
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let stamp = at.to_zoned(zone.clone());
    let text = if stamp.offset().is_zero() {
        stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    } else {
        stamp.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    annotations.insert(SCHEDULED.into(), text);
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", at.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The finished jobs beyond the history limits, oldest first.
fn surplus(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = cron.spec.clone();
    let mut all = Vec::new();
    let limits = [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    for (kind, limit) in limits {
        let Some(limit) = limit else { continue };
        let mut of: Vec<_> = jobs.iter().filter(|job| finished(job) == Some(kind)).cloned().collect();
        of.sort_by_key(|job| {
            let started = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
            (started, job.metadata.name.clone())
        });
        of.truncate(of.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
        all.extend(of);
    }
    all
}

#[async_trait]
impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.crons.synced().await;
        self.jobs.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(cron) = self.crons.get(key) else { return Ok(None) };
        let mut jobs = self.jobs.list_in(&key.namespace);
        jobs.retain(|job| is_controlled_by(&job.metadata, cron.metadata.uid.as_ref()));
        let mut status = cron.status.clone().unwrap_or_default();
        for job in surplus(&cron, &jobs) {
            self.delete(&cron, &job).await?;
        }
        self.refresh(&cron, &jobs, &mut status);
        let again = self.run(key, &cron, &jobs, &mut status).await;
        let known = cron.status.clone().unwrap_or_default();
        if known != status {
            let changed = CronJob { status: Some(status), ..CronJob::clone(&cron) };
            let api = Api::<CronJob>::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
            gone_is_fine(written).map_err(Error::api(format!("write the status of cron job {key}")))?;
        }
        again
    }
}

impl CronJobs {
    fn event(&self, cron: &CronJob, kind: EventType, reason: &str, message: &str) {
        self.events.event(&object_reference(cron), kind, reason, message);
    }

    /// Which jobs are active, and when the last one succeeded.
    fn refresh(&self, cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) {
        let uid = |job: &Job| job.metadata.uid.clone();
        let mut active = Vec::new();
        for reference in status.active.take().unwrap_or_default() {
            let name = reference.name.clone().unwrap_or_default();
            match jobs.iter().find(|job| uid(job) == reference.uid) {
                Some(job) => {
                    if let Some(how) = finished(job) {
                        let message = format!("Saw completed job: {name}, condition: {how}");
                        self.event(cron, EventType::Normal, "SawCompletedJob", &message);
                    } else {
                        active.push(reference);
                    }
                }
                // Just created: the cache may not have it yet.
                None if self
                    .jobs
                    .get(&ObjectKey::new(cron.metadata.namespace.clone().unwrap_or_default(), &name))
                    .is_some() => {}
                None => {
                    let message = format!("Active job went missing: {name}");
                    self.event(cron, EventType::Normal, "MissingJob", &message);
                }
            }
        }
        for job in jobs.iter().filter(|job| finished(job).is_none()) {
            if !active.iter().any(|reference| reference.uid == uid(job)) {
                active.push(object_reference(job.as_ref()));
            }
        }
        status.active = (!active.is_empty()).then_some(active);
        let completed = |job: &Arc<Job>| {
            let done = job.status.as_ref()?.completion_time.clone();
            done.filter(|_| finished(job) == Some("Complete"))
        };
        let latest = jobs.iter().filter_map(completed).map(|time| time.0).max();
        let known = status.last_successful_time.as_ref().map(|time| time.0);
        status.last_successful_time = latest.max(known).map(Time);
    }

    async fn run(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> Result<Option<Duration>, Error> {
        let spec = cron.spec.clone();
        if cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
            return Ok(None);
        }
        let zone = match spec.time_zone.as_deref().map(TimeZone::get) {
            None => TimeZone::UTC,
            Some(Ok(zone)) => zone,
            Some(Err(_)) => {
                let name = spec.time_zone.unwrap_or_default();
                let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                self.event(cron, EventType::Warning, "UnknownTimeZone", &message);
                return Ok(None);
            }
        };
        let Some(schedule) = Schedule::parse(&spec.schedule) else {
            let message = format!("unparseable schedule: {:?}", spec.schedule);
            self.event(cron, EventType::Warning, "UnparseableSchedule", &message);
            return Ok(None);
        };
        let now = self.clock.now();
        let due = due(cron, &schedule, &zone, now);
        // A little late is on time; early would be another look for nothing.
        let wait = due.next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
        let wait = wait.map(|wait| wait + Duration::from_millis(100));
        if due.missed > MANY {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.event(cron, EventType::Warning, "TooManyMissedTimes", message);
        }
        let Some(at) = due.last else { return Ok(wait) };
        let job = job_for(cron, at, &zone);
        let name = job.metadata.name.clone().unwrap_or_default();
        if jobs.iter().any(|job| job.metadata.name.as_deref() == Some(&name)) {
            status.last_schedule_time = Some(Time(at));
            return Ok(wait);
        }
        let active: Vec<Arc<Job>> = jobs.iter().filter(|job| finished(job).is_none()).cloned().collect();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.event(cron, EventType::Normal, "JobAlreadyActive", message);
                return Ok(wait);
            }
            Some("Replace") => {
                for job in &active {
                    self.delete(cron, job).await?;
                }
                status.active = None;
            }
            _ => {}
        }
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        match exists_is_fine(api.create(&PostParams::default(), &job).await) {
            Ok(Some(created)) => {
                self.event(cron, EventType::Normal, "SuccessfulCreate", &format!("Created job {name}"));
                status.active.get_or_insert_default().push(object_reference(&created));
            }
            Ok(None) => {}
            Err(error) => {
                self.event(cron, EventType::Warning, "FailedCreate", &format!("Error creating job: {}", text(&error)));
                return Err(Error::api(format!("create job {}/{name}", key.namespace))(error));
            }
        }
        status.last_schedule_time = Some(Time(at));
        Ok(wait)
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let key = ObjectKey::of(job);
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        let deleted = api.delete(&key.name, &DeleteParams::background()).await.map(|_| ());
        if gone_is_fine(deleted).map_err(Error::api(format!("delete job {key}")))?.is_some() {
            self.event(cron, EventType::Normal, "SuccessfulDelete", &format!("Deleted job {}", key.name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cron(extra: Value) -> CronJob {
        let mut spec = json!({ "schedule": "*/10 * * * *", "jobTemplate": {}, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0 });
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(
            json!({ "metadata": { "name": "c", "creationTimestamp": "2026-01-01T00:05:00Z" }, "spec": spec }),
        )
        .expect("a cron job")
    }

    #[test]
    fn what_is_due() {
        let schedule = Schedule::parse("*/10 * * * *").expect("a schedule");
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let zone = TimeZone::UTC;
        let none = due(&cron(json!({})), &schedule, &zone, at("2026-01-01T00:06:00Z"));
        assert_eq!(none, Due { last: None, missed: 0, next: Some(at("2026-01-01T00:10:00Z")) });
        let two = due(&cron(json!({})), &schedule, &zone, at("2026-01-01T00:21:00Z"));
        assert_eq!(
            two,
            Due { last: Some(at("2026-01-01T00:20:00Z")), missed: 2, next: Some(at("2026-01-01T00:30:00Z")) }
        );
        let late = due(&cron(json!({ "startingDeadlineSeconds": 30 })), &schedule, &zone, at("2026-01-01T00:21:00Z"));
        assert_eq!((late.last, late.missed), (None, 0));
        let asleep = due(&cron(json!({})), &schedule, &zone, at("2026-03-01T00:21:00Z"));
        assert_eq!(asleep.last, Some(at("2026-03-01T00:20:00Z")));
        let job = job_for(&cron(json!({})), at("2026-01-01T00:20:00Z"), &zone);
        assert_eq!(job.metadata.name.as_deref(), Some("c-29453780"));
    }

    #[test]
    fn history_is_limited() {
        let job = |name: &str, kind: &str, start: &str| -> Arc<Job> {
            let status = json!({ "startTime": start, "conditions": [{ "type": kind, "status": "True" }] });
            Arc::new(serde_json::from_value(json!({ "metadata": { "name": name }, "status": status })).expect("a job"))
        };
        let jobs = [
            job("new", "Complete", "2026-01-01T00:20:00Z"),
            job("old", "Complete", "2026-01-01T00:10:00Z"),
            job("bad", "Failed", "2026-01-01T00:10:00Z"),
            job("runs", "Suspended", "2026-01-01T00:00:00Z"),
        ];
        let names: Vec<_> =
            surplus(&cron(json!({})), &jobs).iter().filter_map(|job| job.metadata.name.clone()).collect();
        assert_eq!(names, ["old", "bad"]);
    }
}
