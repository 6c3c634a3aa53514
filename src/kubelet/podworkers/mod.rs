//! One worker a pod: level-triggered, woken by everything that may concern the pod, and the only one that acts on it.
//!
//! Invariants:
//! - PW-1: one worker a uid; nothing else starts or stops that pod's containers.
//! - PW-2: a worker acts on what the runtime says now, never on what it remembers doing.
//! - PW-3: once a pod is ending, nothing of it is started again.

pub mod actions;
pub mod backoff;
mod end;
mod hooks;
pub mod shared;
mod start;
mod sync;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use component_base::{CancellationToken, TaskGroup};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::debug;

use crate::containers::text;
use crate::runtime::KnownPod;
use crate::status::generate::Verdict;
pub use shared::{Machine, Shared};
use worker::Worker;

/// What a worker is told.
pub(crate) struct Slot {
    pub(crate) input: Mutex<Input>,
    pub(crate) changed: Notify,
    /// Cancelled when the pod is to end: whatever is being started is given up.
    pub(crate) ending: CancellationToken,
}

#[derive(Clone)]
pub(crate) struct Input {
    pub(crate) pod: Arc<Pod>,
    /// The API server no longer has it.
    pub(crate) deleted: bool,
    pub(crate) verdict: Option<Verdict>,
    /// Only known from the runtime: nobody's any more.
    pub(crate) orphan: bool,
}

impl Input {
    pub(crate) fn must_end(&self) -> bool {
        self.deleted || self.orphan || self.verdict.is_some() || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// The workers. Cloning shares them.
#[derive(Clone)]
pub struct PodWorkers {
    shared: Arc<Shared>,
    tasks: TaskGroup,
    slots: Arc<Mutex<HashMap<String, Arc<Slot>>>>,
}

impl PodWorkers {
    pub fn new(shared: Arc<Shared>, tasks: TaskGroup) -> Self {
        Self { shared, tasks, slots: Arc::default() }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The pod as it is now in the API.
    pub fn update(&self, pod: Arc<Pod>) {
        self.tell(pod, |_| {});
    }

    /// The pod is gone from the API; `pod` is its last version.
    pub fn remove(&self, pod: Arc<Pod>) {
        if !self.slots.lock().contains_key(text(&pod.metadata.uid)) {
            return;
        }
        self.tell(pod, |input| input.deleted = true);
    }

    /// A pod of the runtime that the API server, having been asked, does not know.
    pub fn orphan(&self, known: &KnownPod) {
        let mut pod = Pod::default();
        pod.metadata.name = Some(known.name.clone());
        pod.metadata.namespace = Some(known.namespace.clone());
        pod.metadata.uid = Some(known.uid.clone());
        self.tell(Arc::new(pod), |input| {
            input.orphan = true;
            input.deleted = true;
        });
    }

    /// Ends the pod with a verdict (`Evicted`).
    pub fn evict(&self, uid: &str, verdict: Verdict) {
        let slot = self.slots.lock().get(uid).cloned();
        if let Some(slot) = slot {
            slot.input.lock().verdict.get_or_insert(verdict);
            slot.ending.cancel();
            slot.changed.notify_one();
        }
    }

    /// Something about the pod changed: look again.
    pub fn wake(&self, uid: &str) {
        if let Some(slot) = self.slots.lock().get(uid) {
            slot.changed.notify_one();
        }
    }

    pub fn wake_all(&self) {
        for slot in self.slots.lock().values() {
            slot.changed.notify_one();
        }
    }

    /// A container or sandbox of some pod changed.
    pub fn wake_by_container(&self, id: &str) {
        match self.shared.owner_of(id) {
            Some(uid) => self.wake(&uid),
            None => debug!(id, "event about a container that is not known (yet)"),
        }
    }

    /// The pods that have a worker, as they were last seen.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let slots: Vec<Arc<Slot>> = self.slots.lock().values().cloned().collect();
        slots.iter().filter(|slot| !slot.input.lock().orphan).map(|slot| slot.input.lock().pod.clone()).collect()
    }

    pub fn knows(&self, uid: &str) -> bool {
        self.slots.lock().contains_key(uid)
    }

    fn tell(&self, pod: Arc<Pod>, change: impl FnOnce(&mut Input)) {
        let uid = text(&pod.metadata.uid).to_owned();
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&uid) {
            {
                let mut input = slot.input.lock();
                input.pod = pod;
                change(&mut input);
                if input.must_end() {
                    slot.ending.cancel();
                }
            }
            slot.changed.notify_one();
            return;
        }
        let mut input = Input { pod, deleted: false, verdict: None, orphan: false };
        change(&mut input);
        let slot =
            Arc::new(Slot { input: Mutex::new(input), changed: Notify::new(), ending: CancellationToken::new() });
        if slot.input.lock().must_end() {
            slot.ending.cancel();
        }
        slots.insert(uid.clone(), slot.clone());
        let (shared, all) = (self.shared.clone(), self.slots.clone());
        self.tasks.spawn(async move {
            Worker::new(shared, slot).run().await;
            all.lock().remove(&uid);
        });
    }
}
