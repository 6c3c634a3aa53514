//! Point 7: what is wrong is said in upstream's words, in the place where upstream says it.

use crate::scene::{LONG, SHORT, Scene, contains, shell_pod, text, web};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "bad_manifests_are_refused", run: Run::Shared(manifests) },
    Scenario { name: "bad_image_cannot_be_pulled", run: Run::Shared(image) },
    Scenario { name: "bad_image_name_and_policy", run: Run::Shared(image_names) },
    Scenario { name: "bad_requests_cannot_be_scheduled", run: Run::Shared(unschedulable) },
    Scenario { name: "bad_selector_and_taint_cannot_be_scheduled", run: Run::Shared(placement) },
    Scenario { name: "bad_node_port_conflicts", run: Run::Shared(node_port) },
    Scenario { name: "bad_command_cannot_be_started", run: Run::Shared(command) },
    Scenario { name: "bad_references_in_the_environment", run: Run::Shared(references) },
];

fn refused(s: &Scene<'_>, yaml: &str) -> String {
    s.with_input(&["apply", "-f", "-"], Some(yaml)).refused()
}

fn manifests(s: &Scene<'_>) {
    let good = shell_pod("pod");
    contains(&refused(s, &good.replace("containers:", "containrs:")), "unknown field \"spec.containrs\"");
    contains(
        &refused(s, &web("web", 1).replace("replicas: 1", "replicas: many")),
        "cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    let refusal = refused(s, &good.replace("name: pod,", "name: Not_A_Name,"));
    contains(
        &refusal,
        "The Pod \"Not_A_Name\" is invalid: metadata.name: Invalid value: \"Not_A_Name\": a lowercase RFC 1123 subdomain must consist of",
    );
    contains(&refused(s, &good.replace("    image: busybox:test\n", "")), "spec.containers[0].image: Required value");
    contains(
        &refused(s, &web("web", 1).replace("replicas: 1", "replicas: -1")),
        "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
    );
    contains(
        &refused(s, &web("web", 1).replace("{matchLabels: {app: web}}", "{matchLabels: {app: other}}")),
        "`selector` does not match template `labels`",
    );
    contains(
        &refused(s, "apiVersion: apps/v9\nkind: Deployment\nmetadata: {name: x}\n"),
        "no matches for kind \"Deployment\" in version \"apps/v9\"",
    );
    let raw = s.with_input(
        &["create", "--validate=ignore", "-f", "-"],
        Some("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: 1}\n"),
    );
    contains(&raw.refused(), "cannot unmarshal number into Go struct field ConfigMap.data of type string");
    s.create(&good);
    contains(&s.with_input(&["create", "-f", "-"], Some(&good)).refused(), "pods \"pod\" already exists");
    let changed = s.kubectl(&["patch", "pod", "pod", "-p", r#"{"spec":{"restartPolicy":"Never"}}"#]).refused();
    contains(&changed, "pod updates may not change fields other than");
    contains(&s.refused("get pods absent"), "Error from server (NotFound): pods \"absent\" not found");
    contains(&s.refused("get nonsense"), "the server doesn't have a resource type \"nonsense\"");
    contains(&s.refused("delete namespace default"), "this namespace may not be deleted");
}

fn image(s: &Scene<'_>) {
    // Nobody listens there: no traffic leaves this machine.
    s.create(&shell_pod("pulls").replace("busybox:test", "localhost:1/absent/image:1"));
    let waiting = "/status/containerStatuses/0/state/waiting";
    let pod = s.until_value("pod pulls", &format!("{waiting}/reason"), LONG, |r| {
        r == "ErrImagePull" || r == "ImagePullBackOff"
    });
    let first = text(&pod, &format!("{waiting}/reason"));
    contains(&s.event("pulls", "Failed", LONG), "localhost:1/absent/image:1");
    contains(&s.event("pulls", "Pulling", SHORT), "Pulling image \"localhost:1/absent/image:1\"");
    let pod = s.until_value("pod pulls", &format!("{waiting}/reason"), LONG, |r| r == "ImagePullBackOff");
    contains(&text(&pod, &format!("{waiting}/message")), "Back-off pulling image \"localhost:1/absent/image:1\"");
    contains(&s.event("pulls", "BackOff", LONG), "Back-off pulling image \"localhost:1/absent/image:1\"");
    assert!(["ErrImagePull", "ImagePullBackOff"].contains(&first.as_str()));
    assert_eq!(pod["status"]["phase"], "Pending");
    let events = s.k("get events --field-selector reason=Failed");
    contains(&events, "Error: ErrImagePull");
    contains(
        &s.refused("logs pulls"),
        "container \"main\" in pod \"pulls\" is waiting to start: trying and failing to pull image",
    );
    // A better image is all it needs.
    s.k("set image pod/pulls main=busybox:test");
    s.k("wait --for=condition=Ready pod/pulls --timeout=80s");
}

fn image_names(s: &Scene<'_>) {
    s.create(&shell_pod("name").replace("busybox:test", "UPPER/Case"));
    let waiting = "/status/containerStatuses/0/state/waiting";
    let pod = s.until_value("pod name", &format!("{waiting}/reason"), LONG, |r| r == "InvalidImageName");
    contains(
        &text(&pod, &format!("{waiting}/message")),
        "Failed to apply default image tag \"UPPER/Case\": couldn't parse image name",
    );
    s.create(&(shell_pod("never").replace("busybox:test", "localhost:1/absent:1") + "    imagePullPolicy: Never\n"));
    let pod = s.until_value("pod never", &format!("{waiting}/reason"), LONG, |r| r == "ErrImageNeverPull");
    contains(
        &text(&pod, &format!("{waiting}/message")),
        "Container image \"localhost:1/absent:1\" is not present with pull policy of Never",
    );
}

fn unschedulable(s: &Scene<'_>) {
    s.create(&(shell_pod("huge") + "    resources: {requests: {cpu: '1000'}}\n"));
    contains(&s.event("huge", "FailedScheduling", SHORT), "0/1 nodes are available: 1 Insufficient cpu.");
    let pod = s.json("pod huge");
    let condition = pod["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["type"] == "PodScheduled"))
        .cloned();
    let condition = condition.expect("there is a PodScheduled condition");
    assert_eq!((condition["status"].as_str(), condition["reason"].as_str()), (Some("False"), Some("Unschedulable")));
    contains(condition["message"].as_str().unwrap_or_default(), "Insufficient cpu");
    contains(&s.k("get pod huge"), "Pending");
    s.create(&(shell_pod("fat") + "    resources: {requests: {memory: 9Ti}}\n"));
    contains(&s.event("fat", "FailedScheduling", SHORT), "1 Insufficient memory");
}

fn placement(s: &Scene<'_>) {
    s.create(&shell_pod("picky").replace("spec:\n", "spec:\n  nodeSelector: {shape: round}\n"));
    contains(
        &s.event("picky", "FailedScheduling", SHORT),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    );
    // A label is enough, without waiting for any retry timer.
    s.k(&format!("label node {} shape=round", s.cluster.node));
    s.pod_ready("picky");
    s.k(&format!("label node {} shape-", s.cluster.node));
}

fn node_port(s: &Scene<'_>) {
    let service = |name: &str, port: u32| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: NodePort, selector: {{app: x}}, ports: [{{port: 80, nodePort: {port}}}]}}\n"
        )
    };
    s.create(&service("first", 32111));
    contains(
        &refused(s, &service("second", 32111)),
        "spec.ports[0].nodePort: Invalid value: 32111: provided port is already allocated",
    );
    contains(
        &refused(s, &service("third", 80)),
        "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
    );
    let taken = s.cluster_ip("first");
    let clash = service("fourth", 32112).replace("type: NodePort", &format!("clusterIP: {taken}, type: NodePort"));
    contains(&refused(s, &clash), &format!("failed to allocate IP {taken}: provided IP is already allocated"));
    s.k("delete service first");
    s.create(&service("second", 32111));
}

