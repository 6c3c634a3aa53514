//! Where the state lies: snapshots of it, restores of a running and of a stopped server, and an etcd of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kedge_tests::command::{self, Output, until};
use kedge_tests::http::free_port;
use kedge_tests::kubectl::{self, Kubectl};
use kedge_tests::server::{Places, Server, binary};
use serde_json::Value;

use crate::scene::contains;
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "datastore_snapshots", run: Run::Before(snapshots) },
    Scenario { name: "datastore_external_etcd", run: Run::Before(|| external(Etcd::start(Program::Debians))) },
    Scenario { name: "datastore_external_kedge", run: Run::Before(|| external(Etcd::start(Program::Kedge))) },
    Scenario { name: "datastore_bad_options", run: Run::Before(bad_options) },
];

const LIMIT: Duration = Duration::from_secs(60);

/// A server without an agent, and kubectl.
pub struct Fixture {
    pub server: Server,
    kubectl: Kubectl,
}

impl Fixture {
    pub fn start(args: &[&str]) -> Self {
        let all: Vec<&str> = ["--disable-agent"].iter().chain(args).copied().collect();
        let mut server = Server::new(&binary(), &all);
        server.spawn();
        server.wait_for_api(LIMIT);
        let program = kubectl::current().expect("kubectl is installed");
        let kubectl = Kubectl::new(&program, &server.places.join("kubeconfig"), server.places.root());
        let this = Self { server, kubectl };
        until("the default namespace", LIMIT, || this.run("get namespace default").success().then_some(()));
        this
    }

    pub fn run(&self, args: &str) -> Output {
        self.kubectl.run(&args.split(' ').collect::<Vec<_>>(), None)
    }

    #[track_caller]
    pub fn k(&self, args: &str) -> String {
        self.run(args).ok()
    }

    pub fn revision(&self, name: &str) -> i64 {
        self.k(&format!("get configmap {name} -o jsonpath={{.metadata.resourceVersion}}")).parse().expect("a number")
    }

    fn snapshot(&self, args: &[&str]) -> Output {
        let data = self.server.places.join("data").display().to_string();
        let words: Vec<&str> =
            ["etcd-snapshot"].iter().chain(args).chain(&["--data-dir", data.as_str()]).copied().collect();
        self.server.run_other(&words, LIMIT)
    }

    fn listed(&self) -> Vec<Value> {
        let text = self.snapshot(&["ls", "-o", "json"]).ok();
        serde_json::from_str::<Value>(&text).expect("JSON").as_array().cloned().expect("a list")
    }
}

fn snapshots() {
    let mut f = Fixture::start(&["--node-name", "n"]);
    f.k("create configmap kept --from-literal=a=1");
    contains(&f.snapshot(&["save", "--name", "mine"]).ok(), "Snapshot mine-n-");
    let name = f.listed()[0]["name"].as_str().expect("it has a name").to_owned();
    contains(&f.snapshot(&["ls"]).ok(), &format!("{name} file://"));
    f.k("create configmap lost --from-literal=a=1");
    let before = f.revision("lost");

    // A watch from before the restore: its client is told to list again.
    let mut args = f.server.curl_args(&format!("/api/v1/configmaps?watch=1&resourceVersion={before}"));
    args.retain(|arg| arg != "--max-time" && arg != "30");
    let mut watch = Command::new("curl")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("curl is installed");

    let bad = f.server.places.join("bad");
    std::fs::write(&bad, "nothing").expect("writes");
    contains(&f.snapshot(&["restore", &bad.display().to_string()]).refused(), "not a kedge snapshot");
    let good = f.server.places.join("data/server/db/snapshots").join(&name);
    let mut bytes = std::fs::read(&good).expect("reads");
    bytes[100] ^= 1;
    std::fs::write(&bad, &bytes).expect("writes");
    contains(&f.snapshot(&["restore", &bad.display().to_string()]).refused(), "damaged: its sha256 is");
    f.k("get configmap lost");

    // Running.
    contains(&f.snapshot(&["restore", &name]).ok(), "The old database is kept as");
    assert!(command::wait(&mut watch, LIMIT).is_some(), "the old watch goes on");
    f.k("get configmap kept");
    contains(&f.run("get configmap lost").refused(), "NotFound");
    let stale = f.server.get(&format!("/api/v1/configmaps?watch=1&timeoutSeconds=5&resourceVersion={before}"));
    assert_eq!(stale["object"]["reason"], "Expired", "{stale}");
    f.k("create configmap new --from-literal=a=1");
    assert!(f.revision("new") > before + 1_000_000);

    // Stopped.
    let (_, code) = f.server.terminate();
    assert_eq!(code, Some(0));
    assert!(!f.server.places.join("data/server/admin.sock").exists());
    contains(&f.snapshot(&["save", "--name", "offline", "--node-name", "n"]).ok(), "Snapshot offline-n-");
    f.snapshot(&["restore", &name]).ok();
    f.server.spawn();
    f.server.wait_for_api(LIMIT);
    f.k("get configmap kept");
    contains(&f.run("get configmap new").refused(), "NotFound");

    f.snapshot(&["delete", &name]).ok();
    contains(&f.snapshot(&["prune", "--name", "offline", "--node-name", "n", "--snapshot-retention", "1"]).text(), "");
    assert_eq!(f.listed().len(), 1);
}

