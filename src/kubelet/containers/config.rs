//! The configuration of a container.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use rand::Rng as _;

use super::expand::{expand, expand_strict};
use super::{resources, security, text};
use crate::cri::v1;
use crate::error::{Error, Result};
use crate::runtime::names;

/// What a container needs besides its pod.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub restart_count: u32,
    pub env: Vec<(String, String)>,
    /// The mounted volumes by name.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    pub pod_dir: &'a Path,
    /// The kubelet-managed hosts file, unless the pod has no address yet.
    pub hosts_file: Option<PathBuf>,
    pub image_ref: String,
    pub image_user: security::ImageUser,
    /// The container an ephemeral one looks into.
    pub target: Option<String>,
    pub seccomp_root: &'a Path,
    pub machine_memory: i64,
    pub cgroup_v2: bool,
}

/// The path of a container's log below the pod's log directory.
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// Builds the configuration and prepares the files it mounts.
///
/// # Errors
/// With upstream's text, when the spec cannot be fulfilled.
pub fn build(inputs: &Inputs<'_>) -> Result<v1::ContainerConfig> {
    let Inputs { pod, container, .. } = inputs;
    let lookup = |name: &str| inputs.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expand_all =
        |list: &Option<Vec<String>>| list.iter().flatten().map(|word| expand(word, &lookup)).collect::<Vec<_>>();
    let context =
        security::of_container(pod, container, &inputs.image_user, inputs.target.as_deref(), inputs.seccomp_root)?;
    let linux = v1::LinuxContainerConfig {
        resources: Some(resources::of_container(pod, container, inputs.machine_memory, inputs.cgroup_v2)),
        security_context: Some(context),
    };
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: inputs.restart_count }),
        image: Some(v1::ImageSpec {
            image: inputs.image_ref.clone(),
            user_specified_image: text(&container.image).to_owned(),
            ..Default::default()
        }),
        command: expand_all(&container.command),
        args: expand_all(&container.args),
        working_dir: text(&container.working_dir).to_owned(),
        envs: inputs
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: mounts(inputs, &lookup)?,
        labels: labels(pod, container),
        annotations: annotations(pod, container, inputs.restart_count),
        log_path: log_path(&container.name, inputs.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(linux),
        stop_signal: stop_signal(container),
        ..Default::default()
    })
}

fn stop_signal(container: &Container) -> i32 {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()).unwrap_or_default();
    let name = name.replace("RTMIN+", "RTMINPLUS").replace("RTMAX-", "RTMAXMINUS");
    v1::Signal::from_str_name(&name).unwrap_or(v1::Signal::RuntimeDefault) as i32
}

fn labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let meta = &pod.metadata;
    HashMap::from([
        (names::POD_NAME.to_owned(), text(&meta.name).to_owned()),
        (names::POD_NAMESPACE.to_owned(), text(&meta.namespace).to_owned()),
        (names::POD_UID.to_owned(), text(&meta.uid).to_owned()),
        (names::CONTAINER_NAME.to_owned(), container.name.clone()),
    ])
}

fn annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let mut out = HashMap::from([
        (names::HASH.to_owned(), super::hash(container)),
        (names::RESTART_COUNT.to_owned(), restart_count.to_string()),
        (names::MESSAGE_PATH.to_owned(), path.to_owned()),
        (
            names::MESSAGE_POLICY.to_owned(),
            container.termination_message_policy.as_deref().unwrap_or("File").to_owned(),
        ),
    ]);
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        out.insert(names::POD_DELETION_GRACE.to_owned(), grace.to_string());
    }
    if let Some(grace) = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds) {
        out.insert(names::POD_TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        out.insert(names::PRE_STOP.to_owned(), serde_json::to_string(hook).unwrap_or_default());
    }
    if let Some(ports) = container.ports.as_ref().filter(|p| !p.is_empty()) {
        out.insert(names::PORTS.to_owned(), serde_json::to_string(ports).unwrap_or_default());
    }
    out
}