fn command(s: &Scene<'_>) {
    s.create(&shell_pod("lost").replace("[sh, -c,", "[/absent/program,"));
    let status = "/status/containerStatuses/0";
    let pod = s.until("the failed start is told", LONG, || {
        let pod = s.find("pod lost")?;
        let told = ["state", "lastState"].iter().any(|state| {
            ["terminated", "waiting"].iter().any(|kind| {
                text(&pod, &format!("{status}/{state}/{kind}/message")).contains("no such file or directory")
            })
        });
        told.then_some(pod)
    });
    assert!(pod["status"]["containerStatuses"][0]["started"] != true);
    contains(&s.event("lost", "Failed", SHORT), "/absent/program");
}

fn references(s: &Scene<'_>) {
    let yaml = shell_pod("asks") + "    env: [{name: A, valueFrom: {configMapKeyRef: {name: absent, key: a}}}]\n";
    s.create(&yaml);
    let waiting = "/status/containerStatuses/0/state/waiting";
    let pod = s.until_value("pod asks", &format!("{waiting}/reason"), LONG, |r| r == "CreateContainerConfigError");
    contains(&text(&pod, &format!("{waiting}/message")), "configmap \"absent\" not found");
    s.k("create configmap absent --from-literal=other=1");
    s.until_value("pod asks", &format!("{waiting}/message"), LONG, |m| {
        m.as_str().is_some_and(|m| m.contains(&format!("couldn't find key a in ConfigMap {}/absent", s.ns)))
    });
    s.kubectl(&["patch", "configmap", "absent", "-p", r#"{"data":{"a":"1"}}"#]).ok();
    s.k("wait --for=condition=Ready pod/asks --timeout=80s");
    assert_eq!(s.sh("asks", "echo $A").ok(), "1\n");
}
