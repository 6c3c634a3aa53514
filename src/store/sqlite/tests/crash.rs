//! `kill -9` of a real process at any instant, hundreds of times, under load: what was acknowledged is there, nothing is
//! there by half, no revision has two contents, and a watch that is resumed misses nothing and repeats nothing.
//!
//! The victim is this program again. What it prints is what it has acknowledged, or what its watcher has delivered: a
//! line is in the pipe before the next thing happens, so the parent knows everything that any client could know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Stdio;
use std::sync::atomic::{AtomicI64, Ordering};

use component_base::TaskGroup;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::*;
use crate::{Maintenance as _, OpResponse, Revision, WatchRequest};

const DIR: &str = "STORE_CRASH_TEST_DIR";
/// From which revision the victim's watcher resumes.
const RESUME: &str = "STORE_CRASH_TEST_RESUME";
const LIFE: &str = "STORE_CRASH_TEST_LIFE";
/// The victim only shows what is there, and ends.
const QUIET: &str = "STORE_CRASH_TEST_QUIET";

/// Kills in all, spread over lanes with a database each.
const KILLS: usize = 520;
const LANES: usize = 4;

type Changes = BTreeMap<String, Option<String>>;

/// The victim: not a test of its own, it does nothing unless [`kill_under_load`] runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)]
async fn victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    let (resume, life) = (number(RESUME), number(LIFE));
    let config = SqliteConfig {
        relaxed_prefixes: vec!["r/".into()],
        relaxed_flush: Duration::from_millis(10),
        checkpoint_pages: 30,
        ..config(Path::new(&dir))
    };
    let store = SqliteStore::open(config).await.unwrap();
    println!("\nopening .");
    for kv in everything(&*store, 0).await {
        println!("kv {} {} {} .", text(&kv.key), kv.mod_revision, text(&kv.value));
    }
    for lease in store.leases().await.unwrap() {
        println!("lease {lease} .");
    }
    println!("opened {} .", store.revision());

    let quiet = std::env::var(QUIET).is_ok();
    let group = TaskGroup::new();
    let watched = Arc::new(AtomicI64::new(0));
    let request = WatchRequest { range: KeyRange::prefix(""), start_revision: resume, progress: false };
    let mut watcher = store.watch(request).await.unwrap();
    if quiet {
        // Something to watch at the very end: a start may have skipped revisions.
        put_one(&store, "d/last".into(), "last", "last".into()).await;
    }
    let until = store.revision();
    let seen = Arc::clone(&watched);
    let watching = group.spawn(async move {
        while let Some(batch) = watcher.batches.recv().await {
            let batch = batch.unwrap();
            for events in batch.events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
                let revision = events[0].kv.mod_revision;
                let changes = events.iter().map(|event| {
                    let value = (event.kind == crate::EventKind::Put).then(|| text(&event.kv.value));
                    (text(&event.kv.key), value)
                });
                println!("event {revision} {} .", show(&changes.collect()));
                seen.store(revision, Ordering::Release);
            }
            if quiet && batch.revision >= until {
                break;
            }
        }
    });
    if quiet {
        watching.await.unwrap().unwrap();
        println!("done .");
        return;
    }
    for writer in 0..6 {
        group.spawn(write(Arc::clone(&store), writer, life));
    }
    group.spawn(upkeep(store, watched));
    std::future::pending::<()>().await;
}

