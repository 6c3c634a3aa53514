//! Certificates, keys, tokens and kubeconfigs of one cluster, kept in one directory.
//!
//! `cmd/kedge` calls [`Pki::ensure`] at every start with the names the server must answer to; what is there and still
//! good is reused, what is missing, wrong or about to expire is made anew. An agent gets its credentials from a server
//! through [`Pki::issue_node`] after it has shown the join [`Token`].
//!
//! ```text
//! <dir>/server-ca.{crt,key}              signs what servers present: the API server, kubelets
//! <dir>/client-ca.{crt,key}              signs what clients present: everybody below
//! <dir>/request-header-ca.{crt,key}      signs what proxies present that name users in headers
//! <dir>/serving-kube-apiserver.{crt,key}
//! <dir>/client-admin.{crt,key}           CN=admin,                          O=system:masters
//! <dir>/client-kube-apiserver.{crt,key}  CN=kube-apiserver-kubelet-client,  O=system:masters (API server → kubelet)
//! <dir>/client-controller.{crt,key}      CN=system:kube-controller-manager
//! <dir>/client-scheduler.{crt,key}       CN=system:kube-scheduler
//! <dir>/client-kube-proxy.{crt,key}      CN=system:kube-proxy
//! <dir>/client-auth-proxy.{crt,key}      CN=system:auth-proxy, by the request-header CA (API server → extension servers)
//! <dir>/service.key                      signs service-account tokens (ES256)
//! ```
//!
//! Invariants:
//! - PK-1: a certificate authority or the service-account key is never replaced once it exists; what does not parse or
//!   does not fit is an error that names the file.
//! - PK-2: every file appears whole or not at all (temporary file, fsync, rename), with its final mode; private keys are 0600.
//! - PK-3: no clock: time is an argument.
//! - PK-4: secrets are compared in constant time.

mod authority;
mod error;
mod files;
mod jwt;
mod kubeconfig;
mod request;
mod token;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use authority::{Authority, Identity, Subject, Usage, certificate_ders, subject_of_certificate};
pub use error::{Error, Result};
pub use files::write_atomic;
pub use jwt::{JwtError, SigningKey};
pub use kubeconfig::{Kubeconfig, KubeconfigUser};
pub use request::Terms;
pub use token::{Token, constant_time_eq};

/// What the certificates must say.
#[derive(Debug, Clone)]
pub struct PkiRequest {
    /// DNS names of the API server beyond the standard ones (`kubernetes`, `kubernetes.default.svc`, `localhost`, …).
    pub sans: Vec<String>,
    /// Addresses of the API server beyond 127.0.0.1 and ::1: the node's addresses and the first service address.
    pub ips: Vec<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    pub now: Timestamp,
}

/// The cluster's keys and certificates. Cloning is cheap enough to do at start-up only.
#[derive(Clone)]
pub struct Pki {
    dir: PathBuf,
    pub server_ca: Authority,
    pub client_ca: Authority,
    /// Of the proxies that name users in headers.
    pub request_header_ca: Authority,
    /// What the API server presents.
    pub server: Identity,
    pub admin: Identity,
    /// What the API server presents to kubelets.
    pub kubelet_client: Identity,
    pub controller_manager: Identity,
    pub scheduler: Identity,
    pub kube_proxy: Identity,
    /// What the API server presents to the servers that extend it.
    pub auth_proxy: Identity,
    pub service_account_key: SigningKey,
}

/// What a node needs: who it is to the API server, and what its kubelet presents on port 10250.
#[derive(Clone)]
pub struct NodeCredentials {
    /// CN=`system:node:<name>`, O=`system:nodes`, by the client CA.
    pub client: Identity,
    /// CN=`<name>` with the node's name and addresses, by the server CA.
    pub serving: Identity,
    /// CN=`system:kube-proxy`, by the client CA.
    pub kube_proxy: Identity,
    pub server_ca_pem: String,
    pub client_ca_pem: String,
}

