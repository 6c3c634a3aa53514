//! Where webhooks are: URLs, services, CA bundles; the checks that admission and conversion webhooks share.
//!
//! Invariants:
//! - WH-1: errors are worded as upstream's, Go's own URL errors included.

use apimachinery::validation::{ErrorList, Path, names};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::urls;

/// An `https` URL without user, query and fragment.
pub(crate) fn check_url(errors: &mut ErrorList, path: &Path, text: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match urls::parse(text) {
        Ok(url) => url,
        Err(error) => return errors.required(path.clone(), &format!("url must be a valid URL: {error}{FORM}")),
    };
    if url.scheme != "https" {
        errors.invalid(path.clone(), url.scheme.as_str(), &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host.is_empty() {
        errors.invalid(path.clone(), url.host.as_str(), &format!("host must be specified{FORM}"));
    }
    if let Some(user) = &url.user {
        errors.invalid(path.clone(), user.as_str(), "user information is not permitted in the URL");
    }
    if !url.fragment.is_empty() {
        errors.invalid(path.clone(), url.fragment.as_str(), "fragments are not permitted in the URL");
    }
    if !url.query.is_empty() {
        errors.invalid(path.clone(), url.query.as_str(), "query parameters are not permitted in the URL");
    }
}

pub(crate) fn check_service(
    errors: &mut ErrorList,
    path: &Path,
    namespace: &str,
    name: &str,
    url_path: Option<&str>,
    port: i64,
) {
    if name.is_empty() {
        errors.required(path.child("name"), "");
    }
    if namespace.is_empty() {
        errors.required(path.child("namespace"), "");
    }
    let found = names::is_valid_port_num(port);
    if !found.is_empty() {
        errors.invalid(path.child("port"), port, &format!("port is not valid: {}", found.join(", ")));
    }
    let Some(text) = url_path.filter(|text| !text.is_empty() && *text != "/") else { return };
    let at = path.child("path");
    if text == "//" {
        return errors.invalid(at, text, "segment[0] may not be empty");
    }
    if !text.starts_with('/') {
        errors.invalid(at.clone(), text, "must start with a '/'");
    }
    let mut rest = text.chars();
    rest.next();
    let rest = rest.as_str();
    for (i, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(at.clone(), text, &format!("segment[{i}] may not be empty"));
            continue;
        }
        for failure in names::is_dns1123_subdomain(segment) {
            errors.invalid(at.clone(), text, &format!("segment[{i}]: {failure}"));
        }
    }
}

/// PEM certificates, as base64.
pub(crate) fn check_ca_bundle(errors: &mut ErrorList, path: &Path, base64: &str) {
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    if !has_certificate(&String::from_utf8_lossy(&bytes)) {
        let detail = "unable to load root certificates: data does not contain any valid RSA or ECDSA certificates";
        errors.invalid(path.clone(), base64, detail);
    }
}

/// One block at least is a certificate: base64 of a DER sequence of the right length.
fn has_certificate(pem: &str) -> bool {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    pem.split(BEGIN).skip(1).any(|block| {
        let Some((body, _)) = block.split_once(END) else { return false };
        let packed: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        STANDARD.decode(packed).is_ok_and(|der| is_sequence(&der))
    })
}

fn is_sequence(der: &[u8]) -> bool {
    let (Some(0x30), Some(first)) = (der.first(), der.get(1)) else { return false };
    let (length, head) = match first {
        0..=0x7f => (usize::from(*first), 2),
        0x81..=0x84 => {
            let count = usize::from(first & 0x7f);
            let Some(digits) = der.get(2..2 + count) else { return false };
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), 2 + count)
        }
        _ => return false,
    };
    der.len() == head + length && length > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(check: impl FnOnce(&mut ErrorList, &Path)) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors, &Path::new("c"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn urls() {
        assert!(texts(|e, p| check_url(e, p, "https://a.b/c")).is_empty());
        assert_eq!(
            texts(|e, p| check_url(e, p, "http://u@a?x#f")),
            [
                "c: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "c: Invalid value: \"u\": user information is not permitted in the URL",
                "c: Invalid value: \"f\": fragments are not permitted in the URL",
                "c: Invalid value: \"x\": query parameters are not permitted in the URL",
            ]
        );
    }

    #[test]
    fn services() {
        assert!(texts(|e, p| check_service(e, p, "ns", "n", Some("/a/b/"), 443)).is_empty());
        assert_eq!(
            texts(|e, p| check_service(e, p, "", "n", Some("a//"), 0)),
            [
                "c.namespace: Required value",
                "c.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "c.path: Invalid value: \"a//\": must start with a '/'",
                "c.path: Invalid value: \"a//\": segment[0] may not be empty",
                "c.path: Invalid value: \"a//\": segment[1] may not be empty",
            ]
        );
    }

    #[test]
    fn bundles() {
        assert_eq!(texts(|e, p| check_ca_bundle(e, p, "eHg=")).len(), 1);
    }
}
