//! Service-account tokens: issuing (TokenRequest), validating, and publishing the keys (OIDC discovery).
//!
//! Invariants:
//! - SA-1: a token is good only while its service account, and the pod, secret or node it is bound to, exist with the
//!   uids it was issued for.
//! - SA-2: no token lives longer than was asked for, and never longer than [`MAX_SECONDS`].

mod request;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::attributes::User;
use crate::authn::CREDENTIAL_ID;
use crate::cache::{Object, ObjectReader};

pub use request::token_request;

/// 2^32 seconds: upstream's limit.
pub const MAX_SECONDS: i64 = 1 << 32;
/// Clocks may differ, and deleted pods keep their token while they shut down.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

pub struct TokenIssuer {
    key: pki::SigningKey,
    issuer: String,
    audiences: Vec<String>,
}

/// The objects a new token is bound to.
#[derive(Default)]
pub struct Bound {
    pub pod: Option<Arc<Object>>,
    pub secret: Option<Arc<Object>>,
    pub node: Option<Arc<Object>>,
}

#[derive(Debug)]
pub struct Validated {
    pub user: User,
    /// Those of the wanted audiences that the token has.
    pub audiences: Vec<String>,
}

impl TokenIssuer {
    pub fn new(key: pki::SigningKey, issuer: String) -> Self {
        Self { key, audiences: vec![issuer.clone()], issuer }
    }

    /// The API server's own audiences.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A signed token and the time it expires at.
    pub fn issue(
        &self,
        account: &Object,
        bound: &Bound,
        audiences: &[String],
        seconds: i64,
        id: &str,
        now: Timestamp,
    ) -> pki::Result<(String, Timestamp)> {
        let expires = now + SignedDuration::from_secs(seconds.clamp(1, MAX_SECONDS));
        let named = |object: &Object| json!({"name": object.meta.name, "uid": object.meta.uid});
        let mut private = json!({"namespace": account.meta.namespace, "serviceaccount": named(account)});
        for (key, object) in [("pod", &bound.pod), ("secret", &bound.secret), ("node", &bound.node)] {
            if let Some(object) = object {
                private[key] = named(object);
            }
        }
        let claims = json!({
            "aud": audiences,
            "exp": expires.as_second(),
            "iat": now.as_second(),
            "iss": self.issuer,
            "jti": id,
            "kubernetes.io": private,
            "nbf": now.as_second(),
            "sub": format!("system:serviceaccount:{}:{}", account.meta.namespace, account.meta.name),
        });
        Ok((self.key.sign(&claims)?, expires))
    }

    /// Checks a token for some audience among `wanted`.
    ///
    /// # Errors
    /// `None`: it is none of ours. Otherwise why it is not good, in upstream's words.
    pub async fn validate(
        &self,
        token: &str,
        wanted: &[String],
        now: Timestamp,
        reader: &dyn ObjectReader,
    ) -> Result<Validated, Option<String>> {
        let claims = self.key.verify(token).map_err(|_| None)?;
        if claims["iss"].as_str() != Some(&self.issuer) {
            return Err(None);
        }
        let had: Vec<String> = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            many => many.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        };
        let audiences: Vec<String> = wanted.iter().filter(|a| had.contains(a)).cloned().collect();
        if audiences.is_empty() {
            let list = |l: &[String]| crate::authz::rules::go_strings(l);
            return Err(Some(format!(
                "token audiences {} is invalid for the target audiences {}",
                list(&had),
                list(wanted)
            )));
        }
        let time = |key: &str| claims[key].as_i64().and_then(|s| Timestamp::from_second(s).ok());
        let (Some(expires), Some(from)) = (time("exp"), time("nbf")) else {
            return Err(Some(
                "service account token claims could not be validated due to unexpected validation error".into(),
            ));
        };
        if now > expires + LEEWAY {
            return Err(Some("service account token has expired".to_owned()));
        }
        if now < from - LEEWAY {
            return Err(Some("service account token is not valid yet".to_owned()));
        }
        let user = bound_user(&claims, now, reader).await.map_err(Some)?;
        Ok(Validated { user, audiences })
    }

    /// `/openid/v1/jwks`
    pub fn jwks(&self) -> Value {
        self.key.jwks()
    }

    /// `/.well-known/openid-configuration`; `host` is where clients reach this server.
    pub fn openid_configuration(&self, host: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("https://{host}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

/// SA-1.
async fn bound_user(claims: &Value, now: Timestamp, reader: &dyn ObjectReader) -> Result<User, String> {
    let private = &claims["kubernetes.io"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = text(&private["namespace"]);
    let account_name = text(&private["serviceaccount"]["name"]);
    let account_uid = text(&private["serviceaccount"]["uid"]);
    let sub = format!("system:serviceaccount:{namespace}:{account_name}");
    if claims["sub"].as_str() != Some(&sub) || account_uid.is_empty() {
        return Err("service account token claims are inconsistent".to_owned());
    }
    let Some(account) = look_up(reader, "serviceaccounts", &namespace, &account_name).await else {
        return Err(format!("serviceaccounts \"{account_name}\" not found"));
    };
    if gone(&account, now) {
        return Err("service account token has been invalidated".to_owned());
    }
    if account.meta.uid != account_uid {
        return Err(format!("service account UID ({}) does not match claim ({account_uid})", account.meta.uid));
    }
    let mut user = User {
        name: sub,
        uid: account_uid,
        groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
        ..User::default()
    };
    for (key, storage, what) in [("secret", "secrets", "secret"), ("pod", "pods", "pod"), ("node", "minions", "node")] {
        let reference = &private[key];
        if reference.is_null() {
            continue;
        }
        let (name, uid) = (text(&reference["name"]), text(&reference["uid"]));
        // A pod's node is only checked when the token is bound to the node itself.
        if key != "node" || private["pod"].is_null() {
            let home = if key == "node" { "" } else { namespace.as_str() };
            let Some(object) = look_up(reader, storage, home, &name).await else {
                return Err("service account token has been invalidated".to_owned());
            };
            if gone(&object, now) {
                return Err("service account token has been invalidated".to_owned());
            }
            if object.meta.uid != uid {
                return Err(format!(
                    "{what} UID ({}) does not match service account {what} ref claim ({uid})",
                    object.meta.uid
                ));
            }
        }
        if key != "secret" {
            user.extra.insert(format!("authentication.kubernetes.io/{key}-name"), vec![name]);
            user.extra.insert(format!("authentication.kubernetes.io/{key}-uid"), vec![uid]);
        }
    }
    if let Some(id) = claims["jti"].as_str() {
        user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
    }
    Ok(user)
}

/// The cache first; only what is missing there is worth waiting for.
async fn look_up(reader: &dyn ObjectReader, storage: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
    match reader.peek(storage, namespace, name) {
        Some(found) => Some(found),
        None => reader.get(storage, namespace, name).await,
    }
}

fn gone(object: &Object, now: Timestamp) -> bool {
    let deleted = object.meta.deletion_timestamp.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
    deleted.is_some_and(|deleted| deleted < now - LEEWAY)
}
