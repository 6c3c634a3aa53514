//! Pods: defaults, validation, updates, rows, binding.

use apimachinery::validation::ErrorList;
use serde_json::{Value, json};

use super::{BindError, Pod, apply_binding, validate_binding};
use crate::kind::Strategy;
use crate::testing::{cx, messages};

/// A defaulted pod with these fields of the spec.
fn pod(spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "img:1"}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    Pod.default(&mut pod);
    pod
}

/// A pod with these fields of its container.
fn container(fields: Value) -> Value {
    let mut own = json!({"name": "c", "image": "img:1"});
    for (key, value) in fields.as_object().into_iter().flatten() {
        own[key] = value.clone();
    }
    pod(json!({"containers": [own]}))
}

fn created(spec: Value) -> Value {
    let mut pod = pod(spec);
    Pod.prepare_for_create(&cx(""), &mut pod);
    pod
}

fn validate(pod: &Value) -> ErrorList {
    Pod.validate(&cx(""), pod)
}

#[test]
fn defaults() {
    let pod = pod(json!({"serviceAccount": "sa", "hostNetwork": true, "terminationGracePeriodSeconds": -3,
        "containers": [{
            "name": "c", "image": "reg.example.com:5000/img", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "0.5m"}},
            "livenessProbe": {"grpc": {"port": 9}}, "lifecycle": {"preStop": {"httpGet": {"port": 1}}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        }],
        "volumes": [{"name": "e"}, {"name": "h", "hostPath": {"path": "/x"}}, {"name": "s", "secret": {"secretName": "s"}}],
    }));
    let spec = &pod["spec"];
    let container = &spec["containers"][0];
    let table = [
        (&spec["serviceAccountName"], json!("sa")),
        (&spec["terminationGracePeriodSeconds"], json!(1)),
        (&spec["dnsPolicy"], json!("ClusterFirst")),
        (&spec["restartPolicy"], json!("Always")),
        (&spec["enableServiceLinks"], json!(true)),
        (&spec["securityContext"], json!({})),
        (&container["imagePullPolicy"], json!("Always")),
        (&container["ports"][0], json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})),
        (&container["resources"], json!({"limits": {"cpu": "1m"}, "requests": {"cpu": "1m"}})),
        (&container["livenessProbe"]["grpc"], json!({"port": 9, "service": ""})),
        (&container["livenessProbe"]["failureThreshold"], json!(3)),
        (&container["lifecycle"]["preStop"]["httpGet"], json!({"port": 1, "path": "/", "scheme": "HTTP"})),
        (&container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], json!("v1")),
        (&spec["volumes"][0], json!({"name": "e", "emptyDir": {}})),
        (&spec["volumes"][1]["hostPath"]["type"], json!("")),
        (&spec["volumes"][2]["secret"]["defaultMode"], json!(420)),
    ];
    for (i, (got, expected)) in table.into_iter().enumerate() {
        assert_eq!(*got, expected, "row {i}");
    }
    let mut again = pod.clone();
    Pod.default(&mut again);
    assert_eq!(again, pod, "defaulting twice changes nothing");
}

#[test]
fn pod_level_resources() {
    let pod = pod(json!({
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1", "memory": "100Mi"}}}],
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
    }));
    assert_eq!(pod["spec"]["resources"]["requests"], json!({"cpu": "1", "memory": "100Mi"}));
    assert!(validate(&pod).is_empty());
}

#[test]
fn quality_of_service() {
    let class = |resources: Value| {
        created(json!({"containers": [{"name": "c", "image": "i", "resources": resources}]}))["status"]["qosClass"]
            .clone()
    };
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
}

#[test]
fn gated_pods_say_so() {
    let pod = created(json!({"schedulingGates": [{"name": "a"}]}));
    assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    assert_eq!(Pod.row(&pod, cx("").now)[2], "SchedulingGated");
}

#[test]
fn label_keys_become_requirements() {
    let mut pod = pod(json!({"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"a": "b"}}, "matchLabelKeys": ["hash", "missing"],
    }]}));
    pod["metadata"]["labels"] = json!({"hash": "1"});
    Pod.prepare_for_create(&cx(""), &mut pod);
    assert_eq!(
        pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"],
        json!([{"key": "hash", "operator": "In", "values": ["1"]}])
    );
    assert!(validate(&pod).is_empty());
}

#[test]
fn app_armor_annotation_and_field_follow_each_other() {
    let key = "container.apparmor.security.beta.kubernetes.io/c";
    let mut pod = pod(json!({}));
    pod["metadata"]["annotations"] = json!({key: "runtime/default"});
    assert_eq!(Pod.early_warnings(&cx(""), &pod).len(), 1);
    Pod.prepare_for_create(&cx(""), &mut pod);
    let profile = &pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"];
    assert_eq!(*profile, json!({"type": "RuntimeDefault"}));

    let mut pod = self::pod(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}));
    assert!(Pod.early_warnings(&cx(""), &pod).is_empty());
    Pod.prepare_for_create(&cx(""), &mut pod);
    assert_eq!(pod["metadata"]["annotations"][key], "unconfined");
}

