//! Tests of single plugins: tables of what is asked and what comes of it.

use serde_json::json;

use super::tests::{Case, admission, kind, pod};
use super::*;

fn class(group: &str, kind: &str, name: &str, mark: &str, made: &str) -> Value {
    json!({
        "apiVersion": group, "kind": kind,
        "metadata": {"name": name, "creationTimestamp": made, "annotations": {mark: "true"}},
    })
}

#[tokio::test]
async fn claims_get_the_default_class() {
    let storage = |name: &str, mark: &str, made: &str| {
        ("storageclasses", class("storage.k8s.io/v1", "StorageClass", name, mark, made))
    };
    let (mark, old_mark) =
        ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class");
    let classes = [
        storage("b", mark, "2026-01-02T00:00:00Z"),
        storage("a", old_mark, "2026-01-02T00:00:00Z"),
        storage("older", mark, "2026-01-01T00:00:00Z"),
        storage("plain", "other", "2026-01-03T00:00:00Z"),
    ];
    let mut case = Case::new(&classes);
    case.kind = kind("", "persistentvolumeclaims");
    for (spec, annotations, want) in [
        (json!({}), json!({}), json!("a")),
        (json!({"storageClassName": "mine"}), json!({}), json!("mine")),
        (json!({"storageClassName": ""}), json!({}), json!("")),
        (json!({}), json!({"volume.beta.kubernetes.io/storage-class": "x"}), Value::Null),
    ] {
        let mut claim = json!({"metadata": {"name": "x", "annotations": annotations}, "spec": spec});
        case.run(&mut claim, None).await.expect("admits");
        assert_eq!(claim["spec"]["storageClassName"], want);
        assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }
}

#[tokio::test]
async fn pods_carry_the_topology_of_their_node() {
    let (zone, region) = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region");
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {zone: "z", region: "r", "x": "y"}},
    });
    let mut case = Case::new(&[("minions", node)]);
    for (node, want) in
        [("n1", json!({zone: "z", region: "r"})), ("n2", json!({zone: "mine"})), ("", json!({zone: "mine"}))]
    {
        let mut object = pod();
        object["metadata"]["labels"] = json!({zone: "mine"});
        object["spec"]["nodeName"] = node.into();
        case.run(&mut object, None).await.expect("admits");
        assert_eq!(object["metadata"]["labels"], want, "{node}");
    }
    case.subresource = "binding";
    for (target, want) in [("Node", json!({zone: "z", region: "r"})), ("", Value::Null), ("Pod", Value::Null)] {
        let mut binding = json!({"metadata": {"name": "x"}, "target": {"kind": target, "name": "n1"}});
        case.run(&mut binding, None).await.expect("admits");
        assert_eq!(binding["metadata"]["labels"], want, "{target}");
    }
}

#[tokio::test]
async fn there_is_one_default_priority() {
    let class = |name: &str, default: bool| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 1,
            "globalDefault": default,
        })
    };
    let mut case = Case::new(&[("priorityclasses", class("first", true))]);
    case.kind = kind("scheduling.k8s.io", "priorityclasses");
    assert_eq!(case.check(&class("x", false), None).await, Ok(()));
    let taken = "priorityclasses.scheduling.k8s.io \"x\" is forbidden: PriorityClass first is already marked as default. Only one default can exist";
    assert_eq!(case.check(&class("x", true), None).await, Err(taken.to_owned()));
    case.operation = Operation::Update;
    assert_eq!(case.check(&class("first", true), Some(&class("first", true))).await, Ok(()));
    assert_eq!(case.check(&class("x", true), Some(&class("x", false))).await, Err(taken.to_owned()));
}

#[tokio::test]
async fn pod_limits_count_sidecars_and_the_pods_own_word() {
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r", "namespace": "a"},
        "spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]},
    });
    let case = Case::new(&[("limitranges", range)]);
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}, "limits": {"cpu": amount}});
    let head = "pods \"x\" is forbidden: maximum cpu usage per Pod is 1, but limit is";
    let own = json!({"containers": [{"name": "c", "resources": cpu("600m")}]});
    let with = |key: &str, value: Value| {
        let mut spec = own.clone();
        spec[key] = value;
        spec
    };
    for (spec, want) in [
        (own.clone(), Ok(())),
        // Runs before the rest.
        (with("initContainers", json!([{"name": "i", "resources": cpu("900m")}])), Ok(())),
        // Runs beside the rest.
        (
            with("initContainers", json!([{"name": "i", "restartPolicy": "Always", "resources": cpu("600m")}])),
            Err(format!("{head} 1200m")),
        ),
        (with("resources", cpu("900m")), Ok(())),
        (with("resources", cpu("2")), Err(format!("{head} 2"))),
    ] {
        let mut object = json!({"metadata": {"name": "x"}, "spec": spec});
        case.run(&mut object, None).await.expect("admits");
        assert_eq!(case.check(&object, None).await, want, "{object}");
    }
}

