//! A folder of snapshots: naming, listing, pruning, and restoring from it. What a snapshot is, is `store`'s business.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use component_base::Clock;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::Store;
use store::snapshot::{self, Restored};
use tracing::info;

use crate::config::datastore::database;

/// A snapshot in a folder. The first four are k3s's columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub location: String,
    pub size: u64,
    /// RFC 3339.
    pub created: String,
    pub revision: i64,
    pub keys: u64,
    /// "successful", or "failed" for a file that cannot be used.
    pub status: String,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Saves the state of `store` as `<name>-<node>-<seconds>` in `folder`.
///
/// # Errors
/// When the store cannot be read or the file not be written.
pub async fn save(store: &dyn Store, clock: &dyn Clock, folder: &Path, name: &str, node: &str) -> Result<Entry> {
    let begun = clock.instant();
    let path = folder.join(format!("{name}-{node}-{}", clock.now().as_second()));
    snapshot::save(store, clock, &path).await?;
    let entry = entry(&path);
    info!(
        snapshot = entry.name,
        revision = entry.revision,
        keys = entry.keys,
        bytes = entry.size,
        took_ms = (clock.instant() - begun).as_millis() as u64,
        "snapshot saved"
    );
    Ok(entry)
}

/// Everything in `folder`, oldest first; files that look like no snapshot at all are left out.
///
/// # Errors
/// When the folder cannot be read. One that is not there is empty.
pub fn list(folder: &Path) -> Result<Vec<Entry>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    let mut found: Vec<Entry> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && !hidden(path))
        .map(|path| entry(&path))
        .filter(|entry| !entry.message.contains("not a kedge snapshot"))
        .collect();
    found.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
    Ok(found)
}

/// Removes all but the newest `retention` of those named `<name>-<node>-…`; returns what is gone. 0 keeps everything.
///
/// # Errors
/// When the folder cannot be read or a file not be removed.
pub fn prune(folder: &Path, name: &str, node: &str, retention: usize) -> Result<Vec<Entry>> {
    if retention == 0 {
        return Ok(Vec::new());
    }
    let prefix = format!("{name}-{node}-");
    let seconds = |entry: &Entry| entry.name.strip_prefix(&prefix)?.parse::<i64>().ok();
    let mut ours: Vec<Entry> = list(folder)?.into_iter().filter(|entry| seconds(entry).is_some()).collect();
    ours.sort_by_key(seconds);
    ours.truncate(ours.len().saturating_sub(retention));
    for entry in &ours {
        remove(folder, &entry.name)?;
    }
    Ok(ours)
}

/// Removes one by its name.
///
/// # Errors
/// When there is none.
pub fn remove(folder: &Path, name: &str) -> Result<()> {
    if hidden(Path::new(name)) || name.contains('/') {
        bail!("{name:?} is no name of a snapshot");
    }
    let path = folder.join(name);
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    info!(snapshot = name, "snapshot removed");
    Ok(())
}

/// A name in `folder`, or a path.
pub fn find(folder: &Path, given: &str) -> PathBuf {
    if given.contains('/') { PathBuf::from(given) } else { folder.join(given) }
}

/// Replaces the database of a server that is not running. Blocking.
///
/// # Errors
/// When the file is bad or the server runs: nothing has changed then.
pub fn restore(file: &Path, data_dir: &Path, now: Timestamp) -> Result<Restored> {
    let restored = snapshot::restore(file, &database(data_dir), &now.as_second().to_string())?;
    info!(
        snapshot = %file.display(), revision = restored.revision, keys = restored.keys,
        kept = restored.kept.as_ref().map(|path| path.display().to_string()), "database restored"
    );
    Ok(restored)
}

fn entry(path: &Path) -> Entry {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let location = format!("file://{}", path.display());
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap_or_default().to_string();
    match snapshot::header(path) {
        Ok(info) => Entry {
            name,
            location,
            size: info.bytes,
            created: at(info.created),
            revision: info.revision,
            keys: info.keys,
            status: "successful".into(),
            message: String::new(),
        },
        Err(error) => {
            let meta = std::fs::metadata(path).ok();
            let modified = meta.as_ref().and_then(|meta| Timestamp::try_from(meta.modified().ok()?).ok());
            Entry {
                name,
                location,
                size: meta.as_ref().map_or(0, std::fs::Metadata::len),
                created: at(modified.unwrap_or_default().as_second()),
                revision: 0,
                keys: 0,
                status: "failed".into(),
                message: error.to_string(),
            }
        }
    }
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::RealClock;
    use store::{Op, PutRequest, SqliteConfig, SqliteStore, TxnRequest};

    #[tokio::test]
    async fn the_newest_of_a_name_are_kept() {
        let folder = tempfile::tempdir().expect("tempdir");
        let database = SqliteConfig::new(folder.path().join("state.db"), RealClock::shared());
        let store = SqliteStore::open(database).await.expect("opens");
        let put = Op::Put(PutRequest::new("a", "1"));
        store.txn(TxnRequest::ops(vec![put])).await.expect("writes");
        let snapshots = folder.path().join("snapshots");
        assert_eq!(list(&snapshots).expect("lists"), []);
        let saved = save(&*store, &RealClock, &snapshots, "s", "n").await.expect("saves");
        let source = snapshots.join(&saved.name);
        for name in ["s-n-5", "s-n-40", "s-n-300", "s-m-1", "other-n-2"] {
            std::fs::copy(&source, snapshots.join(name)).expect("copies");
        }
        std::fs::write(snapshots.join("README"), "hello").expect("writes");
        std::fs::write(snapshots.join("s-n-7"), &std::fs::read(&source).expect("reads")[..99]).expect("writes");
        assert_eq!(list(&snapshots).expect("lists").len(), 7, "not the README");
        let gone = prune(&snapshots, "s", "n", 2).expect("prunes");
        let gone: Vec<&str> = gone.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(gone, ["s-n-5", "s-n-7", "s-n-40"]);
        let left: Vec<String> = list(&snapshots).expect("lists").into_iter().map(|entry| entry.name).collect();
        assert_eq!(left.len(), 4);
        assert!(left.contains(&saved.name) && left.contains(&"s-n-300".into()) && left.contains(&"s-m-1".into()));
        assert!(remove(&snapshots, "../state.db").is_err());
        assert!(prune(&snapshots, "s", "n", 0).expect("prunes").is_empty());
        store.close().await.expect("closes");
    }
}
