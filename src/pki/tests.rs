//! Tests of `pki`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn request(now: Timestamp) -> PkiRequest {
    PkiRequest {
        sans: vec!["box.example".into(), "localhost".into()],
        ips: vec!["10.43.0.1".parse().expect("ip")],
        cluster_domain: "cluster.local".into(),
        now,
    }
}

fn contents(dir: &Path) -> BTreeMap<String, (u32, String)> {
    std::fs::read_dir(dir)
        .expect("lists")
        .map(|e| e.expect("entry"))
        .map(|e| {
            let mode = e.metadata().expect("metadata").permissions().mode() & 0o777;
            (e.file_name().into_string().expect("utf-8"), (mode, std::fs::read_to_string(e.path()).expect("reads")))
        })
        .collect()
}

#[test]
fn a_second_start_changes_nothing_and_keys_are_private() {
    let dir = tempfile::tempdir().expect("dir");
    Pki::ensure(dir.path(), &request(now())).expect("first");
    let first = contents(dir.path());
    Pki::ensure(dir.path(), &request(now() + jiff::SignedDuration::from_hours(24 * 200))).expect("second");
    assert_eq!(first, contents(dir.path()));
    assert_eq!(first.len(), 21);
    for (name, (mode, _)) in &first {
        assert_eq!(*mode, if name.ends_with(".key") { 0o600 } else { 0o644 }, "{name}");
    }
}

#[test]
fn leaves_are_renewed_in_time_and_authorities_kept() {
    let dir = tempfile::tempdir().expect("dir");
    Pki::ensure(dir.path(), &request(now())).expect("first");
    let first = contents(dir.path());
    Pki::ensure(dir.path(), &request(now() + jiff::SignedDuration::from_hours(24 * 276))).expect("later");
    let second = contents(dir.path());
    for (name, old) in &first {
        let kept = name.contains("-ca.") || name == "service.key";
        assert_eq!(kept, old == &second[name], "{name}");
    }
}

#[test]
fn a_new_name_renews_the_serving_certificate_only() {
    let dir = tempfile::tempdir().expect("dir");
    Pki::ensure(dir.path(), &request(now())).expect("first");
    let first = contents(dir.path());
    let mut wanted = request(now());
    wanted.ips.push("192.168.7.7".parse().expect("ip"));
    Pki::ensure(dir.path(), &wanted).expect("second");
    let second = contents(dir.path());
    for (name, old) in &first {
        assert_eq!(!name.starts_with("serving-kube-apiserver"), old == &second[name], "{name}");
    }
}

#[test]
fn damaged_leaves_are_replaced_damaged_authorities_reported() {
    let dir = tempfile::tempdir().expect("dir");
    Pki::ensure(dir.path(), &request(now())).expect("first");
    let first = contents(dir.path());
    std::fs::copy(dir.path().join("client-admin.key"), dir.path().join("client-scheduler.key")).expect("copies");
    Pki::ensure(dir.path(), &request(now())).expect("second");
    assert_ne!(first["client-scheduler.crt"], contents(dir.path())["client-scheduler.crt"]);

    std::fs::write(dir.path().join("client-ca.key"), "nonsense").expect("writes");
    let error = Pki::ensure(dir.path(), &request(now())).err().expect("refused").to_string();
    assert!(error.contains("client-ca.crt"), "{error}");
    std::fs::remove_file(dir.path().join("client-ca.key")).expect("removes");
    let error = Pki::ensure(dir.path(), &request(now())).err().expect("refused").to_string();
    assert!(error.contains("client-ca.key"), "{error}");
}

#[test]
fn certificates_say_who_the_client_is() {
    let dir = tempfile::tempdir().expect("dir");
    let pki = Pki::ensure(dir.path(), &request(now())).expect("pki");
    let der = &certificate_ders(&pki.admin.cert_pem).expect("ders")[0];
    assert_eq!(subject_of_certificate(der).expect("subject"), ("admin".into(), vec!["system:masters".into()]));
    let node = pki.issue_node("n1", &[], &[], now()).expect("node");
    let der = &certificate_ders(&node.client.cert_pem).expect("ders")[0];
    assert_eq!(subject_of_certificate(der).expect("subject"), ("system:node:n1".into(), vec!["system:nodes".into()]));
}

