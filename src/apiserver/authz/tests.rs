//! Tests of `authz`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::*;
use crate::cache::{Event, Object, encode};

/// Objects in memory, for whoever reads through [`ObjectReader`].
#[derive(Default)]
pub(crate) struct FakeReader {
    objects: Mutex<BTreeMap<(String, String, String), Arc<Object>>>,
    changes: Mutex<BTreeMap<String, broadcast::Sender<Arc<Event>>>>,
}

impl FakeReader {
    pub fn with(objects: &[(&str, Value)]) -> Arc<Self> {
        let this = Arc::new(Self::default());
        for (storage, object) in objects {
            this.put(storage, object.clone());
        }
        this
    }

    pub fn put(&self, storage: &str, mut object: Value) {
        if object["metadata"]["uid"].is_null() {
            let name = object["metadata"]["name"].as_str().expect("a name");
            object["metadata"]["uid"] = format!("uid-{name}").into();
        }
        let node = object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        let fields = move |_: &Value| vec![("spec.nodeName", node.clone())];
        let bytes = encode::encode(&object).expect("an object");
        let mut objects = self.objects.lock();
        let revision = objects.len() as i64 + 1;
        let object = Arc::new(Object::from_stored(Bytes::new(), bytes, revision, &fields).expect("in form"));
        let key = (storage.to_owned(), object.meta.namespace.clone(), object.meta.name.clone());
        objects.insert(key, object.clone());
        drop(objects);
        // What changed does not matter to subscribers that read everything again.
        self.changes.lock().remove(storage);
    }
}

#[async_trait]
impl ObjectReader for FakeReader {
    fn peek(&self, storage: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let key = (storage.to_owned(), namespace.to_owned(), name.to_owned());
        self.objects.lock().get(&key).cloned()
    }

    fn peek_all(&self, storage: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let objects = self.objects.lock();
        let of = objects.iter().filter(|((s, ns, _), _)| s == storage && namespace.is_none_or(|n| n == ns));
        of.map(|(_, object)| object.clone()).collect()
    }

    async fn fresh(&self) {}

    fn subscribe(&self, storage: &str) -> Option<broadcast::Receiver<Arc<Event>>> {
        let mut changes = self.changes.lock();
        Some(changes.entry(storage.to_owned()).or_insert_with(|| broadcast::channel(4).0).subscribe())
    }
}

fn role(kind: &str, namespace: &str, name: &str, rules: Value) -> Value {
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules,
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subject: Value) -> Value {
    let mut object = role_object(kind, name);
    object["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1});
    object["subjects"] = json!([subject]);
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn role_object(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}})
}

