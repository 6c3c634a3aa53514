//! Calls of the server to services that its configuration names: webhooks that authenticate and authorize, OIDC issuers.
//!
//! Invariants:
//! - OU-1: what a service answers is read up to [`MOST_BYTES`] and waited for no longer than the caller says.
//! - OU-2: TLS is always verified, unless the configuration says in so many words that it is not to be used.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Method, Uri};
use apimachinery::decode::{self, Encoding};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use component_base::TaskGroup;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::connect::Target;
use crate::wire::{body, negotiate};
use crate::{BoxError, tls};

const MOST_BYTES: usize = 3 << 20;
/// Where distributions keep the authorities that the machine trusts.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A service somewhere.
#[derive(Clone)]
pub struct Remote {
    target: Target,
    /// "" or `/path`.
    path: String,
    authorization: Option<HeaderValue>,
    tasks: TaskGroup,
}

/// What a service answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub content: Bytes,
}

impl Answer {
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.content).map_err(|error| error.to_string())
    }
}

impl Remote {
    /// A service at `url`; `ca_pem` signs what it presents, `identity` (certificate, key) is what it is shown.
    ///
    /// # Errors
    /// What is wrong with the URL, the authority or the identity.
    pub fn new(
        url: &str,
        ca_pem: Option<&str>,
        identity: Option<(&str, &str)>,
        tasks: &TaskGroup,
    ) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?.to_owned();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{url:?}: want https://…")),
        };
        let tls = if secure {
            let roots = match ca_pem {
                Some(pem) => pem.to_owned(),
                None => system_roots()?,
            };
            Some(tls::client_config(&roots, identity).map_err(|error| error.to_string())?)
        } else {
            None
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("", |path| path.as_str()).trim_end_matches('/').to_owned();
        Ok(Self { target: Target { host, port, tls }, path, authorization: None, tasks: tasks.clone() })
    }

    /// The service of a kubeconfig's current context; `read` gives the content of the files it names.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn from_kubeconfig(
        text: &str,
        read: &dyn Fn(&str) -> Result<String, String>,
        tasks: &TaskGroup,
    ) -> Result<Self, String> {
        let document = decode::parse(text.as_bytes(), Encoding::Yaml).map_err(|error| error.to_string())?;
        let config = document.node.into_value();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let named = |list: &str, item: &str, name: &str| -> Result<Value, String> {
            let items = config[list].as_array().map_or(&[][..], Vec::as_slice);
            let found = items.iter().find(|entry| entry["name"] == name).map(|entry| entry[item].clone());
            found.ok_or_else(|| format!("{list}: there is no {name:?}"))
        };
        let context = named("contexts", "context", &text(&config, "current-context"))?;
        let cluster = named("clusters", "cluster", &text(&context, "cluster"))?;
        let user = match text(&context, "user").as_str() {
            "" => Value::Null,
            name => named("users", "user", name)?,
        };
        // Each may be given in place (base64) or as a file.
        let material = |holder: &Value, key: &str| -> Result<Option<String>, String> {
            if let Some(data) = holder[format!("{key}-data")].as_str() {
                let bytes = STANDARD.decode(data.trim()).map_err(|error| format!("{key}-data: {error}"))?;
                return String::from_utf8(bytes).map(Some).map_err(|error| format!("{key}-data: {error}"));
            }
            holder[key].as_str().map(read).transpose()
        };
        if cluster["insecure-skip-tls-verify"] == true {
            return Err("insecure-skip-tls-verify is not supported: name a certificate-authority".to_owned());
        }
        let authority = material(&cluster, "certificate-authority")?;
        let (certificate, key) = (material(&user, "client-certificate")?, material(&user, "client-key")?);
        let identity = certificate.as_deref().zip(key.as_deref());
        let mut remote = Self::new(&text(&cluster, "server"), authority.as_deref(), identity, tasks)?;
        let token = match (text(&user, "token"), user["tokenFile"].as_str()) {
            (token, _) if !token.is_empty() => Some(token),
            (_, Some(path)) => Some(read(path)?.trim().to_owned()),
            _ => None,
        };
        let header = match (token, text(&user, "username")) {
            (Some(token), _) => Some(format!("Bearer {token}")),
            (None, name) if !name.is_empty() => {
                Some(format!("Basic {}", STANDARD.encode(format!("{name}:{}", text(&user, "password")))))
            }
            _ => None,
        };
        if let Some(header) = header {
            let mut value = HeaderValue::from_str(&header).map_err(|_| "the user's token is no header".to_owned())?;
            value.set_sensitive(true);
            remote.authorization = Some(value);
        }
        Ok(remote)
    }

    /// Posts a JSON document to the service's own path.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn post(&self, document: &Value, timeout: Duration) -> io::Result<Answer> {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        self.send(Method::POST, path, Some(document), timeout).await
    }

    /// Gets a document below the service's own path.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn get(&self, path: &str, timeout: Duration) -> io::Result<Answer> {
        self.send(Method::GET, &format!("{}{path}", self.path), None, timeout).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        document: Option<&Value>,
        timeout: Duration,
    ) -> io::Result<Answer> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let content = match document {
            Some(document) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(negotiate::JSON));
                body::full(document.to_string())
            }
            None => body::full(""),
        };
        let exchange = async {
            let response = self.target.send(&self.tasks, method, path, headers, content).await?;
            let code = response.status().as_u16();
            let content = response.into_body().map_err(|error| Box::new(error) as BoxError).boxed_unsync();
            let content = body::read(content, MOST_BYTES).await.map_err(|status| io::Error::other(status.message))?;
            Ok(Answer { code, content })
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
        tokio::time::timeout(timeout, exchange).await.map_err(|_| late())?
    }
}

