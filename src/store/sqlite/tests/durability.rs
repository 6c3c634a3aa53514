//! What lasts: the relaxed class, leases, compaction, files, locks and damage.

use std::io::{Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{Error, RangeRequest, WatchRequest};

/// The files as they are at this moment: what a crash would leave, as nothing writes meanwhile.
fn crash_image(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(from.join("db").join(name), dir.path().join("db").join(name)).unwrap();
    }
    dir
}

#[tokio::test]
async fn relaxed_writes_are_flushed_on_a_timer_and_never_reuse_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let clock = fake_clock();
    let config = SqliteConfig { relaxed_prefixes: vec!["r/".into()], clock: clock.clone(), ..config(dir.path()) };
    let store = SqliteStore::open(config.clone()).await.unwrap();
    // The first one has to reserve revisions, so it is on disk.
    store.txn(put("r/first", "1")).await.unwrap();
    store.txn(put("r/lost", "1")).await.unwrap();
    let lost = store.revision();
    let image = crash_image(dir.path());
    let crashed = SqliteStore::open(SqliteConfig { path: image.path().join("db/state.db"), ..config.clone() });
    let crashed = crashed.await.unwrap();
    assert!(crashed.get(b"r/first").await.unwrap().is_some());
    assert!(crashed.get(b"r/lost").await.unwrap().is_none());
    assert!(crashed.revision() >= lost, "no revision is used twice");
    let next = crashed.txn(put("r/next", "1")).await.unwrap().revision;
    assert!(next > lost);
    // A watch goes on across the hole.
    let request = WatchRequest { range: KeyRange::prefix("r/"), start_revision: lost, progress: false };
    let mut watcher = crashed.watch(request).await.unwrap();
    assert_eq!(conformance::receive(&mut watcher, 1).await[0].kv.mod_revision, next);
    crashed.close().await.unwrap();

    // With a durable write it reaches the disk at once.
    store.txn(put("d/durable", "1")).await.unwrap();
    let image = crash_image(dir.path());
    let crashed = SqliteConfig { path: image.path().join("db/state.db"), ..config.clone() };
    let crashed = SqliteStore::open(crashed).await.unwrap();
    assert!(crashed.get(b"r/lost").await.unwrap().is_some());
    crashed.close().await.unwrap();

    // Or after a while.
    store.txn(put("r/timer", "1")).await.unwrap();
    until("the flush", async || {
        clock.advance(Duration::from_secs(1));
        store.size().await.unwrap();
        let image = crash_image(dir.path());
        let crashed = SqliteConfig { path: image.path().join("db/state.db"), ..config.clone() };
        let crashed = SqliteStore::open(crashed).await.unwrap();
        let found = crashed.get(b"r/timer").await.unwrap().is_some();
        crashed.close().await.unwrap();
        found
    })
    .await;

    // Or when it is closed; then no revision is skipped either.
    store.txn(put("r/closed", "1")).await.unwrap();
    let revision = store.revision();
    store.close().await.unwrap();
    let store = SqliteStore::open(config).await.unwrap();
    assert_eq!(store.revision(), revision);
    assert!(store.get(b"r/closed").await.unwrap().is_some());
    store.close().await.unwrap();
}

