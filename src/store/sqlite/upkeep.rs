//! What keeps the files bounded: sweeping compacted history, returning pages, checkpointing the WAL.
//!
//! Invariants:
//! - UP-1: a sweep removes only versions that a later one before the compacted revision has superseded: what a read or a
//!   watch at the compacted revision or later needs, previous values included, stays.
//! - UP-2: a step takes some milliseconds; writers never wait for more than one.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use component_base::Clock;
use rusqlite::Connection;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::disk::{SUB_BITS, Statements, connect, db_error};
use super::state::Snapshot;
use super::writer::Shared;
use crate::{Error, Result, Revision};

/// The least time between two steps when writers are waiting.
const PAUSE: Duration = Duration::from_millis(50);
/// Revisions that may wait to be swept before the pauses get shorter.
const FAR_BEHIND: Revision = 200_000;
/// After an error, so that a full disk is not a busy loop.
const RETRY: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(8);
const ROWS: usize = 256;
const VACUUM_PAGES: u32 = 128;

pub(crate) struct Upkeep {
    /// Rows up to this id are swept.
    swept: i64,
    vacuum: bool,
    last_step: Option<Instant>,
    not_before: Option<Instant>,
    /// Who waits for the end of the sweep, and for the return of all free pages.
    until_swept: Vec<Waiter>,
    until_small: Vec<Waiter>,
}

type Waiter = oneshot::Sender<Result<()>>;

impl Upkeep {
    pub(crate) fn new(swept: i64) -> Self {
        Self {
            swept,
            vacuum: true,
            last_step: None,
            not_before: None,
            until_swept: Vec::new(),
            until_small: Vec::new(),
        }
    }

    pub(crate) fn pending(&self, working: &Snapshot) -> bool {
        let waited_for = !self.until_swept.is_empty() || !self.until_small.is_empty();
        self.not_before.is_none() && (waited_for || self.vacuum || self.swept < end_of(sweep_target(working)))
    }

    pub(crate) fn when_swept(&mut self, waiter: Waiter) {
        self.until_swept.push(waiter);
        self.not_before = None;
    }

    pub(crate) fn defragment(&mut self, waiter: Waiter) {
        self.until_small.push(waiter);
        self.vacuum = true;
        self.not_before = None;
    }

    /// Whether a step is due although commands are waiting.
    pub(crate) fn is_due(&self, working: &Snapshot, now: Instant) -> bool {
        // Writers that outrun the sweep for long have to pay for it, or the file would grow without end.
        let behind = sweep_target(working) - (self.swept >> SUB_BITS);
        let pause = if behind > FAR_BEHIND { PAUSE / 5 } else { PAUSE };
        self.last_step.is_none_or(|last| now.saturating_duration_since(last) >= pause)
    }

    pub(crate) fn swept(&self) -> i64 {
        self.swept
    }

    /// `Some`: the disk has failed.
    pub(crate) fn step(
        &mut self,
        shared: &Shared,
        conn: &Connection,
        statements: &mut Statements<'_>,
        working: &Snapshot,
    ) -> Option<Error> {
        let started = shared.config.clock.instant();
        let target = sweep_target(working);
        let result = if self.swept < end_of(target) {
            self.sweep(shared, statements, target, started)
        } else {
            answer(&mut self.until_swept, Ok(()));
            self.vacuum(shared, conn)
        };
        let now = shared.config.clock.instant();
        self.last_step = Some(now);
        let error = result.err()?;
        warn!(%error, "upkeep of the database failed");
        self.not_before = Some(now + RETRY);
        answer(&mut self.until_swept, Err(error.clone()));
        answer(&mut self.until_small, Err(error.clone()));
        (!matches!(error, Error::NoSpace)).then_some(error)
    }

    /// Called when anything else happens: after an error upkeep resumes with the first command after a while.
    pub(crate) fn wake(&mut self, clock: &dyn Clock) {
        if self.not_before.is_some_and(|at| clock.instant() >= at) {
            self.not_before = None;
        }
    }

