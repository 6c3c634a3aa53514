//! Who asks: client certificates, bearer tokens, anonymous visitors of the public paths.
//!
//! Invariants:
//! - AN-1: credentials that are shown must be good: a bad token is a 401 even where none would be needed.
//! - AN-2: tokens are compared in constant time and never logged.
//! - AN-3: without credentials only [`PUBLIC_PATHS`] are answered.

mod bootstrap;
mod config;
pub mod impersonation;
mod oidc;
mod request_header;
mod webhook;

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

pub use config::AuthenticationConfig;
pub use oidc::OidcConfig;
pub use request_header::{RequestHeaderConfig, published};
pub use webhook::TokenWebhookConfig;

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
    bootstrap_tokens: bool,
    request_headers: Option<request_header::RequestHeaders>,
    oidc: Option<oidc::Oidc>,
    webhook: Option<webhook::TokenWebhook>,
}

impl Authenticator {
    pub fn new(
        reader: Arc<dyn ObjectReader>,
        issuer: Arc<TokenIssuer>,
        clock: SharedClock,
        static_tokens: Vec<StaticToken>,
    ) -> Self {
        Self {
            reader,
            issuer,
            clock,
            static_tokens,
            sources: RwLock::default(),
            bootstrap_tokens: false,
            request_headers: None,
            oidc: None,
            webhook: None,
        }
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
                let known = self.request_headers.as_ref();
                let shown = known.map(|known| known.look(chain, self.clock.as_ref()));
                if shown.is_some_and(|shown| shown.proxy) {
                    if let Some(user) = known.and_then(|known| known.named(headers)) {
                        return Ok(authenticated(user));
                    }
                }
                // Of a proxy's authority alone, a certificate is nobody.
                let client = shown.is_none_or(|shown| shown.client);
                if let Some(user) = chain.first().filter(|_| client).and_then(|leaf| certificate_user(leaf)) {
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
        let mut errors = Vec::new();
        match self.issuer.validate(token, wanted, self.clock.now(), self.reader.as_ref()).await {
            Ok(found) => return Ok(TokenUser { user: authenticated(found.user), audiences: found.audiences }),
            Err(why) => errors.extend(why),
        }
        match self.others(token, wanted).await {
            Ok(Some(found)) => return Ok(TokenUser { user: authenticated(found.user), ..found }),
            Ok(None) => {}
            Err(why) => errors.extend(why),
        }
        match errors.is_empty() {
            true => Err("invalid bearer token".to_owned()),
            false => Err(format!("[invalid bearer token, {}]", errors.join(", "))),
        }
    }

    /// Bootstrap tokens, the OIDC issuer, the webhook.
    async fn others(&self, token: &str, wanted: &[String]) -> Result<Option<TokenUser>, Vec<String>> {
        // Who knows no audiences speaks for this server's own.
        let audiences: Vec<String> = wanted.iter().filter(|a| self.issuer.audiences().contains(a)).cloned().collect();
        let found = |user: User| (!audiences.is_empty()).then(|| TokenUser { user, audiences: audiences.clone() });
        if self.bootstrap_tokens {
            let user = bootstrap::authenticate(token, self.clock.now(), self.reader.as_ref()).await;
            if let Some(user) = user {
                return Ok(found(user));
            }
        }
        let mut errors = Vec::new();
        if let Some(oidc) = &self.oidc {
            match oidc.authenticate(token).await {
                Ok(Some(user)) => return Ok(found(user)),
                Ok(None) => {}
                Err(why) => errors.push(why),
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.authenticate(token, wanted).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(why) => errors.push(why),
            }
        }
        if errors.is_empty() { Ok(None) } else { Err(errors) }
    }

    /// Takes off what only tells this server who asks.
    pub fn strip(&self, headers: &mut HeaderMap) {
        if let Some(known) = &self.request_headers {
            known.strip(headers);
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
