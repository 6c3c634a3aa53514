//! A server without an agent, for scenarios about the API alone.

use std::path::PathBuf;
use std::time::Duration;

use kedge_tests::command::{self, Output, until};
use kedge_tests::kubectl::{self, Kubectl};
use kedge_tests::server::{Server, binary};
use serde_json::Value;

pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Plane {
    pub server: Server,
    pub kubectl: Kubectl,
    pub old_kubectl: Option<Kubectl>,
}

impl Plane {
    pub fn start() -> Self {
        let mut server = Server::new(&binary(), &["--disable-agent"]);
        server.spawn();
        server.wait_for_api(LIMIT);
        let with = |program: &std::path::Path| {
            Kubectl::new(program, &server.places.join("kubeconfig"), &server.places.join("home"))
        };
        let current = with(&kubectl::current().expect("checked at the start"));
        let old_kubectl = kubectl::old().as_deref().map(with);
        let this = Self { kubectl: current, old_kubectl, server };
        until("the default namespace", LIMIT, || this.run("get namespace default").success().then_some(()));
        this
    }

    /// SIGTERM and a new start on the same data.
    pub fn restart(&mut self) {
        let (_, code) = self.server.terminate();
        assert_eq!(code, Some(0));
        self.server.spawn();
        self.server.wait_for_api(LIMIT);
    }

    pub fn run(&self, line: &str) -> Output {
        self.kubectl.run(&line.split_whitespace().collect::<Vec<_>>(), None)
    }

    /// kubectl with words split at spaces, which must succeed; its output.
    #[track_caller]
    pub fn k(&self, line: &str) -> String {
        self.run(line).ok()
    }

    #[track_caller]
    pub fn feed(&self, line: &str, yaml: &str) -> Output {
        self.kubectl.run(&line.split_whitespace().collect::<Vec<_>>(), Some(yaml))
    }

    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        self.feed("apply -f -", yaml).ok()
    }

    #[track_caller]
    pub fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.k(&format!("get {what} -o json"))).expect("kubectl prints JSON")
    }

    #[track_caller]
    pub fn until_gone(&self, what: &str) {
        until(&format!("{what} is gone"), LIMIT, || {
            let output = self.run(&format!("get {what} -o name --ignore-not-found"));
            (output.success() && output.stdout.trim().is_empty()).then_some(())
        });
    }

    #[track_caller]
    pub fn established(&self, definition: &str) {
        // Right after the creation the conditions are null, which kubectl takes ill.
        until(&format!("{definition} is established"), LIMIT, || {
            let line = format!("wait --for=condition=Established crd/{definition} --timeout=20s");
            self.run(&line).success().then_some(())
        });
    }

    /// A file in the server's folder with this text.
    #[track_caller]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.server.places.join(name);
        std::fs::write(&path, text).expect("the folder can be written");
        path
    }

    /// What the server answers to a JSON request: code and text.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut args = vec!["-X".to_owned(), method.to_owned(), "-w".into(), "\n%{http_code}".into()];
        args.extend(["-H".into(), "content-type: application/json".into(), "-d".into(), "@-".into()]);
        args.extend(self.server.curl_args(path));
        let text = command::run(std::process::Command::new("curl").args(args), Some(body), LIMIT).ok();
        let (text, code) = text.rsplit_once('\n').expect("curl writes the code");
        (code.parse().expect("a number"), text.to_owned())
    }
}
