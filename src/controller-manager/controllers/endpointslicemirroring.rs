//! EndpointSlices for Endpoints that somebody wrote by hand, for a service without a selector.
//!
//! Watches Endpoints, services and slices. Writes and deletes the slices that it owns.
//!
//! Invariants:
//! - EM-1: Endpoints are mirrored only while their service is there and has no selector, and unless they carry the label
//!   `endpointslice.kubernetes.io/skip-mirror` or are a leader election's lock; what was mirrored before goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use kube::Client;

use crate::controllers::endpoints::LEADER;
use crate::controllers::endpointslice::pack::{self, Action, Desired, Port, Shape};
use crate::controllers::endpointslice::{
    BEHIND, MANAGED_BY, SERVICE_NAME, Tracker, apply, generate_name, slices_of, watch_slices,
};
use crate::controllers::podselect::{TRIGGER_TIME, family};
use crate::error::Error;
use crate::manager::{Context, Controller};
use crate::owners::{Labels, controller_reference};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Of one subset; also how many a slice holds.
const MAX_ADDRESSES: usize = 1000;

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let slices = cx.informers.of();
    let this = Mirroring {
        client: cx.client.clone(),
        queue: cx.queue(),
        endpoints: cx.informers.of(),
        services: cx.informers.of(),
        tracker: Tracker::new(cx.clock.clone(), slices.clone()),
        slices,
        recorder: cx.recorder("endpoint-slice-mirroring-controller"),
    };
    let queue = this.queue.clone();
    this.endpoints.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let queue = this.queue.clone();
    this.services.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    watch_slices(&this.slices, &this.queue, MANAGER);
    Arc::new(this)
}

struct Mirroring {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    tracker: Tracker,
    recorder: EventRecorder,
}

struct Observed<'a> {
    endpoints: Option<&'a Endpoints>,
    service: Option<&'a Service>,
    existing: &'a [EndpointSlice],
}

/// What could not be mirrored.
#[derive(Debug, Default, PartialEq, Eq)]
struct Skipped {
    invalid: usize,
    over_capacity: usize,
}

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let meta = &endpoints.metadata;
    let skip = meta.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|value| value == "true");
    let leader = meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    !skip && !leader && meta.deletion_timestamp.is_none() && selector.is_none_or(BTreeMap::is_empty)
}

