//! What the server is told about authentication, besides the client authority and its own tokens.

use component_base::TaskGroup;

use super::Authenticator;
use super::oidc::{Oidc, OidcConfig};
use super::request_header::{RequestHeaderConfig, RequestHeaders};
use super::webhook::{TokenWebhook, TokenWebhookConfig};
use crate::error::Error;
use crate::outbound::Remote;

#[derive(Debug, Clone, Default)]
pub struct AuthenticationConfig {
    /// Secrets of type `bootstrap.kubernetes.io/token` are tokens.
    pub bootstrap_tokens: bool,
    /// Proxies that authenticate users.
    pub request_header: Option<RequestHeaderConfig>,
    pub webhook: Option<TokenWebhookConfig>,
    pub oidc: Option<OidcConfig>,
}

impl Authenticator {
    /// Adds what the configuration names.
    ///
    /// # Errors
    /// [`Error::Config`] that says what is wrong.
    pub fn configured(
        mut self,
        config: &AuthenticationConfig,
        client_ca_pem: &str,
        tasks: &TaskGroup,
    ) -> Result<Self, Error> {
        let wrong = |detail: String| Error::Config { what: "authentication", detail };
        self.bootstrap_tokens = config.bootstrap_tokens;
        if let Some(headers) = &config.request_header {
            self.request_headers = Some(RequestHeaders::new(headers.clone(), client_ca_pem)?);
        }
        if let Some(webhook) = &config.webhook {
            let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
            let remote = Remote::from_kubeconfig(&webhook.kubeconfig, &read, tasks).map_err(wrong)?;
            let clock = self.clock.clone();
            self.webhook = Some(TokenWebhook::new(remote, webhook.version.clone(), webhook.cache_ttl, clock));
        }
        if let Some(oidc) = &config.oidc {
            self.oidc = Some(Oidc::new(oidc.clone(), self.clock.clone(), tasks).map_err(wrong)?);
        }
        Ok(self)
    }
}
