//! Our own containerd: configured, started, supervised, and left alone when we go.
//!
//! Invariants:
//! - CD-1: containerd is never stopped because we stop: pods outlive us (it is stopped only to start it with a new
//!   configuration, which its containers do not notice).
//! - CD-2: one that already runs with our configuration is adopted.

pub mod config;
pub mod events;
pub mod import;
pub mod teardown;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::supervisor::BoxError;
use component_base::{Service, ServiceContext, SharedClock};
use tracing::{info, warn};

use crate::config::{ContainerdMode, KubeletConfig};
use crate::cri::Cri;
use crate::error::{Error, Result};
use config::Version;

const PROGRAM_DIRS: &[&str] = &["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/bin", "/opt/kedge/bin"];
/// How long a starting containerd may take to serve CRI.
const START_LIMIT: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// The service "containerd": ready once the runtime serves CRI and has the pause image.
pub struct Containerd {
    config: Arc<KubeletConfig>,
    cri: Cri,
}

/// The process that serves.
enum Process {
    Ours(sys::process::Detached),
    Adopted(u32),
    External,
}

impl Containerd {
    pub fn new(config: Arc<KubeletConfig>) -> Self {
        let cri = Cri::new(&config.runtime_endpoint());
        Self { config, cri }
    }

    fn pid_file(&self) -> PathBuf {
        self.config.run_dir.join("containerd/containerd.pid")
    }

    fn config_file(&self) -> PathBuf {
        self.config.data_dir.join("etc/containerd.toml")
    }

