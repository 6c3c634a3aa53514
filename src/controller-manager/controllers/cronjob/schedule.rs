//! When a cron schedule is due, in a time zone. Pure; the API server has checked the wording.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that is not due within so many days (30 February) never is.
const HORIZON_DAYS: usize = 366 * 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// Bit sets.
    Fields { minute: u64, hour: u64, day: u64, month: u64, weekday: u64, any_day: bool, any_weekday: bool },
    /// So many seconds after the last time.
    Every(i64),
}

impl Schedule {
    /// None: it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = match text.trim() {
            "@yearly" | "@annually" => vec!["0", "0", "1", "1", "*"],
            "@monthly" => vec!["0", "0", "1", "*", "*"],
            "@weekly" => vec!["0", "0", "*", "*", "0"],
            "@daily" | "@midnight" => vec!["0", "0", "*", "*", "*"],
            "@hourly" => vec!["0", "*", "*", "*", "*"],
            other => match other.strip_prefix("@every ") {
                Some(every) => return seconds(every).map(|seconds| Self::Every(seconds.max(1))),
                None => other.split_whitespace().collect(),
            },
        };
        let [minute, hour, day, month, weekday] = fields.as_slice() else { return None };
        let any = |field: &str| field.starts_with(['*', '?']) && !field.contains('/') && !field.contains(',');
        Some(Self::Fields {
            minute: bits(minute, 0, 59, &[])?,
            hour: bits(hour, 0, 23, &[])?,
            day: bits(day, 1, 31, &[])?,
            month: bits(month, 1, 12, MONTHS)?,
            weekday: bits(weekday, 0, 6, DAYS)?,
            any_day: any(day),
            any_weekday: any(weekday),
        })
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let (minute, hour) = match self {
            Self::Every(seconds) => return Timestamp::from_second(after.as_second() + seconds).ok(),
            Self::Fields { minute, hour, .. } => (minute, hour),
        };
        let local = after.to_zoned(zone.clone()).datetime();
        let mut date = local.date();
        for _ in 0..HORIZON_DAYS {
            if self.on(date) {
                let hours = (0..24_i8).filter(|at| hour & (1 << at) != 0);
                let times =
                    hours.flat_map(|hour| (0..60_i8).filter(|at| minute & (1 << at) != 0).map(move |m| (hour, m)));
                for (hour, minute) in times {
                    let wanted: DateTime = date.at(hour, minute, 0, 0);
                    let Ok(due) = zone.to_ambiguous_timestamp(wanted).compatible() else { continue };
                    // A time that the clocks jump over does not happen.
                    if due > after && due.to_zoned(zone.clone()).datetime() == wanted {
                        return Some(due);
                    }
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn on(&self, date: Date) -> bool {
        let Self::Fields { day, month, weekday, any_day, any_weekday, .. } = self else { return false };
        let month_fits = month & (1 << date.month()) != 0;
        let day_fits = day & (1 << date.day()) != 0;
        let weekday_fits = weekday & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        // Both given: either will do.
        month_fits && if *any_day || *any_weekday { day_fits && weekday_fits } else { day_fits || weekday_fits }
    }
}

fn bits(field: &str, min: u32, max: u32, names: &[&str]) -> Option<u64> {
    let number = |text: &str| {
        let lower = text.to_lowercase();
        let named = names.iter().position(|name| *name == lower).and_then(|at| u32::try_from(at).ok());
        named.map(|at| at + min).or_else(|| text.parse().ok())
    };
    let mut all = 0;
    for part in field.split(',').filter(|part| !part.is_empty()) {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let (first, mut last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (min, max),
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(range)?, number(range)?),
        };
        let step: usize = match step {
            Some(step) => step.parse().ok().filter(|step| *step > 0)?,
            None => 1,
        };
        if part.contains('/') && !range.contains('-') {
            last = max;
        }
        if first < min || last > max {
            return None;
        }
        all |= (first..=last).step_by(step).fold(0_u64, |all, at| all | (1 << at));
    }
    (all != 0).then_some(all)
}

/// A Go duration, in seconds.
fn seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..end)?.parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        total += number
            * match &rest[end..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (total >= 0.0).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_times() {
        let zone = |name: &str| if name == "UTC" { TimeZone::UTC } else { TimeZone::posix(name).expect("a zone") };
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        for (schedule, place, after, want) in [
            ("*/5 * * * *", "UTC", "2026-01-01T00:01:30Z", "2026-01-01T00:05:00Z"),
            ("0 0 1 1 *", "UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("30 9 * * mon-FRI", "UTC", "2026-01-02T10:00:00Z", "2026-01-05T09:30:00Z"),
            ("0 0 13 * 5", "UTC", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("@hourly", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@every 1h30m", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 9 * * *", berlin, "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z"),
            // 02:30 does not happen on the day that the clocks go forward.
            ("30 2 * * *", berlin, "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
        ] {
            let next = Schedule::parse(schedule).and_then(|s| s.next(after.parse().expect("a time"), &zone(place)));
            assert_eq!(next.map(|at| at.to_string()).as_deref(), Some(want), "{schedule}");
        }
        let never = Schedule::parse("0 0 30 2 *").expect("a schedule");
        assert_eq!(never.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }
}
