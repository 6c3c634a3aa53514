//! What lies on disk: the schema, its rows, and how errors of SQLite become ours.
//!
//! Invariants:
//! - DK-1: `history` holds a prefix of the revisions: a revision is on disk only if all earlier ones are (or have been
//!   swept by compaction).
//! - DK-2: every row carries a checksum of all its columns; a row that does not match is never served. A row that is
//!   missing is noticed when the database is opened, if a later version of its key is there.
//! - DK-3: no revision above the persisted reservation is handed out before it is on disk.

use std::collections::{BTreeSet, HashMap};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use imbl::{OrdMap, OrdSet};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Statement};

use super::history::VersionIndex;
use super::maintenance::ALARMS;
use super::state::{Item, LeaseRecord, Snapshot};
use super::wal;
use crate::{Alarm, Error, Event, EventKind, Identity, KeyValue, LeaseId, Result, Revision};

/// A row's id is `revision << SUB_BITS | position in the revision`: appends go to the end of the table.
pub(crate) const SUB_BITS: u32 = 20;
/// Events that one revision can hold.
pub(crate) const MAX_EVENTS: usize = 1 << SUB_BITS;

const APPLICATION_ID: i32 = 0x6b65_6467;
const FORMAT: i32 = 2;
const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE lease (
  id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, remaining INTEGER NOT NULL, sum INTEGER NOT NULL);
-- version 0 is a tombstone; prev is the revision of the version before, 0 if there is none.
CREATE TABLE history (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, create_revision INTEGER NOT NULL, version INTEGER NOT NULL,
  lease INTEGER NOT NULL, prev INTEGER NOT NULL, sum INTEGER NOT NULL, value BLOB NOT NULL);
";

/// What was read at start.
pub(crate) struct Loaded {
    pub(crate) identity: Identity,
    pub(crate) alarms: BTreeSet<Alarm>,
    pub(crate) snapshot: Snapshot,
    pub(crate) index: VersionIndex,
    /// Remaining seconds.
    pub(crate) leases: Vec<(LeaseId, i64)>,
    pub(crate) reserved: Revision,
    /// Rows up to this id have been swept by compaction.
    pub(crate) swept: i64,
}

/// Takes the lock that keeps a second process out. It is released when the file is closed.
pub(crate) fn lock(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io_error(dir, &e))?;
        // SQLite syncs the directory of its files; what that directory lies in is ours.
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(|e| io_error(parent, &e))?;
        }
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(|e| io_error(&name, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.display().to_string() }),
        Err(TryLockError::Error(e)) => Err(io_error(&name, &e)),
    }
}

/// Opens, and if need be creates, the database for the writer.
pub(crate) fn open(path: &Path, quota_bytes: Option<u64>) -> Result<Connection> {
    // SQLite gives the WAL the mode of the database: values may be secrets.
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| io_error(path, &e))?;
    wal::check(path)?;
    let conn = connect(path)?;
    let fail = |e| db_error(path, e);
    let format: i32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail)?;
    let id: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(fail)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(fail)?;
    if tables == 0 {
        // Objects of 2 KiB fit a page of 4 KiB only once, and each page that is added writes three more (its parent, the
        // header, the map of the vacuum). Measured, bytes written to WAL and database for each such put: pages of 4 KiB
        // 20.4 KiB one at a time, 8.4 KiB in batches; 8 KiB 18.7 and 5.8; 16 KiB 25.2 and 5.6.
        conn.execute_batch("PRAGMA page_size=8192; PRAGMA auto_vacuum=INCREMENTAL").map_err(fail)?;
    } else if id != APPLICATION_ID {
        return Err(Error::Corrupt {
            path: path.display().to_string(),
            detail: "this is another program's database".into(),
        });
    } else if format != FORMAT {
        return Err(Error::Database(format!(
            "{}: format {format} is unknown to this program, which reads format {FORMAT}",
            path.display()
        )));
    }
    // The writer's helper runs checkpoints; the limit only cuts back a WAL that outgrew them.
    conn.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;
         PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-2048; PRAGMA cell_size_check=ON;",
    )
    .map_err(fail)?;
    if tables == 0 {
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT}; COMMIT"
        ))
        .map_err(fail)?;
    }
    // So that the log never holds what a former life has left behind its end (WL-1). It goes on without, if it must.
    if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::warn!(error = %db_error(path, error), "the log cannot be started over");
    }
    if let Some(bytes) = quota_bytes {
        let page: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(fail)?;
        let pages = (bytes / u64::from(page)).max(16);
        conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(())).map_err(fail)?;
    }
    Ok(conn)
}

