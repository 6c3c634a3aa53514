//! Users that a trusted proxy has authenticated: it shows its own certificate and names them in headers.
//!
//! Invariants:
//! - RH-1: the headers count only behind a certificate of the request-header authority, with an allowed name; from
//!   anybody else they are nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use component_base::Clock;
use http::HeaderMap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::attributes::{User, unescape};
use crate::outbound::Remembered;
use crate::tls;

#[derive(Debug, Clone)]
pub struct RequestHeaderConfig {
    /// PEM of the authority of the proxies' certificates.
    pub ca_pem: String,
    /// Common names of proxies; none: every certificate of the authority is a proxy's.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl RequestHeaderConfig {
    /// As the aggregation layer's proxies send it.
    pub fn new(ca_pem: String, allowed_names: Vec<String>) -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Self {
            ca_pem,
            allowed_names,
            username_headers: names(&["X-Remote-User"]),
            uid_headers: names(&["X-Remote-Uid"]),
            group_headers: names(&["X-Remote-Group"]),
            extra_prefixes: names(&["X-Remote-Extra-"]),
        }
    }

    /// What `kube-system/extension-apiserver-authentication` says of it.
    pub fn published(&self) -> Vec<(&'static str, String)> {
        let list = |names: &[String]| json!(names).to_string();
        vec![
            ("requestheader-allowed-names", list(&self.allowed_names)),
            ("requestheader-client-ca-file", self.ca_pem.clone()),
            ("requestheader-extra-headers-prefix", list(&self.extra_prefixes)),
            ("requestheader-group-headers", list(&self.group_headers)),
            ("requestheader-uid-headers", list(&self.uid_headers)),
            ("requestheader-username-headers", list(&self.username_headers)),
        ]
    }
}

/// Tells proxies' certificates from clients'.
pub struct RequestHeaders {
    config: RequestHeaderConfig,
    proxies: Arc<dyn ClientCertVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
    /// Certificates looked at lately: looking costs more than the rest of a request.
    known: Remembered<Shown>,
}

/// What a certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// A proxy's: the headers count.
    pub proxy: bool,
    /// A client's, of the client authority.
    pub client: bool,
}

/// So many certificates are remembered, for so long.
const MOST_KNOWN: usize = 1024;
const KNOWN_FOR: Duration = Duration::from_secs(60);

impl RequestHeaders {
    /// # Errors
    /// When an authority cannot be read.
    pub fn new(config: RequestHeaderConfig, client_ca_pem: &str) -> crate::Result<Self> {
        let proxies = tls::client_verifier(&config.ca_pem)?;
        Ok(Self { config, proxies, clients: tls::client_verifier(client_ca_pem)?, known: Remembered::new(MOST_KNOWN) })
    }

    /// What the certificate at the head of `chain` is.
    pub fn look(&self, chain: &[Vec<u8>], clock: &dyn Clock) -> Shown {
        let mut hash = Sha256::new();
        for der in chain {
            hash.update(der);
        }
        let (key, instant): ([u8; 32], _) = (hash.finalize().into(), clock.instant());
        if let Some(known) = self.known.get(&key, instant) {
            return known;
        }
        let now = clock.now();
        let allowed = || {
            let subject = chain.first().and_then(|leaf| pki::subject_of_certificate(leaf).ok());
            let names = &self.config.allowed_names;
            subject.is_some_and(|(name, _)| names.is_empty() || names.contains(&name))
        };
        let shown = Shown {
            proxy: verifies(self.proxies.as_ref(), chain, now) && allowed(),
            client: verifies(self.clients.as_ref(), chain, now),
        };
        self.known.put(key, instant + KNOWN_FOR, instant, shown);
        shown
    }

    /// The user that a proxy names, if it names one.
    pub fn named(&self, headers: &HeaderMap) -> Option<User> {
        let all = |names: &[String]| -> Vec<String> {
            let found = names.iter().flat_map(|name| headers.get_all(name.as_str()));
            found.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).collect()
        };
        let first = |names: &[String]| all(names).into_iter().find(|value| !value.is_empty());
        let name = first(&self.config.username_headers)?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.config.extra_prefixes {
            let prefix = prefix.to_ascii_lowercase();
            for (header, value) in headers {
                let Some(key) = header.as_str().strip_prefix(&prefix) else { continue };
                let key = unescape(key, false).unwrap_or_else(|| key.to_owned());
                extra.entry(key).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
            }
        }
        let uid = first(&self.config.uid_headers).unwrap_or_default();
        Some(User { name, uid, groups: all(&self.config.group_headers), extra })
    }

    /// Takes the headers off: they are for this server alone.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let config = &self.config;
        for name in config.username_headers.iter().chain(&config.uid_headers).chain(&config.group_headers) {
            headers.remove(name.as_str());
        }
        let prefixes: Vec<String> = config.extra_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase()).collect();
        let extra: Vec<_> =
            headers.keys().filter(|name| prefixes.iter().any(|p| name.as_str().starts_with(p))).cloned().collect();
        for name in extra {
            headers.remove(name);
        }
    }
}

fn verifies(verifier: &dyn ClientCertVerifier, chain: &[Vec<u8>], now: jiff::Timestamp) -> bool {
    let Some((leaf, rest)) = chain.split_first() else { return false };
    let leaf = CertificateDer::from(leaf.as_slice());
    let rest: Vec<CertificateDer<'_>> = rest.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    verifier.verify_client_cert(&leaf, &rest, now).is_ok()
}

/// The data of `kube-system/extension-apiserver-authentication`.
pub fn published(client_ca_pem: &str, config: Option<&RequestHeaderConfig>) -> Value {
    let mut data = json!({"client-ca-file": client_ca_pem});
    for (key, value) in config.into_iter().flat_map(RequestHeaderConfig::published) {
        data[key] = value.into();
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_proxies_name_users() {
        let clock = component_base::RealClock::shared();
        let now = clock.now();
        let proxies = pki::Authority::generate("proxies", now).expect("an authority");
        let clients = pki::Authority::generate("clients", now).expect("an authority");
        let chain = |authority: &pki::Authority, name: &str| {
            let identity = authority.issue(&pki::Subject::client(name, None), now).expect("a certificate");
            let ders = pki::certificate_ders(&identity.cert_pem).expect("DER");
            ders.into_iter().map(|der| der.as_ref().to_vec()).collect::<Vec<_>>()
        };
        let config = RequestHeaderConfig::new(proxies.cert_pem().to_owned(), vec!["front".to_owned()]);
        let known = RequestHeaders::new(config, clients.cert_pem()).expect("configures");
        let shown = headers(&[
            ("x-remote-user", "alice"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.com%2fproject", "p"),
            ("accept", "*/*"),
        ]);
        let look = |chain: Vec<Vec<u8>>| known.look(&chain, clock.as_ref());
        assert_eq!(look(chain(&proxies, "front")), Shown { proxy: true, client: false });
        assert_eq!(look(chain(&proxies, "other")), Shown { proxy: false, client: false });
        assert_eq!(look(chain(&clients, "front")), Shown { proxy: false, client: true });
        let user = known.named(&shown).expect("names one");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("alice", "7"));
        assert_eq!(user.groups, ["a", "b"]);
        assert_eq!(user.extra["acme.com/project"], ["p"]);
        assert_eq!(known.named(&headers(&[])), None);
        let mut left = shown;
        known.strip(&mut left);
        assert_eq!(left.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["accept"]);
    }
}
