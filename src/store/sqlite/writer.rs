//! The one writer: a thread that turns a queue of commands into durable transactions (group commit).
//!
//! Invariants:
//! - WR-1: state is published, events are dispatched and commands are acknowledged, in this order, only after the
//!   commit that makes them durable (ST-1); commands of the relaxed class before it, but never ahead of a durable one.
//! - WR-2: after a failed commit the working state is the published one again.
//! - WR-3: upkeep (compaction, vacuum, checkpoint) is done in steps of some milliseconds between batches.
//! - WR-4: what is published but not yet on disk is in `unflushed`, in the ring, and below the reservation (DK-3).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use arc_swap::ArcSwap;
use component_base::TaskGroup;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Notify, oneshot};
use tracing::{debug, error, info, warn};

use super::SqliteConfig;
use super::apply;
use super::disk::{Readers, Statements};
use super::history::{self, VersionIndex};
use super::lease::Deadlines;
use super::state::Snapshot;
use super::upkeep::Upkeep;
use super::watch::{self, Hub};
use crate::{
    Alarm, Error, Event, Identity, Lease, LeaseId, RangeRequest, RangeResponse, Result, Revision, TxnRequest,
    TxnResponse,
};

/// What the writer shares with readers and tasks.
pub(crate) struct Shared {
    pub(crate) config: SqliteConfig,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) hub: Mutex<Hub>,
    pub(crate) index: Mutex<VersionIndex>,
    pub(crate) deadlines: Mutex<Deadlines>,
    pub(crate) readers: Readers,
    pub(crate) tasks: TaskGroup,
    pub(crate) identity: Identity,
    /// Those that were turned on.
    pub(crate) alarms: Mutex<BTreeSet<Alarm>>,
    /// The last commit found no space.
    pub(crate) full: AtomicBool,
    pub(crate) closed: AtomicBool,
    /// The store is at a new revision.
    pub(crate) moved: Notify,
    /// There is something to flush.
    pub(crate) unflushed: Notify,
    /// The earliest lease deadline may have changed.
    pub(crate) leases: Notify,
    /// The WAL has grown to `wal_pages`.
    pub(crate) wal_grown: Notify,
    pub(crate) wal_pages: AtomicU32,
}

type Reply<T> = oneshot::Sender<Result<T>>;

pub(crate) enum Command {
    Txn {
        request: TxnRequest,
        relaxed: bool,
        reply: Reply<TxnResponse>,
    },
    Compact {
        revision: Revision,
        reply: Reply<()>,
    },
    Grant {
        id: LeaseId,
        ttl: i64,
        reply: Reply<Lease>,
    },
    Revoke {
        id: LeaseId,
        reply: Reply<Revision>,
    },
    /// Deletes the leases whose time has come.
    Expire {
        reply: Reply<()>,
    },
    /// Writes remaining lease times: (id, TTL, remaining seconds).
    PersistLeases {
        leases: Vec<(LeaseId, i64, i64)>,
        reply: Reply<()>,
    },
    Flush,
    /// Everything acknowledged before is on disk when this is answered, with the revision of that.
    Sync {
        reply: Reply<Revision>,
    },
    SetMeta {
        name: &'static str,
        value: i64,
        reply: Reply<()>,
    },
    /// Answered when nothing is left to sweep.
    Swept {
        reply: Reply<()>,
    },
    /// Answered when all free pages have been returned.
    Defragment {
        reply: Reply<()>,
    },
    /// The helper has checkpointed most of the WAL.
    Checkpoint,
    Shutdown,
}

impl Command {
    /// Answers without doing anything.
    pub(crate) fn refuse(self, error: &Error) {
        let error = error.clone();
        // Whoever asked may have gone.
        match self {
            Self::Txn { reply, .. } => drop(reply.send(Err(error))),
            Self::Grant { reply, .. } => drop(reply.send(Err(error))),
            Self::Revoke { reply, .. } | Self::Sync { reply } => drop(reply.send(Err(error))),
            Self::Compact { reply, .. }
            | Self::Expire { reply }
            | Self::PersistLeases { reply, .. }
            | Self::SetMeta { reply, .. }
            | Self::Swept { reply }
            | Self::Defragment { reply } => drop(reply.send(Err(error))),
            Self::Flush | Self::Checkpoint | Self::Shutdown => {}
        }
    }
}