fn policy() -> Arc<FakeReader> {
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
    let mut view = role("ClusterRole", "", "view", Value::Null);
    view["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]});
    let mut part =
        role("ClusterRole", "", "part", json!([{"apiGroups": ["x"], "resources": ["ys"], "verbs": ["get"]}]));
    part["metadata"]["labels"] = json!({"to-view": "true"});
    let paths = json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
    FakeReader::with(&[
        ("clusterroles", role("ClusterRole", "", "pods", pods.clone())),
        ("clusterroles", role("ClusterRole", "", "paths", paths.clone())),
        ("clusterroles", view),
        ("clusterroles", part),
        ("roles", role("Role", "a", "pods", pods)),
        ("rolebindings", binding("RoleBinding", "a", "b1", ("Role", "pods"), json!({"kind": "User", "name": "alice"}))),
        (
            "rolebindings",
            binding("RoleBinding", "a", "b2", ("ClusterRole", "view"), json!({"kind": "Group", "name": "dev"})),
        ),
        (
            "rolebindings",
            binding("RoleBinding", "a", "b3", ("ClusterRole", "paths"), json!({"kind": "User", "name": "alice"})),
        ),
        ("rolebindings", binding("RoleBinding", "a", "b4", ("Role", "gone"), json!({"kind": "User", "name": "carol"}))),
        (
            "clusterrolebindings",
            binding(
                "ClusterRoleBinding",
                "",
                "c1",
                ("ClusterRole", "pods"),
                json!({"kind": "ServiceAccount", "namespace": "s", "name": "sa"}),
            ),
        ),
        (
            "clusterrolebindings",
            binding(
                "ClusterRoleBinding",
                "",
                "c2",
                ("ClusterRole", "paths"),
                json!({"kind": "Group", "name": "system:authenticated"}),
            ),
        ),
    ])
}

#[tokio::test]
async fn rbac_matrix() {
    let authorizer = Authorizer::new(policy());
    let ask = async |user: &str, groups: &[&str], verb: &str, group: &str, resource: &str, namespace: &str| {
        let user = User::new(user, groups);
        authorizer.authorize(&Attributes::resource(&user, verb, group, resource, namespace, "n")).await
    };
    let allowed = |reason: &str| Decision::Allow(reason.to_owned());
    assert_eq!(
        ask("alice", &[], "get", "", "pods", "a").await,
        allowed(r#"RBAC: allowed by RoleBinding "b1/a" of Role "pods" to User "alice""#)
    );
    assert_eq!(ask("alice", &[], "get", "", "pods", "b").await, Decision::Deny(String::new()));
    assert_eq!(ask("alice", &[], "get", "", "pods", "").await, Decision::Deny(String::new()));
    assert_eq!(ask("alice", &[], "delete", "", "pods", "a").await, Decision::Deny(String::new()));
    // Aggregated, though nobody has written the rules into the role.
    assert!(ask("bob", &["dev"], "get", "x", "ys", "a").await.allowed());
    assert!(!ask("bob", &["dev"], "get", "x", "ys", "b").await.allowed());
    assert_eq!(
        ask("system:serviceaccount:s:sa", &[], "list", "", "pods", "z").await,
        allowed(r#"RBAC: allowed by ClusterRoleBinding "c1" of ClusterRole "pods" to ServiceAccount "sa/s""#)
    );
    assert!(!ask("system:serviceaccount:t:sa", &[], "list", "", "pods", "z").await.allowed());
    assert_eq!(
        ask("carol", &[], "get", "", "pods", "a").await,
        Decision::Deny(r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#.to_owned())
    );
    assert!(ask("x", &[MASTERS], "anything", "at", "all", "").await.allowed());
}

#[tokio::test]
async fn paths_are_granted_cluster_wide_only() {
    let authorizer = Authorizer::new(policy());
    let path =
        |user: User, path: &str| Attributes { user, verb: "get".into(), path: path.into(), ..Attributes::default() };
    assert!(authorizer.authorize(&path(User::new("alice", &[]), "/metrics")).await.allowed());
    let stranger = User { name: "alice".into(), ..User::default() };
    assert!(!authorizer.authorize(&path(stranger, "/metrics")).await.allowed());
}

#[tokio::test]
async fn a_change_of_policy_counts_at_once() {
    let reader = policy();
    let authorizer = Authorizer::new(reader.clone());
    let user = User::new("dave", &[]);
    let attributes = Attributes::resource(&user, "get", "", "pods", "", "n");
    assert!(!authorizer.authorize(&attributes).await.allowed());
    let subject = json!({"kind": "User", "name": "dave"});
    reader.put("clusterrolebindings", binding("ClusterRoleBinding", "", "c9", ("ClusterRole", "pods"), subject));
    // The fake forgets its subscribers, as a cache does that restarts: the policy must be read again.
    let authorizer = Authorizer::new(reader);
    assert!(authorizer.authorize(&attributes).await.allowed());
}

#[tokio::test]
async fn nodes_see_what_their_pods_refer_to() {
    let pod = |name: &str, node: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a"},
            "spec": {
                "nodeName": node,
                "serviceAccountName": "sa",
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}],
                                "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
                "volumes": [{"name": "v", "secret": {"secretName": "vol"}},
                            {"name": "p", "projected": {"sources": [{"configMap": {"name": "proj"}}]}},
                            {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}],
            },
        })
    };
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
                        "spec": {"claimRef": {"namespace": "a", "name": "claim"}}});
    let reader =
        FakeReader::with(&[("pods", pod("mine", "n1")), ("pods", pod("theirs", "n2")), ("persistentvolumes", volume)]);
    let authorizer = Authorizer::new(reader);
    let node = User::new("system:node:n1", &["system:nodes"]);
    let ask = async |verb: &str, resource: &str, namespace: &str, name: &str| {
        authorizer.authorize(&Attributes::resource(&node, verb, "", resource, namespace, name)).await
    };
    for name in ["pull", "key", "vol"] {
        assert!(ask("get", "secrets", "a", name).await.allowed(), "{name}");
        assert!(!ask("get", "secrets", "b", name).await.allowed(), "{name}");
    }
    for name in ["env", "proj"] {
        assert!(ask("watch", "configmaps", "a", name).await.allowed(), "{name}");
    }
    assert!(ask("get", "persistentvolumeclaims", "a", "claim").await.allowed());
    assert!(ask("get", "persistentvolumes", "", "pv").await.allowed());
    assert!(ask("get", "pods", "a", "mine").await.allowed());
    assert!(ask("get", "nodes", "", "n1").await.allowed());
    let refused = [
        (ask("get", "secrets", "a", "other").await, "no relationship found between node 'n1' and this object"),
        (ask("get", "pods", "a", "theirs").await, "no relationship found between node 'n1' and this object"),
        (ask("list", "secrets", "a", "").await, "No Object name found"),
        (ask("patch", "secrets", "a", "vol").await, "can only read resources of this type"),
        (ask("list", "pods", "", "").await, "can only list/watch pods with spec.nodeName field selector"),
        (ask("get", "nodes", "", "n2").await, "node 'n1' cannot read 'n2', only its own Node object"),
        (ask("delete", "nodes", "", "n1").await, ""),
    ];
    for (decision, reason) in refused {
        assert_eq!(decision, Decision::Deny(reason.to_owned()));
    }
    let mut mine = Attributes::resource(&node, "list", "", "pods", "", "");
    mine.fields = vec![("spec.nodeName".into(), "n1".into())];
    assert!(authorizer.authorize(&mine).await.allowed());
    let mut token = Attributes::resource(&node, "create", "", "serviceaccounts", "a", "sa");
    token.subresource = "token".into();
    assert!(authorizer.authorize(&token).await.allowed());
    token.name = "other".into();
    assert!(!authorizer.authorize(&token).await.allowed());
}

#[test]
fn forbidden_texts() {
    let user = User::new("u", &[]);
    let mut a = Attributes::resource(&user, "get", "apps", "deployments", "ns", "x");
    a.subresource = "scale".into();
    assert_eq!(
        a.forbidden_text(""),
        r#"User "u" cannot get resource "deployments/scale" in API group "apps" in the namespace "ns""#
    );
    let b = Attributes::resource(&user, "list", "", "nodes", "", "");
    assert_eq!(
        b.forbidden_text("why"),
        r#"User "u" cannot list resource "nodes" in API group "" at the cluster scope: why"#
    );
    let c = Attributes { user, verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
    assert_eq!(c.forbidden_text(""), r#"User "u" cannot get path "/metrics""#);
}
