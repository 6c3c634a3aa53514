//! A disk that is really full: a small tmpfs. And what the files grow to in a day.

use std::path::PathBuf;

use super::*;
use crate::{Alarm, Error, Maintenance as _, RangeRequest};

/// A file system of its own, gone when this is dropped.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// `None` without the rights to mount.
    fn of(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        sys::mount::tmpfs(dir.path(), Some(bytes)).ok()?;
        Some(Self { dir })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        sys::mount::unmount(self.dir.path()).ok();
    }
}

async fn fill(store: &SqliteStore) -> (Error, usize) {
    for i in 0.. {
        if let Err(error) = store.txn(put(format!("n/{i}"), vec![1; 100_000])).await {
            return (error, i);
        }
    }
    unreachable!("no disk is endless")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_left_behind() {
    let Some(disk) = Disk::of(24 << 20) else { return };
    let config = config(disk.dir.path());
    let store = SqliteStore::open(config.clone()).await.unwrap();
    let other: PathBuf = disk.dir.path().join("other");
    std::fs::write(&other, vec![0; 8 << 20]).unwrap();
    let (error, written) = fill(&store).await;
    assert!(matches!(error, Error::NoSpace), "{error}");
    assert!(written > 20, "{written}");
    assert_eq!(store.alarms(), [Alarm::NoSpace]);
    let revision = store.revision();
    assert!(matches!(store.txn(put("n/0", vec![2; 100_000])).await, Err(Error::NoSpace)));
    assert_eq!(store.revision(), revision);
    assert_eq!(store.get(b"n/0").await.unwrap().unwrap().value, vec![1; 100_000]);
    assert_eq!(store.range(RangeRequest::prefix(b"n/").at(revision - 3)).await.unwrap().count, written - 3);
    std::fs::remove_file(other).unwrap();
    until("there is space", async || store.txn(put("n/again", vec![3; 100_000])).await.is_ok()).await;
    assert_eq!(store.alarms(), []);
    assert_eq!(store.revision(), revision + 1, "revisions have no holes");
    let expected = everything(&*store, 0).await;
    store.close().await.unwrap();
    let store = SqliteStore::open(config).await.unwrap();
    assert_eq!(everything(&*store, 0).await, expected);
    store.close().await.unwrap();
}

/// A day of steady updates: the database never has more than three times the live data and the history that is kept,
/// and half a megabyte; the log never more than twice its checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_updates_keeps_the_files_bounded() {
    const KEYS: usize = 200;
    const BYTES: usize = 2000;
    const STEP: Duration = Duration::from_secs(30);
    const PUTS: usize = 10;
    /// Revisions of five minutes, of the fifth more that may be kept, and of the time between two looks, doubled.
    const KEPT: i64 = 24;
    let dir = tempfile::tempdir().unwrap();
    let clock = fake_clock();
    let config = SqliteConfig {
        clock: clock.clone(),
        auto_compaction: AutoCompaction::Periodic(Duration::from_secs(300)),
        checkpoint_pages: 128,
        ..config(dir.path())
    };
    let store = SqliteStore::open(config).await.unwrap();
    let size = |name: &str| std::fs::metadata(dir.path().join("db").join(name)).unwrap().len();
    let (mut largest, mut largest_log) = (0, 0);
    for step in 0..24 * 120 {
        let keys = (0..PUTS).map(|i| format!("day/{}", (step * PUTS + i) % KEYS));
        let ops = keys.map(|key| Op::Put(PutRequest::new(key, vec![b'x'; BYTES]))).collect();
        store.txn(TxnRequest::ops(ops)).await.unwrap();
        clock.advance(STEP);
        if step % 4 == 0 {
            // The timers have their turn, as they would within two minutes.
            let due = store.revision() - KEPT;
            until("the compaction", async || {
                // The timer may have begun its minute late.
                clock.advance(Duration::from_secs(1));
                store.compacted_revision() >= due
            })
            .await;
            store.wait_swept().await.unwrap();
        }
        if step > KEYS / PUTS {
            (largest, largest_log) = (largest.max(size("state.db")), largest_log.max(size("state.db-wal")));
        }
    }
    let live = (KEYS * BYTES) as u64;
    let history = (KEPT as usize * PUTS * BYTES) as u64;
    println!("live {live}, history {history}: database {largest}, log {largest_log}");
    assert!(largest <= 3 * (live + history) + (1 << 19), "{largest}");
    assert!(largest_log <= 2 * 128 * 8192 + (1 << 19), "{largest_log}");
    store.close().await.unwrap();
}