fn plan(observed: &Observed<'_>) -> (Vec<Action>, Skipped) {
    let mut skipped = Skipped::default();
    let mirrored = match (observed.endpoints, observed.service) {
        (Some(endpoints), Some(service)) if is_mirrored(endpoints, service) => endpoints,
        _ => return (observed.existing.iter().cloned().map(Action::Delete).collect(), skipped),
    };
    let mut by_shape: BTreeMap<Shape, Vec<Endpoint>> = BTreeMap::new();
    for subset in mirrored.subsets.iter().flatten() {
        let mut ports: Vec<Port> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| Port {
                name: port.name.clone().unwrap_or_default(),
                port: Some(port.port),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut count = 0;
        for (address, ready) in ready.chain(not_ready) {
            if count == MAX_ADDRESSES {
                skipped.over_capacity += 1;
                continue;
            }
            let Some(address_type) = family(&address.ip) else {
                skipped.invalid += 1;
                continue;
            };
            count += 1;
            let shape = Shape { address_type, ports: ports.clone() };
            by_shape.entry(shape).or_default().push(endpoint(address, ready));
        }
    }
    let name = mirrored.metadata.name.clone().unwrap_or_default();
    let mut labels = mirrored.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations: Labels = mirrored.metadata.annotations.clone().unwrap_or_default();
    let trigger_time = annotations.remove(TRIGGER_TIME).and_then(|time| time.parse().ok());
    annotations.remove(LAST_APPLIED);
    let desired = Desired {
        endpoints: by_shape,
        placeholders: Vec::new(),
        labels,
        annotations,
        owner: controller_reference(mirrored),
        namespace: mirrored.metadata.namespace.clone().unwrap_or_default(),
        generate_name: generate_name(&name),
        max_endpoints: MAX_ADDRESSES,
        trigger_time,
    };
    (pack::plan(&desired, observed.existing), skipped)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[async_trait]
impl Controller for Mirroring {
    fn name(&self) -> &'static str {
        "endpointslice-mirroring"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.endpoints.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        if !self.tracker.caught_up(key) {
            return Ok(Some(BEHIND));
        }
        let (endpoints, service) = (self.endpoints.get(key), self.services.get(key));
        let existing = slices_of(&self.slices, MANAGER, key);
        let observed = Observed { endpoints: endpoints.as_deref(), service: service.as_deref(), existing: &existing };
        let (actions, skipped) = plan(&observed);
        if let Some(endpoints) = endpoints.as_deref() {
            let about = object_reference(endpoints);
            if skipped.invalid > 0 {
                let message =
                    format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", skipped.invalid);
                self.recorder.event(&about, EventType::Warning, "InvalidIPAddress", &message);
            }
            if skipped.over_capacity > 0 {
                let message = format!(
                    "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                    skipped.over_capacity
                );
                self.recorder.event(&about, EventType::Warning, "TooManyAddressesToMirror", &message);
            }
        }
        apply(&self.client, &self.tracker, key, actions).await.map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(labels: Value, subsets: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": { "name": "db", "namespace": "ns", "uid": "eu", "labels": labels,
                "annotations": { LAST_APPLIED: "x", "note": "y", TRIGGER_TIME: "2026-01-01T00:00:00Z" } },
            "subsets": subsets,
        }))
        .expect("endpoints")
    }

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({ "metadata": { "name": "db" }, "spec": spec })).expect("a service")
    }

    fn run(endpoints: &Endpoints, service: Option<&Service>, existing: &[EndpointSlice]) -> (Vec<Action>, Skipped) {
        plan(&Observed { endpoints: Some(endpoints), service, existing })
    }

    #[test]
    fn mirrors_what_was_written_by_hand() {
        let written = endpoints(
            json!({ "a": "b" }),
            json!([{ "addresses": [{ "ip": "192.0.2.1", "hostname": "h" }, { "ip": "nonsense" }],
                "notReadyAddresses": [{ "ip": "192.0.2.2" }], "ports": [{ "port": 5432 }] }]),
        );
        let (actions, skipped) = run(&written, Some(&service(json!({}))), &[]);
        let [Action::Create(slice)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(skipped, Skipped { invalid: 1, over_capacity: 0 });
        assert_eq!(
            serde_json::to_value(slice).expect("json"),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "generateName": "db-", "namespace": "ns",
                    "annotations": { "note": "y", TRIGGER_TIME: "2026-01-01T00:00:00Z" },
                    "labels": { "a": "b", SERVICE_NAME: "db", MANAGED_BY: MANAGER },
                    "ownerReferences": [{ "apiVersion": "v1", "kind": "Endpoints", "name": "db", "uid": "eu",
                        "controller": true, "blockOwnerDeletion": true }],
                },
                "ports": [{ "name": "", "port": 5432, "protocol": "TCP" }],
                "endpoints": [
                    { "addresses": ["192.0.2.1"], "conditions": { "ready": true }, "hostname": "h" },
                    { "addresses": ["192.0.2.2"], "conditions": { "ready": false } },
                ],
            })
        );
        let mut stored = slice.clone();
        stored.metadata.name = Some("db-1".into());
        assert_eq!(run(&written, Some(&service(json!({}))), std::slice::from_ref(&stored)).0, []);
        // Whatever ends the mirroring ends the slice.
        let gone = [Action::Delete(stored.clone())];
        let existing = std::slice::from_ref(&stored);
        assert_eq!(run(&written, None, existing).0, gone);
        assert_eq!(run(&written, Some(&service(json!({ "selector": { "a": "b" } }))), existing).0, gone);
        let skipping = endpoints(json!({ SKIP: "true" }), json!([]));
        assert_eq!(run(&skipping, Some(&service(json!({}))), existing).0, gone);
    }

    #[test]
    fn a_subset_has_its_limit() {
        let addresses: Vec<Value> =
            (0..1003).map(|n| json!({ "ip": format!("10.0.{}.{}", n / 200, n % 200) })).collect();
        let written = endpoints(json!({}), json!([{ "addresses": addresses, "ports": [{ "port": 1 }] }]));
        let (actions, skipped) = run(&written, Some(&service(json!({}))), &[]);
        assert_eq!((actions.len(), skipped.over_capacity), (1, 3));
    }
}
