//! Go's RFC 3339 times: metav1.Time (seconds) and metav1.MicroTime (microseconds), with Go's parse errors.
//!
//! Invariants:
//! - DT-1: what is accepted prints in UTC with no fraction (Time) or exactly six digits (MicroTime).

use crate::goformat::quote;
use jiff::civil;
use jiff::tz::Offset;

const TIME: &str = "2006-01-02T15:04:05Z07:00";
const MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// The time as upstream writes it back; `None` for Go's zero time. Err: Go's message.
pub fn canonical(text: &str, micro: bool) -> Result<Option<String>, String> {
    let layout = if micro { MICRO } else { TIME };
    let mut scan = Scan { text, layout, rest: text };
    let at = scan.date_time(micro)?;
    if at == civil::date(1, 1, 1).at(0, 0, 0, 0) {
        return Ok(None);
    }
    let date = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    let fraction = if micro { format!(".{:06}", at.subsec_nanosecond() / 1000) } else { String::new() };
    Ok(Some(format!("{date}{fraction}Z")))
}

struct Scan<'a> {
    text: &'a str,
    layout: &'static str,
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn date_time(&mut self, micro: bool) -> Result<civil::DateTime, String> {
        let year = self.digits(4, "2006", 0..=9999, "year")?;
        self.literal("-")?;
        let month = self.digits(2, "01", 1..=12, "month")?;
        self.literal("-")?;
        let day = self.digits(2, "02", 0..=31, "day")?;
        self.literal("T")?;
        let hour = self.digits(2, "15", 0..=23, "hour")?;
        self.literal(":")?;
        let minute = self.digits(2, "04", 0..=59, "minute")?;
        self.literal(":")?;
        let second = self.digits(2, "05", 0..=59, "second")?;
        let nanos = if micro { self.micros()? } else { self.fraction() };
        let offset = self.offset()?;
        if !self.rest.is_empty() {
            return Err(self.whole(&format!("extra text: {}", quote(self.rest))));
        }
        let date = civil::Date::new(year as i16, month as i8, day as i8).map_err(|_| self.whole("day out of range"))?;
        let local = date.at(hour as i8, minute as i8, second as i8, nanos);
        let utc = offset
            .to_timestamp(local)
            .map(|t| Offset::UTC.to_datetime(t))
            .map_err(|_| self.whole("year out of range"))?;
        Ok(utc)
    }

    /// A number of so many digits.
    fn digits(
        &mut self,
        count: usize,
        element: &str,
        range: std::ops::RangeInclusive<u32>,
        name: &str,
    ) -> Result<u32, String> {
        let head = self.rest.get(..count).filter(|h| h.bytes().all(|b| b.is_ascii_digit()));
        let Some(head) = head else { return Err(self.cannot(element)) };
        let n: u32 = head.parse().map_err(|_| self.cannot(element))?;
        if !range.contains(&n) {
            return Err(self.whole(&format!("{name} out of range")));
        }
        self.rest = &self.rest[count..];
        Ok(n)
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(literal).ok_or_else(|| self.cannot(literal))?;
        Ok(())
    }

    /// Go takes a fraction after the seconds even where the layout has none.
    fn fraction(&mut self) -> i32 {
        let Some(after) = self.rest.strip_prefix(['.', ',']) else { return 0 };
        let count = after.bytes().take_while(u8::is_ascii_digit).count();
        if count == 0 {
            return 0;
        }
        self.rest = &after[count..];
        nanos(&after[..count])
    }

    fn micros(&mut self) -> Result<i32, String> {
        let digits = self.rest.strip_prefix(['.', ',']).and_then(|r| r.get(..6));
        match digits {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                self.rest = &self.rest[7..];
                Ok(nanos(digits))
            }
            _ => Err(self.cannot(".000000")),
        }
    }

    fn offset(&mut self) -> Result<Offset, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(Offset::UTC);
        }
        let b = self.rest.as_bytes();
        let digit = |i: usize| b.get(i).filter(|b| b.is_ascii_digit()).map(|b| i32::from(b - b'0'));
        let parts = (digit(1), digit(2), digit(4), digit(5));
        let (Some(b'+' | b'-'), Some(b':'), (Some(h1), Some(h2), Some(m1), Some(m2))) = (b.first(), b.get(3), parts)
        else {
            return Err(self.cannot("Z07:00"));
        };
        let (hours, minutes) = (h1 * 10 + h2, m1 * 10 + m2);
        if hours > 24 {
            return Err(self.whole("time zone offset hour out of range"));
        }
        if minutes > 60 {
            return Err(self.whole("time zone offset minute out of range"));
        }
        let seconds = (hours * 60 + minutes) * 60;
        let offset = Offset::from_seconds(if b[0] == b'-' { -seconds } else { seconds });
        self.rest = &self.rest[6..];
        offset.map_err(|_| self.whole("time zone offset out of range"))
    }

    fn cannot(&self, element: &str) -> String {
        format!(
            "parsing time {} as {}: cannot parse {} as {}",
            quote(self.text),
            quote(self.layout),
            quote(self.rest),
            quote(element)
        )
    }

    fn whole(&self, problem: &str) -> String {
        format!("parsing time {}: {problem}", quote(self.text))
    }
}

