//! Who asks and what for: the user and the parsed request (upstream's RequestInfoFactory).
//!
//! Invariants:
//! - AT-1: parsing never fails: what is no resource request is a non-resource request.

use std::collections::BTreeMap;

use http::Method;

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of these groups and of `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }
}

/// A request's place in the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    /// `get list watch create update patch delete deletecollection`; the lower-case method for non-resource requests.
    pub verb: String,
    /// `api` or `apis`.
    pub prefix: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Path segments from the resource on.
    pub parts: Vec<String>,
    /// Decoded query parameters, in order.
    pub query: Query,
}

/// Decoded query parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    pub fn parse(raw: &str) -> Self {
        Self(
            raw.split('&')
                .filter(|pair| !pair.is_empty() && !pair.contains(';'))
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((unescape(key, true)?, unescape(value, true)?))
                })
                .collect(),
        )
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect()
    }
}

/// Percent-decoding; `plus` makes `+` a space. `None` for a malformed escape or bytes that are not UTF-8.
pub fn unescape(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = text.get(at + 1..at + 3)?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                at += 3;
                continue;
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

/// Subresources of namespaces that are not resources inside the namespace.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];
const SPECIAL_VERBS: &[&str] = &["proxy", "watch"];

impl RequestInfo {
    pub fn parse(method: &Method, uri: &http::Uri) -> Self {
        let mut info = Self {
            path: unescape(uri.path(), false).unwrap_or_else(|| uri.path().to_owned()),
            verb: method.as_str().to_ascii_lowercase(),
            query: Query::parse(uri.query().unwrap_or("")),
            ..Self::default()
        };
        let path = info.path.trim_matches('/').to_owned();
        let mut parts: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
        if parts.len() < 3 || !matches!(parts[0], "api" | "apis") {
            return info;
        }
        info.prefix = parts.remove(0).to_owned();
        if info.prefix == "apis" {
            if parts.len() < 3 {
                info.prefix.clear();
                return info;
            }
            info.group = parts.remove(0).to_owned();
        }
        info.is_resource = true;
        info.version = parts.remove(0).to_owned();
        let mut special = false;
        if SPECIAL_VERBS.contains(&parts[0]) {
            if parts.len() < 2 {
                info.is_resource = false;
                return info;
            }
            info.verb = parts.remove(0).to_owned();
            special = true;
        } else {
            info.verb = match *method {
                Method::POST => "create",
                Method::GET | Method::HEAD => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            }
            .to_owned();
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].to_owned();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts.drain(..2);
            }
        }
        info.parts = parts.iter().map(|p| (*p).to_owned()).collect();
        if parts.len() >= 3 && !special {
            info.subresource = parts[2].to_owned();
        }
        if parts.len() >= 2 {
            info.name = parts[1].to_owned();
        }
        info.resource = parts[0].to_owned();
        if info.name.is_empty() && info.verb == "get" {
            info.verb = if info.wants_watch() { "watch" } else { "list" }.to_owned();
        }
        if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".to_owned();
        }
        // Upstream gives a list or watch that names one object by field selector that object's name, so that
        // authorization by name works.
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") && info.name.is_empty() {
            if let Some(name) = info.query.get("fieldSelector").and_then(single_name) {
                info.name = name;
            }
        }
        info
    }

    /// `watch=` anything but `false` or `0` means watch.
    pub fn wants_watch(&self) -> bool {
        self.query.get("watch").is_some_and(|v| !matches!(v, "false" | "0" | "False" | "FALSE" | "f" | "F"))
    }

    /// The name in the path (a list by field selector has a [`Self::name`] but no path name).
    pub fn path_name(&self) -> Option<&str> {
        self.parts.get(1).map(String::as_str)
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// `metadata.name=x` → `x`, when that is a legal path segment.
fn single_name(selector: &str) -> Option<String> {
    let name = selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value))
    })?;
    let legal = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']);
    legal.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::parse(&method, &uri.parse().expect("uri"))
    }

    #[test]
    fn resource_paths() {
        let table = [
            (Method::GET, "/api/v1/pods", "list||||pods||"),
            (Method::GET, "/api/v1/pods?watch=1", "watch||||pods||"),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "get||||pods|log|b"),
            (Method::DELETE, "/apis/apps/v1/namespaces/a/deployments", "deletecollection|apps|||deployments||"),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update||||namespaces|finalize|a"),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/b", "watch||||pods||b"),
            (
                Method::POST,
                "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                "create|rbac.authorization.k8s.io|||clusterroles||",
            ),
        ];
        for (method, uri, want) in table {
            let info = parse(method, uri);
            assert!(info.is_resource, "{uri}");
            let got = format!("{}|{}|||{}|{}|{}", info.verb, info.group, info.resource, info.subresource, info.name);
            assert_eq!(got, want, "{uri}");
        }
    }

    #[test]
    fn other_paths() {
        for uri in ["/", "/api", "/api/v1", "/apis/apps/v1", "/healthz", "/version", "/api/v1/watch"] {
            assert!(!parse(Method::GET, uri).is_resource, "{uri}");
        }
        assert_eq!(parse(Method::GET, "/healthz").verb, "get");
    }
}
