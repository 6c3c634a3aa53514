//! Resource quantities as numbers, for the sums the kubelet makes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths of a unit, rounded up; `None` when the text is no quantity.
pub fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    // The value is mantissa * numerator / denominator thousandths.
    let mut denominator = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let mut numerator: i128 = 1000;
    match suffix {
        "n" => denominator *= 1_000_000_000,
        "u" => denominator *= 1_000_000,
        "m" => denominator *= 1000,
        "" => {}
        "k" => numerator *= 1000,
        "M" => numerator *= 1_000_000,
        "G" => numerator *= 1_000_000_000,
        "T" => numerator *= 1_000_000_000_000,
        "P" => numerator *= 1_000_000_000_000_000,
        "E" => numerator *= 1_000_000_000_000_000_000,
        "Ki" => numerator <<= 10,
        "Mi" => numerator <<= 20,
        "Gi" => numerator <<= 30,
        "Ti" => numerator <<= 40,
        "Pi" => numerator <<= 50,
        "Ei" => numerator <<= 60,
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 {
                denominator = denominator.checked_mul(power)?
            } else {
                numerator = numerator.checked_mul(power)?
            }
        }
    }
    let scaled = mantissa.checked_mul(numerator)?;
    let rounded = scaled / denominator + i128::from(scaled % denominator != 0);
    Some(if negative { -rounded } else { rounded })
}

/// Thousandths of `name` in a resource list.
pub fn milli_of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    let value = milli(&list?.get(name)?.0)?;
    Some(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Whole units of `name` in a resource list, rounded up.
pub fn value_of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    value(&list?.get(name)?.0)
}

/// Whole units, rounded up.
pub fn value(text: &str) -> Option<i64> {
    let milli = milli(text)?;
    let up = if milli > 0 && milli % 1000 != 0 { milli / 1000 + 1 } else { milli / 1000 };
    Some(i64::try_from(up).unwrap_or(i64::MAX))
}

/// `resource` divided by `divisor`, rounded up, as the downward API shows it.
pub fn divided(milli_value: i128, divisor: &str) -> Option<i128> {
    let divisor = match milli(divisor)? {
        0 => 1000,
        other => other,
    };
    Some(milli_value / divisor + i128::from(milli_value % divisor != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_notation() {
        for (text, expected) in [
            ("100m", Some(100)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1k", Some(1_000_000)),
            ("1Ki", Some(1_024_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("12E", Some(12_000_000_000_000_000_000_000)),
            ("100n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("1x", None),
            ("abc", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(value("1500m"), Some(2));
        assert_eq!(divided(1500, "1"), Some(2));
        assert_eq!(divided(1500, "1m"), Some(1500));
        assert_eq!(divided(1500, "0"), Some(2));
    }
}
