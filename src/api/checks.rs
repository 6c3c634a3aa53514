//! Checks that several kinds share, worded as upstream's.
//!
//! Invariants:
//! - CK-1: a check adds errors and never changes the object.

use std::net::IpAddr;

use apimachinery::validation::meta::{self as validation_meta, LabelSelectorOptions};
use apimachinery::validation::{ErrorList, ErrorType, FieldError, Path, names};
use serde_json::Value;

use crate::access::{copy_field, obj, same, text};
use crate::kind::RequestContext;

pub(crate) const IMMUTABLE: &str = "field is immutable";
pub(crate) const IMMUTABLE_WHEN_SET: &str = "field is immutable when `immutable` is set";
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

pub(crate) fn meta(object: &Value) -> &Value {
    obj(object, "metadata")
}

pub(crate) fn spec(object: &Value) -> &Value {
    obj(object, "spec")
}

pub(crate) fn status(object: &Value) -> &Value {
    obj(object, "status")
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(meta(object), "namespace")
}

pub(crate) fn name(object: &Value) -> &str {
    text(meta(object), "name")
}

/// An annotation, `None` when it is not there.
pub(crate) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    obj(meta(object), "annotations").get(key).and_then(Value::as_str)
}

pub(crate) fn immutable(errors: &mut ErrorList, path: Path, new: &Value, old: &Value) {
    if !same(new, old) {
        errors.invalid(path, new.clone(), IMMUTABLE);
    }
}

pub(crate) fn not_negative(errors: &mut ErrorList, path: Path, value: i64) {
    if value < 0 {
        errors.invalid(path, value, NOT_NEGATIVE);
    }
}

/// A label, `kubernetes.io/name`, or nothing but a name.
pub(crate) fn qualified_name(errors: &mut ErrorList, path: Path, value: &str) {
    errors.invalid_all(&path, value, names::is_qualified_name(value));
}

pub(crate) fn dns_label(errors: &mut ErrorList, path: Path, value: &str) {
    errors.invalid_all(&path, value, names::is_dns1123_label(value));
}

pub(crate) fn dns_subdomain(errors: &mut ErrorList, path: Path, value: &str) {
    errors.invalid_all(&path, value, names::is_dns1123_subdomain(value));
}

pub(crate) fn port_number(errors: &mut ErrorList, path: Path, port: i64) {
    for detail in names::is_valid_port_num(port) {
        errors.invalid(path.clone(), port, &detail);
    }
}

/// A protocol of a port. `required` is upstream's detail for none.
pub(crate) fn protocol(errors: &mut ErrorList, path: Path, protocol: &str) {
    if protocol.is_empty() {
        errors.required(path, "");
    } else if !PROTOCOLS.contains(&protocol) {
        errors.not_supported(path, protocol, PROTOCOLS);
    }
}

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// One of `supported`, `Required value` when empty.
pub(crate) fn one_of(errors: &mut ErrorList, path: Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.required(path, "");
    } else if !supported.contains(&value) {
        errors.not_supported(path, value, supported);
    }
}

/// Adds an IP's errors; true when it is one.
pub(crate) fn ip(errors: &mut ErrorList, path: &Path, value: &str) -> bool {
    let found = names::is_valid_ip(value);
    let valid = found.is_empty();
    errors.invalid_all(path, value, found);
    valid
}

pub(crate) fn cidr(errors: &mut ErrorList, path: &Path, value: &str) -> bool {
    let found = names::is_valid_cidr(value);
    let valid = found.is_empty();
    errors.invalid_all(path, value, found);
    valid
}