#[derive(Clone, Copy, PartialEq)]
enum Program {
    Debians,
    /// `kedge etcd`.
    Kedge,
}

/// An etcd of one member.
struct Etcd {
    program: Program,
    child: Child,
    url: String,
    places: Places,
    peer: u16,
}

impl Etcd {
    fn start(program: Program) -> Self {
        let (places, port, peer) = (Places::new(), free_port(), free_port());
        let url = format!("http://127.0.0.1:{port}");
        let child = Self::spawn(program, places.root(), &url, peer);
        Self { program, child, url, places, peer }
    }

    fn spawn(program: Program, folder: &Path, url: &str, peer: u16) -> Child {
        if program == Program::Kedge {
            return Command::new(binary())
                .args(["etcd", "--listen-address", url, "--data-dir"])
                .arg(folder.join("etcd"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("kedge starts");
        }
        let peer = format!("http://127.0.0.1:{peer}");
        Command::new("etcd")
            .args(["--log-level", "error", "--data-dir"])
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", url, "--advertise-client-urls", url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed: apt-get install etcd-server")
    }

    fn restart(&mut self) {
        self.stop();
        self.child = Self::spawn(self.program, self.places.root(), &self.url, self.peer);
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn external(mut etcd: Etcd) {
    let mut f = Fixture::start(&["--datastore-endpoint", &etcd.url]);
    assert!(!f.server.places.join("data/server/db/state.db").exists(), "nothing is kept here");
    f.k("create configmap one --from-literal=a=1");
    let keys = command::run(
        Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", &etcd.url]).args([
            "get",
            "/registry/configmaps/default/one",
            "--keys-only",
        ]),
        None,
        LIMIT,
    );
    contains(&keys.ok(), "/registry/configmaps/default/one");

    // A watch sees what comes, also after the etcd was away.
    let seen = f.server.places.join("seen");
    let path = format!("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={}", f.revision("one"));
    let mut args = f.server.curl_args(&path);
    args.retain(|arg| arg != "--max-time" && arg != "30");
    let mut watch = Command::new("curl")
        .args(["-N", "-o", &seen.display().to_string()])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("curl is installed");
    f.k("create configmap two --from-literal=a=1");
    etcd.restart();
    until("writes again", LIMIT, || f.run("create configmap three --from-literal=a=1").success().then_some(()));
    f.k("delete configmap two");
    until("the watch has seen it all", LIMIT, || {
        let text = std::fs::read_to_string(&seen).unwrap_or_default();
        (text.contains("\"three\"") && text.contains("\"DELETED\"")).then_some(())
    });
    let text = std::fs::read_to_string(&seen).expect("reads");
    let count = |name: &str| text.lines().filter(|line| line.contains(&format!("\"name\":\"{name}\""))).count();
    assert_eq!((count("two"), count("three")), (2, 1), "{text}");
    let _ = watch.kill();
    let _ = watch.wait();

    // Its snapshot can be taken, but not restored, here.
    let saved = f.snapshot(&["save"]).ok();
    let name = saved.trim().trim_start_matches("Snapshot ").trim_end_matches(" saved.").to_owned();
    contains(&f.snapshot(&["restore", &name]).refused(), "the state lies in an external etcd");

    // Another server on the same cluster finds everything.
    let (_, code) = f.server.terminate();
    assert_eq!(code, Some(0));
    f.server.spawn();
    f.server.wait_for_api(LIMIT);
    f.k("get configmap three");
    contains(&f.run("get configmap two").refused(), "NotFound");
}

fn bad_options() {
    let places = Places::new();
    for (args, want) in [
        (&["--datastore-endpoint", "mysql://a:1"][..], "want http://host:port or https://host:port of an etcd"),
        (&["--datastore-endpoint", "https://a:2379"], "give the authority of its certificate with --datastore-cafile"),
        (&["--etcd-snapshot-schedule-cron", "often"], "want five fields"),
    ] {
        let data = places.join("data").display().to_string();
        let output = command::run(Command::new(binary()).args(["server", "--data-dir", &data]).args(args), None, LIMIT);
        contains(&output.refused(), want);
    }
    assert!(!places.join("data").exists(), "the data folder was made");
}
