//! A watch on a cluster that goes on when members come and go.
//!
//! Each watch has a stream of its own. A reader that does not keep up must not fill the connection that all share, so its
//! stream is closed and opened again, from where it was, once it has room.
//!
//! Invariants:
//! - EB-1: `next` is the first revision not delivered; every stream is opened from there, and what is older is dropped.

use std::sync::Arc;
use std::time::Duration;

use etcd_client as etcd;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::{Cluster, convert};
use crate::{Error, Event, KeyRange, Result, Revision, WatchBatch, WatchRequest, Watcher};

const BUFFER: usize = 64;
const RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(2);

struct Feed {
    cluster: Arc<Cluster>,
    range: KeyRange,
    next: Revision,
    progress: bool,
    tx: mpsc::Sender<Result<WatchBatch>>,
}

pub(super) async fn open(cluster: &Arc<Cluster>, request: WatchRequest) -> Result<Watcher> {
    let mut range = request.range;
    if range.start.is_empty() {
        range.start = bytes::Bytes::from_static(&[0]);
    }
    let start = request.start_revision.max(0);
    let (stream, revision) = cluster.read(|client| create(client, range.clone(), start)).await?;
    let next = if start == 0 { revision + 1 } else { start };
    let (tx, batches) = mpsc::channel(BUFFER);
    let feed = Feed { cluster: Arc::clone(cluster), range, next, progress: request.progress, tx };
    cluster.tasks.spawn(feed.run(stream));
    Ok(Watcher::new(revision, batches))
}

/// Opens a stream with one watch; returns it with the revision that the store was at.
pub(super) async fn create(
    client: etcd::Client,
    range: KeyRange,
    start: Revision,
) -> Result<(etcd::WatchStream, Revision), etcd::Error> {
    let mut watches = client.watch_client().max_decoding_message_size(super::MAX_MESSAGE);
    let mut stream = watches.watch(&range.start[..], Some(convert::watch(&range, start))).await?;
    match stream.message().await? {
        // A refusal says why in its reason; one for compaction comes as a message of its own.
        Some(first) if first.canceled() && first.compact_revision() == 0 => {
            Err(etcd::Error::GRpcStatus(tonic::Status::unavailable(first.cancel_reason().to_owned())))
        }
        Some(first) => Ok((stream, convert::revision(first.header()))),
        None => Err(etcd::Error::GRpcStatus(tonic::Status::unavailable("the watch ended at once"))),
    }
}

/// Where the history begins: a watch from the first revision is told.
pub(super) async fn find_compacted(client: etcd::Client) -> Result<Revision, etcd::Error> {
    let range = KeyRange::key(&b"\0"[..]);
    let mut watches = client.watch_client();
    let mut stream = watches.watch(&range.start[..], Some(convert::watch(&range, 1))).await?;
    while let Some(message) = stream.message().await? {
        if message.compact_revision() != 0 {
            return Ok(message.compact_revision());
        }
        if !message.created() {
            break;
        }
    }
    Ok(0)
}

enum End {
    /// Nobody reads any more, or the reader has been told the reason.
    Over,
    /// To be opened again.
    Lost(String),
    /// The reader was slow and has taken everything now.
    Resumed,
}

impl Feed {
    async fn run(mut self, mut stream: etcd::WatchStream) {
        let mut pause = RETRY;
        loop {
            match self.follow(stream).await {
                End::Over => return,
                End::Lost(reason) => info!(reason, from = self.next, "watch lost: opening it again"),
                End::Resumed => debug!(from = self.next, "a slow watch goes on"),
            }
            stream = loop {
                let (range, next) = (self.range.clone(), self.next);
                let opened = tokio::select! {
                    opened = self.cluster.read(|client| create(client, range.clone(), next)) => opened,
                    () = self.tx.closed() => return,
                };
                match opened {
                    Ok((stream, _)) => {
                        pause = RETRY;
                        break stream;
                    }
                    Err(Error::Closed) => return,
                    Err(error) => {
                        info!(%error, "the watch cannot be opened again yet");
                        self.cluster.clock.sleep(pause).await;
                        pause = (pause * 2).min(MAX_RETRY);
                    }
                }
            };
        }
    }

    async fn follow(&mut self, mut stream: etcd::WatchStream) -> End {
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = self.tx.closed() => return End::Over,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return End::Lost("the stream ended".into()),
                Err(error) => return End::Lost(error.to_string()),
            };
            if message.compact_revision() != 0 {
                let compacted = message.compact_revision();
                self.cluster.note_compacted(compacted);
                // Whoever is gone needs no reason.
                self.tx.send(Err(Error::Compacted { compacted })).await.ok();
                return End::Over;
            }
            if message.canceled() {
                return End::Lost(message.cancel_reason().to_owned());
            }
            let Some(batch) = self.batch(&message) else { continue };
            match self.tx.try_send(Ok(batch)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return End::Over,
                Err(mpsc::error::TrySendError::Full(batch)) => {
                    drop(stream);
                    return if self.tx.send(batch).await.is_ok() { End::Resumed } else { End::Over };
                }
            }
        }
    }

    /// What of a message is new.
    fn batch(&mut self, message: &etcd::WatchResponse) -> Option<WatchBatch> {
        let events: Vec<Arc<Event>> = message
            .events()
            .iter()
            .filter_map(convert::event)
            .filter(|event| event.kv.mod_revision >= self.next)
            .map(Arc::new)
            .collect();
        if let Some(last) = events.last() {
            let revision = last.kv.mod_revision;
            self.cluster.note(revision);
            self.next = revision + 1;
            return Some(WatchBatch { revision, events });
        }
        let revision = convert::revision(message.header());
        let news = message.events().is_empty() && !message.created() && revision >= self.next;
        if !news {
            return None;
        }
        self.next = revision + 1;
        self.progress.then(|| WatchBatch { revision, events })
    }
}
