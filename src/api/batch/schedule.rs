//! Cron schedules: is it one, and if not, what upstream's parser says. When it is due is the controller's question.

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Minute, hour, day of month, month, day of week.
const FIELDS: &[Bounds] = &[
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: MONTHS },
    Bounds { min: 0, max: 6, names: DAYS },
];

const DESCRIPTORS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Ok, or the parser's message.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let mut spec = schedule;
    if spec.is_empty() {
        return Err("empty spec string".to_owned());
    }
    if spec.starts_with("TZ=") || spec.starts_with("CRON_TZ=") {
        let (zone, rest) = spec.split_once(' ').unwrap_or((spec, ""));
        let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
        if !known_zone(zone) {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        spec = rest.trim();
    }
    if spec.starts_with('@') {
        return descriptor(spec);
    }
    let fields: Vec<_> = spec.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, bounds) in fields.iter().zip(FIELDS) {
        for part in field.split(',').filter(|p| !p.is_empty()) {
            range(part, bounds)?;
        }
    }
    Ok(())
}

/// A name of the time zone database.
pub(super) fn known_zone(name: &str) -> bool {
    name.is_empty() || include_str!("../data/timezones.txt").lines().any(|zone| zone == name)
}

fn descriptor(spec: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&spec) {
        return Ok(());
    }
    let Some(every) = spec.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {spec}"));
    };
    match apimachinery::duration::parse_go(every) {
        Ok(_) => Ok(()),
        Err(why) => Err(format!("failed to parse duration {spec}: {why}")),
    }
}

fn range(expr: &str, bounds: &Bounds) -> Result<(), String> {
    let steps: Vec<_> = expr.split('/').collect();
    let limits: Vec<_> = steps[0].split('-').collect();
    let (start, mut end) = if matches!(limits[0], "*" | "?") {
        (bounds.min, bounds.max)
    } else {
        let start = number_or_name(limits[0], bounds)?;
        match limits.as_slice() {
            [_] => (start, start),
            [_, end] => (start, number_or_name(end, bounds)?),
            _ => return Err(format!("too many hyphens: {expr}")),
        }
    };
    let step = match steps.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if limits.len() == 1 {
                end = bounds.max;
            }
            step
        }
        _ => return Err(format!("too many slashes: {expr}")),
    };
    match () {
        () if start < bounds.min => Err(format!("beginning of range ({start}) below minimum ({}): {expr}", bounds.min)),
        () if end > bounds.max => Err(format!("end of range ({end}) above maximum ({}): {expr}", bounds.max)),
        () if start > end => Err(format!("beginning of range ({start}) beyond end of range ({end}): {expr}")),
        () if step == 0 => Err(format!("step of range should be a positive number: {expr}")),
        () => Ok(()),
    }
}

fn number_or_name(expr: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = expr.to_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(at as u32 + bounds.min),
        None => number(expr),
    }
}

fn number(expr: &str) -> Result<u32, String> {
    let parsed: i64 = expr
        .parse()
        .map_err(|_| format!("failed to parse int from {expr}: strconv.Atoi: parsing {expr:?}: invalid syntax"))?;
    u32::try_from(parsed).map_err(|_| format!("negative number ({parsed}) not allowed: {expr}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_schedules() {
        for schedule in
            ["* * * * *", "*/5 0-6/2 1,15 jan-DEC Sun", "@hourly", "@every 1h30m", "TZ=UTC 0 * * * *", "5/10 ? * * *"]
        {
            assert_eq!(check(schedule), Ok(()), "{schedule}");
        }
    }

    #[test]
    fn words_what_is_wrong() {
        for (schedule, want) in [
            ("", "empty spec string"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("@often", "unrecognized descriptor: @often"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("TZ=X * * * * *", "provided bad location X: unknown time zone X"),
        ] {
            assert_eq!(check(schedule), Err(want.to_owned()), "{schedule}");
        }
    }
}