async fn write(store: Arc<SqliteStore>, writer: i64, life: i64) {
    for i in 0_i64.. {
        let label = format!("{life}.{writer}.{i}");
        let value = format!("{label} {}", "x".repeat((i * 37 % 3000) as usize));
        match writer {
            // One key.
            0 | 1 => put_one(&store, format!("d/{writer}/{}", i % 5), &label, value).await,
            // Of the relaxed class.
            2 => put_one(&store, format!("r/{}", i % 3), &label, value).await,
            // Two keys at once, compared and swapped.
            3 => {
                let now = store.get(b"p/a").await.unwrap().map_or(0, |kv| kv.mod_revision);
                let mut request = TxnRequest::guarded("p/a", now, Op::Put(PutRequest::new("p/a", value.clone())));
                request.success.push(Op::Put(PutRequest::new("p/b", value)));
                let response = store.txn(request).await.unwrap();
                assert!(response.succeeded, "nobody else writes it");
                let changes = ["p/a", "p/b"].map(|key| (key.to_owned(), Some(label.clone())));
                ack(response.revision, &changes.into());
            }
            // Written and deleted.
            4 => {
                let key = format!("e/{}", i % 3);
                put_one(&store, key.clone(), &label, value).await;
                let response = store.txn(delete(KeyRange::key(key.clone()))).await.unwrap();
                assert!(matches!(response.responses[..], [OpResponse::Delete { deleted: 1, .. }]));
                ack(response.revision, &[(key, None)].into());
            }
            // Deleted by the end of their lease.
            _ => {
                let lease = store.lease_grant(0, 100_000).await.unwrap().id;
                println!("granted {lease} .");
                let keys = [format!("l/{}/a", i % 2), format!("l/{}/b", i % 2)];
                let ops = keys.clone().map(|key| Op::Put(PutRequest { lease, ..PutRequest::new(key, value.clone()) }));
                let revision = store.txn(TxnRequest::ops(ops.into())).await.unwrap().revision;
                ack(revision, &keys.clone().map(|key| (key, Some(label.clone()))).into());
                if i % 4 != 3 {
                    println!("revoking {lease} .");
                    let revision = store.lease_revoke(lease).await.unwrap();
                    ack(revision, &keys.map(|key| (key, None)).into());
                }
            }
        }
    }
}

async fn put_one(store: &SqliteStore, key: String, label: &str, value: String) {
    let revision = store.txn(put(key.clone(), value)).await.unwrap().revision;
    ack(revision, &[(key, Some(label.to_owned()))].into());
}

/// Everything that moves data about, over and over. The past is needed from where the watcher is.
async fn upkeep(store: Arc<SqliteStore>, watched: Arc<AtomicI64>) {
    for i in 0.. {
        let to = watched.load(Ordering::Acquire) - 10;
        match i % 4 {
            0 if to > store.compacted_revision() => {
                println!("at compaction .");
                store.compact(to).await.unwrap();
            }
            1 => {
                println!("at sweep .");
                store.wait_swept().await.unwrap();
            }
            2 => {
                println!("at vacuum .");
                store.defragment().await.unwrap();
            }
            3 => {
                println!("at snapshot .");
                store.backup().await.unwrap();
            }
            _ => tokio::task::yield_now().await,
        }
    }
}

#[allow(clippy::disallowed_methods)]
fn ack(revision: Revision, changes: &Changes) {
    println!("ack {revision} {} .", show(changes));
}

/// Up to the padding.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == b' ').next().unwrap_or_default()).into_owned()
}

fn show(changes: &Changes) -> String {
    let each = changes.iter().map(|(key, value)| format!("{key}={}", value.as_deref().unwrap_or("-")));
    each.collect::<Vec<_>>().join(",")
}

fn parse(text: &str) -> Changes {
    let each = text.split(',').map(|change| {
        let (key, value) = change.split_once('=').unwrap();
        (key.to_owned(), (value != "-").then(|| value.to_owned()))
    });
    each.collect()
}

