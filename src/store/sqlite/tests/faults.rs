//! A disk that fails: errors of writes, syncs and reads, damage that SQLite does not notice, a full disk.

use std::path::PathBuf;

use rusqlite::Connection;
use sys::sqlite_faults::{self, Operation};

use super::*;
use crate::{Alarm, Error, Maintenance as _, RangeRequest, WatchRequest};

fn wal_of(dir: &Path) -> PathBuf {
    dir.join("db/state.db-wal")
}

/// A store, then a fault that hits the next write of so many, then everything as if the process had been killed.
async fn a_failing(operation: Operation, after: u32, times: u32) {
    sqlite_faults::install();
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig { relaxed_prefixes: vec!["r/".into()], ..config(dir.path()) };
    let store = SqliteStore::open(config.clone()).await.unwrap();
    let lease = store.lease_grant(0, 1000).await.unwrap().id;
    for i in 0..5 {
        store.txn(put(format!("f/{i}"), "before")).await.unwrap();
    }
    store.txn(put("r/relaxed", "1")).await.unwrap();
    let before = store.revision();
    let request = WatchRequest { range: KeyRange::prefix(""), start_revision: before + 1, progress: false };
    let mut watcher = store.watch(request).await.unwrap();

    sqlite_faults::fail(&wal_of(dir.path()), operation, after, times);
    // Of several pages, so that the fault may hit in the middle.
    let error = store.txn(put("f/0", vec![b'x'; 30_000])).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{operation:?}: {error}");
    assert_eq!(store.revision(), before, "nothing has happened");
    assert_eq!(store.get(b"f/0").await.unwrap().unwrap().value, "before");
    // As long as the disk fails, nothing is acknowledged, of neither class.
    for _ in 0..3 {
        let error = store.txn(put("f/1", "no")).await;
        if sqlite_faults_left(times) {
            assert!(matches!(error, Err(Error::Unavailable { .. })), "{error:?}");
        }
    }
    assert!(sqlite_faults::heal() > 0);
    let mut last = 0;
    until("the disk is well again", async || match store.txn(put("f/2", "after")).await {
        Ok(response) => {
            last = response.revision;
            true
        }
        Err(error) => {
            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
            false
        }
    })
    .await;
    assert_eq!(store.get(b"r/relaxed").await.unwrap().unwrap().value, "1", "it was acknowledged");
    let events = conformance::receive(&mut watcher, usize::try_from(last - before).unwrap()).await;
    let revisions: Vec<_> = events.iter().map(|event| event.kv.mod_revision).collect();
    assert_eq!(revisions, (before + 1..=last).collect::<Vec<_>>());
    let expected = everything(&*store, 0).await;

    // What is on the disk is what was acknowledged: neither more nor less.
    let image = tempfile::tempdir().unwrap();
    std::fs::create_dir(image.path().join("db")).unwrap();
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(dir.path().join("db").join(name), image.path().join("db").join(name)).unwrap();
    }
    let crashed = SqliteStore::open(SqliteConfig { path: image.path().join("db/state.db"), ..config }).await.unwrap();
    assert_eq!(everything(&*crashed, 0).await, expected, "{operation:?} after {after}");
    assert_eq!(crashed.leases().await.unwrap(), [lease]);
    crashed.close().await.unwrap();
    store.close().await.unwrap();
}

