//! Ingress: HTTP from outside to services.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ingressclass::check_reference;
use crate::access::{has, int, items, obj, opt_text, set, text, texts};
use crate::checks::{
    annotation, dns_label, dns_subdomain, ip, keep_spec_or_status, port_number, spec, start_generation, status,
};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct Ingress;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.networking.v1.Ingress";
    Kind::builtin("networking.k8s.io/v1", "Ingress", "ingresses", Scope::Namespaced, DEFINITION, Ingress)
        .with_short_names(&["ing"])
        .with_storage_key("ingress")
        .with_subresource("status", "networking.k8s.io/v1", "Ingress", &["get", "patch", "update"])
}

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

impl Strategy for Ingress {
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"loadBalancer": {}}));
        start_generation(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        keep_spec_or_status(cx, object, old);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&mut errors, spec(object));
        if let (Some(old_way), Some(class)) =
            (annotation(object, CLASS_ANNOTATION), opt_text(spec(object), "ingressClassName"))
        {
            if old_way != class {
                let path = Path::new("annotations").child(CLASS_ANNOTATION);
                errors.invalid(path, old_way, "must match `ingressClassName` when both are specified");
            }
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.subresource == "status" {
            check_status(&mut errors, status(object));
        } else {
            check_spec(&mut errors, spec(object));
        }
        errors
    }

    fn warnings(&self, _cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() || annotation(object, CLASS_ANNOTATION).is_none() {
            return Vec::new();
        }
        vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("networking.k8s.io/v1/ingresses")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let points = items(obj(status(object), "loadBalancer"), "ingress").iter();
        let mut addresses: Vec<_> = points
            .map(|p| if text(p, "ip").is_empty() { text(p, "hostname") } else { text(p, "ip") })
            .filter(|a| !a.is_empty())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let ports = if items(spec(object), "tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name_of(object),
            json!(opt_text(spec(object), "ingressClassName").unwrap_or("<none>")),
            json!(hosts(items(spec(object), "rules"))),
            json!(addresses.join(",")),
            json!(ports),
            age_of(object, now),
        ]
    }
}

fn hosts(rules: &[Value]) -> String {
    const MAX: usize = 3;
    let mut shown = Vec::new();
    let mut more = false;
    for rule in rules {
        if shown.len() == MAX {
            more = true;
        } else if !text(rule, "host").is_empty() {
            shown.push(text(rule, "host"));
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, false) => shown.join(","),
        (false, true) => format!("{} + {} more...", shown.join(","), rules.len() - MAX),
    }
}

fn check_spec(errors: &mut ErrorList, spec: &Value) {
    let path = Path::new("spec");
    let rules = items(spec, "rules");
    if rules.is_empty() && !has(spec, "defaultBackend") {
        errors.invalid(
            path.clone(),
            obj(spec, "rules").clone(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if has(spec, "defaultBackend") {
        check_backend(errors, path.child("defaultBackend"), obj(spec, "defaultBackend"));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.child("rules").index(i);
        check_host(errors, at.child("host"), text(rule, "host"));
        if has(rule, "http") {
            check_paths(errors, at.child("http").child("paths"), items(obj(rule, "http"), "paths"));
        }
    }
    for (i, tls) in items(spec, "tls").iter().enumerate() {
        let at = path.child("tls").index(i);
        for (j, host) in texts(tls, "hosts").iter().enumerate() {
            host_name(errors, at.child("hosts").index(j), host);
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            dns_subdomain(errors, at.child("secretName"), secret);
        }
    }
    if let Some(class) = opt_text(spec, "ingressClassName") {
        dns_subdomain(errors, path.child("ingressClassName"), class);
    }
}

fn check_host(errors: &mut ErrorList, path: Path, host: &str) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path.clone(), host, "must be a DNS name, not an IP address");
    }
    host_name(errors, path, host);
}

fn host_name(errors: &mut ErrorList, path: Path, host: &str) {
    let bad =
        if host.contains('*') { names::is_wildcard_dns1123_subdomain(host) } else { names::is_dns1123_subdomain(host) };
    errors.invalid_all(&path, host, bad);
}

