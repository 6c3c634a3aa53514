//! Tests of `authn`.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;
use crate::authn::impersonation::impersonate;
use crate::authz::Authorizer;
use crate::authz::tests::FakeReader;
use crate::serviceaccount::Bound;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa", "namespace": "a"}})
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"}, "spec": {}})
}

struct Setup {
    reader: Arc<FakeReader>,
    issuer: Arc<TokenIssuer>,
    clock: Arc<component_base::FakeClock>,
    authenticator: Authenticator,
}

fn setup() -> Setup {
    let reader = FakeReader::with(&[("serviceaccounts", account()), ("pods", pod())]);
    let issuer = Arc::new(TokenIssuer::new(pki::SigningKey::generate().expect("key"), ISSUER.to_owned()));
    let clock = component_base::FakeClock::new(now());
    let tokens = vec![StaticToken { token: "static".into(), user: User::new("bot", &["robots"]) }];
    let authenticator = Authenticator::new(reader.clone(), issuer.clone(), clock.clone(), tokens);
    Setup { reader, issuer, clock, authenticator }
}

fn issue(setup: &Setup, with_pod: bool, audiences: &[&str]) -> String {
    let account = setup.reader.peek("serviceaccounts", "a", "sa").expect("account");
    let pod = with_pod.then(|| setup.reader.peek("pods", "a", "p").expect("pod"));
    let bound = Bound { pod, ..Bound::default() };
    let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
    setup.issuer.issue(&account, &bound, &audiences, 3600, "id-1", now()).expect("issues").0
}

fn peer(identity: PeerIdentity) -> Peer {
    Peer { addr: ([127, 0, 0, 1], 1).into(), identity }
}

fn with_token(token: &str) -> HeaderMap {
    let value = format!("Bearer {token}").parse().expect("header");
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

#[tokio::test]
async fn who_is_who() {
    let setup = setup();
    let nobody = peer(PeerIdentity::None);
    let ask = async |headers: HeaderMap, peer: &Peer, path: &str| {
        setup.authenticator.authenticate(&headers, peer, path).await
    };
    let refused = ask(HeaderMap::new(), &nobody, "/api").await.expect_err("401");
    assert_eq!(
        (refused.code, refused.reason.as_str(), refused.message.as_str()),
        (401, "Unauthorized", "Unauthorized")
    );
    for path in PUBLIC_PATHS {
        let user = ask(HeaderMap::new(), &nobody, path).await.expect("public");
        assert_eq!((user.name.as_str(), user.groups), (ANONYMOUS, vec![UNAUTHENTICATED.to_owned()]));
    }
    // A bad token is refused even there.
    assert!(ask(with_token("wrong"), &nobody, "/healthz").await.is_err());
    let bot = ask(with_token("static"), &nobody, "/api").await.expect("known");
    assert_eq!((bot.name.as_str(), bot.groups.join(",").as_str()), ("bot", "robots,system:authenticated"));
    let user = ask(with_token(&issue(&setup, true, &[ISSUER])), &nobody, "/api").await.expect("good");
    assert_eq!(user.name, "system:serviceaccount:a:sa");
    assert_eq!(user.uid, "uid-sa");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    assert_eq!(user.extra[CREDENTIAL_ID], ["JTI=id-1"]);

    let ca = pki::Authority::generate("ca", now()).expect("ca");
    let alice = ca.issue(&pki::Subject::client("alice", Some("dev")), now()).expect("issues");
    let leaf = pki::certificate_ders(&alice.cert_pem).expect("ders")[0].to_vec();
    let user = ask(HeaderMap::new(), &peer(PeerIdentity::Tls(vec![leaf])), "/api").await.expect("known");
    assert_eq!((user.name.as_str(), user.groups.join(",").as_str()), ("alice", "dev,system:authenticated"));
    assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
}

#[tokio::test]
async fn websocket_clients_may_bring_their_token_as_a_protocol() {
    let setup = setup();
    let value = format!("v5.channel.k8s.io, {WEBSOCKET_TOKEN}{}", URL_SAFE_NO_PAD.encode("static"));
    let headers = HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, value.parse().expect("header"))]);
    let user = setup.authenticator.authenticate(&headers, &peer(PeerIdentity::None), "/api").await.expect("known");
    assert_eq!(user.name, "bot");
}

