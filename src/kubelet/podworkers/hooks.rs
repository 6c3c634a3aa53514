//! Lifecycle hooks.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::worker::Worker;
use crate::containers::is_host_network;
use crate::probes::prober::{HttpError, Target};

/// How long a hook without a limit of its own may wait for an HTTP answer.
const HTTP_LIMIT: Duration = Duration::from_secs(300);

impl Worker {
    /// Runs one hook, at most for `limit`.
    pub(super) async fn run_hook(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        id: &str,
        ip: Option<String>,
        hook: &LifecycleHandler,
        limit: Option<Duration>,
    ) -> Result<(), String> {
        let shared = &self.shared;
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let output = shared.cri.exec_sync(id, &command, limit.unwrap_or_default()).await;
            return match output {
                Ok(output) if output.exit_code == 0 => Ok(()),
                Ok(output) => {
                    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                    text.push_str(&String::from_utf8_lossy(&output.stderr));
                    Err(format!(
                        "Exec lifecycle hook ({command:?}) for Container {:?} failed - error: command exited with {}, message: {text:?}",
                        container.name, output.exit_code
                    ))
                }
                Err(error) => Err(error.short()),
            };
        }
        if let Some(get) = &hook.http_get {
            let ip = if is_host_network(pod) { Some(shared.config.node_ip.to_string()) } else { ip };
            let target = Target {
                pod: pod.clone(),
                container: container.clone(),
                container_id: id.to_owned(),
                ip: ip.unwrap_or_default(),
            };
            return match shared.prober.http(&target, get, limit.unwrap_or(HTTP_LIMIT), &shared.clock).await {
                Ok(answer) if answer.status < 400 => Ok(()),
                Ok(answer) => Err(format!("HTTP lifecycle hook failed with statuscode: {}", answer.status)),
                Err(HttpError::Setup(message) | HttpError::Transport(message)) => Err(message),
            };
        }
        if let Some(sleep) = &hook.sleep {
            let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
            shared.clock.sleep(limit.map_or(wanted, |limit| limit.min(wanted))).await;
            return Ok(());
        }
        Err("Invalid handler".into())
    }
}
