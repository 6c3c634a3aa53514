//! Whole files: against a naive model, and followed through rotation to the container's end.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use futures::FutureExt as _;
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::oneshot;

use super::*;

/// What a reader of the whole file in memory would show. One instance of upstream's rules, written line by line.
fn model(file: &str, filter: &Filter, tail: Option<u64>) -> Vec<u8> {
    let lines: Vec<&str> = file.split_inclusive('\n').collect();
    let from = lines.len() - tail.map_or(lines.len(), |n| lines.len().min(n as usize));
    let mut out = Vec::new();
    let mut fresh = true;
    for line in &lines[from..] {
        let line = line.trim_end_matches('\n');
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let [stamp, stream, tag, content] = parts[..] else { continue };
        let (Ok(time), true) = (stamp.parse::<Timestamp>(), ["stdout", "stderr"].contains(&stream)) else { continue };
        let wanted = match filter.stream {
            Some(Output::Stdout) => stream == "stdout",
            Some(Output::Stderr) => stream == "stderr",
            None => true,
        };
        let (starts, partial) = (fresh, tag == "P");
        fresh = !partial || content.is_empty();
        if !wanted || filter.since.is_some_and(|since| time < since) {
            continue;
        }
        if filter.timestamps && starts {
            out.extend_from_slice(format!("{} ", time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ")).as_bytes());
        }
        out.extend_from_slice(content.as_bytes());
        if !partial {
            out.push(b'\n');
        }
    }
    if let Some(limit) = filter.limit_bytes {
        out.truncate(limit as usize);
    }
    out
}

fn line() -> impl Strategy<Value = String> {
    let good =
        (0..20u32, 0..1000u32, any::<bool>(), any::<bool>(), "[a-z ]{0,12}").prop_map(|(s, ms, err, part, text)| {
            let stream = if err { "stderr" } else { "stdout" };
            let tag = if part { "P" } else { "F" };
            format!("2026-01-01T00:00:{s:02}.{ms:03}Z {stream} {tag} {text}\n")
        });
    prop_oneof![9 => good, 1 => "[a-z ]{0,20}\n", 1 => Just("2026-01-01T00:00:01Z stdlog F x\n".to_owned())]
}

async fn read_all(path: &Path, options: Options) -> Vec<u8> {
    let mut log = LogStream::open(path, options, None).await.expect("opens");
    let mut out = Vec::new();
    while let Some(piece) = log.next().await.expect("reads") {
        out.extend_from_slice(&piece);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reads_what_the_model_reads(
        lines in prop::collection::vec(line(), 0..40),
        since in prop::option::of(0..20i64),
        timestamps in any::<bool>(),
        stream in prop::option::of(prop_oneof![Just(Output::Stdout), Just(Output::Stderr)]),
        limit_bytes in prop::option::of(1..300u64),
        tail in prop::option::of(0..45u64),
    ) {
        // A tail counts readable lines only, so that the two agree without repeating the rule for the others.
        let lines: Vec<String> = match tail {
            Some(_) => lines.into_iter().filter(|l| l.starts_with("2026") && !l.contains("stdlog")).collect(),
            None => lines,
        };
        let file = lines.concat();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let since = since.map(|s| start + Duration::from_secs(s as u64));
        let filter = Filter { since, timestamps, stream, limit_bytes, lines: None };
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, &file).expect("writes");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let read = runtime.block_on(read_all(&path, Options { filter: filter.clone(), tail }));
        let expected = model(&file, &filter, tail);
        prop_assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(&expected));
    }
}

#[tokio::test]
async fn tails_of_large_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("0.log");
    let text = "x".repeat(90);
    let lines: Vec<String> = (0..5000).map(|n| format!("2026-01-01T00:00:00Z stdout F {n} {text}\n")).collect();
    std::fs::write(&path, lines.concat()).expect("writes");
    for tail in [0, 1, 400, 4999, 5000, 6000] {
        let out = read_all(&path, Options { tail: Some(tail), ..Options::default() }).await;
        let out = String::from_utf8(out).expect("text");
        assert_eq!(out.lines().count() as u64, tail.min(5000));
        if tail > 0 {
            let first = 5000 - tail.min(5000);
            assert!(out.starts_with(&format!("{first} x")), "tail {tail}");
            assert!(out.ends_with(&format!("4999 {text}\n")));
        }
    }
}

struct Followed {
    log: LogStream,
    seen: String,
}