/// When a victim is killed.
#[derive(Debug)]
enum When {
    /// So long after it was started.
    Born(Duration),
    Opened(Duration),
    /// So long after it has begun this.
    At(&'static str, Duration),
    Never,
}

impl When {
    fn random(rng: &mut StdRng) -> Self {
        let micros = |rng: &mut StdRng, most: u64| Duration::from_micros(rng.random_range(0..most));
        match rng.random_range(0..10) {
            0 => Self::Born(micros(rng, 60_000)),
            1..5 => Self::Opened(micros(rng, 80_000)),
            n => {
                let at = ["compaction", "sweep", "vacuum", "snapshot", "compaction"][n - 5];
                Self::At(at, micros(rng, 4_000))
            }
        }
    }
}

/// What all lives of one database have shown.
#[derive(Default)]
struct Record {
    /// What any observer saw of a revision: the keys known of it.
    revisions: HashMap<Revision, Changes>,
    acks: BTreeMap<Revision, Changes>,
    /// In the order in which they were delivered.
    events: Vec<(Revision, Changes)>,
    /// At each start: the revision, and what was there: value and revision.
    starts: Vec<(Revision, BTreeMap<String, (String, Revision)>)>,
    granted: BTreeSet<i64>,
    revoking: BTreeSet<i64>,
    kills: usize,
    at: HashMap<&'static str, usize>,
}

impl Record {
    fn saw(&mut self, revision: Revision, changes: &Changes) {
        let known = self.revisions.entry(revision).or_default();
        for (key, value) in changes {
            if let Some(before) = known.insert(key.clone(), value.clone()) {
                assert_eq!(&before, value, "revision {revision} has two contents of {key}");
            }
        }
    }

    fn highest(&self) -> Revision {
        let acked = self.acks.last_key_value().map_or(0, |(revision, _)| *revision);
        acked.max(self.events.last().map_or(0, |(revision, _)| *revision))
    }

    /// Runs one victim until it is dead.
    #[allow(clippy::disallowed_methods)] // A crash needs a process to kill, and it can only be this program.
    async fn live(&mut self, dir: &Path, life: usize, when: When) {
        let clock = RealClock;
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "--nocapture", "sqlite::tests::crash::victim"])
            .env(DIR, dir)
            .env(LIFE, life.to_string())
            .env(RESUME, (self.events.last().map_or(0, |(revision, _)| *revision) + 1).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        if matches!(when, When::Never) {
            command.env(QUIET, "1");
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut kill_at = None;
        if let When::Born(after) = when {
            kill_at = Some(clock.instant() + after);
        }
        let mut start = BTreeMap::new();
        let mut leases = BTreeSet::new();
        let (mut killed, mut done) = (false, false);
        loop {
            let line = match kill_at.filter(|_| !killed) {
                Some(at) => match tokio::time::timeout_at(at.into(), lines.next_line()).await {
                    Ok(line) => line,
                    Err(_) => {
                        child.start_kill().unwrap();
                        (killed, self.kills) = (true, self.kills + 1);
                        continue;
                    }
                },
                None => lines.next_line().await,
            };
            let Some(line) = line.unwrap() else { break };
            // The last line may be cut off.
            let Some(line) = line.strip_suffix(" .") else { continue };
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["kv", key, revision, value] => {
                    let revision = revision.parse().unwrap();
                    self.saw(revision, &[(key.to_owned(), Some(value.to_owned()))].into());
                    start.insert(key.to_owned(), (value.to_owned(), revision));
                }
                ["lease", id] => drop(leases.insert(id.parse().unwrap())),
                ["opened", revision] => {
                    let revision: Revision = revision.parse().unwrap();
                    assert!(revision >= self.highest(), "life {life} is at {revision}, before {}", self.highest());
                    let lost: Vec<_> =
                        self.granted.difference(&leases).filter(|id| !self.revoking.contains(id)).collect();
                    assert!(lost.is_empty(), "life {life} has lost leases: {lost:?}");
                    self.starts.push((revision, std::mem::take(&mut start)));
                    if let When::Opened(after) = when {
                        kill_at = Some(clock.instant() + after);
                    }
                }
                ["at", what] => {
                    if let When::At(at, after) = when {
                        if at == what && kill_at.is_none() {
                            *self.at.entry(at).or_default() += 1;
                            kill_at = Some(clock.instant() + after);
                        }
                    }
                }
                ["ack", revision, changes] => {
                    let (revision, changes) = (revision.parse().unwrap(), parse(changes));
                    self.saw(revision, &changes);
                    assert!(self.acks.insert(revision, changes).is_none(), "revision {revision} was given twice");
                }
                ["event", revision, changes] => {
                    let (revision, changes) = (revision.parse().unwrap(), parse(changes));
                    assert!(self.events.last().is_none_or(|(last, _)| *last < revision), "{revision} came again");
                    self.saw(revision, &changes);
                    self.events.push((revision, changes));
                }
                ["granted", id] => drop(self.granted.insert(id.parse().unwrap())),
                ["revoking", id] => drop(self.revoking.insert(id.parse().unwrap())),
                ["done"] => done = true,
                _ => {}
            }
        }
        child.wait().await.unwrap();
        assert!(killed || done, "life {life}: the victim died by itself ({when:?})");
    }

