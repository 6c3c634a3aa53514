//! Desired endpoints against existing slices: the fewest writes that make them agree. Pure.
//!
//! Invariants:
//! - ES-2: no slice holds more than the maximum, and an endpoint is in one slice only.
//! - ES-3: a slice is written only when its content changes; an endpoint stays where it is.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::controllers::podselect::TRIGGER_TIME;
use crate::owners::{Labels, is_controlled_by};

/// What goes into one kind of slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    pub address_type: &'static str,
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub port: Option<i32>,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

pub struct Desired {
    pub endpoints: BTreeMap<Shape, Vec<Endpoint>>,
    /// There is a slice of each, even without endpoints.
    pub placeholders: Vec<&'static str>,
    pub labels: Labels,
    /// Beside the trigger time.
    pub annotations: Labels,
    pub owner: OwnerReference,
    pub namespace: String,
    pub generate_name: String,
    pub max_endpoints: usize,
    pub trigger_time: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Create(EndpointSlice),
    Update(EndpointSlice),
    Delete(EndpointSlice),
}

/// Slices of this owner that are being deleted must not be in `existing`.
pub fn plan(desired: &Desired, existing: &[EndpointSlice]) -> Vec<Action> {
    let mut rest = desired.endpoints.clone();
    for address_type in &desired.placeholders {
        if !rest.keys().any(|shape| shape.address_type == *address_type) {
            rest.insert(Shape { address_type, ports: Vec::new() }, Vec::new());
        }
    }
    let mut by_shape: BTreeMap<(String, Vec<Port>), Vec<&EndpointSlice>> = BTreeMap::new();
    let mut unwanted = Vec::new();
    for slice in existing {
        let shape = (slice.address_type.clone(), ports_of(slice));
        let known = rest.keys().any(|wanted| wanted.address_type == shape.0 && wanted.ports == shape.1);
        if known && is_controlled_by(&slice.metadata, Some(&desired.owner.uid)) {
            by_shape.entry(shape).or_default().push(slice);
        } else {
            unwanted.push(slice.clone());
        }
    }
    let (mut creates, mut updates) = (Vec::new(), Vec::new());
    for (shape, endpoints) in rest {
        let placeholder = endpoints.is_empty();
        let slices = by_shape.remove(&(shape.address_type.to_owned(), shape.ports.clone())).unwrap_or_default();
        pack(desired, &shape, endpoints, &slices, placeholder, &mut creates, &mut updates, &mut unwanted);
    }
    // A slice that goes while one comes is written over instead.
    creates.retain_mut(|new| {
        let same = |old: &EndpointSlice| {
            old.address_type == new.address_type && is_controlled_by(&old.metadata, Some(&desired.owner.uid))
        };
        let Some(at) = unwanted.iter().position(same) else { return true };
        let mut replacement = EndpointSlice { metadata: unwanted.swap_remove(at).metadata, ..std::mem::take(new) };
        set_metadata(&mut replacement.metadata, desired);
        updates.push(replacement);
        false
    });
    for slice in creates.iter_mut().chain(&mut updates) {
        set_trigger_time(&mut slice.metadata, desired.trigger_time);
    }
    let creates = creates.into_iter().map(Action::Create);
    creates.chain(updates.into_iter().map(Action::Update)).chain(unwanted.into_iter().map(Action::Delete)).collect()
}

