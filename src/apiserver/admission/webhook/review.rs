//! AdmissionReviews: what a webhook is asked, and what its answer means.

use apimachinery::goformat::quote;
use apimachinery::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::matching::describe;
use super::super::{AdmissionRequest, list, text};

/// The review of a request. `object` is null where there is none.
pub fn request(
    version: &str,
    uid: &str,
    request: &AdmissionRequest<'_>,
    shown_as: &api::Kind,
    object: &Value,
    old: &Value,
) -> Value {
    let mut asked = Map::from_iter([("uid".to_owned(), json!(uid))]);
    asked.extend(describe(request, shown_as));
    let options = if request.options.is_object() { request.options.clone() } else { Value::Null };
    asked.extend([
        ("object".to_owned(), object.clone()),
        ("oldObject".to_owned(), old.clone()),
        ("dryRun".to_owned(), json!(request.dry_run)),
        ("options".to_owned(), options),
    ]);
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": asked})
}

/// The `status` of a refusal.
pub struct Refused(pub Value);

pub struct Verdict {
    pub refused: Option<Refused>,
    pub patch: Option<Vec<u8>>,
    pub annotations: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

/// What an answer says. Err: why it is none; upstream's text.
pub fn verdict(version: &str, uid: &str, answer: &Value, mutating: bool) -> Result<Verdict, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let allowed = match &response["allowed"] {
        Value::Bool(allowed) => *allowed,
        Value::Null => false,
        _ => {
            return Err(
                "json: cannot unmarshal value into Go struct field AdmissionResponse.response.allowed of type bool"
                    .to_owned(),
            );
        }
    };
    let bytes = STANDARD.decode(text(response, "patch"));
    let patch = bytes.map_err(|_| "illegal base64 data in response.patch".to_owned())?;
    let kind = response["patchType"].as_str();
    if version == "v1" {
        if text(response, "uid") != uid {
            return Err(format!("expected response.uid={}, got {}", quote(uid), quote(text(response, "uid"))));
        }
        let (api_version, kind) = (text(answer, "apiVersion"), text(answer, "kind"));
        if (api_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            let shown = if api_version.contains('/') { api_version.to_owned() } else { format!("/{api_version}") };
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {shown}, Kind={kind}"
            ));
        }
        check_patch(&patch, response["patchType"].as_str(), mutating)?;
    }
    if let Some(other) = kind.filter(|kind| mutating && version == "v1" && *kind != "JSONPatch") {
        return Err(format!("unsupported patch type {}", quote(other)));
    }
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Verdict {
        refused: (!allowed).then(|| Refused(response["status"].clone())),
        patch: (mutating && !patch.is_empty()).then_some(patch),
        annotations: annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        warnings: list(response, "warnings").iter().filter_map(|text| text.as_str().map(str::to_owned)).collect(),
    })
}

fn check_patch(patch: &[u8], kind: Option<&str>, mutating: bool) -> Result<(), String> {
    let text = match (mutating, patch.is_empty(), kind) {
        (true, false, None) => "webhook returned response.patch but not response.patchType",
        (true, true, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, false, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (false, false, _) => "validating webhook may not return response.patch",
        (false, true, Some(_)) => "validating webhook may not return response.patchType",
        _ => return Ok(()),
    };
    Err(text.to_owned())
}

/// The answer to a client whose request a webhook refused.
pub fn denied(name: &str, result: Value) -> Status {
    let mut status: Status = match result {
        Value::Object(mut given) => {
            for (key, value) in [("kind", "Status"), ("apiVersion", "v1")] {
                given.insert(key.to_owned(), json!(value));
            }
            given.entry("metadata").or_insert_with(|| json!({}));
            serde_json::from_value(Value::Object(given)).unwrap_or_else(|_| Status::custom(400, "", ""))
        }
        _ => Status::custom(400, "", ""),
    };
    status.code = status.code.max(400);
    if matches!(status.status.as_str(), "" | "Success") {
        status.status = "Failure".to_owned();
    }
    let said = format!("admission webhook {} denied the request", quote(name));
    status.message = match (status.message.as_str(), status.reason.as_str()) {
        ("", "") => format!("{said} without explanation"),
        ("", reason) => format!("{said}: {reason}"),
        (message, _) => format!("{said}: {message}"),
    };
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        for (result, code, message) in [
            (Value::Null, 400, "admission webhook \"w\" denied the request without explanation"),
            (json!({"reason": "No"}), 400, "admission webhook \"w\" denied the request: No"),
            (json!({"message": "m", "code": 418}), 418, "admission webhook \"w\" denied the request: m"),
            (
                json!({"status": "Success", "code": 200}),
                400,
                "admission webhook \"w\" denied the request without explanation",
            ),
        ] {
            let status = denied("w", result);
            assert_eq!((status.code, status.message.as_str(), status.status.as_str()), (code, message, "Failure"));
        }
    }

    #[test]
    fn answers_that_are_none() {
        let answer = |response: Value| json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        for (answer, mutating, want) in [
            (json!({}), true, "webhook response was absent"),
            (answer(json!({"uid": "x"})), true, "expected response.uid=\"u\", got \"x\""),
            (
                json!({"response": {"uid": "u"}}),
                true,
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=",
            ),
            (
                answer(json!({"uid": "u", "patch": "W10="})),
                true,
                "webhook returned response.patch but not response.patchType",
            ),
            (answer(json!({"uid": "u", "patch": "W10="})), false, "validating webhook may not return response.patch"),
            (answer(json!({"uid": "u", "patch": "W10=", "patchType": "X"})), true, "unsupported patch type \"X\""),
        ] {
            assert_eq!(verdict("v1", "u", &answer, mutating).err().as_deref(), Some(want));
        }
        let old =
            verdict("v1beta1", "u", &json!({"response": {"allowed": true, "patch": "W10="}}), true).expect("an answer");
        assert_eq!(old.patch.as_deref(), Some(&b"[]"[..]));
    }
}
