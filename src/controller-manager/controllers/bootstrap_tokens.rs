//! Bootstrap tokens: those that have expired go, and what joining machines read before they trust anybody is signed with
//! those that are there.
//!
//! Watches Secrets of type `bootstrap.kubernetes.io/token` in kube-system, and the ConfigMap kube-public/cluster-info.
//! Deletes the Secrets, writes the signatures (`jws-kubeconfig-<id>`) of the ConfigMap.
//!
//! Invariants:
//! - BS-1: there is one signature for each token that may sign, of the kubeconfig as it is, and no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Client, Informer, ObjectKey, WorkQueue};
use component_base::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use ring::hmac;
use tracing::info;

use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};

const TOKENS: &str = "type=bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";
const INFO: (&str, &str) = ("kube-public", "cluster-info");
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

fn data(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

/// How long the token still lives; `None`: for ever.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let expiration = data(secret, "expiration").filter(|text| !text.is_empty())?;
    // What cannot be read has expired.
    let Ok(expiration) = expiration.parse::<Timestamp>() else { return Some(Duration::ZERO) };
    Some(Duration::try_from(expiration.duration_since(now)).unwrap_or_default())
}

struct Cleaner {
    client: Client,
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    tokens: Informer<Secret>,
}

pub fn cleaner(cx: &Context) -> Arc<dyn Controller> {
    let this = Cleaner {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        queue: cx.queue(),
        tokens: cx.informers.selected(Some(TOKENS)),
    };
    let queue = this.queue.clone();
    this.tokens.on_change(move |change| {
        let key = ObjectKey::of(change.object().as_ref());
        if key.namespace == NAMESPACE {
            queue.add(key);
        }
    });
    Arc::new(this)
}

#[async_trait]
impl Controller for Cleaner {
    fn name(&self) -> &'static str {
        "token-cleaner"
    }

    fn workers(&self) -> usize {
        1
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.tokens.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(secret) = self.tokens.get(key) else { return Ok(None) };
        let left = left(&secret, self.clock.now());
        if left != Some(Duration::ZERO) {
            return Ok(left);
        }
        info!(secret = %key, "bootstrap token has expired");
        let same = Preconditions { uid: secret.metadata.uid.clone(), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        let api = Api::<Secret>::namespaced(self.client.clone(), NAMESPACE);
        gone_is_fine(api.delete(&key.name, &params).await)
            .map_err(Error::api(format!("delete bootstrap token {key}")))?;
        Ok(None)
    }
}

struct Signer {
    client: Client,
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    tokens: Informer<Secret>,
    info: Informer<ConfigMap>,
}

pub fn signer(cx: &Context) -> Arc<dyn Controller> {
    let this = Signer {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        queue: cx.queue(),
        tokens: cx.informers.selected(Some(TOKENS)),
        info: cx.informers.selected(Some("metadata.namespace=kube-public,metadata.name=cluster-info")),
    };
    let key = || ObjectKey::new(INFO.0, INFO.1);
    let queue = this.queue.clone();
    this.tokens.on_change(move |_| queue.add(key()));
    let queue = this.queue.clone();
    this.info.on_change(move |_| queue.add(key()));
    Arc::new(this)
}

/// The detached signature of `content`: a JSON web signature without its middle.
fn sign(content: &str, id: &str, secret: &str) -> String {
    let header = format!(r#"{{"alg":"HS256","kid":"{id}"}}"#);
    let header = URL_SAFE_NO_PAD.encode(header);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The data of the ConfigMap with the signatures it should have.
fn signed(data: &BTreeMap<String, String>, tokens: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut signed: BTreeMap<String, String> =
        data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(content) = data.get(KUBECONFIG) {
        for (id, secret) in tokens {
            signed.insert(format!("{SIGNATURE}{id}"), sign(content, &id, &secret));
        }
    }
    signed
}

/// Id and secret of a token that may sign.
fn signing(token: &Secret, now: Timestamp) -> Option<(String, String)> {
    let name = token.metadata.name.as_deref()?;
    let (id, secret) = (data(token, "token-id")?, data(token, "token-secret")?);
    let good = token.metadata.namespace.as_deref() == Some(NAMESPACE)
        && token.metadata.deletion_timestamp.is_none()
        && name == format!("bootstrap-token-{id}")
        && left(token, now) != Some(Duration::ZERO)
        && data(token, "usage-bootstrap-signing").as_deref() == Some("true");
    good.then_some((id, secret))
}

#[async_trait]
impl Controller for Signer {
    fn name(&self) -> &'static str {
        "bootstrap-signer"
    }

    fn workers(&self) -> usize {
        1
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.tokens.synced().await;
        self.info.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(info) = self.info.get(key) else { return Ok(None) };
        let known = info.data.clone().unwrap_or_default();
        let now = self.clock.now();
        let wanted = signed(&known, self.tokens.list().iter().filter_map(|token| signing(token, now)));
        if wanted == known {
            return Ok(None);
        }
        let changed = ConfigMap { data: Some(wanted), ..ConfigMap::clone(&info) };
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &key.namespace);
        gone_is_fine(api.replace(&key.name, &PostParams::default(), &changed).await)
            .map_err(Error::api(format!("sign {key}")))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn token(pairs: &[(&str, &str)]) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some("bootstrap-token-abcdef".into());
        secret.metadata.namespace = Some(NAMESPACE.into());
        let mut all =
            vec![("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        all.extend(pairs);
        secret.data = Some(all.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect());
        secret
    }

    #[test]
    fn signatures_follow_content_and_tokens() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let data = BTreeMap::from([
            ("kubeconfig".to_owned(), "content".to_owned()),
            ("jws-kubeconfig-gone00".to_owned(), "old".to_owned()),
        ]);
        let made = signed(&data, signing(&token(&[]), now).into_iter());
        assert_eq!(made.keys().collect::<Vec<_>>(), ["jws-kubeconfig-abcdef", "kubeconfig"]);
        let parts: Vec<&str> = made["jws-kubeconfig-abcdef"].split('.').collect();
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[0]).expect("base64"), br#"{"alg":"HS256","kid":"abcdef"}"#);
        assert_eq!(parts[1], "");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let text = format!("{}.{}", parts[0], URL_SAFE_NO_PAD.encode("content"));
        hmac::verify(&key, text.as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).expect("base64")).expect("verifies");
        for other in [("expiration", "2025-01-01T00:00:00Z"), ("usage-bootstrap-signing", "false"), ("token-id", "x")] {
            assert_eq!(signing(&token(&[other]), now), None, "{other:?}");
        }
        assert_eq!(left(&token(&[("expiration", "2026-01-01T00:01:00Z")]), now), Some(Duration::from_secs(60)));
        assert_eq!(left(&token(&[]), now), None);
    }
}
