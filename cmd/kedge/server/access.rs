//! From the options of access to what the API server is told.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use apiserver::admission::AdmissionConfig;
use apiserver::authn::{AuthenticationConfig, OidcConfig, RequestHeaderConfig, TokenWebhookConfig};
use apiserver::authz::{AuthorizationConfig, AuthorizationWebhookConfig};
use pki::Pki;

use crate::config::AccessOptions;

/// Upstream's patience with an authorization webhook.
const AUTHORIZATION_TIMEOUT: Duration = Duration::from_secs(10);

fn read(flag: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--{flag} {}", path.display()))
}

pub fn admission(options: &AccessOptions) -> Result<AdmissionConfig> {
    const FLAG: &str = "admission-control-config-file";
    let mut config = AdmissionConfig {
        enable: options.enable_admission_plugins.clone(),
        disable: options.disable_admission_plugins.clone(),
        ..AdmissionConfig::default()
    };
    if let Some(path) = &options.admission_control_config_file {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let beside =
            |name: &str| std::fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"));
        config.load(&read(FLAG, path)?, &beside).map_err(|why| anyhow!("--{FLAG} {}: {why}", path.display()))?;
    }
    Ok(config)
}

/// PEM of the authority of proxies that name users in headers.
pub fn request_header_ca(options: &AccessOptions, pki: &Pki) -> Result<String> {
    match &options.requestheader_client_ca_file {
        Some(path) => read("requestheader-client-ca-file", path),
        None => Ok(pki.request_header_ca.cert_pem().to_owned()),
    }
}

pub fn authentication(options: &AccessOptions, pki: &Pki) -> Result<AuthenticationConfig> {
    let request_header = RequestHeaderConfig {
        ca_pem: request_header_ca(options, pki)?,
        allowed_names: options.requestheader_allowed_names.iter().filter(|name| !name.is_empty()).cloned().collect(),
        username_headers: options.requestheader_username_headers.clone(),
        uid_headers: options.requestheader_uid_headers.clone(),
        group_headers: options.requestheader_group_headers.clone(),
        extra_prefixes: options.requestheader_extra_headers_prefix.clone(),
    };
    let webhook = match &options.authentication_token_webhook_config_file {
        None => None,
        Some(path) => Some(TokenWebhookConfig {
            kubeconfig: read("authentication-token-webhook-config-file", path)?,
            version: options.authentication_token_webhook_version.clone(),
            cache_ttl: options.authentication_token_webhook_cache_ttl,
        }),
    };
    let oidc = match (&options.oidc_issuer_url, &options.oidc_client_id) {
        (Some(issuer_url), Some(client_id)) => Some(OidcConfig {
            issuer_url: issuer_url.clone(),
            client_id: client_id.clone(),
            username_claim: options.oidc_username_claim.clone(),
            username_prefix: options.oidc_username_prefix.clone(),
            groups_claim: options.oidc_groups_claim.clone(),
            groups_prefix: options.oidc_groups_prefix.clone(),
            required_claims: options.oidc_required_claim.clone(),
            ca_pem: options.oidc_ca_file.as_deref().map(|path| read("oidc-ca-file", path)).transpose()?,
            signing_algs: options.oidc_signing_algs.clone(),
        }),
        _ => None,
    };
    Ok(AuthenticationConfig {
        bootstrap_tokens: options.enable_bootstrap_token_auth,
        request_header: Some(request_header),
        webhook,
        oidc,
    })
}

pub fn authorization(options: &AccessOptions) -> Result<AuthorizationConfig> {
    let policies = options.authorization_policy_file.as_deref();
    let webhook = match &options.authorization_webhook_config_file {
        None => None,
        Some(path) => Some(AuthorizationWebhookConfig {
            kubeconfig: read("authorization-webhook-config-file", path)?,
            version: options.authorization_webhook_version.clone(),
            authorized_ttl: options.authorization_webhook_cache_authorized_ttl,
            unauthorized_ttl: options.authorization_webhook_cache_unauthorized_ttl,
            timeout: AUTHORIZATION_TIMEOUT,
            deny_on_failure: false,
        }),
    };
    Ok(AuthorizationConfig {
        modes: options.authorization_mode.clone(),
        abac_policies: policies.map(|path| read("authorization-policy-file", path)).transpose()?,
        webhook,
    })
}
