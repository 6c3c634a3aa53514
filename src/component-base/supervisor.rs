//! Services and their supervisor: start in dependency order, restart what dies, stop in reverse.
//!
//! Invariants:
//! - SV-1: a service starts only when everything it depends on has reported ready.
//! - SV-2: a service that fails or panics is restarted with back-off and never takes another down;
//!   only a failure before its first ready ends the process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{Backoff, SharedClock, TaskGroup};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One component of the process.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Unique, lower case: it is in the logs and in `depends_on`.
    fn name(&self) -> &'static str;

    fn depends_on(&self) -> &'static [&'static str] {
        &[]
    }

    /// Runs until `cx.shutdown` is cancelled. Calls `cx.ready.set()` once it serves.
    /// An `Err` before ready is a start-up failure and ends the process with that message.
    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError>;
}

/// What a service is given for one run.
#[derive(Clone)]
pub struct ServiceContext {
    pub shutdown: CancellationToken,
    pub ready: Ready,
    pub clock: SharedClock,
}

/// Set once, when the service serves.
#[derive(Clone)]
pub struct Ready(Arc<watch::Sender<bool>>);

impl Ready {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub fn set(&self) {
        self.0.send_replace(true);
    }

    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    pub async fn wait(&self) {
        let mut seen = self.0.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = seen.wait_for(|ready| *ready).await;
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("service {service} depends on {missing}, which is not part of this process")]
    UnknownDependency { service: &'static str, missing: &'static str },
    #[error("{source}")]
    Start { service: &'static str, source: BoxError },
}

struct Entry {
    service: Arc<dyn Service>,
    ready: Ready,
    stopped: watch::Sender<bool>,
}

/// Owns the services of the process.
pub struct Supervisor {
    entries: Vec<Arc<Entry>>,
    clock: SharedClock,
}

impl Supervisor {
    pub fn new(clock: SharedClock) -> Self {
        Self { entries: Vec::new(), clock }
    }

    pub fn add(&mut self, service: impl Service) -> Ready {
        let ready = Ready::new();
        self.entries.push(Arc::new(Entry {
            service: Arc::new(service),
            ready: ready.clone(),
            stopped: watch::Sender::new(false),
        }));
        ready
    }

    /// Runs everything until `shutdown`, then stops dependents before what they depend on,
    /// giving up on stragglers after `grace`.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) -> Result<(), SupervisorError> {
        for entry in &self.entries {
            for missing in entry.service.depends_on() {
                if !self.entries.iter().any(|e| e.service.name() == *missing) {
                    return Err(SupervisorError::UnknownDependency { service: entry.service.name(), missing });
                }
            }
        }
        let group = TaskGroup::new();
        let (failed_tx, mut failed) = mpsc::channel(1);
        let started = self.clock.instant();
        for entry in &self.entries {
            let dependencies = self.related(|e| entry.service.depends_on().contains(&e.service.name()));
            let dependents = self.related(|e| e.service.depends_on().contains(&entry.service.name()));
            let (entry, clock, failed_tx, shutdown) =
                (entry.clone(), self.clock.clone(), failed_tx.clone(), shutdown.clone());
            group.spawn_graceful(async move {
                let stop = CancellationToken::new();
                // Stops this service once shutdown was asked for and everything above it is down.
                let stopper = async {
                    shutdown.cancelled().await;
                    join_all(dependents.iter().map(|e| wait_true(&e.stopped))).await;
                    stop.cancel();
                    std::future::pending::<()>().await
                };
                let life = keep_running(&entry, dependencies, stop.clone(), clock, started, failed_tx);
                tokio::select! { () = life => {}, () = stopper => {} }
                entry.stopped.send_replace(true);
            });
        }
        drop(failed_tx);
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(error) = failed.recv() => Err(error),
        };
        shutdown.cancel();
        let clock = self.clock.clone();
        tokio::select! {
            () = group.stop() => info!("all services stopped"),
            () = clock.sleep(grace) => {
                let late: Vec<_> =
                    self.entries.iter().filter(|e| !*e.stopped.borrow()).map(|e| e.service.name()).collect();
                warn!(?late, "services did not stop in time");
            }
        }
        result
    }

    fn related(&self, keep: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
        self.entries.iter().filter(|e| keep(e)).cloned().collect()
    }
}

async fn wait_true(flag: &watch::Sender<bool>) {
    let _ = flag.subscribe().wait_for(|set| *set).await;
}

