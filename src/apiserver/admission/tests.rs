//! Tests of `admission`.

use serde_json::json;

use super::*;
use crate::authz::tests::FakeReader;

pub(super) fn kind(group: &str, plural: &str) -> Arc<Kind> {
    let found = api::kinds().iter().find(|k| k.group == group && k.plural == plural);
    found.expect("a built-in kind").clone()
}

struct NoWriter;

#[async_trait]
impl Writer for NoWriter {
    async fn put(&self, path: &str, _: &Value) -> Result<(), Status> {
        Err(Status::internal(format!("{path} is not to be written")))
    }
}

pub(super) struct Case<'a> {
    reader: Arc<FakeReader>,
    pub user: User,
    pub kind: Arc<Kind>,
    pub operation: Operation,
    pub subresource: &'a str,
    pub name: &'a str,
    pub config: AdmissionConfig,
}

impl Case<'_> {
    pub fn new(objects: &[(&str, Value)]) -> Self {
        let mut all = vec![
            ("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})),
            (
                "serviceaccounts",
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "a"}}),
            ),
        ];
        all.extend(objects.iter().cloned());
        Case {
            reader: FakeReader::with(&all),
            user: User::new("admin", &["system:masters"]),
            kind: kind("", "pods"),
            operation: Operation::Create,
            subresource: "",
            name: "x",
            config: AdmissionConfig::default(),
        }
    }

    /// The mutating half.
    pub async fn run(&self, object: &mut Value, old: Option<&Value>) -> Result<(), String> {
        let notes = RequestNotes::default();
        let done = self.admission().mutate(&self.request(old, &notes), object).await;
        done.map_err(|status| status.message)
    }

    /// The validating half.
    pub async fn check(&self, object: &Value, old: Option<&Value>) -> Result<(), String> {
        let notes = RequestNotes::default();
        let done = self.admission().validate(&self.request(old, &notes), object).await;
        done.map_err(|status| status.message)
    }

    /// What is said once it is known what is deleted.
    pub async fn delete(&self, old: &Value) -> Result<(), String> {
        let notes = RequestNotes::default();
        let done = self.admission().deleting(&self.request(Some(old), &notes)).await;
        done.map_err(|status| status.message)
    }

    fn admission(&self) -> Admission {
        let authorizer = Arc::new(Authorizer::new(self.reader.clone()));
        admission(&self.config, authorizer)
    }

    fn request<'b>(&'b self, old: Option<&'b Value>, notes: &'b RequestNotes) -> AdmissionRequest<'b> {
        AdmissionRequest {
            user: &self.user,
            kind: &self.kind,
            operation: self.operation,
            subresource: self.subresource,
            namespace: if self.kind.namespaced() { "a" } else { "" },
            name: self.name,
            old_object: old,
            dry_run: false,
            options: &Value::Null,
            reader: self.reader.as_ref(),
            notes,
            writer: &NoWriter,
            in_collection: false,
            server: None,
            reinvocation: Reinvocation::default(),
        }
    }
}

pub(super) fn admission(config: &AdmissionConfig, authorizer: Arc<Authorizer>) -> Admission {
    let clock = component_base::RealClock::shared();
    let caller = Arc::new(Caller::new(component_base::TaskGroup::new(), clock.clone()));
    Admission::new(config, authorizer, clock, Arc::new(Kinds::builtin()), caller).expect("configured")
}

pub(super) fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "c"}]}})
}

