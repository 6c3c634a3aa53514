//! Registry credentials from `imagePullSecrets`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use super::reference::registry_and_path;
use crate::cri::v1::AuthConfig;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// What `secrets` hold for the registry of `image`, the most specific first.
pub fn credentials(secrets: &[Arc<Secret>], image: &str) -> Vec<AuthConfig> {
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for secret in secrets {
        for (server, entry) in entries(secret) {
            if let Some(length) = matches(&server, image) {
                found.push((length, to_auth(&server, entry)));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = secret.data.as_ref();
    let part = |key: &str| data.and_then(|d| d.get(key)).map(|bytes| bytes.0.as_slice());
    match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => part(".dockerconfigjson")
            .and_then(|json| serde_json::from_slice::<ConfigJson>(json).ok())
            .map(|config| config.auths)
            .unwrap_or_default(),
        Some("kubernetes.io/dockercfg") => {
            part(".dockercfg").and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
        }
        _ => BTreeMap::new(),
    }
}

fn to_auth(server: &str, entry: Entry) -> AuthConfig {
    let (mut username, mut password) = (entry.username, entry.password);
    if username.is_empty() {
        let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((name, secret)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
            (username, password) = (name.to_owned(), secret.trim_end_matches('\0').to_owned());
        }
    }
    AuthConfig {
        username,
        password,
        identity_token: entry.identitytoken,
        server_address: server.to_owned(),
        ..Default::default()
    }
}

/// How much of the image's name the entry covers, when it covers it at all.
fn matches(server: &str, image: &str) -> Option<usize> {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let server = server.strip_suffix("/v1").or_else(|| server.strip_suffix("/v2")).unwrap_or(server);
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let (registry, repository) = registry_and_path(image);
    let host_matches = match host {
        "index.docker.io" | "docker.io" | "registry-1.docker.io" => registry == "docker.io",
        pattern if pattern.contains('*') => glob(pattern, &registry),
        other => other == registry,
    };
    let path_matches = path.is_empty() || repository == path || repository.starts_with(&format!("{path}/"));
    (host_matches && path_matches).then_some(server.len())
}

/// `*` stands for one label of the host, or a part of it.
fn glob(pattern: &str, host: &str) -> bool {
    let (patterns, labels): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    patterns.len() == labels.len()
        && patterns.iter().zip(labels).all(|(pattern, label)| match pattern.split_once('*') {
            Some((start, end)) => {
                label.len() >= start.len() + end.len() && label.starts_with(start) && label.ends_with(end)
            }
            None => *pattern == label,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn picks_by_registry_and_path() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("me:pw")},
            "ghcr.io": {"username": "g", "password": "1"},
            "ghcr.io/org": {"username": "o", "password": "2"},
            "*.example.com": {"username": "e", "password": "3"}}});
        let secret: Secret = serde_json::from_value(json!({
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": STANDARD.encode(config.to_string())}}))
        .expect("a secret");
        let secrets = [Arc::new(secret)];
        let users = |image: &str| -> Vec<String> {
            credentials(&secrets, image)
                .into_iter()
                .map(|auth| format!("{}:{}", auth.username, auth.password))
                .collect()
        };
        assert_eq!(users("busybox"), ["me:pw"]);
        assert_eq!(users("ghcr.io/org/x:1"), ["o:2", "g:1"]);
        assert_eq!(users("ghcr.io/organic/x:1"), ["g:1"]);
        assert_eq!(users("reg.example.com/a"), ["e:3"]);
        assert!(users("quay.io/a").is_empty());
    }
}
