//! Point 3: what kubectl streams and shows.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kedge_tests::{command, http};

use crate::scene::{LONG, SHORT, Scene, address, contains, shell_pod, web};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "stream_logs", run: Run::Shared(logs) },
    Scenario { name: "stream_exec", run: Run::Shared(exec) },
    Scenario { name: "stream_exec_with_a_terminal", run: Run::Shared(terminal) },
    Scenario { name: "stream_attach", run: Run::Shared(attach) },
    Scenario { name: "stream_port_forward", run: Run::Shared(port_forward) },
    Scenario { name: "stream_cp", run: Run::Shared(cp) },
    Scenario { name: "stream_with_an_old_kubectl", run: Run::Shared(old_kubectl) },
    Scenario { name: "show_events_and_watches", run: Run::Shared(watches) },
    Scenario { name: "show_explain_api_resources_raw", run: Run::Shared(documents) },
];

/// A child that is ended when dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(piped.spawn().expect("a found program starts"))
    }

    /// Reads lines of its standard output until one has `part`; panics when it takes longer than `limit`.
    #[track_caller]
    fn line_with(&mut self, part: &str, limit: Duration) -> String {
        let (pid, done) = (self.0.id(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let guard = done.clone();
        // Reading blocks: whoever is late is ended, which ends the reading.
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            if !guard.load(std::sync::atomic::Ordering::SeqCst) {
                command::signal(pid, "KILL");
            }
        });
        let mut seen = String::new();
        let stdout = self.0.stdout.as_mut().expect("standard output is piped");
        let mut byte = [0];
        let mut line = Vec::new();
        while stdout.read_exact(&mut byte).is_ok() {
            line.push(byte[0]);
            let text = String::from_utf8_lossy(&line).into_owned();
            if text.contains(part) {
                done.store(true, std::sync::atomic::Ordering::SeqCst);
                return text;
            }
            if byte[0] == b'\n' {
                seen.push_str(&text);
                line.clear();
            }
        }
        let mut errors = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            let _ = stderr.read_to_string(&mut errors);
        }
        panic!("no {part:?} within {limit:?} in: {seen}{errors}");
    }

    fn type_in(&mut self, text: &str) {
        let stdin = self.0.stdin.as_mut().expect("standard input is piped");
        stdin.write_all(text.as_bytes()).expect("the program reads");
        stdin.flush().expect("the program reads");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kubectl(s: &Scene<'_>, args: &[&str]) -> Command {
    let mut command = s.cluster.kubectl.command();
    command.args(["--namespace", &s.ns]).args(args);
    command
}

fn logs(s: &Scene<'_>) {
    s.create(
        &shell_pod("talker")
            .replace("sleep 100000 & wait", "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.2; done"),
    );
    s.pod_ready("talker");
    s.until("some lines", SHORT, || s.k("logs talker").contains("line 5").then_some(()));
    contains(&s.k("logs talker"), "line 0\nline 1\n");
    assert_eq!(s.k("logs talker --tail=2").lines().count(), 2);
    assert!(s.k("logs talker --since=1s").lines().count() < 20);
    let stamped = s.k("logs talker --timestamps --tail=1");
    assert!(stamped.starts_with("20") && stamped.contains("T") && stamped.contains(" line "), "{stamped}");
    assert_eq!(s.k("logs talker --limit-bytes=6"), "line 0");
    let mut following = Running::start(&mut kubectl(s, &["logs", "-f", "talker", "--tail=1"]));
    let first = following.line_with("\n", SHORT);
    assert_ne!(following.line_with("\n", SHORT), first);
    // The end of the pod is the end of the stream.
    s.k("delete pod talker --wait=false");
    let code = command::wait(&mut following.0, SHORT);
    assert_eq!(code, Some(0), "kubectl logs -f ends with the pod");
    s.create(&web("web", 2));
    s.rolled_out("web");
    assert_eq!(s.k("logs -l app=web --prefix").matches("serving on port 8080").count(), 2);
    contains(&s.refused("logs absent"), "pods \"absent\" not found");
    contains(&s.refused("logs deployment/web -c other"), "container other is not valid for pod web-");
}

fn exec(s: &Scene<'_>) {
    s.create(&shell_pod("box"));
    s.pod_ready("box");
    let both = s.sh("box", "echo out; echo err >&2; exit 7");
    assert_eq!((both.code, both.stdout.as_str()), (Some(7), "out\n"), "{}", both.text());
    contains(&both.stderr, "err\n");
    contains(&both.stderr, "command terminated with exit code 7");
    let fed = s.with_input(&["exec", "-i", "box", "--", "sh", "-c", "wc -c; echo end"], Some(&"x".repeat(300_000)));
    assert_eq!(fed.ok().split_whitespace().collect::<Vec<_>>(), ["300000", "end"]);
    assert_eq!(s.sh("box", "head -c 3000000 /dev/zero | tr '\\0' y").ok().len(), 3_000_000);
    contains(&s.refused("exec box -- absent-program"), "absent-program");
    contains(&s.refused("exec box -c other -- true"), "container other is not valid for pod box");
}

/// Runs kubectl under script(1), which gives it a terminal.
fn with_terminal(s: &Scene<'_>, args: &str) -> Running {
    let kubectl = kedge_tests::kubectl::current().expect("checked at the start");
    let line = format!("{} --namespace {} {args}", kubectl.display(), s.ns);
    let mut command = Command::new("script");
    command.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm");
    command.env("KUBECONFIG", s.cluster.root.join("kubeconfig")).env("HOME", s.cluster.root.join("home"));
    Running::start(&mut command)
}

fn terminal(s: &Scene<'_>) {
    s.create(&shell_pod("box"));
    s.pod_ready("box");
    let mut shell = with_terminal(s, "exec -it box -- sh");
    std::thread::sleep(Duration::from_secs(2));
    shell.type_in("test -t 0 && echo is-a-$((1))-terminal; tty\n");
    shell.line_with("is-a-1-terminal", SHORT);
    shell.line_with("/dev/pts/", SHORT);
    // Control-C ends the command, not the shell.
    shell.type_in("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(500));
    shell.type_in("\u{3}");
    shell.type_in("echo still-$((2))\n");
    shell.line_with("still-2", SHORT);
    shell.type_in("exit 5\n");
    assert_eq!(command::wait(&mut shell.0, SHORT), Some(5));
}

fn attach(s: &Scene<'_>) {
    let yaml = shell_pod("echo")
        .replace("trap \"exit 0\" TERM; sleep 100000 & wait", "while read line; do echo got $line; done")
        + "    stdin: true\n";
    s.create(&yaml);
    s.pod_ready("echo");
    let mut attached = Running::start(&mut kubectl(s, &["attach", "-i", "echo"]));
    std::thread::sleep(Duration::from_secs(2));
    attached.type_in("hello\n");
    attached.line_with("got hello", SHORT);
    drop(attached);
    contains(&s.k("logs echo"), "got hello");
}

/// Starts a port-forward; the local port.
fn forward(command: &mut Command) -> (Running, u16) {
    let mut running = Running::start(command);
    let line = running.line_with(" -> ", SHORT);
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    (running, port.unwrap_or_else(|| panic!("no port in {line:?}")))
}

fn port_forward(s: &Scene<'_>) {
    s.create(&web("web", 1));
    s.create(&crate::scene::service("web", ""));
    s.rolled_out("web");
    for target in ["deployment/web", "service/web"] {
        let remote = if target.starts_with("service") { ":80" } else { ":8080" };
        let (_running, port) = forward(&mut kubectl(s, &["port-forward", target, remote]));
        for _ in 0..5 {
            contains(&s.get_ok("127.0.0.1", port, "/"), "Hello from web-");
        }
        // Several at a time.
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| http::get(address("127.0.0.1", port), "/sleep?ms=1500", SHORT));
            contains(&s.get_ok("127.0.0.1", port, "/"), "Hello from web-");
            assert_eq!(slow.join().expect("it does not panic").map(|(status, _)| status), Ok(200));
        });
    }
}