fn pack(
    desired: &Desired,
    shape: &Shape,
    endpoints: Vec<Endpoint>,
    slices: &[&EndpointSlice],
    placeholder: bool,
    creates: &mut Vec<EndpointSlice>,
    updates: &mut Vec<EndpointSlice>,
    unwanted: &mut Vec<EndpointSlice>,
) {
    let max = desired.max_endpoints;
    let mut rest: BTreeMap<_, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let (mut changed, mut unchanged): (Vec<EndpointSlice>, Vec<EndpointSlice>) = (Vec::new(), Vec::new());
    let mut kept_placeholder = false;
    for slice in slices {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<Endpoint> = old.iter().filter_map(|endpoint| rest.remove(&identity(endpoint))).collect();
        let is_kept_placeholder = kept.is_empty() && placeholder && !kept_placeholder;
        if kept.is_empty() && !is_kept_placeholder {
            unwanted.push((*slice).clone());
            continue;
        }
        kept_placeholder |= is_kept_placeholder;
        let same = kept == old && metadata_is_right(&slice.metadata, desired);
        let mut slice = (*slice).clone();
        if same {
            unchanged.push(slice);
        } else {
            slice.endpoints = Some(kept);
            set_metadata(&mut slice.metadata, desired);
            changed.push(slice);
        }
    }
    let mut rest: Vec<Endpoint> = rest.into_values().collect();
    rest.reverse();
    let fill = |slice: &mut EndpointSlice, rest: &mut Vec<Endpoint>| {
        let into = slice.endpoints.get_or_insert_default();
        let room = max.saturating_sub(into.len()).min(rest.len());
        into.extend(rest.drain(rest.len() - room..).rev());
    };
    // First those that are written anyway, the fullest first.
    changed.sort_by_key(|slice| std::cmp::Reverse(length(slice)));
    for slice in &mut changed {
        fill(slice, &mut rest);
    }
    let mut need_placeholder = placeholder && changed.is_empty() && unchanged.is_empty();
    while !rest.is_empty() || need_placeholder {
        need_placeholder = false;
        // Then the one that all of the rest fit into best.
        let fits = |slice: &EndpointSlice| max.checked_sub(length(slice) + rest.len());
        let best = (0..unchanged.len())
            .filter(|_| !rest.is_empty())
            .filter_map(|at| Some((fits(&unchanged[at])?, at)))
            .min()
            .map(|(_, at)| unchanged.swap_remove(at));
        if let Some(mut slice) = best {
            fill(&mut slice, &mut rest);
            set_metadata(&mut slice.metadata, desired);
            changed.push(slice);
            continue;
        }
        let mut slice = EndpointSlice {
            address_type: shape.address_type.to_owned(),
            endpoints: Some(Vec::new()),
            ports: Some(shape.ports.iter().map(api_port).collect()),
            metadata: ObjectMeta {
                generate_name: Some(desired.generate_name.clone()),
                namespace: Some(desired.namespace.clone()),
                owner_references: Some(vec![desired.owner.clone()]),
                ..ObjectMeta::default()
            },
        };
        set_metadata(&mut slice.metadata, desired);
        fill(&mut slice, &mut rest);
        creates.push(slice);
    }
    updates.extend(changed);
}

fn length(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// What makes it the same endpoint although its state changed.
fn identity(endpoint: &Endpoint) -> (Vec<String>, [Option<String>; 3]) {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let target = endpoint.target_ref.as_ref();
    let of = |get: fn(&k8s_openapi::api::core::v1::ObjectReference) -> &Option<String>| {
        target.and_then(|target| get(target).clone())
    };
    (addresses, [of(|target| &target.namespace), of(|target| &target.name), of(|target| &target.uid)])
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            port: port.port,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

fn api_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: port.port,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn metadata_is_right(meta: &ObjectMeta, desired: &Desired) -> bool {
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    meta.labels.as_ref() == Some(&desired.labels) && annotations == desired.annotations
}

fn set_metadata(meta: &mut ObjectMeta, desired: &Desired) {
    meta.labels = Some(desired.labels.clone());
    let trigger_time = meta.annotations.as_mut().and_then(|annotations| annotations.remove_entry(TRIGGER_TIME));
    meta.annotations = Some(desired.annotations.clone().into_iter().chain(trigger_time).collect());
}

fn set_trigger_time(meta: &mut ObjectMeta, time: Option<Timestamp>) {
    let annotations = meta.annotations.get_or_insert_default();
    match time {
        Some(time) => annotations.insert(TRIGGER_TIME.to_owned(), time.to_string()),
        None => annotations.remove(TRIGGER_TIME),
    };
    if annotations.is_empty() {
        meta.annotations = None;
    }
}
