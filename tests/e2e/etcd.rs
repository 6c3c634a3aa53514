//! The store for etcd's own clients: `kedge etcd` alone, and that of a running server, through Debian's etcdctl.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kedge_tests::command::{self, Output, until};
use kedge_tests::http::free_port;
use kedge_tests::server::{Places, binary};

use crate::datastore::Fixture;
use crate::scene::contains;
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "etcd_alone", run: Run::Before(alone) },
    Scenario { name: "etcd_of_a_server", run: Run::Before(of_a_server) },
];

const LIMIT: Duration = Duration::from_secs(60);

/// etcdctl, with how it finds the server.
#[derive(Clone)]
struct Ctl(Vec<String>);

impl Ctl {
    fn at(url: &str) -> Self {
        Self(["--endpoints", url].map(str::to_owned).into())
    }

    /// With the certificates of `folder`.
    fn with_tls(mut self, folder: &Path) -> Self {
        for (flag, file) in [("--cacert", "ca.crt"), ("--cert", "client.crt"), ("--key", "client.key")] {
            self.0.extend([flag.to_owned(), folder.join(file).display().to_string()]);
        }
        self
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(&self.0).args(args.split(' '));
        command
    }

    fn run(&self, args: &str, input: Option<&str>) -> Output {
        command::run(&mut self.command(args), input, LIMIT)
    }

    #[track_caller]
    fn ok(&self, args: &str) -> String {
        self.run(args, None).ok()
    }

    fn follow(&self, args: &str) -> Following {
        let mut child = self
            .command(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcdctl is installed: apt-get install etcd-client");
        let pipe = child.stdout.take().expect("standard output is piped");
        let (lines, read) = std::sync::mpsc::channel();
        std::thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|l| lines.send(l)));
        Following { child, lines: read }
    }
}

/// One that goes on; ends when it is dropped.
struct Following {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Following {
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("etcdctl says something more")
    }

