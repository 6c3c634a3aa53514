//! Gives every node its part of the cluster network.
//!
//! Watches nodes. Writes `spec.podCIDR` and `spec.podCIDRs` of nodes that have none.
//!
//! Invariants:
//! - NI-1: no two nodes ever have overlapping ranges: what is taken is what the nodes say, and what was given out but
//!   is not in the cache yet.
//! - NI-2: a range is free again when its node is gone; nothing else is remembered, so a restart loses nothing.
//! - NI-3: a range is not given out again while there are others that were not used for longer.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tracing::info;

use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller, ControllerManagerConfig};

const EXHAUSTED: &str = "CIDRNotAvailable";

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let state = Arc::new(Mutex::new(State::default()));
    let this = NodeIpam {
        client: cx.client.clone(),
        queue: cx.queue(),
        nodes: cx.informers.of(),
        recorder: cx.recorder("cidrAllocator"),
        config: cx.config.clone(),
        state: state.clone(),
    };
    let (queue, nodes) = (this.queue.clone(), this.nodes.clone());
    this.nodes.on_change(move |change| {
        let node = change.object();
        let key = ObjectKey::of(node.as_ref());
        if let Change::Deleted(_) = change {
            state.lock().given.remove(&key.name);
            // Whoever waits for a range may have this one.
            for waiting in nodes.list().iter().filter(|node| range_of(node).is_none()) {
                queue.add(ObjectKey::of(waiting.as_ref()));
            }
        } else if range_of(node).is_none() {
            queue.add(key);
        } else {
            state.lock().given.remove(&key.name);
        }
    });
    Arc::new(this)
}

struct NodeIpam {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    nodes: Informer<Node>,
    recorder: EventRecorder,
    config: Arc<ControllerManagerConfig>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By node: given out, and not seen in the cache yet.
    given: HashMap<String, Ipv4Net>,
    /// Index of the range to try first.
    next: u32,
}

struct Observed<'a> {
    node: &'a Node,
    /// Every range that a node has or is being given.
    taken: Vec<Ipv4Net>,
    /// Being given to this node.
    given: Option<Ipv4Net>,
    cluster: Ipv4Net,
    prefix: u8,
    next: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Assign(Ipv4Net),
    /// No range is free.
    Exhausted,
}

/// The range that the node says it has.
fn range_of(node: &Node) -> Option<&str> {
    let spec = node.spec.as_ref()?;
    spec.pod_cidr.as_deref().filter(|range| !range.is_empty())
}

fn plan(observed: &Observed<'_>) -> Vec<Action> {
    if range_of(observed.node).is_some() || observed.node.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    if let Some(given) = observed.given {
        return vec![Action::Assign(given)];
    }
    let count = range_count(observed.cluster, observed.prefix);
    let free = (0..count)
        .map(|step| nth_range(observed.cluster, observed.prefix, (observed.next + step) % count))
        .find(|range| !observed.taken.iter().any(|taken| overlap(taken, range)));
    vec![free.map_or(Action::Exhausted, Action::Assign)]
}

fn range_count(cluster: Ipv4Net, prefix: u8) -> u32 {
    1_u32.checked_shl(u32::from(prefix.saturating_sub(cluster.prefix_len()))).unwrap_or(u32::MAX)
}

fn nth_range(cluster: Ipv4Net, prefix: u8, index: u32) -> Ipv4Net {
    let size = 1_u32.checked_shl(u32::from(32 - prefix.min(32))).unwrap_or(0);
    let start = u32::from(cluster.network()).wrapping_add(index.wrapping_mul(size));
    Ipv4Net::new_assert(Ipv4Addr::from(start), prefix.min(32))
}

