//! The reviews: questions about who one is and what one may do. They are created, answered and forgotten.
//!
//! Invariants:
//! - RV-1: a review is answered by the same code that decides about requests.

use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Server;
use crate::attributes::{RequestInfo, User};
use crate::authz::{Attributes, Decision, node_of};

/// A resource of which only reviews are made.
pub fn is_review(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("authentication.k8s.io", "tokenreviews" | "selfsubjectreviews")
            | (
                "authorization.k8s.io",
                "subjectaccessreviews"
                    | "selfsubjectaccessreviews"
                    | "selfsubjectrulesreviews"
                    | "localsubjectaccessreviews"
            )
    )
}

/// Answers a decoded and validated review: `object` becomes the response.
///
/// # Errors
/// 400 for what upstream checks outside validation.
pub async fn answer(server: &Server, user: &User, info: &RequestInfo, object: &mut Value) -> Result<(), Status> {
    match info.resource.as_str() {
        "tokenreviews" => token(server, object).await,
        "selfsubjectreviews" => {
            *object = json!({
                "kind": "SelfSubjectReview",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"creationTimestamp": seconds(server.clock.now())},
                "status": {"userInfo": user_info(user)},
            });
            Ok(())
        }
        "selfsubjectrulesreviews" => rules(server, user, object).await,
        "selfsubjectaccessreviews" => {
            access(server, user.clone(), object).await;
            Ok(())
        }
        _ => {
            if info.resource == "localsubjectaccessreviews" {
                local(info, object)?;
            }
            access(server, spec_user(&object["spec"]), object).await;
            Ok(())
        }
    }
}

/// The user as reviews show it.
pub fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    if !user.name.is_empty() {
        info.insert("username".into(), user.name.clone().into());
    }
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    Value::Object(info)
}

async fn token(server: &Server, object: &mut Value) -> Result<(), Status> {
    let spec = &object["spec"];
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    object["status"] = match server.authenticator.token(token, &audiences).await {
        Ok(found) => {
            json!({"authenticated": true, "user": user_info(&found.user), "audiences": found.audiences})
        }
        Err(error) => json!({"user": {}, "error": error}),
    };
    Ok(())
}

fn local(info: &RequestInfo, object: &mut Value) -> Result<(), Status> {
    let given = object["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
    if given != info.namespace {
        return Err(Status::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {}",
            info.namespace
        )));
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn spec_user(spec: &Value) -> User {
    let list = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    User {
        name: text(&spec["user"]),
        uid: text(&spec["uid"]),
        groups: list(&spec["groups"]),
        extra: spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), list(v))).collect(),
    }
}

async fn access(server: &Server, user: User, object: &mut Value) {
    let spec = &object["spec"];
    let resource = &spec["resourceAttributes"];
    let attributes = if resource.is_null() {
        let path = &spec["nonResourceAttributes"];
        Attributes { user, verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() }
    } else {
        let requirements = resource["fieldSelector"]["requirements"].as_array();
        Attributes {
            user,
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            is_resource: true,
            fields: requirements.into_iter().flatten().filter_map(equality).collect(),
            path: String::new(),
        }
    };
    let decision = server.authorizer.authorize(&attributes).await;
    let mut status = json!({"allowed": decision.allowed()});
    if matches!(decision, Decision::Refuse(_)) {
        status["denied"] = true.into();
    }
    if !decision.reason().is_empty() {
        status["reason"] = decision.reason().into();
    }
    object["status"] = status;
}

/// `{key, In, [value]}` says the same as `key=value`.
fn equality(requirement: &Value) -> Option<(String, String)> {
    let [value] = requirement["values"].as_array()?.as_slice() else { return None };
    (requirement["operator"] == "In").then(|| (text(&requirement["key"]), text(value)))
}

async fn rules(server: &Server, user: &User, object: &mut Value) -> Result<(), Status> {
    let namespace = text(&object["spec"]["namespace"]);
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (found, mut errors) = server.authorizer.all_rules_for(user, &namespace).await;
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in found {
        match rule.resources.is_empty() {
            false => resources.push(rule.to_value()),
            true if !rule.non_resource_urls.is_empty() => paths.push(rule.to_value()),
            true => {}
        }
    }
    if node_of(user).is_some() {
        errors.push("node authorizer does not support user rule resolution".to_owned());
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": !errors.is_empty()});
    if !errors.is_empty() {
        let text = if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) };
        status["evaluationError"] = text.into();
    }
    *object = json!({
        "kind": "SelfSubjectRulesReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": {},
        "status": status,
    });
    Ok(())
}

/// RFC 3339 with seconds, as metav1.Time.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
