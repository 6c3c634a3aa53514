//! Images for containers: pull policies, back-off, credentials, and the removal of what nobody uses.
//!
//! Invariants:
//! - IG-1: one pull of one image at a time: others who want it wait for that one.
//! - IG-2: credentials appear in no log, no event and no error.

pub mod auth;
pub mod durable;
pub mod reference;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{EventRecorder, EventType};
use component_base::{Backoff, SharedClock};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Secret};
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::config::ImageGc;
use crate::containers::text;
use crate::cri::{Cri, v1};
use crate::error::Result;
use crate::podworkers::backoff::{BackoffMap, go_duration};

/// Upstream's image back-off: the same numbers as for crash loops.
const BACKOFF: Backoff = Backoff::CRASH_LOOP;
/// How long a failed pull is shown as such before it is shown as a back-off.
const SHOW_ERROR: Duration = Duration::from_secs(3);
/// Images younger than this are not collected.
const MIN_AGE: Duration = Duration::from_secs(120);

/// Why there is no image: the waiting reason, its message, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageError {
    pub reason: &'static str,
    pub message: String,
    pub retry_in: Option<Duration>,
}

/// An image that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// What the runtime calls it.
    pub id: String,
    pub uid: Option<i64>,
    pub username: String,
}

impl From<v1::Image> for Image {
    fn from(image: v1::Image) -> Self {
        Self { id: image.id, uid: image.uid.map(|v| v.value), username: image.username }
    }
}

/// The images of this node.
#[derive(Clone)]
pub struct Images {
    cri: Cri,
    recorder: EventRecorder,
    clock: SharedClock,
    state: Arc<Mutex<State>>,
}

struct State {
    backoff: BackoffMap,
    last_error: HashMap<String, String>,
    pulling: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    /// When each image was first seen by the collector, and last in use.
    seen: HashMap<String, (Timestamp, Timestamp)>,
}

impl Images {
    pub fn new(cri: Cri, recorder: EventRecorder, clock: SharedClock) -> Self {
        let state = State {
            backoff: BackoffMap::new(BACKOFF),
            last_error: HashMap::new(),
            pulling: HashMap::new(),
            seen: HashMap::new(),
        };
        Self { cri, recorder, clock, state: Arc::new(Mutex::new(state)) }
    }