    /// As its terminal would: it gives back what it holds.
    fn interrupt(&mut self) {
        command::signal(self.child.id(), "INT");
        command::wait(&mut self.child, LIMIT);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `kedge etcd`.
struct Alone {
    child: Child,
    folder: std::path::PathBuf,
    args: Vec<String>,
}

impl Alone {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { child: Self::spawn(folder, &args), folder: folder.to_owned(), args }
    }

    fn spawn(folder: &Path, args: &[String]) -> Child {
        Command::new(binary())
            .args(["etcd", "--data-dir"])
            .arg(folder)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("kedge starts")
    }

    /// SIGTERM, or SIGKILL, then once more.
    fn restart(&mut self, politely: bool) {
        if politely {
            command::signal(self.child.id(), "TERM");
            assert_eq!(command::wait(&mut self.child, LIMIT), Some(0));
        } else {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.child = Self::spawn(&self.folder, &self.args);
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_for(ctl: &Ctl) {
    until("the etcd is healthy", LIMIT, || ctl.run("endpoint health", None).success().then_some(()));
}

#[track_caller]
fn revision(ctl: &Ctl) -> u64 {
    let status = ctl.ok("endpoint status -w json");
    let number = status.split("\"revision\":").nth(1).and_then(|rest| rest.split(',').next());
    number.and_then(|number| number.parse().ok()).expect("a revision")
}

/// What etcdctl can do with keys, the same over whatever it is connected by.
fn tour(ctl: &Ctl, folder: &Path) {
    wait_for(ctl);
    let before = revision(ctl);
    for at in 1..=3 {
        assert_eq!(ctl.ok(&format!("put t/{at} {at}")), "OK\n");
    }
    assert_eq!(ctl.ok("get t/ --prefix --keys-only"), "t/1\n\nt/2\n\nt/3\n\n");
    let txn = "mod(\"t/1\") > \"0\"\n\nput t/4 4\nget t/1\n\nget t/2\n\n";
    contains(&ctl.run("txn", Some(txn)).ok(), "SUCCESS\n\nOK\n\nt/1\n1\n");

    let watch = ctl.follow(&format!("watch --prefix t/ --rev {}", before + 1));
    until("what is there", LIMIT, || (watch.line() == "t/4").then_some(()));
    ctl.ok("del t/4");
    until("the deletion", LIMIT, || (watch.line() == "DELETE").then_some(()));

    let granted = ctl.ok("lease grant 300");
    let lease = granted.split(' ').nth(1).expect("it has an id");
    ctl.ok(&format!("put t/leased 1 --lease={lease}"));
    contains(&ctl.ok(&format!("lease keep-alive --once {lease}")), "keepalived with TTL(300)");
    contains(&ctl.ok(&format!("lease timetolive {lease} --keys")), "[t/leased]");
    ctl.ok(&format!("lease revoke {lease}"));
    assert_eq!(ctl.ok("get t/leased"), "");

    let mut holder = ctl.follow("lock mutex");
    contains(&holder.line(), "mutex/");
    let next = ctl.follow("lock mutex echo mine");
    holder.interrupt();
    assert_eq!(next.line(), "mine");
    let mut leader = ctl.follow("elect office me");
    contains(&leader.line(), "office/");
    assert_eq!(leader.line(), "me");
    contains(&ctl.follow("elect -l office").line(), "office/");
    leader.interrupt();

    contains(&ctl.ok("endpoint status -w table"), "3.6.");
    let saved = folder.join("saved.db").display().to_string();
    let _ = std::fs::remove_file(&saved);
    contains(&ctl.ok(&format!("snapshot save {saved}")), "Snapshot saved");
    contains(&ctl.ok(&format!("snapshot status {saved} -w table")), "REVISION");
    contains(&ctl.ok(&format!("compact {} --physical", revision(ctl))), "compacted revision");
    contains(&ctl.run(&format!("get t/1 --rev={before}"), None).refused(), "required revision has been compacted");
    contains(&ctl.ok("defrag"), "Finished defragmenting");
    assert_eq!(ctl.ok("get t/2 --print-value-only"), "2\n");
}

fn alone() {
    let places = Places::new();
    let url = format!("http://127.0.0.1:{}", free_port());
    let socket = format!("unix://{}", places.join("etcd.sock").display());
    let mut etcd = Alone::start(&places.join("a"), &["--listen-address", &url, "--listen-address", &socket]);
    let (tcp, unix) = (Ctl::at(&url), Ctl::at(&socket));
    tour(&tcp, places.root());
    tour(&unix, places.root());

    let mirror_url = format!("http://127.0.0.1:{}", free_port());
    let _mirror = Alone::start(&places.join("b"), &["--listen-address", &mirror_url]);
    let mirror = Ctl::at(&mirror_url);
    wait_for(&mirror);
    let copying = tcp.follow(&format!("make-mirror {} --prefix t/", mirror_url.trim_start_matches("http://")));
    until("what was there", LIMIT, || (mirror.ok("get t/2 --print-value-only") == "2\n").then_some(()));
    tcp.ok("put t/5 5");
    until("what comes", LIMIT, || (mirror.ok("get t/5 --print-value-only") == "5\n").then_some(()));
    drop(copying);

    // What was acknowledged outlives the server, however it ends.
    for (politely, value) in [(true, "1"), (false, "2")] {
        tcp.ok(&format!("put before {value}"));
        etcd.restart(politely);
        wait_for(&tcp);
        wait_for(&unix);
        assert_eq!(unix.ok("get before --print-value-only"), format!("{value}\n"));
        assert_eq!(tcp.ok("get t/5 --print-value-only"), "5\n");
    }
}

fn of_a_server() {
    let address = format!("127.0.0.1:{}", free_port());
    let f = Fixture::start(&["--etcd-listen-address", &address]);
    let certificates = f.server.places.join("data/server/tls/etcd");
    let open = Ctl::at(&format!("https://{address}"));
    let tls = open.clone().with_tls(&certificates);
    let unix = Ctl::at(&format!("unix://{}", f.server.places.join("run/etcd.sock").display()));
    for ctl in [&tls, &unix] {
        tour(ctl, f.server.places.root());
        f.k("create configmap seen --from-literal=a=1");
        let keys = ctl.ok("get /registry/ --prefix --keys-only");
        for key in
            ["/registry/namespaces/default", "/registry/configmaps/default/seen", "/registry/services/specs/default/"]
        {
            contains(&keys, key);
        }
        let revision = f.revision("seen");
        let watch = ctl.follow(&format!("watch --prefix /registry/configmaps/default/s --rev {revision}"));
        assert_eq!(watch.line(), "PUT");
        assert_eq!(watch.line(), "/registry/configmaps/default/seen");
        // What an etcd client does, the API server tells its clients.
        assert_eq!(ctl.ok("del /registry/configmaps/default/seen"), "1\n");
        until("the deletion", LIMIT, || f.run("get configmap seen").text().contains("NotFound").then_some(()));
    }
    assert!(!open.run("get a --command-timeout=2s", None).success(), "without a certificate");

    // Its certificates do for another one.
    let other = format!("https://127.0.0.1:{}", free_port());
    let file = |name: &str| certificates.join(name).display().to_string();
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let args = ["--listen-address", &other, "--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca];
    let _other = Alone::start(&f.server.places.join("other"), &args);
    tour(&Ctl::at(&other).with_tls(&certificates), f.server.places.root());
}