async fn keep_running(
    entry: &Entry,
    dependencies: Vec<Arc<Entry>>,
    stop: CancellationToken,
    clock: SharedClock,
    process_start: std::time::Instant,
    failed: mpsc::Sender<SupervisorError>,
) {
    let name = entry.service.name();
    let wait = join_all(dependencies.iter().map(|e| e.ready.wait()));
    if stop.run_until_cancelled(wait).await.is_none() {
        return;
    }
    let backoff = Backoff::new(Duration::from_millis(100), 2, Duration::from_secs(30));
    let mut failures = 0;
    loop {
        let begun = clock.instant();
        let cx = ServiceContext { shutdown: stop.clone(), ready: entry.ready.clone(), clock: clock.clone() };
        let run = std::panic::AssertUnwindSafe(entry.service.run(cx)).catch_unwind();
        tokio::pin!(run);
        let outcome = if entry.ready.is_set() {
            run.await
        } else {
            tokio::select! {
                biased;
                outcome = &mut run => outcome,
                () = entry.ready.wait() => {
                    let now = clock.instant();
                    info!(
                        service = name,
                        took_ms = (now - begun).as_millis() as u64,
                        since_start_ms = (now - process_start).as_millis() as u64,
                        "service ready"
                    );
                    run.await
                }
            }
        };
        if stop.is_cancelled() {
            return;
        }
        let source: BoxError = match outcome {
            Ok(Ok(())) => "ended without being asked to".into(),
            Ok(Err(source)) => source,
            Err(panic) => panic_text(panic.as_ref()).into(),
        };
        if !entry.ready.is_set() {
            let _ = failed.send(SupervisorError::Start { service: name, source }).await;
            return;
        }
        // A long healthy run forgives earlier failures.
        if clock.instant() - begun > Duration::from_secs(60) {
            failures = 0;
        }
        let delay = backoff.delay(failures);
        failures += 1;
        error!(service = name, error = %source, retry_in_ms = delay.as_millis() as u64, "service failed, restarting");
        if stop.run_until_cancelled(clock.sleep(delay)).await.is_none() {
            return;
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "unknown cause".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealClock;
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Probe {
        name: &'static str,
        deps: &'static [&'static str],
        log: Arc<Mutex<Vec<String>>>,
        fail_first: bool,
        runs: AtomicU32,
    }

    #[async_trait]
    impl Service for Probe {
        fn name(&self) -> &'static str {
            self.name
        }
        fn depends_on(&self) -> &'static [&'static str] {
            self.deps
        }
        async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
            self.log.lock().push(format!("start {}", self.name));
            cx.ready.set();
            if self.fail_first && self.runs.fetch_add(1, Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
                panic!("first run");
            }
            cx.shutdown.cancelled().await;
            self.log.lock().push(format!("stop {}", self.name));
            Ok(())
        }
    }

    fn probe(name: &'static str, deps: &'static [&'static str], log: &Arc<Mutex<Vec<String>>>) -> Probe {
        Probe { name, deps, log: log.clone(), fail_first: false, runs: AtomicU32::new(0) }
    }

    #[tokio::test(start_paused = true)]
    async fn starts_in_order_and_stops_in_reverse() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::new(RealClock::shared());
        let top = supervisor.add(probe("top", &["base"], &log));
        supervisor.add(probe("base", &[], &log));
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let (result, ()) = tokio::join!(supervisor.run(shutdown, Duration::from_secs(5)), async move {
            top.wait().await;
            stop.cancel();
        });
        result.expect("clean stop");
        assert_eq!(*log.lock(), ["start base", "start top", "stop top", "stop base"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_restarts_only_that_service() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::new(RealClock::shared());
        supervisor.add(probe("other", &[], &log));
        supervisor.add(Probe { fail_first: true, ..probe("flaky", &[], &log) });
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let (result, ()) = tokio::join!(supervisor.run(shutdown, Duration::from_secs(5)), async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        });
        result.expect("clean stop");
        let log = log.lock();
        assert_eq!(log.iter().filter(|l| *l == "start flaky").count(), 2);
        assert_eq!(log.iter().filter(|l| *l == "start other").count(), 1);
    }

    #[tokio::test]
    async fn an_unknown_dependency_is_refused() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::new(RealClock::shared());
        supervisor.add(probe("top", &["nowhere"], &log));
        let error = supervisor.run(CancellationToken::new(), Duration::ZERO).await.expect_err("refused");
        assert_eq!(error.to_string(), "service top depends on nowhere, which is not part of this process");
    }
}
