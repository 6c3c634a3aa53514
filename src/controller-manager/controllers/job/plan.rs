//! What a Job's pods mean: which count, which conditions follow, how many more are wanted. Pure.
//!
//! Invariants:
//! - JP-1: a finished condition is only ever preceded by its announcement (SuccessCriteriaMet, FailureTarget).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::podcontrol::phase;

pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// The first wait after a failure, and the longest.
const BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(600);

pub fn spec(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

pub fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.completion_mode.as_deref() == Some("Indexed"))
}

pub fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

pub fn is_finished(job: &Job) -> bool {
    condition(job, "Complete").is_some() || condition(job, "Failed").is_some()
}

pub fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER)
}

pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

pub fn index_failures(pod: &Pod) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|all| all.get(INDEX_FAILURES));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A pod may be replaced only when it has failed, not already when it is going.
pub fn only_failed_are_replaced(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| {
        spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed")
    })
}

pub fn has_failed(job: &Job, pod: &Pod) -> bool {
    phase(pod) == "Failed"
        || (!only_failed_are_replaced(job) && pod.metadata.deletion_timestamp.is_some() && phase(pod) != "Succeeded")
}

/// `1,3-5,7` and back.
pub fn parse_indexes(text: Option<&str>) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first..=last);
        }
    }
    all
}

