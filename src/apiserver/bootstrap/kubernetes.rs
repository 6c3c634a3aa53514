//! `default/kubernetes`: where pods find the API server, and the CA that clients' certificates come from.

use serde_json::{Value, json};

use super::{FrontDoor, Merge, Wanted};
use crate::ApiServer;
use component_base::SharedClock;

/// Of the service, and of the range that it is in.
const NAME: &str = "kubernetes";

pub fn objects(server: &ApiServer) -> Vec<Wanted> {
    let config = &server.server.config;
    let address = config.advertise_address.to_string();
    let first = server.server.services.first_address().to_string();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": first,
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.port}],
        },
    });
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": NAME,
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": address}],
            "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}],
        }],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": NAME,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}],
    });
    let authentication = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": crate::authn::published(&config.client_ca_pem, config.authentication.request_header.as_ref()),
    });
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": NAME},
        "spec": {"cidrs": [config.service_cidr.to_string()]},
    });
    vec![
        Wanted::new("/api/v1/namespaces/default/services", "services/specs", service).merged(merge_service),
        Wanted::new("/api/v1/namespaces/default/endpoints", "services/endpoints", endpoints)
            .merged(|kept, wanted| same_or_update(kept, wanted, &["subsets"])),
        Wanted::new("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", "endpointslices", slice)
            .merged(|kept, wanted| same_or_update(kept, wanted, &["endpoints", "ports"])),
        Wanted::new("/api/v1/namespaces/kube-system/configmaps", "configmaps", authentication)
            .merged(|kept, wanted| same_or_update(kept, wanted, &["data"])),
        Wanted::new("/apis/networking.k8s.io/v1/servicecidrs", "servicecidrs", cidr),
    ]
}

/// The default range is in use: nothing else has to happen before Services get addresses of it.
pub async fn service_cidr_ready(front: &FrontDoor<'_>, clock: &SharedClock) -> Result<(), String> {
    use crate::cache::ObjectReader as _;
    const KEY: &str = "servicecidrs";
    let Some(kept) = front.server.server.cache.get(KEY, "", NAME).await else { return Ok(()) };
    let kept = kept.value();
    let conditions = kept["status"]["conditions"].as_array();
    let told = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    if kept["metadata"]["deletionTimestamp"].is_string() || conditions.is_some_and(|all| all.iter().any(told)) {
        return Ok(());
    }
    let now = clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ready = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": NAME},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "lastTransitionTime": now,
            "message": "Kubernetes default Service CIDR is ready",
        }]},
    });
    let path = format!("/apis/networking.k8s.io/v1/servicecidrs/{NAME}/status");
    front.apply(&path, "kubernetes-service-cidr-controller", &ready).await
}

fn merge_service(kept: &Value, wanted: &Value) -> Merge {
    if kept["spec"]["clusterIP"] != wanted["spec"]["clusterIP"] {
        return Merge::Replace;
    }
    if kept["spec"]["ports"] == wanted["spec"]["ports"] {
        return Merge::Good;
    }
    let mut merged = kept.clone();
    merged["spec"]["ports"] = wanted["spec"]["ports"].clone();
    Merge::Update(merged)
}

fn same_or_update(kept: &Value, wanted: &Value, keys: &[&str]) -> Merge {
    if keys.iter().all(|key| kept[*key] == wanted[*key]) {
        return Merge::Good;
    }
    let mut merged = kept.clone();
    for key in keys {
        merged[*key] = wanted[*key].clone();
    }
    Merge::Update(merged)
}