/// A second connection: for history, sizes and checkpoints. It is not meant for writing.
pub(crate) fn connect(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|e| db_error(path, e))?;
    conn.busy_timeout(std::time::Duration::from_secs(5)).map_err(|e| db_error(path, e))?;
    conn.execute_batch("PRAGMA cache_size=-512").map_err(|e| db_error(path, e))?;
    Ok(conn)
}

/// Reads everything, oldest first: the newest version of each key is the state, the others are the history.
pub(crate) fn load(conn: &Connection, path: &Path) -> Result<Loaded> {
    let fail = |e| db_error(path, e);
    let meta = |name: &str| -> Result<i64> {
        let columns = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        match conn.query_row("SELECT value, sum FROM meta WHERE name=?1", [name], columns) {
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(0),
            Ok((value, sum)) if sum != checksum(&[value], &[name.as_bytes()]) => {
                Err(corrupt(path, format!("the mark {name:?} does not match its checksum")))
            }
            other => other.map(|(value, _)| value).map_err(fail),
        }
    };
    let (compacted, reserved, swept) = (meta("compacted")?, meta("reserved")?, meta("swept")?);
    let id = |name: &str| -> Result<u64> {
        let known = meta(name)?;
        if known != 0 {
            return Ok(known.cast_unsigned());
        }
        let id = rand::random::<u64>().max(1);
        let (value, name_bytes) = (id.cast_signed(), name.as_bytes());
        conn.execute(SET_META, (name, value, checksum(&[value], &[name_bytes]))).map_err(fail)?;
        Ok(id)
    };
    let identity = Identity { cluster_id: id("cluster")?, member_id: id("member")? };
    let mut alarms = BTreeSet::new();
    for (alarm, name) in ALARMS {
        if meta(name)? != 0 {
            alarms.insert(alarm);
        }
    }

    let mut index = VersionIndex::default();
    let mut live: HashMap<Bytes, Arc<KeyValue>> = HashMap::new();
    let mut last_id = 0;
    let mut statement = conn.prepare(&format!("{SELECT_ROWS} ORDER BY id")).map_err(fail)?;
    let mut rows = statement.query([]).map_err(fail)?;
    while let Some(row) = rows.next().map_err(fail)? {
        let row = HistoryRow::read(row, path)?;
        if row.id <= last_id {
            return Err(corrupt(path, format!("row {} is out of order", row.id)));
        }
        last_id = row.id;
        let revision = row.id >> SUB_BITS;
        // What the sweep has not come to yet has its version before it.
        let before = live.get(row.key).map_or(0, |kv| kv.mod_revision);
        if before != row.prev && (row.id > swept || before != 0) {
            return Err(corrupt(
                path,
                format!("row {} follows revision {} of its key, but found is {before}", row.id, row.prev),
            ));
        }
        let old = if row.version == 0 {
            live.remove(row.key)
        } else {
            let kv = row.to_key_value();
            live.insert(kv.key.clone(), Arc::new(kv))
        };
        if let Some(old) = old {
            index.superseded(&old.key, old.mod_revision);
        }
        if row.version == 0 {
            index.deleted(row.key, revision);
        }
    }

    let mut leases = Vec::new();
    let mut records: OrdMap<LeaseId, LeaseRecord> = OrdMap::new();
    let mut statement = conn.prepare("SELECT id, ttl, remaining, sum FROM lease").map_err(fail)?;
    let mut rows = statement.query([]).map_err(fail)?;
    while let Some(row) = rows.next().map_err(fail)? {
        let get = |i: usize| row.get::<_, i64>(i).map_err(fail);
        if get(3)? != checksum(&[get(0)?, get(1)?, get(2)?], &[]) {
            return Err(corrupt(path, format!("lease {:016x} does not match its checksum", get(0)?)));
        }
        records.insert(get(0)?, LeaseRecord { ttl: get(1)?, keys: OrdSet::new() });
        leases.push((get(0)?, get(2)?));
    }
    for kv in live.values().filter(|kv| kv.lease != 0) {
        match records.get_mut(&kv.lease) {
            Some(record) => drop(record.keys.insert(kv.key.clone())),
            None => return Err(corrupt(path, format!("lease {:016x} of a key is missing", kv.lease))),
        }
    }
    let mut items: Vec<Item> = live.into_values().map(Item).collect();
    items.sort_unstable();
    // etcd's empty store is at revision 1.
    let revision = (last_id >> SUB_BITS).max(reserved).max(compacted).max(1);
    let snapshot = Snapshot { revision, compacted, kvs: items.into_iter().collect(), leases: records };
    Ok(Loaded { identity, alarms, snapshot, index, leases, reserved, swept })
}