#[tokio::test]
async fn many_relaxed_writes_stay_within_the_reservation() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig { relaxed_prefixes: vec!["r/".into()], clock: fake_clock(), ..config(dir.path()) };
    let store = SqliteStore::open(config.clone()).await.unwrap();
    for i in 0..2500 {
        store.txn(put(format!("r/{}", i % 10), "1")).await.unwrap();
    }
    let image = crash_image(dir.path());
    let path = image.path().join("db/state.db");
    let crashed = SqliteStore::open(SqliteConfig { path, ..config }).await.unwrap();
    assert!(crashed.revision() >= store.revision());
    crashed.close().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn leases_expire_in_one_revision_each() {
    let dir = tempfile::tempdir().unwrap();
    let clock = fake_clock();
    let config = SqliteConfig { clock: clock.clone(), ..config(dir.path()) };
    let store = SqliteStore::open(config).await.unwrap();
    let lease = store.lease_grant(7, 10).await.unwrap();
    assert_eq!(store.lease_grant(0, 1).await.unwrap().ttl_seconds, 2, "etcd's shortest");
    for key in ["l/a", "l/b"] {
        let put = PutRequest { lease: lease.id, ..PutRequest::new(key, "1") };
        store.txn(TxnRequest::ops(vec![Op::Put(put)])).await.unwrap();
    }
    clock.advance(Duration::from_secs(6));
    store.lease_keep_alive(7).await.unwrap();
    clock.advance(Duration::from_secs(6));
    assert_eq!(store.lease_time_to_live(7).await.unwrap().remaining_seconds, 4);
    until("the short lease's end", async || store.leases().await.unwrap() == [7]).await;
    let before = store.revision();
    clock.advance(Duration::from_secs(5));
    assert!(matches!(store.lease_keep_alive(7).await, Err(Error::LeaseNotFound(7))), "expired is expired");
    until("the lease's end", async || store.leases().await.unwrap().is_empty()).await;
    assert_eq!(store.revision(), before + 1);
    assert_eq!(store.range(RangeRequest::prefix(b"l/")).await.unwrap().count, 0);
    store.close().await.unwrap();
}

#[tokio::test]
async fn remaining_lease_time_survives_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = fake_clock();
    let config = SqliteConfig { clock: clock.clone(), ..config(dir.path()) };
    let store = SqliteStore::open(config.clone()).await.unwrap();
    store.lease_grant(1, 1000).await.unwrap();
    store.lease_grant(2, 1000).await.unwrap();
    let put = PutRequest { lease: 1, ..PutRequest::new("l/a", "1") };
    store.txn(TxnRequest::ops(vec![Op::Put(put)])).await.unwrap();
    clock.advance(Duration::from_secs(600));
    store.close().await.unwrap();
    clock.advance(Duration::from_secs(5000));

    let store = SqliteStore::open(config.clone()).await.unwrap();
    let status = store.lease_time_to_live(1).await.unwrap();
    assert_eq!((status.lease.ttl_seconds, status.keys), (1000, vec!["l/a".into()]));
    assert!((400..=401).contains(&status.remaining_seconds), "{}", status.remaining_seconds);
    // A renewed lease must not be cut short by what was persisted before.
    store.lease_keep_alive(1).await.unwrap();
    assert_eq!(store.lease_time_to_live(1).await.unwrap().remaining_seconds, 1000);
    let image = crash_image(dir.path());
    let path = image.path().join("db/state.db");
    let crashed = SqliteStore::open(SqliteConfig { path, ..config }).await.unwrap();
    assert_eq!(crashed.lease_time_to_live(1).await.unwrap().remaining_seconds, 1000);
    assert!(crashed.lease_time_to_live(2).await.unwrap().remaining_seconds <= 401);
    crashed.close().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn compaction_removes_rows_and_the_file_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    for round in 0..40 {
        let ops = (0..100).map(|i| Op::Put(PutRequest::new(format!("c/{i}"), vec![round; 2000]))).collect();
        store.txn(TxnRequest::ops(ops)).await.unwrap();
    }
    store.txn(delete(KeyRange::prefix("c/9"))).await.unwrap();
    let revision = store.txn(put("c/last", "1")).await.unwrap().revision;
    let full = store.size().await.unwrap();
    assert!(full.bytes > 8_000_000);
    store.compact(revision).await.unwrap();
    until("the sweep", async || store.shared.index.lock().len() <= 1).await;
    until("the vacuum", async || store.size().await.unwrap().bytes < full.bytes / 4).await;
    assert_eq!(store.range(RangeRequest::prefix(b"c/")).await.unwrap().count, 90);
    let before = everything(&*store, 0).await;
    store.close().await.unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    assert_eq!((everything(&*store, 0).await, store.revision()), (before, revision));
    assert_eq!(store.compacted_revision(), revision);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_with_everything_deleted_and_compacted_keeps_its_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    store.txn(put("a", "1")).await.unwrap();
    let revision = store.txn(delete(KeyRange::key("a"))).await.unwrap().revision;
    store.compact(revision).await.unwrap();
    store.close().await.unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    assert_eq!((store.revision(), store.compacted_revision()), (revision, revision));
    assert_eq!(store.txn(put("a", "1")).await.unwrap().revision, revision + 1);
    store.close().await.unwrap();
}

