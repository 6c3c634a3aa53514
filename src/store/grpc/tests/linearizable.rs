//! Linearizability over gRPC, over `kill -9` and restarts: random clients, a recorded history, and the checker. The same
//! clients run against a real etcd, which tells whether model and checker are right.

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::checker::{Answer, Call, Etcd, Operation, Value, check};
use super::*;

const DIR: &str = "STORE_LINEAR_TEST_DIR";
const CLIENTS: usize = 5;
const KEYS: u8 = 3;

/// The victim: a bare etcd of ours. It does nothing unless [`over_crashes`] runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)]
async fn victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let clock = RealClock::shared();
    let config = SqliteConfig {
        auto_compaction: crate::AutoCompaction::Revisions(50),
        checkpoint_pages: 30,
        ..SqliteConfig::new(std::path::Path::new(&dir).join("state.db"), clock.clone())
    };
    let store = SqliteStore::open(config).await.unwrap();
    let listener = Listener::bind(&Endpoint::Tcp(([127, 0, 0, 1], 0).into())).await.unwrap();
    println!("\nport {} .", listener.address().unwrap().port());
    let face = Face::new(store, FaceConfig::new(clock));
    face.serve(listener, CancellationToken::new()).await;
}

#[allow(clippy::disallowed_methods)] // A crash needs a process to kill, and it can only be this program.
async fn start_ours(dir: &std::path::Path) -> (Child, u16) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "grpc::tests::linearizable::victim"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(port) = line.strip_prefix("port ").and_then(|line| line.strip_suffix(" .")) {
            return (child, port.parse().unwrap());
        }
    }
    panic!("the server did not start");
}

/// What the clients of all lives have in common.
struct Run {
    time: AtomicU64,
    value: AtomicU64,
    history: Mutex<Vec<Operation<Call, Answer>>>,
    unknown: AtomicU64,
}

impl Run {
    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    fn random(&self, rng: &mut StdRng) -> Call {
        let key = rng.random_range(0..KEYS);
        let value = self.value.fetch_add(1, Ordering::Relaxed);
        // A value that somebody has written lately, or none.
        let old = rng.random_bool(0.8).then(|| value.saturating_sub(rng.random_range(1..8)));
        match rng.random_range(0..10) {
            0 | 1 => Call::Get(key),
            2 => Call::List,
            3..6 => Call::Put(key, value),
            6 => Call::Delete(key),
            7 | 8 => Call::Swap(key, old, value),
            _ => Call::Both(key, (key + 1) % KEYS, value),
        }
    }

    /// Until the server is gone.
    async fn client(&self, port: u16, seed: u64, calls: &AtomicU64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let client = Client::connect(port).await;
        loop {
            let mut call = self.random(&mut rng);
            if let Call::Swap(key, Some(_), new) = call {
                // Mostly with what is really there, or few would succeed.
                let called = self.now();
                let Ok(answer) = send(&client, Call::Get(key)).await else { return };
                let seen = answer.found.first().map(|(_, value)| value.value);
                let returned = self.now();
                let read = Operation { call: Call::Get(key), answer: Some(answer), called, returned };
                self.history.lock().push(read);
                call = Call::Swap(key, seen, new);
            }
            let called = self.now();
            let answer = send(&client, call).await;
            let returned = self.now();
            calls.fetch_add(1, Ordering::Relaxed);
            match answer {
                Ok(answer) => self.history.lock().push(Operation { call, answer: Some(answer), called, returned }),
                Err(_) if matches!(call, Call::Get(_) | Call::List) => return,
                Err(_) => {
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                    self.history.lock().push(Operation { call, answer: None, called, returned: u64::MAX });
                    return;
                }
            }
        }
    }
}

fn name(key: u8) -> Bytes {
    Bytes::from(format!("lin/{key}"))
}

fn found(kvs: Vec<super::super::pb::mvccpb::KeyValue>) -> Vec<(u8, Value)> {
    let each = kvs.into_iter().map(|kv| {
        let key = kv.key.last().unwrap() - b'0';
        let value = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
        (key, Value { value, created: kv.create_revision, modified: kv.mod_revision, version: kv.version })
    });
    each.collect()
}

