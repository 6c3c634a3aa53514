//! Names of resources in quotas and limit ranges.

use apimachinery::validation::{ErrorList, Path, names};

const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const PREFIXED: &[&str] = &[
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// A name that quotas know by themselves.
pub(crate) fn is_standard_quota(name: &str) -> bool {
    COMPUTE.contains(&name) || PREFIXED.contains(&name) || COUNTED.contains(&name) || is_huge_page(name)
}

fn is_standard(name: &str) -> bool {
    name == "storage" || is_standard_quota(name)
}

/// Qualified, or one of Kubernetes' own.
pub(crate) fn resource(errors: &mut ErrorList, path: &Path, name: &str) {
    errors.invalid_all(path, name, names::is_qualified_name(name));
    if !name.contains('/') && !is_standard(name) {
        errors.invalid(path.clone(), name, "must be a standard resource type or fully qualified");
    }
}

/// What a container may ask for.
pub(crate) fn container_resource(errors: &mut ErrorList, path: &Path, name: &str) {
    resource(errors, path, name);
    let known = COMPUTE.contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !known {
        errors.invalid(path.clone(), name, "must be a standard resource for containers");
    }
}

/// What a quota may count.
pub(crate) fn quota_resource(errors: &mut ErrorList, path: &Path, name: &str) {
    resource(errors, path, name);
    if !name.contains('/') && !is_standard_quota(name) {
        errors.invalid(path.clone(), name, "must be a standard resource for quota");
    }
}

/// More may be promised than there is: Kubernetes' own, but huge pages.
pub(crate) fn overcommit_allowed(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    native && !name.starts_with("hugepages-")
}
