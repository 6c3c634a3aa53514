//! URLs as Go's `url.ParseRequestURI` reads them: absolute URIs and absolute paths.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone)]
pub struct Url {
    pub scheme: String,
    /// Host with port.
    pub host: String,
    user: Option<String>,
    /// Escaped.
    pub path: String,
    pub query: String,
    opaque: bool,
}

impl Url {
    /// Reads a URL; the error is the text that an expression sees.
    pub fn parse(text: &str) -> Result<Url, String> {
        let fail = |why: &str| Err(format!("parse {text:?}: {why}"));
        if text.bytes().any(|c| c < 0x20 || c == 0x7f) {
            return fail("net/url: invalid control character in URL");
        }
        if text.is_empty() {
            return fail("empty url");
        }
        let (scheme, rest) = match scheme(text) {
            Ok(split) => split,
            Err(why) => return fail(why),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, query),
            None => (rest, ""),
        };
        if !rest.starts_with('/') {
            if scheme.is_empty() {
                return fail("invalid URI for request");
            }
            let (path, query) = (rest.to_owned(), query.to_owned());
            return Ok(Url { scheme, host: String::new(), user: None, path, query, opaque: true });
        }
        let (user, host, path) = match rest.strip_prefix("//") {
            Some(after) if !scheme.is_empty() => {
                let (authority, path) = match after.find('/') {
                    Some(at) => after.split_at(at),
                    None => (after, ""),
                };
                let (user, host) = match authority.rsplit_once('@') {
                    Some((user, host)) => (Some(user.to_owned()), host),
                    None => (None, authority),
                };
                if let Err(why) = check_host(host) {
                    return fail(&why);
                }
                (user, host, path)
            }
            _ => (None, "", rest),
        };
        if let Some(bad) = bad_escape(path) {
            return fail(&format!("invalid URL escape {bad:?}"));
        }
        Ok(Url { scheme, host: host.to_owned(), user, path: escape_path(path), query: query.to_owned(), opaque: false })
    }

    pub fn hostname(&self) -> &str {
        if let Some(inner) = self.host.strip_prefix('[') {
            return inner.split(']').next().unwrap_or_default();
        }
        self.host.rsplit_once(':').map_or(&self.host, |(host, _)| host)
    }

    pub fn port(&self) -> &str {
        let after = self.host.rsplit_once(']').map_or(self.host.as_str(), |(_, after)| after);
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// The path, empty for an opaque URL.
    pub fn escaped_path(&self) -> &str {
        if self.opaque { "" } else { &self.path }
    }

    /// The query's values by key.
    pub fn query_values(&self) -> BTreeMap<String, Vec<String>> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(key), Some(value)) = (unescape(key), unescape(value)) {
                out.entry(key).or_default().push(value);
            }
        }
        out
    }
}

/// Splits off the scheme, lower-cased.
fn scheme(text: &str) -> Result<(String, &str), &'static str> {
    for (at, c) in text.bytes().enumerate() {
        match c {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((text[..at].to_lowercase(), &text[at + 1..])),
            _ => return Ok((String::new(), text)),
        }
    }
    Ok((String::new(), text))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |at| &host[at..])
    };
    let valid = port.is_empty() || (port.starts_with(':') && port[1..].bytes().all(|c| c.is_ascii_digit()));
    if !valid {
        return Err(format!("invalid port {port:?} after host"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    match host.chars().find(|c| !allowed(*c)) {
        Some(bad) => Err(format!("invalid character {:?} in host name", bad.to_string())),
        None => Ok(()),
    }
}

fn bad_escape(path: &str) -> Option<&str> {
    let bytes = path.as_bytes();
    let at = (0..bytes.len()).find(|at| {
        bytes[*at] == b'%'
            && !(bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit)
                && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit))
    })?;
    path.get(at..(at + 3).min(path.len()))
}

/// The path as Go would print it: what is no valid path character is escaped.
fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]/%".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(out, "{}:", self.scheme)?;
        }
        if !self.opaque && (!self.host.is_empty() || !self.scheme.is_empty()) {
            out.write_str("//")?;
            if let Some(user) = &self.user {
                write!(out, "{user}@")?;
            }
        }
        write!(out, "{}{}", self.host, self.path)?;
        if !self.query.is_empty() {
            write!(out, "?{}", self.query)?;
        }
        Ok(())
    }
}
