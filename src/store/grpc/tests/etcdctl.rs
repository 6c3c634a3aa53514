//! Debian's etcdctl, unmodified, with everything it can do against one member.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::*;

#[allow(clippy::disallowed_methods)] // A test's own helper process.
fn etcdctl(port: u16, args: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &format!("127.0.0.1:{port}")]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs to the end; standard output and standard error, and whether it succeeded.
async fn finish(port: u16, args: &[&str], input: &str) -> (String, bool) {
    let mut child = etcdctl(port, args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.success())
}

async fn ok(port: u16, args: &[&str]) -> String {
    let (text, success) = finish(port, args, "").await;
    assert!(success, "etcdctl {args:?}: {text}");
    text
}

fn start(port: u16, args: &[&str]) -> (Child, tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) {
    let mut child = etcdctl(port, args).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// What it says, whether it succeeds or not.
#[allow(clippy::disallowed_methods)] // A test's own helper process.
pub async fn output(args: &[&str]) -> String {
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(args).kill_on_drop(true).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn available() -> bool {
    std::path::Path::new("/usr/bin/etcdctl").exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_transactions() {
    if !available() {
        return;
    }
    let ours = Ours::start().await;
    let port = ours.port;
    for (key, value) in [("/registry/a", "1"), ("/registry/b", "2"), ("/other", "3")] {
        assert_eq!(ok(port, &["put", key, value]).await, "OK\n");
    }
    let keys = ok(port, &["get", "/registry/", "--prefix", "--keys-only"]).await;
    assert_eq!(keys.split_whitespace().collect::<Vec<_>>(), ["/registry/a", "/registry/b"]);
    assert_eq!(ok(port, &["get", "/registry/a", "--print-value-only"]).await, "1\n");
    assert_eq!(ok(port, &["get", "", "--prefix", "--limit=1", "--order=DESCEND"]).await, "/registry/b\n2\n");
    let txn = "value(\"/registry/a\") = \"1\"\n\nput /registry/c 3\nget /registry/a\n\nget /other\n\n";
    let (text, success) = finish(port, &["txn"], txn).await;
    assert!(success && text.starts_with("SUCCESS\n\nOK\n\n/registry/a\n1\n"), "{text}");
    assert_eq!(ok(port, &["del", "/registry/c", "--prev-kv"]).await, "1\n/registry/c\n3\n");
    assert_eq!(ok(port, &["get", "/registry/c"]).await, "");
    let (text, success) = finish(port, &["get", "/registry/a", "--rev=99"], "").await;
    assert!(!success && text.contains("etcdserver: mvcc: required revision is a future revision"), "{text}");
    assert!(ok(port, &["compact", "4", "--physical"]).await.contains("compacted revision 4"));
    let (text, success) = finish(port, &["get", "/registry/a", "--rev=2"], "").await;
    assert!(!success && text.contains("etcdserver: mvcc: required revision has been compacted"), "{text}");
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_member() {
    if !available() {
        return;
    }
    let ours = Ours::start().await;
    let port = ours.port;
    assert!(ok(port, &["endpoint", "health"]).await.contains("is healthy"));
    let status = ok(port, &["endpoint", "status", "-w", "table"]).await;
    assert!(status.contains("3.6.5") && status.contains("true"), "{status}");
    // Asked by a URL, it sends that as the authority.
    let url = format!("http://127.0.0.1:{port}");
    let status = output(&["--endpoints", &url, "endpoint", "status"]).await;
    assert!(status.starts_with(&url) && status.contains("3.6.5"), "{status}");
    assert!(ok(port, &["endpoint", "hashkv"]).await.contains(&format!("127.0.0.1:{port}, ")));
    let members = ok(port, &["member", "list", "-w", "json"]).await;
    assert!(members.contains(&format!("http://127.0.0.1:{port}")), "{members}");
    assert_eq!(ok(port, &["alarm", "list"]).await, "");
    assert!(ok(port, &["defrag"]).await.contains("Finished defragmenting"));
    assert_eq!(ok(port, &["user", "list"]).await, "");
    let (text, success) = finish(port, &["auth", "enable"], "").await;
    assert!(!success && text.contains("root user does not exist"), "{text}");
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_locks_elections_and_watches() {
    if !available() {
        return;
    }
    let ours = Ours::start().await;
    let port = ours.port;
    let granted = ok(port, &["lease", "grant", "100"]).await;
    let id = granted.split_whitespace().nth(1).unwrap();
    ok(port, &["put", "leased", "1", &format!("--lease={id}")]).await;
    assert!(ok(port, &["lease", "keep-alive", "--once", id]).await.contains("keepalived with TTL(100)"));
    let left = ok(port, &["lease", "timetolive", id, "--keys"]).await;
    assert!(left.contains("granted with TTL(100s)") && left.contains("leased"), "{left}");
    assert!(ok(port, &["lease", "list"]).await.contains(id));

    let (_watch, mut seen) = start(port, &["watch", "--prefix", "lea"]);
    let client = ours.client().await;
    // It is there when it sees a write.
    {
        let mut first = std::pin::pin!(seen.next_line());
        until("the watch", async || {
            client.put("lead", "0").await;
            futures::poll!(first.as_mut()).is_ready()
        })
        .await;
    }
    ok(port, &["lease", "revoke", id]).await;
    assert_eq!(ok(port, &["get", "leased"]).await, "");
    until("the deletion", async || seen.next_line().await.unwrap().unwrap() == "DELETE").await;
    assert_eq!(seen.next_line().await.unwrap().unwrap(), "leased");

    let (mut holder, mut lines) = start(port, &["lock", "mutex"]);
    let held = lines.next_line().await.unwrap().unwrap();
    assert!(held.starts_with("mutex/"), "{held}");
    let (_next, mut waiting) = start(port, &["lock", "mutex"]);
    holder.kill().await.unwrap();
    // A killed holder's lease has to run out; that of a polite one goes with it.
    ok(port, &["del", &held]).await;
    assert!(waiting.next_line().await.unwrap().unwrap().starts_with("mutex/"));

    let (_leader, mut lines) = start(port, &["elect", "office", "me"]);
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("office/"));
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "me");
    let (_listener, mut lines) = start(port, &["elect", "-l", "office"]);
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("office/"));
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_pass_etcds_own_check_and_can_be_restored() {
    if !available() {
        return;
    }
    let ours = Ours::start().await;
    let port = ours.port;
    let client = ours.client().await;
    for i in 0..300 {
        let put = pb::PutRequest { value: vec![b'x'; i * 40].into(), ..put(&format!("s/{i:03}"), "") };
        client.unary::<_, pb::PutResponse>(PUT, put).await.unwrap();
    }
    client.unary::<_, pb::DeleteRangeResponse>(DELETE, delete("s/000", "s/010")).await.unwrap();
    ok(port, &["lease", "grant", "1000"]).await;
    let compact = pb::CompactionRequest { revision: 50, physical: false };
    client.unary::<_, pb::CompactionResponse>(COMPACT, compact).await.unwrap();
    let hash: pb::HashKvResponse = client.unary(HASH_KV, pb::HashKvRequest { revision: 0 }).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot.db");
    let path = file.to_str().unwrap();
    assert!(ok(port, &["snapshot", "save", path]).await.contains("Snapshot saved"));
    let status = ok(port, &["snapshot", "status", path, "-w", "json"]).await;
    assert!(status.contains("\"revision\":302"), "{status}");
    let data = dir.path().join("restored");
    ok(port, &["snapshot", "restore", path, "--data-dir", data.to_str().unwrap()]).await;
    ours.stop().await;

    let Some(real) = Real::start_on(&data).await else { return };
    let restored = Client::connect(real.port).await;
    let range = pb::RangeRequest { count_only: true, ..range("s/", "s0") };
    let count = restored.unary::<_, pb::RangeResponse>(RANGE, range).await.unwrap().count;
    assert_eq!(count, 290);
    let theirs: pb::HashKvResponse = restored.unary(HASH_KV, pb::HashKvRequest { revision: 302 }).await.unwrap();
    assert_eq!((theirs.hash, theirs.compact_revision), (hash.hash, 50));
    let leases = restored.unary::<_, pb::LeaseLeasesResponse>(LEASES, pb::LeaseLeasesRequest {}).await.unwrap();
    assert_eq!(leases.leases.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_copies_what_is_there_and_what_comes() {
    if !available() {
        return;
    }
    let (from, to) = (Ours::start().await, Ours::start().await);
    let (source, copy) = (from.client().await, to.client().await);
    source.put("m/before", "1").await;
    let target = format!("127.0.0.1:{}", to.port);
    let (_mirror, _lines) = start(from.port, &["make-mirror", &target, "--prefix", "m/"]);
    let has = async |key: &str| copy.unary::<_, pb::RangeResponse>(RANGE, range(key, "")).await.unwrap().count == 1;
    until("the old key", async || has("m/before").await).await;
    source.put("m/after", "1").await;
    until("the new key", async || has("m/after").await).await;
    from.stop().await;
    to.stop().await;
}
