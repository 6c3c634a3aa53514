//! Starts that cannot be: each a one-line error that says what to do, before anything is touched.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kedge_tests::command::{self, Output};
use kedge_tests::server::{Places, Server, binary};

use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "startup_unknown_option", run: Run::Before(unknown_option) },
    Scenario { name: "startup_bad_values", run: Run::Before(bad_values) },
    Scenario { name: "startup_bad_configuration_file", run: Run::Before(bad_file) },
    Scenario { name: "startup_configuration_from_file_and_environment", run: Run::Before(file_and_environment) },
    Scenario { name: "startup_taken_port", run: Run::Before(taken_port) },
    Scenario { name: "startup_unwritable_folder", run: Run::Before(unwritable) },
    Scenario { name: "startup_two_on_one_folder", run: Run::Before(two_servers) },
    Scenario { name: "startup_without_containerd", run: Run::Before(without_containerd) },
    Scenario { name: "startup_without_nft", run: Run::Before(without_nft) },
    Scenario { name: "startup_without_root", run: Run::Before(without_root) },
    Scenario { name: "startup_keeps_certificates_and_kubeconfig", run: Run::Before(keeps_certificates) },
    Scenario { name: "startup_control_plane_alone", run: Run::Before(control_plane_alone) },
];

const LIMIT: Duration = Duration::from_secs(20);

/// One line on standard error, exit code 1, with all these words.
#[track_caller]
pub fn one_line(output: &Output, words: &[&str]) {
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(output.code, Some(1), "{}: {}", output.line, output.text());
    let last = lines.last().copied().unwrap_or_default();
    assert!(last.starts_with("kedge: "), "no line of kedge's own: {}", output.text());
    for word in words {
        assert!(last.contains(word), "wanted {word:?} in: {last}");
    }
}

fn server_args(places: &Places) -> Vec<String> {
    let path = |name: &str| places.join(name).display().to_string();
    let port = kedge_tests::http::free_port().to_string();
    let mut args = vec!["server".to_owned()];
    for (flag, value) in [
        ("--data-dir", path("data")),
        ("--run-dir", path("run")),
        ("--write-kubeconfig", path("kubeconfig")),
        ("--https-listen-port", port),
    ] {
        args.extend([flag.to_owned(), value]);
    }
    args
}

fn start(places: &Places, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command::run(command.args(server_args(places)).args(more), None, LIMIT)
}

#[track_caller]
fn untouched(places: &Places) {
    assert!(!places.join("data").exists(), "the data folder was made");
    assert!(!places.join("kubeconfig").exists(), "the kubeconfig was written");
}

fn unknown_option() {
    let places = Places::new();
    let output = start(&places, &["--no-such-option"]);
    one_line(&output, &["--no-such-option"]);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    untouched(&places);
}

fn bad_values() {
    for (flag, value, allowed) in [
        ("--https-listen-port", "70000", "65535"),
        ("--cluster-cidr", "10.42.0.0/33", "10.42.0.0/33"),
        ("--service-cidr", "10.42.1.0/24", "--cluster-cidr"),
        ("--write-kubeconfig-mode", "0999", "octal"),
        ("--node-taint", "a=b:Never", "NoSchedule"),
        ("--node-name", "Not_A_Name", "RFC 1123"),
        ("--log-format", "xml", "json"),
        ("--cluster-dns", "1.2.3.4", "--service-cidr"),
        ("--kubelet-arg", "nonsense=1", "max-pods"),
        ("--node-ip", "somewhere", "somewhere"),
    ] {
        let places = Places::new();
        let output = if flag == "--https-listen-port" {
            let port = [flag, value];
            command::run(
                Command::new(binary()).arg("server").arg("--data-dir").arg(places.join("data")).args(port),
                None,
                LIMIT,
            )
        } else {
            start(&places, &[flag, value])
        };
        one_line(&output, &[flag, value, allowed]);
        untouched(&places);
    }
}

fn bad_file() {
    let places = Places::new();
    let file = places.join("config.yaml");
    let with = |text: &str| {
        std::fs::write(&file, text).expect("the folder can be written");
        start(&places, &["--config", &file.display().to_string()])
    };
    one_line(&with("no-such-key: 1\n"), &["no-such-key", "config.yaml"]);
    one_line(&with("service-node-port-range: all\n"), &["service-node-port-range", "all", "low-high"]);
    one_line(&with("a: [\n"), &["config.yaml"]);
    let absent = places.join("absent.yaml").display().to_string();
    one_line(&start(&places, &["--config", &absent]), &["absent.yaml"]);
    untouched(&places);
}