#[test]
fn validation_messages() {
    let table: Vec<(Value, &[&str])> = vec![
        (pod(json!({})), &[]),
        (pod(json!({"containers": []})), &["spec.containers: Required value"]),
        (
            container(json!({"ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]})),
            &["spec.containers[0].ports[1].name: Duplicate value: \"a\""],
        ),
        (
            container(
                json!({"env": [{"name": "a=b"}, {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.foo"}}}]}),
            ),
            &[
                "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.foo\": error converting fieldPath: field label not supported: metadata.foo",
                "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        ),
        (
            container(
                json!({"resources": {"requests": {"foo": "1", "example.com/gpu": "1"}, "limits": {"example.com/gpu": "2"}}}),
            ),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2",
                "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
                "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            ],
        ),
        (
            container(
                json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": "UP"}, "successThreshold": 2}}),
            ),
            &[
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "stopSignal": "SIGTERM"}})),
            &[
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
                "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
            ],
        ),
        (
            container(json!({"restartPolicyRules": [{"action": "Restart"}]})),
            &[
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            ],
        ),
        (
            pod(json!({"volumes": [{"name": "v", "emptyDir": {}, "nfs": {}}, {"name": "w", "projected": {"sources": [
                {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}, "configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}},
            ]}}]})),
            &[
                "spec.volumes[0].nfs: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[1].projected: Invalid value: \"c\": conflicting duplicate paths",
                "spec.volumes[1].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
            ],
        ),
        (pod(json!({"hostUsers": false, "hostPID": true})), &["spec.HostPID: Forbidden: when `hostUsers` is false"]),
        (
            pod(json!({"os": {"name": "windows"}, "securityContext": {"runAsUser": 1}})),
            &["spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod"],
        ),
        (
            pod(json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b", "effect": "Never"}]})),
            &[
                "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
                "spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        ),
        (
            pod(json!({"dnsPolicy": "None"})),
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            pod(json!({"overhead": {"cpu": "-1"}, "priorityClassName": "A_"})),
            &[
                "spec.priorityClassName: Invalid value: \"A_\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            pod(
                json!({"nodeName": "n", "schedulingGates": [{"name": "a"}, {"name": "a"}], "ephemeralContainers": [{"name": "e", "image": "i"}]}),
            ),
            &[
                "spec.schedulingGates[1]: Duplicate value: \"a\"",
                "spec.ephemeralContainers: Forbidden: cannot be set on create",
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ],
        ),
    ];
    for (pod, expected) in table {
        assert_eq!(messages(&validate(&pod)), expected, "{}", pod["spec"]);
    }
}

#[test]
fn updates_tell_what_they_may_not_change() {
    let old = created(json!({}));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("img:2");
    assert!(Pod.validate_update(&cx(""), &new, &old).is_empty());
    new["spec"]["nodeName"] = json!("n1");
    let errors = Pod.validate_update(&cx(""), &new, &old);
    let text = messages(&errors).join("\n");
    assert!(
        text.starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"),
        "{text}"
    );
    let hunk = " \"ServiceAccountName\": \"\",\n  \"AutomountServiceAccountToken\": null,\n- \"NodeName\": \"\",\n+ \"NodeName\": \"n1\",\n  \"SecurityContext\": {\n";
    assert!(text.contains(hunk), "{text}");

    let gated = created(json!({"schedulingGates": [{"name": "a"}]}));
    let mut new = gated.clone();
    new["spec"]["nodeSelector"] = json!({"a": "b"});
    new["spec"]["schedulingGates"] = json!([]);
    assert!(Pod.validate_update(&cx(""), &new, &gated).is_empty(), "a gated pod may get a stricter selector");
}

#[test]
fn generation_follows_the_spec() {
    let old = created(json!({}));
    for (field, value, expected) in [("activeDeadlineSeconds", json!(5), 2), ("restartPolicy", json!("Always"), 1)] {
        let mut new = old.clone();
        new["spec"][field] = value;
        new["status"] = json!({"phase": "Running"});
        Pod.prepare_for_update(&cx(""), &mut new, &old);
        assert_eq!(new["metadata"]["generation"], expected, "{field}");
        assert_eq!(new["status"], old["status"]);
    }
}

#[test]
fn subresources_keep_the_rest() {
    let old = created(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("other");
    new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
    new["spec"]["ephemeralContainers"] =
        json!([{"name": "e", "image": "i", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}]);
    new["status"] = json!({"phase": "Running"});

    let mut status = new.clone();
    Pod.prepare_for_update(&cx("status"), &mut status, &old);
    assert_eq!(status["spec"], old["spec"]);
    assert_eq!(status["status"], json!({"phase": "Running", "qosClass": "Burstable"}));
    assert!(Pod.validate_update(&cx("status"), &status, &old).is_empty());

    let mut resize = new.clone();
    Pod.prepare_for_update(&cx("resize"), &mut resize, &old);
    assert_eq!(resize["spec"]["containers"][0]["image"], "i");
    assert_eq!(resize["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
    assert_eq!((&resize["status"], &resize["metadata"]["generation"]), (&old["status"], &json!(2)));
    assert!(Pod.validate_update(&cx("resize"), &resize, &old).is_empty());

    let mut debug = new;
    Pod.prepare_for_update(&cx("ephemeralcontainers"), &mut debug, &old);
    assert_eq!(debug["spec"]["containers"], old["spec"]["containers"]);
    assert!(Pod.validate_update(&cx("ephemeralcontainers"), &debug, &old).is_empty());
    let mut gone = debug.clone();
    gone["spec"]["ephemeralContainers"] = json!([]);
    assert_eq!(
        messages(&Pod.validate_update(&cx("ephemeralcontainers"), &gone, &debug)),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"]
    );
}

#[test]
fn ended_containers_stay_ended() {
    let mut old = created(json!({"restartPolicy": "Never"}));
    old["status"]["containerStatuses"] = json!([{"name": "c", "state": {"terminated": {"exitCode": 1}}}]);
    let mut new = old.clone();
    new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    assert_eq!(
        messages(&Pod.validate_update(&cx("status"), &new, &old)),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
}

#[test]
fn rows() {
    let now = "2026-01-01T00:10:00Z".parse().expect("a constant time");
    let row = |status: Value| {
        let mut pod = pod(json!({"nodeName": "n1", "initContainers": [{"name": "i", "image": "i"}]}));
        pod["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["status"] = status;
        Pod.row(&pod, now)
    };
    let table = [
        (json!({"phase": "Pending"}), json!(["x", "0/1", "Pending", "0", "10m", "<none>", "n1", "<none>", "<none>"])),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
            json!(["x", "0/1", "Init:0/1", "0", "10m", "<none>", "n1", "<none>", "<none>"]),
        ),
        (
            json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [
                {"name": "c", "ready": true, "restartCount": 2, "state": {"running": {}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}}]}),
            json!(["x", "1/1", "Running", "2 (5m ago)", "10m", "10.0.0.1", "n1", "<none>", "<none>"]),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            json!(["x", "0/1", "CrashLoopBackOff", "0", "10m", "<none>", "n1", "<none>", "<none>"]),
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
            json!(["x", "0/1", "ExitCode:3", "0", "10m", "<none>", "n1", "<none>", "<none>"]),
        ),
    ];
    for (status, expected) in table {
        assert_eq!(json!(row(status.clone())), expected, "{status}");
    }
    assert_eq!(Pod.row_conditions(&json!({"status": {"phase": "Failed"}}))[0]["reason"], "Failed");
}

#[test]
fn graces() {
    let scheduled = pod(json!({"nodeName": "n"}));
    assert_eq!(Pod.grace_period(&scheduled, None), Some(30));
    assert_eq!(Pod.grace_period(&scheduled, Some(0)), Some(0));
    assert_eq!(Pod.grace_period(&scheduled, Some(-5)), Some(1));
    assert_eq!(Pod.grace_period(&pod(json!({})), Some(9)), Some(0), "nothing runs yet");
}

#[test]
fn binding() {
    let binding = |target: Value| json!({"metadata": {"name": "x"}, "target": target});
    assert!(validate_binding(&binding(json!({"kind": "Node", "name": "n"}))).is_empty());
    assert_eq!(
        messages(&validate_binding(&binding(json!({"kind": "Foo"})))),
        [
            "target.kind: Unsupported value: \"Foo\": supported values: \"Node\", \"<empty>\"",
            "target.name: Required value",
        ]
    );
    let mut pod = created(json!({}));
    let to = binding(json!({"name": "n1"}));
    apply_binding(&mut pod, &to, cx("").now).expect("an unbound pod");
    assert_eq!((&pod["spec"]["nodeName"], &pod["metadata"]["generation"]), (&json!("n1"), &json!(1)));
    assert_eq!(
        pod["status"]["conditions"],
        json!([{"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-02T03:04:05Z"}])
    );
    let again = apply_binding(&mut pod, &to, cx("").now);
    assert_eq!(again, Err(BindError::Conflict("pod x is already assigned to node \"n1\"".to_owned())));
}

#[test]
fn warnings_of_a_pod() {
    let pod = pod(json!({
        "nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}],
        "containers": [{
            "name": "c", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A"}],
            "resources": {"limits": {"memory": "100m"}},
            "ports": [{"containerPort": 1}, {"containerPort": 1}],
        }],
    }));
    assert_eq!(
        Pod.warnings(&cx(""), &pod, None),
        [
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.imagePullSecrets[1].name: duplicate name \"a\"",
            "spec.imagePullSecrets[2].name: invalid empty name \"\"",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ]
    );
}
