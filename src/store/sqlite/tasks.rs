//! The timers of the store. Each sleeps until there is something to wait for: an idle store has no wake-ups but that
//! of automatic compaction.
//!
//! Invariants:
//! - TK-1: all tasks end with the store's task group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::upkeep;
use super::writer::{Command, Shared};
use super::{AutoCompaction, ask};
use crate::{Error, Revision};

/// Remaining times of leases longer than this are persisted this often (as etcd does).
const LEASE_CHECKPOINT: Duration = Duration::from_secs(5 * 60);
/// How often [`AutoCompaction::Revisions`] looks.
const REVISION_CHECK: Duration = Duration::from_secs(60);
/// Pause after a failed expiry.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) fn start(shared: &Arc<Shared>, queue: &Sender<Command>) {
    let tasks = &shared.tasks;
    tasks.spawn(flush(Arc::clone(shared), queue.clone()));
    tasks.spawn(expire(Arc::clone(shared), queue.clone()));
    tasks.spawn(persist_leases(Arc::clone(shared), queue.clone()));
    tasks.spawn(progress(Arc::clone(shared)));
    tasks.spawn_graceful(checkpoint(Arc::clone(shared), queue.clone()));
    match shared.config.auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(keep) => {
            tasks.spawn(compact_by_time(Arc::clone(shared), queue.clone(), keep));
        }
        AutoCompaction::Revisions(keep) => {
            tasks.spawn(compact_by_count(Arc::clone(shared), queue.clone(), keep));
        }
    }
}

/// Writes what the relaxed class left in memory, a while after the first such write.
async fn flush(shared: Arc<Shared>, queue: Sender<Command>) {
    loop {
        shared.unflushed.notified().await;
        shared.config.clock.sleep(shared.config.relaxed_flush).await;
        if queue.send(Command::Flush).is_err() {
            return;
        }
    }
}

async fn expire(shared: Arc<Shared>, queue: Sender<Command>) {
    let clock = &shared.config.clock;
    loop {
        let next = shared.deadlines.lock().next();
        let wait = next.map(|at| at.saturating_duration_since(clock.instant()));
        match wait {
            None => shared.leases.notified().await,
            Some(wait) if !wait.is_zero() => {
                tokio::select! {
                    () = clock.sleep(wait) => {}
                    () = shared.leases.notified() => {}
                }
            }
            Some(_) => match ask(&queue, |reply| Command::Expire { reply }).await {
                Ok(()) => {}
                Err(Error::Closed) => return,
                Err(error) => {
                    warn!(%error, "expiring leases failed");
                    clock.sleep(RETRY).await;
                }
            },
        }
    }
}

async fn persist_leases(shared: Arc<Shared>, queue: Sender<Command>) {
    let clock = &shared.config.clock;
    loop {
        clock.sleep(LEASE_CHECKPOINT).await;
        let over = i64::try_from(LEASE_CHECKPOINT.as_secs()).unwrap_or(i64::MAX);
        let leases = shared.deadlines.lock().to_persist(over, clock.instant());
        if leases.is_empty() {
            continue;
        }
        match ask(&queue, |reply| Command::PersistLeases { leases, reply }).await {
            Ok(()) => {}
            Err(Error::Closed) => return,
            Err(error) => warn!(%error, "persisting lease times failed"),
        }
    }
}

async fn progress(shared: Arc<Shared>) {
    loop {
        shared.moved.notified().await;
        shared.config.clock.sleep(shared.config.progress_interval).await;
        shared.hub.lock().send_progress();
    }
}

/// Writes the WAL back to the database beside the writer, then lets the writer do the rest, after which the WAL starts
/// over. It ends only between two checkpoints, so that no connection outlives the store.
async fn checkpoint(shared: Arc<Shared>, queue: Sender<Command>) {
    let stopped = shared.tasks.token().clone();
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = shared.wal_grown.notified() => {}
        }
        let beside = Arc::clone(&shared);
        match tokio::task::spawn_blocking(move || upkeep::checkpoint_beside(&beside)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "checkpoint failed"),
            Err(_) => return,
        }
        if queue.send(Command::Checkpoint).is_err() {
            return;
        }
    }
}

async fn compact_by_time(shared: Arc<Shared>, queue: Sender<Command>, keep: Duration) {
    let clock = &shared.config.clock;
    let mut seen: VecDeque<(Instant, Revision)> = VecDeque::new();
    loop {
        let now = clock.instant();
        let mut old_enough = None;
        while let Some((_, revision)) = seen.pop_front_if(|(at, _)| now.saturating_duration_since(*at) >= keep) {
            old_enough = Some(revision);
        }
        seen.push_back((now, shared.snapshot.load().revision));
        if let Some(revision) = old_enough {
            if !compact(&shared, &queue, revision).await {
                return;
            }
        }
        clock.sleep(keep / 5).await;
    }
}

async fn compact_by_count(shared: Arc<Shared>, queue: Sender<Command>, keep: i64) {
    loop {
        let revision = shared.snapshot.load().revision - keep;
        if !compact(&shared, &queue, revision).await {
            return;
        }
        shared.config.clock.sleep(REVISION_CHECK).await;
    }
}

/// False when the store is closed.
async fn compact(shared: &Shared, queue: &Sender<Command>, revision: Revision) -> bool {
    if revision <= shared.snapshot.load().compacted {
        return true;
    }
    match ask(queue, |reply| Command::Compact { revision, reply }).await {
        Ok(()) => info!(revision, "compacted automatically"),
        // Somebody else was faster.
        Err(Error::Compacted { .. }) => {}
        Err(Error::Closed) => return false,
        Err(error) => warn!(%error, revision, "automatic compaction failed"),
    }
    true
}
