//! Conversion by a webhook: a ConversionReview there and back.
//!
//! Invariants:
//! - XW-1: a webhook changes neither kind, name, namespace nor UID of an object, and of its metadata only labels and
//!   annotations.

use std::time::Duration;

use apimachinery::goformat::quote;
use apimachinery::validation::{Path, meta};
use serde_json::{Value, json};

use super::conversion::Webhook;
use crate::Server;

const TIMEOUT: Duration = Duration::from_secs(30);

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
    let answer =
        server.webhooks.post(server.cache.as_ref(), &webhook.endpoint, &review, TIMEOUT).await.map_err(failed)?;
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
