//! `kill -9` of a real process under load: every acknowledged durable write is there, no revision is used twice.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::*;
use component_base::TaskGroup;

const DIR: &str = "STORE_CRASH_TEST_DIR";
const WRITERS: usize = 8;

/// The victim: not a test of its own, it does nothing unless [`kill_under_load`] runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)]
async fn victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let config = SqliteConfig {
        relaxed_prefixes: vec!["r/".into()],
        relaxed_flush: Duration::from_millis(20),
        checkpoint_pages: 50,
        auto_compaction: AutoCompaction::Revisions(50),
        ..config(Path::new(&dir))
    };
    let store = SqliteStore::open(config).await.unwrap();
    println!("\nopened {}", store.revision());
    let group = TaskGroup::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        group.spawn(async move {
            for i in 0_u64.. {
                let class = if writer % 4 == 3 { 'r' } else { 'd' };
                let key = format!("{class}/{writer}/{}", i % 5);
                let revision = store.txn(put(key.clone(), vec![b'a'; 300])).await.unwrap().revision;
                println!("ack {key} {revision}");
            }
        });
    }
    std::future::pending::<()>().await;
}

#[tokio::test]
#[allow(clippy::disallowed_methods)] // A crash needs a process to kill, and it can only be this program.
async fn kill_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest: HashMap<String, i64> = HashMap::new();
    let mut highest = 1;
    for round in 0..20 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "sqlite::tests::crash::victim"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut revisions = std::collections::HashSet::new();
        let mut acks = 0;
        for line in lines {
            let Ok(line) = line else { break };
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["opened", revision] => assert!(revision.parse::<i64>().unwrap() >= highest, "round {round}"),
                ["ack", key, revision] => {
                    let Ok(revision) = revision.parse::<i64>() else { break };
                    assert!(revisions.insert(revision), "revision {revision} was used twice");
                    let slot = newest.entry(key.to_owned()).or_default();
                    assert!(revision > *slot, "{key} went back");
                    *slot = revision;
                    highest = highest.max(revision);
                    acks += 1;
                    if acks == 40 + 60 * round {
                        child.kill().unwrap();
                    }
                }
                _ => {}
            }
        }
        child.wait().unwrap();
        assert!(acks >= 40, "the victim died by itself");
        let config = SqliteConfig { relaxed_prefixes: vec!["r/".into()], ..config(dir.path()) };
        let store = SqliteStore::open(config).await.unwrap();
        assert!(store.revision() >= highest, "round {round}");
        for (key, revision) in newest.iter().filter(|(key, _)| key.starts_with("d/")) {
            let kv = store.get(key.as_bytes()).await.unwrap().expect(key);
            assert!(kv.mod_revision >= *revision, "round {round}: {key}");
        }
        // Rounds alternate between a clean stop in between and none.
        if round % 2 == 0 {
            store.close().await.unwrap();
        }
    }
}
