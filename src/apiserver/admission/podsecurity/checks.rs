//! The checks of the Pod Security Standards, each with the versions in which it came or changed.
//!
//! Invariants:
//! - PS-2: checks are pure: a pod's annotations and spec in, at most one violation out.
//! - PS-3: baseline checks come before restricted ones, each in the order of their ids.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, LevelVersion, Version};
use crate::admission::{list, text};

/// What a check says against a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

/// `reason (detail), …` of all, and the reasons alone.
pub fn describe(violations: &[Violation]) -> String {
    let parts = violations.iter().map(|violation| match violation.detail.as_str() {
        "" => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    });
    parts.collect::<Vec<_>>().join(", ")
}

pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// What is wrong with a pod (its metadata and spec) under a policy.
pub fn evaluate(policy: LevelVersion, metadata: &Value, spec: &Value) -> Vec<Violation> {
    if policy.level == Level::Privileged {
        return Vec::new();
    }
    let pod = Pod::new(metadata, spec);
    let active: Vec<(&Check, CheckFn)> = CHECKS
        .iter()
        .filter(|check| check.level <= policy.level)
        .filter_map(|check| Some((check, check.at(policy.version)?)))
        .collect();
    let replaced: Vec<&str> = active.iter().filter_map(|(check, _)| check.replaces).collect();
    let counting = active.iter().filter(|(check, _)| !replaced.contains(&check.id));
    counting.filter_map(|(_, run)| run(&pod)).collect()
}

struct Pod<'a> {
    annotations: &'a Value,
    spec: &'a Value,
    context: &'a Value,
    /// Init containers, containers, ephemeral containers.
    containers: Vec<&'a Value>,
}

impl<'a> Pod<'a> {
    fn new(metadata: &'a Value, spec: &'a Value) -> Self {
        let containers = ["initContainers", "containers", "ephemeralContainers"];
        Self {
            annotations: &metadata["annotations"],
            spec,
            context: &spec["securityContext"],
            containers: containers.iter().flat_map(|key| list(spec, key)).collect(),
        }
    }

    /// Runs on Windows, where these Linux settings mean nothing.
    fn on_windows(&self) -> bool {
        text(&self.spec["os"], "name") == "windows"
    }

    /// Runs in a user namespace: root in it is nobody outside.
    fn in_user_namespace(&self) -> bool {
        self.spec["hostUsers"].as_bool() == Some(false)
    }

    /// The names of the containers that `bad` says yes to.
    fn bad(&self, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        let found = self.containers.iter().filter(|container| bad(container));
        found.map(|container| text(container, "name").to_owned()).collect()
    }
}

