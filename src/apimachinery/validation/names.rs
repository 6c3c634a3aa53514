//! Formats of names: what a DNS label, a qualified name, a port name, a config key may be, with upstream's messages.
//!
//! Invariants:
//! - NM-1: an empty answer means valid; otherwise each entry is one upstream message, in upstream's order.
//! - NM-2: lengths are bytes; upstream says "characters" in some of its messages and so do these.

use std::net::IpAddr;

/// Checks a name; `prefix` is true for a generateName, whose end is yet to come.
pub type NameFn = dyn Fn(&str, bool) -> Vec<String>;

const DNS_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// A lower-case RFC 1123 label, as an object's name.
pub fn dns1123_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_label(&masked(name, prefix))
}

/// A lower-case RFC 1123 subdomain, as an object's name.
pub fn dns1123_subdomain(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_subdomain(&masked(name, prefix))
}

/// An RFC 1035 label, as an object's name.
pub fn dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1035_label(&masked(name, prefix))
}

/// Anything that can be one segment of a URL path.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|c| name.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A generateName may end in a dash, since the random suffix follows.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        // the mask keeps one character so that "a.-" stays wrong
        Some(rest) if prefix && name.len() > 1 => format!("{rest}a"),
        _ => name.to_string(),
    }
}

pub fn is_dns1123_label(s: &str) -> Vec<String> {
    let mut out = max_characters(s, 63);
    if !matches_label(s, false) {
        if matches_subdomain(s) {
            out.push("must not contain dots".into());
        } else {
            out.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                DNS_LABEL,
                &["my-name", "123-abc"],
            ));
        }
    }
    out
}

pub fn is_dns1123_subdomain(s: &str) -> Vec<String> {
    let mut out = max_characters(s, 253);
    out.extend(subdomain_format(s));
    out
}

fn subdomain_format(s: &str) -> Option<String> {
    (!matches_subdomain(s)).then(|| {
        regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            DNS_SUBDOMAIN,
            &["example.com"],
        )
    })
}

