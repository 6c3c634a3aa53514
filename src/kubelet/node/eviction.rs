//! Pressure on memory and disk: noticed, reported, and relieved by ending the pods that cause it.
//!
//! Invariants:
//! - EV-1: one pod at a time: the next only when the pressure outlives the last one.
//! - EV-2: pressure stays reported for five minutes after it was last seen, so that the node does not flap.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::EventType;
use k8s_openapi::api::core::v1::Pod;
use tracing::warn;

use super::facts;
use super::status::Pressure;
use crate::containers::resources::{pod_total, qos};
use crate::containers::text;
use crate::podworkers::{PodWorkers, Shared};
use crate::quantity;
use crate::status::generate::Verdict;

const HOLD: Duration = Duration::from_secs(300);
/// After an eviction its effect is awaited.
const PAUSE: Duration = Duration::from_secs(20);
/// Pods of this priority are never evicted.
const CRITICAL: i32 = 2_000_000_000;

pub struct Eviction {
    shared: Arc<Shared>,
    workers: PodWorkers,
    memory_seen: Option<Instant>,
    disk_seen: Option<Instant>,
    pids_seen: Option<Instant>,
    last: Option<Instant>,
}

/// A pod that might go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    uid: String,
    priority: i32,
    usage: u64,
    request: u64,
}

impl Eviction {
    pub fn new(shared: Arc<Shared>, workers: PodWorkers) -> Self {
        Self { shared, workers, memory_seen: None, disk_seen: None, pids_seen: None, last: None }
    }

    /// Looks, acts if need be, and says what presses.
    pub async fn look(&mut self) -> Pressure {
        let now = self.shared.clock.instant();
        let limits = self.shared.config.eviction;
        let memory = facts::memory().ok();
        if let Some(memory) = memory.filter(|m| m.available < limits.memory_available) {
            self.memory_seen = Some(now);
            self.relieve(now, "memory", limits.memory_available, memory.available);
        }
        if let Ok(space) = sys::mount::disk_space(&self.shared.config.data_dir) {
            let low = |free: u64, all: u64, part: f64| all > 0 && (free as f64) < all as f64 * part;
            let images = low(space.available, space.capacity, limits.imagefs_available.min(limits.nodefs_available));
            let inodes = low(space.inodes_free, space.inodes, limits.nodefs_inodes_free);
            if images || inodes {
                if self.disk_seen.is_none() {
                    warn!(available = space.available, inodes_free = space.inodes_free, "the disk is nearly full");
                }
                self.disk_seen = Some(now);
                let pause = self.shared.config.pause_image.reference.clone();
                // Unused images go first: all of them.
                let all = crate::config::ImageGc { high_percent: 0, low_percent: 0 };
                let collected = self.shared.images.collect(all, space.capacity, space.available, &pause).await;
                if let Err(error) = collected {
                    warn!(%error, "images not collected");
                }
            }
        }
        self.check_empty_dirs();
        if facts::pids().is_some_and(|(used, limit)| used * 10 > limit * 9) {
            self.pids_seen = Some(now);
        }
        let held = |seen: Option<Instant>| seen.is_some_and(|at| now - at < HOLD);
        Pressure { memory: held(self.memory_seen), disk: held(self.disk_seen), pids: held(self.pids_seen) }
    }

    /// Ends pods whose emptyDir volumes outgrew their limit.
    fn check_empty_dirs(&self) {
        for pod in self.workers.pods() {
            let uid = text(&pod.metadata.uid);
            for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
                // One in memory is limited by its tmpfs.
                let on_disk = volume.empty_dir.as_ref().filter(|e| e.medium.as_deref().unwrap_or_default().is_empty());
                let Some(limit) = on_disk.and_then(|e| e.size_limit.as_ref()) else { continue };
                let allowed = quantity::value(&limit.0).and_then(|v| u64::try_from(v).ok()).unwrap_or(u64::MAX);
                // None, as upstream reads it.
                if allowed == 0 {
                    continue;
                }
                let dir = self.shared.config.pod_dir(uid).join("volumes/kubernetes.io~empty-dir").join(&volume.name);
                if disk_usage(&dir) > allowed {
                    let message =
                        format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0);
                    self.shared.event(&pod, None, EventType::Warning, "Evicted", &message);
                    self.workers.evict(uid, Verdict { reason: "Evicted".into(), message });
                    break;
                }
            }
        }
    }

    fn relieve(&mut self, now: Instant, resource: &str, threshold: u64, available: u64) {
        if self.last.is_some_and(|at| now - at < PAUSE) {
            return;
        }
        let pods = self.workers.pods();
        let candidates: Vec<Candidate> = pods.iter().filter_map(|pod| self.candidate(pod)).collect();
        let Some(first) = rank(candidates).into_iter().next() else { return };
        let Some(pod) = pods.iter().find(|pod| text(&pod.metadata.uid) == first.uid) else { return };
        let mebi = |bytes: u64| format!("{}Mi", bytes >> 20);
        let mut message = format!(
            "The node was low on resource: {resource}. Threshold quantity: {}, available: {}Ki. ",
            mebi(threshold),
            available >> 10
        );
        for container in pod.spec.iter().flat_map(|s| &s.containers) {
            message.push_str(&format!(
                "Container {} was using {}Ki, request is {}, has larger consumption of {resource}. ",
                container.name,
                first.usage >> 10,
                first.request
            ));
        }
        self.shared.event(pod, None, EventType::Warning, "Evicted", &message);
        self.workers.evict(&first.uid, Verdict { reason: "Evicted".into(), message });
        self.last = Some(now);
    }

    fn candidate(&self, pod: &Arc<Pod>) -> Option<Candidate> {
        let uid = text(&pod.metadata.uid).to_owned();
        let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        if priority >= CRITICAL || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let group = self.shared.groups.of_pod(qos(pod), &uid);
        let usage = self.shared.groups.hierarchies().usage(&group).ok()?.working_set;
        let request = u64::try_from(pod_total(pod, "memory", false) / 1000).unwrap_or(0);
        Some(Candidate { uid, priority, usage, request })
    }
}

/// Bytes on disk of everything below `dir`, links not followed.
fn disk_usage(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| {
        let own = entry.metadata().map_or(0, |meta| meta.blocks() * 512);
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        own + if is_dir { disk_usage(&entry.path()) } else { 0 }
    });
    sizes.sum()
}

/// Who goes first: those above their requests, then the least important, then the greediest.
fn rank(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|c| {
        let above = c.usage > c.request;
        (!above, c.priority, std::cmp::Reverse(c.usage.saturating_sub(c.request)))
    });
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greedy_and_unimportant_go_first() {
        let candidate = |uid: &str, priority, usage, request| Candidate { uid: uid.into(), priority, usage, request };
        let ranked = rank(vec![
            candidate("modest", 0, 5, 10),
            candidate("greedy", 0, 100, 10),
            candidate("important", 1000, 900, 10),
            candidate("worse", 0, 500, 10),
        ]);
        let order: Vec<&str> = ranked.iter().map(|c| c.uid.as_str()).collect();
        assert_eq!(order, ["worse", "greedy", "important", "modest"]);
    }
}