fn cp(s: &Scene<'_>) {
    s.create(&shell_pod("box"));
    s.pod_ready("box");
    let folder = s.cluster.root.join(format!("{}-files", s.ns));
    std::fs::create_dir_all(folder.join("in/deep")).expect("the test's folder can be written");
    let data: Vec<u8> = (0..2_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(folder.join("in/deep/data"), &data).expect("the test's folder can be written");
    let (to, from) = (folder.join("in").display().to_string(), folder.join("out").display().to_string());
    s.kubectl(&["cp", &to, "box:/tmp/copied"]).ok();
    assert_eq!(s.sh("box", "wc -c < /tmp/copied/deep/data").ok().trim(), "2000000");
    s.kubectl(&["cp", "box:/tmp/copied", &from]).ok();
    assert!(std::fs::read(folder.join("out/deep/data")).unwrap_or_default() == data, "the copy of the copy differs");
}

fn old_kubectl(s: &Scene<'_>) {
    let old = s.cluster.old_kubectl.as_ref().expect("no kubectl 1.27: set KUBECTL_OLD");
    s.create(&shell_pod("box"));
    s.create(&web("web", 1));
    s.pod_ready("box");
    s.rolled_out("web");
    let run = |args: &[&str], input: Option<&str>| old.run(&[&["-n", s.ns.as_str()], args].concat(), input);
    let output = run(&["exec", "-i", "box", "--", "sh", "-c", "cat; echo err >&2; exit 3"], Some("typed\n"));
    assert_eq!((output.code, output.stdout.as_str()), (Some(3), "typed\n"), "{}", output.text());
    contains(&output.stderr, "err");
    contains(&run(&["logs", "deployment/web"], None).ok(), "serving on port 8080");
    let mut command = old.command();
    command.args(["-n", &s.ns, "port-forward", "deployment/web", ":8080"]);
    let (_running, port) = forward(&mut command);
    contains(&s.get_ok("127.0.0.1", port, "/"), "Hello from web-");
}

fn watches(s: &Scene<'_>) {
    let mut watching = Running::start(&mut kubectl(s, &["get", "pods", "-w"]));
    let mut events = Running::start(&mut kubectl(s, &["events", "--watch"]));
    std::thread::sleep(Duration::from_secs(1));
    s.create(&shell_pod("box"));
    watching.line_with("Running", LONG);
    events.line_with("Started", LONG);
    s.k("wait --for=jsonpath={.status.phase}=Running pod/box --timeout=30s");
    s.k("delete pod box --wait=false");
    watching.line_with("Terminating", SHORT);
    s.k("wait --for=delete pod/box --timeout=60s");
    let events = s.k("get events");
    for reason in ["Scheduled", "Pulled", "Created", "Started", "Killing"] {
        contains(&events, reason);
    }
    contains(&events, &format!("Successfully assigned {}/box to {}", s.ns, s.cluster.node));
    contains(&s.k("get events --field-selector reason=Killing -o name"), "event/box.");
    contains(&s.refused("wait --for=condition=Ready pod/absent --timeout=1s"), "not found");
}

fn documents(s: &Scene<'_>) {
    let spec = s.k("explain pod.spec");
    contains(&spec, "VERSION:    v1");
    contains(&spec, "containers\t<[]Container> -required-");
    contains(&s.k("explain deployment.spec.strategy.rollingUpdate --recursive"), "maxSurge");
    let resources = s.k("api-resources");
    for line in ["pods", "po", "deployments", "apps/v1", "endpointslices", "discovery.k8s.io/v1", "leases"] {
        contains(&resources, line);
    }
    contains(&s.k("api-versions"), "rbac.authorization.k8s.io/v1");
    contains(&s.k("version"), "Server Version: v1.36");
    contains(&s.k("get --raw /version"), "+kedge1");
    assert_eq!(s.k("get --raw /readyz").trim(), "ok");
    contains(&s.k("get --raw /livez?verbose"), "livez check passed");
    contains(&s.k("get --raw /metrics"), "apiserver_request_total");
    contains(&s.k("cluster-info"), "is running at");
    contains(&s.k("get all -A"), "service/kubernetes");
}
