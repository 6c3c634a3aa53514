//! Pod templates, their hashes, and the revisions that name them.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controllers::rollout::{DESIRED_REPLICAS, MAX_REPLICAS};

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Not copied from the Deployment to its ReplicaSets.
pub const OWN_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

pub fn revision(meta: &ObjectMeta) -> i64 {
    let text = meta.annotations.as_ref().and_then(|all| all.get(REVISION));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Equal but for the hash label that we add ourselves.
/// Equal but for the hash label that we add ourselves.
pub fn same_template(set: &ReplicaSet, wanted: &PodTemplateSpec) -> bool {
    let strip = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        template
    };
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    template.is_some_and(|template| strip(template) == strip(wanted))
}

/// Short, stable over restarts and versions, and safe in a name: FNV-1a of the template's canonical JSON, in an
/// alphabet without vowels.
/// Short, stable over restarts and versions, and safe in a name: FNV-1a of the template's canonical JSON, in an
/// alphabet without vowels.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = serde_json::to_value(template).map(|value| value.to_string()).unwrap_or_default();
    if let Some(collisions) = collisions {
        text += &collisions.to_string();
    }
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use serde_json::json;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": { "labels": { "app": "x" } },
            "spec": { "containers": [{ "name": "c", "image": image }] },
        }))
        .expect("a template")
    }

    #[test]
    fn the_hash_follows_the_template_and_the_collisions() {
        let hash = template_hash(&template("a"), None);
        assert_eq!(hash, template_hash(&template("a"), None));
        assert_ne!(hash, template_hash(&template("b"), None));
        assert_ne!(hash, template_hash(&template("a"), Some(1)));
        assert!(hash.len() <= 10 && hash.bytes().all(|c| b"bcdfghjklmnpqrstvwxz2456789".contains(&c)));
    }

    #[test]
    fn a_set_is_recognized_by_its_template_without_the_hash() {
        let mut with_hash = template("a");
        with_hash.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH_LABEL.into(), "h".into());
        let set = ReplicaSet {
            spec: Some(ReplicaSetSpec { template: Some(with_hash), ..ReplicaSetSpec::default() }),
            ..ReplicaSet::default()
        };
        assert!(same_template(&set, &template("a")));
        assert!(!same_template(&set, &template("b")));
    }
}
