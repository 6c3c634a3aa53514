//! Tokens that a service knows: it is asked with a TokenReview.
//!
//! Invariants:
//! - WH-1: an answer is kept for the configured time, also when it is no; a failed call is not kept.

use std::collections::BTreeMap;
use std::time::Duration;

use component_base::SharedClock;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::TokenUser;
use crate::attributes::User;
use crate::outbound::{Remembered, Remote};

const TIMEOUT: Duration = Duration::from_secs(30);
const MOST_ANSWERS: usize = 4096;
/// Tries of one review, and the first pause between them.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct TokenWebhookConfig {
    /// The kubeconfig file's content.
    pub kubeconfig: String,
    /// `v1` or `v1beta1`.
    pub version: String,
    pub cache_ttl: Duration,
}

pub struct TokenWebhook {
    remote: Remote,
    version: String,
    ttl: Duration,
    clock: SharedClock,
    known: Remembered<Result<Option<TokenUser>, String>>,
}

impl TokenWebhook {
    pub fn new(remote: Remote, version: String, ttl: Duration, clock: SharedClock) -> Self {
        Self { remote, version, ttl, clock, known: Remembered::new(MOST_ANSWERS) }
    }

    /// Whose token it is, as far as the service knows.
    ///
    /// # Errors
    /// What the service says against the token, or why it cannot be asked.
    pub async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, String> {
        let mut hash = Sha256::new();
        hash.update(token);
        for audience in audiences {
            hash.update([0]);
            hash.update(audience);
        }
        let key: [u8; 32] = hash.finalize().into();
        let now = self.clock.instant();
        if let Some(known) = self.known.get(&key, now) {
            return known;
        }
        let status = self.review(token, audiences).await?;
        let outcome = read(&status, audiences);
        self.known.put(key, now + self.ttl, now, outcome.clone());
        outcome
    }

    async fn review(&self, token: &str, audiences: &[String]) -> Result<Value, String> {
        let document = json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token, "audiences": audiences},
            "status": {"user": {}},
        });
        let mut why = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                self.clock.sleep(PAUSE * 3_u32.pow(attempt - 1) / 2_u32.pow(attempt - 1)).await;
            }
            match self.remote.post(&document, TIMEOUT).await {
                Ok(answer) if matches!(answer.code, 200 | 201) => {
                    return Ok(answer.json()?["status"].clone());
                }
                // It is there and says no: asking again changes nothing.
                Ok(answer) if answer.code < 500 && answer.code != 429 => {
                    return Err(format!("the token webhook answered {}", answer.code));
                }
                Ok(answer) => why = format!("the token webhook answered {}", answer.code),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }
}

fn read(status: &Value, audiences: &[String]) -> Result<Option<TokenUser>, String> {
    if status["authenticated"] != true {
        let error = status["error"].as_str().unwrap_or_default();
        return if error.is_empty() { Ok(None) } else { Err(error.to_owned()) };
    }
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    // A service that says nothing of audiences knows none: the token is for this server.
    let named = texts(&status["audiences"]);
    let audiences: Vec<String> = match named.is_empty() {
        true => audiences.to_vec(),
        false => audiences.iter().filter(|audience| named.contains(audience)).cloned().collect(),
    };
    if audiences.is_empty() {
        return Ok(None);
    }
    let user = &status["user"];
    let extra: BTreeMap<String, Vec<String>> =
        user["extra"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), texts(value))).collect();
    let text = |key: &str| user[key].as_str().unwrap_or_default().to_owned();
    let user = User { name: text("username"), uid: text("uid"), groups: texts(&user["groups"]), extra };
    Ok(Some(TokenUser { user, audiences }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let ours = ["api".to_owned()];
        let status = json!({"authenticated": true, "user": {"username": "u", "groups": ["g"], "extra": {"k": ["v"]}}});
        let found = read(&status, &ours).expect("good").expect("somebody");
        assert_eq!((found.user.name.as_str(), found.audiences.as_slice()), ("u", ours.as_slice()));
        assert_eq!(found.user.extra["k"], ["v"]);
        let other = json!({"authenticated": true, "user": {"username": "u"}, "audiences": ["other"]});
        assert_eq!(read(&other, &ours), Ok(None));
        assert_eq!(read(&json!({}), &ours), Ok(None));
        assert_eq!(read(&json!({"error": "expired"}), &ours), Err("expired".to_owned()));
    }
}
