//! Fields whose feature gate is off by default in v1.36: the server drops them.

use serde_json::Value;

use crate::access::*;

/// Drops what is disabled from a PodSpec.
pub fn drop_disabled(spec: &mut Value) {
    remove(spec, "schedulingGroup");
    remove(spec, "workloadRef");
    for volume in items_mut(spec, "volumes") {
        for source in volume.get_mut("projected").map_or(&mut [][..], |p| items_mut(p, "sources")) {
            // The APIs these read from are not served by default.
            remove(source, "clusterTrustBundle");
            remove(source, "podCertificate");
        }
    }
}

/// Drops what is disabled from `spec.template.spec`.
pub fn drop_disabled_in_template(object: &mut Value) {
    let template = object.get_mut("spec").and_then(|s| s.get_mut("template"));
    if let Some(spec) = template.and_then(|t| t.get_mut("spec")) {
        drop_disabled(spec);
    }
}
