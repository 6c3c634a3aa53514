//! Conversion by a webhook: a ConversionReview there and back.
//!
//! Invariants:
//! - XW-1: a webhook changes neither kind, name, namespace nor UID of an object, and of its metadata only labels and
//!   annotations.

use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use apimachinery::goformat::quote;
use apimachinery::validation::{Path, meta};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::conversion::{ServiceRef, Webhook};
use crate::cache::ObjectReader as _;
use crate::connect::Target;
use crate::wire::body;
use crate::{Server, tls};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer, in bytes.
const LIMIT: usize = 64 << 20;

/// Converts objects to `desired` (`group/version`), in their order. Err: upstream's text.
pub async fn convert(
    server: &Server,
    webhook: &Webhook,
    objects: &[Value],
    desired: &str,
) -> Result<Vec<Value>, String> {
    let Some(first) = objects.first() else { return Ok(Vec::new()) };
    let gvk = format!("{}, Kind={}", text(first, "apiVersion"), text(first, "kind"));
    let uid = uuid::Uuid::new_v4().to_string();
    let version = webhook.review_versions.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
    let Some(version) = version else { return Err("no supported conversion review versions".to_owned()) };
    let api_version = format!("apiextensions.k8s.io/{version}");
    let review = json!({
        "kind": "ConversionReview",
        "apiVersion": api_version,
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
        "response": {"uid": "", "convertedObjects": null, "result": {"metadata": {}}},
    });
    let failed = |error: String| format!("conversion webhook for {gvk} failed: {error}");
    let answer = post(server, webhook, &review).await.map_err(failed)?;
    let converted = unpack(answer, &api_version, &uid).map_err(failed)?;
    if converted.len() != objects.len() {
        return Err(format!(
            "conversion webhook for {gvk} returned {} objects, expected {}",
            converted.len(),
            objects.len()
        ));
    }
    let mut out = Vec::with_capacity(converted.len());
    for (at, (original, mut converted)) in objects.iter().zip(converted).enumerate() {
        let bad = |error: String| {
            format!("conversion webhook for {gvk} returned invalid converted object at index {at}: {error}")
        };
        check(original, &converted, desired).map_err(bad)?;
        restore_metadata(original, &mut converted).map_err(|error| {
            format!("conversion webhook for {gvk} returned invalid metadata in object at index {at}: {error}")
        })?;
        out.push(converted);
    }
    Ok(out)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

/// The converted objects of an answer.
fn unpack(mut answer: Value, api_version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let v1 = api_version.ends_with("/v1");
    if v1 && (text(&answer, "apiVersion") != api_version || text(&answer, "kind") != "ConversionReview") {
        return Err(format!(
            "expected webhook response of {api_version}, Kind=ConversionReview, got {}, Kind={}",
            text(&answer, "apiVersion"),
            text(&answer, "kind")
        ));
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    if v1 && text(response, "uid") != uid {
        return Err(format!("expected response.uid={}, got {}", quote(uid), quote(text(response, "uid"))));
    }
    let status = text(&response["result"], "status");
    if status != "Success" {
        return Err(match text(&response["result"], "message") {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

fn check(original: &Value, converted: &Value, desired: &str) -> Result<(), String> {
    let found = text(converted, "apiVersion");
    if found != desired {
        return Err(format!("invalid groupVersion (expected {desired}, received {found})"));
    }
    let (expected, found) = (text(original, "kind"), text(converted, "kind"));
    if expected != found {
        return Err(format!("invalid kind (expected {expected}, received {found})"));
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, found) = (text(&original["metadata"], field), text(&converted["metadata"], field));
        if expected != found {
            return Err(format!("must have the same {name}: {expected} != {found}"));
        }
    }
    Ok(())
}

/// XW-1: metadata is the original's but for labels and annotations.
fn restore_metadata(original: &Value, converted: &mut Value) -> Result<(), String> {
    let given = match converted.get_mut("metadata").map(Value::take) {
        None => return Err("missing metadata in converted object".to_owned()),
        Some(given) if given.is_object() => given,
        Some(_) => return Err("invalid metadata in converted object".to_owned()),
    };
    let mut metadata = original["metadata"].clone();
    for field in ["labels", "annotations"] {
        let Some(map) = metadata.as_object_mut() else { break };
        match given.get(field).filter(|value| !value.is_null()) {
            None => {
                map.remove(field);
            }
            Some(Value::Object(texts)) => {
                if let Some((key, _)) = texts.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
                }
                let new = Value::Object(texts.clone());
                if map.get(field) != Some(&new) {
                    let errors = match field {
                        "labels" => meta::validate_labels(&new, &Path::new("metadata").child("labels")),
                        _ => meta::validate_annotations(&new, &Path::new("metadata").child("annotation")),
                    };
                    if !errors.is_empty() {
                        return Err(errors.aggregate());
                    }
                }
                map.insert(field.to_owned(), new);
            }
            Some(_) => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    converted["metadata"] = metadata;
    Ok(())
}

/// Where a webhook is: whom to connect to, under which name, which path.
struct Place {
    target: Target,
    /// The name on the certificate.
    name: String,
    path: String,
    /// As messages show it.
    url: String,
}

async fn post(server: &Server, webhook: &Webhook, review: &Value) -> Result<Value, String> {
    let place = find(server, webhook)?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
    let failed = |error: &dyn std::fmt::Display| format!("Post {}: {error}", quote(&place.url));
    let content = body::full(serde_json::to_vec(review).map_err(|error| failed(&error))?);
    let exchange = async {
        let sent = place.target.send_as(&place.name, &server.tasks, Method::POST, &place.path, headers, content).await;
        let answer = sent.map_err(|error| failed(&error))?;
        let code = answer.status();
        let limited = http_body_util::Limited::new(answer.into_body(), LIMIT);
        let bytes = limited.collect().await.map_err(|error| failed(&error))?.to_bytes();
        read(code, &bytes)
    };
    tokio::select! {
        outcome = exchange => outcome,
        () = server.clock.sleep(TIMEOUT) => Err(failed(&"context deadline exceeded")),
    }
}

fn read(code: StatusCode, bytes: &[u8]) -> Result<Value, String> {
    if code.is_success() {
        return serde_json::from_slice(bytes).map_err(|error| format!("couldn't decode the answer: {error}"));
    }
    let status: Option<Value> = serde_json::from_slice(bytes).ok();
    let said = status.as_ref().filter(|status| status["kind"] == "Status").map(|status| text(status, "message"));
    match said {
        Some(message) if !message.is_empty() => Err(message.to_owned()),
        _ if code.is_server_error() => {
            let shown = quote(String::from_utf8_lossy(bytes).trim());
            Err(format!("an error on the server ({shown}) has prevented the request from succeeding"))
        }
        _ if code == StatusCode::NOT_FOUND => Err("the server could not find the requested resource".to_owned()),
        _ => Err("the server rejected our request for an unknown reason".to_owned()),
    }
}

fn find(server: &Server, webhook: &Webhook) -> Result<Place, String> {
    let pem = String::from_utf8_lossy(&webhook.ca_bundle);
    let config = tls::client_config(&pem, None).map_err(|error| error.to_string())?;
    if let Some(service) = &webhook.service {
        let (host, port) = resolve(server, service)?;
        let name = format!("{}.{}.svc", service.name, service.namespace);
        let slash = if service.path.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{}?timeout=30s", service.path);
        let url = format!("https://{name}:{}{path}", service.port);
        return Ok(Place { target: Target { host, port, tls: Some(config) }, name, path, url });
    }
    let given = webhook.url.as_deref().unwrap_or_default();
    let uri: ::http::Uri = given.parse().map_err(|_| format!("parse {}: invalid URL", quote(given)))?;
    let host = uri.host().unwrap_or_default().to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let path = format!("{}?timeout=30s", if uri.path().is_empty() { "/" } else { uri.path() });
    let name = host.trim_matches(['[', ']']).to_owned();
    let url = format!("{}?timeout=30s", given.split('?').next().unwrap_or_default());
    Ok(Place { target: Target { host, port, tls: Some(config) }, name, path, url })
}

/// An address of a service: one of its ready endpoints, else its cluster IP.
fn resolve(server: &Server, service: &ServiceRef) -> Result<(String, u16), String> {
    let object = server.cache.peek("services/specs", &service.namespace, &service.name);
    let Some(object) = object.map(|object| object.value()) else {
        return Err(format!("service {} not found", quote(&service.name)));
    };
    let spec = &object["spec"];
    if spec["type"] == "ExternalName" {
        return Ok((text(spec, "externalName").to_owned(), service.port));
    }
    let ports = spec["ports"].as_array().into_iter().flatten();
    let Some(port) = ports.into_iter().find(|port| port["port"] == service.port) else {
        return Err(format!("no service port {} found for service {}", service.port, quote(&service.name)));
    };
    for slice in server.cache.peek_all("endpointslices", Some(&service.namespace)) {
        if slice.meta.labels.get("kubernetes.io/service-name") != Some(&service.name) {
            continue;
        }
        let slice = slice.value();
        let named = slice["ports"].as_array().into_iter().flatten();
        let number = named.into_iter().find(|known| text(known, "name") == text(port, "name"));
        let number = number.and_then(|known| known["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.into_iter().find(|endpoint| endpoint["conditions"]["ready"] != false);
        let address = ready.and_then(|endpoint| endpoint["addresses"][0].as_str());
        if let (Some(number), Some(address)) = (number, address) {
            return Ok((address.to_owned(), number));
        }
    }
    match text(spec, "clusterIP") {
        "" | "None" => Err(format!("no endpoints available for service {}", quote(&service.name))),
        address => Ok((address.to_owned(), service.port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let good = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]}});
        assert_eq!(unpack(good.clone(), "apiextensions.k8s.io/v1", "u").map(|objects| objects.len()), Ok(1));
        let other = unpack(good, "apiextensions.k8s.io/v1", "v").expect_err("another request's");
        assert_eq!(other, "expected response.uid=\"v\", got \"u\"");
        let failed = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": "u", "result": {"status": "Failure"}}});
        let text = unpack(failed, "apiextensions.k8s.io/v1", "u").expect_err("failure");
        assert_eq!(text, "response.result.status was 'Failure', not 'Success'");
    }

    #[test]
    fn metadata_stays() {
        let original = json!({"apiVersion": "g/v1", "kind": "Foo",
            "metadata": {"name": "x", "uid": "u", "labels": {"a": "b"}, "finalizers": ["f"]}});
        let mut converted = json!({"apiVersion": "g/v2", "kind": "Foo",
            "metadata": {"name": "x", "uid": "u", "labels": {"c": "d"}, "finalizers": []}});
        check(&original, &converted, "g/v2").expect("the same object");
        restore_metadata(&original, &mut converted).expect("metadata");
        assert_eq!(converted["metadata"], json!({"name": "x", "uid": "u", "labels": {"c": "d"}, "finalizers": ["f"]}));
        converted["metadata"]["uid"] = json!("other");
        assert_eq!(check(&original, &converted, "g/v2"), Err("must have the same UID: u != other".to_owned()));
    }
}