type CheckFn = fn(&Pod<'_>) -> Option<Violation>;

struct Check {
    id: &'static str,
    level: Level,
    /// The laxer check that this one makes superfluous.
    replaces: Option<&'static str>,
    /// Minor versions and what counts from them on.
    versions: &'static [(u32, CheckFn)],
}

impl Check {
    fn at(&self, version: Version) -> Option<CheckFn> {
        self.versions.iter().rev().find(|(since, _)| version.has(*since)).map(|(_, check)| *check)
    }
}

const fn baseline(id: &'static str, versions: &'static [(u32, CheckFn)]) -> Check {
    Check { id, level: Level::Baseline, replaces: None, versions }
}

const fn restricted(id: &'static str, replaces: Option<&'static str>, versions: &'static [(u32, CheckFn)]) -> Check {
    Check { id, level: Level::Restricted, replaces, versions }
}

/// PS-3.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, app_armor)]),
    baseline("capabilities_baseline", &[(0, capabilities_baseline)]),
    baseline("hostNamespaces", &[(0, host_namespaces)]),
    baseline("hostPathVolumes", &[(0, host_path_volumes)]),
    baseline("hostPorts", &[(0, host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, host_probes)]),
    baseline("privileged", &[(0, privileged)]),
    baseline("procMount", &[(0, proc_mount), (35, proc_mount_35)]),
    baseline("seLinuxOptions", &[(0, selinux_0), (31, selinux_31)]),
    baseline("seccompProfile_baseline", &[(0, seccomp_annotations), (19, seccomp_baseline)]),
    baseline("sysctls", &[(0, sysctls_0), (27, sysctls_27), (29, sysctls_29), (32, sysctls_32)]),
    baseline("windowsHostProcess", &[(0, windows_host_process)]),
    restricted("allowPrivilegeEscalation", None, &[(8, escalation), (25, escalation_25)]),
    restricted(
        "capabilities_restricted",
        Some("capabilities_baseline"),
        &[(22, capabilities_restricted), (25, capabilities_restricted_25)],
    ),
    restricted("restrictedVolumes", Some("hostPathVolumes"), &[(0, restricted_volumes)]),
    restricted("runAsNonRoot", None, &[(0, non_root), (35, non_root_35)]),
    restricted("runAsUser", None, &[(23, run_as_user), (35, run_as_user_35)]),
    restricted(
        "seccompProfile_restricted",
        Some("seccompProfile_baseline"),
        &[(19, seccomp_restricted), (25, seccomp_restricted_25)],
    ),
];

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<S> = items.into_iter().collect();
    format!("\"{}\"", items.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\", \""))
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[String]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and containers "a", "b"`: those who set something bad; none: nobody did.
fn setters(pod: bool, names: &[String]) -> Option<String> {
    match (pod, names) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (false, names) => Some(containers(names)),
        (true, names) => Some(format!("pod and {}", containers(names))),
    }
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

fn context(container: &Value) -> &Value {
    &container["securityContext"]
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let profile = &context["appArmorProfile"];
        let bad = !profile.is_null() && !matches!(text(profile, "type"), "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(text(profile, "type").to_owned());
        }
        bad
    };
    let of_pod = bad(pod.context);
    let names: Vec<String> = pod
        .containers
        .iter()
        .filter(|container| bad(context(container)))
        .map(|container| text(container, "name").to_owned())
        .collect();
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations: BTreeSet<String> = (pod.annotations.as_object().into_iter().flatten())
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| key.starts_with(ANNOTATION) && !allowed(value))
        .map(|(key, value)| format!("{key}={}", apimachinery::goformat::quote(value)))
        .collect();
    let mut who: Vec<String> = setters(of_pod, &names).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    violation(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)),
    )
}

/// Containers that add capabilities beyond `allowed`, and which.
fn added(pod: &Pod<'_>, allowed: &[&str]) -> (Vec<String>, BTreeSet<String>) {
    let beyond = |container: &Value| -> Vec<String> {
        let add = list(&context(container)["capabilities"], "add").iter().filter_map(Value::as_str);
        add.filter(|capability| !allowed.contains(capability)).map(str::to_owned).collect()
    };
    let names = pod.bad(|container| !beyond(container).is_empty());
    (names, pod.containers.iter().flat_map(|container| beyond(container)).collect())
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (names, values) = added(pod, ALLOWED);
    if names.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(values));
    violation("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let keeping = pod.bad(|container| !list(&context(container)["capabilities"], "drop").iter().any(|c| c == "ALL"));
    let (adding, values) = added(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let (who, what) = (containers(&adding), quoted(values));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn capabilities_restricted_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.on_windows() { None } else { capabilities_restricted(pod) }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let set: Vec<String> =
        fields.filter(|field| pod.spec[*field] == true).map(|field| format!("{field}=true")).collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = list(pod.spec, "volumes").iter().filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<&str> = volumes.map(|volume| text(volume, "name")).collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let of = |container: &Value| -> Vec<String> {
        let ports = list(container, "ports").iter().filter_map(|port| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let names = pod.bad(|container| !of(container).is_empty());
    let ports: BTreeSet<String> = pod.containers.iter().flat_map(|container| of(container)).collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    let of = |container: &Value| -> Vec<String> {
        let lifecycle = &container["lifecycle"];
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|key| &container[key]);
        let hooks = ["postStart", "preStop"].map(|key| &lifecycle[key]);
        let actions = probes.into_iter().chain(hooks).flat_map(|holder| [&holder["httpGet"], &holder["tcpSocket"]]);
        actions.map(|action| text(action, "host")).filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let names: BTreeSet<String> = pod.bad(|container| !of(container).is_empty()).into_iter().collect();
    let hosts: BTreeSet<String> = pod.containers.iter().flat_map(|container| of(container)).collect();
    if names.is_empty() {
        return None;
    }
    let names: Vec<String> = names.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
        quoted(hosts)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.bad(|container| context(container)["privileged"] == true);
    let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
    if names.is_empty() { None } else { violation("privileged", detail) }
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let of = |container: &Value| -> Option<String> {
        context(container)["procMount"].as_str().filter(|mount| *mount != "Default").map(str::to_owned)
    };
    let names = pod.bad(|container| of(container).is_some());
    let values: BTreeSet<String> = pod.containers.iter().filter_map(|container| of(container)).collect();
    let detail = format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(values));
    if names.is_empty() { None } else { violation("procMount", detail) }
}

fn proc_mount_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.in_user_namespace() { None } else { proc_mount(pod) }
}

fn selinux(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        !allowed.contains(&text(options, "type"))
            || !text(options, "user").is_empty()
            || !text(options, "role").is_empty()
    };
    let who = setters(bad(pod.context), &pod.bad(|container| bad(context(container))))?;
    let all = || std::iter::once(pod.context).chain(pod.containers.iter().map(|container| context(container)));
    let types: BTreeSet<&str> =
        all().map(|context| text(&context["seLinuxOptions"], "type")).filter(|ty| !allowed.contains(ty)).collect();
    let mut details = Vec::new();
    if !types.is_empty() {
        details.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    for key in ["user", "role"] {
        if all().any(|context| !text(&context["seLinuxOptions"], key).is_empty()) {
            details.push(format!("{key} may not be set"));
        }
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", details.join("; "));
    violation("seLinuxOptions", detail)
}

fn selinux_0(pod: &Pod<'_>) -> Option<Violation> {
    selinux(pod, &["", "container_t", "container_init_t", "container_kvm_t"])
}

fn selinux_31(pod: &Pod<'_>) -> Option<Violation> {
    selinux(pod, &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let allowed = |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let of_pod = ["seccomp.security.alpha.kubernetes.io/pod".to_owned()].into_iter();
    let of_containers = (pod.containers.iter())
        .map(|container| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(container, "name")));
    let bad: BTreeSet<String> = of_pod
        .chain(of_containers)
        .filter_map(|key| Some((pod.annotations[&key].as_str()?, key)))
        .filter(|(value, _)| !allowed(value))
        .map(|(value, key)| format!("{key}={}", apimachinery::goformat::quote(value)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", bad.len());
    violation("seccompProfile", format!("forbidden {word} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

/// The profile's type, where there is a profile.
fn seccomp(context: &Value) -> Option<&str> {
    let profile = &context["seccompProfile"];
    (!profile.is_null()).then(|| text(profile, "type"))
}

fn confines(profile: &str) -> bool {
    matches!(profile, "Localhost" | "RuntimeDefault")
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |context: &Value| seccomp(context).is_some_and(|profile| !confines(profile));
    let who = setters(bad(pod.context), &pod.bad(|container| bad(context(container))))?;
    let all = std::iter::once(pod.context).chain(pod.containers.iter().map(|container| context(container)));
    let values: BTreeSet<&str> = all.filter_map(seccomp).filter(|profile| !confines(profile)).collect();
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values));
    violation("seccompProfile", detail)
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if let Some(found) = seccomp_baseline(pod) {
        return Some(found);
    }
    if seccomp(pod.context).is_some_and(confines) {
        return None;
    }
    let names = pod.bad(|container| seccomp(context(container)).is_none());
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&names)
    );
    if names.is_empty() { None } else { violation("seccompProfile", detail) }
}

fn seccomp_restricted_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.on_windows() { None } else { seccomp_restricted(pod) }
}

const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
];
const SYSCTLS_SINCE_27: &[&str] = &["net.ipv4.ip_local_reserved_ports"];
const SYSCTLS_SINCE_29: &[&str] = &[
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];
const SYSCTLS_SINCE_32: &[&str] = &["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"];

fn sysctls(pod: &Pod<'_>, allowed: &[&[&str]]) -> Option<Violation> {
    let names = list(pod.context, "sysctls").iter().map(|sysctl| text(sysctl, "name"));
    let bad: Vec<&str> = names.filter(|name| !allowed.iter().any(|list| list.contains(name))).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn sysctls_0(pod: &Pod<'_>) -> Option<Violation> {
    sysctls(pod, &[SYSCTLS])
}

fn sysctls_27(pod: &Pod<'_>) -> Option<Violation> {
    sysctls(pod, &[SYSCTLS, SYSCTLS_SINCE_27])
}

fn sysctls_29(pod: &Pod<'_>) -> Option<Violation> {
    sysctls(pod, &[SYSCTLS, SYSCTLS_SINCE_27, SYSCTLS_SINCE_29])
}

fn sysctls_32(pod: &Pod<'_>) -> Option<Violation> {
    sysctls(pod, &[SYSCTLS, SYSCTLS_SINCE_27, SYSCTLS_SINCE_29, SYSCTLS_SINCE_32])
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let who = setters(bad(pod.context), &pod.bad(|container| bad(context(container))))?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn escalation(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.bad(|container| context(container)["allowPrivilegeEscalation"] != false);
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    if names.is_empty() { None } else { violation("allowPrivilegeEscalation != false", detail) }
}

fn escalation_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.on_windows() { None } else { escalation(pod) }
}

fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: &[&str] =
        &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    const KNOWN: &[&str] = &[
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let has = |volume: &Value, keys: &[&'static str]| keys.iter().find(|key| !volume[**key].is_null()).copied();
    let bad: Vec<&Value> = list(pod.spec, "volumes").iter().filter(|volume| has(volume, ALLOWED).is_none()).collect();
    if bad.is_empty() {
        return None;
    }
    let types: BTreeSet<&str> = bad.iter().map(|volume| has(volume, KNOWN).unwrap_or("unknown")).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(bad.iter().map(|volume| text(volume, "name"))),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", types.len()),
        quoted(types)
    );
    violation("restricted volume types", detail)
}

fn non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of = |context: &Value| context["runAsNonRoot"].as_bool();
    let explicit = pod.bad(|container| of(context(container)) == Some(false));
    if let Some(who) = setters(of(pod.context) == Some(false), &explicit) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if of(pod.context) == Some(true) {
        return None;
    }
    let names = pod.bad(|container| of(context(container)).is_none());
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&names));
    if names.is_empty() { None } else { violation(REASON, detail) }
}

fn non_root_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.in_user_namespace() { None } else { non_root(pod) }
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let root = |context: &Value| context["runAsUser"].as_i64() == Some(0);
    let who = setters(root(pod.context), &pod.bad(|container| root(context(container))))?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn run_as_user_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.in_user_namespace() { None } else { run_as_user(pod) }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
