//! Image references, as far as defaulting needs them: is there a tag, and which.

use std::sync::OnceLock;

use regex::Regex;

/// The tag of a reference: `latest` when there is neither tag nor digest; `None` for a digest alone and for what is
/// no reference.
pub(super) fn tag(reference: &str) -> Option<String> {
    static REFERENCE: OnceLock<Regex> = OnceLock::new();
    static BARE_ID: OnceLock<Regex> = OnceLock::new();
    let pattern = REFERENCE.get_or_init(|| {
        let domain = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*";
        let component = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*";
        let digest = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
        Regex::new(&format!(
            r"^(?:(?:{domain}|\[[a-fA-F0-9:]+\])(?::[0-9]+)?/)?{component}(?:/{component})*(?::([\w][\w.-]{{0,127}}))?(?:@({digest}))?$"
        ))
        .expect("a constant pattern")
    });
    let bare = BARE_ID.get_or_init(|| Regex::new("^[a-f0-9]{64}$").expect("a constant pattern"));
    if bare.is_match(reference) {
        return None;
    }
    // Without a dot, a colon or upper case in it, what stands before the first slash is part of the path.
    let full = match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first => {
            reference.to_owned()
        }
        _ => format!("docker.io/{reference}"),
    };
    let found = pattern.captures(&full)?;
    match (found.get(1), found.get(2)) {
        (Some(tag), _) => Some(tag.as_str().to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::tag;

    #[test]
    fn tags() {
        let digest = format!("img@sha256:{}", "a".repeat(64));
        for (reference, expected) in [
            ("img", Some("latest")),
            ("img:1", Some("1")),
            ("img:latest", Some("latest")),
            ("localhost:5000/a/b", Some("latest")),
            ("localhost:5000/a/b:v2", Some("v2")),
            ("reg.example.com/x:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Some("1")),
            (digest.as_str(), None),
            (" x ", None),
            ("", None),
            ("UPPER", None),
        ] {
            assert_eq!(tag(reference).as_deref(), expected, "{reference}");
        }
    }
}
