//! ServiceAccount: every pod runs as a service account and, unless it or the account declines, gets its token mounted.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use async_trait::async_trait;
use rand::Rng as _;
use serde_json::{Value, json};

use super::{AdmissionRequest, Operation, Plugin, list, list_mut, projections, refers_to_secrets, text};
use crate::cache::Object;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The letters of upstream's random name suffixes.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How long a pod waits for the account of a namespace that has just been made.
const PATIENCE: Duration = Duration::from_millis(1000);

pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.writes_pod() || !object["spec"].is_object() {
            return Ok(());
        }
        if is_mirror(object) {
            return mirror(request, object);
        }
        if text(&object["spec"], "serviceAccountName").is_empty() {
            object["spec"]["serviceAccountName"] = "default".into();
        }
        let name = text(&object["spec"], "serviceAccountName").to_owned();
        object["spec"]["serviceAccount"] = name.clone().into();
        let account = found(request, &name).await?;
        let spec = &mut object["spec"];
        let automount = spec["automountServiceAccountToken"]
            .as_bool()
            .or_else(|| account["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if automount {
            mount_token(spec);
        }
        let pull = list(&account, "imagePullSecrets");
        if list(spec, "imagePullSecrets").is_empty() && !pull.is_empty() {
            spec["imagePullSecrets"] = pull.to_vec().into();
        }
        references(request, &account, object)
    }

    /// Once more: what came in between may have changed the pod.
    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let new_containers = request.operation == Operation::Update && request.subresource == "ephemeralcontainers";
        let creates = request.operation == Operation::Create && request.subresource.is_empty();
        if !request.is("", "pods") || !(creates || new_containers) {
            return Ok(());
        }
        if creates && is_mirror(object) {
            return mirror(request, object);
        }
        let name = text(&object["spec"], "serviceAccountName");
        if name.is_empty() {
            let place = format!("{}/{}", request.namespace, text(&object["metadata"], "name"));
            return Err(request.forbidden(format!("no service account specified for pod {place}")));
        }
        let account = found(request, name).await?;
        references(request, &account, object)
    }
}

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

async fn found(request: &AdmissionRequest<'_>, name: &str) -> Result<Value, Status> {
    match look_up(request, name).await {
        Some(account) => Ok(account.value()),
        None => Err(request.forbidden(format!(
            "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
            request.namespace
        ))),
    }
}

/// An account may say that its pods use only the secrets that it lists itself.
fn references(request: &AdmissionRequest<'_>, account: &Value, pod: &Value) -> Result<(), Status> {
    let enforced =
        matches!(text(&account["metadata"]["annotations"], ENFORCE), "1" | "t" | "T" | "true" | "True" | "TRUE");
    match enforced.then(|| unlisted(request, account, &pod["spec"])).flatten() {
        Some(what) => {
            let name = text(&account["metadata"], "name");
            Err(request.forbidden(format!(
                "{what} is not allowed because service account {name} does not reference that {}",
                if what.starts_with("imagePullSecrets") { "imagePullSecret" } else { "secret" }
            )))
        }
        None => Ok(()),
    }
}

/// The first reference to a secret that the account does not list.
fn unlisted(request: &AdmissionRequest<'_>, account: &Value, spec: &Value) -> Option<String> {
    let lists = |key: &str, name: &str| list(account, key).iter().any(|listed| text(listed, "name") == name);
    let creates = request.operation == Operation::Create;
    let (volumes, pulls): (&[Value], &[Value]) = match creates {
        true => (list(spec, "volumes"), list(spec, "imagePullSecrets")),
        false => (&[], &[]),
    };
    for volume in volumes.iter().filter(|volume| !volume["secret"].is_null()) {
        let secret = text(&volume["secret"], "secretName");
        if !lists("secrets", secret) {
            return Some(format!("volume with secret.secretName=\"{secret}\""));
        }
    }
    let sorts: &[(&str, &str)] = match creates {
        true => &[("initContainers", "init container"), ("containers", "container")],
        false => &[("ephemeralContainers", "ephemeral container")],
    };
    for (key, sort) in sorts {
        for container in list(spec, key) {
            let head = format!("{sort} {} with", text(container, "name"));
            for variable in list(container, "env") {
                let reference = &variable["valueFrom"]["secretKeyRef"];
                let secret = text(reference, "name");
                if !reference.is_null() && !lists("secrets", secret) {
                    let variable = text(variable, "name");
                    return Some(format!("{head} envVar {variable} referencing secret.secretName=\"{secret}\""));
                }
            }
            for source in list(container, "envFrom").iter().filter(|source| !source["secretRef"].is_null()) {
                let secret = text(&source["secretRef"], "name");
                if !lists("secrets", secret) {
                    return Some(format!("{head} envFrom referencing secret.secretName=\"{secret}\""));
                }
            }
        }
    }
    let (at, secret) = pulls
        .iter()
        .map(|pull| text(pull, "name"))
        .enumerate()
        .find(|(_, secret)| !lists("imagePullSecrets", secret))?;
    Some(format!("imagePullSecrets[{at}].name=\"{secret}\""))
}

/// A pod of a kubelet's own manifests has no account and may refer to nothing that needs one.
fn mirror(request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    let spec = &object["spec"];
    if !text(spec, "serviceAccountName").is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    if refers_to_secrets(spec) {
        return Err(request.forbidden("a mirror pod may not reference secrets"));
    }
    if projections(spec).any(|source| !source["serviceAccountToken"].is_null()) {
        return Err(request.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

async fn look_up(request: &AdmissionRequest<'_>, name: &str) -> Option<Arc<Object>> {
    let find = || request.reader.peek("serviceaccounts", request.namespace, name);
    if let Some(found) = find() {
        return Some(found);
    }
    let mut changes = request.reader.subscribe("serviceaccounts")?;
    if let Some(found) = request.reader.get("serviceaccounts", request.namespace, name).await {
        return Some(found);
    }
    if name != "default" {
        return None;
    }
    // Its controller may be just about to make it.
    let waiting = async {
        loop {
            if matches!(changes.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
                return None;
            }
            if let Some(found) = find() {
                return Some(found);
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.ok().flatten()
}

fn mount_token(spec: &mut Value) {
    let kept = list(spec, "volumes").iter().map(|v| text(v, "name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let (name, exists) = match kept {
        Some(name) => (name.to_owned(), true),
        None => (fresh_name(spec), false),
    };
    let mut needed = false;
    for key in ["initContainers", "containers"] {
        for container in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            if list(container, "volumeMounts").iter().any(|mount| text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            list_mut(container, "volumeMounts").push(mount);
            needed = true;
        }
    }
    if needed && !exists {
        list_mut(spec, "volumes").push(token_volume(&name));
    }
}

fn fresh_name(spec: &Value) -> String {
    let mut random = rand::rng();
    loop {
        let mut name = VOLUME_PREFIX.to_owned();
        name.extend((0..5).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])));
        if !list(spec, "volumes").iter().any(|volume| text(volume, "name") == name) {
            return name;
        }
    }
}

/// Token, CA, namespace, and the service CA bundle. The two ConfigMaps are published in every namespace by the
/// root-CA controller.
fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
                {"configMap": {
                    "name": "openshift-service-ca.crt",
                    "items": [{"key": "service-ca.crt", "path": "service-ca.crt"}],
                }},
            ],
        },
    })
}
