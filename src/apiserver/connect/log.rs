//! `pods/<name>/log`: the kubelet's answer, streamed.

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, Path};
use http_body_util::BodyExt as _;

use super::kubelet::refused;
use super::{Connect, container, escape};
use crate::authz::rules::go_quote;
use crate::wire::{body, query};
use crate::{Body, BoxError};

pub async fn serve(connect: &Connect<'_>) -> Result<Response<Body>, Status> {
    let info = connect.info;
    let parameters = parameters(connect)?;
    let pod = connect.pod().await?.value();
    let container = container(&pod, info.query.get("container"))?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) else {
        // Nothing runs yet, so nothing was said.
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    };
    let server = connect.server;
    let target = server.kubelets.of_node(server.cache.as_ref(), node).await?;
    let path =
        format!("/containerLogs/{}/{}/{}{parameters}", escape(&info.namespace), escape(&info.name), escape(&container));
    let answer = target.send(&server.tasks, Method::GET, &path, HeaderMap::new(), body::empty()).await;
    let answer =
        answer.map_err(|error| Status::internal(format!("Get \"https://{}{path}\": {error}", target.authority())))?;
    if !answer.status().is_success() {
        return Err(refused(answer).await);
    }
    let content = answer.into_body().map_err(|e| Box::new(e) as BoxError).boxed_unsync();
    let mut response = Response::new(content);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// The checked query, as the kubelet reads it.
fn parameters(connect: &Connect<'_>) -> Result<String, Status> {
    let query = &connect.info.query;
    let number = |key: &str| query::int(query, key);
    let (tail, limit, since) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let since_time = query.get("sinceTime").filter(|t| !t.is_empty());
    if let Some(time) = since_time
        && time.parse::<jiff::Timestamp>().is_err()
    {
        return Err(Status::bad_request(format!(
            "parsing time {} as \"2006-01-02T15:04:05Z07:00\": cannot parse {} as \"2006\"",
            go_quote(time),
            go_quote(time)
        )));
    }
    let mut errors = ErrorList::new();
    if let Some(tail) = tail.filter(|n| *n < 0) {
        errors.invalid(Path::new("tailLines"), tail, "must be greater than or equal to 0");
    }
    if let Some(limit) = limit.filter(|n| *n < 1) {
        errors.invalid(Path::new("limitBytes"), limit, "must be greater than 0");
    }
    match (since, since_time) {
        (Some(_), Some(_)) => {
            // The path of no field, as upstream shows it.
            let nowhere = Path::new("[]");
            errors.forbidden(nowhere, "at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
        (Some(since), None) if since < 1 => {
            errors.invalid(Path::new("sinceSeconds"), since, "must be greater than 0");
        }
        _ => {}
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&GroupKind::new("", "PodLogOptions"), &connect.info.name, &errors));
    }
    let mut out = Vec::new();
    for key in ["follow", "previous", "timestamps"] {
        if connect.flag(key) {
            out.push(format!("{key}=true"));
        }
    }
    for (key, value) in [("tailLines", tail), ("limitBytes", limit), ("sinceSeconds", since)] {
        if let Some(value) = value {
            out.push(format!("{key}={value}"));
        }
    }
    if let Some(time) = since_time {
        out.push(format!("sinceTime={}", escape(time)));
    }
    if let Some(stream) = query.get("stream").filter(|s| !s.is_empty() && *s != "All") {
        out.push(format!("stream={}", escape(stream)));
    }
    Ok(if out.is_empty() { String::new() } else { format!("?{}", out.join("&")) })
}