    /// Finds, configures and starts (or adopts) the runtime.
    async fn obtain(&self, clock: &SharedClock) -> Result<Process> {
        let ContainerdMode::Managed { binary } = &self.config.containerd else { return Ok(Process::External) };
        if !sys::capability::is_root() {
            return Err(Error::Containerd(
                "running containers needs root: start kedge as root, or give --container-runtime-endpoint".into(),
            ));
        }
        let binary = binary
            .clone()
            .or_else(|| sys::process::find("containerd", PROGRAM_DIRS))
            .filter(|path| path.is_file())
            .ok_or_else(|| {
                Error::Containerd(
                    "no containerd on this machine: install the package containerd (and runc), \
                     or give --container-runtime-endpoint"
                        .into(),
                )
            })?;
        let version = version_of(&binary).await?;
        self.prepare_dirs()?;
        let text = config::render(&self.settings(version));
        let path = self.config_file();
        let changed = std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str());
        if let Some(pid) = self.running(&path) {
            if !changed {
                info!(pid, "adopted the running containerd");
                return Ok(Process::Adopted(pid));
            }
            info!(pid, "restarting containerd: its configuration changed");
            stop(pid, clock).await?;
        }
        std::fs::write(&path, text).map_err(Error::io("writing", &path))?;
        let program = sys::process::Program::new(&binary).arg("--config").arg(&path);
        let log = self.config.data_dir.join("containerd.log");
        let child = sys::process::spawn_detached(&program, &log).map_err(Error::io("starting", &binary))?;
        let pid_file = self.pid_file();
        std::fs::write(&pid_file, child.pid.to_string()).map_err(Error::io("writing", &pid_file))?;
        info!(pid = child.pid, version = %version, "started containerd");
        Ok(Process::Ours(child))
    }

    fn running(&self, config: &Path) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        // The id may be somebody else's by now.
        let ours = sys::process::command_line(pid).iter().any(|arg| Path::new(arg) == config);
        (ours && sys::process::alive(pid)).then_some(pid)
    }

    fn settings(&self, version: Version) -> config::Settings {
        let c = &self.config;
        let root = c.data_dir.join("containerd");
        let snapshotter = if sys::mount::supports_overlay(&root) { "overlayfs" } else { "native" };
        if snapshotter == "native" {
            warn!(root = %root.display(), "no overlayfs here: images are copied for every container");
        }
        config::Settings {
            version,
            root,
            state: c.run_dir.join("containerd"),
            snapshotter,
            pause_image: c.pause_image.reference.clone(),
            restrict_oom_score_adj: !sys::capability::has(sys::capability::Capability::SysResource).unwrap_or(false),
            apparmor: Path::new("/sys/module/apparmor").exists(),
            cni_bin_dir: c.cni_bin_dir(),
            cni_conf_dir: c.cni_conf_dir(),
            registry_dir: c.registry_dir(),
        }
    }

    fn prepare_dirs(&self) -> Result<()> {
        let c = &self.config;
        for dir in [
            c.data_dir.join("containerd"),
            c.data_dir.join("etc"),
            c.run_dir.join("containerd"),
            c.cni_bin_dir(),
            c.cni_conf_dir(),
            c.images_dir(),
            c.registry_dir(),
        ] {
            std::fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
        }
        if !c.cni_bin.as_os_str().is_empty() {
            // containerd up to 1.7 also calls a plug-in "loopback" for every sandbox.
            for name in ["kedge", "loopback"] {
                link(&c.cni_bin, &c.cni_bin_dir().join(name))?;
            }
        }
        Ok(())
    }

    /// Waits until CRI answers, or the process ends.
    async fn serving(&self, process: &mut Process, clock: &SharedClock) -> Result<()> {
        let begun = clock.instant();
        loop {
            let last = match self.cri.status().await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let dead = match process {
                Process::Ours(child) => {
                    tokio::select! {
                        status = child.wait() => Some(status.unwrap_or_else(|e| e.to_string())),
                        () = clock.sleep(PROBE_INTERVAL) => None,
                    }
                }
                Process::Adopted(pid) if !sys::process::alive(*pid) => Some("gone".to_owned()),
                _ => {
                    clock.sleep(PROBE_INTERVAL).await;
                    None
                }
            };
            if let Some(status) = dead {
                let log = self.config.data_dir.join("containerd.log");
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(1).collect();
                return Err(Error::Containerd(format!(
                    "ended at once ({status}): {} (see {})",
                    tail.first().unwrap_or(&"no output"),
                    log.display()
                )));
            }
            if clock.instant() - begun > START_LIMIT {
                let endpoint = self.cri.socket().display().to_string();
                return Err(Error::Connect { endpoint, message: format!("does not serve CRI: {}", last.short()) });
            }
        }
    }

    async fn import_images(&self, clock: &SharedClock) -> Result<()> {
        let pause = &self.config.pause_image;
        if !pause.tar.is_empty() && self.cri.image_status(&pause.reference).await?.is_none() {
            import::import(&self.cri, clock, import::Archive::Memory(pause.tar.clone()), &pause.reference).await?;
        }
        let dir = self.config.images_dir();
        let mut archives: Vec<PathBuf> = std::fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| import::is_archive(path))
            .collect();
        archives.sort();
        let marks = self.config.data_dir.join("containerd/kedge-imported");
        std::fs::create_dir_all(&marks).map_err(Error::io("creating", &marks))?;
        for path in archives {
            let Some(mark) = import::mark_of(&path, &marks) else { continue };
            if mark.exists() {
                continue;
            }
            // One bad archive must not keep the node from starting.
            match import::import(&self.cri, clock, import::Archive::File(path.clone()), "").await {
                Ok(names) => {
                    info!(archive = %path.display(), images = ?names, "imported");
                    std::fs::write(&mark, names.join("\n")).map_err(Error::io("writing", &mark))?;
                }
                Err(error) => warn!(archive = %path.display(), %error, "image archive not imported"),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Service for Containerd {
    fn name(&self) -> &'static str {
        "containerd"
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let mut process = self.obtain(&cx.clock).await?;
        let start = async {
            self.serving(&mut process, &cx.clock).await?;
            self.import_images(&cx.clock).await
        };
        match cx.shutdown.run_until_cancelled(start).await {
            None => return Ok(()),
            Some(result) => result?,
        }
        cx.ready.set();
        let ended = async {
            match &mut process {
                Process::Ours(child) => child.wait().await.unwrap_or_else(|error| error.to_string()),
                Process::Adopted(pid) => {
                    events::until_disconnected(&self.cri).await;
                    format!("process {pid} closed its connection")
                }
                // The kubelet notices by itself and waits for it to come back.
                Process::External => std::future::pending().await,
            }
        };
        match cx.shutdown.run_until_cancelled(ended).await {
            None => Ok(()),
            Some(status) => Err(format!("containerd ended: {status}").into()),
        }
    }
}

/// Makes `place` a link to `program`.
fn link(program: &Path, place: &Path) -> Result<()> {
    if std::fs::read_link(place).ok().as_deref() == Some(program) {
        return Ok(());
    }
    // Absent is as good as removed.
    let _ = std::fs::remove_file(place);
    std::os::unix::fs::symlink(program, place).map_err(Error::io("linking", place))
}

async fn version_of(binary: &Path) -> Result<Version> {
    let program = sys::process::Program::new(binary).arg("--version");
    let output = sys::process::run(&program, Duration::from_secs(10)).await.map_err(Error::io("running", binary))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Version::parse(&text)
        .ok_or_else(|| Error::Containerd(format!("{} --version says {text:?}: not a containerd", binary.display())))
}

async fn stop(pid: u32, clock: &SharedClock) -> Result<()> {
    // Gone meanwhile is what we want.
    let _ = sys::process::terminate(pid);
    let begun = clock.instant();
    while sys::process::alive(pid) {
        if clock.instant() - begun > Duration::from_secs(10) {
            let _ = sys::process::force_kill(pid);
        }
        if clock.instant() - begun > Duration::from_secs(20) {
            return Err(Error::Containerd(format!("process {pid} does not end")));
        }
        clock.sleep(PROBE_INTERVAL).await;
    }
    Ok(())
}
