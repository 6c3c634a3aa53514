//! A node of the test's own: everything under a temporary root, and nothing left behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Informers;
use component_base::{CancellationToken, Metrics, Ready, RealClock, Service, ServiceContext, TaskGroup};
use kubelet::{Containerd, Kubelet, KubeletConfig, PauseImage};

use super::api::Api;
use super::image::busybox;

pub const IMAGE: &str = "docker.io/test/busybox:1";
const PAUSE: &str = "docker.io/kedge/pause:1";

/// Removes everything when it is dropped, also while a test fails.
pub struct Root {
    pub path: PathBuf,
    cgroup: String,
}

impl Root {
    pub fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/tmp/kedge-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self { cgroup: format!("/kedge-{name}-{}", std::process::id()), path }
    }

    pub fn config(&self) -> KubeletConfig {
        let pause = PauseImage { reference: PAUSE.into(), tar: busybox(PAUSE, &["/bin/sleep", "1000000"]) };
        let mut config = KubeletConfig::new("n1", "127.0.0.1".parse().expect("an address"), pause);
        config.data_dir = self.path.join("data");
        config.run_dir = self.path.join("run");
        config.pods_log_dir = self.path.join("pods");
        config.container_log_links = self.path.join("containers");
        config.cgroup_root.clone_from(&self.cgroup);
        std::fs::create_dir_all(config.images_dir()).expect("a directory");
        std::fs::write(config.images_dir().join("busybox.tar"), busybox(IMAGE, &["/bin/sh"])).expect("writes");
        config
    }
}

/// Processes whose command line names something under `root`.
fn processes(root: &Path) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok());
    let prefix = root.display().to_string();
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| sys::process::command_line(*pid).iter().any(|arg| arg.contains(&prefix)))
        .collect()
}

impl Drop for Root {
    fn drop(&mut self) {
        let cgroups = sys::cgroup::Cgroups::detect().expect("control groups");
        for _ in 0..100 {
            let mut left = processes(&self.path);
            left.extend(cgroups.processes(&self.cgroup));
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = sys::process::force_kill(pid);
            }
            std::thread::yield_now();
        }
        for mounted in sys::mount::mounts_under(&self.path).unwrap_or_default() {
            let _ = sys::mount::unmount(&mounted);
        }
        let _ = cgroups.remove(&self.cgroup);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path.join("data/containerd.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("containerd's last words:\n{}", tail.join("\n"));
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A running containerd and kubelet.
pub struct Running {
    stop: CancellationToken,
    tasks: TaskGroup,
    pub access: kubelet::Access,
}

impl Running {
    pub async fn start(config: KubeletConfig, api: &Api) -> Self {
        let config = Arc::new(config);
        let (stop, tasks) = (CancellationToken::new(), TaskGroup::new());
        let start = |service: Arc<dyn Service>| {
            let ready = Ready::new();
            let cx = ServiceContext { shutdown: stop.clone(), ready: ready.clone(), clock: RealClock::shared() };
            let run = tasks.spawn_graceful(async move {
                loop {
                    let outcome = service.run(cx.clone()).await;
                    // As the supervisor does: what has served once is started again.
                    match &outcome {
                        Err(error) if cx.ready.is_set() && !cx.shutdown.is_cancelled() => {
                            eprintln!("{} starts again: {error}", service.name())
                        }
                        _ => return outcome,
                    }
                }
            });
            async move {
                tokio::select! {
                    () = ready.wait() => {}
                    ended = run => panic!("service ended: {ended:?}"),
                    () = tokio::time::sleep(Duration::from_secs(60)) => panic!("service not ready in time"),
                }
            }
        };
        let started = RealClock::shared().instant();
        start(Arc::new(Containerd::new(config.clone()))).await;
        eprintln!("containerd ready after {:?}", RealClock::shared().instant() - started);
        let informers = Informers::new(api.client(), TaskGroup::child_of(&stop), RealClock::shared());
        let kubelet = Arc::new(Kubelet::new(config, api.client(), informers, &Metrics::new()));
        let access = kubelet.access();
        start(kubelet).await;
        eprintln!("kubelet ready after {:?}", RealClock::shared().instant() - started);
        let access = access.borrow().clone().expect("running");
        Self { stop, tasks, access }
    }

    /// Stops the kubelet; containerd and the pods stay.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.stop().await;
    }
}

/// A test that fails does not stop it in order: nothing may be started again while its root is cleared.
impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