/// The index after that of `range`, from where the next search starts.
fn index_after(cluster: Ipv4Net, range: Ipv4Net) -> u32 {
    let offset = u32::from(range.network()).wrapping_sub(u32::from(cluster.network()));
    let index = offset.checked_shr(u32::from(32 - range.prefix_len())).unwrap_or(0);
    (index + 1) % range_count(cluster, range.prefix_len())
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

impl NodeIpam {
    /// Decides, and reserves what it decided.
    fn decide(&self, node: &Node, name: &str) -> Vec<Action> {
        let nodes = self.nodes.list();
        let mut state = self.state.lock();
        let said = nodes.iter().filter_map(|node| range_of(node)?.parse::<Ipv4Net>().ok());
        let actions = plan(&Observed {
            node,
            taken: said.chain(state.given.values().copied()).collect(),
            given: state.given.get(name).copied(),
            cluster: self.config.cluster_cidr,
            prefix: self.config.node_cidr_prefix,
            next: state.next,
        });
        for action in &actions {
            if let Action::Assign(range) = action {
                state.given.insert(name.to_owned(), *range);
                state.next = index_after(self.config.cluster_cidr, *range);
            }
        }
        actions
    }

    async fn apply(&self, node: &Node, name: &str, action: Action) -> Result<(), Error> {
        match action {
            Action::Assign(range) => {
                let range = range.to_string();
                let patch = json!({
                    "metadata": { "uid": node.metadata.uid },
                    "spec": { "podCIDR": range, "podCIDRs": [range] },
                });
                let api = Api::<Node>::all(self.client.clone());
                let result = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
                if gone_is_fine(result).map_err(Error::api(format!("give node {name} the range {range}")))?.is_none() {
                    self.state.lock().given.remove(name);
                }
                info!(node = name, range, "node has its pod network");
                Ok(())
            }
            Action::Exhausted => {
                let message = format!("Node {name} status is now: {EXHAUSTED}");
                self.recorder.event(&object_reference(node), EventType::Normal, EXHAUSTED, &message);
                Err(Error::Invalid {
                    object: format!("node {name}"),
                    message: format!(
                        "no free range of /{} in {}",
                        self.config.node_cidr_prefix, self.config.cluster_cidr
                    ),
                })
            }
        }
    }
}

#[async_trait]
impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.nodes.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(node) = self.nodes.get(key) else { return Ok(None) };
        for action in self.decide(&node, &key.name) {
            self.apply(&node, &key.name, action).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    fn plan_for(node: serde_json::Value, taken: &[&str], given: Option<&str>, next: u32) -> Vec<Action> {
        plan(&Observed {
            node: &serde_json::from_value(node).expect("a node"),
            taken: taken.iter().map(|text| net(text)).collect(),
            given: given.map(net),
            cluster: net("10.42.0.0/22"),
            prefix: 24,
            next,
        })
    }

    #[test]
    fn gives_what_is_free() {
        let node = || json!({ "metadata": { "name": "a" } });
        let assign = |text: &str| vec![Action::Assign(net(text))];
        assert_eq!(plan_for(node(), &[], None, 0), assign("10.42.0.0/24"));
        assert_eq!(plan_for(node(), &["10.42.0.0/24", "10.42.2.0/24"], None, 0), assign("10.42.1.0/24"));
        // The search goes on from where it was, and around.
        assert_eq!(plan_for(node(), &["10.42.3.0/24"], None, 3), assign("10.42.0.0/24"));
        // A range that an administrator set may be larger or elsewhere.
        assert_eq!(plan_for(node(), &["10.42.0.0/23", "192.168.0.0/24"], None, 0), assign("10.42.2.0/24"));
        // The same one again until the cache shows it.
        assert_eq!(plan_for(node(), &["10.42.1.0/24"], Some("10.42.1.0/24"), 2), assign("10.42.1.0/24"));
        assert_eq!(plan_for(node(), &["10.42.0.0/22"], None, 1), [Action::Exhausted]);
    }

    #[test]
    fn leaves_alone_what_has_one_or_goes() {
        assert_eq!(plan_for(json!({ "metadata": {}, "spec": { "podCIDR": "10.42.9.0/24" } }), &[], None, 0), []);
        assert_eq!(plan_for(json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }), &[], None, 0), []);
    }

    #[test]
    fn indexes_go_around() {
        assert_eq!(index_after(net("10.42.0.0/22"), net("10.42.1.0/24")), 2);
        assert_eq!(index_after(net("10.42.0.0/22"), net("10.42.3.0/24")), 0);
        assert_eq!(range_count(net("10.42.0.0/16"), 24), 256);
    }
}