const SELECT_ROWS: &str = "SELECT id, key, create_revision, version, lease, prev, sum, value FROM history";

/// Every step is a bijection of the state, so that a change within any one word is always seen.
fn checksum(numbers: &[i64], blobs: &[&[u8]]) -> i64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = 0x6b65_6467_u64;
    let mut mix = |word: u64| state = (state ^ word).wrapping_mul(K).rotate_left(29);
    for number in numbers {
        mix(*number as u64);
    }
    for bytes in blobs {
        mix(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(u64::from_le_bytes(last));
    }
    ((state ^ (state >> 32)) & 0xffff_ffff) as i64
}

const SET_META: &str = "INSERT OR REPLACE INTO meta VALUES (?1, ?2, ?3)";

/// A row, still in SQLite's page.
struct HistoryRow<'r> {
    id: i64,
    key: &'r [u8],
    create_revision: Revision,
    version: i64,
    lease: LeaseId,
    prev: Revision,
    value: &'r [u8],
}

impl<'r> HistoryRow<'r> {
    fn read(row: &'r Row<'_>, path: &Path) -> Result<Self> {
        let parse = || -> rusqlite::Result<(Self, i64)> {
            let this = Self {
                id: row.get(0)?,
                key: row.get_ref(1)?.as_blob()?,
                create_revision: row.get(2)?,
                version: row.get(3)?,
                lease: row.get(4)?,
                prev: row.get(5)?,
                value: row.get_ref(7)?.as_blob()?,
            };
            Ok((this, row.get(6)?))
        };
        let (this, sum) = parse().map_err(|e| corrupt(path, format!("unreadable row: {e}")))?;
        if this.sum() != sum {
            return Err(corrupt(path, format!("row {} does not match its checksum", this.id)));
        }
        Ok(this)
    }

    fn sum(&self) -> i64 {
        checksum(&[self.id, self.create_revision, self.version, self.lease, self.prev], &[self.key, self.value])
    }

