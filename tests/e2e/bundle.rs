//! What people install: an operator's hundred objects, and what Helm would send. As is, twice, by both kubectls.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use kedge_tests::command::until;
use kedge_tests::kubectl::Kubectl;
use serde_json::{Value, json};

use crate::plane::{LIMIT, Plane};
use crate::scene::{contains, text};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "bundle_operator_client_side", run: Run::Before(client_side) },
    Scenario { name: "bundle_operator_server_side", run: Run::Before(server_side) },
    Scenario { name: "bundle_operator_old_kubectl", run: Run::Before(old_kubectl) },
    Scenario { name: "bundle_helm_release", run: Run::Before(helm) },
];

const KINDS: usize = 8;

fn stream(objects: &[Value]) -> String {
    objects.iter().fold(String::new(), |mut all, object| {
        let _ = write!(all, "---\n{object}\n");
        all
    })
}

fn object(api: &str, kind: &str, name: &str, more: Value) -> Value {
    let mut object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": {
        "app.kubernetes.io/name": "operator", "app.kubernetes.io/managed-by": "bundle"}}});
    let cluster = ["Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PriorityClass"];
    if !cluster.contains(&kind) && !kind.ends_with("WebhookConfiguration") {
        object["metadata"]["namespace"] = "operator-system".into();
    }
    for (field, value) in more.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    object
}

fn definition(n: usize) -> Value {
    let condition = json!({"type": "object", "required": ["type", "status"], "properties": {
        "type": {"type": "string", "maxLength": 316}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "lastTransitionTime": {"type": "string", "format": "date-time"}, "reason": {"type": "string"},
        "message": {"type": "string"}}});
    let selector = json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
        "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}}});
    let schema = json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        "spec": {"type": "object", "required": ["replicas"], "properties": {
            "replicas": {"type": "integer", "format": "int32", "minimum": 0, "default": 1},
            "selector": selector,
            "template": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "storage": {"type": "object", "properties": {
                "size": {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi)$", "default": "1Gi"},
                "class": {"type": "string", "nullable": true}}},
            "rules": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "maxItems": 50,
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string", "maxLength": 63}, "weight": {"type": "integer", "default": 10}}}}},
            "x-kubernetes-validations": [{"rule": "self.replicas <= 10", "message": "at most ten replicas"}]},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "observedGeneration": {"type": "integer", "format": "int64"},
            "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                "items": condition}}}}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {},
                "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
            "additionalPrinterColumns": [
                {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}]})
    };
    object(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &format!("engine{n}s.bundle.kedge.dev"),
        json!({"spec": {"group": "bundle.kedge.dev", "scope": "Namespaced",
            "names": {"plural": format!("engine{n}s"), "singular": format!("engine{n}"), "kind": format!("Engine{n}"),
                "listKind": format!("Engine{n}List"), "shortNames": [format!("e{n}")], "categories": ["engines"]},
            "versions": [version("v1alpha1", false), version("v1", true)]}}),
    )
}