#[tokio::test]
async fn history_is_compacted_automatically() {
    let dir = tempfile::tempdir().unwrap();
    let clock = fake_clock();
    let by_time = SqliteConfig {
        clock: clock.clone(),
        auto_compaction: AutoCompaction::Periodic(Duration::from_secs(300)),
        ..config(dir.path())
    };
    let store = SqliteStore::open(by_time).await.unwrap();
    for _ in 0..5 {
        store.txn(put("a", "1")).await.unwrap();
    }
    let revision = store.revision();
    let mut minutes = 0;
    until("the compaction", async || {
        clock.advance(Duration::from_secs(1));
        minutes += 1;
        tokio::task::yield_now().await;
        store.compacted_revision() == revision
    })
    .await;
    assert!(minutes >= 300, "kept for {minutes} s");
    store.close().await.unwrap();

    let by_count =
        SqliteConfig { clock: clock.clone(), auto_compaction: AutoCompaction::Revisions(10), ..config(dir.path()) };
    let store = SqliteStore::open(by_count).await.unwrap();
    for _ in 0..30 {
        store.txn(put("a", "1")).await.unwrap();
    }
    until("the compaction", async || {
        clock.advance(Duration::from_secs(60));
        store.compacted_revision() == store.revision() - 10
    })
    .await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steady_updates_keep_the_files_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig { checkpoint_pages: 200, ..config(dir.path()) }).await.unwrap();
    // 100 keys of 2 KB, each written 150 times: 200 KB of live data, 30 MB of writes.
    for round in 0..150_u8 {
        for part in 0..4 {
            let ops = (0..25).map(|i| Op::Put(PutRequest::new(format!("s/{part}/{i}"), vec![round; 2000]))).collect();
            store.txn(TxnRequest::ops(ops)).await.unwrap();
        }
        if round % 10 == 9 {
            store.compact(store.revision() - 5).await.unwrap();
        }
    }
    until("the sweep", async || store.shared.index.lock().len() < 1000).await;
    let size = |name: &str| std::fs::metadata(dir.path().join("db").join(name)).unwrap().len();
    assert!(size("state.db") < 10_000_000, "{}", size("state.db"));
    assert!(size("state.db-wal") < 20_000_000, "{}", size("state.db-wal"));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_second_opener_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    let second = SqliteStore::open(config(dir.path())).await.err();
    assert!(matches!(second, Some(Error::Locked { .. })), "{second:?}");
    store.close().await.unwrap();
    SqliteStore::open(config(dir.path())).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn after_close_everything_fails() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.get(b"a").await, Err(Error::Closed)));
    assert!(matches!(store.txn(put("a", "1")).await, Err(Error::Closed)));
    assert!(matches!(store.lease_grant(0, 5).await, Err(Error::Closed)));
    let request = WatchRequest { range: KeyRange::key("a"), start_revision: 0, progress: false };
    assert!(matches!(store.watch(request).await, Err(Error::Closed)));
}