/// A DNS search domain may have underscores.
pub fn is_dns1123_subdomain_with_underscore(s: &str) -> Vec<String> {
    let mut out = max_characters(s, 253);
    let label = |part: &str| {
        let rest = part.strip_prefix('_').unwrap_or(part);
        let ok = |b: u8| b == b'-' || b == b'_' || lower_alnum(b);
        !rest.is_empty() && rest.bytes().all(ok) && ends(rest, lower_alnum)
    };
    if !s.split('.').all(label) {
        out.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    out
}

pub fn is_wildcard_dns1123_subdomain(s: &str) -> Vec<String> {
    let mut out = max_characters(s, 253);
    if !s.strip_prefix("*.").is_some_and(matches_subdomain) {
        out.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{DNS_SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    out
}

pub fn is_dns1035_label(s: &str) -> Vec<String> {
    let mut out = max_characters(s, 63);
    if !matches_label(s, true) {
        out.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    out
}

/// A label key: an optional DNS subdomain and `/`, then a name.
pub fn is_qualified_name(s: &str) -> Vec<String> {
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let rule = || regex_error(RULE, QUALIFIED, &["MyName", "my.name", "123-abc"]);
    let mut out = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_string());
            } else {
                let messages = max_bytes(prefix, 253).into_iter().chain(subdomain_format(prefix));
                out.extend(messages.map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                rule()
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    }
    out.extend(max_bytes(name, 63).into_iter().map(|m| format!("name part {m}")));
    if name.is_empty() || !matches_label_value(name) {
        out.push(format!("name part {}", rule()));
    }
    out
}

pub fn is_valid_label_value(s: &str) -> Vec<String> {
    let mut out = max_bytes(s, 63);
    if !matches_label_value(s) {
        out.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// An environment variable's name: any printable ASCII but `=`.
pub fn is_env_var_name(s: &str) -> Vec<String> {
    if s.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if s.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
}

pub fn is_config_map_key(s: &str) -> Vec<String> {
    let mut out = max_characters(s, 253);
    if s.is_empty() || !s.bytes().all(|b| matches!(b, b'-' | b'.' | b'_') || b.is_ascii_alphanumeric()) {
        out.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match s {
        "." => out.push("must not be '.'".into()),
        ".." => out.push("must not be '..'".into()),
        _ if s.starts_with("..") => out.push("must not start with '..'".into()),
        _ => {}
    }
    out
}

pub fn is_http_header_name(s: &str) -> Vec<String> {
    if !s.is_empty() && s.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric()) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

pub fn is_cidentifier(s: &str) -> Vec<String> {
    let mut bytes = s.bytes();
    let first = bytes.next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic());
    if first && bytes.all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

pub fn is_valid_port_num(port: i64) -> Vec<String> {
    in_range(port, 1, 65535)
}

pub fn is_valid_user_id(id: i64) -> Vec<String> {
    in_range(id, 0, i64::from(u32::MAX))
}

pub fn is_valid_group_id(id: i64) -> Vec<String> {
    in_range(id, 0, i64::from(u32::MAX))
}

/// `must be between lo and hi, inclusive`.
pub fn in_range(value: i64, lo: i64, hi: i64) -> Vec<String> {
    if (lo..=hi).contains(&value) { Vec::new() } else { vec![format!("must be between {lo} and {hi}, inclusive")] }
}

/// An IANA service name.
pub fn is_valid_port_name(s: &str) -> Vec<String> {
    let mut out = max_characters(s, 15);
    if s.is_empty() || !s.bytes().all(|b| b == b'-' || lower_alnum(b)) {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".into());
    }
    if s.contains("--") {
        out.push("must not contain consecutive hyphens".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        out.push("must not begin or end with a hyphen".into());
    }
    out
}

pub fn is_valid_percent(s: &str) -> Vec<String> {
    match s.strip_suffix('%') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Vec::new(),
        _ => vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )],
    }
}

/// An IP address in a field older than strict validation: any spelling, but no leading zeros and no IPv4 in IPv6.
pub fn is_valid_ip(s: &str) -> Vec<String> {
    let message = match (sloppy_ip(s), s.parse::<IpAddr>()) {
        (None, _) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        (_, Err(_)) => "must not have leading 0s",
        (_, Ok(IpAddr::V6(ip))) if ip.to_ipv4_mapped().is_some() => "must not be an IPv4-mapped IPv6 address",
        _ => return Vec::new(),
    };
    vec![message.into()]
}

pub fn is_ipv4(s: &str) -> Vec<String> {
    match sloppy_ip(s).map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(_)) => Vec::new(),
        _ => vec!["must be a valid IPv4 address".into()],
    }
}

pub fn is_ipv6(s: &str) -> Vec<String> {
    match sloppy_ip(s).map(|ip| ip.to_canonical()) {
        Some(IpAddr::V6(_)) => Vec::new(),
        _ => vec!["must be a valid IPv6 address".into()],
    }
}

/// A CIDR in a field older than strict validation: any spelling, but no leading zeros, no IPv4 in IPv6, no host bits.
pub fn is_valid_cidr(s: &str) -> Vec<String> {
    const INVALID: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let parsed = s.split_once('/').and_then(|(address, length)| {
        let ip = sloppy_ip(address)?;
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let bits: u32 = length.parse().ok().filter(|_| digits)?;
        let zeros = address.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0'));
        (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, bits, zeros))
    });
    let message = match parsed {
        None => INVALID,
        Some((_, _, true)) => "must not have leading 0s in IP or prefix length",
        Some((IpAddr::V6(ip), ..)) if ip.to_ipv4_mapped().is_some() => "must not have an IPv4-mapped IPv6 address",
        Some((ip, bits, _)) if has_host_bits(ip, bits) => "must not have bits set beyond the prefix length",
        Some(_) => return Vec::new(),
    };
    vec![message.into()]
}

/// Go's older parser took leading zeros in IPv4 addresses for decimal digits.
fn sloppy_ip(s: &str) -> Option<IpAddr> {
    if let Ok(ip) = s.parse() {
        return Some(ip);
    }
    let mut parts = s.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let value = format!("0{}", part.trim_start_matches('0')).parse::<u8>();
        value.ok().filter(|_| digits)
    });
    let octets = [parts.next()??, parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then(|| IpAddr::from(octets))
}

fn has_host_bits(ip: IpAddr, bits: u32) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_shl(bits).unwrap_or(0) != 0,
        IpAddr::V6(ip) => ip.to_bits().checked_shl(bits).unwrap_or(0) != 0,
    }
}

