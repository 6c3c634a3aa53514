//! `/containerLogs/{namespace}/{pod}/{container}`: what a container wrote.
//!
//! Invariants:
//! - LH-1: errors before the first byte are answers with upstream's texts; one after it breaks the connection.

mod line;
mod read;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio::sync::broadcast;
use tracing::debug;

use self::line::{Filter, Output};
use self::read::{LogStream, Options};
use super::http::{Body, Query, Refusal, quoted, streamed, with_type};
use super::{Runtime, State};
use crate::containers;
use crate::cri::v1::ContainerState;

/// What the query asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Request {
    filter: Filter,
    tail: Option<u64>,
    follow: bool,
    previous: bool,
}

pub async fn serve(
    state: &State,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let request = Request::parse(query, state.clock.now())?;
    let pod = state
        .pods
        .pod(namespace, name)
        .ok_or_else(|| Refusal::not_found(format!("pod {} does not exist", quoted(name))))?;
    if containers::find(&pod, container).is_none() {
        let text = format!("container {} not found in pod {}", quoted(container), quoted(name));
        return Err(Refusal::not_found(text));
    }
    let none = PodStatus::default();
    let id = instance(name, pod.status.as_ref().unwrap_or(&none), container, request.previous)
        .map_err(Refusal::bad_request)?;
    // Subscribed before the container is looked at: its end is then seen either here or there.
    let events = state.events.subscribe();
    let status = state.runtime.container(&id).await.map_err(|error| {
        debug!(%error, id, "no container status");
        Refusal::bad_request(format!("unable to retrieve container logs for containerd://{id}"))
    })?;
    let running = status.state() == ContainerState::ContainerRunning;
    let ended: Option<BoxFuture<'static, ()>> = match (request.follow, running) {
        (true, true) => {
            let (runtime, stop) = (state.runtime.clone(), state.tasks.token().clone());
            let ended = async move {
                // Our own end is one too, or it would have to wait for the container's.
                stop.run_until_cancelled(until_ended(runtime, events, id)).await;
            };
            Some(ended.boxed())
        }
        (true, false) => Some(std::future::ready(()).boxed()),
        (false, _) => None,
    };
    let path = Path::new(&status.log_path);
    let path = tokio::fs::canonicalize(path).await.map_err(|error| {
        let text = format!("failed to try resolving symlinks in path {}: {error}", quoted(&status.log_path));
        Refusal::bad_request(text)
    })?;
    let options = Options { filter: request.filter, tail: request.tail };
    let log = LogStream::open(&path, options, ended).await.map_err(|error| Refusal::bad_request(error.to_string()))?;
    let pieces = futures::stream::try_unfold(log, |mut log| async move { Ok(log.next().await?.map(|p| (p, log))) });
    let mut response = with_type(StatusCode::OK, "text/plain", "");
    *response.body_mut() = streamed(pieces);
    Ok(response)
}

/// Returns when the runtime says that the container does not run (any more).
async fn until_ended(runtime: Arc<dyn Runtime>, mut events: broadcast::Receiver<String>, id: String) {
    loop {
        match runtime.container(&id).await {
            Ok(status) if status.state() != ContainerState::ContainerRunning => return,
            Err(error) if error.is_not_found() => return,
            // Runs, or the runtime is away: containers live on without it, and events follow when it is back.
            Ok(_) | Err(_) => {}
        }
        loop {
            match events.recv().await {
                Ok(event) if event.is_empty() || event == id => break,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => break,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

/// The container instance whose log is meant.
fn instance(pod: &str, status: &PodStatus, name: &str, previous: bool) -> Result<String, String> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let (q_name, q_pod) = (quoted(name), quoted(pod));
    let Some(status) = lists.into_iter().flatten().flatten().find(|s| s.name == name) else {
        return Err(format!("container {q_name} in pod {q_pod} is not available"));
    };
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    let last_id = last.and_then(|t| t.container_id.as_deref()).filter(|id| !id.is_empty());
    if previous {
        let missing = || format!("previous terminated container {q_name} in pod {q_pod} not found");
        return last_id.map(bare).ok_or_else(missing);
    }
    let now = status.state.as_ref();
    if now.is_some_and(|s| s.running.is_some()) {
        return Ok(own_id(status));
    }
    let terminated = now.and_then(|s| s.terminated.as_ref());
    if terminated.is_some() || last.is_some() {
        let id = terminated.and_then(|t| t.container_id.as_deref()).filter(|id| !id.is_empty()).or(last_id);
        return id.map(bare).ok_or_else(|| format!("container {q_name} in pod {q_pod} is terminated"));
    }
    match now.and_then(|s| s.waiting.as_ref()) {
        Some(waiting) => {
            let why = match waiting.reason.as_deref().unwrap_or_default() {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                reason => reason,
            };
            Err(format!("container {q_name} in pod {q_pod} is waiting to start: {why}"))
        }
        None => Err(format!("container {q_name} in pod {q_pod} is waiting to start - no logs yet")),
    }
}

fn own_id(status: &ContainerStatus) -> String {
    bare(status.container_id.as_deref().unwrap_or_default())
}

/// `containerd://abc` → `abc`.
fn bare(id: &str) -> String {
    id.split_once("://").map_or(id, |(_, id)| id).to_owned()
}

impl Request {
    fn parse(query: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let undecodable = || Refusal::bad_request(r#"{"message": "Unable to decode query."}"#);
        let invalid = || Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);
        let number = |key: &str| match query.get(key) {
            None | Some("") => Ok(None),
            Some(text) => text.parse::<i64>().map(Some).map_err(|_| undecodable()),
        };
        // Upstream's older spelling; "all" is no limit.
        let tail = match query.get("tail") {
            Some("all") => None,
            Some(text) if !text.is_empty() => Some(text.parse::<i64>().map_err(|_| undecodable())?),
            _ => number("tailLines")?,
        };
        let (limit, since_seconds) = (number("limitBytes")?, number("sinceSeconds")?);
        let since_time = match query.get("sinceTime") {
            None | Some("") => None,
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| undecodable())?),
        };
        let stream = match query.get("stream") {
            None | Some("" | "All") => None,
            Some("Stdout") => Some(Output::Stdout),
            Some("Stderr") => Some(Output::Stderr),
            Some(_) => return Err(invalid()),
        };
        let wrong = tail.is_some_and(|n| n < 0)
            || limit.is_some_and(|n| n < 1)
            || since_seconds.is_some_and(|n| n < 1)
            || (since_seconds.is_some() && since_time.is_some())
            || (stream.is_some() && tail.is_some());
        if wrong {
            return Err(invalid());
        }
        let ago = |seconds: i64| now.checked_sub(Duration::from_secs(seconds.unsigned_abs())).unwrap_or(Timestamp::MIN);
        Ok(Self {
            filter: Filter {
                since: since_time.or(since_seconds.map(ago)),
                timestamps: flag(query, "timestamps"),
                stream,
                limit_bytes: limit.map(i64::unsigned_abs),
                lines: None,
            },
            tail: tail.map(i64::unsigned_abs),
            follow: flag(query, "follow"),
            previous: flag(query, "previous"),
        })
    }
}

/// As the API machinery reads booleans: anything but `false` and `0` is true, also nothing at all.
fn flag(query: &Query, key: &str) -> bool {
    query.get(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}