async fn send(client: &Client, call: Call) -> Result<Answer, Status> {
    let get = |key: u8| pb::RangeRequest { key: name(key), ..Default::default() };
    let put =
        |key: u8, value: u64| pb::PutRequest { key: name(key), value: value.to_string().into(), ..Default::default() };
    let delete = |key: u8| pb::DeleteRangeRequest { key: name(key), ..Default::default() };
    let mut answer = Answer { revision: 0, succeeded: true, deleted: 0, found: Vec::new() };
    let header = match call {
        Call::Get(key) => {
            let response: pb::RangeResponse = client.unary(RANGE, get(key)).await?;
            answer.found = found(response.kvs);
            response.header
        }
        Call::List => {
            let all = pb::RangeRequest { key: "lin/".into(), range_end: "lin0".into(), ..Default::default() };
            let response: pb::RangeResponse = client.unary(RANGE, all).await?;
            answer.found = found(response.kvs);
            response.header
        }
        Call::Put(key, value) => client.unary::<_, pb::PutResponse>(PUT, put(key, value)).await?.header,
        Call::Delete(key) => {
            let response: pb::DeleteRangeResponse = client.unary(DELETE, delete(key)).await?;
            answer.deleted = response.deleted;
            response.header
        }
        Call::Swap(key, old, new) => {
            let union = match old {
                Some(old) => TargetUnion::Value(old.to_string().into()),
                None => TargetUnion::Version(0),
            };
            let target = if old.is_some() { CompareTarget::Value } else { CompareTarget::Version };
            let request = pb::TxnRequest {
                compare: vec![compare(key, CompareResult::Equal, target, union)],
                success: vec![op(RequestOp::RequestPut(put(key, new)))],
                failure: vec![op(RequestOp::RequestRange(get(key)))],
            };
            txn(client, request, &mut answer).await?
        }
        Call::Both(first, second, value) => {
            let exists = compare(first, CompareResult::Greater, CompareTarget::Version, TargetUnion::Version(0));
            let request = pb::TxnRequest {
                compare: vec![exists],
                success: [first, second].map(|key| op(RequestOp::RequestPut(put(key, value)))).into(),
                failure: [first, second].map(|key| op(RequestOp::RequestDeleteRange(delete(key)))).into(),
            };
            txn(client, request, &mut answer).await?
        }
    };
    answer.revision = header.unwrap().revision;
    Ok(answer)
}

fn compare(key: u8, result: CompareResult, target: CompareTarget, union: TargetUnion) -> pb::Compare {
    pb::Compare {
        key: name(key),
        result: result as i32,
        target: target as i32,
        target_union: Some(union),
        ..Default::default()
    }
}

async fn txn(
    client: &Client,
    request: pb::TxnRequest,
    answer: &mut Answer,
) -> Result<Option<pb::ResponseHeader>, Status> {
    use super::super::pb::etcdserverpb::response_op::Response;
    let response: pb::TxnResponse = client.unary(TXN, request).await?;
    answer.succeeded = response.succeeded;
    for part in response.responses {
        match part.response.unwrap() {
            Response::ResponseRange(part) => answer.found.extend(found(part.kvs)),
            Response::ResponseDeleteRange(part) => answer.deleted += part.deleted,
            _ => {}
        }
    }
    Ok(response.header)
}

/// One life after the other; each ends with `kill -9` in the middle of so many calls.
#[allow(clippy::disallowed_methods)]
async fn over_crashes<S>(lives: u64, calls_each: u64, mut start: impl AsyncFnMut() -> (S, u16)) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let run = Run {
        time: AtomicU64::new(1),
        value: AtomicU64::new(1),
        history: Mutex::default(),
        unknown: AtomicU64::new(0),
    };
    for _ in 0..lives {
        let (server, port) = start().await;
        let calls = AtomicU64::new(0);
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| rng.random()).collect();
        let clients = futures::future::join_all(seeds.into_iter().map(|seed| run.client(port, seed, &calls)));
        let enough = calls_each / 2 + rng.random_range(0..calls_each);
        let kill = async {
            until("enough calls", async || calls.load(Ordering::Relaxed) >= enough).await;
            // Dropping it kills it.
            drop(server);
        };
        let both = futures::future::join(clients, kill);
        tokio::time::timeout(std::time::Duration::from_secs(30), both).await.expect("a client hangs");
        // What a dead server has not done, it never does.
        let end = run.now();
        run.history.lock().iter_mut().filter(|o| o.answer.is_none()).for_each(|o| o.returned = o.returned.min(end));
    }
    let history = std::mem::take(&mut *run.history.lock());
    let succeeded = history.iter().filter(|o| o.answer.as_ref().is_some_and(|a| a.succeeded)).count();
    let clock = RealClock::shared();
    let started = clock.instant();
    if let Err((ordered, stuck)) = check(Etcd::new(), &history) {
        let stuck = &history[stuck];
        panic!(
            "not linearizable: {ordered} of {} operations can be ordered, then not {:?} from {} to {}: {:?}",
            history.len(),
            stuck.call,
            stuck.called,
            stuck.returned,
            stuck.answer
        );
    }
    println!(
        "{} operations ({succeeded} succeeded, {} with unknown outcome) in {lives} lives are linearizable; checked in {:?}",
        history.len(),
        run.unknown.load(Ordering::Relaxed),
        clock.instant() - started
    );
    assert!(history.len() as u64 >= lives * calls_each / 2);

    // The checker would have noticed: an answer from another time is refused.
    let mut wrong = history;
    let reads = |o: &Operation<Call, Answer>| matches!(o.call, Call::Get(_)) && o.answer.is_some();
    let (early, late) = (wrong.iter().position(reads).unwrap(), wrong.iter().rposition(reads).unwrap());
    wrong[late].answer = wrong[early].answer.clone();
    assert!(check(Etcd::new(), &wrong).is_err(), "a stale read was not noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_store_is_linearizable_over_crashes() {
    let dir = tempfile::tempdir().unwrap();
    over_crashes(12, 150, async || start_ours(dir.path()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_etcd_passes_the_same_check() {
    let dir = tempfile::tempdir().unwrap();
    if Real::start_on(dir.path()).await.is_none() {
        return;
    }
    over_crashes(3, 150, async || {
        let real = Real::start_on(dir.path()).await.unwrap();
        let port = real.port;
        (real, port)
    })
    .await;
}
