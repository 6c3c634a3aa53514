//! The Watch service: many watches on one stream.
//!
//! One task per stream owns its watches: it reads the requests, polls the store's watchers, and writes the responses to
//! a bounded queue. A client that does not read makes the task wait, and with it only its own watches (ST-3).
//!
//! Invariants:
//! - GW-1: a watch's `created` response is sent before anything else of it, and nothing after its `canceled` one.
//! - GW-2: progress for a whole stream (watch id -1) is told when each of its watches has been sent everything up to it.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use futures::future::FusedFuture as _;
use futures::stream::{AbortHandle, Abortable, SelectAll};
use futures::{FutureExt as _, Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::pb::etcdserverpb as pb;
use super::pb::etcdserverpb::watch_create_request::FilterType;
use super::pb::etcdserverpb::watch_request::RequestUnion;
use super::pb::etcdserverpb::watch_server::Watch;
use super::pb::mvccpb;
use super::{Face, convert, errors};
use crate::{Error, Event, EventKind, KeyRange, ProgressRequest, Revision, WatchBatch, WatchRequest};

type Responses = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;
type Batches = Abortable<Pin<Box<dyn Stream<Item = (i64, Option<Result<WatchBatch, Error>>)> + Send + Sync>>>;

/// Responses that may wait for the client.
const QUEUE: usize = 16;
/// What belongs to no single watch.
const NO_WATCH: i64 = -1;

#[tonic::async_trait]
impl Watch for Face {
    type WatchStream = Responses;

    async fn watch(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Response<Responses>, Status> {
        let (out, responses) = mpsc::channel(QUEUE);
        let session = Session::new(self.share(), out);
        self.tasks.spawn_graceful(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

/// One watch of a stream.
struct Open {
    abort: AbortHandle,
    progress: ProgressRequest,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
    fragment: bool,
    progress_notify: bool,
    /// Sent something since the last tick.
    busy: bool,
    /// Everything up to this revision has been sent.
    sent: Revision,
}

/// The client has gone.
struct Gone;

struct Session {
    face: Arc<Face>,
    out: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    open: HashMap<i64, Open>,
    next_id: i64,
    batches: SelectAll<Batches>,
    /// The revision that the stream has been asked to tell it has reached, and the watches that have not yet.
    asked: Option<(Revision, HashSet<i64>)>,
    /// Watches whose own progress is to be told when they answer.
    ticked: HashSet<i64>,
}

impl Session {
    fn new(face: Arc<Face>, out: mpsc::Sender<Result<pb::WatchResponse, Status>>) -> Self {
        Self {
            face,
            out,
            open: HashMap::new(),
            next_id: 0,
            batches: SelectAll::new(),
            asked: None,
            ticked: HashSet::new(),
        }
    }

    async fn run(mut self, mut requests: Streaming<pb::WatchRequest>) {
        let out = self.out.clone();
        let stopped = self.face.tasks.token().clone();
        tokio::select! {
            biased;
            () = stopped.cancelled() => {
                // Who does not read does not need to know.
                out.try_send(Err(errors::status(Error::Closed))).ok();
            }
            () = out.closed() => {}
            _ = self.serve(&mut requests) => {}
        }
    }

    async fn serve(&mut self, requests: &mut Streaming<pb::WatchRequest>) -> Result<(), Gone> {
        let clock = self.face.config.clock.clone();
        let interval = self.face.config.progress_interval;
        let mut tick = clock.sleep(interval).fuse();
        // After the last request the watches go on.
        let mut more = true;
        loop {
            tokio::select! {
                request = requests.message(), if more => match request {
                    Ok(Some(request)) => self.request(request).await?,
                    Ok(None) => more = false,
                    Err(status) => {
                        let status = errors::oversized(&status).unwrap_or(status);
                        self.out.send(Err(status)).await.map_err(|_| Gone)?;
                        return Ok(());
                    }
                },
                Some((id, batch)) = self.batches.next(), if !self.batches.is_empty() => self.batch(id, batch).await?,
                () = &mut tick, if !tick.is_terminated() => {
                    tick = clock.sleep(interval).fuse();
                    self.tick();
                }
            }
        }
    }

    async fn request(&mut self, request: pb::WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => self.progress().await,
            // As etcd: nothing.
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), Gone> {
        let start = if create.key.is_empty() { bytes::Bytes::from_static(&[0]) } else { convert::own(&create.key) };
        let range = KeyRange { start, end: convert::own(&create.range_end) };
        if !range.end.is_empty() && range.end.as_ref() != [0] && range.start >= range.end {
            return self.refuse("mvcc: watcher range is empty").await;
        }
        let id = match create.watch_id {
            0 => {
                while self.open.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            taken if self.open.contains_key(&taken) => {
                return self.refuse("mvcc: duplicate watch ID provided on the WatchStream").await;
            }
            id => id,
        };
        let request = WatchRequest { range, start_revision: create.start_revision, progress: false };
        let created = |revision| pb::WatchResponse {
            header: self.face.header_at(revision),
            watch_id: id,
            created: true,
            ..Default::default()
        };
        let watcher = match self.face.store.watch(request).await {
            Ok(watcher) => watcher,
            Err(Error::Compacted { compacted }) => {
                let response = created(self.face.store.revision());
                self.send(response).await?;
                return self.send(self.compacted(id, compacted)).await;
            }
            Err(error) => {
                self.out.send(Err(errors::status(error))).await.ok();
                return Err(Gone);
            }
        };
        let response = created(watcher.revision);
        self.send(response).await?;

        let progress = watcher.progress_request();
        let (abort, registration) = AbortHandle::new_pair();
        let batches = ReceiverStream::new(watcher.batches).map(move |batch| (id, Some(batch)));
        let end = futures::stream::once(std::future::ready((id, None)));
        let batches: Pin<Box<dyn Stream<Item = _> + Send + Sync>> = Box::pin(batches.chain(end));
        self.batches.push(Abortable::new(batches, registration));
        let filters = |filter: FilterType| create.filters.contains(&(filter as i32));
        let open = Open {
            abort,
            progress,
            prev_kv: create.prev_kv,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            fragment: create.fragment,
            progress_notify: create.progress_notify,
            busy: true,
            sent: if create.start_revision > 0 { create.start_revision - 1 } else { watcher.revision },
        };
        self.open.insert(id, open);
        Ok(())
    }

    async fn refuse(&self, reason: &str) -> Result<(), Gone> {
        self.send(pb::WatchResponse {
            header: self.face.header(),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        })
        .await
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Gone> {
        if !self.forget(id) {
            return Ok(());
        }
        let header = self.face.header();
        self.send(pb::WatchResponse { header, watch_id: id, canceled: true, ..Default::default() }).await?;
        self.answer().await
    }

    fn forget(&mut self, id: i64) -> bool {
        let Some(open) = self.open.remove(&id) else { return false };
        open.abort.abort();
        self.ticked.remove(&id);
        if let Some((_, waiting)) = &mut self.asked {
            waiting.remove(&id);
        }
        true
    }

    /// A request for progress on all watches: each is asked, the last answer completes it. Without watches etcd says
    /// nothing.
    async fn progress(&mut self) -> Result<(), Gone> {
        if self.open.is_empty() {
            return Ok(());
        }
        let revision = self.face.store.revision();
        for open in self.open.values() {
            open.progress.ask();
        }
        self.asked = Some((revision, self.open.keys().copied().collect()));
        self.face.store.send_progress();
        Ok(())
    }

    /// Tells the stream's progress if every watch has answered.
    async fn answer(&mut self) -> Result<(), Gone> {
        let Some((revision, _)) = self.asked.take_if(|(_, waiting)| waiting.is_empty()) else { return Ok(()) };
        let reached = self.open.values().map(|open| open.sent).min();
        let header = self.face.header_at(reached.map_or(revision, |reached| reached.max(revision)));
        self.send(pb::WatchResponse { header, watch_id: NO_WATCH, ..Default::default() }).await
    }

    /// Quiet watches that want it are told where they are.
    fn tick(&mut self) {
        for (id, open) in &mut self.open {
            if open.progress_notify && !std::mem::take(&mut open.busy) {
                open.progress.ask();
                self.ticked.insert(*id);
            }
        }
        if !self.ticked.is_empty() {
            self.face.store.send_progress();
        }
    }

    async fn batch(&mut self, id: i64, batch: Option<Result<WatchBatch, Error>>) -> Result<(), Gone> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(()) };
        let batch = match batch {
            Some(Ok(batch)) => batch,
            Some(Err(Error::Compacted { compacted })) => {
                self.forget(id);
                self.send(self.compacted(id, compacted)).await?;
                return self.answer().await;
            }
            Some(Err(error)) => {
                self.out.send(Err(errors::status(error))).await.ok();
                return Err(Gone);
            }
            None => {
                self.out.send(Err(errors::status(Error::Closed))).await.ok();
                return Err(Gone);
            }
        };
        open.sent = open.sent.max(batch.revision);
        let events: Vec<mvccpb::Event> = batch.events.iter().filter_map(|event| open.event(event)).collect();
        let told = !events.is_empty() || self.ticked.remove(&id);
        let (fragment, sent) = (open.fragment, open.sent);
        open.busy |= !events.is_empty();
        if told {
            let header = self.face.header_at(batch.revision);
            let response = pb::WatchResponse { header, watch_id: id, events, ..Default::default() };
            if fragment {
                for part in fragments(response, self.face.max_message_bytes()) {
                    self.send(part).await?;
                }
            } else {
                self.send(response).await?;
            }
        }
        if let Some((revision, waiting)) = &mut self.asked {
            if sent >= *revision {
                waiting.remove(&id);
                return self.answer().await;
            }
        }
        Ok(())
    }

    fn compacted(&self, id: i64, compacted: Revision) -> pb::WatchResponse {
        pb::WatchResponse {
            header: self.face.header_at(0),
            watch_id: id,
            canceled: true,
            compact_revision: compacted,
            ..Default::default()
        }
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), Gone> {
        self.out.send(Ok(response)).await.map_err(|_| Gone)
    }
}

impl Open {
    fn event(&self, event: &Event) -> Option<mvccpb::Event> {
        let (wanted, kind) = match event.kind {
            EventKind::Put => (!self.no_put, mvccpb::event::EventType::Put),
            EventKind::Delete => (!self.no_delete, mvccpb::event::EventType::Delete),
        };
        wanted.then(|| mvccpb::Event {
            r#type: kind as i32,
            kv: Some(event.kv.clone().into()),
            prev_kv: event.prev_kv.clone().filter(|_| self.prev_kv).map(Into::into),
        })
    }
}

/// Splits a response into parts below `max` bytes, of at least one event each.
fn fragments(mut response: pb::WatchResponse, max: usize) -> Vec<pb::WatchResponse> {
    if response.encoded_len() < max || response.events.len() < 2 {
        return vec![response];
    }
    let events = std::mem::take(&mut response.events);
    let bare = pb::WatchResponse { fragment: true, ..response };
    let base = bare.encoded_len();
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (bare.clone(), base);
    for event in events {
        let len = event.encoded_len();
        let len = len + 1 + prost::length_delimiter_len(len);
        if bytes + len >= max && !part.events.is_empty() {
            parts.push(std::mem::replace(&mut part, bare.clone()));
            bytes = base;
        }
        bytes += len;
        part.events.push(event);
    }
    part.fragment = false;
    parts.push(part);
    parts
}
