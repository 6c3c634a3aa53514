//! Validation of probes and lifecycle hooks.

use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use crate::access::*;

/// `kind` is the probe's field name.
pub(super) fn validate_probe(errors: &mut ErrorList, kind: &str, probe: &Value, grace: Option<i64>, path: &Path) {
    if !probe.is_object() {
        return;
    }
    validate_handler(errors, probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, path);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        super::nonnegative(errors, int(probe, key), &path.child(key));
    }
    let own_grace = opt_int(probe, "terminationGracePeriodSeconds");
    if let Some(seconds) = own_grace.filter(|s| *s <= 0) {
        errors.invalid(path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
    if kind == "readinessProbe" {
        if let Some(seconds) = own_grace {
            let at = path.child("terminationGracePeriodSeconds");
            errors.invalid(at, seconds, "must not be set for readinessProbes");
        }
    } else if int(probe, "successThreshold") != 1 {
        errors.invalid(path.child("successThreshold"), int(probe, "successThreshold"), "must be 1");
    }
}

/// Signals a container may be stopped with.
const STOP_SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// `os` is the pod's `spec.os.name`.
pub(super) fn validate_lifecycle(errors: &mut ErrorList, lifecycle: &Value, grace: Option<i64>, os: &str, path: &Path) {
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = field(lifecycle, hook) {
            validate_handler(errors, handler, &["exec", "httpGet", "tcpSocket", "sleep"], grace, &path.child(hook));
        }
    }
    let Some(signal) = opt_text(lifecycle, "stopSignal") else { return };
    let at = path.child("stopSignal");
    let known: &[&str] = match os {
        "" => return errors.forbidden(at, "may not be set for containers with empty `spec.os.name`"),
        "windows" => &["SIGKILL", "SIGTERM"],
        _ => STOP_SIGNALS,
    };
    if !known.contains(&signal) {
        errors.not_supported(at, signal, known);
    }
}

fn validate_handler(errors: &mut ErrorList, handler: &Value, kinds: &[&str], grace: Option<i64>, path: &Path) {
    let mut count = 0;
    for kind in kinds {
        let Some(action) = field(handler, kind) else { continue };
        let at = path.child(kind);
        if count > 0 {
            errors.forbidden(at, "may not specify more than 1 handler type");
            continue;
        }
        count += 1;
        match *kind {
            "exec" => {
                if items(action, "command").is_empty() {
                    errors.required(at.child("command"), "");
                }
            }
            "httpGet" => validate_http_get(errors, action, &at),
            "tcpSocket" => port_number_or_name(errors, obj(action, "port"), &at.child("port")),
            "grpc" => super::port_number(errors, int(action, "port"), &at.child("port")),
            _ => validate_sleep(errors, int(action, "seconds"), grace, &at),
        }
    }
    if count == 0 {
        errors.required(path.clone(), "must specify a handler type");
    }
}

fn validate_http_get(errors: &mut ErrorList, action: &Value, path: &Path) {
    if text(action, "path").is_empty() {
        errors.required(path.child("path"), "");
    }
    port_number_or_name(errors, obj(action, "port"), &path.child("port"));
    let scheme = text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in items(action, "httpHeaders") {
        let name = text(header, "name");
        for message in names::is_http_header_name(name) {
            errors.invalid(path.child("httpHeaders"), name, &message);
        }
    }
}

/// A port given by number, or by the name of a container port.
pub fn port_number_or_name(errors: &mut ErrorList, port: &Value, path: &Path) {
    match port {
        Value::String(name) => {
            for message in names::is_valid_port_name(name) {
                errors.invalid(path.clone(), name.as_str(), &message);
            }
        }
        other => super::port_number(errors, other.as_i64().unwrap_or(0), path),
    }
}

fn validate_sleep(errors: &mut ErrorList, seconds: i64, grace: Option<i64>, path: &Path) {
    let Some(grace) = grace else { return };
    if seconds < 0 || seconds > grace {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(path.clone(), seconds, &detail);
    }
}
