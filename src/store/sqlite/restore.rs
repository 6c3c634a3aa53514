//! A database built from a snapshot, put in the place of the one that is there.
//!
//! Invariants:
//! - SN-3, SN-4 (see `snapshot`).
//! - RS-1: the new database appears whole, by one rename; the old one has a second name by then.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::disk::{self, SUB_BITS, Statements, corrupt, db_error, io_error};
use crate::snapshot::Reader;
use crate::{Error, Event, EventKind, Result, Revision};

/// How far behind a snapshot's revision the cluster may have gone before it was lost. As etcd's documentation advises.
const BUMP: Revision = 1_000_000_000;
/// Revisions must fit a row's id.
const MAX_REVISION: Revision = i64::MAX >> SUB_BITS;
const ROWS: usize = 1000;

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The revision that the snapshot was made at.
    pub snapshot_revision: crate::Revision,
    /// The revision that the database is at now.
    pub revision: Revision,
    pub keys: u64,
    /// Where the database is that was there before.
    pub kept: Option<PathBuf>,
}

pub(crate) fn restore(reader: Reader<'_>, database: &Path, stamp: &str) -> Result<Restored> {
    let _lock = disk::lock(database)?;
    let fresh = beside(database, ".restoring");
    remove(&fresh);
    let result = build(reader, &fresh, database).and_then(|mut restored| {
        restored.kept = replace(&fresh, database, stamp)?;
        Ok(restored)
    });
    remove(&fresh);
    result
}

fn build(mut reader: Reader<'_>, fresh: &Path, database: &Path) -> Result<Restored> {
    let info = reader.info;
    let before = if database.exists() { newest(database) } else { 0 };
    let revision = (info.revision + BUMP).max(before + 1);
    if revision >= MAX_REVISION {
        return Err(Error::Database(format!("{}: revision {revision} is beyond all bounds", database.display())));
    }
    let conn = disk::open(fresh, None)?;
    // The file is of no use before it is whole, and then it is synced.
    conn.execute_batch("PRAGMA synchronous=OFF").map_err(|e| db_error(fresh, e))?;
    {
        let mut statements = Statements::prepare(&conn, fresh)?;
        let mut leases = Vec::new();
        for _ in 0..info.leases {
            leases.push(reader.lease()?);
        }
        statements.transaction(|statements| {
            for saved in &leases {
                statements.set_lease(saved.lease.id, saved.lease.ttl_seconds, saved.remaining)?;
            }
            statements.set_meta("compacted", revision)?;
            // There is nothing to sweep: every row is the newest of its key.
            statements.set_meta("swept", (revision << SUB_BITS) - 1)
        })?;
        let (mut left, mut last, mut sub) = (info.keys, 0, 0);
        while left > 0 {
            let mut rows = Vec::with_capacity(ROWS);
            while left > 0 && rows.len() < ROWS {
                let kv = reader.key_value()?;
                sub = if kv.mod_revision == last { sub + 1 } else { 0 };
                if kv.mod_revision < last || kv.mod_revision > info.revision || sub >= disk::MAX_EVENTS {
                    return Err(corrupt(fresh, "the snapshot's keys are out of order".into()));
                }
                last = kv.mod_revision;
                rows.push((Event { kind: EventKind::Put, kv, prev_kv: None }, sub));
                left -= 1;
            }
            statements
                .transaction(|statements| rows.iter().try_for_each(|(event, sub)| statements.insert(event, *sub)))?;
        }
    }
    reader.finish()?;
    fold(&conn, fresh)?;
    conn.close().map_err(|(_, e)| db_error(fresh, e))?;
    File::open(fresh).and_then(|file| file.sync_all()).map_err(|e| io_error(fresh, &e))?;
    Ok(Restored { snapshot_revision: info.revision, revision, keys: info.keys, kept: None })
}

/// Writes the WAL back, after which the database is one file.
fn fold(conn: &Connection, path: &Path) -> Result<()> {
    let busy: i64 =
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(|e| db_error(path, e))?;
    if busy == 0 { Ok(()) } else { Err(Error::Locked { path: path.display().to_string() }) }
}

/// The highest revision that the database may have handed out; 0 if it cannot be read any more.
fn newest(database: &Path) -> Revision {
    let read = || -> Result<Revision> {
        let conn = disk::open(database, None)?;
        let of = |sql: &str| -> Result<Revision> {
            conn.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))
                .map(Option::unwrap_or_default)
                .map_err(|e| db_error(database, e))
        };
        let rows = of("SELECT max(id) FROM history")? >> SUB_BITS;
        let marks = of("SELECT max(value) FROM meta WHERE name IN ('reserved', 'compacted')")?;
        fold(&conn, database)?;
        Ok(rows.max(marks))
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(%error, "the database to be replaced cannot be read");
        0
    })
}

/// Gives the old database another name and the new one its own (RS-1).
fn replace(fresh: &Path, database: &Path, stamp: &str) -> Result<Option<PathBuf>> {
    let mut kept = None;
    if database.exists() {
        let name = beside(database, &format!(".before-restore-{stamp}"));
        // A WAL is left only by a database that could not be read: it is kept too.
        for suffix in ["", "-wal"] {
            let (from, to) = (beside(database, suffix), beside(&name, suffix));
            if from.exists() {
                std::fs::hard_link(&from, &to).map_err(|e| io_error(&to, &e))?;
            }
        }
        kept = Some(name);
    }
    for suffix in ["-wal", "-shm"] {
        let stale = beside(database, suffix);
        if stale.exists() {
            std::fs::remove_file(&stale).map_err(|e| io_error(&stale, &e))?;
        }
    }
    std::fs::rename(fresh, database).map_err(|e| io_error(database, &e))?;
    if let Some(folder) = database.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| io_error(folder, &e))?;
    }
    Ok(kept)
}

fn remove(fresh: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        // Usually not there.
        std::fs::remove_file(beside(fresh, suffix)).ok();
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
