//! Security contexts: the container's over the pod's, as the runtime takes them.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use super::pod_text;
use crate::cri::v1;
use crate::error::{Error, Result};

const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Who the image says its processes are.
#[derive(Debug, Clone, Default)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// Namespaces shared with the host or among the containers; `target` is the container an ephemeral one looks into.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> v1::NamespaceOption {
    let spec = pod.spec.as_ref();
    let on = |flag: Option<bool>| flag == Some(true);
    let mode = |host: bool, otherwise: v1::NamespaceMode| if host { v1::NamespaceMode::Node } else { otherwise } as i32;
    let shared = on(spec.and_then(|s| s.share_process_namespace));
    let own_pid = if shared { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container };
    let mut out = v1::NamespaceOption {
        network: mode(on(spec.and_then(|s| s.host_network)), v1::NamespaceMode::Pod),
        pid: mode(on(spec.and_then(|s| s.host_pid)), own_pid),
        ipc: mode(on(spec.and_then(|s| s.host_ipc)), v1::NamespaceMode::Pod),
        ..Default::default()
    };
    if let Some(target) = target {
        out.pid = v1::NamespaceMode::Target as i32;
        target.clone_into(&mut out.target_id);
    }
    out
}

/// The context of the sandbox.
pub fn of_sandbox(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let int = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let runtime_default =
        v1::SecurityProfile { profile_type: v1::ProfileType::RuntimeDefault as i32, localhost_ref: String::new() };
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        run_as_user: int(context.and_then(|c| c.run_as_user)),
        run_as_group: int(context
            .and_then(|c| c.run_as_group)
            .filter(|_| context.is_some_and(|c| c.run_as_user.is_some()))),
        supplemental_groups: groups(context),
        supplemental_groups_policy: groups_policy(context),
        selinux_options: context.and_then(|c| c.se_linux_options.as_ref()).map(selinux),
        privileged: super::all(pod)
            .iter()
            .any(|c| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true)),
        seccomp: Some(runtime_default),
        ..Default::default()
    }
}

