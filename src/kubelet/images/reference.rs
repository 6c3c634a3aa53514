//! Image references: their defaults and their parts.

/// `busybox` → `docker.io/library/busybox:latest`.
pub fn normalize(image: &str) -> String {
    let (name, tail) = split(image);
    let (registry, path) = split_registry(name);
    let path = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    let tail = if tail.is_empty() { ":latest" } else { tail };
    format!("{registry}/{path}{tail}")
}

/// Adds `:latest` to a reference without tag and digest, and refuses what is no reference.
///
/// # Errors
/// Upstream's text for an invalid reference.
pub fn with_default_tag(image: &str) -> Result<String, String> {
    let (name, tail) = split(image);
    check(name, tail).map_err(|why| format!("couldn't parse image name {image:?}: {why}"))?;
    Ok(if tail.is_empty() { format!("{image}:latest") } else { image.to_owned() })
}

/// The registry host and the path, without tag and digest.
pub fn registry_and_path(image: &str) -> (String, String) {
    let full = normalize(image);
    let (name, _) = split(&full);
    let (registry, path) = name.split_once('/').unwrap_or((name, ""));
    (registry.to_owned(), path.to_owned())
}

/// Whether the reference names its content (`@sha256:…`) or a tag other than `latest`.
pub fn default_pull_policy(image: &str) -> &'static str {
    let (_, tail) = split(image);
    if tail.is_empty() || tail == ":latest" { "Always" } else { "IfNotPresent" }
}

/// Name and tail (`:tag`, `@digest`, both, or nothing).
fn split(image: &str) -> (&str, &str) {
    let at = image.find('@').unwrap_or(image.len());
    let colon = image[..at].rfind(':').filter(|colon| !image[*colon..at].contains('/'));
    image.split_at(colon.unwrap_or(at))
}

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => ("docker.io", path),
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || host != host.to_lowercase() => {
            (host, path)
        }
        _ => ("docker.io", name),
    }
}

fn check(name: &str, tail: &str) -> Result<(), &'static str> {
    const INVALID: &str = "invalid reference format";
    if name.is_empty() {
        return Err(INVALID);
    }
    let (_, path) = split_registry(name);
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("invalid reference format: repository name must be lowercase");
    }
    let component = |part: &str| {
        let edges = part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric());
        edges && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    if !path.split('/').all(component) {
        return Err(INVALID);
    }
    let (tag, digest) = tail.split_once('@').map_or((tail, None), |(tag, digest)| (tag, Some(digest)));
    if let Some(tag) = tag.strip_prefix(':') {
        let first = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let rest = tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !first || !rest || tag.len() > 128 {
            return Err(INVALID);
        }
    }
    if let Some(digest) = digest {
        let hex = digest.split_once(':').map_or("", |(_, hex)| hex);
        if hex.len() < 32 || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(INVALID);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_as_docker_does() {
        for (image, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("kedge/pause:1", "docker.io/kedge/pause:1"),
            ("localhost/x", "localhost/x:latest"),
            ("reg:5000/x/y", "reg:5000/x/y:latest"),
            ("ghcr.io/a/b:v1", "ghcr.io/a/b:v1"),
            ("a@sha256:00", "docker.io/library/a@sha256:00"),
            ("a:1@sha256:00", "docker.io/library/a:1@sha256:00"),
        ] {
            assert_eq!(normalize(image), expected);
        }
        assert_eq!(registry_and_path("reg:5000/x/y:1"), ("reg:5000".into(), "x/y".into()));
        assert_eq!(default_pull_policy("a"), "Always");
        assert_eq!(default_pull_policy("a:1"), "IfNotPresent");
    }

    #[test]
    fn refuses_what_is_no_reference() {
        assert_eq!(with_default_tag("a/b").as_deref(), Ok("a/b:latest"));
        assert_eq!(with_default_tag("a:1").as_deref(), Ok("a:1"));
        for bad in ["", "a b", "A", "a:", "a//b", "-a", "a:b:c@", "x@sha256:zz"] {
            assert!(with_default_tag(bad).is_err(), "{bad}");
        }
        assert_eq!(
            with_default_tag("FOO").expect_err("refused"),
            "couldn't parse image name \"FOO\": invalid reference format: repository name must be lowercase"
        );
    }
}
