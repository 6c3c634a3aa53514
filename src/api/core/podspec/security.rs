//! Validation of security contexts, of pods and of containers, and of what an operating system forbids.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use apimachinery::validation::{ErrorList, Path, names};
use regex::Regex;
use serde_json::Value;

use super::volumes::relative_path;
use super::{containers_with_paths, supported};
use crate::access::*;

const MAX_ID: i64 = i32::MAX as i64;
const WINDOWS: &str = "cannot be set for a windows pod";

fn id(errors: &mut ErrorList, holder: &Value, key: &str, path: &Path) {
    if let Some(id) = opt_int(holder, key) {
        for message in names::in_range(id, 0, MAX_ID) {
            errors.invalid(path.child(key), id, &message);
        }
    }
}

/// `spec.securityContext`.
pub(super) fn validate_pod_security_context(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let context = obj(spec, "securityContext");
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, context, key, path);
    }
    for (i, group) in items(context, "supplementalGroups").iter().enumerate() {
        let group = group.as_i64().unwrap_or(0);
        for message in names::in_range(group, 0, MAX_ID) {
            errors.invalid(path.child("supplementalGroups").index(i), group, &message);
        }
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(path.child("shareProcessNamespace"), true, detail);
    }
    validate_sysctls(errors, spec, &path.child("sysctls"));
    supported(errors, context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], path);
    validate_seccomp(errors, obj(context, "seccompProfile"), &path.child("seccompProfile"));
    validate_windows_options(errors, obj(context, "windowsOptions"), &path.child("windowsOptions"));
    validate_app_armor(errors, obj(context, "appArmorProfile"), &path.child("appArmorProfile"));
    supported(errors, context, "supplementalGroupsPolicy", &["Merge", "Strict"], path);
    supported(errors, context, "seLinuxChangePolicy", &["MountOption", "Recursive"], path);
}

fn validate_sysctls(errors: &mut ErrorList, spec: &Value, path: &Path) {
    const PATTERN: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    static NAME: OnceLock<Regex> = OnceLock::new();
    let pattern = NAME.get_or_init(|| Regex::new(PATTERN).expect("a constant pattern"));
    let mut seen = BTreeSet::new();
    for (i, sysctl) in items(obj(spec, "securityContext"), "sysctls").iter().enumerate() {
        let at = path.index(i).child("name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.required(at.clone(), "");
        } else if name.len() > 253 || !pattern.is_match(name) {
            let detail = format!("must have at most 253 characters and match regex {PATTERN}");
            errors.invalid(at.clone(), name, &detail);
        } else if seen.contains(name) {
            errors.duplicate(at.clone(), name);
        }
        let dotted = sysctl_with_dots(name);
        if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
            errors.invalid(at, name, "may not be specified when 'hostNetwork' is true");
        } else if flag(spec, "hostIPC") && is_ipc_sysctl(&dotted) {
            errors.invalid(at, name, "may not be specified when 'hostIPC' is true");
        }
        seen.insert(name);
    }
}

/// Names may use slashes between parts; then dots belong to the parts.
fn sysctl_with_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn is_ipc_sysctl(name: &str) -> bool {
    name == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
}

