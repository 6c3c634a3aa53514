//! Who asks: client certificates, bearer tokens, anonymous visitors of the public paths.
//!
//! Invariants:
//! - AN-1: credentials that are shown must be good: a bad token is a 401 even where none would be needed.
//! - AN-2: tokens are compared in constant time and never logged.
//! - AN-3: without credentials only [`PUBLIC_PATHS`] are answered.

pub mod impersonation;

use std::sync::Arc;

use apimachinery::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use component_base::SharedClock;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use tracing::debug;

use crate::attributes::User;
use crate::authz::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use crate::cache::ObjectReader;
use crate::serviceaccount::TokenIssuer;
use crate::{Peer, PeerIdentity, StaticToken};

/// What anonymous visitors may ask (and RBAC then allows).
pub const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Knows tokens that are neither static nor service accounts': a node's join token, for one.
pub trait TokenSource: Send + Sync + 'static {
    fn authenticate(&self, token: &str) -> Option<User>;
}

/// The outcome of looking at a bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUser {
    pub user: User,
    /// The audiences asked for that the token is good for.
    pub audiences: Vec<String>,
}

pub struct Authenticator {
    reader: Arc<dyn ObjectReader>,
    issuer: Arc<TokenIssuer>,
    clock: SharedClock,
    static_tokens: Vec<StaticToken>,
    sources: RwLock<Vec<Arc<dyn TokenSource>>>,
}

impl Authenticator {
    pub fn new(
        reader: Arc<dyn ObjectReader>,
        issuer: Arc<TokenIssuer>,
        clock: SharedClock,
        static_tokens: Vec<StaticToken>,
    ) -> Self {
        Self { reader, issuer, clock, static_tokens, sources: RwLock::default() }
    }

    pub fn add_source(&self, source: Arc<dyn TokenSource>) {
        self.sources.write().push(source);
    }

    /// Authenticates one request to `path`.
    ///
    /// # Errors
    /// 401.
    pub async fn authenticate(&self, headers: &HeaderMap, peer: &Peer, path: &str) -> Result<User, Status> {
        match &peer.identity {
            PeerIdentity::InProcess(user) => return Ok(user.clone()),
            PeerIdentity::Tls(chain) => {
                if let Some(user) = chain.first().and_then(|leaf| certificate_user(leaf)) {
                    return Ok(user);
                }
            }
            PeerIdentity::None => {}
        }
        if let Some(token) = bearer(headers) {
            return match self.token(&token, &[]).await {
                Ok(found) => Ok(found.user),
                Err(reason) => {
                    debug!(addr = %peer.addr, reason, "bearer token refused");
                    Err(Status::unauthorized(""))
                }
            };
        }
        if !PUBLIC_PATHS.contains(&path) {
            return Err(Status::unauthorized(""));
        }
        Ok(User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() })
    }

    /// Looks at a bearer token. `audiences` empty: the API server's own.
    ///
    /// # Errors
    /// Why not, in upstream's words.
    pub async fn token(&self, token: &str, audiences: &[String]) -> Result<TokenUser, String> {
        let own = self.issuer.audiences();
        let wanted = if audiences.is_empty() { own } else { audiences };
        // Every static token is compared, so that the time tells nothing.
        let mut found = None;
        for known in &self.static_tokens {
            if pki::constant_time_eq(known.token.as_bytes(), token.as_bytes()) {
                found = Some(known.user.clone());
            }
        }
        if found.is_none() {
            found = self.sources.read().iter().find_map(|source| source.authenticate(token));
        }
        if let Some(user) = found {
            // These are tokens for the API server and nobody else.
            let audiences: Vec<String> = wanted.iter().filter(|a| own.contains(a)).cloned().collect();
            if audiences.is_empty() {
                return Err("invalid bearer token".to_owned());
            }
            return Ok(TokenUser { user: authenticated(user), audiences });
        }
        match self.issuer.validate(token, wanted, self.clock.now(), self.reader.as_ref()).await {
            Ok(found) => Ok(TokenUser { user: authenticated(found.user), audiences: found.audiences }),
            Err(None) => Err("invalid bearer token".to_owned()),
            Err(Some(why)) => Err(format!("[invalid bearer token, {why}]")),
        }
    }
}

fn authenticated(mut user: User) -> User {
    if !user.groups.iter().any(|g| g == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

fn certificate_user(leaf: &[u8]) -> Option<User> {
    let (name, groups) = pki::subject_of_certificate(leaf).ok()?;
    if name.is_empty() {
        return None;
    }
    let id = format!("X509SHA256={}", hex::encode(Sha256::digest(leaf)));
    let extra = [(CREDENTIAL_ID.to_owned(), vec![id])].into();
    Some(authenticated(User { name, uid: String::new(), groups, extra }))
}

/// The token of an `Authorization: Bearer` header, or of a WebSocket client that cannot set one.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let encoded = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_TOKEN))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// A WebSocket subprotocol that only carries a token and must not be answered.
pub fn is_token_protocol(protocol: &str) -> bool {
    protocol.starts_with(WEBSOCKET_TOKEN)
}

#[cfg(test)]
mod tests;
