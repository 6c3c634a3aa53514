//! Names of signers: `example.com/signer`.

use apimachinery::validation::{ErrorList, Path, names};

const LONGEST_DOMAIN: usize = 253;
const LONGEST_PATH: usize = 253 + 63 + 1;

pub(super) fn check_signer_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path.clone(), "");
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts.as_slice() else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.invalid(path.clone(), name, detail);
        return;
    };
    if domain.len() > LONGEST_DOMAIN {
        errors.too_long(path.clone(), *domain, LONGEST_DOMAIN);
    }
    labels(errors, path, domain, names::is_dns1123_label);
    if !domain.contains('.') {
        errors.invalid(path.clone(), *domain, "should be a domain with at least two segments separated by dots");
    }
    labels(errors, path, rest, names::is_dns1123_subdomain);
    const LONGEST: usize = LONGEST_DOMAIN + LONGEST_PATH + 1;
    if name.len() > LONGEST {
        errors.too_long(path.clone(), name, LONGEST);
    }
}

/// The first bad label says enough.
fn labels(errors: &mut ErrorList, path: &Path, part: &str, check: fn(&str) -> Vec<String>) {
    for label in part.split('.') {
        let bad = check(label);
        for text in &bad {
            errors.invalid(path.clone(), part, &format!("validating label {label:?}: {text}"));
        }
        if !bad.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::texts;

    #[test]
    fn domain_and_path() {
        let errors = |name: &str| {
            let mut errors = ErrorList::new();
            check_signer_name(&mut errors, &Path::new("s"), name);
            texts(&errors)
        };
        assert!(errors("example.com/a.b").is_empty());
        assert_eq!(
            errors("example/x"),
            ["s: Invalid value: \"example\": should be a domain with at least two segments separated by dots"]
        );
        assert!(errors("a..b/x")[0].starts_with("s: Invalid value: \"a..b\": validating label \"\": "));
        assert_eq!(errors("").len(), 2);
    }
}