impl Followed {
    async fn until(&mut self, expected: &str) {
        let reading = async {
            while self.seen.len() < expected.len() {
                let piece = self.log.next().await.expect("reads").expect("goes on");
                self.seen.push_str(std::str::from_utf8(&piece).expect("text"));
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("in time");
        assert_eq!(self.seen, expected);
    }

    async fn end(&mut self) {
        let end = tokio::time::timeout(Duration::from_secs(20), self.log.next()).await.expect("in time");
        assert_eq!(end.expect("reads"), None);
    }
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("opens");
    file.write_all(format!("2026-01-01T00:00:00Z stdout F {text}\n").as_bytes()).expect("writes");
}

async fn follow(path: &Path, options: Options) -> (Followed, oneshot::Sender<()>) {
    let (end, ended) = oneshot::channel();
    let log = LogStream::open(path, options, Some(ended.map(|_| ()).boxed())).await.expect("opens");
    (Followed { log, seen: String::new() }, end)
}

#[tokio::test]
async fn follows_through_rotation_to_the_end() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("0.log");
    let old = dir.path().join("0.log.20260101-000000");
    append(&path, "zero");
    append(&path, "one");
    let (mut log, end) = follow(&path, Options { tail: Some(1), ..Options::default() }).await;
    log.until("one\n").await;
    append(&path, "two");
    log.until("one\ntwo\n").await;
    // The runtime still writes to the old file when the new one is there already.
    std::fs::rename(&path, &old).expect("renames");
    std::fs::write(&path, "").expect("creates");
    append(&old, "three");
    log.until("one\ntwo\nthree\n").await;
    append(&old, "four");
    append(&path, "five");
    log.until("one\ntwo\nthree\nfour\nfive\n").await;
    append(&path, "six");
    end.send(()).expect("still followed");
    log.until("one\ntwo\nthree\nfour\nfive\nsix\n").await;
    log.end().await;
}

#[tokio::test]
async fn a_slow_reader_misses_no_rotated_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("0.log");
    append(&path, "one");
    let (mut log, end) = follow(&path, Options::default()).await;
    log.until("one\n").await;
    for (stamp, text) in [("20260101-000000", "two"), ("20260101-000010", "three")] {
        std::fs::rename(&path, dir.path().join(format!("0.log.{stamp}"))).expect("renames");
        append(&path, text);
    }
    log.until("one\ntwo\nthree\n").await;
    drop(end);
    log.end().await;
}

#[tokio::test]
async fn following_ends_at_the_limit() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("0.log");
    append(&path, "one");
    let filter = Filter { limit_bytes: Some(6), ..Filter::default() };
    let (mut log, _end) = follow(&path, Options { filter, tail: None }).await;
    log.until("one\n").await;
    append(&path, "two");
    log.until("one\ntw").await;
    log.end().await;
}

#[test]
fn the_instance_and_upstreams_texts() {
    let terminated = |id: &str| json!({"terminated": {"containerID": id, "exitCode": 1}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let none = json!({});
    let running = json!({"running": {}});
    let cases = [
        (running.clone(), none.clone(), false, Ok("now")),
        (running.clone(), none.clone(), true, Err("previous terminated container \"c\" in pod \"p\" not found")),
        (running, terminated("containerd://old"), true, Ok("old")),
        (terminated("containerd://now"), none.clone(), false, Ok("now")),
        (terminated(""), terminated("containerd://old"), false, Ok("old")),
        (terminated(""), none.clone(), false, Err("container \"c\" in pod \"p\" is terminated")),
        (waiting("CrashLoopBackOff"), terminated("containerd://old"), false, Ok("old")),
        (
            waiting("ContainerCreating"),
            none.clone(),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
        ),
        (
            waiting("ImagePullBackOff"),
            none.clone(),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
        ),
        (
            waiting("ErrImagePull"),
            none.clone(),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
        ),
        (none.clone(), none, false, Err("container \"c\" in pod \"p\" is waiting to start - no logs yet")),
    ];
    for (state, last, previous, expected) in cases {
        let status: PodStatus = serde_json::from_value(json!({"initContainerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "containerd://now", "state": state, "lastState": last}]}))
        .expect("a status");
        let found = instance("p", &status, "c", previous);
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
    }
    let missing = instance("p", &PodStatus::default(), "c", false);
    assert_eq!(missing, Err("container \"c\" in pod \"p\" is not available".to_owned()));
}

#[test]
fn parameters() {
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
    let parse = |text: &str| Request::parse(&Query::parse(Some(text)), now);
    assert_eq!(parse("tailLines=&follow=false&tail=all"), Ok(Request::default()));
    let full = parse("follow=true&previous=1&timestamps&tailLines=7&limitBytes=9&sinceSeconds=30").expect("good");
    assert!(full.follow && full.previous && full.filter.timestamps);
    assert_eq!((full.tail, full.filter.limit_bytes), (Some(7), Some(9)));
    assert_eq!(full.filter.since, "2026-01-01T00:00:30Z".parse().ok());
    let since = parse("sinceTime=2026-01-01T01%3A00%3A00%2B01%3A00&stream=Stderr").expect("good").filter;
    assert_eq!((since.since, since.stream), ("2026-01-01T00:00:00Z".parse().ok(), Some(Output::Stderr)));
    for (query, code) in [
        ("tailLines=x", 400),
        ("sinceTime=yesterday", 400),
        ("tailLines=-1", 422),
        ("limitBytes=0", 422),
        ("sinceSeconds=0", 422),
        ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
        ("stream=stdout", 422),
        ("stream=Stdout&tailLines=1", 422),
    ] {
        assert_eq!(parse(query).expect_err("refused").code.as_u16(), code, "{query}");
    }
}