fn file_and_environment() {
    let places = Places::new();
    let file = places.join("config.yaml");
    std::fs::write(&file, "write-kubeconfig-mode: '0640'\ndisable-agent: true\ntls-san: [one.example, two.example]\n")
        .expect("the folder can be written");
    let mut server = Server::new(&binary(), &["--config", &file.display().to_string(), "--disable-agent"]);
    server.spawn();
    server.wait_for_api(LIMIT);
    let mode = std::fs::metadata(server.kubeconfig()).expect("the kubeconfig is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "from the file");
    drop(server);
    // The environment wins over the file, a flag over both.
    let output = command::run(
        Command::new(binary()).args(server_args(&places)).env("KEDGE_CONFIG", &file).env("KEDGE_NODE_TAINT", "bad"),
        None,
        LIMIT,
    );
    one_line(&output, &["bad", "NoSchedule"]);
}

fn taken_port() {
    let places = Places::new();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("this machine has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port().to_string();
    let mut args = server_args(&places);
    args.pop();
    args.push(port.clone());
    args.push("--disable-agent".into());
    let output = command::run(Command::new(binary()).args(args), None, LIMIT);
    one_line(&output, &[&port, "--https-listen-port"]);
}

fn unwritable() {
    let places = Places::new();
    std::fs::write(places.join("data"), "a file, not a folder").expect("the folder can be written");
    one_line(&start(&places, &["--disable-agent"]), &["data", "--data-dir"]);
}

fn two_servers() {
    let mut first = Server::new(&binary(), &["--disable-agent"]);
    first.spawn();
    first.wait_for_api(LIMIT);
    let mut args: Vec<String> = first.arguments().to_vec();
    let at = args.iter().position(|arg| arg == "--https-listen-port").expect("a port is given") + 1;
    args[at] = kedge_tests::http::free_port().to_string();
    let output = command::run(Command::new(binary()).args(args), None, LIMIT);
    one_line(&output, &["data", "another"]);
    first.assert_alive();
    assert_eq!(first.get("/api/v1/namespaces/default")["metadata"]["name"], "default");
}

/// Runs kedge where these programs are hidden.
fn hidden(places: &Places, program: &str) -> Output {
    let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin", "/opt/kedge/bin"];
    let hide: Vec<String> = folders
        .iter()
        .map(|folder| format!("{folder}/{program}"))
        .filter(|path| Path::new(path).is_file())
        .map(|path| format!("mount --bind /dev/null {path}"))
        .collect();
    let script = format!("{}\nexec \"$@\"", hide.join("\n"));
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(binary()).args(server_args(places));
    command::run(&mut command, None, LIMIT)
}

fn without_containerd() {
    one_line(&hidden(&Places::new(), "containerd"), &["containerd", "install"]);
}

fn without_nft() {
    one_line(&hidden(&Places::new(), "nft"), &["nft", "install"]);
}

fn without_root() {
    let places = Places::new();
    // nobody must be able to read the program and to write the folder: only being root is missing.
    let copy = places.join("kedge");
    std::fs::copy(binary(), &copy).expect("the program can be copied");
    for path in [places.root(), &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("our own files");
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(&copy)
        .args(server_args(&places));
    one_line(&command::run(&mut command, None, LIMIT), &["root"]);
}

fn keeps_certificates() {
    let mut server = Server::new(&binary(), &["--disable-agent"]);
    server.spawn();
    server.wait_for_api(LIMIT);
    let before = std::fs::read(server.kubeconfig()).expect("the kubeconfig is there");
    let (took, code) = server.terminate();
    assert_eq!(code, Some(0), "{}", server.log_tail(20));
    assert!(took < Duration::from_secs(5), "SIGTERM took {took:?}");
    server.spawn();
    server.wait_for_api(LIMIT);
    assert!(std::fs::read(server.kubeconfig()).expect("still there") == before, "the kubeconfig is another one");
    assert_eq!(server.get("/api/v1/namespaces/default")["metadata"]["name"], "default", "the old certificate works");
}

fn control_plane_alone() {
    let all = ["--disable-agent", "--disable-scheduler", "--disable-controller-manager"];
    let mut server = Server::new(&binary(), &all);
    server.spawn();
    server.wait_for_api(LIMIT);
    assert_eq!(server.get("/api/v1/nodes")["items"].as_array().map(Vec::len), Some(0));
    let find = |path: &str| server.get(path)["items"].as_array().map(Vec::len);
    assert_eq!(find("/api/v1/namespaces/default/serviceaccounts"), Some(0), "nothing writes but clients");
    assert_eq!(find("/api/v1/namespaces/default/events"), Some(0));
}
