//! One `kedge server` with folders, port and kubeconfig of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::cleanup::Before;
use crate::command::{self, Output};
use crate::http::free_port;

/// Where everything of a test's kedge lives; gone when dropped.
pub struct Places {
    root: TempDir,
}

impl Places {
    /// Short paths: a unix socket's may have 107 bytes.
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("kedge-test.").tempdir_in("/tmp").expect("/tmp can be written");
        Self { root }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::new()
    }
}

/// The built kedge: `$KEDGE_BIN`, else the one built beside this program.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    binary_if_any()
        .unwrap_or_else(|| panic!("no kedge beside {}: `cargo build -p kedge` first, or set KEDGE_BIN", own.display()))
}

/// The same, if there is one.
pub fn binary_if_any() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("KEDGE_BIN") {
        return Some(PathBuf::from(path));
    }
    let own = std::env::current_exe().expect("a running program has a path");
    let folder = own.parent().expect("a program is in a folder");
    [folder, folder.parent().unwrap_or(folder)]
        .into_iter()
        .map(|folder| folder.join("kedge"))
        .find(|path| path.is_file())
}

/// A server, running or not. Dropping it stops it and removes all it made on the machine.
pub struct Server {
    pub places: Places,
    pub port: u16,
    binary: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
    before: Before,
    agent: bool,
}

impl Server {
    /// Prepares one; [`Server::spawn`] starts it.
    pub fn new(binary: &Path, args: &[&str]) -> Self {
        Self::on_port(free_port(), binary, args)
    }

    /// The same, with its API on a certain port.
    pub fn on_port(port: u16, binary: &Path, args: &[&str]) -> Self {
        let places = Places::new();
        let mut all = vec!["server".to_owned()];
        for (flag, value) in [
            ("--data-dir", places.join("data").display().to_string()),
            ("--run-dir", places.join("run").display().to_string()),
            ("--write-kubeconfig", places.join("kubeconfig").display().to_string()),
            ("--https-listen-port", port.to_string()),
        ] {
            all.extend([flag.to_owned(), value]);
        }
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let agent = !args.contains(&"--disable-agent");
        Self { places, port, binary: binary.to_owned(), args: all, child: None, before: Before::look(), agent }
    }

    pub fn arguments(&self) -> &[String] {
        &self.args
    }

