//! Snapshots: the whole state at one revision as one checksummed file, from any backend, and back into a database.
//!
//! Saving reads one consistent state from memory and never touches the database, so writers do not notice. History is
//! not part of a snapshot: after a restore it would be compacted anyway.
//!
//! Invariants:
//! - SN-1: nothing of a file is used whose length or checksum is wrong (`format`).
//! - SN-2: a snapshot file appears whole and durable under its name, or not at all.
//! - SN-3: a failed restore leaves the database as it was.
//! - SN-4: after a restore every revision is beyond those ever handed out before, and all before is compacted, so that
//!   watches and reads of the past end with [`Error::Compacted`] and clients list anew.

mod format;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use component_base::Clock;

pub use self::format::SnapshotInfo;
use self::format::refused;
pub(crate) use self::format::{Reader, SavedLease};
pub use crate::sqlite::restore::Restored;
use crate::{KeyRange, KeyValue, Lease, LeaseId, RangeRequest, Result, Store};

/// Files under way, beside those that are whole.
const PARTIAL: &str = ".partial";

/// Writes the current state of `store` to `path`, whose folder is made if need be.
///
/// # Errors
/// When the store cannot be read, the file exists or cannot be written.
pub async fn save(store: &dyn Store, clock: &dyn Clock, path: &Path) -> Result<SnapshotInfo> {
    let everything = store.range(RangeRequest::of(KeyRange::prefix(""))).await?;
    let leases = leases(store, &everything.kvs).await?;
    let (revision, mut kvs) = (everything.revision, everything.kvs);
    let created = clock.now().as_second();
    let path = path.to_owned();
    let write = move || {
        kvs.sort_by_key(|kv| kv.mod_revision);
        let info = format::info(revision, created, &leases, &kvs);
        write_file(&path, &info, &leases, &kvs).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => refused(&path, "the file exists already".into()),
            _ => refused(&path, format!("cannot write it: {error}")),
        })?;
        Ok(info)
    };
    tokio::task::spawn_blocking(write).await.map_err(|error| crate::Error::Database(error.to_string()))?
}

/// Reads the file to its end and compares its checksum. Blocking.
///
/// # Errors
/// [`crate::Error::Snapshot`]: what is wrong with it.
pub fn inspect(path: &Path) -> Result<SnapshotInfo> {
    Reader::open(path)?.finish()
}

/// What the header says, unchecked. Blocking.
///
/// # Errors
/// [`crate::Error::Snapshot`]: it is no snapshot, or not whole.
pub fn header(path: &Path) -> Result<SnapshotInfo> {
    Ok(Reader::open(path)?.info)
}

/// Replaces the database at `database`, which nobody may have open, by the state in `path`. The old one is kept beside it
/// as `<name>.before-restore-<stamp>`. Blocking.
///
/// # Errors
/// [`crate::Error::Snapshot`], [`crate::Error::Locked`], or what the disk says; the database is then as before (SN-3).
pub fn restore(path: &Path, database: &Path, stamp: &str) -> Result<Restored> {
    crate::sqlite::restore::restore(Reader::open(path)?, database, stamp)
}

async fn leases(store: &dyn Store, kvs: &[KeyValue]) -> Result<Vec<SavedLease>> {
    let mut saved = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for id in store.leases().await? {
        let status = store.lease_time_to_live(id).await?;
        if status.remaining_seconds >= 0 && status.lease.ttl_seconds > 0 && known.insert(id) {
            saved.push(SavedLease { lease: status.lease, remaining: status.remaining_seconds });
        }
    }
    // One that ended while we read: its keys are in the state that we save, and end soon after a restore.
    let attached: std::collections::BTreeSet<LeaseId> = kvs.iter().map(|kv| kv.lease).filter(|id| *id != 0).collect();
    for id in attached.difference(&known) {
        saved.push(SavedLease { lease: Lease { id: *id, ttl_seconds: 2 }, remaining: 1 });
    }
    Ok(saved)
}

fn write_file(path: &Path, info: &SnapshotInfo, leases: &[SavedLease], kvs: &[KeyValue]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    remove_abandoned(folder);
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidFilename)?.to_string_lossy();
    let partial = folder.join(format!(".{name}{PARTIAL}"));
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&partial)?;
    let write = || {
        file.try_lock().map_err(std::io::Error::other)?;
        let mut out = BufWriter::with_capacity(1 << 18, &file);
        format::write(&mut out, info, leases, kvs)?;
        out.flush()?;
        drop(out);
        file.sync_all()?;
        // Unlike a rename, a link never replaces what is there.
        std::fs::hard_link(&partial, path)
    };
    let result = write();
    std::fs::remove_file(&partial)?;
    result?;
    File::open(folder)?.sync_all()
}

/// Partial files whose writer died: nobody holds their lock.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let partial = |path: &PathBuf| {
        path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with('.') && name.ends_with(PARTIAL)
        })
    };
    for path in entries.flatten().map(|entry| entry.path()).filter(partial) {
        let abandoned = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if abandoned {
            // Whoever comes next tries again.
            std::fs::remove_file(&path).ok();
        }
    }
}
