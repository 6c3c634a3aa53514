//! Durations and timestamps: Go's and RFC 3339's texts, and civil parts in a time zone.

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

const SECOND: i128 = 1_000_000_000;

/// A duration in Go's form ("1h30m", "-1.5s", "0"), in nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits);
        rest = after;
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            (fraction, rest) = after.split_at(digits);
        }
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (unit, after) = rest.split_at(end);
        rest = after;
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        let mut place = scale;
        let mut part: i128 = 0;
        let mut base: i128 = 1;
        for digit in fraction.bytes().take(18) {
            part = part * 10 + i128::from(digit - b'0');
            base *= 10;
        }
        place = place.checked_mul(part)? / base;
        total = total.checked_add(place)?;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration as OpenAPI values write it: Go's form, or "3 days" as strfmt reads it.
pub fn parse_openapi_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: i64 = number.parse().ok()?;
    let unit = unit.trim().to_lowercase();
    let scale: i64 = match unit.as_str() {
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000_000_000,
        "d" | "day" | "days" => 86_400_000_000_000,
        "w" | "week" | "weeks" | "wk" | "wks" => 604_800_000_000_000,
        _ => return None,
    };
    number.checked_mul(scale)
}

/// A date or a date-time of OpenAPI.
pub fn parse_openapi_time(text: &str) -> Option<Timestamp> {
    if let Some(at) = parse_timestamp(text) {
        return Some(at);
    }
    let date: Date = text.parse().ok()?;
    (text.len() == 10).then(|| date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp()))?
}

/// An RFC 3339 time.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't')
        && bytes[13] == b':'
        && bytes[16] == b':';
    if !shape || bytes[..4].iter().any(|b| !b.is_ascii_digit()) {
        return None;
    }
    let zoned = matches!(bytes[bytes.len() - 1], b'Z' | b'z')
        || bytes.get(bytes.len() - 6).is_some_and(|sign| matches!(sign, b'+' | b'-'));
    if !zoned {
        return None;
    }
    text.parse().ok()
}

/// RFC 3339 with as many decimals as needed.
pub fn format_timestamp(at: Timestamp) -> String {
    at.to_string()
}

/// Seconds, as `string(duration)` and protobuf JSON print them: "1.5s".
pub fn format_duration_seconds(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}s");
    }
    let digits = format!("{fraction:09}");
    format!("{sign}{seconds}.{}s", digits.trim_end_matches('0'))
}

/// The time in a zone: a name of the time zone database, or an offset ("+02:00", "-8:00").
pub fn in_zone(at: Timestamp, zone: &str) -> Option<Zoned> {
    if let Some(at_colon) = zone.find(':') {
        let (hours, minutes) = (&zone[..at_colon], &zone[at_colon + 1..]);
        let hours: i32 = hours.strip_prefix('+').unwrap_or(hours).parse().ok()?;
        let minutes: i32 = minutes.parse().ok()?;
        let minutes = if zone.starts_with('-') { -minutes } else { minutes };
        let offset = Offset::from_seconds(hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?).ok()?;
        return Some(at.to_zoned(TimeZone::fixed(offset)));
    }
    if zone.is_empty() || zone == "UTC" {
        return Some(at.to_zoned(TimeZone::UTC));
    }
    Some(at.to_zoned(TimeZone::get(zone).ok()?))
}

/// Nanoseconds between two times; `None` beyond the range of a duration.
pub fn between(later: Timestamp, earlier: Timestamp) -> Option<i64> {
    i64::try_from(later.as_nanosecond() - earlier.as_nanosecond()).ok()
}

/// A time plus nanoseconds; `None` outside the years 1 to 9999.
pub fn add(at: Timestamp, nanos: i128) -> Option<Timestamp> {
    let sum = Timestamp::from_nanosecond(at.as_nanosecond() + nanos).ok()?;
    in_range(sum).then_some(sum)
}

/// Whether a time is one that CEL allows.
pub fn in_range(at: Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&at.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, nanos) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            ("0", Some(0)),
            (".5ms", Some(500_000)),
            ("1", None),
            ("", None),
            ("1x", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse_duration(text), nanos, "{text}");
        }
        assert_eq!(format_duration_seconds(-1_500_000_000), "-1.5s");
        assert_eq!(format_duration_seconds(60_000_000_000), "60s");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert!(parse_timestamp("2020-01-02T03:04:05Z").is_some());
        assert!(parse_timestamp("2020-01-02T03:04:05.5+02:00").is_some());
        assert!(parse_timestamp("2020-01-02").is_none());
        assert!(parse_timestamp("2020-01-02T03:04:05").is_none());
        assert!(parse_openapi_time("2020-01-02").is_some());
    }
}
