//! Which addresses a proxy may go to.

use std::net::IpAddr;

/// Loopback, link-local, multicast and unspecified addresses are not for proxies: they would be this machine's own.
pub fn is_proxyable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    };
    !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || link_local)
}

/// `[scheme:]name[:port]` as it stands in a proxy path.
pub fn split_name(text: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Some(("", *name, "")),
        [name, port] if !matches!(*name, "http" | "https") => Some(("", *name, *port)),
        [scheme @ ("http" | "https"), name] => Some((*scheme, *name, "")),
        [scheme @ ("http" | "https" | ""), name, port] => Some((*scheme, *name, *port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, want) in [
            ("x", Some(("", "x", ""))),
            ("x:80", Some(("", "x", "80"))),
            ("https:x:443", Some(("https", "x", "443"))),
            ("https:x:", Some(("https", "x", ""))),
            ("https:x", Some(("https", "x", ""))),
            ("ftp:x:1", None),
        ] {
            assert_eq!(split_name(text), want, "{text}");
        }
    }

    #[test]
    fn own_addresses_are_not_for_proxies() {
        for (ip, want) in
            [("10.42.0.7", true), ("127.0.0.1", false), ("169.254.1.1", false), ("::1", false), ("fe80::1", false)]
        {
            assert_eq!(is_proxyable(ip.parse().expect("ip")), want, "{ip}");
        }
    }
}
