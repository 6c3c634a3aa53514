//! The store on SQLite, for one server: etcd's semantics, current state in memory, one writer, group commit.
//!
//! ```text
//! callers ──queue──▶ writer thread: apply → one SQLite transaction → publish snapshot → dispatch events → answer
//! readers ──▶ snapshot (memory) │ ring (memory) │ SQLite (older revisions, on a blocking thread)
//! ```
//!
//! `state` is the snapshot, `apply` the transaction logic, `writer` the thread, `disk` the rows, `history` and `ring`
//! the past, `watch` the delivery, `lease` the deadlines, `upkeep` compaction and checkpoints, `mend` what
//! follows an I/O error, `wal` the look at the log before it is opened, `tasks` the timers.
//!
//! Invariants: ST-1, ST-2, ST-3 (see the crate) and those of the modules.

pub(crate) mod apply;
mod backup;
mod bolt;
mod disk;
mod history;
mod lease;
mod maintenance;
mod mend;
pub(crate) mod restore;
mod ring;
mod state;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod upkeep;
mod wal;
mod watch;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use component_base::{SharedClock, TaskGroup};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tracing::{error, info};

use self::disk::{Loaded, Readers};
use self::lease::{Deadlines, MAX_TTL, MIN_TTL, Renewed};
use self::ring::Ring;
use self::watch::Hub;
use self::writer::{Command, Rest, Shared, Writer};
use crate::{
    Error, KeyRange, Lease, LeaseId, LeaseStatus, RangeRequest, RangeResponse, Result, Revision, Store, StoreSize,
    TxnRequest, TxnResponse, WatchRequest, Watcher,
};

/// When history is discarded without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keeps at least this much of the past (and up to a fifth more).
    Periodic(Duration),
    /// Keeps at least this many revisions; looked at every minute.
    Revisions(i64),
}

/// How to open a [`SqliteStore`]. [`SqliteConfig::new`] fills in the defaults.
#[derive(Clone)]
pub struct SqliteConfig {
    /// The database file; `-wal`, `-shm` and `.lock` files lie beside it. Its directory is created if need be.
    pub path: PathBuf,
    pub clock: SharedClock,
    /// Keys whose writes are acknowledged from memory and may be lost in a crash (none by default). A transaction is of
    /// this class when all it could write is.
    pub relaxed_prefixes: Vec<Bytes>,
    /// How long a relaxed write may stay off the disk.
    pub relaxed_flush: Duration,
    pub auto_compaction: AutoCompaction,
    /// Bounds of the events kept in memory for watches and recent revisions.
    pub ring_events: usize,
    pub ring_bytes: usize,
    /// Batches that a watcher may leave unread before it falls behind.
    pub watch_buffer: usize,
    /// How long after a write watchers that ask for progress are told of it.
    pub progress_interval: Duration,
    /// Keys and values of one transaction.
    pub max_request_bytes: usize,
    /// The largest the database file may become; beyond it writes fail with [`Error::NoSpace`].
    pub quota_bytes: Option<u64>,
    /// Pages of 8 KiB in the WAL after which it is written back to the database.
    pub checkpoint_pages: u32,
}

impl SqliteConfig {
    pub fn new(path: impl Into<PathBuf>, clock: SharedClock) -> Self {
        Self {
            path: path.into(),
            clock,
            relaxed_prefixes: Vec::new(),
            relaxed_flush: Duration::from_secs(10),
            auto_compaction: AutoCompaction::Periodic(Duration::from_secs(5 * 60)),
            ring_events: 16 * 1024,
            ring_bytes: 8 << 20,
            watch_buffer: 64,
            progress_interval: Duration::from_millis(250),
            // etcd's.
            max_request_bytes: 3 << 19,
            quota_bytes: None,
            checkpoint_pages: 2048,
        }
    }
}

/// The store. Dropping it without [`Store::close`] flushes too, but blocks while it does.
pub struct SqliteStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
    writer: Mutex<Option<JoinHandle<()>>>,
    relaxed: Vec<KeyRange>,
}