/// An address traffic can be sent to: not unspecified, loopback or link-local.
pub(crate) fn non_special_ip(errors: &mut ErrorList, path: &Path, value: &str) {
    let Ok(address) = value.parse::<IpAddr>() else {
        errors.invalid(path.clone(), value, "must be a valid IP address");
        return;
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        errors.invalid(path.clone(), value, &format!("may not be unspecified ({value})"));
    }
    if address.is_loopback() {
        errors.invalid(path.clone(), value, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(path.clone(), value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errors.invalid(path.clone(), value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// Warns of an address whose form upstream will refuse one day.
pub(crate) fn ip_warning(path: &Path, value: &str) -> Option<String> {
    let canonical = value.parse::<IpAddr>().ok()?.to_string();
    (canonical != value)
        .then(|| format!("{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({canonical:?})"))
}

/// A duplicate whose value prints as Go's dump of an internal struct.
pub(crate) fn duplicate_text(errors: &mut ErrorList, path: Path, dump: &str, detail: &str) {
    let mut error = FieldError::new(ErrorType::Duplicate, &path, Value::Null, detail);
    error.value_text = Some(dump.to_owned());
    errors.push(error);
}

/// The dump of an internal Go struct: fields in the order of its declaration.
pub(crate) fn dump(fields: &[(&str, Value)]) -> String {
    let body: Vec<_> =
        fields.iter().map(|(key, value)| format!("\"{key}\":{}", apimachinery::goformat::json(value))).collect();
    format!("{{{}}}", body.join(","))
}

/// Bytes of a base64 text.
pub(crate) fn decoded_len(base64: &str) -> usize {
    let text = base64.trim_end_matches('=');
    text.len() * 3 / 4
}

/// `Some(details)` of a name that is neither standard nor qualified: a namespace's finalizer.
pub(crate) fn finalizer_name(errors: &mut ErrorList, path: &Path, value: &str) {
    const STANDARD: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];
    qualified_name(errors, path.clone(), value);
    if !value.contains('/') && !STANDARD.contains(&value) {
        errors.invalid(path.clone(), value, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// `a=1,b=2`, `<none>` when empty.
pub(crate) fn format_labels(labels: &Value) -> String {
    let all: Vec<_> =
        labels.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

/// The sections of an object but its metadata, as they were and as they are, differ: the generation goes up.
pub(crate) fn set_generation(object: &mut Value, generation: i64) {
    if let Some(meta) = crate::access::ensure_map(object, "metadata") {
        meta.insert("generation".to_owned(), generation.into());
    }
}

/// A kind with a spec and a generation: starts at 1.
pub(crate) fn start_generation(object: &mut Value) {
    set_generation(object, 1);
}

/// Keeps the old generation, one more if `changed`.
pub(crate) fn next_generation(object: &mut Value, old: &Value, changed: bool) {
    let was = crate::access::int(meta(old), "generation");
    if was == 0 && !changed {
        return;
    }
    set_generation(object, was + i64::from(changed));
}

/// An update of an object with a spec and a status: the status is kept, or on `status` the spec; the generation counts
/// changes of the spec.
pub(crate) fn keep_spec_or_status(cx: &RequestContext, object: &mut Value, old: &Value) {
    if cx.subresource == "status" {
        copy_field(object, old, "spec");
        next_generation(object, old, false);
    } else {
        copy_field(object, old, "status");
        let changed = !same(spec(object), spec(old));
        next_generation(object, old, changed);
    }
}

/// An update of a status that keeps what clients say in the metadata.
pub(crate) fn keep_metadata(object: &mut Value, old: &Value) {
    let was = meta(old);
    if let Some(now) = object.get_mut("metadata") {
        for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
            copy_field(now, was, key);
        }
    }
}

/// `acme.io/foo`.
pub(crate) fn domain_prefixed_path(errors: &mut ErrorList, path: Path, value: &str) {
    if value.is_empty() {
        errors.required(path, "");
        return;
    }
    let (host, rest) = value.split_once('/').unwrap_or((value, ""));
    if host.is_empty() || rest.is_empty() {
        errors.invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    }
    errors.invalid_all(&path, host, names::is_dns1123_subdomain(host));
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let detail = names::regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
        errors.invalid(path, rest, &detail);
    }
}

/// A count or a percentage, of a whole.
pub(crate) fn int_or_percent(errors: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::String(text) => errors.invalid_all(path, text, names::is_valid_percent(text)),
        number => not_negative(errors, path.clone(), number.as_i64().unwrap_or(0)),
    }
}

pub(crate) fn not_over_100_percent(errors: &mut ErrorList, path: &Path, value: &Value) {
    let percent = value.as_str().filter(|p| names::is_valid_percent(p).is_empty()).map(|p| p.trim_end_matches('%'));
    if percent.is_some_and(|p| p.parse::<i64>().is_ok_and(|p| p > 100)) {
        errors.invalid(path.clone(), value.clone(), "must not be greater than 100%");
    }
}

pub(crate) fn label_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    errors.extend(validation_meta::validate_label_selector(selector, LabelSelectorOptions::default(), path));
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::{RequestContext, Strategy};

    pub(crate) fn cx(subresource: &str) -> RequestContext {
        RequestContext {
            now: "2026-01-02T03:04:05Z".parse().expect("a literal time"),
            user: "admin".into(),
            subresource: subresource.into(),
            identity: None,
        }
    }

    /// The errors' texts.
    pub(crate) fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    /// The object as a create would store it.
    pub(crate) fn created(strategy: &dyn Strategy, mut object: Value) -> Value {
        strategy.default(&mut object);
        strategy.prepare_for_create(&cx(""), &mut object);
        object
    }

    /// The errors of a create.
    pub(crate) fn create_errors(strategy: &dyn Strategy, object: Value) -> Vec<String> {
        let object = created(strategy, object);
        texts(&strategy.validate(&cx(""), &object))
    }

    /// The errors of an update of a valid object.
    pub(crate) fn update_errors(strategy: &dyn Strategy, old: Value, mut new: Value) -> Vec<String> {
        let old = created(strategy, old);
        strategy.default(&mut new);
        strategy.prepare_for_update(&cx(""), &mut new, &old);
        texts(&strategy.validate_update(&cx(""), &new, &old))
    }
}