fn mounts(inputs: &Inputs<'_>, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<v1::Mount>> {
    let container = inputs.container;
    let mut out = Vec::new();
    let mut owns_hosts = false;
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        owns_hosts |= mount.mount_path.trim_end_matches('/') == "/etc/hosts";
        let root = inputs.volumes.get(&mount.name).ok_or_else(|| {
            Error::pod(format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name))
        })?;
        let sub = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
            (Some(sub), _) if !sub.is_empty() => Some(sub.to_owned()),
            (_, Some(expression)) if !expression.is_empty() => Some(
                expand_strict(expression, lookup).map_err(|name| Error::pod(format!("missing value for {name:?}")))?,
            ),
            _ => None,
        };
        let host_path = match sub {
            Some(sub) => {
                let place = inputs
                    .pod_dir
                    .join("volume-subpaths")
                    .join(&mount.name)
                    .join(&container.name)
                    .join(index.to_string());
                crate::volumes::subpath::bind(root, &sub, &place).map_err(|error| {
                    Error::pod(format!(
                        "failed to prepare subPath for volumeMount {:?} of container {:?}: {error}",
                        mount.name, container.name
                    ))
                })?
            }
            None => root.clone(),
        };
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
            _ => v1::MountPropagation::PropagationPrivate,
        };
        let read_only = mount.read_only == Some(true);
        out.push(v1::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.display().to_string(),
            readonly: read_only,
            recursive_read_only: read_only && mount.recursive_read_only.as_deref() == Some("Enabled"),
            propagation: propagation as i32,
            ..Default::default()
        });
    }
    if let Some(hosts) = inputs.hosts_file.as_ref().filter(|_| !owns_hosts) {
        out.push(v1::Mount {
            container_path: "/etc/hosts".into(),
            host_path: hosts.display().to_string(),
            ..Default::default()
        });
    }
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !path.is_empty() {
        out.push(v1::Mount {
            container_path: absolute(path),
            host_path: message_file(inputs)?.display().to_string(),
            ..Default::default()
        });
    }
    Ok(out)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// A new file for the termination message that any user in the container may write.
fn message_file(inputs: &Inputs<'_>) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = inputs.pod_dir.join("containers").join(&inputs.container.name);
    std::fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
    let path = dir.join(format!("{:08x}", rand::rng().random::<u32>()));
    std::fs::write(&path, "").map_err(Error::io("creating", &path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
        .map_err(Error::io("setting the mode of", &path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_in_full() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"terminationGracePeriodSeconds": 5, "containers": [{
                "name": "c", "image": "busybox", "command": ["sh", "-c", "echo $(A)"],
                "volumeMounts": [{"name": "v", "mountPath": "data", "readOnly": true}]}]}}))
        .expect("a pod");
        let inputs = Inputs {
            pod: &pod,
            container: &pod.spec.as_ref().expect("spec").containers[0],
            restart_count: 3,
            env: vec![("A".into(), "1".into())],
            volumes: &BTreeMap::from([("v".to_owned(), PathBuf::from("/vol"))]),
            pod_dir: dir.path(),
            hosts_file: Some("/h".into()),
            image_ref: "sha256:x".into(),
            image_user: security::ImageUser::default(),
            target: None,
            seccomp_root: Path::new("/s"),
            machine_memory: 1 << 30,
            cgroup_v2: false,
        };
        let out = build(&inputs).expect("built");
        assert_eq!(out.command, ["sh", "-c", "echo 1"]);
        assert_eq!(out.log_path, "c/3.log");
        assert_eq!(out.annotations[names::RESTART_COUNT], "3");
        let paths: Vec<&str> = out.mounts.iter().map(|m| m.container_path.as_str()).collect();
        assert_eq!(paths, ["/data", "/etc/hosts", "/dev/termination-log"]);
        assert!(out.mounts[0].readonly && Path::new(&out.mounts[2].host_path).exists());
    }
}
