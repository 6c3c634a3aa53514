//! ImageLocality: nodes that have the pod's images score higher, the more the larger they are and the more nodes have them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{CycleState, MAX_SCORE, Plugin};

const MIB: i64 = 1 << 20;
const MIN_SIZE: i64 = 23 * MIB;
const MAX_SIZE_PER_CONTAINER: i64 = 1000 * MIB;

pub struct ImageLocality;

/// Image name → share of the nodes that have it.
struct Spread(HashMap<String, f64>);

/// `busybox` is `docker.io/library/busybox:latest` to the runtime.
fn normalized(image: &str) -> String {
    let tagged = image.rfind(':').is_some_and(|at| !image[at..].contains('/')) || image.contains('@');
    let image = if tagged { image.to_owned() } else { format!("{image}:latest") };
    match image.split_once('/') {
        None => format!("docker.io/library/{image}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image,
        Some(_) => format!("docker.io/{image}"),
    }
}

fn images(pod: &PodInfo) -> Vec<String> {
    let spec = pod.pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    containers.filter_map(|container| container.image.as_deref()).map(normalized).collect()
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], snapshot: &Snapshot) -> bool {
        let total = snapshot.nodes.len().max(1) as f64;
        let share = |image: &String| {
            snapshot.nodes.iter().filter(|node| node.images.contains_key(image)).count() as f64 / total
        };
        let spread: HashMap<String, f64> =
            images(pod).into_iter().map(|image| (image.clone(), share(&image))).collect();
        let anywhere = spread.values().any(|share| *share > 0.0);
        state.put(Spread(spread));
        anywhere
    }

    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Spread(spread)) = state.get::<Spread>() else { return 0 };
        let images = images(pod);
        let sum: i64 =
            images.iter().filter_map(|image| Some((*node.images.get(image)? as f64 * spread.get(image)?) as i64)).sum();
        let max = MAX_SIZE_PER_CONTAINER * i64::try_from(images.len()).unwrap_or(1).max(1);
        MAX_SCORE * (sum.clamp(MIN_SIZE, max) - MIN_SIZE) / (max - MIN_SIZE)
    }
}
