//! The loop of one pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use component_base::Backoff;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tracing::info;

use super::backoff::BackoffMap;
use super::{Input, Shared, Slot};
use crate::containers::text;
use crate::runtime::PodRuntime;
use crate::status::generate::{Observed, Verdict, Waiting, generate};

/// Retries after something outside the pod failed.
pub(super) const RETRY: Backoff = Backoff::new(Duration::from_millis(500), 2, Duration::from_secs(20));

/// Sandboxes that end by themselves.
const SANDBOX_RETRY: Backoff = Backoff::new(Duration::from_secs(1), 2, Duration::from_secs(60));

/// What to do after a step.
pub(super) enum Step {
    Again,
    /// Until something changes, or this long.
    Wait(Option<Duration>),
    Done,
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<Slot>,
    /// Why containers do not run, by name.
    pub(super) waiting: BTreeMap<String, Waiting>,
    pub(super) crashes: BackoffMap,
    /// Sandboxes that had to be made again.
    pub(super) sandboxes: BackoffMap,
    pub(super) failures: u32,
    pub(super) verdict: Option<Verdict>,
    /// All containers ended for good.
    pub(super) terminal: bool,
    pub(super) stopped: bool,
    pub(super) released: bool,
    /// The start time shown, kept until the API server shows it too.
    pub(super) started_at: Option<Timestamp>,
    pub(super) last_status: Option<PodStatus>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, slot: Arc<Slot>) -> Self {
        Self {
            shared,
            slot,
            waiting: BTreeMap::new(),
            crashes: BackoffMap::new(Backoff::CRASH_LOOP),
            sandboxes: BackoffMap::new(SANDBOX_RETRY),
            failures: 0,
            verdict: None,
            terminal: false,
            stopped: false,
            released: false,
            started_at: None,
            last_status: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let input = self.slot.input.lock().clone();
            let phase = input.pod.status.as_ref().and_then(|s| s.phase.as_deref());
            self.terminal |= matches!(phase, Some("Succeeded" | "Failed"));
            if self.verdict.is_none() {
                self.verdict.clone_from(&input.verdict);
            }
            let step = if self.terminal || self.verdict.is_some() || input.must_end() {
                self.end(&input).await
            } else {
                let slot = self.slot.clone();
                match slot.ending.run_until_cancelled(self.sync(&input.pod)).await {
                    Some(step) => step,
                    None => {
                        info!(pod = %input.pod.metadata.name.clone().unwrap_or_default(), "pod is to end");
                        Step::Again
                    }
                }
            };
            match step {
                Step::Done => return,
                Step::Again => {}
                Step::Wait(None) => self.slot.changed.notified().await,
                Step::Wait(Some(wait)) => {
                    tokio::select! {
                        () = self.shared.clock.sleep(wait) => {}
                        () = self.slot.changed.notified() => {}
                    }
                }
            }
        }
    }

    /// The wait before the next try after a failure.
    pub(super) fn retry(&mut self) -> Step {
        let wait = RETRY.delay(self.failures);
        self.failures += 1;
        Step::Wait(Some(wait))
    }

    /// Makes the status and has it sent.
    pub(super) fn report(&mut self, pod: &Pod, runtime: &PodRuntime, finished: bool) -> PodStatus {
        let shared = self.shared.clone();
        let mut seen = pod.clone();
        // What was reported last may be newer than what the informer has shown us.
        if let Some(last) = &self.last_status {
            let status = seen.status.get_or_insert_default();
            let foreign: Vec<_> = status
                .conditions
                .take()
                .into_iter()
                .flatten()
                .filter(|c| !crate::status::conditions::OWNED.contains(&c.type_.as_str()))
                .collect();
            let phase = status.phase.clone();
            *status = last.clone();
            if matches!(phase.as_deref(), Some("Succeeded" | "Failed")) {
                status.phase = phase;
            }
            let own = status.conditions.take().into_iter().flatten();
            let own = own.filter(|c| crate::status::conditions::OWNED.contains(&c.type_.as_str()));
            status.conditions = Some(own.chain(foreign).collect());
        }
        let probed = shared.probes.probed(pod, runtime);
        let host_ips = shared.host_ips();
        let status = generate(&Observed {
            pod: &seen,
            runtime,
            waiting: &self.waiting,
            probed: &probed,
            host_ips: &host_ips,
            verdict: self.verdict.as_ref(),
            finished,
            now: shared.clock.now(),
        });
        self.started_at = status.start_time.as_ref().map(|t| t.0);
        self.last_status = Some(status.clone());
        shared.status.set(pod, status.clone());
        status
    }

    pub(super) fn input(&self) -> Input {
        self.slot.input.lock().clone()
    }

    pub(super) fn uid(pod: &Pod) -> &str {
        text(&pod.metadata.uid)
    }
}
