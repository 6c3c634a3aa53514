//! WATCH: the current objects if asked for, then every change, as lines of JSON.
//!
//! Invariants:
//! - WT-1: a bookmark names a revision only after every event up to it was written.
//! - WT-2: what goes wrong after the options were read is an ERROR event, not an HTTP error.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use ::http::{HeaderValue, Response};
use apimachinery::status::Status;
use apimachinery::validation::Path;
use bytes::Bytes;
use component_base::CancellationToken;
use rand::Rng as _;
use serde_json::json;
use store::{KeyRange, Revision};

use super::options::ListOptions;
use super::{Cx, codec, conversion, get, list};
use crate::cache::{CacheWatcher, Delivery, EventType, ObjectReader as _, Snapshot, WatchFilter, frame};
use crate::wire::negotiate::{Accepted, Format, Target};
use crate::wire::{body, errors, query, respond};
use crate::{Body, BoxError, Object};

/// A watch without a timeout lives this long, or up to twice as long (seconds).
const MIN_TIMEOUT: u64 = 1800;
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events are gathered into chunks of about this many bytes.
const CHUNK: usize = 64 * 1024;
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub async fn watch(cx: &Cx) -> Result<Response<Body>, Status> {
    let options = ListOptions::parse(cx, true)?;
    let filter = filter(cx, &options);
    let version = match options.resource_version.as_str() {
        "" => 0,
        text => query::parse_uint(text).map_err(|error| {
            let mut errors = apimachinery::validation::ErrorList::new();
            errors.invalid(Path::new("resourceVersion"), text, &error);
            Status::unknown(errors.aggregate())
        })?,
    };
    let opened = open(cx, &options, filter, version).await;
    let timeout = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => Duration::from_secs(rand::rng().random_range(MIN_TIMEOUT..MIN_TIMEOUT * 2)),
    };
    let (source, error) = match opened {
        Ok(source) => (Some(source), None),
        Err(status) => (None, Some(status)),
    };
    let stream = Stream {
        encoder: Encoder::new(cx),
        bookmarks: options.bookmarks,
        deadline: sleep(cx, timeout),
        next_bookmark: sleep(cx, BOOKMARK_EVERY),
        clock: cx.server.clock.clone(),
        stop: cx.server.tasks.token().clone(),
        source,
        error,
    };
    let chunks = futures::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.chunk().await?;
        Some((Ok::<_, BoxError>(chunk), stream))
    });
    let mut response = Response::new(body::stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(cx.accepted.format.watch_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

fn sleep(cx: &Cx, duration: Duration) -> Sleep {
    let clock = cx.server.clock.clone();
    Box::pin(async move { clock.sleep(duration).await })
}

fn filter(cx: &Cx, options: &ListOptions) -> WatchFilter {
    let named = options.fields.exact("metadata.name").map(str::to_owned);
    let path_name = cx.info.path_name().map(str::to_owned);
    let name = path_name.clone().or(named);
    let range = match name {
        Some(name) if !cx.kind.namespaced() || !cx.info.namespace.is_empty() => KeyRange::key(cx.key(&name)),
        _ => KeyRange::prefix(list::prefix(cx)),
    };
    let matches = (!options.selects_all()).then(|| {
        let options = options.clone();
        Arc::new(move |object: &Object| options.matches(object)) as Arc<dyn Fn(&Object) -> bool + Send + Sync>
    });
    WatchFilter { range, matches }
}

/// Where the events come from.
struct Source {
    initial: VecDeque<Arc<Object>>,
    /// The revision of the initial objects, while the bookmark that ends them is due.
    end_of_initial: Option<Revision>,
    watcher: CacheWatcher,
}

async fn open(cx: &Cx, options: &ListOptions, filter: WatchFilter, version: u64) -> Result<Source, Status> {
    let after = i64::try_from(version).unwrap_or(i64::MAX);
    if options.send_initial_events == Some(true) {
        match version {
            0 if options.resource_version.is_empty() => cx.server.cache.fresh().await,
            0 => {}
            version => get::wait_for(cx, version).await?,
        }
        let (snapshot, watcher) = cx.resource.watch_from_now(filter.clone());
        // A legacy watch without a version shows no end of the initial events: it asked for no bookmarks.
        let end_of_initial = options.bookmarks.then_some(snapshot.revision);
        return Ok(Source { initial: initial(&snapshot, &filter), end_of_initial, watcher });
    }
    let after = match version {
        0 => {
            cx.server.cache.fresh().await;
            cx.server.cache.revision()
        }
        _ => after,
    };
    let watcher = cx.server.cache.watch_after(&cx.resource, &filter, after).await.map_err(|error| match error {
        store::Error::Compacted { compacted } => {
            Status::expired(format!("too old resource version: {version} ({compacted})"))
        }
        error => errors::store(&error),
    })?;
    Ok(Source { initial: VecDeque::new(), end_of_initial: None, watcher })
}

fn initial(snapshot: &Snapshot, filter: &WatchFilter) -> VecDeque<Arc<Object>> {
    if filter.range.end.is_empty() {
        return snapshot
            .get(&filter.range.start)
            .filter(|object| filter.selects(object))
            .cloned()
            .into_iter()
            .collect();
    }
    snapshot.range(&filter.range.start, b"").filter(|object| filter.selects(object)).cloned().collect()
}

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Stream {
    encoder: Encoder,
    bookmarks: bool,
    deadline: Sleep,
    next_bookmark: Sleep,
    clock: component_base::SharedClock,
    stop: CancellationToken,
    source: Option<Source>,
    error: Option<Status>,
}

enum Step {
    Event(Option<Delivery>),
    Bookmark,
    End,
}

impl Stream {
    /// The next bytes of the response; `None`: it is over.
    async fn chunk(&mut self) -> Option<Bytes> {
        if let Some(status) = self.error.take() {
            let mut out = Vec::new();
            self.encoder.frame(&mut out, "ERROR", &status.to_json());
            return Some(out.into());
        }
        let mut out = Vec::new();
        while out.len() < CHUNK {
            if self.error.is_some() {
                break;
            }
            let source = self.source.as_mut()?;
            if let Some(object) = source.initial.pop_front() {
                if !self.ready(&object).await {
                    continue;
                }
                if !self.encoder.object(&mut out, EventType::Added, &object) {
                    self.source = None;
                    break;
                }
                continue;
            }
            if let Some(revision) = source.end_of_initial.take() {
                self.encoder.bookmark(&mut out, revision, true);
                continue;
            }
            if let Some(delivery) = source.watcher.try_next() {
                if !self.ready(&delivery.object()).await {
                    continue;
                }
                if !self.encoder.delivery(&mut out, &delivery) {
                    self.source = None;
                    break;
                }
                continue;
            }
            if !out.is_empty() {
                break;
            }
            let step = tokio::select! {
                biased;
                () = self.stop.cancelled() => Step::End,
                delivery = source.watcher.next() => Step::Event(delivery),
                () = &mut self.deadline => Step::End,
                () = &mut self.next_bookmark, if self.bookmarks => Step::Bookmark,
            };
            match step {
                Step::Event(Some(delivery)) => {
                    if !self.ready(&delivery.object()).await {
                        continue;
                    }
                    if !self.encoder.delivery(&mut out, &delivery) {
                        self.source = None;
                        break;
                    }
                }
                Step::Bookmark => self.periodic_bookmark(&mut out).await,
                Step::Event(None) => self.source = None,
                Step::End => {
                    if self.bookmarks {
                        self.periodic_bookmark(&mut out).await;
                    }
                    self.source = None;
                    break;
                }
            }
        }
        if let (true, Some(status)) = (out.is_empty(), self.error.take()) {
            self.encoder.frame(&mut out, "ERROR", &status.to_json());
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// False: the object cannot be shown in the request's version, the watch ends with the reason.
    async fn ready(&mut self, object: &Arc<Object>) -> bool {
        if self.encoder.same_version {
            return true;
        }
        conversion::forget(&self.encoder.cx);
        match conversion::prepare(&self.encoder.cx, std::slice::from_ref(object)).await {
            Ok(()) => true,
            Err(status) => {
                self.error = Some(status);
                self.source = None;
                false
            }
        }
    }

    async fn periodic_bookmark(&mut self, out: &mut Vec<u8>) {
        let Some(source) = self.source.as_mut() else { return };
        // The revision first, then the events that are in already: they are all up to it, or later.
        let revision = source.watcher.progress();
        let mut newest = revision;
        loop {
            let Some(delivery) = self.source.as_mut().and_then(|source| source.watcher.try_next()) else { break };
            newest = newest.max(delivery.event.revision);
            if !self.ready(&delivery.object()).await {
                return;
            }
            if !self.encoder.delivery(out, &delivery) {
                self.source = None;
                return;
            }
        }
        self.encoder.bookmark(out, newest, false);
        let clock = self.clock.clone();
        self.next_bookmark = Box::pin(async move { clock.sleep(BOOKMARK_EVERY).await });
    }
}

/// Writes events in the form the client asked for.
struct Encoder {
    cx: Cx,
    same_version: bool,
    /// The next table names its columns.
    columns: bool,
}

impl Encoder {
    fn new(cx: &Cx) -> Self {
        // The stream outlives the request: it keeps what it needs of it.
        let cx = Cx {
            server: cx.server.clone(),
            info: cx.info.clone(),
            user: cx.user.clone(),
            headers: cx.headers.clone(),
            kind: cx.kind.clone(),
            resource: cx.resource.clone(),
            accepted: Accepted { pretty: false, ..cx.accepted.clone() },
            notes: Default::default(),
            converted: Default::default(),
        };
        Self { same_version: conversion::same_version(&cx), cx, columns: true }
    }

    /// False: the event cannot be shown like this, the stream ends.
    fn delivery(&mut self, out: &mut Vec<u8>, delivery: &Delivery) -> bool {
        if self.cx.accepted.transform.is_none() && self.same_version && self.cx.accepted.format == Format::Json {
            out.extend_from_slice(&delivery.frame());
            return true;
        }
        self.object(out, delivery.ty, &delivery.object())
    }

    fn object(&mut self, out: &mut Vec<u8>, ty: EventType, object: &Object) -> bool {
        let json = match &self.cx.accepted.transform {
            None if self.cx.accepted.format == Format::Protobuf => {
                let Some(content) = apimachinery::protobuf::encode_object(&self.cx.served_value(object)) else {
                    return false;
                };
                out.extend_from_slice(&apimachinery::protobuf::watch_frame(ty.as_str(), &content));
                return true;
            }
            None => self.cx.served_json(object),
            Some(transform) if transform.target == Target::PartialObjectMetadataList => return false,
            Some(transform) => match self.cx.transformed(transform, object, &mut self.columns) {
                Ok(json) => json,
                Err(_) => return false,
            },
        };
        self.frame(out, ty.as_str(), &json);
        true
    }

    fn bookmark(&mut self, out: &mut Vec<u8>, revision: Revision, end_of_initial: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let kind = &self.cx.kind;
        let mut value = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata});
        codec::empty_fields(&self.cx, &mut value);
        let json = match &self.cx.accepted.transform {
            None => respond::encode(&value),
            Some(transform) => match self.cx.transformed_value(transform, &value, &mut self.columns) {
                Ok(json) => json,
                Err(_) => return,
            },
        };
        self.frame(out, "BOOKMARK", &json);
    }

    /// Writes an event around an object.
    fn frame(&self, out: &mut Vec<u8>, ty: &str, json: &[u8]) {
        let content = match self.cx.accepted.format {
            Format::Protobuf => respond::protobuf(json),
            _ => None,
        };
        match content {
            Some(content) => out.extend_from_slice(&apimachinery::protobuf::watch_frame(ty, &content)),
            None => out.extend_from_slice(&frame(ty, json)),
        }
    }
}