impl SqliteStore {
    /// Opens or creates the database, reads the current state, and starts the writer.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::NoSpace`], [`Error::Database`].
    pub async fn open(config: SqliteConfig) -> Result<Arc<Self>> {
        let path = config.path.clone();
        let quota = config.quota_bytes;
        let started = config.clock.instant();
        let opened = tokio::task::spawn_blocking(move || {
            let lock = disk::lock(&path)?;
            let conn = disk::open(&path, quota)?;
            let loaded = disk::load(&conn, &path)?;
            Ok((lock, conn, loaded))
        });
        let (lock, mut conn, loaded) = opened.await.map_err(|e| Error::Database(e.to_string()))??;
        let Loaded { identity, alarms, snapshot, index, leases, reserved, swept } = loaded;

        let mut deadlines = Deadlines::default();
        for (id, remaining) in leases {
            let ttl = snapshot.leases.get(&id).map_or(remaining, |record| record.ttl);
            deadlines.set(id, ttl, remaining, config.clock.instant());
        }
        info!(
            path = %config.path.display(), revision = snapshot.revision, keys = snapshot.kvs.len(),
            took = ?config.clock.instant().saturating_duration_since(started), "store opened"
        );
        let relaxed = config.relaxed_prefixes.iter().cloned().map(KeyRange::prefix).collect();
        let ring = Ring::new(snapshot.revision, config.ring_events, config.ring_bytes);
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            hub: Mutex::new(Hub::new(ring)),
            index: Mutex::new(index),
            deadlines: Mutex::new(deadlines),
            readers: Readers::new(config.path.clone()),
            tasks: TaskGroup::new(),
            identity,
            alarms: Mutex::new(alarms),
            full: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            moved: Notify::new(),
            unflushed: Notify::new(),
            leases: Notify::new(),
            wal_grown: Notify::new(),
            wal_pages: AtomicU32::new(0),
            config,
        });

        let (queue, commands) = mpsc::channel();
        let runtime = tokio::runtime::Handle::current();
        let for_writer = Arc::clone(&shared);
        let thread = move || {
            // Watchers that fall behind are resumed by tasks.
            let _entered = runtime.enter();
            let mut rest = Rest { unflushed: Vec::new(), reserved, swept };
            let mut opened = mend::count_pages(&for_writer, &mut conn).map(|()| conn);
            loop {
                let conn = match opened {
                    Ok(conn) => conn,
                    Err(error) => {
                        error!(%error, "the writer cannot start");
                        break;
                    }
                };
                let path = for_writer.config.path.clone();
                let ended = match Writer::new(Arc::clone(&for_writer), &conn, &path, rest) {
                    Ok(writer) => writer.run(&commands),
                    Err(error) => {
                        error!(%error, "the writer cannot start");
                        None
                    }
                };
                if let Err((_, error)) = conn.close() {
                    error!(%error, "closing the database failed");
                }
                let Some((kept, error)) = ended else { break };
                rest = kept;
                match mend::mend(&for_writer, &commands, &mut rest, &error) {
                    Some(conn) => opened = Ok(conn),
                    None => break,
                }
            }
            drop(lock);
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(thread)
            .map_err(|e| Error::Database(format!("starting the writer thread: {e}")))?;
        tasks::start(&shared, &queue);
        Ok(Arc::new(Self { shared, queue, writer: Mutex::new(Some(thread)), relaxed }))
    }

    fn open_or_closed(&self) -> Result<()> {
        if self.shared.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Sends a command to the writer and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        ask(&self.queue, command).await
    }

    /// Ends everything that could use the writer, and the writer. Returns its thread, which is about to end.
    fn stop(&self) -> Option<JoinHandle<()>> {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.hub.lock().close();
        self.shared.tasks.token().cancel();
        let thread = self.writer.lock().take();
        // It may have ended already.
        self.queue.send(Command::Shutdown).ok();
        thread
    }
}

async fn ask<T>(
    queue: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    queue.send(command(reply)).map_err(|_| Error::Closed)?;
    answer.await.map_err(|_| Error::Closed)?
}

