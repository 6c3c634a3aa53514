//! Between the versions of a custom resource.

use serde_json::Value;

/// How objects get from one version to another.
#[derive(Debug, Clone)]
pub enum Converter {
    /// All versions look alike: only the apiVersion changes.
    None,
    Webhook(Webhook),
}

/// Who converts.
#[derive(Debug, Clone, Default)]
pub struct Webhook {
    pub url: Option<String>,
    pub service: Option<ServiceRef>,
    /// PEM; empty: the system's.
    pub ca_bundle: Vec<u8>,
    /// `v1`, `v1beta1`, the preferred first.
    pub review_versions: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct ServiceRef {
    pub namespace: String,
    pub name: String,
    pub path: String,
    pub port: u16,
}

impl Converter {
    pub fn read(crd: &Value) -> Self {
        use base64::Engine as _;
        let conversion = &crd["spec"]["conversion"];
        if conversion["strategy"] != "Webhook" {
            return Self::None;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let config = &conversion["webhook"]["clientConfig"];
        let service = config.get("service").filter(|service| service.is_object()).map(|service| ServiceRef {
            namespace: text(&service["namespace"]),
            name: text(&service["name"]),
            path: text(&service["path"]),
            port: service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
        });
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let versions = conversion["webhook"]["conversionReviewVersions"].as_array().into_iter().flatten();
        Self::Webhook(Webhook {
            url: config["url"].as_str().map(str::to_owned),
            service,
            ca_bundle: base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default(),
            review_versions: versions.filter_map(|version| version.as_str().map(str::to_owned)).collect(),
        })
    }

    pub fn webhook(&self) -> Option<&Webhook> {
        match self {
            Self::None => None,
            Self::Webhook(webhook) => Some(webhook),
        }
    }
}
