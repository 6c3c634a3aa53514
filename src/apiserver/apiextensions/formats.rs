//! The string formats of OpenAPI that upstream checks.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use apimachinery::validation::names;
use regex::Regex;

macro_rules! patterns {
    ($($name:ident = $text:expr;)*) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).expect("a literal pattern compiles"));)*
    };
}

patterns! {
    EMAIL = r#"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$"#;
    SINGLE_LABEL = r"^[a-zA-Z0-9](-?[a-zA-Z0-9]{0,62})?$";
    LABELS = r"^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,63}$";
    UUID = r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$";
    UUID3 = r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?3[0-9a-fA-F]{3}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$";
    UUID4 = r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?4[0-9a-fA-F]{3}-?[89abAB][0-9a-fA-F]{3}-?[0-9a-fA-F]{12}$";
    UUID5 = r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?5[0-9a-fA-F]{3}-?[89abAB][0-9a-fA-F]{3}-?[0-9a-fA-F]{12}$";
    SSN = r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$";
    HEX_COLOR = r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$";
    CARD = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|(222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11}|6[27][0-9]{14})$";
    BSON = r"^[0-9a-fA-F]{24}$";
    DATE_TIME = r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$";
    LONG_DURATION = r"(?i)^\s*((?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(ns|us|µs|ms|s|m|h|d|w|milli|milliseconds?|second|seconds|sec|secs|minute|minutes|min|mins|hour|hours|hr|hrs|day|days|week|weeks|wk|wks|micro|microseconds?|nano|nanoseconds?)\s*)+$";
}

/// Upstream checks values of this format at all.
pub fn known(format: &str) -> bool {
    !matches!(format, "int32" | "int64" | "float" | "double")
}