    fn sweep(
        &mut self,
        shared: &Shared,
        statements: &mut Statements<'_>,
        target: Revision,
        started: Instant,
    ) -> Result<()> {
        let mut swept = self.swept;
        let mut done = Vec::new();
        let (mut finished, mut read_error) = (false, None);
        statements.transaction(|statements| {
            loop {
                let rows = match statements.sweep_rows(swept, target, ROWS) {
                    Ok(rows) => rows,
                    Err(error) => {
                        read_error = Some(error);
                        break;
                    }
                };
                for row in &rows {
                    statements.sweep_one(row)?;
                }
                finished = rows.len() < ROWS;
                swept = if finished { end_of(target) } else { rows.last().map_or(swept, |row| row.id) };
                done.extend(rows);
                if finished || shared.config.clock.instant().saturating_duration_since(started) >= STEP {
                    break;
                }
            }
            statements.set_meta("swept", swept)
        })?;
        let mut index = shared.index.lock();
        for row in &done {
            index.swept(row);
        }
        drop(index);
        self.swept = swept;
        self.vacuum |= finished;
        debug!(rows = done.len(), finished, target, "swept history");
        read_error.map_or(Ok(()), Err)
    }

    /// Returns free pages to the file system, but keeps some for the writes to come.
    fn vacuum(&mut self, shared: &Shared, conn: &Connection) -> Result<()> {
        let fail = |e| db_error(shared.readers.path(), e);
        let pragma = |name: &str| -> Result<u32> {
            conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).map_err(fail)
        };
        let (free, pages) = (pragma("freelist_count")?, pragma("page_count")?);
        let keep = if self.until_small.is_empty() { (pages / 4).max(VACUUM_PAGES) } else { 0 };
        if free <= keep {
            self.vacuum = false;
            if !self.until_small.is_empty() {
                // The file shrinks when the WAL is written back.
                passive_checkpoint(conn).map_err(fail)?;
                answer(&mut self.until_small, Ok(()));
            }
            return Ok(());
        }
        let release = VACUUM_PAGES.min(free - keep);
        let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({release})")).map_err(fail)?;
        let mut rows = statement.query([]).map_err(fail)?;
        while rows.next().map_err(fail)?.is_some() {}
        Ok(())
    }

    /// The writer's part of a checkpoint: the few pages since the helper's, so that the next write starts the WAL over.
    pub(crate) fn checkpoint(&mut self, shared: &Shared, conn: &Connection) {
        if shared.wal_pages.load(Ordering::Relaxed) >= shared.config.checkpoint_pages {
            self.relieve(shared, conn);
        }
    }

    pub(crate) fn relieve(&mut self, shared: &Shared, conn: &Connection) {
        if let Err(error) = passive_checkpoint(conn) {
            warn!(error = %db_error(shared.readers.path(), error), "checkpoint failed");
        }
    }
}

fn answer(waiters: &mut Vec<Waiter>, result: Result<()>) {
    for waiter in waiters.drain(..) {
        // Whoever asked may have gone.
        waiter.send(result.clone()).ok();
    }
}

/// The helper's part of a checkpoint, beside the writer: again until what the writer has added meanwhile is little, but
/// not for ever if the writer is faster. Blocking.
pub(crate) fn checkpoint_beside(shared: &Shared) -> Result<()> {
    const LITTLE: u32 = 128;
    const ROUNDS: usize = 4;
    let conn = connect(shared.readers.path())?;
    for _ in 0..ROUNDS {
        let done = passive_checkpoint(&conn).map_err(|e| db_error(shared.readers.path(), e))?;
        if shared.wal_pages.load(Ordering::Relaxed).saturating_sub(done) <= LITTLE {
            break;
        }
    }
    Ok(())
}

/// Returns how many pages of the WAL are in the database now.
fn passive_checkpoint(conn: &Connection) -> rusqlite::Result<u32> {
    let done: i64 = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2))?;
    Ok(u32::try_from(done).unwrap_or(0))
}

/// The last revision to sweep: at the compacted revision itself previous values are still needed (UP-1).
fn sweep_target(working: &Snapshot) -> Revision {
    (working.compacted - 1).max(0)
}

fn end_of(revision: Revision) -> i64 {
    if revision == 0 { 0 } else { ((revision + 1) << SUB_BITS) - 1 }
}
