//! Ends what outlives us on purpose: pods, their containerd, its shims, mounts and groups (`kedge killall`).
//!
//! Invariants:
//! - TD-1: only processes that carry our containerd's socket or configuration in their command line are ended.
//! - TD-2: what is gone already is fine; running it twice does nothing the second time.

use std::path::Path;
use std::time::Duration;

use component_base::SharedClock;
use futures::future::join_all;
use tracing::{info, warn};

use crate::cgroups::PodGroups;
use crate::cri::{Cri, v1};
use crate::error::{Error, Result};

const PATIENCE: Duration = Duration::from_secs(20);

/// Ends everything below `data_dir` (the agent's) and `run_dir`.
///
/// # Errors
/// When a process or a mount resists.
pub async fn tear_down(data_dir: &Path, run_dir: &Path, clock: &SharedClock) -> Result<()> {
    let socket = run_dir.join("containerd/containerd.sock");
    let config = data_dir.join("etc/containerd.toml");
    let daemons = processes(|line| line.iter().any(|arg| Path::new(arg) == config));
    if !daemons.is_empty() {
        let cri = Cri::new(&format!("unix://{}", socket.display()));
        if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, remove_pods(&cri)).await {
            warn!(%error, "the runtime could not remove its pods: ending them by their processes");
        }
    }
    for pid in daemons {
        super::stop(pid, clock).await?;
        info!(pid, "ended containerd");
    }
    // Shims are their containers' parents; what they leave is killed with them.
    for shim in processes(|line| line.iter().any(|arg| Path::new(arg) == socket)) {
        for pid in children(shim) {
            let _ = sys::process::force_kill(pid);
        }
        let _ = sys::process::force_kill(shim);
        info!(pid = shim, "ended shim");
    }
    for dir in [run_dir, data_dir] {
        for mount in sys::mount::mounts_under(dir).map_err(Error::io("listing mounts under", dir))? {
            if let Err(error) = sys::mount::unmount(&mount) {
                warn!(mount = %mount.display(), %error, "not unmounted");
            }
        }
    }
    let groups = PodGroups::new("")?;
    if let Err(error) = groups.hierarchies().remove(&groups.top()) {
        warn!(%error, "groups of pods not removed");
    }
    Ok(())
}

async fn remove_pods(cri: &Cri) -> Result<()> {
    let sandboxes = cri.list_pod_sandboxes(v1::PodSandboxFilter::default()).await?;
    info!(pods = sandboxes.len(), "ending pods");
    let removals = sandboxes.iter().map(|sandbox| async {
        cri.stop_pod_sandbox(&sandbox.id).await?;
        cri.remove_pod_sandbox(&sandbox.id).await
    });
    join_all(removals).await.into_iter().collect()
}

fn processes(is: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id() && is(&sys::process::command_line(*pid))).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}
