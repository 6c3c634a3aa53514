//! ID tokens of an OpenID Connect issuer.
//!
//! Invariants:
//! - OI-1: only the configured algorithms, the issuer's own keys, its exact name and this client's audience are taken.
//! - OI-2: the issuer's keys are read when a token first needs them, again when a token names a key that is not known,
//!   and never more often than every [`PAUSE`].

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use component_base::{SharedClock, TaskGroup};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;
use tokio::sync::Mutex;

use super::CREDENTIAL_ID;
use crate::attributes::User;
use crate::outbound::Remote;

const TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(10);
/// Clocks may differ by this much for the start of a token's life.
const NOT_BEFORE_LEEWAY: i64 = 300;
/// What can be verified here; upstream's ES512 cannot.
const ALGORITHMS: &[&str] = &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384"];

#[derive(Debug, Clone)]
pub struct OidcConfig {
    pub issuer_url: String,
    pub client_id: String,
    pub username_claim: String,
    /// `None`: the issuer and `#`, but nothing before an email address. `-`: nothing.
    pub username_prefix: Option<String>,
    pub groups_claim: String,
    pub groups_prefix: String,
    pub required_claims: Vec<(String, String)>,
    /// PEM; `None`: the machine's own authorities.
    pub ca_pem: Option<String>,
    pub signing_algs: Vec<String>,
}

impl OidcConfig {
    /// # Errors
    /// What is wrong with it, with the option's name.
    pub fn validate(&self) -> Result<(), String> {
        if !self.issuer_url.starts_with("https://") {
            return Err(format!("oidc-issuer-url {:?}: want https://…", self.issuer_url));
        }
        if self.client_id.is_empty() {
            return Err("oidc-client-id: must be specified with oidc-issuer-url".to_owned());
        }
        if let Some(unknown) = self.signing_algs.iter().find(|alg| !ALGORITHMS.contains(&alg.as_str())) {
            return Err(format!("oidc-signing-algs {unknown:?}: allowed are {}", ALGORITHMS.join(", ")));
        }
        Ok(())
    }

    fn prefix(&self) -> String {
        match self.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if self.username_claim == "email" => String::new(),
            None => format!("{}#", self.issuer_url),
        }
    }
}

pub struct Oidc {
    config: OidcConfig,
    issuer: Remote,
    tasks: TaskGroup,
    clock: SharedClock,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    known: Vec<Value>,
    read: Option<Instant>,
}

/// A token's parts, not yet believed.
struct Token<'a> {
    algorithm: String,
    key: Option<String>,
    signed: &'a str,
    signature: Vec<u8>,
    claims: Value,
}

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let part = |text: &str| serde_json::from_slice::<Value>(&B64.decode(text).ok()?).ok();
        let (header, claims) = (part(header)?, part(claims)?);
        Some(Self {
            algorithm: header["alg"].as_str()?.to_owned(),
            key: header["kid"].as_str().map(str::to_owned),
            signed,
            signature: B64.decode(signature).ok()?,
            claims,
        })
    }

    /// Some key of the set signed it.
    fn signed_by(&self, keys: &[Value]) -> bool {
        let named = |key: &&Value| self.key.is_none() || key["kid"].as_str() == self.key.as_deref();
        keys.iter().filter(named).any(|key| self.verifies(key).is_some())
    }

    fn verifies(&self, key: &Value) -> Option<()> {
        let part = |name: &str| B64.decode(key[name].as_str()?.trim_end_matches('=')).ok();
        let algorithm = self.algorithm.as_str();
        if key["alg"].as_str().is_some_and(|of_key| of_key != algorithm) || key["use"].as_str() == Some("enc") {
            return None;
        }
        let rsa: &signature::RsaParameters = match algorithm {
            "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
            "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
            "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
            "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
            "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
            "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
            _ => {
                let (curve, length, algorithm) = match algorithm {
                    "ES256" => ("P-256", 32, &signature::ECDSA_P256_SHA256_FIXED),
                    "ES384" => ("P-384", 48, &signature::ECDSA_P384_SHA384_FIXED),
                    _ => return None,
                };
                let (x, y) = (part("x")?, part("y")?);
                if key["kty"] != "EC" || key["crv"] != curve || x.len() != length || y.len() != length {
                    return None;
                }
                let point = [&[4][..], &x, &y].concat();
                return UnparsedPublicKey::new(algorithm, point).verify(self.signed.as_bytes(), &self.signature).ok();
            }
        };
        if key["kty"] != "RSA" {
            return None;
        }
        let (n, e) = (part("n")?, part("e")?);
        RsaPublicKeyComponents { n, e }.verify(rsa, self.signed.as_bytes(), &self.signature).ok()
    }
}