#[async_trait]
impl Store for SqliteStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        self.open_or_closed()?;
        if request.range.start.is_empty() {
            return Err(Error::EmptyKey);
        }
        {
            let snapshot = self.shared.snapshot.load();
            if request.revision <= 0 || request.revision == snapshot.revision {
                return Ok(snapshot.range(&request));
            }
            apply::readable(&snapshot, request.revision)?;
        }
        let rewound = {
            let hub = self.shared.hub.lock();
            let snapshot = self.shared.snapshot.load();
            let in_ring = request.revision >= hub.ring.base();
            in_ring.then(|| {
                let kvs = snapshot.rewind(&request.range, request.revision, hub.ring.newest_first());
                (snapshot.revision, kvs)
            })
        };
        if let Some((revision, kvs)) = rewound {
            return Ok(state::select(&request, revision, kvs.iter()));
        }
        let shared = Arc::clone(&self.shared);
        let read = move || {
            let snapshot = shared.snapshot.load_full();
            shared.readers.with(|conn| history::range(&shared, conn, &snapshot, &request))
        };
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::Database(e.to_string()))?
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse> {
        self.open_or_closed()?;
        apply::validate(&request, self.shared.config.max_request_bytes)?;
        // Reading the published state is linearizable: everything acknowledged is in it.
        if let Some(response) = apply::read_only(&self.shared.snapshot.load(), &request) {
            return Ok(response);
        }
        let relaxed = apply::writes_only_under(&request, &self.relaxed);
        self.ask(|reply| Command::Txn { request, relaxed, reply }).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watcher> {
        self.open_or_closed()?;
        watch::open(&self.shared, request)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.open_or_closed()?;
        self.ask(|reply| Command::Compact { revision, reply }).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<Lease> {
        self.open_or_closed()?;
        if ttl_seconds > MAX_TTL {
            return Err(Error::LeaseTtlTooLarge);
        }
        let ttl = ttl_seconds.max(MIN_TTL);
        if id != 0 {
            return self.ask(|reply| Command::Grant { id, ttl, reply }).await;
        }
        loop {
            let id = (rand::random::<u64>() >> 1) as LeaseId;
            match self.ask(|reply| Command::Grant { id: id.max(1), ttl, reply }).await {
                Err(Error::LeaseExists(_)) => {}
                other => return other,
            }
        }
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<Revision> {
        self.open_or_closed()?;
        self.ask(|reply| Command::Revoke { id, reply }).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.open_or_closed()?;
        let ttl = match self.shared.snapshot.load().leases.get(&id) {
            Some(record) => record.ttl,
            None => return Err(Error::LeaseNotFound(id)),
        };
        loop {
            let renewed = self.shared.deadlines.lock().renew(id, self.shared.config.clock.instant());
            match renewed {
                Renewed::Yes => return Ok(Lease { id, ttl_seconds: ttl }),
                Renewed::Unknown => return Err(Error::LeaseNotFound(id)),
                Renewed::MustPersist => {
                    self.ask(|reply| Command::PersistLeases { leases: vec![(id, ttl, ttl)], reply }).await?;
                }
            }
        }
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseStatus> {
        self.open_or_closed()?;
        let snapshot = self.shared.snapshot.load();
        let remaining_seconds = self.shared.deadlines.lock().remaining(id, self.shared.config.clock.instant());
        Ok(match snapshot.leases.get(&id) {
            Some(record) => LeaseStatus {
                lease: Lease { id, ttl_seconds: record.ttl },
                remaining_seconds,
                keys: record.keys.iter().cloned().collect(),
            },
            None => LeaseStatus { lease: Lease { id, ttl_seconds: 0 }, remaining_seconds: -1, keys: Vec::new() },
        })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.open_or_closed()?;
        Ok(self.shared.snapshot.load().leases.keys().copied().collect())
    }

    fn revision(&self) -> Revision {
        self.shared.snapshot.load().revision
    }

    fn compacted_revision(&self) -> Revision {
        self.shared.snapshot.load().compacted
    }

    async fn size(&self) -> Result<StoreSize> {
        self.open_or_closed()?;
        let shared = Arc::clone(&self.shared);
        let read = move || {
            shared.readers.with(|conn| {
                let pragma = |name: &str| -> Result<u64> {
                    conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0))
                        .map(u64::from)
                        .map_err(|e| disk::db_error(shared.readers.path(), e))
                };
                let (page, pages, free) = (pragma("page_size")?, pragma("page_count")?, pragma("freelist_count")?);
                Ok(StoreSize { bytes: page * pages, bytes_in_use: page * (pages - free.min(pages)) })
            })
        };
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::Database(e.to_string()))?
    }

    async fn close(&self) -> Result<()> {
        let thread = self.stop();
        self.shared.tasks.stop().await;
        self.shared.readers.clear();
        let Some(thread) = thread else { return Ok(()) };
        let ended = tokio::task::spawn_blocking(move || thread.join()).await;
        match ended {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Database("the writer thread panicked".into())),
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if let Some(thread) = self.stop() {
            self.shared.readers.clear();
            // A panic of the writer has been reported by the panic hook.
            thread.join().ok();
        }
    }
}