pub(crate) fn system_roots() -> Result<String, String> {
    let found = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read_to_string(path).ok());
    found.ok_or_else(|| "this machine has no list of trusted authorities: name a certificate authority".to_owned())
}

/// Answers kept for a while, so that a service is not asked the same again and again. Time is the caller's.
pub struct Remembered<V> {
    entries: parking_lot::Mutex<std::collections::HashMap<[u8; 32], (std::time::Instant, V)>>,
    most: usize,
}

impl<V: Clone> Remembered<V> {
    pub fn new(most: usize) -> Self {
        Self { entries: parking_lot::Mutex::default(), most }
    }

    pub fn get(&self, key: &[u8; 32], now: std::time::Instant) -> Option<V> {
        let entries = self.entries.lock();
        entries.get(key).filter(|(until, _)| *until > now).map(|(_, value)| value.clone())
    }

    pub fn put(&self, key: [u8; 32], until: std::time::Instant, now: std::time::Instant, value: V) {
        let mut entries = self.entries.lock();
        if entries.len() >= self.most {
            entries.retain(|_, (until, _)| *until > now);
        }
        // All still good: the one that ends first makes room.
        if entries.len() >= self.most {
            let first = entries.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| *key);
            first.map(|key| entries.remove(&key));
        }
        entries.insert(key, (until, value));
    }
}

/// A service that the server asks, shared.
pub type SharedRemote = Arc<Remote>;

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::Clock as _;

    #[test]
    fn kubeconfigs_name_a_service() {
        let tasks = TaskGroup::new();
        let file = r#"
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "http://10.0.0.1:8080/review/"}}]
users: [{name: u, user: {tokenFile: t}}]
"#;
        let read = |path: &str| Ok(format!("{path}-content\n"));
        let remote = Remote::from_kubeconfig(file, &read, &tasks).expect("reads");
        assert_eq!(
            (remote.target.host.as_str(), remote.target.port, remote.path.as_str()),
            ("10.0.0.1", 8080, "/review")
        );
        assert_eq!(remote.authorization.expect("a token"), "Bearer t-content");
        let wrong = file.replace("server:", "insecure-skip-tls-verify: true, server:");
        assert!(Remote::from_kubeconfig(&wrong, &read, &tasks).is_err());
        let wrong = file.replace("current-context: c", "current-context: d");
        assert_eq!(Remote::from_kubeconfig(&wrong, &read, &tasks).err().expect("fails"), "contexts: there is no \"d\"");
    }

    #[test]
    fn remembers_so_much_for_so_long() {
        let now = component_base::RealClock.instant();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let kept = Remembered::new(2);
        kept.put([1; 32], now + second, now, "a");
        kept.put([2; 32], now + minute, now, "b");
        assert_eq!(kept.get(&[1; 32], now), Some("a"));
        assert_eq!(kept.get(&[1; 32], now + second), None);
        kept.put([3; 32], now + minute, now, "c");
        assert_eq!((kept.get(&[1; 32], now), kept.get(&[2; 32], now)), (None, Some("b")));
    }
}