impl Pki {
    /// Makes or reuses everything in `dir` (created 0700). Idempotent: with nothing to renew it writes nothing.
    pub fn ensure(dir: &Path, request: &PkiRequest) -> Result<Self> {
        files::ensure_dir(dir)?;
        let now = request.now;
        let server_ca = Authority::ensure(dir, "server-ca", "kedge-server-ca", now)?;
        let client_ca = Authority::ensure(dir, "client-ca", "kedge-client-ca", now)?;
        let request_header_ca = Authority::ensure(dir, "request-header-ca", "kedge-request-header-ca", now)?;
        let auth_proxy = Subject::client("system:auth-proxy", None);
        let auth_proxy = request_header_ca.ensure_leaf(dir, "client-auth-proxy", &auth_proxy, now)?;
        let server = server_ca.ensure_leaf(dir, "serving-kube-apiserver", &server_subject(request), now)?;
        let client = |file: &str, name: &str, group: Option<&str>| {
            client_ca.ensure_leaf(dir, file, &Subject::client(name, group), now)
        };
        Ok(Self {
            server,
            admin: client("client-admin", "admin", Some("system:masters"))?,
            kubelet_client: client("client-kube-apiserver", "kube-apiserver-kubelet-client", Some("system:masters"))?,
            controller_manager: client("client-controller", "system:kube-controller-manager", None)?,
            scheduler: client("client-scheduler", "system:kube-scheduler", None)?,
            kube_proxy: client("client-kube-proxy", "system:kube-proxy", None)?,
            service_account_key: SigningKey::ensure(&dir.join("service.key"))?,
            auth_proxy,
            server_ca,
            client_ca,
            request_header_ca,
            dir: dir.to_owned(),
        })
    }

    /// Makes or reuses the credentials of the node that runs in this very process, in `<dir>/node-<name>-*`.
    pub fn ensure_node(&self, name: &str, sans: &[String], ips: &[IpAddr], now: Timestamp) -> Result<NodeCredentials> {
        let (client, serving) = (node_client(name), node_serving(name, sans, ips));
        Ok(NodeCredentials {
            client: self.client_ca.ensure_leaf(&self.dir, "client-kubelet", &client, now)?,
            serving: self.server_ca.ensure_leaf(&self.dir, "serving-kubelet", &serving, now)?,
            kube_proxy: self.kube_proxy.clone(),
            server_ca_pem: self.server_ca.cert_pem().to_owned(),
            client_ca_pem: self.client_ca.cert_pem().to_owned(),
        })
    }

    /// Issues credentials for a node elsewhere. Nothing is kept here.
    pub fn issue_node(&self, name: &str, sans: &[String], ips: &[IpAddr], now: Timestamp) -> Result<NodeCredentials> {
        Ok(NodeCredentials {
            client: self.client_ca.issue(&node_client(name), now)?,
            serving: self.server_ca.issue(&node_serving(name, sans, ips), now)?,
            kube_proxy: self.client_ca.issue(&Subject::client("system:kube-proxy", None), now)?,
            server_ca_pem: self.server_ca.cert_pem().to_owned(),
            client_ca_pem: self.client_ca.cert_pem().to_owned(),
        })
    }

    /// A kubeconfig for `admin` at `server` (`https://127.0.0.1:6443`).
    pub fn admin_kubeconfig(&self, server: &str) -> Kubeconfig {
        Kubeconfig {
            server: server.to_owned(),
            ca_pem: self.server_ca.cert_pem().to_owned(),
            user: KubeconfigUser::Certificate(self.admin.clone()),
        }
    }

    /// Reads the join secret in `path`, or writes `given`, or a random one; the result carries the server CA's hash.
    /// A `given` token that differs from the kept one replaces it.
    pub fn ensure_token(&self, path: &Path, given: Option<&str>) -> Result<Token> {
        let kept = match files::read_optional(path)? {
            Some(text) => Some(Token::parse(text.trim())?),
            None => None,
        };
        let secret = match (given, &kept) {
            (Some(given), _) => Token::parse(given)?.secret,
            (None, Some(kept)) => kept.secret.clone(),
            (None, None) => Token::random_secret(),
        };
        let token = Token::server(self.server_ca.cert_pem(), &secret)?;
        if kept.as_ref() != Some(&token) {
            write_atomic(path, format!("{token}\n").as_bytes(), 0o600)?;
        }
        Ok(token)
    }
}

fn server_subject(request: &PkiRequest) -> Subject {
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(str::to_owned).to_vec();
    names.push(format!("kubernetes.default.svc.{}", request.cluster_domain));
    names.extend(request.sans.iter().cloned());
    let mut ips = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    ips.extend(request.ips.iter().copied());
    Subject::server("kube-apiserver", names, ips)
}

fn node_client(name: &str) -> Subject {
    Subject::client(&format!("system:node:{name}"), Some("system:nodes"))
}

fn node_serving(name: &str, sans: &[String], ips: &[IpAddr]) -> Subject {
    let mut names = vec![name.to_owned(), "localhost".to_owned()];
    names.extend(sans.iter().cloned());
    let mut all = vec![IpAddr::from([127, 0, 0, 1])];
    all.extend(ips.iter().copied());
    Subject::server(name, names, all)
}

#[cfg(test)]
mod tests;