fn check_paths(errors: &mut ErrorList, path: Path, paths: &[Value]) {
    if paths.is_empty() {
        errors.required(path.clone(), "");
    }
    for (i, rule) in paths.iter().enumerate() {
        let at = path.index(i);
        let Some(ty) = opt_text(rule, "pathType") else {
            errors.required(at.child("pathType"), "pathType must be specified");
            continue;
        };
        let value = text(rule, "path");
        let relative = !value.starts_with('/');
        match ty {
            "Exact" | "Prefix" => {
                if relative {
                    errors.invalid(at.child("path"), value, "must be an absolute path");
                }
                for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|bad| value.contains(**bad)) {
                    errors.invalid(at.child("path"), value, &format!("must not contain '{bad}'"));
                }
                for bad in ["/..", "/."].iter().filter(|bad| value.ends_with(**bad)) {
                    errors.invalid(at.child("path"), value, &format!("cannot end with '{bad}'"));
                }
            }
            "ImplementationSpecific" => {
                if relative && !value.is_empty() {
                    errors.invalid(at.child("path"), value, "must be an absolute path");
                }
            }
            _ => errors.not_supported(at.child("pathType"), ty, &["Exact", "ImplementationSpecific", "Prefix"]),
        }
        check_backend(errors, at.child("backend"), obj(rule, "backend"));
    }
}

fn check_backend(errors: &mut ErrorList, path: Path, backend: &Value) {
    match (has(backend, "resource"), has(backend, "service")) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (false, false) => errors.invalid(path, "", "resource or service backend is required"),
        (true, false) => check_reference(errors, &path.child("resource"), obj(backend, "resource")),
        (false, true) => {
            let service = obj(backend, "service");
            let at = path.child("service");
            match text(service, "name") {
                "" => errors.required(at.child("name"), ""),
                name => dns_label(errors, at.child("name"), name),
            }
            let port = obj(service, "port");
            match (text(port, "name"), int(port, "number")) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => port_number(errors, at.child("port").child("number"), number),
                (name, 0) => errors.invalid_all(&at.child("port").child("name"), name, names::is_valid_port_name(name)),
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

fn check_status(errors: &mut ErrorList, status: &Value) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (i, point) in items(obj(status, "loadBalancer"), "ingress").iter().enumerate() {
        let at = path.index(i);
        let (address, hostname) = (text(point, "ip"), text(point, "hostname"));
        if !address.is_empty() {
            ip(errors, &at.child("ip"), address);
        }
        if !hostname.is_empty() {
            dns_subdomain(errors, at.child("hostname"), hostname);
            if hostname.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(at.child("hostname"), hostname, "must be a DNS name, not an IP address");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, cx};

    #[test]
    fn checks_rules() {
        assert_eq!(
            create_errors(&Ingress, json!({"spec": {}})),
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
        );
        let backend = json!({"service": {"name": "s", "port": {"number": 80, "name": "x"}}});
        assert_eq!(
            create_errors(
                &Ingress,
                json!({"spec": {"rules": [
                    {"host": "1.2.3.4", "http": {"paths": [{"pathType": "Exact", "path": "/a/..", "backend": backend}]}},
                    {"host": "*.a.b", "http": {"paths": [{"pathType": "ImplementationSpecific", "backend": {"service": {"name": "s"}}}]}}]}})
            ),
            [
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a/..\": cannot end with '/..'",
                "spec.rules[0].http.paths[0].backend: Invalid value: \"\": cannot set both port name & port number",
                "spec.rules[1].http.paths[0].backend: Required value: port name or number is required",
            ]
        );
    }

    #[test]
    fn prints_hosts_and_addresses() {
        let rules: Vec<_> = ["a", "", "b", "c", "d"].iter().map(|h| json!({"host": h})).collect();
        let ingress = json!({"metadata": {"name": "i"}, "spec": {"rules": rules, "tls": [{}]},
                             "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "1h"}]}}});
        let row = Ingress.row(&ingress, cx("").now);
        assert_eq!(row[1..5], [json!("<none>"), json!("a,b,c + 2 more..."), json!("1h,2.2.2.2"), json!("80, 443")]);
    }
}
