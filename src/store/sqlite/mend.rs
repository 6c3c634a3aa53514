//! What the writer does when the disk fails: it stops, and starts again from what is certain.
//!
//! After a failed write or sync nobody knows what is on the disk: not of the transaction that failed, and the kernel may
//! call pages clean that it could not write. So nothing more is written through that connection. Reads go on from
//! memory. As soon as the database can be opened and written again, everything that was not acknowledged is taken back.
//!
//! Invariants:
//! - MD-1: between an I/O error and the repair nothing is acknowledged that writes.
//! - MD-2: after the repair the disk holds exactly what is published, less what of the relaxed class is not flushed yet.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;
use tracing::{debug, error, info};

use super::disk::{self, Statements, db_error};
use super::writer::{Command, Rest, Shared};
use crate::{Error, Result};

/// The least time between two attempts.
const RETRY: Duration = Duration::from_millis(500);

/// Opens the database for the writer.
pub(crate) fn connect(shared: &Arc<Shared>) -> Result<Connection> {
    let path = &shared.config.path;
    let mut conn = disk::open(path, shared.config.quota_bytes)?;
    count_pages(shared, &mut conn)?;
    Ok(conn)
}

/// Lets the checkpointer know how long the log is.
pub(crate) fn count_pages(shared: &Arc<Shared>, conn: &mut Connection) -> Result<()> {
    let pages = Arc::clone(shared);
    conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count: i32| {
        pages.wal_pages.store(count.unsigned_abs(), Ordering::Relaxed);
        Ok(())
    }))
    .map_err(|e| db_error(&shared.config.path, e))
}

/// Refuses commands until the database is well. `None`: shut down.
pub(crate) fn mend(
    shared: &Arc<Shared>,
    queue: &Receiver<Command>,
    rest: &mut Rest,
    broken: &Error,
) -> Option<Connection> {
    error!(error = %broken, "the disk fails: nothing is written until it is well again");
    let mut error = broken.clone();
    let mut tried = shared.config.clock.instant();
    loop {
        match queue.recv_timeout(RETRY) {
            Ok(Command::Shutdown) | Err(RecvTimeoutError::Disconnected) => return None,
            Ok(command) => {
                command.refuse(&Error::Unavailable { detail: error.to_string() });
                let now = shared.config.clock.instant();
                if now.saturating_duration_since(tried) < RETRY {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        tried = shared.config.clock.instant();
        shared.readers.clear();
        match connect(shared).and_then(|conn| take_back(shared, &conn, rest).map(|()| conn)) {
            Ok(conn) => {
                info!("the disk is well again");
                if !rest.unflushed.is_empty() {
                    shared.unflushed.notify_one();
                }
                return Some(conn);
            }
            Err(found) => {
                debug!(error = %found, "the disk still fails");
                let damaged = matches!(found, Error::Corrupt { .. });
                if damaged && !shared.readers.damaged().swap(true, Ordering::Relaxed) {
                    error!(error = %found, "the database is damaged");
                }
                error = found;
            }
        }
    }
}

/// Makes the disk what memory says (MD-2), which also shows that it can be written.
fn take_back(shared: &Shared, conn: &Connection, rest: &mut Rest) -> Result<()> {
    let snapshot = shared.snapshot.load_full();
    let on_disk = rest.unflushed.first().map_or(snapshot.revision, |event| event.kv.mod_revision - 1);
    let now = shared.config.clock.instant();
    let leases: Vec<_> = {
        let deadlines = shared.deadlines.lock();
        let left = |id| (deadlines.remaining(id, now) + 1).max(0);
        snapshot.leases.iter().map(|(id, record)| (*id, record.ttl, left(*id).min(record.ttl))).collect()
    };
    let mut statements = Statements::prepare(conn, &shared.config.path)?;
    statements.transaction(|statements| {
        statements.take_back(conn, on_disk)?;
        for (id, ttl, remaining) in &leases {
            statements.set_lease(*id, *ttl, *remaining)?;
        }
        statements.set_meta("compacted", snapshot.compacted)?;
        statements.set_meta("reserved", rest.reserved)?;
        statements.set_meta("swept", rest.swept)
    })?;
    let mut deadlines = shared.deadlines.lock();
    for (id, _, remaining) in leases {
        deadlines.persisted(id, remaining);
    }
    Ok(())
}