#[tokio::test]
async fn a_pod_gets_account_token_tolerations_and_priority() {
    let mut object = pod();
    Case::new(&[]).run(&mut object, None).await.expect("admits");
    let spec = &object["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["serviceAccount"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    let volume = spec["volumes"][0]["name"].as_str().expect("a volume");
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21);
    let mount = json!({"name": volume, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    assert_eq!(spec["containers"][0]["volumeMounts"], json!([mount]));
    let sources = &spec["volumes"][0]["projected"]["sources"];
    assert_eq!(sources[0], json!({"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}));
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    // A second pass changes nothing.
    let mut again = object.clone();
    Case::new(&[]).run(&mut again, None).await.expect("admits");
    assert_eq!(again, object);
}

#[tokio::test]
async fn a_pod_may_decline() {
    let mut object = pod();
    object["spec"]["automountServiceAccountToken"] = false.into();
    object["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    object["spec"]["priorityClassName"] = "system-node-critical".into();
    Case::new(&[]).run(&mut object, None).await.expect("admits");
    assert!(object["spec"]["volumes"].is_null());
    assert_eq!(object["spec"]["tolerations"].as_array().map(Vec::len), Some(1));
    assert_eq!(object["spec"]["priority"], 2_000_001_000);
}

#[tokio::test]
async fn pods_that_are_refused() {
    let case = Case::new(&[]);
    let mut refuse = pod();
    refuse["spec"]["serviceAccountName"] = "ghost".into();
    assert_eq!(
        case.run(&mut refuse, None).await,
        Err(r#"pods "x" is forbidden: error looking up service account a/ghost: serviceaccount "ghost" not found"#
            .to_owned())
    );
    let mut refuse = pod();
    refuse["spec"]["priority"] = 7.into();
    assert_eq!(
        case.run(&mut refuse, None).await,
        Err(r#"pods "x" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name"#.to_owned())
    );
    let mut refuse = pod();
    refuse["spec"]["priorityClassName"] = "nope".into();
    assert_eq!(
        case.run(&mut refuse, None).await,
        Err(r#"pods "x" is forbidden: no PriorityClass with name nope was found"#.to_owned())
    );
}

#[tokio::test]
async fn namespaces_that_are_missing_going_or_immortal() {
    let mut case = Case::new(&[]);
    case.kind = kind("", "configmaps");
    let mut object = json!({"metadata": {"name": "x"}});
    assert_eq!(case.run(&mut object, None).await, Ok(()));
    let going = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    case.reader.put("namespaces", going);
    assert_eq!(
        case.run(&mut object, None).await,
        Err(r#"configmaps "x" is forbidden: unable to create new content in namespace a because it is being terminated"#.to_owned())
    );
    case.reader = FakeReader::with(&[]);
    assert_eq!(case.run(&mut object, None).await, Err(r#"namespaces "a" not found"#.to_owned()));
    case.kind = kind("", "namespaces");
    case.operation = Operation::Delete;
    case.name = "kube-system";
    assert_eq!(
        case.run(&mut Value::Null, None).await,
        Err(r#"namespaces "kube-system" is forbidden: this namespace may not be deleted"#.to_owned())
    );
}

#[tokio::test]
async fn nodes_write_only_what_is_theirs() {
    let mut case = Case::new(&[]);
    case.user = User::new("system:node:n1", &["system:nodes"]);
    case.kind = kind("", "nodes");
    case.name = "n1";
    let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}, "spec": {}});
    let mut own =
        node("n1", json!({"kubernetes.io/hostname": "h", "example.com/x": "y", "node-role.kubernetes.io/w": ""}));
    assert_eq!(case.run(&mut own, None).await, Ok(()));
    assert_eq!(own["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
    for (labels, listed) in [
        (json!({"node-restriction.kubernetes.io/a": "b"}), "node-restriction.kubernetes.io/a"),
        (json!({"kubernetes.io/foo": "b", "a.k8s.io/x": "y"}), "a.k8s.io/x, kubernetes.io/foo"),
    ] {
        let text =
            format!(r#"nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: {listed}"#);
        assert_eq!(case.run(&mut node("n1", labels), None).await, Err(text));
    }
    case.operation = Operation::Update;
    let mut changed = own.clone();
    changed["metadata"]["labels"]["kubernetes.io/role"] = "x".into();
    assert_eq!(
        case.run(&mut changed, Some(&own)).await,
        Err(r#"nodes "n1" is forbidden: is not allowed to modify labels: kubernetes.io/role"#.to_owned())
    );
    let mut changed = own.clone();
    changed["spec"]["taints"] = json!([]);
    assert_eq!(
        case.run(&mut changed, Some(&own)).await,
        Err(r#"nodes "n1" is forbidden: node "n1" is not allowed to modify taints"#.to_owned())
    );
    case.operation = Operation::Create;
    case.name = "n2";
    assert_eq!(
        case.run(&mut node("n2", Value::Null), None).await,
        Err(r#"nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#.to_owned())
    );
    case.kind = kind("", "pods");
    case.name = "x";
    case.operation = Operation::Delete;
    let mut theirs = pod();
    theirs["spec"]["nodeName"] = "n2".into();
    theirs["metadata"]["namespace"] = "a".into();
    case.reader.put("pods", theirs.clone());
    assert_eq!(
        case.run(&mut Value::Null, Some(&theirs)).await,
        Err(r#"pods "x" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself"#.to_owned())
    );
}

#[tokio::test]
async fn nobody_hands_out_more_than_they_have() {
    let role = |name: &str, rules: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name, "namespace": "a"}, "rules": rules});
    let mine = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);
    let strong = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b", "namespace": "a"},
        "roleRef": {"kind": "Role", "name": "mine"}, "subjects": [{"kind": "User", "name": "u"}],
    });
    let mut case = Case::new(&[
        ("roles", role("mine", mine.clone())),
        ("roles", role("strong", strong.clone())),
        ("rolebindings", binding),
    ]);
    case.user = User::new("u", &[]);
    case.kind = kind("rbac.authorization.k8s.io", "roles");
    assert_eq!(case.run(&mut role("x", mine), None).await, Ok(()));
    let lacking = "user \"u\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}";
    assert_eq!(
        case.run(&mut role("x", strong), None).await,
        Err(format!("roles.rbac.authorization.k8s.io \"x\" is forbidden: {lacking}"))
    );
    case.kind = kind("rbac.authorization.k8s.io", "rolebindings");
    let bind = |name: &str| json!({"metadata": {"name": "x"}, "roleRef": {"kind": "Role", "name": name}});
    assert_eq!(case.run(&mut bind("mine"), None).await, Ok(()));
    assert_eq!(
        case.run(&mut bind("strong"), None).await,
        Err(format!("rolebindings.rbac.authorization.k8s.io \"x\" is forbidden: {lacking}"))
    );
    assert_eq!(
        case.run(&mut bind("missing"), None).await,
        Err("rolebindings.rbac.authorization.k8s.io \"missing\" not found".to_owned())
    );
}