    /// Copies key and value into one allocation.
    fn to_key_value(&self) -> KeyValue {
        let mut both = BytesMut::with_capacity(self.key.len() + self.value.len());
        both.extend_from_slice(self.key);
        both.extend_from_slice(self.value);
        let mut value = both.freeze();
        let key = value.split_to(self.key.len());
        KeyValue {
            key,
            value,
            create_revision: self.create_revision,
            mod_revision: self.id >> SUB_BITS,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// An event without its previous value, and the revision of that.
pub(crate) struct StoredEvent {
    pub(crate) id: i64,
    pub(crate) kind: EventKind,
    pub(crate) kv: KeyValue,
    pub(crate) prev: Revision,
}

/// Calls `each` with the key of every row from revision `from` to `to`; what it wants is read and given to `take`,
/// which says whether to go on. Stops between revisions only. Returns the last whole revision covered.
pub(crate) fn scan(
    conn: &Connection,
    path: &Path,
    (from, to): (Revision, Revision),
    max_rows: usize,
    mut wants: impl FnMut(&[u8]) -> bool,
    mut take: impl FnMut(StoredEvent) -> bool,
) -> Result<Revision> {
    let fail = |e| db_error(path, e);
    let mut statement = conn.prepare(&format!("{SELECT_ROWS} WHERE id>=?1 AND id<?2 ORDER BY id")).map_err(fail)?;
    let mut rows = statement.query((from << SUB_BITS, (to + 1) << SUB_BITS)).map_err(fail)?;
    let (mut seen, mut last, mut full) = (0, 0, false);
    while let Some(row) = rows.next().map_err(fail)? {
        let revision = row.get::<_, i64>(0).map_err(fail)? >> SUB_BITS;
        if (full || seen >= max_rows) && revision != last {
            return Ok(last);
        }
        (seen, last) = (seen + 1, revision);
        let key = row.get_ref(1).map_err(fail)?;
        if !wants(key.as_blob().map_err(|e| corrupt(path, e.to_string()))?) {
            continue;
        }
        let row = HistoryRow::read(row, path)?;
        let kind = if row.version == 0 { EventKind::Delete } else { EventKind::Put };
        full |= !take(StoredEvent { id: row.id, kind, kv: row.to_key_value(), prev: row.prev });
    }
    Ok(to)
}

/// Reads the value that `key` got at `revision`.
pub(crate) fn version(conn: &Connection, path: &Path, key: &[u8], revision: Revision) -> Result<Option<KeyValue>> {
    let fail = |e| db_error(path, e);
    let mut statement = conn
        .prepare(&format!("{SELECT_ROWS} WHERE id>=?1 AND id<?2 AND key=?3 AND version>0 ORDER BY id DESC LIMIT 1"))
        .map_err(fail)?;
    let mut rows = statement.query((revision << SUB_BITS, (revision + 1) << SUB_BITS, key)).map_err(fail)?;
    match rows.next().map_err(fail)? {
        Some(row) => Ok(Some(HistoryRow::read(row, path)?.to_key_value())),
        None => Ok(None),
    }
}

/// The writer's statements, prepared once.
pub(crate) struct Statements<'c> {
    path: &'c Path,
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    insert: Statement<'c>,
    meta: Statement<'c>,
    lease: Statement<'c>,
    lease_drop: Statement<'c>,
    sweep: Statement<'c>,
    drop_version: Statement<'c>,
    drop_row: Statement<'c>,
}

/// A row that compaction looks at.
pub(crate) struct SweepRow {
    pub(crate) id: i64,
    pub(crate) key: Bytes,
    pub(crate) prev: Revision,
    pub(crate) tombstone: bool,
}

impl<'c> Statements<'c> {
    pub(crate) fn prepare(conn: &'c Connection, path: &'c Path) -> Result<Self> {
        let prepare = |sql| conn.prepare(sql).map_err(|e| db_error(path, e));
        Ok(Self {
            path,
            begin: prepare("BEGIN IMMEDIATE")?,
            commit: prepare("COMMIT")?,
            rollback: prepare("ROLLBACK")?,
            insert: prepare("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?,
            meta: prepare(SET_META)?,
            lease: prepare("INSERT OR REPLACE INTO lease VALUES (?1, ?2, ?3, ?4)")?,
            lease_drop: prepare("DELETE FROM lease WHERE id=?1")?,
            sweep: prepare("SELECT id, key, prev, version FROM history WHERE id>?1 AND id<?2 ORDER BY id LIMIT ?3")?,
            drop_version: prepare("DELETE FROM history WHERE id>=?1 AND id<?2 AND key=?3")?,
            drop_row: prepare("DELETE FROM history WHERE id=?1")?,
        })
    }

    /// Runs `body` in one durable transaction: all of it or nothing.
    pub(crate) fn transaction(&mut self, body: impl FnOnce(&mut Self) -> rusqlite::Result<()>) -> Result<()> {
        let path = self.path;
        self.begin.execute([]).map_err(|e| db_error(path, e))?;
        let result = body(self).and_then(|()| self.commit.execute([]).map(drop));
        result.map_err(|e| {
            // Fails when SQLite has rolled back by itself, which is as good.
            self.rollback.execute([]).ok();
            db_error(path, e)
        })
    }

    pub(crate) fn insert(&mut self, event: &Event, sub: usize) -> rusqlite::Result<()> {
        let kv = &event.kv;
        let row = HistoryRow {
            id: kv.mod_revision << SUB_BITS | sub as i64,
            key: &kv.key,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            prev: event.prev_kv.as_ref().map_or(0, |prev| prev.mod_revision),
            value: &kv.value,
        };
        let sum = row.sum();
        self.insert
            .execute((row.id, row.key, row.create_revision, row.version, row.lease, row.prev, sum, row.value))
            .map(drop)
    }

    pub(crate) fn set_meta(&mut self, name: &str, value: i64) -> rusqlite::Result<()> {
        self.meta.execute((name, value, checksum(&[value], &[name.as_bytes()]))).map(drop)
    }

    pub(crate) fn set_lease(&mut self, id: LeaseId, ttl: i64, remaining: i64) -> rusqlite::Result<()> {
        self.lease.execute((id, ttl, remaining, checksum(&[id, ttl, remaining], &[]))).map(drop)
    }

    pub(crate) fn drop_lease(&mut self, id: LeaseId) -> rusqlite::Result<()> {
        self.lease_drop.execute([id]).map(drop)
    }

    /// Takes back every revision after `revision`, and every lease.
    pub(crate) fn take_back(&self, conn: &Connection, revision: Revision) -> rusqlite::Result<()> {
        conn.execute("DELETE FROM history WHERE id>=?1", [(revision + 1) << SUB_BITS])?;
        conn.execute("DELETE FROM lease", []).map(drop)
    }

    /// The next rows after id `after` and not beyond `revision`.
    pub(crate) fn sweep_rows(&mut self, after: i64, revision: Revision, limit: usize) -> Result<Vec<SweepRow>> {
        let path = self.path;
        let rows = self.sweep.query_map((after, (revision + 1) << SUB_BITS, limit as i64), |row| {
            Ok(SweepRow {
                id: row.get(0)?,
                key: Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
                prev: row.get(2)?,
                tombstone: row.get::<_, i64>(3)? == 0,
            })
        });
        rows.and_then(Iterator::collect).map_err(|e| db_error(path, e))
    }

    /// Removes what `row` made unnecessary: the version before it, and itself if it is a tombstone.
    pub(crate) fn sweep_one(&mut self, row: &SweepRow) -> rusqlite::Result<()> {
        if row.prev != 0 {
            let end = ((row.prev + 1) << SUB_BITS).min(row.id);
            self.drop_version.execute((row.prev << SUB_BITS, end, row.key.as_ref()))?;
        }
        if row.tombstone {
            self.drop_row.execute([row.id])?;
        }
        Ok(())
    }
}

/// Reader connections, opened as needed and kept.
pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// Somebody has read what does not match its checksum.
    damaged: AtomicBool,
}

impl Readers {
    const KEPT: usize = 2;

    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()), damaged: AtomicBool::new(false) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Blocking.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let pooled = self.idle.lock().pop();
        let conn = match pooled {
            Some(conn) => conn,
            None => connect(&self.path)?,
        };
        let result = read(&conn);
        if let Err(error @ Error::Corrupt { .. }) = &result {
            if !self.damaged.swap(true, Ordering::Relaxed) {
                tracing::error!(%error, "the database is damaged: restore a snapshot");
            }
        }
        let mut idle = self.idle.lock();
        if result.is_ok() && idle.len() < Self::KEPT {
            idle.push(conn);
        }
        result
    }

    pub(crate) fn damaged(&self) -> &AtomicBool {
        &self.damaged
    }

    pub(crate) fn clear(&self) {
        self.idle.lock().clear();
    }
}

pub(crate) fn corrupt(path: &Path, detail: String) -> Error {
    Error::Corrupt { path: path.display().to_string(), detail }
}

pub(crate) fn db_error(path: &Path, error: rusqlite::Error) -> Error {
    // The WAL index could not grow: the only write error that SQLite does not call "full" when the disk is full.
    const IOERR_SHMSIZE: i32 = 10 | (19 << 8);
    match error.sqlite_error().map(|e| (e.code, e.extended_code)) {
        Some((ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)) => corrupt(path, error.to_string()),
        Some((ErrorCode::DiskFull, _) | (_, IOERR_SHMSIZE)) => Error::NoSpace,
        _ => Error::Database(format!("{}: {error}", path.display())),
    }
}

pub(crate) fn io_error(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::NoSpace,
        _ => Error::Database(format!("{}: {error}", path.display())),
    }
}
