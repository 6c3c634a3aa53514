//! Authorization by a service: it is asked with a SubjectAccessReview.
//!
//! Invariants:
//! - AW-1: an answer is kept for the configured time, a yes and a no apart; a failed call is never kept.

use std::time::Duration;

use component_base::SharedClock;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::{Attributes, Decision};
use crate::outbound::{Remembered, Remote};
use crate::reviews::user_info;

const MOST_ANSWERS: usize = 8192;
/// Longer questions are not kept: they would fill the memory.
const LONGEST_KEPT: usize = 10_000;

#[derive(Debug, Clone)]
pub struct AuthorizationWebhookConfig {
    /// The kubeconfig file's content.
    pub kubeconfig: String,
    /// `v1` or `v1beta1`.
    pub version: String,
    pub authorized_ttl: Duration,
    pub unauthorized_ttl: Duration,
    pub timeout: Duration,
    /// What counts when the service cannot be asked: a denial, or no opinion.
    pub deny_on_failure: bool,
}

pub struct Webhook {
    remote: Remote,
    config: AuthorizationWebhookConfig,
    clock: SharedClock,
    known: Remembered<Decision>,
}

impl Webhook {
    pub fn new(remote: Remote, config: AuthorizationWebhookConfig, clock: SharedClock) -> Self {
        Self { remote, config, clock, known: Remembered::new(MOST_ANSWERS) }
    }

    pub async fn authorize(&self, asked: &Attributes) -> Decision {
        let spec = spec(asked);
        let text = spec.to_string();
        let key: [u8; 32] = Sha256::digest(&text).into();
        let now = self.clock.instant();
        if let Some(known) = self.known.get(&key, now) {
            return known;
        }
        let document = json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", self.config.version),
            "metadata": {"creationTimestamp": null},
            "spec": self.versioned(spec),
            "status": {"allowed": false},
        });
        let failed = match self.remote.post(&document, self.config.timeout).await {
            Ok(answer) if matches!(answer.code, 200 | 201) => match answer.json() {
                Ok(review) => {
                    let verdict = read(&review["status"]);
                    let ttl = match &verdict {
                        Decision::Allow(_) => self.config.authorized_ttl,
                        _ => self.config.unauthorized_ttl,
                    };
                    if text.len() <= LONGEST_KEPT {
                        self.known.put(key, now + ttl, now, verdict.clone());
                    }
                    return verdict;
                }
                Err(why) => why,
            },
            Ok(answer) => format!("the webhook answered {}", answer.code),
            Err(error) => error.to_string(),
        };
        warn!(why = failed, "the authorization webhook could not be asked");
        match self.config.deny_on_failure {
            true => Decision::Refuse(failed),
            false => Decision::Deny(failed),
        }
    }

    /// The first version called the groups `group`.
    fn versioned(&self, mut spec: Value) -> Value {
        if self.config.version == "v1beta1" {
            if let Some(groups) = spec.as_object_mut().and_then(|spec| spec.remove("groups")) {
                spec["group"] = groups;
            }
        }
        spec
    }
}

fn spec(asked: &Attributes) -> Value {
    let user = user_info(&asked.user);
    let mut spec = Map::new();
    if asked.is_resource {
        let mut resource = Map::new();
        for (key, value) in [
            ("namespace", &asked.namespace),
            ("verb", &asked.verb),
            ("group", &asked.group),
            ("version", &asked.version),
            ("resource", &asked.resource),
            ("subresource", &asked.subresource),
            ("name", &asked.name),
        ] {
            if !value.is_empty() {
                resource.insert(key.into(), value.clone().into());
            }
        }
        spec.insert("resourceAttributes".into(), resource.into());
    } else {
        spec.insert("nonResourceAttributes".into(), json!({"path": asked.path, "verb": asked.verb}));
    }
    for (key, value) in [("user", &user["username"]), ("groups", &user["groups"]), ("extra", &user["extra"])] {
        if !value.is_null() {
            spec.insert(key.into(), value.clone());
        }
    }
    if !user["uid"].is_null() {
        spec.insert("uid".into(), user["uid"].clone());
    }
    Value::Object(spec)
}

fn read(status: &Value) -> Decision {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, true) => {
            Decision::Refuse("webhook subject access review returned both allow and deny response".to_owned())
        }
        (true, false) => Decision::Allow(reason),
        (false, true) => Decision::Refuse(reason),
        (false, false) => Decision::Deny(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::User;

    #[test]
    fn questions_and_answers() {
        let user = User { uid: "7".into(), ..User::new("u", &["g"]) };
        let asked = Attributes::resource(&user, "get", "apps", "deployments", "a", "x");
        assert_eq!(
            spec(&asked),
            json!({
                "resourceAttributes":
                    {"namespace": "a", "verb": "get", "group": "apps", "resource": "deployments", "name": "x"},
                "user": "u", "uid": "7", "groups": ["g", "system:authenticated"],
            })
        );
        let path = Attributes { user, verb: "get".into(), path: "/x".into(), ..Attributes::default() };
        assert_eq!(spec(&path)["nonResourceAttributes"], json!({"path": "/x", "verb": "get"}));
        assert_eq!(read(&json!({"allowed": true, "reason": "r"})), Decision::Allow("r".into()));
        assert_eq!(read(&json!({"denied": true, "reason": "r"})), Decision::Refuse("r".into()));
        assert_eq!(read(&json!({})), Decision::Deny(String::new()));
    }
}
