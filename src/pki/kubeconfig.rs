//! kubeconfig files with everything embedded.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as B64;
use serde_json::json;

use crate::{Identity, Result, write_atomic};

/// One cluster, one user, one context, all named `default`.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    /// `https://127.0.0.1:6443`
    pub server: String,
    pub ca_pem: String,
    pub user: KubeconfigUser,
}

#[derive(Debug, Clone)]
pub enum KubeconfigUser {
    Certificate(Identity),
    Token(String),
}

impl Kubeconfig {
    /// The file's text.
    pub fn to_yaml(&self) -> String {
        let user = match &self.user {
            KubeconfigUser::Certificate(identity) => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                B64.encode(&identity.cert_pem),
                B64.encode(&identity.key_pem)
            ),
            KubeconfigUser::Token(token) => format!("    token: {}\n", json!(token)),
        };
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    certificate-authority-data: {ca}\n    \
             server: {server}\ncontexts:\n- name: default\n  context:\n    cluster: default\n    user: default\n\
             current-context: default\npreferences: {{}}\nusers:\n- name: default\n  user:\n{user}",
            ca = B64.encode(&self.ca_pem),
            server = json!(self.server),
        )
    }

    /// Writes the file with exactly this mode (0600 unless the user asked otherwise), if it says something else now.
    pub fn write(&self, path: &Path, mode: u32) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let text = self.to_yaml();
        let kept_mode = std::fs::metadata(path).map(|m| m.permissions().mode() & 0o7777).ok();
        if kept_mode == Some(mode) && crate::files::read_optional(path)?.as_deref() == Some(&text) {
            return Ok(());
        }
        write_atomic(path, text.as_bytes(), mode)
    }
}