pub fn format_indexes(all: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in all {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let run = |(first, last): (i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(",")
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyAction {
    Count,
    Ignore,
    FailIndex,
    FailJob(String),
}

/// What the pod failure policy says of a failed pod.
pub fn failure_policy(job: &Job, pod: &Pod) -> PolicyAction {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    for (at, rule) in policy.into_iter().flat_map(|policy| &policy.rules).enumerate() {
        let Some(message) = rule_matches(rule, pod, at) else { continue };
        return match rule.action.as_str() {
            "FailJob" => PolicyAction::FailJob(message),
            "Ignore" => PolicyAction::Ignore,
            "FailIndex" => PolicyAction::FailIndex,
            _ => PolicyAction::Count,
        };
    }
    PolicyAction::Count
}

fn rule_matches(rule: &k8s_openapi::api::batch::v1::PodFailurePolicyRule, pod: &Pod, at: usize) -> Option<String> {
    let status = pod.status.as_ref()?;
    let (namespace, name) = (pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
    let action = &rule.action;
    if let Some(wanted) = &rule.on_exit_codes {
        let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for container in containers {
            if wanted.container_name.as_ref().is_some_and(|name| *name != container.name) {
                continue;
            }
            let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
            let Some(code) = ended.map(|ended| ended.exit_code).filter(|code| *code != 0) else { continue };
            let listed = wanted.values.contains(&code);
            if listed == (wanted.operator == "In") {
                let container = &container.name;
                return Some(format!(
                    "Container {container} for pod {namespace}/{name} failed with exit code {code} matching {action} rule at index {at}"
                ));
            }
        }
        return None;
    }
    for wanted in rule.on_pod_conditions.iter().flatten() {
        let status_wanted = wanted.status.as_deref().unwrap_or("True");
        let mut has = status.conditions.iter().flatten();
        if has.any(|has| has.type_ == wanted.type_ && has.status == status_wanted) {
            let kind = &wanted.type_;
            return Some(format!("Pod {namespace}/{name} has condition {kind} matching {action} rule at index {at}"));
        }
    }
    None
}

/// What the controller counts, once it has looked at all pods.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub active: usize,
    pub terminating: usize,
    pub succeeded: i32,
    pub failed: i32,
    /// Restarts of containers of pods that are not finished.
    pub restarts: i32,
    pub completed: BTreeSet<i32>,
    pub failed_indexes: BTreeSet<i32>,
    /// The message of the first pod that fails the job by policy.
    pub fail_job: Option<String>,
}

/// Why a job ends: reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Goes,
    Fails(&'static str, String),
    Succeeds(&'static str, String),
}

pub fn verdict(job: &Job, counts: &Counts, now: Timestamp) -> Verdict {
    if let Some(target) = condition(job, "FailureTarget") {
        return Verdict::Fails(known_reason(target), target.message.clone().unwrap_or_default());
    }
    if let Some(met) = condition(job, "SuccessCriteriaMet") {
        return Verdict::Succeeds(known_reason(met), met.message.clone().unwrap_or_default());
    }
    let spec = spec(job);
    let suspended = spec.suspend == Some(true);
    if let Some(message) = &counts.fail_job {
        return Verdict::Fails("PodFailurePolicy", message.clone());
    }
    let limit = spec.backoff_limit.unwrap_or(i32::MAX);
    let on_failure = spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref()) == Some("OnFailure");
    let restarted_out = on_failure && counts.restarts > 0 && counts.restarts >= limit;
    if counts.failed > limit || restarted_out {
        return Verdict::Fails("BackoffLimitExceeded", "Job has reached the specified backoff limit".into());
    }
    if deadline(job, now) == Some(Duration::ZERO) && !suspended {
        return Verdict::Fails("DeadlineExceeded", "Job was active longer than specified deadline".into());
    }
    if spec.max_failed_indexes.is_some_and(|most| counts.failed_indexes.len() as i64 > i64::from(most)) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Verdict::Fails("MaxFailedIndexesExceeded", message.into());
    }
    if let Some(at) = success_rule(&spec, counts) {
        return Verdict::Succeeds("SuccessPolicy", format!("Matched rules at index {at}"));
    }
    let reached = "Reached expected number of succeeded pods";
    match spec.completions {
        None if counts.succeeded > 0 && counts.active == 0 => Verdict::Succeeds("CompletionsReached", reached.into()),
        Some(wanted) if counts.succeeded >= wanted => Verdict::Succeeds("CompletionsReached", reached.into()),
        Some(wanted)
            if spec.backoff_limit_per_index.is_some()
                && !counts.failed_indexes.is_empty()
                && (counts.failed_indexes.len() + counts.completed.len()) as i64 >= i64::from(wanted) =>
        {
            Verdict::Fails("FailedIndexes", "Job has failed indexes".into())
        }
        _ => Verdict::Goes,
    }
}

fn known_reason(condition: &JobCondition) -> &'static str {
    const REASONS: &[&str] = &[
        "PodFailurePolicy",
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
        "SuccessPolicy",
        "CompletionsReached",
    ];
    REASONS.iter().find(|reason| condition.reason.as_deref() == Some(**reason)).copied().unwrap_or_default()
}

fn success_rule(spec: &JobSpec, counts: &Counts) -> Option<usize> {
    spec.success_policy.as_ref()?.rules.iter().position(|rule| {
        let of = rule.succeeded_indexes.as_deref().map(|text| parse_indexes(Some(text)));
        let got = match &of {
            Some(of) => of.intersection(&counts.completed).count(),
            None => counts.completed.len(),
        };
        let needed = rule.succeeded_count.and_then(|count| usize::try_from(count).ok());
        match (needed, of) {
            (Some(needed), _) => got >= needed,
            (None, Some(of)) => got >= of.len(),
            (None, None) => false,
        }
    })
}

/// How long until the active deadline; zero: it has passed.
pub fn deadline(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.active_deadline_seconds?;
    let started = job.status.as_ref()?.start_time.as_ref()?.0;
    let left = started.as_millisecond() + seconds.saturating_mul(1000) - now.as_millisecond();
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

/// How many pods there should be now.
pub fn wanted(spec: &JobSpec, counts: &Counts) -> usize {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    match spec.completions {
        // The first success says that the work queue is empty: none are added.
        None if counts.succeeded > 0 => counts.active.min(parallelism),
        None => parallelism,
        Some(completions) => {
            let left = completions - counts.succeeded - i32::try_from(counts.failed_indexes.len()).unwrap_or(0);
            parallelism.min(usize::try_from(left).unwrap_or(0))
        }
    }
}

/// The indexes that have no pod yet, lowest first.
pub fn next_indexes(spec: &JobSpec, counts: &Counts, taken: &BTreeSet<i32>, most: usize) -> Vec<i32> {
    let free = |index: &i32| {
        !taken.contains(index) && !counts.completed.contains(index) && !counts.failed_indexes.contains(index)
    };
    (0..spec.completions.unwrap_or(0)).filter(free).take(most).collect()
}

/// How long to wait after the failures since the last success.
pub fn backoff(pods: &[Arc<Pod>], job: &Job, now: Timestamp) -> Duration {
    let finished = |pod: &Pod| -> Option<Timestamp> {
        let ends = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let ends = ends.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0));
        let changed = || {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().filter_map(|c| c.last_transition_time.as_ref().map(|time| time.0)).max()
        };
        let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        ends.max().or(deleted).or_else(changed).or(pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
    };
    let succeeded = pods.iter().filter(|pod| phase(pod) == "Succeeded").filter_map(|pod| finished(pod)).max();
    let failures: Vec<Timestamp> = pods
        .iter()
        .filter(|pod| has_failed(job, pod))
        .filter(|pod| failure_policy(job, pod) != PolicyAction::Ignore)
        .filter_map(|pod| finished(pod))
        .filter(|at| succeeded.is_none_or(|success| *at > success))
        .collect();
    let Some(last) = failures.iter().max() else { return Duration::ZERO };
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(10);
    let wait = (BACKOFF * 2_u32.pow(doublings)).min(MAX_BACKOFF);
    let passed = Duration::from_millis(u64::try_from(now.as_millisecond() - last.as_millisecond()).unwrap_or(0));
    wait.saturating_sub(passed)
}

/// Sets the condition; `true` when that changed it.
pub fn set_condition(
    all: &mut Vec<JobCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let next = JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match all.iter_mut().find(|condition| condition.type_ == kind) {
        Some(known) if known.status == status => false,
        Some(known) => {
            *known = next;
            true
        }
        // What never was need not be said to be false.
        None if status == "False" => false,
        None => {
            all.push(next);
            true
        }
    }
}