impl Oidc {
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: OidcConfig, clock: SharedClock, tasks: &TaskGroup) -> Result<Self, String> {
        config.validate()?;
        let issuer = Remote::new(&config.issuer_url, config.ca_pem.as_deref(), None, tasks)?;
        Ok(Self { config, issuer, tasks: tasks.clone(), clock, keys: Mutex::default() })
    }

    /// Whose token it is; none: it is of another issuer.
    ///
    /// # Errors
    /// Why a token of this issuer is not good.
    pub async fn authenticate(&self, token: &str) -> Result<Option<User>, String> {
        let Some(token) = Token::parse(token) else { return Ok(None) };
        if token.claims["iss"].as_str() != Some(&self.config.issuer_url) {
            return Ok(None);
        }
        self.verify(&token).await.map_err(|why| format!("oidc: verify token: {why}"))?;
        self.user(&token.claims).map(Some)
    }

    async fn verify(&self, token: &Token<'_>) -> Result<(), String> {
        let wanted = &self.config;
        let audiences: Vec<&str> = match &token.claims["aud"] {
            Value::String(one) => vec![one],
            many => many.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        };
        if !audiences.contains(&wanted.client_id.as_str()) {
            return Err(format!(
                "oidc: expected audience {:?} got [{}]",
                wanted.client_id,
                audiences.iter().map(|audience| format!("{audience:?}")).collect::<Vec<_>>().join(" ")
            ));
        }
        let now = self.clock.now().as_second();
        let seconds = |claim: &str| {
            let value = &token.claims[claim];
            value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
        };
        if seconds("exp").is_none_or(|expires| now >= expires) {
            return Err("oidc: token is expired".to_owned());
        }
        if seconds("nbf").is_some_and(|from| now + NOT_BEFORE_LEEWAY < from) {
            return Err("oidc: the token is not valid yet".to_owned());
        }
        if !wanted.signing_algs.contains(&token.algorithm) {
            return Err(format!(
                "oidc: malformed jwt: unexpected signature algorithm {:?}; expected [{}]",
                token.algorithm,
                wanted.signing_algs.iter().map(|alg| format!("{alg:?}")).collect::<Vec<_>>().join(" ")
            ));
        }
        // Held while the keys are read: others wait for the answer instead of asking too.
        let mut keys = self.keys.lock().await;
        if token.signed_by(&keys.known) {
            return Ok(());
        }
        let instant = self.clock.instant();
        if keys.read.is_none_or(|read| instant.duration_since(read) >= PAUSE) {
            keys.read = Some(instant);
            keys.known = self.fetch().await?;
        }
        match token.signed_by(&keys.known) {
            true => Ok(()),
            false => Err("failed to verify signature: failed to verify id token signature".to_owned()),
        }
    }

    /// OI-2: the keys as the issuer publishes them now.
    async fn fetch(&self) -> Result<Vec<Value>, String> {
        let failed = |what: &str, why: String| format!("oidc: {what}: {why}");
        let answer = self.issuer.get("/.well-known/openid-configuration", TIMEOUT).await;
        let answer = answer.map_err(|error| failed("fetching the provider's configuration", error.to_string()))?;
        if answer.code != 200 {
            return Err(failed("fetching the provider's configuration", format!("status {}", answer.code)));
        }
        let document = answer.json()?;
        let said = document["issuer"].as_str().unwrap_or_default();
        if said != self.config.issuer_url {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {said:?}",
                self.config.issuer_url
            ));
        }
        let uri = document["jwks_uri"].as_str().unwrap_or_default();
        if !uri.starts_with("https://") {
            return Err(failed("the provider's jwks_uri", format!("{uri:?}: want https://…")));
        }
        let keys = Remote::new(uri, self.config.ca_pem.as_deref(), None, &self.tasks)?;
        let answer = keys.get("", TIMEOUT).await.map_err(|error| failed("fetching keys", error.to_string()))?;
        if answer.code != 200 {
            return Err(failed("fetching keys", format!("status {}", answer.code)));
        }
        Ok(answer.json()?["keys"].as_array().cloned().unwrap_or_default())
    }

    fn user(&self, claims: &Value) -> Result<User, String> {
        let config = &self.config;
        let claim = |name: &str| claims.get(name).filter(|value| !value.is_null());
        let name = claim(&config.username_claim)
            .ok_or_else(|| format!("oidc: parse username claims {:?}: claim not present", config.username_claim))?;
        let name = name
            .as_str()
            .ok_or_else(|| format!("oidc: parse username claims {:?}: claim is no string", config.username_claim))?;
        if config.username_claim == "email" && claims.get("email_verified").is_some_and(|verified| *verified != true) {
            return Err("oidc: email not verified".to_owned());
        }
        let mut groups = Vec::new();
        if let (false, Some(found)) = (config.groups_claim.is_empty(), claim(&config.groups_claim)) {
            let listed: Option<Vec<&str>> = match found {
                Value::String(one) => Some(vec![one.as_str()]),
                Value::Array(many) => many.iter().map(Value::as_str).collect(),
                _ => None,
            };
            let wrong = || format!("oidc: parse groups claim {:?}: want a string or strings", config.groups_claim);
            let listed = listed.ok_or_else(wrong)?;
            groups = listed.iter().map(|group| format!("{}{group}", config.groups_prefix)).collect();
        }
        for (name, wanted) in &config.required_claims {
            let found = claim(name).and_then(Value::as_str);
            match found {
                None => return Err(format!("oidc: required claim {name} not present in ID token")),
                Some(found) if found != wanted => {
                    return Err(format!(
                        "oidc: required claim {name} value does not match. Got = {found}, want = {wanted}"
                    ));
                }
                Some(_) => {}
            }
        }
        let id = claim("jti").and_then(Value::as_str);
        let extra = id.map(|id| (CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")])).into_iter().collect();
        Ok(User { name: format!("{}{name}", config.prefix()), uid: String::new(), groups, extra })
    }
}

#[cfg(test)]
#[path = "oidc_tests.rs"]
mod tests;
