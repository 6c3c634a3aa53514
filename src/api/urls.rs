//! URLs as Go's `net/url` takes them apart, with its error texts: they are part of validation messages.
//!
//! Invariants:
//! - UR-1: parsing never panics; what Go refuses is refused in the same words for the usual mistakes.

use apimachinery::goformat::quote;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Url {
    pub scheme: String,
    /// `user` or `user:password`, as written; `None` without an `@`.
    pub user: Option<String>,
    pub host: String,
    pub path: String,
    pub query: String,
    pub fragment: String,
}

/// `url.Parse`. Err: Go's message.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let url = take_apart(rest, false).map_err(|error| format!("parse {}: {error}", quote(text)))?;
    unescaped(fragment, false).map_err(|error| format!("parse {}: {error}", quote(text)))?;
    Ok(Url { fragment: fragment.to_owned(), ..url })
}

/// `url.ParseRequestURI`: absolute, or an absolute path; a fragment is part of the path.
pub(crate) fn parse_request_uri(text: &str) -> Result<Url, String> {
    take_apart(text, true).map_err(|error| format!("parse {}: {error}", quote(text)))
}

fn take_apart(text: &str, request: bool) -> Result<Url, String> {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && request {
        return Err("empty url".to_owned());
    }
    let mut url = Url::default();
    if text == "*" {
        url.path = "*".to_owned();
        return Ok(url);
    }
    let (scheme, rest) = split_scheme(text)?;
    url.scheme = scheme.to_ascii_lowercase();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    url.query = query.to_owned();
    let mut rest = rest;
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            // opaque: `mailto:me`
            return Ok(url);
        }
        if request {
            return Err("invalid URI for request".to_owned());
        }
        let first = rest.split('/').next().unwrap_or("");
        if first.contains(':') {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let authority_follows = !url.scheme.is_empty() || (!request && !rest.starts_with("///"));
    if authority_follows && rest.starts_with("//") {
        let after = &rest[2..];
        let end = after.find('/').unwrap_or(after.len());
        let (authority, path) = after.split_at(end);
        rest = path;
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if let Some(user) = user {
            let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
            if !user.bytes().all(valid) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            unescaped(user, false)?;
            url.user = Some(user.to_owned());
        }
        url.host = checked_host(host)?;
    }
    url.path = unescaped(rest, false)?;
    Ok(url)
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn checked_host(host: &str) -> Result<String, String> {
    let port_of = |rest: &str| -> Result<(), String> {
        let digits = rest.strip_prefix(':');
        if rest.is_empty() || digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit())) {
            return Ok(());
        }
        Err(format!("invalid port {} after host", quote(rest)))
    };
    if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        port_of(&host[end + 1..])?;
    } else if let Some(at) = host.rfind(':') {
        port_of(&host[at..])?;
    }
    unescaped(host, true)
}

/// `%41` becomes `A`. In a host only what is not ASCII may be escaped, and some characters may not be there at all.
fn unescaped(text: &str, host: bool) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let b = bytes[at];
        if b == b'%' {
            let digits = bytes.get(at + 1..at + 3).and_then(|d| std::str::from_utf8(d).ok());
            let value = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
            let Some(value) = value.filter(|_| !bytes[at + 1..at + 3].contains(&b'+')) else {
                let end = text.len().min(at + 3);
                let shown = String::from_utf8_lossy(&bytes[at..end]).into_owned();
                return Err(format!("invalid URL escape {}", quote(&shown)));
            };
            if host && value < 0x80 && &text[at..at + 3] != "%25" {
                return Err(format!("invalid URL escape {}", quote(&text[at..at + 3])));
            }
            out.push(value);
            at += 3;
            continue;
        }
        let allowed = b >= 0x80 || b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&b);
        if host && !allowed {
            return Err(format!("invalid character {} in host name", quote(&char::from(b).to_string())));
        }
        out.push(b);
        at += 1;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = parse("https://me:pw@host.example:8443/a/b?q=1#f").expect("a URL");
        assert_eq!(
            (url.scheme.as_str(), url.user.as_deref(), url.host.as_str()),
            ("https", Some("me:pw"), "host.example:8443")
        );
        assert_eq!((url.path.as_str(), url.query.as_str(), url.fragment.as_str()), ("/a/b", "q=1", "f"));
        assert_eq!(parse("/path").map(|u| (u.scheme, u.host)), Ok((String::new(), String::new())));
    }

    #[test]
    fn errors() {
        for (text, error) in [
            ("https://a b", r#"parse "https://a b": invalid character " " in host name"#),
            ("https://a:b", r#"parse "https://a:b": invalid port ":b" after host"#),
            (":x", r#"parse ":x": missing protocol scheme"#),
            ("a:b/c%zz", ""),
            ("/c%zz", r#"parse "/c%zz": invalid URL escape "%zz""#),
            ("1:2", r#"parse "1:2": first path segment in URL cannot contain colon"#),
        ] {
            assert_eq!(parse(text).err().unwrap_or_default(), error, "{text}");
        }
        assert!(parse_request_uri("x").is_err() && parse_request_uri("https://x").is_ok());
    }
}
