//! The environment of a container.
//!
//! Invariants:
//! - EN-1: a later definition of a name wins; what the pod says wins over what Services add.
//! - EN-2: something required that is not there is an error with upstream's text, never an empty value.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::expand::expand;
use super::text;
use crate::error::{Error, Result};
use crate::quantity;

/// Everything an environment may refer to. A name that maps to `None` does not exist.
#[derive(Debug, Default, Clone)]
pub struct Context {
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
    /// Those of the pod's namespace, and `default/kubernetes`.
    pub services: Vec<Arc<Service>>,
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    pub allocatable: BTreeMap<String, Quantity>,
}

/// Names of ConfigMaps and Secrets that the environment of `container` refers to.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The variables, in order.
///
/// # Errors
/// When something required is missing.
pub fn make(pod: &Pod, container: &Container, cx: &Context) -> Result<Vec<(String, String)>> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| match out.iter_mut().find(|(n, _)| n == name) {
        Some(entry) => entry.1 = value,
        None => out.push((name.to_owned(), value)),
    };
    for from in container.env_from.iter().flatten() {
        let prefix = text(&from.prefix);
        if let Some(reference) = &from.config_map_ref {
            match cx.config_maps.get(&reference.name).cloned().flatten() {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten().filter(|(key, _)| valid_name(prefix, key)) {
                        set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(not_found("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match cx.secrets.get(&reference.name).cloned().flatten() {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten().filter(|(key, _)| valid_name(prefix, key)) {
                        set(&format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(not_found("secret", &reference.name)),
            }
        }
    }
    let services = service_variables(pod, &cx.services);
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                let known: BTreeMap<&str, &str> = out.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                expand(value, &|name| known.get(name).map(|v| (*v).to_owned()).or_else(|| services.get(name).cloned()))
            }
            (_, Some(source)) => match from_source(pod, container, source, cx)? {
                Some(value) => value,
                None => continue,
            },
            _ => String::new(),
        };
        match out.iter_mut().find(|(n, _)| *n == variable.name) {
            Some(entry) => entry.1 = value,
            None => out.push((variable.name.clone(), value)),
        }
    }
    for (name, value) in services {
        if !out.iter().any(|(n, _)| *n == name) {
            out.push((name, value));
        }
    }
    Ok(out)
}

fn valid_name(prefix: &str, key: &str) -> bool {
    let named = !prefix.is_empty() || !key.is_empty();
    named && !key.contains('=')
}

fn not_found(kind: &str, name: &str) -> Error {
    Error::pod(format!("{kind} {name:?} not found"))
}

fn from_source(pod: &Pod, container: &Container, source: &EnvVarSource, cx: &Context) -> Result<Option<String>> {
    let namespace = text(&pod.metadata.namespace);
    if let Some(field) = &source.field_ref {
        return field_value(pod, field, cx).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        let name = text(&resource.container_name);
        let other = if name.is_empty() { Some(container.clone()) } else { super::find(pod, name) };
        let of = other.ok_or_else(|| Error::pod(format!("container {name} not found")))?;
        return resource_value(&of, resource, &cx.allocatable).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = cx.config_maps.get(&key.name).cloned().flatten() else {
            return if optional { Ok(None) } else { Err(not_found("configmap", &key.name)) };
        };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(Error::pod(format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name))),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = cx.secrets.get(&key.name).cloned().flatten() else {
            return if optional { Ok(None) } else { Err(not_found("secret", &key.name)) };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(Error::pod(format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name))),
        };
    }
    Ok(Some(String::new()))
}

fn field_value(pod: &Pod, field: &ObjectFieldSelector, cx: &Context) -> Result<String> {
    let spec = pod.spec.as_ref();
    Ok(match field.field_path.as_str() {
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => cx.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => cx.host_ips.join(","),
        "status.podIP" => cx.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => cx.pod_ips.join(","),
        path => metadata_field(pod, path).ok_or_else(|| Error::pod(format!("unsupported fieldPath: {path}")))?,
    })
}

/// The fields of the metadata that the downward API offers, in environments and in files.
pub fn metadata_field(pod: &Pod, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let list = |map: &Option<BTreeMap<String, String>>| {
        let lines: Vec<String> = map.iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect();
        lines.join("\n")
    };
    match path {
        "metadata.name" => return Some(text(&meta.name).to_owned()),
        "metadata.namespace" => return Some(text(&meta.namespace).to_owned()),
        "metadata.uid" => return Some(text(&meta.uid).to_owned()),
        "metadata.labels" => return Some(list(&meta.labels)),
        "metadata.annotations" => return Some(list(&meta.annotations)),
        _ => {}
    }
    let (map, rest) = match path.split_once('[')? {
        ("metadata.labels", rest) => (&meta.labels, rest),
        ("metadata.annotations", rest) => (&meta.annotations, rest),
        _ => return None,
    };
    let key = rest.strip_suffix(']')?.trim_matches(['\'', '"']);
    Some(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default())
}

/// A string as Go's `%q` prints it.
fn go_quote(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A request or limit of `container` as the downward API shows it; limits default to what the node has.
///
/// # Errors
/// When the field is none of those offered.
pub fn resource_value(
    container: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<String> {
    let unsupported = || Error::pod(format!("unsupported container resource : {}", selector.resource));
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let amount = match list {
        "limits" => {
            let own = resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name));
            own.filter(|q| quantity::milli(&q.0) != Some(0)).or_else(|| {
                matches!(name, "cpu" | "memory" | "ephemeral-storage").then(|| allocatable.get(name)).flatten()
            })
        }
        "requests" => resources.and_then(|r| r.requests.as_ref()).and_then(|l| l.get(name)),
        _ => return Err(unsupported()),
    };
    let milli = amount.and_then(|q| quantity::milli(&q.0)).unwrap_or(0);
    let divisor = selector.divisor.as_ref().map_or("1", |q| q.0.as_str());
    let value = quantity::divided(milli, divisor).ok_or_else(unsupported)?;
    Ok(value.to_string())
}

