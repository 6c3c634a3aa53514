//! A consistent copy of the store as an etcd database file, so that etcd's own tools can check and restore it.
//!
//! Invariants:
//! - BK-1: the file holds what etcd would hold after the same history: versions that compaction has discarded are left
//!   out even if they are still in SQLite.

use std::fs::OpenOptions;
use std::io::{self, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use prost::Message;
use rusqlite::Connection;

use super::bolt;
use super::disk;
use super::maintenance::{each_row, etcd_revision, etcd_row, kept};
use super::writer::Shared;
use crate::{Backup, Error, Result, Revision};

/// A lease as etcd keeps it.
#[derive(Clone, PartialEq, Message)]
struct LeaseRecord {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining: i64,
}

/// Either side's error; the file's are about space.
struct Failed(Error);

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace,
            _ => Error::Database(format!("writing a backup: {error}")),
        })
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// Writes the file beside the database. Within a transaction; blocking.
pub(super) fn write(shared: &Shared, conn: &Connection, revision: Revision) -> Result<Backup> {
    write_all(shared, conn, revision).map_err(|Failed(error)| error)
}

fn write_all(shared: &Shared, conn: &Connection, revision: Revision) -> Result<Backup, Failed> {
    let snapshot = shared.snapshot.load_full();
    let compacted = snapshot.compacted;
    let mut file = unlinked(shared.readers.path())?;
    let mut out = bolt::File::new(&mut file)?;
    for name in ["alarm", "auth", "authRoles", "authUsers", "cluster"] {
        out.bucket(name, |_| Ok::<_, Failed>(()))?;
    }
    let keep = if compacted > 0 { kept(shared, conn, compacted)? } else { Default::default() };
    out.bucket("key", |bucket| {
        let mut failed = None;
        each_row(shared, conn, revision, |event| {
            let swept = event.kv.mod_revision <= compacted && keep.get(event.kv.key.as_ref()) != Some(&event.id);
            if !swept && failed.is_none() {
                let (key, value) = etcd_row(event);
                failed = bucket.add(&key, &value).err();
            }
        })?;
        failed.map_or(Ok(()), |error| Err(Failed::from(error)))
    })?;
    drop(keep);
    let now = shared.config.clock.instant();
    out.bucket("lease", |bucket| {
        // Ordered as their unsigned keys are.
        let mut leases: Vec<_> = snapshot.leases.iter().collect();
        leases.sort_unstable_by_key(|(id, _)| id.cast_unsigned());
        for (id, record) in leases {
            let remaining = shared.deadlines.lock().remaining(*id, now).max(0);
            let record = LeaseRecord { id: *id, ttl: record.ttl, remaining };
            bucket.add(&id.to_be_bytes(), &record.encode_to_vec())?;
        }
        Ok::<_, Failed>(())
    })?;
    for name in ["members", "members_removed"] {
        out.bucket(name, |_| Ok::<_, Failed>(()))?;
    }
    out.bucket("meta", |bucket| {
        bucket.add(b"consistent_index", &revision.to_be_bytes())?;
        if compacted > 0 {
            bucket.add(b"finishedCompactRev", &etcd_revision(compacted, 0))?;
            bucket.add(b"scheduledCompactRev", &etcd_revision(compacted, 0))?;
        }
        Ok::<_, Failed>(())
    })?;
    let bytes = out.finish()?;
    file.rewind()?;
    Ok(Backup { file, bytes, revision })
}

/// A file on the disk of the database that is gone when it is closed, however that happens.
fn unlinked(database: &Path) -> Result<std::fs::File, Failed> {
    let mut name = database.as_os_str().to_owned();
    name.push(format!(".backup-{:016x}", rand::random::<u64>()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&name)?;
    std::fs::remove_file(&name).map_err(disk_error(Path::new(&name)))?;
    Ok(file)
}

fn disk_error(path: &Path) -> impl Fn(io::Error) -> Failed + '_ {
    move |error| Failed(disk::io_error(path, &error))
}