/// `msg (e.g. 'a',  or 'b', regex used for validation is 're')`: upstream's form, double spaces included.
pub fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<_> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn max_characters(s: &str, max: usize) -> Vec<String> {
    if s.len() > max { vec![format!("must be no more than {max} characters")] } else { Vec::new() }
}

fn max_bytes(s: &str, max: usize) -> Vec<String> {
    if s.len() > max { vec![format!("must be no more than {max} bytes")] } else { Vec::new() }
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn ends(s: &str, ok: fn(u8) -> bool) -> bool {
    let b = s.as_bytes();
    b.first().copied().is_some_and(ok) && b.last().copied().is_some_and(ok)
}

fn matches_label(s: &str, letter_first: bool) -> bool {
    let first = s.bytes().next().is_some_and(|b| !letter_first || b.is_ascii_lowercase());
    first && s.bytes().all(|b| b == b'-' || lower_alnum(b)) && ends(s, lower_alnum)
}

fn matches_subdomain(s: &str) -> bool {
    s.split('.').all(|part| matches_label(part, false))
}

fn matches_label_value(s: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_alphanumeric();
    s.is_empty() || (s.bytes().all(|b| matches!(b, b'-' | b'_' | b'.') || alnum(b)) && ends(s, alnum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_names() {
        for s in ["a", "a-b", "1a", &"a".repeat(63)] {
            assert!(is_dns1123_label(s).is_empty(), "{s}");
        }
        for s in ["a.b", "a-b.c1", &"a".repeat(253)] {
            assert!(is_dns1123_subdomain(s).is_empty(), "{s}");
        }
        for s in ["a", "a/b", "example.com/My_Name.x", "A"] {
            assert!(is_qualified_name(s).is_empty(), "{s}");
        }
        assert!(dns1123_subdomain("a-", true).is_empty());
        assert!(!dns1123_subdomain("a-", false).is_empty());
        assert!(is_valid_label_value("").is_empty());
        assert!(is_env_var_name("1 a.b-c").is_empty());
        assert!(is_valid_cidr("10.0.0.0/8").is_empty());
        assert!(is_wildcard_dns1123_subdomain("*.bar.com").is_empty());
        assert!(is_dns1123_subdomain_with_underscore("_tcp.example.com").is_empty());
        assert!(path_segment("a:b", false).is_empty());
    }

    #[test]
    fn addresses() {
        for (ip, want) in [
            ("10.1.2.3", ""),
            ("2001:DB8::0:1", ""),
            ("010.1.2.3", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            ("300.1.2.3", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("1.2.3", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ] {
            assert_eq!(is_valid_ip(ip).join("; "), want, "{ip}");
        }
        for (cidr, want) in [
            ("10.0.0.0/8", ""),
            ("0.0.0.0/0", ""),
            ("10.0.0.1/32", ""),
            ("2001:db8::/64", ""),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address"),
            ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("10.0.0.0/+8", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ] {
            assert_eq!(is_valid_cidr(cidr).join("; "), want, "{cidr}");
        }
        assert!(is_ipv4("1.2.3.4").is_empty() && !is_ipv4("::1").is_empty() && is_ipv6("::1").is_empty());
    }

    #[test]
    fn messages() {
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            is_dns1123_label("A_"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            is_dns1123_subdomain("a."),
            [
                r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        let part = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        assert_eq!(is_qualified_name(""), ["name part must be non-empty", part]);
        assert_eq!(is_qualified_name("a b"), [part]);
        assert_eq!(is_qualified_name("/a"), ["prefix part must be non-empty"]);
        assert!(is_qualified_name("A/b")[0].starts_with("prefix part a lowercase RFC 1123 subdomain"));
        assert!(is_qualified_name("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert_eq!(is_valid_label_value(&"x".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(is_dns1123_subdomain(&"x".repeat(254)), ["must be no more than 253 characters"]);
        assert_eq!(is_valid_port_num(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(path_segment("a/b%", false), ["may not contain '/'", "may not contain '%'"]);
        assert_eq!(is_config_map_key(".."), ["must not be '..'"]);
        assert_eq!(
            is_valid_port_name("BAD!"),
            [
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "must contain at least one letter (a-z)"
            ]
        );
    }
}