#[test]
fn tokens() {
    let ca = Authority::generate("ca", now()).expect("ca");
    let other = Authority::generate("ca", now()).expect("ca");
    let token = Token::server(ca.cert_pem(), "s3cret").expect("token");
    let text = token.to_string();
    assert!(text.starts_with("K10") && text.ends_with("::server:s3cret") && text.len() == 3 + 64 + 2 + 13);
    assert_eq!(Token::parse(&text).expect("parses"), token);
    assert!(token.fits_ca(ca.cert_pem()).expect("fits"));
    assert!(!token.fits_ca(other.cert_pem()).expect("does not fit"));
    let foreign = Token::server(other.cert_pem(), "s3cret").expect("token").to_string();
    for (presented, good) in [
        (text.as_str(), true),
        ("s3cret", true),
        ("s3cre", false),
        ("", false),
        (text.replace("server:", "node:").as_str(), false),
        (foreign.as_str(), false),
    ] {
        assert_eq!(token.verify(presented), good, "{presented}");
    }
    for bad in ["", "K10abc::server:x", "a b", "K10::server:x", &text.replace("::server", ":server")] {
        assert!(Token::parse(bad).is_err(), "{bad}");
    }
    assert!(!format!("{token:?}").contains("s3cret"));
}

#[test]
fn the_join_token_is_kept() {
    let dir = tempfile::tempdir().expect("dir");
    let pki = Pki::ensure(dir.path(), &request(now())).expect("pki");
    let path = dir.path().join("token");
    let made = pki.ensure_token(&path, None).expect("makes");
    assert_eq!(pki.ensure_token(&path, None).expect("keeps"), made);
    assert_eq!(pki.ensure_token(&path, Some("mine")).expect("takes").secret, "mine");
    assert_eq!(pki.ensure_token(&path, None).expect("keeps").secret, "mine");
}

#[test]
fn jwt_accepts_only_its_own() {
    let (key, other) = (SigningKey::generate().expect("key"), SigningKey::generate().expect("key"));
    let claims = json!({"sub": "system:serviceaccount:a:b"});
    let token = key.sign(&claims).expect("signs");
    assert_eq!(key.verify(&token), Ok(claims.clone()));
    assert_eq!(SigningKey::from_pem(key.pem()).expect("the same key").verify(&token), Ok(claims));
    assert_eq!(other.verify(&token), Err(JwtError::UnknownKey));
    let parts: Vec<&str> = token.split('.').collect();
    use base64::Engine as _;
    let b64 = |v: serde_json::Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(v.to_string());
    let forged = b64(json!({"sub": "system:admin"}));
    for (bad, why) in [
        (format!("{}.{forged}.{}", parts[0], parts[2]), JwtError::BadSignature),
        (format!("{}.{}.", parts[0], parts[1]), JwtError::BadSignature),
        (format!("{}.{}.{}", b64(json!({"alg": "none"})), parts[1], parts[2]), JwtError::UnknownKey),
        (
            format!("{}.{}.{}", b64(json!({"alg": "HS256", "kid": key.key_id()})), parts[1], parts[2]),
            JwtError::UnknownKey,
        ),
        (format!("{}.{}", parts[0], parts[1]), JwtError::Malformed),
        ("static-token".to_owned(), JwtError::Malformed),
        (String::new(), JwtError::Malformed),
        (format!("{token}="), JwtError::Malformed),
    ] {
        assert_eq!(key.verify(&bad), Err(why), "{bad}");
    }
    // Same key, other claims: the signature of one token does not fit another.
    let second = key.sign(&json!({"sub": "x"})).expect("signs");
    let mixed = format!("{}.{}", second.rsplit_once('.').expect("parts").0, parts[2]);
    assert_eq!(key.verify(&mixed), Err(JwtError::BadSignature));
}

#[test]
fn kubeconfig_has_the_mode_asked_for() {
    let dir = tempfile::tempdir().expect("dir");
    let pki = Pki::ensure(dir.path(), &request(now())).expect("pki");
    let path = dir.path().join("etc/kedge.yaml");
    let config = pki.admin_kubeconfig("https://127.0.0.1:6443");
    config.write(&path, 0o600).expect("writes");
    config.write(&path, 0o644).expect("widens");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o644);
    let text = std::fs::read_to_string(&path).expect("reads");
    assert!(text.contains("server: \"https://127.0.0.1:6443\"") && text.contains("client-key-data: LS0"));
}
