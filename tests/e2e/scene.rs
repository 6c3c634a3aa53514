//! The shared cluster, and one scenario's view of it: a namespace, kubectl, and waiting.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use kedge_tests::command::{self, Output};
use kedge_tests::kubectl::{self, Kubectl};
use kedge_tests::server::{Server, binary};
use kedge_tests::{http, images};
use serde_json::Value;

pub struct Cluster {
    /// Only scenarios that run alone stop and start it.
    pub server: Mutex<Server>,
    pub kubectl: Kubectl,
    pub old_kubectl: Option<Kubectl>,
    pub node: String,
    pub node_ip: String,
    log: std::path::PathBuf,
    pub root: std::path::PathBuf,
}

impl Cluster {
    /// Starts a server on an empty machine with the test images, and waits for the node.
    pub fn start() -> Self {
        let mut server = Server::new(&binary(), &["--node-name", "node-1"]);
        let work = server.places.join("work");
        let target = server.places.join("data/agent/images/busybox.tar");
        std::fs::create_dir_all(target.parent().expect("a file is in a folder")).expect("the folder can be made");
        std::fs::create_dir_all(&work).expect("the folder can be made");
        images::write_archive(&work, &target);
        server.spawn();
        server.wait_for_api(Duration::from_secs(30));
        let (node, node_ip) = server.wait_for_node(Duration::from_secs(60));
        let kubectl = |program| Kubectl::new(program, &server.kubeconfig(), &server.places.join("home"));
        Self {
            kubectl: kubectl(&kubectl::current().expect("checked at the start")),
            old_kubectl: kubectl::old().as_deref().map(kubectl),
            node,
            node_ip,
            log: server.log_path(),
            root: server.places.root().to_owned(),
            server: Mutex::new(server),
        }
    }

    /// The server, whatever a failed scenario did while holding it.
    pub fn server(&self) -> std::sync::MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub struct Scene<'a> {
    pub cluster: &'a Cluster,
    pub ns: String,
}

/// Long enough for a loaded machine with two cores.
pub const LONG: Duration = Duration::from_secs(90);
pub const SHORT: Duration = Duration::from_secs(30);

impl<'a> Scene<'a> {
    pub fn new(cluster: &'a Cluster, name: &str) -> Self {
        Self { cluster, ns: name.replace('_', "-") }
    }

    /// Makes the namespace, and waits for the service account that pods need.
    pub fn open(&self) {
        self.cluster.kubectl.run(&["create", "namespace", &self.ns], None).ok();
        self.until("the default service account", SHORT, || self.find("serviceaccount default"));
    }

    /// Removes the namespace; whoever follows need not wait for it.
    pub fn close(&self) {
        self.cluster.kubectl.run(&["delete", "namespace", &self.ns, "--wait=false", "--ignore-not-found"], None);
    }

