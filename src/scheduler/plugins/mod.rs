//! The plugins: one file each, upstream's names. [`default_plugins`] is the one list.

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_basics;
mod node_resources;
mod pod_topology_spread;
mod selectors;
mod taint_toleration;

use crate::framework::{Framework, Plugin};

/// Upstream's default profile, in its order.
pub fn default_plugins() -> Framework {
    let plugins: Vec<Box<dyn Plugin>> = vec![
        Box::new(node_basics::SchedulingGates),
        Box::new(node_basics::NodeUnschedulable),
        Box::new(node_basics::NodeName),
        Box::new(taint_toleration::TaintToleration),
        Box::new(node_affinity::NodeAffinity),
        Box::new(node_basics::NodePorts),
        Box::new(node_resources::NodeResourcesFit),
        Box::new(pod_topology_spread::PodTopologySpread),
        Box::new(inter_pod_affinity::InterPodAffinity),
        Box::new(node_resources::NodeResourcesBalancedAllocation),
        Box::new(image_locality::ImageLocality),
    ];
    Framework::new(plugins)
}

#[cfg(test)]
mod tests;
