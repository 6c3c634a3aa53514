//! Snapshots on a schedule.
//!
//! Invariants:
//! - SC-1: a snapshot that fails is logged and does not end the schedule.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use component_base::SharedClock;
use controller_manager::controllers::cronjob::schedule::Schedule;
use jiff::tz::TimeZone;
use store::Store;
use tracing::{debug, warn};

use crate::snapshots;

/// The wall clock may be set while we sleep.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// What is saved when, and where to.
pub struct Scheduled {
    pub schedule: Schedule,
    pub folder: PathBuf,
    pub name: String,
    pub node_name: String,
    pub retention: usize,
}

/// Runs until it is dropped, or until the schedule has no further time.
pub async fn run(scheduled: Scheduled, store: Arc<dyn Store>, clock: SharedClock) {
    let zone = TimeZone::system();
    let mut after = clock.now();
    while let Some(due) = scheduled.schedule.next(after, &zone) {
        debug!(%due, "next snapshot");
        loop {
            let wait = Duration::try_from(due.duration_since(clock.now())).unwrap_or_default();
            if wait.is_zero() {
                break;
            }
            clock.sleep(wait.min(LOOK_AGAIN)).await;
        }
        let Scheduled { folder, name, node_name, retention, .. } = &scheduled;
        if let Err(error) = snapshots::save(&*store, &*clock, folder, name, node_name).await {
            warn!(%error, "scheduled snapshot failed");
        } else if let Err(error) = snapshots::prune(folder, name, node_name, *retention) {
            warn!(%error, "old snapshots not removed");
        }
        // Times that passed while the clock jumped are made up for by this one.
        after = clock.now().max(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::{Clock as _, FakeClock, RealClock, TaskGroup};
    use store::{SqliteConfig, SqliteStore};

    #[tokio::test]
    async fn every_due_time_saves_and_prunes() {
        let folder = tempfile::tempdir().expect("tempdir");
        let clock = FakeClock::new("2026-01-01T00:00:30Z".parse().expect("a time"));
        let store = SqliteStore::open(SqliteConfig::new(folder.path().join("state.db"), RealClock::shared()));
        let store = store.await.expect("opens");
        let snapshots_in = folder.path().join("snapshots");
        let scheduled = Scheduled {
            schedule: Schedule::parse("@every 1h").expect("a schedule"),
            folder: snapshots_in.clone(),
            name: "s".into(),
            node_name: "n".into(),
            retention: 2,
        };
        let tasks = TaskGroup::new();
        tasks.spawn(run(scheduled, store.clone(), clock.clone()));
        let first = clock.now().as_second();
        let deadline = RealClock.instant() + Duration::from_secs(20);
        let names = || -> Vec<i64> {
            let entries = snapshots::list(&snapshots_in).expect("lists");
            entries.iter().map(|entry| entry.name.trim_start_matches("s-n-").parse().expect("a time")).collect()
        };
        for round in 1..=4 {
            while names().last().is_none_or(|last| *last < first + round * 3600) {
                clock.advance(Duration::from_secs(60));
                RealClock.sleep(Duration::from_millis(1)).await;
                assert!(RealClock.instant() < deadline, "no snapshot {round}: {:?}", names());
            }
        }
        while names().len() > 2 {
            RealClock.sleep(Duration::from_millis(1)).await;
            assert!(RealClock.instant() < deadline, "not pruned: {:?}", names());
        }
        tasks.stop().await;
        store.close().await.expect("closes");
    }
}