    /// kubectl in this namespace, whatever comes of it.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.with_input(args, None)
    }

    #[track_caller]
    pub fn with_input(&self, args: &[&str], stdin: Option<&str>) -> Output {
        self.cluster.kubectl.run(&[&["--namespace", self.ns.as_str()], args].concat(), stdin)
    }

    /// kubectl with words split at spaces, which must succeed; its output.
    #[track_caller]
    pub fn k(&self, line: &str) -> String {
        self.kubectl(&line.split_whitespace().collect::<Vec<_>>()).ok()
    }

    /// The same, which must be refused; what kubectl said on standard error.
    #[track_caller]
    pub fn refused(&self, line: &str) -> String {
        self.kubectl(&line.split_whitespace().collect::<Vec<_>>()).refused()
    }

    #[track_caller]
    pub fn create(&self, yaml: &str) -> String {
        self.with_input(&["create", "-f", "-"], Some(yaml)).ok()
    }

    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        self.with_input(&["apply", "-f", "-"], Some(yaml)).ok()
    }

    /// An object or a list, which must be there.
    #[track_caller]
    pub fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.k(&format!("get {what} -o json"))).expect("kubectl prints JSON")
    }

    /// An object, if it is there.
    pub fn find(&self, what: &str) -> Option<Value> {
        let line = format!("get {what} -o json");
        let output = self.kubectl(&line.split_whitespace().collect::<Vec<_>>());
        output.success().then(|| serde_json::from_str(&output.stdout).ok()).flatten()
    }

    #[track_caller]
    pub fn until<T>(&self, what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
        command::until(what, limit, probe)
    }

    /// Waits until `what` has the value at a JSON pointer that `accept` likes.
    #[track_caller]
    pub fn until_value(&self, what: &str, pointer: &str, limit: Duration, accept: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let deadline = std::time::Instant::now() + limit;
        loop {
            if let Some(object) = self.find(what) {
                last = object.pointer(pointer).cloned().unwrap_or(Value::Null);
                if accept(&last) {
                    return object;
                }
            }
            assert!(std::time::Instant::now() < deadline, "{what}{pointer} is {last} after {limit:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    #[track_caller]
    pub fn pod_ready(&self, name: &str) {
        self.k(&format!("wait --for=condition=Ready pod/{name} --timeout=60s"));
    }

    #[track_caller]
    pub fn rolled_out(&self, deployment: &str) {
        self.k(&format!("rollout status deployment/{deployment} --timeout=80s"));
    }

    /// Pods that `selector` picks and that are not being deleted.
    #[track_caller]
    pub fn pods(&self, selector: &str) -> Vec<Value> {
        let list = self.json(&format!("pods -l {selector}"));
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
    }

    /// `sh -c script` in a pod of the shell image; its output.
    #[track_caller]
    pub fn sh(&self, pod: &str, script: &str) -> Output {
        self.kubectl(&["exec", pod, "--", "sh", "-c", script])
    }

    /// GET from this machine.
    pub fn get(&self, ip: &str, port: u16, path: &str) -> Result<(u16, String), String> {
        http::get(address(ip, port), path, Duration::from_secs(5))
    }

    /// GET from this machine, until it is answered.
    #[track_caller]
    pub fn get_ok(&self, ip: &str, port: u16, path: &str) -> String {
        let what = format!("GET http://{ip}:{port}{path}");
        self.until(&what, SHORT, || match self.get(ip, port, path) {
            Ok((200, body)) => Some(body),
            _ => None,
        })
    }

    #[track_caller]
    pub fn cluster_ip(&self, service: &str) -> String {
        text(&self.json(&format!("service {service}")), "/spec/clusterIP")
    }

    /// Ready addresses of a service, from its endpoint slices.
    pub fn endpoints(&self, service: &str) -> Vec<String> {
        let Some(list) = self.find(&format!("endpointslices -l kubernetes.io/service-name={service}")) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for slice in list["items"].as_array().into_iter().flatten() {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                if endpoint["conditions"]["ready"] == true {
                    found.extend(endpoint["addresses"][0].as_str().map(str::to_owned));
                }
            }
        }
        found.sort();
        found
    }

    #[track_caller]
    pub fn until_endpoints(&self, service: &str, count: usize) -> Vec<String> {
        let mut last = Vec::new();
        for _ in 0..200 {
            last = self.endpoints(service);
            if last.len() == count {
                return last;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("service {service} has endpoints {last:?}, not {count}");
    }

    /// Waits for an event with this reason about this object; its message.
    #[track_caller]
    pub fn event(&self, object: &str, reason: &str, limit: Duration) -> String {
        self.until(&format!("event {reason} about {object}"), limit, || {
            let list = self.find("events")?;
            let items = list["items"].as_array()?;
            let found = items.iter().find(|e| e["reason"] == reason && e["involvedObject"]["name"] == object)?;
            Some(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// What there is to know when a scenario fails.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        for args in [
            &["get", "all,endpointslices", "-o", "wide"][..],
            &["describe", "pods"],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
        ] {
            let output = self.kubectl(args);
            let lines: Vec<String> = output.text().lines().map(str::to_owned).collect();
            let shown = &lines[lines.len().saturating_sub(90)..];
            text.push_str(&format!("-- kubectl {}\n    {}\n", args.join(" "), shown.join("\n    ")));
        }
        let log = std::fs::read_to_string(&self.cluster.log).unwrap_or_default();
        let about: Vec<&str> =
            log.lines().filter(|l| l.contains(&self.ns) || l.contains("ERROR") || l.contains("panicked")).collect();
        let shown = &about[about.len().saturating_sub(40)..];
        text.push_str(&format!("-- log of kedge about it\n    {}\n", shown.join("\n    ")));
        text
    }
}

/// The text at a JSON pointer; empty when it is not there.
pub fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub fn name(object: &Value) -> String {
    text(object, "/metadata/name")
}

#[track_caller]
pub fn address(ip: &str, port: u16) -> SocketAddr {
    match ip.parse() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => panic!("{ip:?} is not an address"),
    }
}

#[track_caller]
pub fn contains(text: &str, part: &str) {
    assert!(text.contains(part), "wanted {part:?} in:\n{text}");
}

/// A pod with a shell that sleeps.
pub fn shell_pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: main\n    image: {}\n    command: [sh, -c, 'trap \"exit 0\" TERM; sleep 100000 & wait']\n",
        images::SHELL
    )
}

/// A deployment of kedge's own HTTP responder, ready when it answers.
pub fn web(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         containers:\n      - name: web\n        image: docker.io/kedge/pause:1\n        args: [serve, --port, '8080', --text, {name}]\n        \
         ports: [{{containerPort: 8080, name: http}}]\n        readinessProbe: {{httpGet: {{path: /readyz, port: http}}, periodSeconds: 1}}\n"
    )
}

/// A service in front of it, on port 80.
pub fn service(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  \
         ports: [{{name: http, port: 80, targetPort: http}}]\n{more}"
    )
}

/// Runs curl of this machine.
pub fn curl(args: &[&str]) -> Output {
    command::run(Command::new("curl").args(["-s", "--max-time", "10"]).args(args), None, Duration::from_secs(15))
}