/// The context of a container.
///
/// # Errors
/// With upstream's text, when `runAsNonRoot` cannot be kept.
pub fn of_container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
    seccomp_root: &Path,
) -> Result<v1::LinuxContainerSecurityContext> {
    let pod_level = pod_context(pod);
    let own = container.security_context.as_ref();
    verify_non_root(pod, container, own, pod_level, image)?;
    let user = own.and_then(|c| c.run_as_user).or_else(|| pod_level.and_then(|c| c.run_as_user));
    let group = own.and_then(|c| c.run_as_group).or_else(|| pod_level.and_then(|c| c.run_as_group));
    let privileged = own.and_then(|c| c.privileged) == Some(true);
    let unmasked = own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let capabilities = own.and_then(|c| c.capabilities.as_ref()).map(|c| v1::Capability {
        add_capabilities: c.add.clone().unwrap_or_default(),
        drop_capabilities: c.drop.clone().unwrap_or_default(),
        ..Default::default()
    });
    let seccomp =
        own.and_then(|c| c.seccomp_profile.as_ref()).or_else(|| pod_level.and_then(|c| c.seccomp_profile.as_ref()));
    let apparmor =
        own.and_then(|c| c.app_armor_profile.as_ref()).or_else(|| pod_level.and_then(|c| c.app_armor_profile.as_ref()));
    let labels =
        own.and_then(|c| c.se_linux_options.as_ref()).or_else(|| pod_level.and_then(|c| c.se_linux_options.as_ref()));
    Ok(v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: labels.map(selinux),
        run_as_user: user.or(image.uid).map(|value| v1::Int64Value { value }),
        run_as_username: if user.is_none() && image.uid.is_none() { image.name.clone() } else { String::new() },
        run_as_group: group.map(|value| v1::Int64Value { value }),
        readonly_rootfs: own.and_then(|c| c.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups(pod_level),
        supplemental_groups_policy: groups_policy(pod_level),
        no_new_privs: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(seccomp_of(seccomp, seccomp_root)),
        apparmor: apparmor.map(apparmor_of),
        ..Default::default()
    })
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    own: Option<&SecurityContext>,
    pod_level: Option<&PodSecurityContext>,
    image: &ImageUser,
) -> Result<()> {
    let wanted = own.and_then(|c| c.run_as_non_root).or_else(|| pod_level.and_then(|c| c.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let user = own.and_then(|c| c.run_as_user).or_else(|| pod_level.and_then(|c| c.run_as_user));
    let place = format!("(pod: {:?}, container: {})", pod_text(pod), container.name);
    match (user, image.uid) {
        (Some(0), _) => Err(Error::pod(format!("container's runAsUser breaks non-root policy {place}"))),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(Error::pod(format!("container has runAsNonRoot and image will run as root {place}"))),
        // An image that names nobody runs as root.
        (None, None) if image.name.is_empty() => {
            Err(Error::pod(format!("container has runAsNonRoot and image will run as root {place}")))
        }
        (None, None) => Err(Error::pod(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.name
        ))),
        _ => Ok(()),
    }
}

fn groups(context: Option<&PodSecurityContext>) -> Vec<i64> {
    let Some(context) = context else { return Vec::new() };
    let mut out: Vec<i64> = context.supplemental_groups.clone().unwrap_or_default();
    out.extend(context.fs_group);
    out
}

fn groups_policy(context: Option<&PodSecurityContext>) -> i32 {
    match context.and_then(|c| c.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict as i32,
        _ => v1::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn seccomp_of(profile: Option<&SeccompProfile>, root: &Path) -> v1::SecurityProfile {
    let (kind, localhost) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (v1::ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            (v1::ProfileType::Localhost, root.join(name).display().to_string())
        }
        _ => (v1::ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: localhost }
}

fn apparmor_of(profile: &AppArmorProfile) -> v1::SecurityProfile {
    let kind = match profile.type_.as_str() {
        "Localhost" => v1::ProfileType::Localhost,
        "Unconfined" => v1::ProfileType::Unconfined,
        _ => v1::ProfileType::RuntimeDefault,
    };
    v1::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: profile.localhost_profile.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parts(pod_context: serde_json::Value, own: serde_json::Value) -> (Pod, Container) {
        let container = json!({"name": "c", "securityContext": own});
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [container]}}))
        .expect("a pod");
        let container = pod.spec.as_ref().expect("spec").containers[0].clone();
        (pod, container)
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let (pod, container) = parts(
            json!({"runAsUser": 1, "fsGroup": 7, "supplementalGroups": [5], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 2, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}),
        );
        let out = of_container(&pod, &container, &ImageUser::default(), None, Path::new("/s")).expect("made");
        assert_eq!(out.run_as_user, Some(v1::Int64Value { value: 2 }));
        assert_eq!(out.supplemental_groups, [5, 7]);
        assert!(out.no_new_privs);
        assert_eq!(out.capabilities.expect("set").drop_capabilities, ["ALL"]);
        assert_eq!(out.seccomp.expect("set").profile_type, v1::ProfileType::RuntimeDefault as i32);
    }

    #[test]
    fn non_root_is_verified() {
        let place = "(pod: \"p_ns(u)\", container: c)";
        let image = |uid, name: &str| ImageUser { uid, name: name.into() };
        for (own, image, message) in [
            (
                json!({"runAsNonRoot": true, "runAsUser": 0}),
                image(None, ""),
                "container's runAsUser breaks non-root policy",
            ),
            (
                json!({"runAsNonRoot": true}),
                image(Some(0), ""),
                "container has runAsNonRoot and image will run as root",
            ),
            (
                json!({"runAsNonRoot": true}),
                image(None, "nobody"),
                "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root",
            ),
        ] {
            let (pod, container) = parts(json!({}), own);
            let error = of_container(&pod, &container, &image, None, Path::new("/s")).expect_err("refused");
            assert_eq!(error.to_string(), format!("{message} {place}"));
        }
        let (pod, container) = parts(json!({"runAsNonRoot": true}), json!({}));
        assert!(of_container(&pod, &container, &image(Some(1000), ""), None, Path::new("/s")).is_ok());
    }
}