fn pod(account: &str) -> Value {
    json!({"metadata": {"labels": {"app": account}}, "spec": {"serviceAccountName": account,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "manager", "image": "registry.invalid/operator:v1", "args": ["--leader-elect"],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "ports": [{"containerPort": 9443, "name": "webhook"}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8081}},
            "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}})
}

/// Everything but the definitions; with the namespace first.
fn objects() -> Vec<Value> {
    let mut all = vec![object("v1", "Namespace", "operator-system", json!({}))];
    let rbac = "rbac.authorization.k8s.io/v1";
    for n in 0..10 {
        let name = format!("operator-{n}");
        let labels = json!({"matchLabels": {"app": name}});
        all.push(object("v1", "ServiceAccount", &name, json!({})));
        let rules = json!([{"apiGroups": ["bundle.kedge.dev"], "resources": ["*"], "verbs": ["get", "list", "watch", "update"]}]);
        all.push(object(rbac, "ClusterRole", &name, json!({"rules": rules})));
        all.push(object(
            rbac,
            "ClusterRoleBinding",
            &name,
            json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "operator-system"}]}),
        ));
        all.push(object(
            "v1",
            "ConfigMap",
            &name,
            json!({"data": {"config.yaml": "a: 1\nb:\n- c\n", "n": n.to_string()}}),
        ));
        all.push(object(
            "v1",
            "Service",
            &name,
            json!({"spec": {"selector": {"app": name},
            "ports": [{"name": "https", "port": 443, "targetPort": "webhook"}]}}),
        ));
        all.push(object(
            "apps/v1",
            "Deployment",
            &name,
            json!({"spec": {"replicas": 1, "selector": labels, "template": pod(&name)}}),
        ));
    }
    for n in 0..3 {
        let name = format!("extra-{n}");
        let labels = json!({"matchLabels": {"app": name}});
        all.push(object(
            rbac,
            "Role",
            &name,
            json!({"rules": [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}]}),
        ));
        all.push(object(
            rbac,
            "RoleBinding",
            &name,
            json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "operator-0", "namespace": "operator-system"}]}),
        ));
        all.push(object("v1", "Secret", &name, json!({"type": "Opaque", "data": {"password": "eA=="}})));
        all.push(object(
            "policy/v1",
            "PodDisruptionBudget",
            &name,
            json!({"spec": {"minAvailable": "50%", "selector": labels}}),
        ));
        all.push(object(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            &name,
            json!({"spec": {
            "podSelector": labels, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 9443, "protocol": "TCP"}]}]}}),
        ));
    }
    all.push(object("scheduling.k8s.io/v1", "PriorityClass", "operator", json!({"value": 1000, "description": "d"})));
    all.push(object("batch/v1", "CronJob", "backup", json!({"spec": {"schedule": "@yearly", "jobTemplate": {"spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "registry.invalid/b"}]}}}}}})));
    all.push(object(
        "apps/v1",
        "DaemonSet",
        "agent",
        json!({"spec": {
        "selector": {"matchLabels": {"app": "operator-0"}}, "template": pod("operator-0")}}),
    ));
    let mut hook = json!({"name": "engines.bundle.kedge.dev", "failurePolicy": "Ignore", "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
        "clientConfig": {"service": {"name": "operator-0", "namespace": "operator-system", "path": "/mutate"}},
        "rules": [{"apiGroups": ["bundle.kedge.dev"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"], "scope": "*"}]});
    let admission = "admissionregistration.k8s.io/v1";
    all.push(object(admission, "MutatingWebhookConfiguration", "operator", json!({"webhooks": [hook]})));
    hook["clientConfig"]["service"]["path"] = "/validate".into();
    all.push(object(admission, "ValidatingWebhookConfiguration", "operator", json!({"webhooks": [hook]})));
    for n in 0..2 * KINDS {
        let version = if n % 2 == 0 { "v1" } else { "v1alpha1" };
        all.push(object(
            &format!("bundle.kedge.dev/{version}"),
            &format!("Engine{}", n % KINDS),
            &format!("engine-{n}"),
            json!({"spec": {"replicas": n % 5, "port": if n % 3 == 0 { json!("http") } else { json!(80) },
                "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"free": "form"}}},
                "storage": {"class": "fast"}, "rules": [{"name": "one"}, {"name": "two", "weight": 3}]}}),
        ));
    }
    all
}

/// The words of kubectl's lines: how often each (`created`, `unchanged`).
fn tally(output: &str) -> BTreeMap<String, usize> {
    let mut words = BTreeMap::new();
    for line in output.lines() {
        // Their selector, and lists whose items have defaults, are replaced by every patch: kubectl always finds
        // something to do, here as everywhere. The generations say that nothing changed.
        let always = line.starts_with("poddisruptionbudget") || line.starts_with("engine");
        let line = if always { line.replace("configured", "unchanged") } else { line.to_owned() };
        *words.entry(line.rsplit(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    words
}

fn versions(kubectl: &Kubectl, file: &str) -> BTreeMap<String, String> {
    let list = kubectl.run(&["get", "-f", file, "-o", "json"], None).ok();
    let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
    // A controller writes status; the generation is what the user's objects went through.
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let key = |object: &Value| format!("{}/{}", text(object, "/kind"), text(object, "/metadata/name"));
    items.iter().map(|object| (key(object), object["metadata"]["generation"].to_string())).collect()
}

fn install(p: &Plane, kubectl: &Kubectl, flags: &[&str], first: &str, second: &str) {
    let definitions: Vec<Value> = (0..KINDS).map(definition).collect();
    let objects = objects();
    assert!(definitions.len() + objects.len() >= 100, "{}", definitions.len() + objects.len());
    let all = p.file("all.yaml", &stream(&[definitions.clone(), objects].concat())).display().to_string();
    let crds = p.file("crds.yaml", &stream(&definitions)).display().to_string();
    let apply = |file: &str| kubectl.run(&[&["apply", "-f", file], flags].concat(), None);
    // All in one: kubectl knows the kinds only afterwards, everything else is made.
    let early = apply(&all);
    contains(&early.stderr, "ensure CRDs are installed first");
    let count = objects_made(&early.stdout);
    assert!(count >= 80, "{count} of {}", early.text());
    assert_eq!(tally(&apply(&crds).ok()), BTreeMap::from([(second.to_owned(), KINDS)]));
    for n in 0..KINDS {
        p.established(&format!("engine{n}s.bundle.kedge.dev"));
    }
    let rest = apply(&all).ok();
    let others: Vec<String> = tally(&rest).into_keys().filter(|word| word != first && word != second).collect();
    assert!(others.is_empty(), "{others:?} in {rest}");
    let before = versions(kubectl, &all);
    let again = apply(&all).ok();
    assert_eq!(tally(&again), BTreeMap::from([(second.to_owned(), before.len())]), "{again}");
    assert_eq!(versions(kubectl, &all), before);
    assert_eq!(kubectl.run(&["diff", "-f", &all], None).code, Some(0), "nothing differs");
    contains(
        &kubectl.run(&["get", "engines", "-n", "operator-system"], None).ok(),
        "engine3.bundle.kedge.dev/engine-11",
    );
    let refused = p.run(r#"patch e1 engine-1 -n operator-system --type=merge -p {"spec":{"replicas":11}}"#).refused();
    contains(&refused, "at most ten replicas");
    contains(&p.k("scale e1 engine-1 -n operator-system --replicas=6"), "scaled");
    until("pods of the deployments are made", LIMIT, || {
        (p.k("get pods -n operator-system -o name").lines().count() >= 10).then_some(())
    });
    // What is in the namespace goes with it, before kubectl comes to it.
    kubectl.run(&["delete", "-f", &all, "--timeout=60s", "--ignore-not-found"], None).ok();
    p.until_gone("namespace operator-system");
    p.until_gone("crd engine0s.bundle.kedge.dev");
}

fn objects_made(output: &str) -> usize {
    output.lines().filter(|line| line.ends_with("created") || line.ends_with("applied")).count()
}

fn client_side() {
    let p = Plane::start();
    install(&p, &p.kubectl, &[], "created", "unchanged");
}

fn server_side() {
    let p = Plane::start();
    install(&p, &p.kubectl, &["--server-side"], "serverside-applied", "serverside-applied");
}

fn old_kubectl() {
    let p = Plane::start();
    let Some(old) = &p.old_kubectl else { return };
    install(&p, old, &["--validate=true"], "created", "unchanged");
}

/// As Helm 3 does: hooks first, each waited for and deleted; every revision a Secret with the whole release in it.
fn helm() {
    let p = Plane::start();
    p.k("create namespace shop");
    let labels = json!({"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "shop-1.2.3", "app.kubernetes.io/instance": "shop"});
    let meta = |name: &str, annotations: Value| {
        let mut all = json!({"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "shop"});
        for (key, value) in annotations.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        json!({"name": name, "namespace": "shop", "labels": labels, "annotations": all})
    };
    let mut noise = 7_u64;
    let mut release = |revision: usize, status: &str| {
        // Compressed, so as good as random; Helm's largest are near a Secret's limit.
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.to_be_bytes()[0]
        })
        .take(500_000)
        .collect();
        // Helm encodes once itself, the API once more.
        let once = base64::engine::general_purpose::STANDARD.encode(bytes);
        let twice = base64::engine::general_purpose::STANDARD.encode(once);
        json!({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1", "data": {"release": twice},
            "metadata": {"name": format!("sh.helm.release.v1.shop.v{revision}"), "namespace": "shop", "labels": {
                "owner": "helm", "name": "shop", "status": status, "version": revision.to_string(), "modifiedAt": "1700000000"}}})
    };
    p.feed("create -f -", &release(1, "pending-install").to_string()).ok();
    let hook = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": meta("shop-migrate", json!({"helm.sh/hook": "pre-install,pre-upgrade", "helm.sh/hook-weight": "-5",
            "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded"})),
        "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "registry.invalid/migrate"}]}}}});
    p.feed("create -f -", &hook.to_string()).ok();
    until("the hook's pod is made", LIMIT, || {
        let pods = p.k("get pods -n shop -l job-name=shop-migrate -o name");
        (!pods.trim().is_empty()).then_some(())
    });
    p.k("delete job shop-migrate -n shop --cascade=background");
    p.until_gone("pods -n shop -l job-name=shop-migrate");
    let manifests = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("shop", json!({})), "spec": {"type": "ClusterIP",
            "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP", "name": "http"}], "selector": {"app": "shop"}}}),
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta("db", json!({})), "spec": {"serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}}, "template": {"metadata": {"labels": {"app": "db"},
                "annotations": {"checksum/config": "abc"}}, "spec": {"containers": [{"name": "db", "image": "registry.invalid/db"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "8Gi"}}}}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta("shop", json!({})), "spec": {"rules": [
            {"host": "shop.local", "http": {"paths": [{"path": "/", "pathType": "ImplementationSpecific",
                "backend": {"service": {"name": "shop", "port": {"number": 80}}}}]}}]}}),
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta("shop", json!({})),
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}, "maxReplicas": 3,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 80}}}]}}),
    ];
    p.feed("create -f -", &stream(&manifests)).ok();
    // An upgrade: a three-way merge of the old manifest, the live object and the new one, as a strategic patch.
    let patch = r#"{"spec":{"ports":[{"port":81,"name":"http","targetPort":"http","protocol":"TCP"},{"$patch":"delete","port":80}],"$setElementOrder/ports":[{"port":81}]}}"#;
    p.k(&format!("patch service shop -n shop --type=strategic -p {patch}"));
    assert_eq!(p.k("get service shop -n shop -o jsonpath={.spec.ports[*].port}"), "81");
    p.feed("replace -f -", &release(1, "superseded").to_string()).ok();
    p.feed("create -f -", &release(2, "deployed").to_string()).ok();
    // How Helm finds its releases.
    let found =
        p.k("get secrets -n shop -l owner=helm,status=deployed --field-selector type=helm.sh/release.v1 -o name");
    assert_eq!(found.trim(), "secret/sh.helm.release.v1.shop.v2");
    let too_large = json!({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": "big", "namespace": "shop"}, "stringData": {"release": "x".repeat(1_048_577)}});
    contains(
        &p.feed("create -f -", &too_large.to_string()).refused(),
        "data: Too long: may not be more than 1048576 bytes",
    );
    p.k("delete namespace shop --timeout=60s");
}