/// The variables that Services add.
fn service_variables(pod: &Pod, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut out = BTreeMap::new();
    // The API server's own Service first: one of the same name in the pod's namespace wins.
    let is_master = |s: &Service| {
        s.metadata.namespace.as_deref() == Some("default") && s.metadata.name.as_deref() == Some("kubernetes")
    };
    let own = |s: &Service| s.metadata.namespace == pod.metadata.namespace;
    let masters = services.iter().filter(|s| is_master(s));
    let linked = services.iter().filter(|s| links && own(s));
    for service in masters.chain(linked) {
        let Some(spec) = &service.spec else { continue };
        let ip = text(&spec.cluster_ip);
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let Some(first) = spec.ports.iter().flatten().next() else { continue };
        let name = text(&service.metadata.name).to_uppercase().replace('-', "_");
        out.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            if let Some(port_name) = port.name.as_ref().filter(|n| !n.is_empty()) {
                let port_name = port_name.to_uppercase().replace('-', "_");
                out.insert(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
            }
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.insert(prefix.clone(), url);
            out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{prefix}_PORT"), port.port.to_string());
            out.insert(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": []}}))
        .expect("a pod")
    }

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).expect("a container")
    }

    fn get<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
        env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    #[test]
    fn values_expand_what_came_before() {
        let c = container(json!({"name": "c", "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(C)"}, {"name": "C", "value": "3"},
            {"name": "EMPTY"}]}));
        let env = make(&pod(), &c, &Context::default()).expect("made");
        assert_eq!(get(&env, "B"), Some("1-$(C)"));
        assert_eq!(get(&env, "EMPTY"), Some(""));
    }

    #[test]
    fn fields_and_resources() {
        let c = container(json!({"name": "c",
            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "250m"}},
            "env": [
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['b']"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}));
        let cx = Context {
            pod_ips: vec!["10.0.0.9".into()],
            allocatable: BTreeMap::from([("cpu".to_owned(), Quantity("2".into()))]),
            ..Context::default()
        };
        let env = make(&pod(), &c, &cx).expect("made");
        for (name, value) in [("N", "p"), ("L", "x\"y"), ("IP", "10.0.0.9"), ("M", "1024"), ("R", "250"), ("D", "2")] {
            assert_eq!(get(&env, name), Some(value), "{name}");
        }
        assert_eq!(metadata_field(&pod(), "metadata.labels").as_deref(), Some("a=\"1\"\nb=\"x\\\"y\""));
    }

    #[test]
    fn config_maps_and_secrets() {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v", "z": "1"}})).expect("a config map");
        let secret: Secret = serde_json::from_value(json!({"data": {"pw": "c2VjcmV0"}})).expect("a secret");
        let cx = Context {
            config_maps: BTreeMap::from([("m".to_owned(), Some(Arc::new(map))), ("gone".to_owned(), None)]),
            secrets: BTreeMap::from([("s".to_owned(), Some(Arc::new(secret)))]),
            ..Context::default()
        };
        let c = container(json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}},
                        {"configMapRef": {"name": "gone", "optional": true}}],
            "env": [{"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}}]}));
        let env = make(&pod(), &c, &cx).expect("made");
        assert_eq!((get(&env, "P_k"), get(&env, "P_z"), get(&env, "PW")), (Some("v"), Some("1"), Some("secret")));
        for (source, message) in [
            (json!({"configMapKeyRef": {"name": "gone", "key": "k"}}), "configmap \"gone\" not found"),
            (json!({"configMapKeyRef": {"name": "m", "key": "no"}}), "couldn't find key no in ConfigMap ns/m"),
            (json!({"secretKeyRef": {"name": "s", "key": "no"}}), "couldn't find key no in Secret ns/s"),
        ] {
            let c = container(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]}));
            assert_eq!(make(&pod(), &c, &cx).expect_err("missing").to_string(), message);
        }
    }

    #[test]
    fn services_of_the_namespace_and_the_api_server() {
        let service = |namespace: &str, name: &str, ip: &str, port: serde_json::Value| {
            Arc::new(
                serde_json::from_value::<Service>(json!({
                    "metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": [port]}}))
                .expect("a service"),
            )
        };
        let cx = Context {
            services: vec![
                service("default", "kubernetes", "10.43.0.1", json!({"name": "https", "port": 443})),
                service("ns", "my-db", "10.43.0.7", json!({"port": 53, "protocol": "UDP"})),
                service("ns", "headless", "None", json!({"port": 1})),
                service("other", "far", "10.43.0.8", json!({"port": 1})),
            ],
            ..Context::default()
        };
        let env = make(&pod(), &container(json!({"name": "c"})), &cx).expect("made");
        assert_eq!(get(&env, "KUBERNETES_SERVICE_PORT_HTTPS"), Some("443"));
        assert_eq!(get(&env, "KUBERNETES_PORT"), Some("tcp://10.43.0.1:443"));
        assert_eq!(get(&env, "MY_DB_PORT_53_UDP_ADDR"), Some("10.43.0.7"));
        assert!(get(&env, "FAR_SERVICE_HOST").is_none() && get(&env, "HEADLESS_SERVICE_HOST").is_none());
        let mut quiet = pod();
        quiet.spec.as_mut().expect("spec").enable_service_links = Some(false);
        let env = make(&quiet, &container(json!({"name": "c"})), &cx).expect("made");
        assert!(get(&env, "KUBERNETES_SERVICE_HOST").is_some() && get(&env, "MY_DB_SERVICE_HOST").is_none());
    }
}