    /// Makes sure that the image of `container` is there, by its pull policy.
    ///
    /// # Errors
    /// The waiting reason and message of the container.
    pub async fn ensure(
        &self,
        about: &ObjectReference,
        pod_uid: &str,
        container: &Container,
        secrets: &[Arc<Secret>],
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<Image, ImageError> {
        let asked = text(&container.image);
        let event = |kind, reason, message: &str| self.recorder.event(about, kind, reason, message);
        let image = match reference::with_default_tag(asked) {
            Ok(image) => image,
            Err(why) => {
                let message = format!("Failed to apply default image tag {asked:?}: {why}");
                event(EventType::Warning, "InspectFailed", &message);
                return Err(ImageError { reason: "InvalidImageName", message, retry_in: None });
            }
        };
        let present = self.cri.image_status(&image).await.map_err(|error| {
            let message = format!("Failed to inspect image {asked:?}: {error}");
            event(EventType::Warning, "InspectFailed", &message);
            ImageError { reason: "ImageInspectError", message, retry_in: Some(BACKOFF.initial) }
        })?;
        let default = reference::default_pull_policy(asked);
        let policy = container.image_pull_policy.as_deref().unwrap_or(default);
        match (policy, present) {
            ("Always", _) | ("IfNotPresent", None) => {}
            (_, Some(image)) => {
                let message =
                    format!("Container image {asked:?} already present on machine and can be accessed by the pod");
                event(EventType::Normal, "Pulled", &message);
                return Ok(image.into());
            }
            (_, None) => {
                let message = format!("Container image {asked:?} is not present with pull policy of Never");
                event(EventType::Warning, "ErrImageNeverPull", &message);
                return Err(ImageError { reason: "ErrImageNeverPull", message, retry_in: None });
            }
        }
        self.pull(about, pod_uid, asked, &image, secrets, sandbox).await
    }

    async fn pull(
        &self,
        about: &ObjectReference,
        pod_uid: &str,
        asked: &str,
        image: &str,
        secrets: &[Arc<Secret>],
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<Image, ImageError> {
        let event = |kind, reason, message: &str| self.recorder.event(about, kind, reason, message);
        let key = format!("{pod_uid}_{asked}");
        let waiting = {
            let state = self.state.lock();
            let left = state.backoff.wait_since_update(&key, self.clock.now());
            left.map(|left| (left, state.last_error.get(&key).cloned()))
        };
        if let Some((left, last)) = waiting {
            let mut message = format!("Back-off pulling image {asked:?}");
            event(EventType::Normal, "BackOff", &message);
            if let Some(last) = last {
                message = format!("{message}: {last}");
            }
            return Err(ImageError { reason: "ImagePullBackOff", message, retry_in: Some(left) });
        }
        event(EventType::Normal, "Pulling", &format!("Pulling image {asked:?}"));
        let begun = self.clock.instant();
        let gate = self.state.lock().pulling.entry(image.to_owned()).or_default().clone();
        let _turn = gate.lock().await;
        let queued = self.clock.instant() - begun;
        let pulled = self.pull_with(image, secrets, sandbox).await;
        {
            let mut state = self.state.lock();
            state.pulling.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        match pulled {
            Ok(found) => {
                let took = self.clock.instant() - begun;
                let message = format!(
                    "Successfully pulled image {asked:?} in {} ({} including waiting). Image size: {} bytes.",
                    go_duration(took.saturating_sub(queued)),
                    go_duration(took),
                    found.size
                );
                event(EventType::Normal, "Pulled", &message);
                self.state.lock().last_error.remove(&key);
                Ok(found.into())
            }
            Err(error) => {
                let message = format!("Failed to pull image {asked:?}: {error}");
                event(EventType::Warning, "Failed", &message);
                let now = self.clock.now();
                let mut state = self.state.lock();
                state.backoff.next(&key, now, now);
                let message = error.to_string();
                state.last_error.insert(key.clone(), format!("ErrImagePull: {message}"));
                // Soon it reads as a back-off, which then says when the next try is.
                Err(ImageError { reason: "ErrImagePull", message, retry_in: Some(SHOW_ERROR) })
            }
        }
    }

    async fn pull_with(
        &self,
        image: &str,
        secrets: &[Arc<Secret>],
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<v1::Image> {
        let credentials = auth::credentials(secrets, image);
        let mut last = None;
        let attempts: Vec<Option<v1::AuthConfig>> =
            if credentials.is_empty() { vec![None] } else { credentials.into_iter().map(Some).collect() };
        for auth in attempts {
            match self.cri.pull_image(image, auth, Some(sandbox.clone())).await {
                Ok(id) => {
                    let status = self.cri.image_status(&id).await?;
                    return Ok(status.unwrap_or_else(|| v1::Image { id, ..Default::default() }));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| crate::error::Error::pod("no way to pull was tried")))
    }

    /// Forgets what is only known for a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        let prefix = format!("{pod_uid}_");
        let mut state = self.state.lock();
        state.backoff.forget(|key| !key.starts_with(&prefix));
        state.last_error.retain(|key, _| !key.starts_with(&prefix));
    }

    /// Removes images that no container uses, longest unused first, when the file system is `used_percent` full.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn collect(&self, limits: ImageGc, capacity: u64, available: u64, pause: &str) -> Result<()> {
        let now = self.clock.now();
        let images = self.cri.list_images().await?;
        let containers = self.cri.list_containers(v1::ContainerFilter::default()).await?;
        let used: HashSet<String> = containers
            .iter()
            .flat_map(|c| [c.image_ref.clone(), c.image.as_ref().map(|i| i.image.clone()).unwrap_or_default()])
            .collect();
        let pause = reference::normalize(pause);
        let in_use = |image: &v1::Image| {
            let names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
            image.pinned || names.into_iter().any(|name| used.contains(name) || *name == pause)
        };
        let mut candidates: Vec<(Timestamp, Timestamp, &v1::Image)> = Vec::new();
        {
            let mut state = self.state.lock();
            state.seen.retain(|id, _| images.iter().any(|image| image.id == *id));
            for image in &images {
                let entry = state.seen.entry(image.id.clone()).or_insert((now, now));
                if in_use(image) {
                    entry.1 = now;
                } else {
                    candidates.push((entry.1, entry.0, image));
                }
            }
        }
        let percent = (capacity.saturating_sub(available)) * 100 / capacity.max(1);
        if percent < limits.high_percent {
            return Ok(());
        }
        let mut to_free = (capacity * (100 - limits.low_percent) / 100).saturating_sub(available);
        candidates.sort_by_key(|(used, seen, _)| (*used, *seen));
        for (_, seen, image) in candidates {
            let age = Duration::try_from(now.duration_since(seen)).unwrap_or_default();
            if to_free == 0 || age < MIN_AGE {
                continue;
            }
            match self.cri.remove_image(&image.id).await {
                Ok(()) => {
                    info!(image = image.id, bytes = image.size, "removed an unused image");
                    to_free = to_free.saturating_sub(image.size);
                }
                Err(error) => warn!(image = image.id, %error, "unused image not removed"),
            }
        }
        Ok(())
    }
}
