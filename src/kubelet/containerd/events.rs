//! What happens to containers, as it happens: CRI's event stream where there is one, containerd's own where not.
//!
//! Invariants:
//! - CE-1: an event is only a hint to look: nothing is concluded from its content, so a lost one costs time, not truth.

use std::time::Duration;

use component_base::SharedClock;
use containerd_client::events::{TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::cri::{Cri, v1};
use crate::error::Result;

/// The containerd namespace that CRI uses.
pub const NAMESPACE: &str = "k8s.io";

/// A container (or sandbox) that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// Of the container or the sandbox; empty: events may have been lost, look at everything.
    pub id: String,
    /// It ended.
    pub exited: bool,
}

/// Sends events to `out` until that is closed. Reconnects for ever; a runtime that is still starting is waited for.
pub async fn watch(cri: Cri, clock: SharedClock, out: mpsc::UnboundedSender<RuntimeEvent>) {
    let backoff = component_base::Backoff::RECONNECT;
    let mut failures = 0;
    // The runtime (by its version) that was asked and has no CRI events: asking again would only fill its log.
    let mut without = None;
    let mut connected_before = false;
    loop {
        let Some(version) = until_serving(&cri, &clock, &out).await else { return };
        // Whatever happened while nobody listened was missed.
        if connected_before && out.send(RuntimeEvent { id: String::new(), exited: false }).is_err() {
            return;
        }
        connected_before = true;
        let begun = clock.instant();
        if without.as_ref() != Some(&version) {
            without = None;
        }
        let result = match without {
            Some(_) => follow_containerd(&cri, &clock, &out).await,
            None => match cri.container_events().await {
                Ok(stream) => follow_cri(stream, &out).await,
                // 1.6 has no such call; 1.7 has it behind a switch that is off by default there.
                Err(error) => {
                    debug!(%error, version, "no CRI events, following containerd's own");
                    without = error.is_unimplemented().then_some(version);
                    follow_containerd(&cri, &clock, &out).await
                }
            },
        };
        if out.is_closed() {
            return;
        }
        if clock.instant() - begun > Duration::from_secs(30) {
            failures = 0;
        }
        match result {
            Ok(()) => debug!("the runtime closed its event stream"),
            Err(error) => warn!(%error, "runtime event stream broke"),
        }
        clock.sleep(backoff.delay(failures)).await;
        failures += 1;
    }
}

/// Waits until the runtime serves CRI; its version. `None` when `out` was closed.
async fn until_serving(cri: &Cri, clock: &SharedClock, out: &mpsc::UnboundedSender<RuntimeEvent>) -> Option<String> {
    let mut failures = 0;
    loop {
        // It tells its version before it is ready for anything else.
        let error = match cri.status().await {
            Ok(_) => match cri.version().await {
                Ok(version) => return Some(version.runtime_version),
                Err(error) => error,
            },
            Err(error) => error,
        };
        debug!(%error, "the runtime does not serve yet");
        tokio::select! {
            () = clock.sleep(component_base::Backoff::RECONNECT.delay(failures)) => {}
            () = out.closed() => return None,
        }
        failures += 1;
    }
}

async fn follow_cri(
    mut stream: tonic::Streaming<v1::ContainerEventResponse>,
    out: &mpsc::UnboundedSender<RuntimeEvent>,
) -> Result<()> {
    while let Some(event) = stream.message().await? {
        let exited = event.container_event_type() == v1::ContainerEventType::ContainerStoppedEvent;
        if out.send(RuntimeEvent { id: event.container_id, exited }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn subscribe(cri: &Cri) -> Result<tonic::Streaming<containerd_client::types::Envelope>> {
    let filters =
        ["start", "exit", "oom"].map(|topic| format!("namespace=={NAMESPACE},topic==\"/tasks/{topic}\"")).to_vec();
    Ok(EventsClient::new(cri.channel()).subscribe(SubscribeRequest { filters }).await?.into_inner())
}

async fn follow_containerd(cri: &Cri, clock: &SharedClock, out: &mpsc::UnboundedSender<RuntimeEvent>) -> Result<()> {
    let mut stream = subscribe(cri).await?;
    // CRI hears of an exit when we do and needs a moment to book it; meanwhile other events pass.
    let mut settling = FuturesUnordered::new();
    loop {
        let event = tokio::select! {
            message = stream.message() => {
                let Some(envelope) = message? else { return Ok(()) };
                let parsed = envelope.event.as_ref().and_then(|any| parse(&envelope.topic, &any.value));
                let Some(event) = parsed else { continue };
                if event.exited {
                    settling.push(async move {
                        settle(cri, clock, &event.id).await;
                        event
                    });
                    continue;
                }
                event
            }
            Some(event) = settling.next() => event,
        };
        if out.send(event).is_err() {
            return Ok(());
        }
    }
}

/// Waits (bounded) until CRI agrees that `id` no longer runs.
async fn settle(cri: &Cri, clock: &SharedClock, id: &str) {
    let mut wait = Duration::from_millis(2);
    while wait < Duration::from_secs(1) {
        let running = match cri.container_status(id).await {
            Ok(status) => status.state() == v1::ContainerState::ContainerRunning,
            // A sandbox, or gone.
            Err(_) => match cri.pod_sandbox_status(id).await {
                Ok(status) => status.state() == v1::PodSandboxState::SandboxReady,
                Err(_) => false,
            },
        };
        if !running {
            return;
        }
        clock.sleep(wait).await;
        wait *= 2;
    }
}

fn parse(topic: &str, value: &[u8]) -> Option<RuntimeEvent> {
    match topic {
        "/tasks/start" => Some(RuntimeEvent { id: TaskStart::decode(value).ok()?.container_id, exited: false }),
        "/tasks/oom" => Some(RuntimeEvent { id: TaskOom::decode(value).ok()?.container_id, exited: false }),
        "/tasks/exit" => {
            let exit = TaskExit::decode(value).ok()?;
            // Processes of an exec end too; only the first process is the container.
            (exit.id == exit.container_id).then_some(RuntimeEvent { id: exit.container_id, exited: true })
        }
        _ => None,
    }
}

/// Returns when the runtime's event stream ends, which it does with the runtime.
pub async fn until_disconnected(cri: &Cri) {
    let Ok(mut stream) = subscribe(cri).await else { return };
    while let Ok(Some(_)) = stream.message().await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_that_is_not_there_is_waited_for_in_silence() {
        let (out, mut events) = mpsc::unbounded_channel();
        let cri = Cri::new("unix:///nowhere/containerd.sock");
        let mut watching = std::pin::pin!(watch(cri, component_base::RealClock::shared(), out));
        let none = tokio::time::timeout(Duration::from_millis(200), &mut watching).await;
        assert!(none.is_err() && events.try_recv().is_err());
        drop(events);
        tokio::time::timeout(Duration::from_secs(10), watching).await.expect("ends with its listener");
    }

    #[test]
    fn only_the_first_process_is_the_container() {
        let exit = |id: &str| TaskExit { container_id: "c".into(), id: id.into(), ..TaskExit::default() };
        assert_eq!(parse("/tasks/exit", &exit("exec1").encode_to_vec()), None);
        let event = parse("/tasks/exit", &exit("c").encode_to_vec());
        assert_eq!(event, Some(RuntimeEvent { id: "c".into(), exited: true }));
        assert_eq!(parse("/tasks/paused", &[]), None);
    }
}
