//! Tests of `oidc`, against an issuer that serves HTTPS with an authority of its own.

use std::sync::Arc;

use component_base::{CancellationToken, RealClock};
use http::{Request, Response};
use parking_lot::Mutex as SyncMutex;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::wire::body;
use crate::{Body, tls};

struct Issuer {
    url: String,
    ca_pem: String,
    /// What it signs with, and publishes.
    key: Arc<SyncMutex<pki::SigningKey>>,
    tasks: TaskGroup,
    shutdown: CancellationToken,
}

impl Issuer {
    async fn start() -> Self {
        let now = RealClock::shared().now();
        let authority = pki::Authority::generate("issuer", now).expect("an authority");
        let subject = pki::Subject::server("issuer", vec!["localhost".into()], vec![[127, 0, 0, 1].into()]);
        let serving = authority.issue(&subject, now).expect("a certificate");
        let config = tls::server_config(&serving.cert_pem, &serving.key_pem, authority.cert_pem()).expect("TLS");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("https://127.0.0.1:{}/realm", listener.local_addr().expect("an address").port());
        let key = Arc::new(SyncMutex::new(pki::SigningKey::generate().expect("a key")));
        let (tasks, shutdown) = (TaskGroup::new(), CancellationToken::new());
        let (issuer, published) = (url.clone(), key.clone());
        let answer = move |request: Request<Body>, _| {
            let document = match request.uri().path() {
                "/realm/.well-known/openid-configuration" => {
                    json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")})
                }
                "/realm/keys" => published.lock().jwks(),
                _ => json!({}),
            };
            async move { Response::new(body::full(document.to_string())) }
        };
        tasks.spawn(tls::serve(listener, config, shutdown.clone(), answer));
        Self { url, ca_pem: authority.cert_pem().to_owned(), key, tasks, shutdown }
    }

    fn token(&self, change: impl Fn(&mut Value)) -> String {
        let now = RealClock::shared().now().as_second();
        let mut claims = json!({
            "iss": self.url, "aud": ["me", "you"], "sub": "alice", "exp": now + 60, "groups": ["dev"], "hd": "acme",
            "jti": "1",
        });
        change(&mut claims);
        self.key.lock().sign(&claims).expect("signs")
    }

    fn oidc(&self, change: impl Fn(&mut OidcConfig), clock: SharedClock) -> Oidc {
        let mut config = OidcConfig {
            issuer_url: self.url.clone(),
            client_id: "me".into(),
            username_claim: "sub".into(),
            username_prefix: None,
            groups_claim: "groups".into(),
            groups_prefix: "oidc:".into(),
            required_claims: vec![("hd".into(), "acme".into())],
            ca_pem: Some(self.ca_pem.clone()),
            signing_algs: vec!["ES256".into()],
        };
        change(&mut config);
        Oidc::new(config, clock, &self.tasks).expect("configures")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.stop().await;
    }
}

#[tokio::test]
async fn an_issuers_users_come_in() {
    let issuer = Issuer::start().await;
    let oidc = issuer.oidc(|_| {}, RealClock::shared());
    let user = oidc.authenticate(&issuer.token(|_| {})).await.expect("good").expect("ours");
    assert_eq!(user.name, format!("{}#alice", issuer.url));
    assert_eq!(user.groups, ["oidc:dev"]);
    assert_eq!(user.extra[CREDENTIAL_ID], ["JTI=1"]);
    assert_eq!(oidc.authenticate(&issuer.token(|claims| claims["iss"] = json!("https://other"))).await, Ok(None));
    assert_eq!(oidc.authenticate("no.token").await, Ok(None));
    let refused: [(fn(&mut Value), &str); 6] = [
        (|c| c["exp"] = json!(1), "oidc: verify token: oidc: token is expired"),
        (|c| c["aud"] = json!("you"), "oidc: verify token: oidc: expected audience \"me\" got [\"you\"]"),
        (|c| c["sub"] = Value::Null, "oidc: parse username claims \"sub\": claim not present"),
        (|c| c["hd"] = json!("x"), "oidc: required claim hd value does not match. Got = x, want = acme"),
        (|c| c["hd"] = Value::Null, "oidc: required claim hd not present in ID token"),
        (|c| c["groups"] = json!(7), "oidc: parse groups claim \"groups\": want a string or strings"),
    ];
    for (change, why) in refused {
        assert_eq!(oidc.authenticate(&issuer.token(change)).await, Err(why.to_owned()));
    }
    let mut forged = issuer.token(|_| {});
    forged.truncate(forged.rfind('.').expect("a signature") + 1);
    forged.push_str(&B64.encode([7; 64]));
    let why = oidc.authenticate(&forged).await.expect_err("is forged");
    assert_eq!(why, "oidc: verify token: failed to verify signature: failed to verify id token signature");
    let by_email = issuer.oidc(|config| config.username_claim = "email".into(), RealClock::shared());
    let token = issuer.token(|claims| claims["email"] = json!("a@b.c"));
    assert_eq!(by_email.authenticate(&token).await.expect("good").expect("ours").name, "a@b.c");
    let token = issuer.token(|claims| {
        claims["email"] = json!("a@b.c");
        claims["email_verified"] = json!(false);
    });
    assert_eq!(by_email.authenticate(&token).await, Err("oidc: email not verified".to_owned()));
    issuer.stop().await;
}

#[tokio::test]
async fn new_keys_are_found() {
    let issuer = Issuer::start().await;
    let clock = component_base::FakeClock::new(RealClock::shared().now());
    let oidc = issuer.oidc(|_| {}, clock.clone());
    let first = issuer.token(|_| {});
    assert!(oidc.authenticate(&first).await.is_ok());
    *issuer.key.lock() = pki::SigningKey::generate().expect("a key");
    let second = issuer.token(|_| {});
    // So soon nothing is read again; later it is.
    assert!(oidc.authenticate(&second).await.is_err());
    clock.advance(PAUSE);
    assert!(oidc.authenticate(&second).await.is_ok());
    assert!(oidc.authenticate(&first).await.is_err());
    issuer.stop().await;
}

#[tokio::test]
async fn an_unknown_authority_is_not_believed() {
    let issuer = Issuer::start().await;
    let now = RealClock::shared().now();
    let other = pki::Authority::generate("other", now).expect("an authority").cert_pem().to_owned();
    let oidc = issuer.oidc(|config| config.ca_pem = Some(other.clone()), RealClock::shared());
    let why = oidc.authenticate(&issuer.token(|_| {})).await.expect_err("cannot read the keys");
    assert!(why.contains("fetching the provider's configuration"), "{why}");
    issuer.stop().await;
}

#[test]
fn rsa_keys_verify() {
    // RFC 7515, appendix A.2.
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let key = json!({
        "kty": "RSA", "e": "AQAB",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    });
    let parsed = Token::parse(token).expect("parses");
    assert!(parsed.signed_by(std::slice::from_ref(&key)));
    let mut other = key;
    other["kty"] = json!("EC");
    assert!(!parsed.signed_by(&[other]));
}
