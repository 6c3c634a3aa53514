//! The informers as DNS sees them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use client::{Informer, Informers, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::answer::{Endpoint, Kind, ServiceRecord, View};

/// Index of EndpointSlices by `namespace/service`; the service proxy shares it.
const BY_SERVICE: &str = "service";
const BY_ADDRESS: &str = "address";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Answers from the process's shared informers.
pub struct InformerView {
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

fn owner(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name))
}

fn addresses(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    spec.cluster_ips
        .iter()
        .flatten()
        .chain(&spec.cluster_ip)
        .filter(|ip| !ip.is_empty() && *ip != "None")
        .cloned()
        .collect()
}

impl InformerView {
    pub fn new(informers: &Informers) -> Self {
        let view = Self { namespaces: informers.of(), services: informers.of(), slices: informers.of() };
        view.slices.add_index(BY_SERVICE, |slice| owner(slice).iter().map(ToString::to_string).collect());
        view.slices.add_index(BY_ADDRESS, |slice| {
            slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
        });
        view.services.add_index(BY_ADDRESS, addresses);
        view
    }

    pub async fn synced(&self) {
        self.namespaces.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
    }

    fn record(&self, service: &Service) -> ServiceRecord {
        let key = ObjectKey::of(service);
        let spec = service.spec.clone().unwrap_or_default();
        let ips: Vec<Ipv4Addr> = addresses(service).iter().filter_map(|ip| ip.parse().ok()).collect();
        let kind = match (spec.external_name, ips.is_empty()) {
            (Some(name), _) if spec.type_.as_deref() == Some("ExternalName") => Kind::External(name),
            (_, false) => Kind::ClusterIp(ips),
            (_, true) => Kind::Headless(self.endpoints(&key, spec.publish_not_ready_addresses == Some(true))),
        };
        let ports = spec.ports.into_iter().flatten().filter_map(|port| {
            let protocol = port.protocol.unwrap_or_else(|| "TCP".into()).to_ascii_lowercase();
            Some((port.name.unwrap_or_default(), protocol, u16::try_from(port.port).ok()?))
        });
        ServiceRecord { ports: ports.collect(), namespace: key.namespace, name: key.name, kind }
    }

    fn endpoints(&self, key: &ObjectKey, also_unready: bool) -> Vec<Endpoint> {
        let mut found: Vec<Endpoint> = Vec::new();
        for slice in self.slices.by_index(BY_SERVICE, &key.to_string()) {
            let ports: Vec<_> = slice
                .ports
                .iter()
                .flatten()
                .filter_map(|port| {
                    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into()).to_ascii_lowercase();
                    Some((port.name.clone().unwrap_or_default(), protocol, u16::try_from(port.port?).ok()?))
                })
                .collect();
            for endpoint in slice.endpoints.iter().flatten() {
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                if !ready && !also_unready {
                    continue;
                }
                for ip in endpoint.addresses.iter().filter_map(|text| text.parse::<Ipv4Addr>().ok()) {
                    let hostname = endpoint.hostname.clone().unwrap_or_else(|| ip.to_string().replace('.', "-"));
                    let one = Endpoint { ip, hostname, ports: ports.clone() };
                    if !found.contains(&one) {
                        found.push(one);
                    }
                }
            }
        }
        found
    }
}

impl View for InformerView {
    fn namespace_exists(&self, name: &str) -> bool {
        self.namespaces.get(&ObjectKey::cluster(name)).is_some()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<ServiceRecord> {
        self.services.get(&ObjectKey::new(namespace, name)).map(|service| self.record(&service))
    }

    fn by_address(&self, ip: IpAddr) -> Vec<(ServiceRecord, Option<String>)> {
        let text = ip.to_string();
        let services = self.services.by_index(BY_ADDRESS, &text);
        let mut found: Vec<_> = services.iter().map(|service| (self.record(service), None)).collect();
        for slice in self.slices.by_index(BY_ADDRESS, &text) {
            let service: Option<Arc<Service>> = owner(&slice).and_then(|key| self.services.get(&key));
            let endpoint = slice.endpoints.iter().flatten().find(|endpoint| endpoint.addresses.contains(&text));
            let hostname = endpoint.and_then(|endpoint| endpoint.hostname.clone());
            // Only a named endpoint has a name to point back to.
            if let (Some(service), Some(hostname)) = (service, hostname) {
                found.push((self.record(&service), Some(hostname)));
            }
        }
        found
    }
}