    /// Starts the process; its output is added to the log.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log can be written");
        let errors = log.try_clone().expect("the log can be shared");
        let mut command = Command::new(&self.binary);
        // Nothing of the tester's own environment may configure it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KEDGE_") {
                command.env_remove(name);
            }
        }
        command.args(&self.args).current_dir(self.places.root()).stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.binary.display())));
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map(Child::id).expect("the server runs")
    }

    /// Waits for `/readyz`.
    #[track_caller]
    pub fn wait_for_api(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let url = format!("https://127.0.0.1:{}/readyz", self.port);
        while command::quiet("curl", &["-sk", "--max-time", "2", &url]).trim() != "ok" {
            self.assert_alive();
            assert!(Instant::now() < deadline, "no API within {limit:?}; {}", self.log_tail(30));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub fn assert_alive(&mut self) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if let Some(status) = ended {
            panic!("kedge ended ({status}); {}", self.log_tail(30));
        }
    }

    /// Waits until the only node is Ready; its name and address.
    #[track_caller]
    pub fn wait_for_node(&mut self, limit: Duration) -> (String, String) {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(node) = self.get("/api/v1/nodes")["items"].get(0).filter(|node| node_is_ready(node)) {
                let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
                let ip = addresses.iter().find(|a| a["type"] == "InternalIP").and_then(|a| a["address"].as_str());
                return (name, ip.unwrap_or_default().to_owned());
            }
            self.assert_alive();
            assert!(Instant::now() < deadline, "no Ready node within {limit:?}; {}", self.log_tail(40));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// GETs an API path as administrator; Null when there is no JSON answer.
    pub fn get(&self, path: &str) -> Value {
        let text = command::quiet("curl", &self.curl_args(path));
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Arguments that make curl the administrator.
    pub fn curl_args(&self, path: &str) -> Vec<String> {
        let (ca, cert, key) = self.credentials();
        let mut args: Vec<String> = ["-s", "--max-time", "30", "--cacert"].map(str::to_owned).into();
        args.extend([ca.display().to_string(), "--cert".into(), cert.display().to_string()]);
        args.extend(["--key".into(), key.display().to_string(), format!("https://127.0.0.1:{}{path}", self.port)]);
        args
    }

    /// CA, certificate and key of the administrator, as files.
    pub fn credentials(&self) -> (PathBuf, PathBuf, PathBuf) {
        let files = ["ca.crt", "admin.crt", "admin.key"].map(|name| self.places.join(name));
        if !files[2].exists() {
            let kubeconfig = std::fs::read_to_string(self.kubeconfig()).unwrap_or_default();
            let fields = ["certificate-authority-data", "client-certificate-data", "client-key-data"];
            for (path, field) in files.iter().zip(fields) {
                if let Some(bytes) = embedded(&kubeconfig, field) {
                    std::fs::write(path, bytes).expect("the folder can be written");
                }
            }
        }
        let [ca, cert, key] = files;
        (ca, cert, key)
    }

    /// SIGTERM; how long it took to end, and its exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> (Duration, Option<i32>) {
        let mut child = self.child.take().expect("the server runs");
        let begun = Instant::now();
        command::signal(child.id(), "TERM");
        let code = command::wait(&mut child, Duration::from_secs(20));
        (begun.elapsed(), code)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs this binary to its end with other arguments.
    #[track_caller]
    pub fn run_other(&self, args: &[&str], limit: Duration) -> Output {
        command::run(Command::new(&self.binary).args(args), None, limit)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.places.join("kubeconfig")
    }

    pub fn log_path(&self) -> PathBuf {
        self.places.join("kedge.log")
    }

    /// The last lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        format!("end of the log of kedge:\n    {}", all[all.len().saturating_sub(lines)..].join("\n    "))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            command::signal(child.id(), "TERM");
            command::wait(&mut child, Duration::from_secs(8));
        }
        if self.agent {
            let (data, run) = (self.places.join("data"), self.places.join("run"));
            let places = [
                "killall".into(),
                "--data-dir".into(),
                data.into_os_string(),
                "--run-dir".into(),
                run.into_os_string(),
            ];
            command::quiet(
                "timeout",
                &[&["60".into(), self.binary.clone().into_os_string()][..], &places[..]].concat(),
            );
            self.before.restore(self.places.root());
        }
        if let Some(keep) = std::env::var_os("KEDGE_TEST_LOGS") {
            let _ = std::fs::create_dir_all(&keep);
            for name in ["kedge.log", "data/agent/containerd.log"] {
                let to = Path::new(&keep).join(format!("{}-{}", self.port, name.replace('/', "-")));
                let _ = std::fs::copy(self.places.join(name), to);
            }
        }
    }
}

fn node_is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A base64 field of a kubeconfig, whether that is YAML or JSON.
fn embedded(kubeconfig: &str, field: &str) -> Option<Vec<u8>> {
    let at = kubeconfig.find(field)? + field.len();
    let rest = kubeconfig[at..].trim_start_matches(['"', ':', ' ']);
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c)).unwrap_or(rest.len());
    base64::engine::general_purpose::STANDARD.decode(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::embedded;

    #[test]
    fn reads_embedded_fields_of_both_forms() {
        assert_eq!(embedded("x:\n  client-key-data: aGk=\n  y: 1\n", "client-key-data").as_deref(), Some(&b"hi"[..]));
        assert_eq!(embedded("{\"client-key-data\":\"aGk=\"}", "client-key-data").as_deref(), Some(&b"hi"[..]));
        assert_eq!(embedded("{}", "client-key-data"), None);
    }
}