#[tokio::test]
async fn tokens_that_are_not_good() {
    let setup = setup();
    let token = issue(&setup, true, &[ISSUER]);
    let ask = async |token: &str, audiences: &[&str]| {
        let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
        setup.authenticator.token(token, &audiences).await.map(|found| found.audiences)
    };
    assert_eq!(ask(&token, &[]).await, Ok(vec![ISSUER.to_owned()]));
    assert_eq!(
        ask(&token, &["nope"]).await,
        Err(format!(
            "[invalid bearer token, token audiences [\"{ISSUER}\"] is invalid for the target audiences [\"nope\"]]"
        ))
    );
    let foreign = TokenIssuer::new(pki::SigningKey::generate().expect("key"), ISSUER.to_owned());
    let account = setup.reader.peek("serviceaccounts", "a", "sa").expect("account");
    let own = [ISSUER.to_owned()];
    let forged = foreign.issue(&account, &Bound::default(), &own, 600, "x", now()).expect("issues").0;
    assert_eq!(ask(&forged, &[]).await, Err("invalid bearer token".to_owned()));
    assert_eq!(ask("a.b.c", &[]).await, Err("invalid bearer token".to_owned()));

    setup.clock.advance(std::time::Duration::from_secs(3600 + 61));
    assert_eq!(ask(&token, &[]).await, Err("[invalid bearer token, service account token has expired]".to_owned()));
}

#[tokio::test]
async fn tokens_end_with_what_they_are_bound_to() {
    let setup = setup();
    let token = issue(&setup, true, &[ISSUER]);
    let ask = async || setup.authenticator.token(&token, &[]).await.err();
    let mut other = pod();
    other["metadata"]["uid"] = "another".into();
    setup.reader.put("pods", other);
    let error = ask().await.expect("refused");
    assert!(error.contains("pod UID (another) does not match"), "{error}");
    let mut going = pod();
    going["metadata"]["deletionTimestamp"] = (now() - SignedDuration::from_secs(30)).to_string().into();
    setup.reader.put("pods", going.clone());
    assert_eq!(ask().await, None, "a pod that shuts down keeps its token");
    going["metadata"]["deletionTimestamp"] = (now() - SignedDuration::from_secs(90)).to_string().into();
    setup.reader.put("pods", going);
    assert!(ask().await.expect("refused").contains("invalidated"));
    setup.reader.put("pods", pod());
    let mut again = account();
    again["metadata"]["uid"] = "new".into();
    setup.reader.put("serviceaccounts", again);
    assert!(ask().await.expect("refused").contains("service account UID (new) does not match claim (uid-sa)"));
}

#[tokio::test]
async fn impersonation() {
    let authorizer = Authorizer::new(FakeReader::with(&[]));
    let headers = |pairs: &[(&str, &str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name: http::HeaderName = name.parse().expect("name");
            map.append(name, value.parse().expect("value"));
        }
        map
    };
    let admin = User::new("admin", &["system:masters"]);
    let act = async |pairs: &[(&str, &str)]| impersonate(&authorizer, admin.clone(), &headers(pairs)).await;
    assert_eq!(act(&[]).await.expect("itself"), admin);
    let user = act(&[
        ("Impersonate-User", "u"),
        ("Impersonate-Group", "g1"),
        ("Impersonate-Group", "g2"),
        ("Impersonate-Uid", "1"),
        ("Impersonate-Extra-Scopes", "a"),
        ("Impersonate-Extra-Acme.com%2Fx", "b"),
    ])
    .await
    .expect("allowed");
    assert_eq!(user.groups, ["g1", "g2", "system:authenticated"]);
    assert_eq!(user.uid, "1");
    assert_eq!(user.extra["scopes"], ["a"]);
    assert_eq!(user.extra["acme.com/x"], ["b"]);
    let sa = act(&[("Impersonate-User", "system:serviceaccount:ns:sa")]).await.expect("allowed");
    assert_eq!(sa.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
    let anonymous = act(&[("Impersonate-User", ANONYMOUS)]).await.expect("allowed");
    assert_eq!(anonymous.groups, [UNAUTHENTICATED]);
    let error = act(&[("Impersonate-Extra-Foo", "g")]).await.expect_err("400");
    assert_eq!(
        error.message,
        r#"requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string(nil), Extra:map[string][]string{"foo":[]string{"g"}}} without impersonating a user name"#
    );
    let plain = User::new("plain", &[]);
    let error = impersonate(&authorizer, plain, &headers(&[("Impersonate-User", "u")])).await.expect_err("403");
    assert_eq!(
        error.message,
        r#"users "u" is forbidden: User "plain" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
}
