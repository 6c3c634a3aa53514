use serde_json::{Value, json};

use super::Pod;
use crate::kind::Strategy;
use crate::testing::{cx, messages};

fn pod(spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "n"},
        "spec": {"containers": [{"name": "c", "image": "img:1"}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    Pod.default(&mut pod);
    pod
}