/// What of a writer outlives its connection.
pub(crate) struct Rest {
    /// Published and acknowledged, not on disk.
    pub(crate) unflushed: Vec<Arc<Event>>,
    pub(crate) reserved: Revision,
    /// Rows up to this id are swept.
    pub(crate) swept: i64,
}

/// An answer that waits for the commit.
enum Answer {
    Txn(Reply<TxnResponse>, TxnResponse),
    Unit(Reply<()>),
    Lease(Reply<Lease>, Lease),
    Revision(Reply<Revision>, Revision),
}

impl Answer {
    fn send(self, result: Result<()>) {
        // Whoever asked may have gone.
        match self {
            Self::Txn(reply, response) => drop(reply.send(result.map(|()| response))),
            Self::Unit(reply) => drop(reply.send(result)),
            Self::Lease(reply, lease) => drop(reply.send(result.map(|()| lease))),
            Self::Revision(reply, revision) => drop(reply.send(result.map(|()| revision))),
        }
    }
}

enum LeaseRow {
    Set { id: LeaseId, ttl: i64, remaining: i64, granted: bool },
    Gone(LeaseId),
}

/// Revisions reserved at a time for the relaxed class.
const RESERVE: Revision = 1000;
/// Bytes of the relaxed class that may wait for the flush; beyond that, writes wait for the disk.
const MAX_UNFLUSHED: usize = 4 << 20;
const MAX_BATCH_BYTES: usize = 8 << 20;
const MAX_BATCH_COMMANDS: usize = 4096;

pub(crate) struct Writer<'c> {
    shared: Arc<Shared>,
    conn: &'c Connection,
    statements: Statements<'c>,
    upkeep: Upkeep,
    working: Snapshot,
    /// Applied, not published.
    events: Vec<Arc<Event>>,
    lease_rows: Vec<LeaseRow>,
    meta_rows: Vec<(&'static str, i64)>,
    answers: Vec<Answer>,
    batch_bytes: usize,
    /// The batch needs a commit before it may be acknowledged.
    durable: bool,
    /// Published and acknowledged, not on disk.
    unflushed: Vec<Arc<Event>>,
    unflushed_bytes: usize,
    reserved: Revision,
    last_batch: usize,
    /// The last commit failed.
    failing: bool,
    /// The disk has failed, and this connection with it.
    broken: Option<Error>,
}

