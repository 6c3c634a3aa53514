//! Between the versions of a custom resource.

use serde_json::Value;

use crate::webhooks::Endpoint;

/// How objects get from one version to another.
#[derive(Debug, Clone)]
pub enum Converter {
    /// All versions look alike: only the apiVersion changes.
    None,
    Webhook(Webhook),
}

/// Who converts.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub endpoint: Endpoint,
    /// `v1`, `v1beta1`, the preferred first.
    pub review_versions: Vec<String>,
}

impl Converter {
    pub fn read(crd: &Value) -> Self {
        let conversion = &crd["spec"]["conversion"];
        if conversion["strategy"] != "Webhook" {
            return Self::None;
        }
        let versions = conversion["webhook"]["conversionReviewVersions"].as_array().into_iter().flatten();
        Self::Webhook(Webhook {
            endpoint: Endpoint::read(&conversion["webhook"]["clientConfig"]),
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
