//! Records Events as client-go does: the same event again raises a count, floods of similar ones are combined, and one
//! source cannot flood the server about one object.
//!
//! Invariants:
//! - EV-1: recording never blocks and never fails its caller; what is dropped is logged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use component_base::{SharedClock, TaskGroup};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// How many events wait for the writer before further ones are dropped.
const QUEUE: usize = 1000;
/// Remembered distinct events.
const MEMORY: usize = 4096;
/// More than this many similar events within [`SIMILAR_WINDOW`] are combined.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// Per source and object: a burst, and one more every five minutes.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn text(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// A reference to `object` for [`EventRecorder::event`].
pub fn object_reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Writes events in the background. Cloning shares the queue.
#[derive(Clone)]
pub struct EventRecorder {
    component: Arc<str>,
    host: Arc<str>,
    clock: SharedClock,
    filter: Arc<Mutex<Filter>>,
    queue: mpsc::Sender<Write>,
}

enum Write {
    Create(Box<Event>),
    Raise { namespace: String, name: String, count: i32, last: Timestamp, message: String },
}

impl EventRecorder {
    /// `component` is the source shown by `kubectl describe`; `host` is the node, or "".
    pub fn new(client: Client, component: &str, host: &str, clock: SharedClock, tasks: &TaskGroup) -> Self {
        let (queue, writes) = mpsc::channel(QUEUE);
        tasks.spawn(write_all(client, writes));
        Self { component: component.into(), host: host.into(), clock, filter: Arc::default(), queue }
    }

    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, message: &str) {
        let now = self.clock.now();
        let Some(write) = self.filter.lock().next(self, about, kind, reason, message, now) else {
            debug!(reason, object = about.name, "event dropped: too many about this object");
            return;
        };
        if self.queue.try_send(write).is_err() {
            warn!(reason, object = about.name, message, "event dropped: the queue is full");
        }
    }
}

struct Known {
    /// What makes two events the same.
    identity: String,
    name: String,
    count: i32,
}

struct Similar {
    identity: String,
    messages: Vec<String>,
    last: Timestamp,
}

struct Bucket {
    object: String,
    tokens: f64,
    last: Timestamp,
}

/// Least recently used last in each list.
#[derive(Default)]
struct Filter {
    known: VecDeque<Known>,
    similar: VecDeque<Similar>,
    buckets: VecDeque<Bucket>,
}

