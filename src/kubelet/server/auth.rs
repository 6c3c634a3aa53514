//! Who asks, and whether they may: client certificates, bearer tokens by TokenReview, access by SubjectAccessReview on
//! `nodes/<subresource>`.
//!
//! Invariants:
//! - KA-1: nobody is anonymous, and without an answer of the API server nobody but the API server itself gets in.
//! - KA-2: tokens are kept as hashes only; the caches are bounded and forget.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use component_base::SharedClock;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tracing::{debug, warn};

use super::http::Refusal;
use crate::error::{Error, Result};

/// Upstream's defaults of `authentication.webhook.cacheTTL` and `authorization.webhook.cache(Un)authorizedTTL`.
const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
const CACHE_SIZE: usize = 1024;
/// What the API server's certificate says.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
const MASTERS: &str = "system:masters";

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: Vec<(String, Vec<String>)>,
}

/// One question of access.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    pub user: User,
    pub verb: &'static str,
    pub subresource: &'static str,
}

/// Answers for the API server.
#[async_trait]
pub trait Reviewer: Send + Sync + 'static {
    /// Whose token it is; `None`: nobody's.
    async fn token(&self, token: &str) -> Result<Option<User>>;
    /// Whether that is allowed on node `node`.
    async fn access(&self, node: &str, access: &Access) -> Result<bool>;
}

#[async_trait]
impl Reviewer for Client {
    async fn token(&self, token: &str) -> Result<Option<User>> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let api = Api::<TokenReview>::all(self.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(Error::api("token review"))?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        let user = status.user.unwrap_or_default();
        Ok(Some(User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default().into_iter().collect(),
        }))
    }

    async fn access(&self, node: &str, access: &Access) -> Result<bool> {
        let Access { user, verb, subresource } = access;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.iter().cloned().collect()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some((*verb).to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some((*subresource).to_owned()),
                    name: Some(node.to_owned()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(Error::api("subject access review"))?;
        Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

/// Decides over requests.
pub struct Auth {
    reviewer: Arc<dyn Reviewer>,
    node: String,
    clock: SharedClock,
    tokens: Cache<[u8; 32], Option<User>>,
    decisions: Cache<Access, bool>,
}

impl Auth {
    pub fn new(reviewer: Arc<dyn Reviewer>, node: String, clock: SharedClock) -> Self {
        Self { reviewer, node, clock, tokens: Cache::default(), decisions: Cache::default() }
    }

    /// Lets the request through, or says why not. `certificate` is the verified client certificate (DER).
    pub async fn check(
        &self,
        certificate: Option<&[u8]>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let Some(user) = self.user(certificate, headers).await else {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized"));
        };
        if user.groups.iter().any(|group| group == MASTERS) || (certificate.is_some() && user.name == API_SERVER) {
            return Ok(());
        }
        let (verb, subresources) = (verb(method), subresources(path));
        for subresource in &subresources {
            let access = Access { user: user.clone(), verb, subresource };
            match self.allowed(&access).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    warn!(user = %user.name, verb, subresource, %error, "authorization failed");
                    let text = format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                        user.name
                    );
                    return Err(Refusal::internal(text));
                }
            }
        }
        debug!(user = %user.name, verb, path, "forbidden");
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
                user.name,
                subresources.join(" ")
            ),
        ))
    }

    async fn user(&self, certificate: Option<&[u8]>, headers: &HeaderMap) -> Option<User> {
        if let Some(der) = certificate {
            let (name, groups) = pki::subject_of_certificate(der).ok()?;
            if !name.is_empty() {
                return Some(User { name, groups, ..User::default() });
            }
        }
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return None;
        }
        let key: [u8; 32] = Sha256::digest(token).into();
        let now = self.clock.instant();
        if let Some(known) = self.tokens.get(&key, now) {
            return known;
        }
        match self.reviewer.token(token).await {
            Ok(user) => {
                // As upstream, only success is remembered: a token may become valid.
                if user.is_some() {
                    self.tokens.put(key, user.clone(), now + TOKEN_TTL, now);
                }
                user
            }
            Err(error) => {
                warn!(%error, "a token could not be checked");
                None
            }
        }
    }

    async fn allowed(&self, access: &Access) -> Result<bool> {
        let now = self.clock.instant();
        if let Some(known) = self.decisions.get(access, now) {
            return Ok(known);
        }
        let allowed = self.reviewer.access(&self.node, access).await?;
        let ttl = if allowed { ALLOWED_TTL } else { DENIED_TTL };
        self.decisions.put(access.clone(), allowed, now + ttl, now);
        Ok(allowed)
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The subresources of the node of which one must be allowed for `path`.
fn subresources(path: &str) -> Vec<&'static str> {
    // As the router splits it: what is checked is what is served.
    let first = super::http::unescape(path.trim_start_matches('/').split('/').next().unwrap_or_default());
    match first.as_str() {
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        _ => vec!["proxy"],
    }
}

struct Cache<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<V> {
        self.0.lock().get(key).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, until: Instant, now: Instant) {
        let mut entries = self.0.lock();
        if entries.len() >= CACHE_SIZE {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= CACHE_SIZE {
            // All are fresh: whoever is kept out asks again.
            entries.clear();
        }
        entries.insert(key, (until, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_as_upstream() {
        let table: [(&str, &[&str]); 8] = [
            ("/containerLogs/a/b/c", &["proxy"]),
            ("/pods", &["pods", "proxy"]),
            ("/podsx", &["proxy"]),
            ("/stats/summary", &["stats"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/logs/x", &["log"]),
            ("/healthz", &["healthz", "proxy"]),
            ("//exec/a", &["proxy"]),
        ];
        for (path, expected) in table {
            assert_eq!(subresources(path), expected, "{path}");
        }
    }

    #[test]
    fn the_cache_forgets_and_stays_small() {
        let now = component_base::Clock::instant(&component_base::RealClock);
        let cache = Cache::default();
        for key in 0..3000 {
            cache.put(key, key, now + Duration::from_secs(1), now);
        }
        assert!(cache.0.lock().len() <= CACHE_SIZE);
        assert_eq!(cache.get(&2999, now), Some(2999));
        assert_eq!(cache.get(&2999, now + Duration::from_secs(1)), None);
    }
}
