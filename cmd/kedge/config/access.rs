//! Options of who may come in and what they may do: authentication, authorization, admission. The flags are upstream's.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessOptions {
    /// Static tokens: a CSV file of token,user,uid,"group1,group2"
    #[arg(long, env = "KEDGE_TOKEN_AUTH_FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Take Secrets of type bootstrap.kubernetes.io/token as tokens
    #[arg(long, env = "KEDGE_ENABLE_BOOTSTRAP_TOKEN_AUTH", default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_bootstrap_token_auth: bool,
    /// Authority of proxies that name users in headers [default: our own]
    #[arg(long, env = "KEDGE_REQUESTHEADER_CLIENT_CA_FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of such proxies; may be repeated
    #[arg(long, env = "KEDGE_REQUESTHEADER_ALLOWED_NAMES", value_delimiter = ',', default_value = "system:auth-proxy")]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers that hold the user's name
    #[arg(long, env = "KEDGE_REQUESTHEADER_USERNAME_HEADERS", value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers that hold the user's uid
    #[arg(long, env = "KEDGE_REQUESTHEADER_UID_HEADERS", value_delimiter = ',', default_value = "X-Remote-Uid")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers that hold the user's groups
    #[arg(long, env = "KEDGE_REQUESTHEADER_GROUP_HEADERS", value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers that hold the user's extra attributes
    #[arg(
        long,
        env = "KEDGE_REQUESTHEADER_EXTRA_HEADERS_PREFIX",
        value_delimiter = ',',
        default_value = "X-Remote-Extra-"
    )]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// kubeconfig of a service that reviews tokens
    #[arg(long, env = "KEDGE_AUTHENTICATION_TOKEN_WEBHOOK_CONFIG_FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of authentication.k8s.io that it speaks: v1 or v1beta1
    #[arg(long, env = "KEDGE_AUTHENTICATION_TOKEN_WEBHOOK_VERSION", default_value = "v1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    /// How long its answers are kept
    #[arg(long, env = "KEDGE_AUTHENTICATION_TOKEN_WEBHOOK_CACHE_TTL", default_value = "2m", value_parser = duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// URL of an OpenID Connect issuer whose ID tokens are taken
    #[arg(long, env = "KEDGE_OIDC_ISSUER_URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// The client that its tokens must be for
    #[arg(long, env = "KEDGE_OIDC_CLIENT_ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// Claim that holds the user's name
    #[arg(long, env = "KEDGE_OIDC_USERNAME_CLAIM", default_value = "sub")]
    pub oidc_username_claim: String,
    /// Put before user names; - puts nothing [default: the issuer's URL and #, unless the claim is email]
    #[arg(long, env = "KEDGE_OIDC_USERNAME_PREFIX", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// Claim that holds the user's groups
    #[arg(long, env = "KEDGE_OIDC_GROUPS_CLAIM", default_value = "")]
    pub oidc_groups_claim: String,
    /// Put before groups
    #[arg(long, env = "KEDGE_OIDC_GROUPS_PREFIX", default_value = "")]
    pub oidc_groups_prefix: String,
    /// Claim that a token must have, key=value; may be repeated
    #[arg(long, env = "KEDGE_OIDC_REQUIRED_CLAIM", value_delimiter = ',', value_parser = pair)]
    pub oidc_required_claim: Vec<(String, String)>,
    /// Authority of the issuer's certificate [default: those that this machine trusts]
    #[arg(long, env = "KEDGE_OIDC_CA_FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Algorithms that its tokens may be signed with
    #[arg(long, env = "KEDGE_OIDC_SIGNING_ALGS", value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
    /// Authorizers, in the order in which they are asked: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny
    #[arg(long, env = "KEDGE_AUTHORIZATION_MODE", value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<String>,
    /// File of ABAC policies, one JSON object a line
    #[arg(long, env = "KEDGE_AUTHORIZATION_POLICY_FILE")]
    pub authorization_policy_file: Option<PathBuf>,
    /// kubeconfig of a service that reviews access
    #[arg(long, env = "KEDGE_AUTHORIZATION_WEBHOOK_CONFIG_FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of authorization.k8s.io that it speaks: v1 or v1beta1
    #[arg(long, env = "KEDGE_AUTHORIZATION_WEBHOOK_VERSION", default_value = "v1", value_parser = ["v1", "v1beta1"])]
    pub authorization_webhook_version: String,
    /// How long its yes is kept
    #[arg(long, env = "KEDGE_AUTHORIZATION_WEBHOOK_CACHE_AUTHORIZED_TTL", default_value = "5m", value_parser = duration)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long its no is kept
    #[arg(long, env = "KEDGE_AUTHORIZATION_WEBHOOK_CACHE_UNAUTHORIZED_TTL", default_value = "30s", value_parser = duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
    /// Admission plugins to run besides the default ones
    #[arg(long, env = "KEDGE_ENABLE_ADMISSION_PLUGINS", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run
    #[arg(long, env = "KEDGE_DISABLE_ADMISSION_PLUGINS", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// File that configures admission plugins (AdmissionConfiguration)
    #[arg(long, env = "KEDGE_ADMISSION_CONTROL_CONFIG_FILE")]
    pub admission_control_config_file: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("want key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `2m`, `1h30m`, `45s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    const WANT: &str = "want a duration, as 30s, 5m or 1h30m";
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or(WANT)?;
        let number: u64 = rest[..digits].parse().map_err(|_| WANT)?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += match &rest[..unit] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.saturating_mul(60)),
            "h" => Duration::from_secs(number.saturating_mul(3600)),
            _ => return Err(WANT.to_owned()),
        };
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(WANT.to_owned()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        assert_eq!(duration("2m0s"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "5", "m", "5x", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