#[tokio::test]
async fn overhead_is_compared_by_amount() {
    let class = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "r"}, "handler": "h",
        "overhead": {"podFixed": {"memory": "1Gi", "cpu": "250m"}},
    });
    let case = Case::new(&[("runtimeclasses", class)]);
    for (given, fits) in [
        (json!({"memory": "1024Mi", "cpu": "0.25"}), true),
        (json!({"memory": "1Gi"}), false),
        (json!({"memory": "1Gi", "cpu": "251m"}), false),
    ] {
        let mut object = pod();
        object["spec"]["runtimeClassName"] = "r".into();
        object["spec"]["overhead"] = given;
        let text =
            "pods \"x\" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        let want = if fits { Ok(()) } else { Err(text.to_owned()) };
        assert_eq!(case.run(&mut object, None).await, want);
    }
}

#[tokio::test]
async fn accounts_may_limit_the_secrets_of_their_pods() {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "secrets": [{"name": "s"}], "imagePullSecrets": [{"name": "p"}],
        "metadata": {
            "name": "strict", "namespace": "a", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"},
        },
    });
    let case = Case::new(&[("serviceaccounts", account)]);
    let env = |key: &str, secret: &str| match key {
        "env" => json!([{"name": "c", "env": [{"name": "V", "valueFrom": {"secretKeyRef": {"name": secret}}}]}]),
        _ => json!([{"name": "c", "envFrom": [{"secretRef": {"name": secret}}]}]),
    };
    let tail = "is not allowed because service account strict does not reference that";
    for (field, value, want) in [
        ("volumes", json!([{"name": "v", "secret": {"secretName": "s"}}]), None),
        (
            "volumes",
            json!([{"name": "v", "secret": {"secretName": "t"}}]),
            Some(format!("volume with secret.secretName=\"t\" {tail} secret")),
        ),
        ("containers", env("env", "s"), None),
        (
            "containers",
            env("env", "t"),
            Some(format!("container c with envVar V referencing secret.secretName=\"t\" {tail} secret")),
        ),
        (
            "initContainers",
            env("envFrom", "t"),
            Some(format!("init container c with envFrom referencing secret.secretName=\"t\" {tail} secret")),
        ),
        ("imagePullSecrets", json!([{"name": "p"}]), None),
        (
            "imagePullSecrets",
            json!([{"name": "p"}, {"name": "q"}]),
            Some(format!("imagePullSecrets[1].name=\"q\" {tail} imagePullSecret")),
        ),
    ] {
        let mut object = pod();
        object["spec"]["serviceAccountName"] = "strict".into();
        object["spec"][field] = value;
        let want = want.map(|text| format!("pods \"x\" is forbidden: {text}")).map_or(Ok(()), Err);
        assert_eq!(case.run(&mut object, None).await, want, "{object}");
    }
}

#[tokio::test]
async fn nodes_keep_to_their_own() {
    let slice = |node: &str| json!({"metadata": {"name": "s"}, "spec": {"nodeName": node}});
    let mut case = Case::new(&[]);
    case.user = User::new("system:node:n1", &["system:nodes"]);
    case.kind = kind("resource.k8s.io", "resourceslices");
    case.name = "s";
    let text = |verb: &str| {
        Err(format!(
            "resourceslices.resource.k8s.io \"s\" is forbidden: can only {verb} ResourceSlice with the same NodeName as the requesting node"
        ))
    };
    assert_eq!(case.run(&mut slice("n1"), None).await, Ok(()));
    assert_eq!(case.run(&mut slice("n2"), None).await, text("create"));
    assert_eq!(case.run(&mut slice(""), None).await, text("create"));
    case.operation = Operation::Delete;
    assert_eq!(case.run(&mut Value::Null, None).await, Ok(()));
    assert_eq!(case.delete(&slice("n1")).await, Ok(()));
    assert_eq!(case.delete(&slice("n2")).await, text("delete"));

    case.kind = kind("", "persistentvolumeclaims");
    case.name = "c";
    case.operation = Operation::Update;
    let claim = |size: &str, label: &str| {
        json!({
            "metadata": {"name": "c", "labels": {"l": label}}, "spec": {"volumeName": "v"},
            "status": {"capacity": {"storage": size}},
        })
    };
    let refused = |text: &str| Err(format!("persistentvolumeclaims \"c\" is forbidden: {text}"));
    let old = claim("1Gi", "a");
    assert_eq!(case.run(&mut claim("2Gi", "a"), Some(&old)).await, refused("may only update PVC status"));
    case.subresource = "status";
    assert_eq!(case.run(&mut claim("2Gi", "a"), Some(&old)).await, Ok(()));
    assert_eq!(
        case.run(&mut claim("2Gi", "b"), Some(&old)).await,
        refused(
            "node \"n1\" is not allowed to update fields other than status.quantity and status.conditions: metadata.labels"
        )
    );
}