impl<'c> Writer<'c> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        conn: &'c Connection,
        path: &'c std::path::Path,
        rest: Rest,
    ) -> Result<Self> {
        let working = Snapshot::clone(&shared.snapshot.load());
        let statements = Statements::prepare(conn, path)?;
        Ok(Self {
            shared,
            conn,
            statements,
            upkeep: Upkeep::new(rest.swept),
            working,
            events: Vec::new(),
            lease_rows: Vec::new(),
            meta_rows: Vec::new(),
            answers: Vec::new(),
            batch_bytes: 0,
            durable: false,
            unflushed_bytes: rest.unflushed.iter().map(|e| e.kv.key.len() + e.kv.value.len()).sum(),
            unflushed: rest.unflushed,
            reserved: rest.reserved,
            last_batch: 0,
            failing: false,
            broken: None,
        })
    }

    /// Runs until it is told to shut down or nobody can send any more, or, `Some`, until the disk fails.
    pub(crate) fn run(mut self, queue: &Receiver<Command>) -> Option<(Rest, Error)> {
        loop {
            if let Some(error) = self.broken.take() {
                let (unflushed, reserved, swept) = (self.unflushed, self.reserved, self.upkeep.swept());
                let rest = Rest { unflushed, reserved, swept };
                return Some((rest, error));
            }
            self.upkeep.wake(&*self.shared.config.clock);
            let busy = self.upkeep.pending(&self.working);
            let first = if busy {
                // Those just answered need a moment to ask again; upkeep should not get in their way.
                match queue.recv_timeout(IDLE) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                match queue.recv() {
                    Ok(command) => Some(command),
                    Err(_) => break,
                }
            };
            let idle = first.is_none();
            if let Some(command) = first {
                if !self.batch(command, queue) {
                    break;
                }
            }
            if busy
                && self.broken.is_none()
                && (idle || self.upkeep.is_due(&self.working, self.shared.config.clock.instant()))
            {
                self.broken = self.upkeep.step(&self.shared, self.conn, &mut self.statements, &self.working);
            }
        }
        self.shutdown();
        None
    }

    /// Applies `first` and whatever else is waiting, commits once, and answers. False: shut down.
    fn batch(&mut self, first: Command, queue: &Receiver<Command>) -> bool {
        let mut go_on = true;
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(command) = next.take() {
            taken += 1;
            if matches!(command, Command::Shutdown) {
                go_on = false;
                break;
            }
            self.take(command);
            if taken >= MAX_BATCH_COMMANDS || self.batch_bytes >= MAX_BATCH_BYTES {
                break;
            }
            next = match queue.try_recv() {
                Ok(command) => Some(command),
                // Those who were answered together ask again together: give the rest of them a moment. A lone writer
                // never waits.
                Err(TryRecvError::Empty) if taken < self.last_batch && self.durable => queue.recv_timeout(GATHER).ok(),
                Err(_) => None,
            };
        }
        self.last_batch = taken;
        self.batch_bytes = 0;
        if self.durable {
            self.commit();
        } else if !self.events.is_empty() {
            self.publish_relaxed();
        } else {
            self.answer(Ok(()));
        }
        go_on
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Txn { request, relaxed, reply } => self.txn(request, relaxed, reply),
            Command::Compact { revision, reply } => self.compact(revision, reply),
            Command::Grant { id, ttl, reply } => match apply::grant(&mut self.working, id, ttl) {
                Ok(()) => {
                    self.start_durable();
                    self.lease_rows.push(LeaseRow::Set { id, ttl, remaining: ttl, granted: true });
                    self.answers.push(Answer::Lease(reply, Lease { id, ttl_seconds: ttl }));
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Revoke { id, reply } => {
                if self.working.leases.contains_key(&id) {
                    self.start_durable();
                }
                match apply::revoke(&mut self.working, &mut self.events, id) {
                    Ok(revision) => {
                        self.lease_rows.push(LeaseRow::Gone(id));
                        self.answers.push(Answer::Revision(reply, revision));
                    }
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Expire { reply } => {
                let due = self.shared.deadlines.lock().due(self.shared.config.clock.instant());
                for id in due {
                    self.start_durable();
                    if apply::revoke(&mut self.working, &mut self.events, id).is_ok() {
                        debug!(lease = id, "lease expired");
                        self.lease_rows.push(LeaseRow::Gone(id));
                    }
                }
                self.answers.push(Answer::Unit(reply));
            }
            Command::PersistLeases { leases, reply } => {
                for (id, ttl, remaining) in leases {
                    if self.working.leases.contains_key(&id) {
                        self.start_durable();
                        self.lease_rows.push(LeaseRow::Set { id, ttl, remaining, granted: false });
                    }
                }
                self.answers.push(Answer::Unit(reply));
            }
            Command::Flush => {
                if !self.unflushed.is_empty() {
                    self.start_durable();
                }
            }
            Command::Sync { reply } => {
                if !self.unflushed.is_empty() || !self.events.is_empty() {
                    self.start_durable();
                }
                self.answers.push(Answer::Revision(reply, self.working.revision));
            }
            Command::SetMeta { name, value, reply } => {
                self.start_durable();
                self.meta_rows.push((name, value));
                self.answers.push(Answer::Unit(reply));
            }
            Command::Swept { reply } => self.upkeep.when_swept(reply),
            Command::Defragment { reply } => self.upkeep.defragment(reply),
            Command::Checkpoint => self.upkeep.checkpoint(&self.shared, self.conn),
            Command::Shutdown => {}
        }
    }

    fn txn(&mut self, request: TxnRequest, relaxed: bool, reply: Reply<TxnResponse>) {
        let relaxed = relaxed && self.working.revision < self.reserved && self.unflushed_bytes < MAX_UNFLUSHED;
        if !relaxed && !self.durable && !self.events.is_empty() {
            self.publish_relaxed();
        }
        let mark = self.events.len();
        let (shared, conn) = (&self.shared, self.conn);
        let past = |state: &Snapshot, events: &[Arc<Event>], request: &RangeRequest| -> Result<RangeResponse> {
            apply::readable(state, request.revision)?;
            let (kvs, published) = {
                let hub = shared.hub.lock();
                let published = shared.snapshot.load_full();
                if request.revision < hub.ring.base() {
                    (None, published)
                } else {
                    let newest_first = events.iter().rev().chain(hub.ring.newest_first());
                    (Some(state.rewind(&request.range, request.revision, newest_first)), published)
                }
            };
            match kvs {
                Some(kvs) => Ok(super::state::select(request, state.revision, kvs.iter())),
                None => history::range(shared, conn, &published, request),
            }
        };
        match apply::txn(&mut self.working, &mut self.events, request, &past) {
            Ok(response) => {
                let fresh = &self.events[mark..];
                self.batch_bytes += fresh.iter().map(|e| e.kv.key.len() + e.kv.value.len()).sum::<usize>();
                self.durable |= !fresh.is_empty() && !relaxed;
                self.answers.push(Answer::Txn(reply, response));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn compact(&mut self, revision: Revision, reply: Reply<()>) {
        let compacted = self.working.compacted;
        if revision <= compacted {
            drop(reply.send(Err(Error::Compacted { compacted })));
        } else if revision > self.working.revision {
            drop(reply.send(Err(Error::FutureRevision { current: self.working.revision })));
        } else {
            self.start_durable();
            self.working.compacted = revision;
            self.answers.push(Answer::Unit(reply));
        }
    }

    /// From here on the batch waits for the disk; what came before and need not wait is answered now (WR-1).
    fn start_durable(&mut self) {
        if !self.durable {
            if !self.events.is_empty() {
                self.publish_relaxed();
            }
            self.durable = true;
        }
    }

    fn commit(&mut self) {
        let reserved = self.next_reservation();
        let published_compacted = self.shared.snapshot.load().compacted;
        let working = &self.working;
        let (unflushed, events) = (&self.unflushed, &self.events);
        let (lease_rows, meta_rows) = (&self.lease_rows, &self.meta_rows);
        let result = self.statements.transaction(|statements| {
            let (mut revision, mut sub) = (0, 0);
            for event in unflushed.iter().chain(events) {
                sub = if event.kv.mod_revision == revision { sub + 1 } else { 0 };
                revision = event.kv.mod_revision;
                statements.insert(event, sub)?;
            }
            for row in lease_rows {
                match row {
                    LeaseRow::Set { id, ttl, remaining, .. } => statements.set_lease(*id, *ttl, *remaining)?,
                    LeaseRow::Gone(id) => statements.drop_lease(*id)?,
                }
            }
            for (name, value) in meta_rows {
                statements.set_meta(name, *value)?;
            }
            if working.compacted != published_compacted {
                statements.set_meta("compacted", working.compacted)?;
            }
            if let Some(reserved) = reserved {
                statements.set_meta("reserved", reserved)?;
            }
            Ok(())
        });
        self.durable = false;
        self.meta_rows.clear();
        self.shared.full.store(matches!(result, Err(Error::NoSpace)), Ordering::Relaxed);
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    info!("writes succeed again");
                }
                self.reserved = reserved.unwrap_or(self.reserved);
                self.unflushed.clear();
                self.unflushed_bytes = 0;
                self.note_leases();
                self.publish(self.working.revision);
                self.events.clear();
                self.answer(Ok(()));
                if self.shared.wal_pages.load(Ordering::Relaxed) >= self.shared.config.checkpoint_pages {
                    self.shared.wal_grown.notify_one();
                }
            }
            Err(error) => {
                // Once, not for every writer that tries while the disk is full.
                if !std::mem::replace(&mut self.failing, true) {
                    error!(%error, "writes fail");
                }
                self.working = Snapshot::clone(&self.shared.snapshot.load());
                self.events.clear();
                self.lease_rows.clear();
                if matches!(error, Error::NoSpace) {
                    // A WAL that starts over may leave room for small writes, such as those that free space.
                    self.upkeep.relieve(&self.shared, self.conn);
                    self.answer(Err(error));
                } else {
                    // It may be on the disk, and found there if the machine fails before it is taken back.
                    self.answer(Err(Error::Unknown { detail: error.to_string() }));
                    self.broken = Some(error);
                }
                if !self.unflushed.is_empty() {
                    self.shared.unflushed.notify_one();
                }
            }
        }
    }

    /// The relaxed class may run ahead of the disk by what is reserved.
    fn next_reservation(&self) -> Option<Revision> {
        let wanted =
            !self.shared.config.relaxed_prefixes.is_empty() && self.working.revision + RESERVE / 2 > self.reserved;
        wanted.then_some(self.working.revision + RESERVE)
    }

    fn publish_relaxed(&mut self) {
        let on_disk = self.unflushed.first().or(self.events.first()).map_or(0, |event| event.kv.mod_revision - 1);
        if self.unflushed.is_empty() {
            self.shared.unflushed.notify_one();
        }
        self.publish(on_disk);
        self.unflushed_bytes += self.events.iter().map(|e| e.kv.key.len() + e.kv.value.len()).sum::<usize>();
        self.unflushed.append(&mut self.events);
        self.answer(Ok(()));
    }

    fn publish(&mut self, on_disk: Revision) {
        let snapshot = Arc::new(self.working.clone());
        let revision = snapshot.revision;
        if !self.events.is_empty() {
            let mut index = self.shared.index.lock();
            for event in &self.events {
                index.record(event);
            }
        }
        let behind = {
            let mut hub = self.shared.hub.lock();
            for event in &self.events {
                hub.ring.push(event);
            }
            hub.ring.trim(on_disk);
            self.shared.snapshot.store(snapshot);
            hub.dispatch(&self.events, revision)
        };
        for behind in behind {
            watch::resume(&self.shared, behind);
        }
        if !self.events.is_empty() {
            self.shared.moved.notify_one();
        }
    }

    fn note_leases(&mut self) {
        if self.lease_rows.is_empty() {
            return;
        }
        let now = self.shared.config.clock.instant();
        let mut deadlines = self.shared.deadlines.lock();
        for row in self.lease_rows.drain(..) {
            match row {
                LeaseRow::Set { id, ttl, remaining, granted: true } => deadlines.set(id, ttl, remaining, now),
                LeaseRow::Set { id, remaining, .. } => deadlines.persisted(id, remaining),
                LeaseRow::Gone(id) => deadlines.remove(id),
            }
        }
        drop(deadlines);
        self.shared.leases.notify_one();
    }

    fn answer(&mut self, result: Result<()>) {
        for answer in self.answers.drain(..) {
            answer.send(result.clone());
        }
    }

    fn shutdown(mut self) {
        let now = self.shared.config.clock.instant();
        let leases = self.shared.deadlines.lock().to_persist(0, now);
        self.durable = false;
        let revision = self.working.revision;
        let unflushed: VecDeque<_> = std::mem::take(&mut self.unflushed).into();
        let reserved = self.reserved;
        if unflushed.is_empty() && leases.is_empty() && reserved <= revision {
            return;
        }
        let result = self.statements.transaction(|statements| {
            let (mut last, mut sub) = (0, 0);
            for event in &unflushed {
                sub = if event.kv.mod_revision == last { sub + 1 } else { 0 };
                last = event.kv.mod_revision;
                statements.insert(event, sub)?;
            }
            for (id, ttl, remaining) in leases {
                statements.set_lease(id, ttl, remaining)?;
            }
            if reserved > revision {
                statements.set_meta("reserved", revision)?;
            }
            Ok(())
        });
        match result {
            Ok(()) => info!(revision, "store flushed"),
            Err(error) => warn!(%error, lost = unflushed.len(), "the last relaxed writes are lost"),
        }
    }
}

/// How long a batch waits for each of the commands it expects. Far below the time of one fsync.
const GATHER: Duration = Duration::from_micros(50);

/// How long nothing must come before upkeep counts the writer as idle.
const IDLE: Duration = Duration::from_millis(1);
