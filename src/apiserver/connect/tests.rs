//! Tests of `connect`.

use serde_json::json;

use super::*;

#[test]
fn containers() {
    let pod = json!({"metadata": {"name": "x"}, "spec": {
        "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}],
    }});
    let text = |named| container(&pod, named).map_err(|status| status.message);
    assert_eq!(text(None), Err("a container name must be specified for pod x, choose one of: [i a b]".to_owned()));
    assert_eq!(text(Some("zz")), Err("container zz is not valid for pod x".to_owned()));
    assert_eq!(text(Some("i")), Ok("i".to_owned()));
    let one = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a"}]}});
    assert_eq!(container(&one, None).expect("the only one"), "a");
    assert_eq!(node_of(&one).expect_err("unscheduled").message, "pod x does not have a host assigned");
}

#[test]
fn credentials_are_not_passed_on() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("impersonate-user", "u"),
        ("impersonate-extra-scopes", "s"),
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
    ] {
        headers.insert(name, value.parse().expect("value"));
    }
    assert_eq!(upgrade_of(&headers).as_deref(), Some("spdy/3.1"));
    let mut kept: Vec<String> = kubelet::passed_on(&headers, true).keys().map(ToString::to_string).collect();
    kept.sort();
    assert_eq!(kept, ["connection", "upgrade", "x-stream-protocol-version"]);
    assert_eq!(kubelet::passed_on(&headers, false).len(), 1);
}