#[tokio::test]
async fn nodes_ask_for_tokens_that_their_pods_use() {
    let mut running = pod();
    running["metadata"] = json!({"name": "p", "namespace": "a", "uid": "u"});
    running["spec"]["nodeName"] = "n1".into();
    running["spec"]["volumes"] = json!([
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault", "path": "t"}}]}},
        {"name": "d", "csi": {"driver": "csi.example.com"}},
    ]);
    let driver = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "csi.example.com"},
        "spec": {"tokenRequests": [{"audience": "csi"}]},
    });
    let mut case = Case::new(&[("pods", running), ("csidrivers", driver)]);
    case.user = User::new("system:node:n1", &["system:nodes"]);
    case.kind = kind("", "serviceaccounts");
    case.subresource = "token";
    case.name = "default";
    let head = "serviceaccounts \"default\" is forbidden:";
    for (reference, audiences, want) in [
        (json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}), json!(["vault"]), Ok(())),
        (json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}), json!(["csi"]), Ok(())),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}),
            json!(["other"]),
            Err(format!(
                "{head} audience \"other\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience"
            )),
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}),
            json!(["csi", "vault"]),
            Err(format!("{head} node may only request 0 or 1 audiences")),
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "uid": "u"}),
            json!(["csi"]),
            Err(format!("{head} node requested token not bound to a pod")),
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p"}),
            json!(["csi"]),
            Err(format!("{head} node requested token with a pod binding without a uid")),
        ),
        (Value::Null, json!(["csi"]), Err(format!("{head} node requested token not bound to a pod"))),
    ] {
        let mut asked = json!({"spec": {"audiences": audiences, "boundObjectRef": reference}});
        assert_eq!(case.run(&mut asked, None).await, want, "{asked}");
    }
}