/// Moves the entry that `is` finds (or a new one) to the front.
fn touch<T>(list: &mut VecDeque<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &mut T {
    let entry = list.iter().position(is).and_then(|at| list.remove(at)).unwrap_or_else(make);
    list.push_front(entry);
    list.truncate(MEMORY);
    &mut list[0]
}

impl Filter {
    fn next(
        &mut self,
        recorder: &EventRecorder,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> Option<Write> {
        let object = format!(
            "{}/{}/{}/{}/{}",
            about.kind.as_deref().unwrap_or_default(),
            about.namespace.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default(),
            about.uid.as_deref().unwrap_or_default(),
            about.field_path.as_deref().unwrap_or_default(),
        );
        let bucket = touch(
            &mut self.buckets,
            |b| b.object == object,
            || Bucket { object: object.clone(), tokens: BURST, last: now },
        );
        let passed = now.duration_since(bucket.last).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL_SECONDS).min(BURST);
        bucket.last = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;

        let family = format!("{object}|{}|{reason}", kind.text());
        let similar = touch(
            &mut self.similar,
            |s| s.identity == family,
            || Similar { identity: family.clone(), messages: Vec::new(), last: now },
        );
        if now.duration_since(similar.last).as_secs_f64() > SIMILAR_WINDOW.as_secs_f64() {
            similar.messages.clear();
        }
        similar.last = now;
        if !similar.messages.iter().any(|m| m == message) && similar.messages.len() < SIMILAR_MAX {
            similar.messages.push(message.to_owned());
        }
        let combine = similar.messages.len() >= SIMILAR_MAX;
        let (identity, message) = if combine {
            (family, format!("(combined from similar events): {message}"))
        } else {
            (format!("{family}|{message}"), message.to_owned())
        };

        let namespace = about.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".into());
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
        let known =
            touch(&mut self.known, |k| k.identity == identity, || Known { identity: identity.clone(), name, count: 0 });
        known.count += 1;
        if known.count > 1 {
            return Some(Write::Raise { namespace, name: known.name.clone(), count: known.count, last: now, message });
        }
        Some(Write::Create(Box::new(Event {
            metadata: ObjectMeta {
                name: Some(known.name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: about.clone(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some(EventSource {
                component: Some(recorder.component.to_string()),
                host: Some(recorder.host.to_string()).filter(|host| !host.is_empty()),
            }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            type_: Some(kind.text().to_owned()),
            reporting_component: Some(recorder.component.to_string()),
            reporting_instance: Some(recorder.host.to_string()).filter(|host| !host.is_empty()),
            ..Event::default()
        })))
    }
}

async fn write_all(client: Client, mut writes: mpsc::Receiver<Write>) {
    while let Some(write) = writes.recv().await {
        let result = match write {
            Write::Create(event) => {
                let namespace = event.metadata.namespace.clone().unwrap_or_default();
                let api = Api::<Event>::namespaced(client.clone(), &namespace);
                api.create(&PostParams::default(), &event).await.map(|_| ())
            }
            Write::Raise { namespace, name, count, last, message } => {
                let api = Api::<Event>::namespaced(client.clone(), &namespace);
                let patch = json!({ "count": count, "lastTimestamp": Time(last), "message": message });
                api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(|_| ())
            }
        };
        if let Err(error) = result {
            // Namespaces that are going away refuse events; that is no news.
            debug!(%error, "event not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::FakeClock;

    fn recorder() -> (EventRecorder, mpsc::Receiver<Write>, Arc<FakeClock>) {
        let clock = FakeClock::new(Timestamp::UNIX_EPOCH);
        let (queue, writes) = mpsc::channel(QUEUE);
        let recorder = EventRecorder {
            component: "kubelet".into(),
            host: "n1".into(),
            clock: clock.clone(),
            filter: Arc::default(),
            queue,
        };
        (recorder, writes, clock)
    }

    fn pod() -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".into()),
            name: Some("p".into()),
            namespace: Some("ns".into()),
            ..Default::default()
        }
    }

    #[test]
    fn the_same_event_raises_a_count() {
        let (recorder, mut writes, _clock) = recorder();
        recorder.event(&pod(), EventType::Normal, "Pulled", "image is there");
        recorder.event(&pod(), EventType::Normal, "Pulled", "image is there");
        let Write::Create(event) = writes.try_recv().expect("written") else { panic!("created first") };
        assert_eq!(event.reason.as_deref(), Some("Pulled"));
        let Write::Raise { name, count, .. } = writes.try_recv().expect("written") else { panic!("then raised") };
        assert_eq!((Some(name), count), (event.metadata.name, 2));
    }

    #[test]
    fn a_flood_about_one_object_is_combined_and_then_cut() {
        let (recorder, mut writes, clock) = recorder();
        for n in 0..40 {
            recorder.event(&pod(), EventType::Warning, "Failed", &format!("attempt {n}"));
        }
        let mut created = 0;
        let mut raised = 0;
        while let Ok(write) = writes.try_recv() {
            match write {
                Write::Create(_) => created += 1,
                Write::Raise { message, .. } => {
                    assert!(message.starts_with("(combined from similar events): "));
                    raised += 1;
                }
            }
        }
        assert_eq!((created, raised), (10, 15));
        clock.advance(Duration::from_secs(300));
        recorder.event(&pod(), EventType::Warning, "Failed", "later");
        assert!(writes.try_recv().is_ok());
    }
}