fn nanos(digits: &str) -> i32 {
    let digits = &digits[..digits.len().min(9)];
    digits.parse::<i32>().unwrap_or(0) * 10i32.pow(9 - digits.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times() {
        for (text, micro, want) in [
            ("2020-01-02T03:04:05Z", false, "2020-01-02T03:04:05Z"),
            ("2020-01-02T03:04:05.9Z", false, "2020-01-02T03:04:05Z"),
            ("2020-01-02T03:04:05+02:00", false, "2020-01-02T01:04:05Z"),
            ("2020-01-02T03:04:05.000001Z", true, "2020-01-02T03:04:05.000001Z"),
            ("2020-12-31T23:30:00.500000-01:00", true, "2021-01-01T00:30:00.500000Z"),
        ] {
            assert_eq!(canonical(text, micro), Ok(Some(want.into())));
        }
        assert_eq!(canonical("0001-01-01T00:00:00Z", false), Ok(None));
    }

    #[test]
    fn errors() {
        let layout = "\"2006-01-02T15:04:05Z07:00\"";
        for (text, want) in [
            ("yesterday", format!("parsing time \"yesterday\" as {layout}: cannot parse \"yesterday\" as \"2006\"")),
            ("", format!("parsing time \"\" as {layout}: cannot parse \"\" as \"2006\"")),
            ("2020-01-02", format!("parsing time \"2020-01-02\" as {layout}: cannot parse \"\" as \"T\"")),
            ("2020-13-02T00:00:00Z", "parsing time \"2020-13-02T00:00:00Z\": month out of range".into()),
            ("2020-02-30T00:00:00Z", "parsing time \"2020-02-30T00:00:00Z\": day out of range".into()),
            (
                "2020-01-02T00:00:00",
                format!("parsing time \"2020-01-02T00:00:00\" as {layout}: cannot parse \"\" as \"Z07:00\""),
            ),
            ("2020-01-02T00:00:00Zx", "parsing time \"2020-01-02T00:00:00Zx\": extra text: \"x\"".into()),
        ] {
            assert_eq!(canonical(text, false).unwrap_err(), want);
        }
        assert_eq!(
            canonical("2020-01-02T03:04:05Z", true).unwrap_err(),
            "parsing time \"2020-01-02T03:04:05Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\""
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9TZ:.+\\-é]{0,30}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?(Z|[+-][0-9]{2}:[0-9]{2})") {
            for micro in [false, true] {
                if let Ok(Some(out)) = canonical(&text, micro) {
                    prop_assert_eq!(canonical(&out, micro), Ok(Some(out.clone())));
                }
            }
        }
    }
}