#[tokio::test]
async fn mirror_pods_refer_to_nothing() {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "7"}});
    let mut case = Case::new(&[("minions", node)]);
    case.user = User::new("system:node:n1", &["system:nodes"]);
    let mirror = |change: &dyn Fn(&mut Value)| {
        let mut object = pod();
        object["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "7", "controller": true}]);
        object["spec"]["nodeName"] = "n1".into();
        change(&mut object);
        object
    };
    let refused = |text: &str| Err(format!("pods \"x\" is forbidden: node {text}"));
    let table: &[(&dyn Fn(&mut Value), Result<(), String>)] = &[
        (&|_| {}, Ok(())),
        (
            &|pod| {
                pod["spec"]["volumes"] =
                    json!([{"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}]}}])
            },
            refused("\"n1\" can not create pods that reference configmaps"),
        ),
        (
            &|pod| pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
            refused("\"n1\" can not create pods that reference persistentvolumeclaims"),
        ),
        (
            &|pod| pod["metadata"]["ownerReferences"][0]["uid"] = "8".into(),
            refused("n1 UID mismatch: expected 8 got 7"),
        ),
        (
            &|pod| pod["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = true.into(),
            refused("\"n1\" must not set blockOwnerDeletion on an owner reference"),
        ),
        (
            &|pod| pod["metadata"]["ownerReferences"] = json!([]),
            refused("\"n1\" can only create pods with an owner reference set to itself"),
        ),
    ];
    for (change, want) in table {
        assert_eq!(case.run(&mut mirror(change), None).await, *want);
    }
}

fn enabled(name: &str, objects: &[(&str, Value)]) -> Case<'static> {
    let mut case = Case::new(objects);
    case.config.enable = vec![name.to_owned()];
    case
}

#[tokio::test]
async fn images_are_always_pulled() {
    let case = enabled("AlwaysPullImages", &[]);
    let mut object = pod();
    object["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    object["spec"]["initContainers"] = json!([{"name": "i", "image": "x"}]);
    case.run(&mut object, None).await.expect("admits");
    assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(object["spec"]["initContainers"][0]["imagePullPolicy"], "Always");
}

#[tokio::test]
async fn services_claim_no_addresses_from_outside() {
    let mut case = enabled("DenyServiceExternalIPs", &[]);
    case.kind = kind("", "services");
    let service = |ips: Value| json!({"metadata": {"name": "x"}, "spec": {"externalIPs": ips}});
    let (none, one, two) = (service(json!([])), service(json!(["1.1.1.1"])), service(json!(["1.1.1.1", "2.2.2.2"])));
    let text = "services \"x\" is forbidden: Use of external IPs is denied by admission control.";
    assert_eq!(case.check(&none, None).await, Ok(()));
    assert_eq!(case.check(&one, None).await, Err(text.to_owned()));
    case.operation = Operation::Update;
    assert_eq!(case.check(&one, Some(&two)).await, Ok(()));
    assert_eq!(case.check(&two, Some(&one)).await, Err(text.to_owned()));
}

#[tokio::test]
async fn vendors_resources_bring_their_toleration() {
    let case = enabled("ExtendedResourceToleration", &[]);
    let mut object = pod();
    object["spec"]["containers"][0]["resources"] = json!({"requests": {"example.com/gpu": "1", "cpu": "1"}});
    case.run(&mut object, None).await.expect("admits");
    let wanted = json!({"key": "example.com/gpu", "operator": "Exists"});
    let tolerations = list(&object["spec"], "tolerations");
    assert_eq!(tolerations.iter().filter(|toleration| **toleration == wanted).count(), 1);
}

#[tokio::test]
async fn pods_keep_apart_by_host_only() {
    let case = enabled("LimitPodHardAntiAffinityTopology", &[]);
    for (key, fits) in [("kubernetes.io/hostname", true), ("zone", false)] {
        let mut object = pod();
        case.run(&mut object, None).await.expect("admits");
        let term = json!([{"topologyKey": key}]);
        object["spec"]["affinity"] =
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        let text = "pods \"x\" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed";
        assert_eq!(case.check(&object, None).await, if fits { Ok(()) } else { Err(text.to_owned()) });
    }
}

#[tokio::test]
async fn owners_are_set_by_those_who_may() {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r", "namespace": "a"},
        "rules": [{"apiGroups": ["apps"], "resources": ["replicasets/finalizers"], "verbs": ["update"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b", "namespace": "a"},
        "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}],
    });
    let mut case = enabled("OwnerReferencesPermissionEnforcement", &[("roles", role), ("rolebindings", binding)]);
    case.user = User::new("u", &[]);
    case.kind = kind("", "configmaps");
    let owned = |kind: &str, blocks: bool| {
        json!({"metadata": {"name": "x", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "1", "blockOwnerDeletion": blocks},
        ]}})
    };
    let head = "configmaps \"x\" is forbidden: cannot set";
    assert_eq!(case.check(&owned("Deployment", false), None).await, Ok(()));
    assert_eq!(case.check(&owned("ReplicaSet", true), None).await, Ok(()));
    assert_eq!(
        case.check(&owned("Deployment", true), None).await,
        Err(format!(
            "{head} blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
        ))
    );
    case.operation = Operation::Update;
    assert_eq!(
        case.check(&owned("Deployment", false), Some(&json!({"metadata": {"name": "x"}}))).await,
        Err(format!("{head} an ownerRef on a resource you can't delete: , <nil>"))
    );
    assert_eq!(case.check(&owned("Deployment", true), Some(&owned("Deployment", true))).await, Ok(()));
}

#[tokio::test]
async fn nothing_is_admitted() {
    let mut case = enabled("AlwaysDeny", &[]);
    case.kind = kind("", "configmaps");
    let text = "configmaps \"x\" is forbidden: admission control is denying all modifications";
    assert_eq!(case.check(&json!({"metadata": {"name": "x"}}), None).await, Err(text.to_owned()));
}

#[test]
fn plugins_run_in_upstreams_order() {
    let reader = crate::authz::tests::FakeReader::with(&[]);
    let order = |config: &AdmissionConfig| -> Vec<&'static str> {
        let authorizer = Arc::new(Authorizer::new(reader.clone()));
        let admission = admission(config, authorizer);
        admission.plugins.iter().map(|plugin| plugin.name()).collect()
    };
    let wanted = [
        "NamespaceLifecycle",
        "LimitRanger",
        "ServiceAccount",
        "NodeRestriction",
        "TaintNodesByCondition",
        "PodSecurity",
        "Priority",
        "DefaultTolerationSeconds",
        "DefaultStorageClass",
        "StorageObjectInUseProtection",
        "PersistentVolumeClaimResize",
        "RuntimeClass",
        "CertificateApproval",
        "CertificateSigning",
        "CertificateSubjectRestriction",
        "DefaultIngressClass",
        "PodTopologyLabels",
        "ResourceQuota",
    ];
    // Others may come in between; these keep their order.
    let named = |config: &AdmissionConfig| -> Vec<&'static str> {
        order(config).into_iter().filter(|name| wanted.contains(name)).collect()
    };
    assert_eq!(named(&AdmissionConfig::default()), wanted);
    let config = AdmissionConfig { disable: vec!["DefaultStorageClass".to_owned()], ..AdmissionConfig::default() };
    assert!(!order(&config).contains(&"DefaultStorageClass"));
}