/// The text is of the format.
pub fn matches(format: &str, text: &str) -> bool {
    match format {
        "byte" => base64(text),
        "cidr" => cidr(text),
        "date" => text.len() == 10 && date(text),
        "date-time" | "datetime" => date_time(text),
        "duration" => duration(text),
        "email" => EMAIL.is_match(text),
        "hostname" => hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => ipv6(text),
        "mac" => mac(text),
        "uri" => uri(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => UUID3.is_match(text),
        "uuid4" => UUID4.is_match(text),
        "uuid5" => UUID5.is_match(text),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => card(text),
        "ssn" => SSN.is_match(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "bsonobjectid" => BSON.is_match(text),
        "k8s-short-name" => names::dns1123_label(text, false).is_empty(),
        "k8s-long-name" => names::dns1123_subdomain(text, false).is_empty(),
        _ => true,
    }
}

/// Standard base64 with padding; line breaks are allowed; the empty text is none.
fn base64(text: &str) -> bool {
    use base64::Engine as _;
    let clean: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    !clean.is_empty() && base64::engine::general_purpose::STANDARD.decode(&clean).is_ok()
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let digits = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits && (bits == "0" || !bits.starts_with('0'));
    let bits: u8 = bits.parse().unwrap_or(u8::MAX);
    canonical
        && (address.parse::<Ipv4Addr>().is_ok() && bits <= 32 || address.parse::<Ipv6Addr>().is_ok() && bits <= 128)
}

/// An address with a colon; an IPv4 address mapped into IPv6 is one too.
fn ipv6(text: &str) -> bool {
    text.contains(':') && text.parse::<Ipv6Addr>().is_ok()
}

/// Six, eight or twenty bytes in Go's three notations.
fn mac(text: &str) -> bool {
    let groups = |separator: char, digits: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn date(text: &str) -> bool {
    text.parse::<jiff::civil::Date>().is_ok()
}

/// `2006-01-02T15:04:05Z`, with a fraction or an offset, in either case.
fn date_time(text: &str) -> bool {
    if text.len() < 4 {
        return false;
    }
    let lower = text.to_ascii_lowercase();
    let mut parts = lower.split('t');
    let (Some(day), Some(time)) = (parts.next(), parts.next()) else { return false };
    if !date(day) || day.len() != 10 {
        return false;
    }
    let Some(found) = DATE_TIME.captures(time) else { return false };
    let number = |at: usize| found.get(at).and_then(|m| m.as_str().parse::<u32>().ok()).unwrap_or(u32::MAX);
    number(1) <= 23 && number(2) <= 59 && number(3) <= 59
}

/// A Go duration, or words (`2 hours`).
fn duration(text: &str) -> bool {
    apimachinery::duration::parse_go(text).is_ok() || LONG_DURATION.is_match(text)
}

/// One label, or several of which the last has at least two letters.
fn hostname(text: &str) -> bool {
    text.len() <= 255
        && (SINGLE_LABEL.is_match(text) || LABELS.is_match(text))
        && text.split('.').all(|label| label.len() <= 63)
}

/// Go's `url.ParseRequestURI`: an absolute path or a scheme.
fn uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f || b == b' ') {
        return false;
    }
    if text.starts_with('/') {
        return escapes(text);
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let mut letters = scheme.bytes();
    let scheme = letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let host = rest.strip_prefix("//").map_or("", |rest| rest.split(['/', '?', '#']).next().unwrap_or(""));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let port = match host.rsplit_once(':') {
        Some((_, port)) if !host.ends_with(']') => port.bytes().all(|b| b.is_ascii_digit()),
        _ => true,
    };
    let brackets = host.starts_with('[') == host.contains(']');
    scheme && port && brackets && escapes(rest) && !host.contains(['<', '>', '"', '\\', '^', '`', '{', '}'])
}

/// Every `%` begins an escape.
fn escapes(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    bytes.iter().enumerate().all(|(at, b)| *b != b'%' || (hex(at + 1) && hex(at + 2)))
}

fn digits(text: &str) -> Vec<u8> {
    text.bytes().filter(|b| !matches!(b, b'-' | b' ')).collect()
}

fn isbn10(text: &str) -> bool {
    let digits = digits(text);
    let values: Option<Vec<u32>> = digits
        .iter()
        .enumerate()
        .map(|(at, b)| match b {
            b'0'..=b'9' => Some(u32::from(b - b'0')),
            b'X' if at == 9 => Some(10),
            _ => None,
        })
        .collect();
    values.is_some_and(|v| v.len() == 10 && v.iter().zip(1..).map(|(d, at)| d * at).sum::<u32>() % 11 == 0)
}

fn isbn13(text: &str) -> bool {
    let digits = digits(text);
    digits.len() == 13
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().enumerate().map(|(at, b)| u32::from(b - b'0') * if at % 2 == 0 { 1 } else { 3 }).sum::<u32>()
            % 10
            == 0
}

fn card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn = digits.bytes().rev().enumerate().map(|(at, b)| {
        let digit = u32::from(b - b'0') * if at % 2 == 1 { 2 } else { 1 };
        if digit > 9 { digit - 9 } else { digit }
    });
    CARD.is_match(&digits) && luhn.sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("byte", "Zm9v", "!!"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("cidr", "fd00::/8", "fd00::/129"),
            ("date", "2020-02-29", "2021-02-29"),
            ("date-time", "2020-01-01T00:00:00Z", "yesterday"),
            ("date-time", "2020-01-01T00:00:00.5+02:00", "2020-01-01 00:00:00"),
            ("duration", "1h", "1 lightyear"),
            ("duration", "2 hours", "h"),
            ("email", "a@b.c", "a.b"),
            ("hostname", "a.bc", "a.b"),
            ("hostname", "example", "a_b!"),
            ("ipv4", "1.2.3.4", "1.2.3"),
            ("ipv6", "::1", "x"),
            ("mac", "00:00:5e:00:53:01", "00:00"),
            ("uri", "https://a/b", "::"),
            ("uri", "/a/b", "a/b"),
            ("uuid", "8b79e2fc-0000-4000-8000-000000000000", "8b79e2fc"),
            ("isbn10", "0306406152", "0306406153"),
            ("isbn13", "9780306406157", "9780306406158"),
            ("hexcolor", "#fff", "#ff"),
            ("k8s-short-name", "a-b", "a.b"),
        ] {
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
    }
}