/// Whether the disk fails longer than one operation.
fn sqlite_faults_left(times: u32) -> bool {
    times > 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_everything_until_the_disk_is_well() {
    a_failing(Operation::Sync, 0, u32::MAX).await;
    a_failing(Operation::Sync, 0, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_stops_everything_until_the_disk_is_well() {
    for after in [0, 1, 3] {
        a_failing(Operation::Write, after, u32::MAX).await;
    }
    a_failing(Operation::Write, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_checkpoints_lose_nothing() {
    sqlite_faults::install();
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("db/state.db");
    let store = SqliteStore::open(SqliteConfig { checkpoint_pages: 20, ..config(dir.path()) }).await.unwrap();
    let mut failed = 0;
    for round in 0..6 {
        let operation = if round % 2 == 0 { Operation::Sync } else { Operation::Write };
        sqlite_faults::fail(&database, operation, round, u32::MAX);
        for i in 0..30 {
            store.txn(put(format!("c/{i}"), vec![b'a' + round as u8; 5000])).await.unwrap();
        }
        failed += sqlite_faults::heal();
        let image = tempfile::tempdir().unwrap();
        std::fs::create_dir(image.path().join("db")).unwrap();
        sqlite_faults::fail(&database, Operation::Write, 0, u32::MAX);
        for name in ["state.db", "state.db-wal"] {
            std::fs::copy(dir.path().join("db").join(name), image.path().join("db").join(name)).unwrap();
        }
        sqlite_faults::heal();
        let crashed = SqliteStore::open(config(image.path())).await.unwrap();
        assert_eq!(everything(&*crashed, 0).await, everything(&*store, 0).await, "round {round}");
        crashed.close().await.unwrap();
    }
    assert!(failed > 0, "no checkpoint was hit");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_read_is_told_and_passes() {
    sqlite_faults::install();
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig { ring_events: 0, ..config(dir.path()) }).await.unwrap();
    for i in 0..20 {
        store.txn(put("h/a", vec![i; 20_000])).await.unwrap();
    }
    let past = || RangeRequest::key(b"h/a").at(5);
    for path in [wal_of(dir.path()), dir.path().join("db/state.db")] {
        sqlite_faults::fail(&path, Operation::Read, 0, u32::MAX);
    }
    let error = store.range(past()).await.unwrap_err();
    assert!(matches!(error, Error::Database(_)), "{error}");
    assert!(store.get(b"h/a").await.unwrap().is_some(), "the present is in memory");
    sqlite_faults::heal();
    assert_eq!(store.range(past()).await.unwrap().kvs[0].value[0], 3);
    store.close().await.unwrap();
}

/// Changes the closed database behind the store's back, in a way that SQLite finds in order.
async fn refused(sql: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    store.lease_grant(5, 1000).await.unwrap();
    for i in 0..30 {
        store.txn(put(format!("s/{}", i % 3), format!("{i}"))).await.unwrap();
    }
    store.txn(delete(KeyRange::key("s/2"))).await.unwrap();
    store.txn(put("s/2", "again")).await.unwrap();
    store.compact(10).await.unwrap();
    store.wait_swept().await.unwrap();
    store.close().await.unwrap();
    SqliteStore::open(config(dir.path())).await.unwrap().close().await.unwrap();
    let conn = Connection::open(dir.path().join("db/state.db")).unwrap();
    assert_eq!(conn.execute(sql, []).unwrap(), 1, "{sql}");
    conn.close().unwrap();
    let error = SqliteStore::open(config(dir.path())).await.err();
    assert!(matches!(error, Some(Error::Corrupt { .. })), "{sql}: {error:?}");
}

#[tokio::test]
async fn damage_that_sqlite_does_not_see_is_refused() {
    // A row that is gone, as when a page of another time took its place.
    refused("DELETE FROM history WHERE id>>20=15").await;
    // The one before a deletion.
    refused("DELETE FROM history WHERE id>>20=31").await;
    refused("UPDATE history SET version=version+1 WHERE id>>20=20").await;
    refused("UPDATE lease SET ttl=10").await;
    refused("UPDATE lease SET remaining=1").await;
    for mark in ["compacted", "swept", "cluster"] {
        refused(&format!("UPDATE meta SET value=value+1 WHERE name='{mark}'")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_found_while_running_is_reported_and_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig { ring_events: 0, ..config(dir.path()) }).await.unwrap();
    for i in 0..20 {
        store.txn(put("h/a", format!("{i}"))).await.unwrap();
    }
    let conn = Connection::open(dir.path().join("db/state.db")).unwrap();
    conn.execute("UPDATE history SET value='wrong' WHERE id>>20=7", []).unwrap();
    conn.close().unwrap();
    let error = store.range(RangeRequest::key(b"h/a").at(7)).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(store.alarms(), [Alarm::Corrupt]);
    assert!(store.range(RangeRequest::key(b"h/a").at(8)).await.is_ok(), "what is whole is served");
    assert_eq!(store.get(b"h/a").await.unwrap().unwrap().value, "19");
    store.close().await.unwrap();
}
