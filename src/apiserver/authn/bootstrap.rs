//! Bootstrap tokens: `id.secret`, kept as Secrets of kube-system, with which machines join.
//!
//! Invariants:
//! - BT-1: a token is good only while its Secret says so: its type and name fit, it has not expired, and it is meant
//!   for authentication.
//! - BT-2: secrets are compared in constant time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::attributes::User;
use crate::cache::ObjectReader;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const ID: usize = 6;
const SECRET: usize = 16;

/// Whose token it is; none: no good bootstrap token.
pub async fn authenticate(token: &str, now: Timestamp, reader: &dyn ObjectReader) -> Option<User> {
    let (id, secret) = parse(token)?;
    let name = format!("bootstrap-token-{id}");
    let object = match reader.peek("secrets", NAMESPACE, &name) {
        Some(found) => found,
        None => reader.get("secrets", NAMESPACE, &name).await?,
    };
    let value = object.value();
    if object.meta.deletion_timestamp.is_some() || value["type"] != TYPE {
        return None;
    }
    let data = |key: &str| decoded(&value, key);
    if !pki::constant_time_eq(data("token-secret")?.as_bytes(), secret.as_bytes()) || data("token-id")? != id {
        return None;
    }
    if let Some(expiration) = data("expiration").filter(|text| !text.is_empty()) {
        // What cannot be read has expired.
        if expiration.parse::<Timestamp>().map_or(true, |expiration| expiration <= now) {
            return None;
        }
    }
    if data("usage-bootstrap-authentication")? != "true" {
        return None;
    }
    let groups = groups(&data("auth-extra-groups").unwrap_or_default())?;
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    (id.len() == ID && secret.len() == SECRET && plain(id) && plain(secret)).then_some((id, secret))
}

fn decoded(secret: &Value, key: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(secret["data"][key].as_str()?).ok()?).ok()
}

/// The token's groups; none when one of them is not a bootstrapper's.
fn groups(extra: &str) -> Option<Vec<String>> {
    let mut groups = vec![GROUP.to_owned()];
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        let rest = group.strip_prefix(GROUP)?.strip_prefix(':')?;
        let legal = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
        let whole = rest.bytes().all(|b| legal(b) || b == b':' || b == b'-') && rest.len() <= 256;
        if !whole || !rest.bytes().next_back().is_some_and(legal) {
            return None;
        }
        if !groups.iter().any(|known| known == group) {
            groups.push(group.to_owned());
        }
    }
    groups.sort();
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::tests::FakeReader;
    use serde_json::json;

    fn secret(change: impl Fn(&mut Value)) -> Value {
        let text = |text: &str| STANDARD.encode(text);
        let mut secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": TYPE,
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": NAMESPACE},
            "data": {
                "token-id": text("abcdef"),
                "token-secret": text("0123456789abcdef"),
                "expiration": text("2026-01-02T00:00:00Z"),
                "usage-bootstrap-authentication": text("true"),
                "auth-extra-groups": text("system:bootstrappers:kubeadm:default-node-token"),
            },
        });
        change(&mut secret);
        secret
    }

    async fn ask(token: &str, change: impl Fn(&mut Value)) -> Option<User> {
        let reader = FakeReader::with(&[("secrets", secret(change))]);
        authenticate(token, "2026-01-01T00:00:00Z".parse().expect("a time"), reader.as_ref()).await
    }

    #[tokio::test]
    async fn good_tokens_are_bootstrappers() {
        let user = ask("abcdef.0123456789abcdef", |_| {}).await.expect("is good");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"]);
    }

    #[tokio::test]
    async fn others_are_nobody() {
        for token in ["abcdef.0123456789abcdeg", "abcdeg.0123456789abcdef", "abcdef", "ABCDEF.0123456789abcdef", ""] {
            assert_eq!(ask(token, |_| {}).await, None, "{token}");
        }
        let changes: [fn(&mut Value); 6] = [
            |s| s["type"] = json!("Opaque"),
            |s| s["data"]["expiration"] = json!(STANDARD.encode("2025-12-31T00:00:00Z")),
            |s| s["data"]["expiration"] = json!(STANDARD.encode("soon")),
            |s| s["data"]["usage-bootstrap-authentication"] = json!(STANDARD.encode("false")),
            |s| s["data"]["auth-extra-groups"] = json!(STANDARD.encode("system:masters")),
            |s| s["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        ];
        for change in changes {
            assert_eq!(ask("abcdef.0123456789abcdef", change).await, None);
        }
    }
}