fn validate_seccomp(errors: &mut ErrorList, profile: &Value, path: &Path) {
    if !profile.is_object() {
        return;
    }
    let ty = text(profile, "type");
    let local = opt_text(profile, "localhostProfile");
    match ty {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => errors.required(path.child("type"), "type is required when seccompProfile is set"),
        other => errors.not_supported(path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    let at = path.child("localhostProfile");
    match (ty, local) {
        ("Localhost", None) => errors.required(at, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(local)) => relative_path(errors, local, &at),
        (_, Some(_)) => {
            let dump = crate::godump::dump("SeccompProfile", profile);
            errors.invalid_text(at, &dump, "can only be set when seccomp type is Localhost");
        }
        (_, None) => {}
    }
}

fn validate_app_armor(errors: &mut ErrorList, profile: &Value, path: &Path) {
    if !profile.is_object() {
        return;
    }
    let at = path.child("localhostProfile");
    let local = opt_text(profile, "localhostProfile");
    match text(profile, "type") {
        "Localhost" => match local {
            None | Some("") => errors.required(at, "must be set when AppArmor type is Localhost"),
            Some(local) => {
                if local.trim() != local {
                    errors.invalid(at.clone(), local, "must not be padded with whitespace");
                }
                if local.len() > 4095 {
                    errors.too_long(at, "", 4095);
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(local) = local {
                errors.invalid(at, local, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => errors.required(path.child("type"), "type is required when appArmorProfile is set"),
        other => errors.not_supported(path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// `securityContext` of a container.
pub(super) fn validate_security_context(errors: &mut ErrorList, context: &Value, host_users: bool, path: &Path) {
    if !context.is_object() {
        return;
    }
    for key in ["runAsUser", "runAsGroup"] {
        id(errors, context, key, path);
    }
    supported(errors, context, "procMount", &["Default", "Unmasked"], path);
    if host_users && text(context, "procMount") == "Unmasked" {
        errors.invalid(path.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    validate_seccomp(errors, obj(context, "seccompProfile"), &path.child("seccompProfile"));
    if opt_flag(context, "allowPrivilegeEscalation") == Some(false) {
        if flag(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid_text(path.clone(), &crate::godump::dump("SecurityContext", context), detail);
        }
        for capability in texts(obj(context, "capabilities"), "add") {
            if capability == "CAP_SYS_ADMIN" {
                let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
                errors.invalid_text(path.clone(), &crate::godump::dump("SecurityContext", context), detail);
            }
        }
    }
    validate_windows_options(errors, obj(context, "windowsOptions"), &path.child("windowsOptions"));
    validate_app_armor(errors, obj(context, "appArmorProfile"), &path.child("appArmorProfile"));
}

fn validate_windows_options(errors: &mut ErrorList, options: &Value, path: &Path) {
    if let Some(name) = opt_text(options, "gmsaCredentialSpecName") {
        errors.invalid_all(&path.child("gmsaCredentialSpecName"), name, names::is_dns1123_subdomain(name));
    }
    if let Some(spec) = opt_text(options, "gmsaCredentialSpec") {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > 64 * 1024 {
            errors.invalid(at, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(user) = opt_text(options, "runAsUserName") {
        for detail in windows_user_problems(user) {
            errors.invalid(path.child("runAsUserName"), user, detail);
        }
    }
}

fn windows_user_problems(name: &str) -> Vec<&'static str> {
    static DOMAIN: OnceLock<[Regex; 2]> = OnceLock::new();
    let [net_bios, dns] = DOMAIN.get_or_init(|| {
        let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
        [r#"^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$"#.to_owned(), format!(r"^{label}(?:\.{label})*$")]
            .map(|p| Regex::new(&p).expect("a constant pattern"))
    });
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    if name.matches('\\').count() > 1 {
        return vec!["runAsUserName cannot contain more than one backslash"];
    }
    let mut problems = Vec::new();
    let (domain, user) = match name.split_once('\\') {
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    if let Some(domain) = domain {
        if domain.len() >= 256 {
            problems.push("runAsUserName's Domain length must be under 256 characters");
        }
        if !net_bios.is_match(domain) && !dns.is_match(domain) {
            problems.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        problems.push("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        problems.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        problems.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        problems.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
    problems
}

/// Windows HostProcess containers: all or none, and only on the host's network.
pub(super) fn validate_host_process(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let of = |holder: &Value| opt_flag(obj(obj(holder, "securityContext"), "windowsOptions"), "hostProcess");
    let pod = of(spec);
    let (mut total, mut host) = (0, 0);
    for (container, at) in containers_with_paths(spec, path) {
        total += 1;
        let own = of(container);
        if let (Some(pod), Some(own)) = (pod, own) {
            if pod != own {
                let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
                errors.invalid(at.children(&["securityContext", "windowsOptions", "hostProcess"]), own, &detail);
            }
        }
        if own.or(pod) == Some(true) {
            host += 1;
        }
    }
    if host > 0 {
        if host != total {
            let detail =
                "If pod contains any hostProcess containers then all containers must be HostProcess containers";
            errors.invalid(path.clone(), "", detail);
        }
        if !flag(spec, "hostNetwork") {
            let detail = "hostNetwork must be true if pod contains any hostProcess containers";
            errors.invalid(path.child("hostNetwork"), false, detail);
        }
    }
}

/// User namespaces do not go together with the host's other namespaces.
pub(super) fn validate_host_users(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if opt_flag(spec, "hostUsers") != Some(false) {
        return;
    }
    for (key, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, key) {
            errors.forbidden(path.child(shown), "when `hostUsers` is false");
        }
    }
    for (container, at) in containers_with_paths(spec, path) {
        if !items(container, "volumeDevices").is_empty() {
            errors.forbidden(at.child("volumeDevices"), "when `hostUsers` is false");
        }
    }
}

/// `spec.os` and the fields it rules out.
pub(super) fn validate_os(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let Some(os) = field(spec, "os") else { return };
    match text(os, "name") {
        "" => errors.required(path.child("os").child("name"), "cannot be empty"),
        "linux" => validate_linux(errors, spec, path),
        "windows" => validate_windows(errors, spec, path),
        other => errors.not_supported(path.child("os"), other, &["linux", "windows"]),
    }
}

fn validate_linux(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mut check = |holder: &Value, at: &Path| {
        if has(obj(holder, "securityContext"), "windowsOptions") {
            let at = at.child("securityContext").child("windowsOptions");
            errors.forbidden(at, "windows options cannot be set for a linux pod");
        }
    };
    check(spec, path);
    for (container, at) in containers_with_paths(spec, path) {
        check(container, &at);
    }
}

fn validate_windows(errors: &mut ErrorList, spec: &Value, path: &Path) {
    // In upstream's order; what stands in the spec itself belongs to the internal security context.
    let of_pod = [
        ("appArmorProfile", true),
        ("seLinuxOptions", true),
        ("hostUsers", false),
        ("hostPID", false),
        ("hostIPC", false),
        ("seccompProfile", true),
        ("fsGroup", true),
        ("fsGroupChangePolicy", true),
        ("sysctls", true),
        ("shareProcessNamespace", false),
        ("runAsUser", true),
        ("runAsGroup", true),
        ("supplementalGroups", true),
        ("supplementalGroupsPolicy", true),
        ("seLinuxChangePolicy", true),
    ];
    let context = obj(spec, "securityContext");
    for (key, in_context) in of_pod {
        let given = match key {
            "hostPID" | "hostIPC" => flag(spec, key),
            _ if in_context => has(context, key),
            _ => has(spec, key),
        };
        if given {
            let at = if in_context { path.child("securityContext").child(key) } else { path.child(key) };
            errors.forbidden(at, WINDOWS);
        }
    }
    let of_container = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    for (container, at) in containers_with_paths(spec, path) {
        for key in of_container {
            if has(obj(container, "securityContext"), key) {
                errors.forbidden(at.child("securityContext").child(key), WINDOWS);
            }
        }
    }
}