    /// What can be told only when all is known.
    fn check(&self) {
        let durable = |key: &str| !key.starts_with("r/");
        let events: BTreeMap<_, _> = self.events.iter().cloned().collect();
        for (revision, changes) in &self.acks {
            if changes.keys().any(|key| durable(key)) {
                assert_eq!(events.get(revision), Some(changes), "the acknowledged revision {revision} was not watched");
            }
        }
        // Revisions are left out only where a start has skipped those that were reserved.
        let starts: BTreeSet<_> = self.starts.iter().map(|(revision, _)| *revision).collect();
        for pair in self.events.windows(2) {
            let (before, after) = (pair[0].0, pair[1].0);
            assert!(after == before + 1 || starts.contains(&(after - 1)), "no event from {before} to {after}");
        }
        // Every start was exactly at what the events before it make.
        let mut state: BTreeMap<&str, (&str, Revision)> = BTreeMap::new();
        let mut next = self.events.iter().peekable();
        for (life, (revision, start)) in self.starts.iter().enumerate() {
            while let Some((at, changes)) = next.next_if(|(at, _)| at <= revision) {
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(state.insert(key, (value, *at))),
                        None => drop(state.remove(key.as_str())),
                    }
                }
            }
            let start = start.iter().map(|(key, (value, at))| (key.as_str(), (value.as_str(), *at)));
            let found: BTreeMap<_, _> = start.filter(|(key, _)| durable(key)).collect();
            let expected: BTreeMap<_, _> =
                state.iter().map(|(k, v)| (*k, *v)).filter(|(key, _)| durable(key)).collect();
            assert_eq!(found, expected, "start {life} at revision {revision}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)]
async fn kill_under_load() {
    let group = TaskGroup::new();
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            group.spawn(async move {
                let dir = tempfile::tempdir().unwrap();
                let seed = rand::random();
                println!("lane {lane}: seed {seed}");
                let mut rng = StdRng::seed_from_u64(seed);
                let mut record = Record::default();
                let mut life = 0;
                while record.kills < KILLS / LANES {
                    record.live(dir.path(), life, When::random(&mut rng)).await;
                    life += 1;
                    if life % 25 == 0 {
                        println!("lane {lane}: {} kills", record.kills);
                    }
                }
                record.live(dir.path(), life, When::Never).await;
                record.check();
                record
            })
        })
        .collect();
    let (mut kills, mut acks, mut events, mut starts) = (0, 0, 0, 0);
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for lane in lanes {
        let record = lane.await.unwrap().unwrap();
        kills += record.kills;
        acks += record.acks.len();
        events += record.events.len();
        starts += record.starts.len();
        for (what, times) in record.at {
            *at.entry(what).or_default() += times;
        }
    }
    println!(
        "{kills} kills, {starts} starts, {acks} acknowledged writes, {events} revisions watched; killed at {at:?}"
    );
    assert!(kills >= 500 && acks > kills, "{kills} kills, {acks} writes");
}
