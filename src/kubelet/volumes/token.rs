//! Service-account tokens for pods: requested, kept, and renewed before they expire.
//!
//! Invariants:
//! - TK-1: a token is renewed once 80 % of its life, or a day, has passed; until then the same one is used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use component_base::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::containers::text;
use crate::error::{Error, Result};

const DAY: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_SECONDS: i64 = 3600;

#[derive(Debug, Clone)]
struct Kept {
    token: String,
    renew_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    account: String,
    audience: String,
    seconds: i64,
}

/// Requests and keeps tokens. Cloning shares them.
#[derive(Clone)]
pub struct Tokens {
    client: Client,
    clock: SharedClock,
    kept: Arc<Mutex<HashMap<Key, Kept>>>,
}

impl Tokens {
    pub fn new(client: Client, clock: SharedClock) -> Self {
        Self { client, clock, kept: Arc::default() }
    }

    /// The token for a volume of `pod`, and when to ask again.
    ///
    /// # Errors
    /// When there is none and the API server gives none.
    pub async fn get(&self, pod: &Pod, source: &ServiceAccountTokenProjection) -> Result<(String, Timestamp)> {
        let (namespace, uid) = (text(&pod.metadata.namespace), text(&pod.metadata.uid));
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let key = Key {
            uid: uid.to_owned(),
            account: account.to_owned(),
            audience: text(&source.audience).to_owned(),
            seconds: source.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        };
        let now = self.clock.now();
        let kept = self.kept.lock().get(&key).cloned();
        if let Some(kept) = kept.as_ref().filter(|kept| now < kept.renew_at) {
            return Ok((kept.token.clone(), kept.renew_at));
        }
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!key.audience.is_empty()).then(|| vec![key.audience.clone()]),
                expiration_seconds: Some(key.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer = match api.create_token_request(account, &PostParams::default(), &request).await {
            Ok(answer) => answer,
            // An old token is better than none as long as it is valid.
            Err(error) => match kept {
                Some(kept) => return Ok((kept.token, now + Duration::from_secs(10))),
                None => return Err(Error::api("failed to fetch token")(error)),
            },
        };
        let status = answer.status.unwrap_or_default();
        let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err(Error::pod(format!("failed to fetch token: none for serviceaccount {account:?}")));
        };
        let renew_at = renewal(now, expires.0);
        self.kept.lock().insert(key, Kept { token: token.clone(), renew_at });
        Ok((token, renew_at))
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.kept.lock().retain(|key, _| key.uid != uid);
    }
}

fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    now + life.mul_f64(0.8).min(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_four_fifths_or_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        for (life, expected) in [(3600, 2880), (600, 480), (30 * 86400, 86400)] {
            let at = renewal(now, now + Duration::from_secs(life));
            assert_eq!(at.as_second(), expected);
        }
    }
}