#[tokio::test]
async fn damage_is_reported_and_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db/state.db");
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    for i in 0..50 {
        store.txn(put(format!("d/{i}"), vec![b'v'; 1000])).await.unwrap();
    }
    store.close().await.unwrap();
    let good = std::fs::read(&path).unwrap();

    // One bit in the middle of a value, which SQLite itself would not notice.
    let at = good.windows(200).rposition(|w| w.iter().all(|b| *b == b'v')).unwrap() as u64;
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(b"w").unwrap();
    let error = SqliteStore::open(config(dir.path())).await.err();
    assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");

    // A page of rubbish.
    std::fs::write(&path, &good).unwrap();
    file.seek(SeekFrom::Start(good.len() as u64 / 4096 / 2 * 4096)).unwrap();
    file.write_all(&[0x5a; 4096]).unwrap();
    let error = SqliteStore::open(config(dir.path())).await.err();
    assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");

    // Not a database at all.
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    let error = SqliteStore::open(config(dir.path())).await.err();
    assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");

    // And the lock is free again.
    std::fs::write(&path, &good).unwrap();
    SqliteStore::open(config(dir.path())).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_torn_tail_of_the_log_costs_only_what_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    for i in 0..20 {
        store.txn(put(format!("t/{i:02}"), vec![7; 3000])).await.unwrap();
    }
    for cut in [1, 100, 4000, 5000] {
        let image = crash_image(dir.path());
        let wal = image.path().join("db/state.db-wal");
        let file = std::fs::OpenOptions::new().write(true).open(&wal).unwrap();
        file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        let torn = SqliteStore::open(config(image.path())).await.unwrap();
        let kvs = everything(&*torn, 0).await;
        assert!((18..20).contains(&kvs.len()), "{cut}: {}", kvs.len());
        assert_eq!(torn.revision(), kvs.last().unwrap().mod_revision);
        torn.close().await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn when_space_is_used_up_reads_go_on_and_writes_recover() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig { quota_bytes: Some(1 << 20), ..config(dir.path()) };
    let store = SqliteStore::open(config).await.unwrap();
    let full = loop {
        if let Err(error) = store.txn(put("n/a", vec![1; 20_000])).await {
            break error;
        }
    };
    assert!(matches!(full, Error::NoSpace), "{full}");
    let revision = store.revision();
    let kv = store.get(b"n/a").await.unwrap().unwrap();
    assert_eq!(kv.mod_revision, revision, "the failed write left nothing behind");
    assert!(matches!(store.txn(put("n/a", vec![2; 20_000])).await, Err(Error::NoSpace)));
    store.compact(revision).await.unwrap();
    until("space", async || store.txn(put("n/b", vec![2; 20_000])).await.is_ok()).await;
    let kv = store.get(b"n/b").await.unwrap().unwrap();
    assert_eq!(kv.mod_revision, revision + 1, "revisions have no holes");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_visible() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    let group = component_base::TaskGroup::new();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        group.spawn(async move {
            // Both keys are always written together.
            while !stop.load(Ordering::Relaxed) {
                let kvs = store.range(RangeRequest::prefix(b"v/")).await.unwrap().kvs;
                assert!(kvs.len() != 1 && kvs.windows(2).all(|w| w[0].value == w[1].value));
                tokio::task::yield_now().await;
            }
        })
    };
    for i in 0..300 {
        let ops = ["v/a", "v/b"].map(|key| Op::Put(PutRequest::new(key, format!("{i}"))));
        let revision = store.txn(TxnRequest::ops(ops.into())).await.unwrap().revision;
        assert!(store.revision() >= revision);
        assert_eq!(store.get(b"v/a").await.unwrap().unwrap().mod_revision, revision);
    }
    stop.store(true, Ordering::Relaxed);
    reader.await.unwrap().unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_swap_loses_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    store.txn(put("cas/counter", "0")).await.unwrap();
    let group = component_base::TaskGroup::new();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            group.spawn(async move {
                let mut done = 0;
                while done < 50 {
                    let kv = store.get(b"cas/counter").await.unwrap().unwrap();
                    let next: u64 = std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap() + 1;
                    let op = Op::Put(PutRequest::new("cas/counter", next.to_string()));
                    let request = TxnRequest::guarded("cas/counter", kv.mod_revision, op);
                    done += u64::from(store.txn(request).await.unwrap().succeeded);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let kv = store.get(b"cas/counter").await.unwrap().unwrap();
    assert_eq!((&kv.value[..], kv.version), (&b"400"[..], 401));
    store.close().await.unwrap();
}
