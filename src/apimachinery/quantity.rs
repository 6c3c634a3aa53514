//! resource.Quantity: `1500m`, `1Gi`, `12e6`. Exact decimal numbers with the suffix family they were written in.
//!
//! Invariants:
//! - QT-1: text that upstream would give back unchanged is kept; anything else is printed in canonical form.
//! - QT-2: no floating point on the way in or out; parsing rounds up to whole nanos, never down.
//! - QT-3: arithmetic is exact while the digits fit 128 bits; beyond that the last digits are rounded up.

#[cfg(test)]
mod tests;

use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;

const NANO: i32 = -9;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySI,
    /// `12M`
    #[default]
    DecimalSI,
}

/// The texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// `value * 10^scale`.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    value: i128,
    scale: i32,
    format: Format,
    /// The text it was parsed from, where upstream reuses it.
    text: Option<Box<str>>,
}

impl Quantity {
    pub fn zero() -> Self {
        Self::default()
    }

    pub fn new(value: i64, format: Format) -> Self {
        Self { value: value.into(), format, ..Self::default() }
    }

    /// So many thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { value: milli.into(), scale: -3, format, ..Self::default() }
    }

    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        if text == "0" {
            return Ok(Self { text: Some("0".into()), ..Self::default() });
        }
        let parts = Parts::of(text)?;
        let (base, exponent, format) = interpret_suffix(parts.suffix).ok_or(QuantityError::Suffix)?;
        match parts.small(base, exponent, format) {
            Some((value, scale)) => {
                let text = parts.is_canonical(scale, exponent, format).then(|| text.into());
                Ok(Self { value, scale, format, text })
            }
            None => parts.large(base, exponent, format),
        }
    }

    /// From a JSON string or number.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(s) => Self::parse(s.trim()),
            Value::Number(n) => Self::parse(&crate::goformat::number(n)),
            _ => Err(QuantityError::Format),
        }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.value.signum() as i32
    }

    /// Whole units, rounded away from zero; capped to i64.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// Thousandths, rounded away from zero; capped to i64.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// Units of 10^scale, rounded away from zero; capped to i64.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let (value, _) = rescale(self.value, self.scale, scale);
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }

    /// The value if it is a whole number that fits.
    pub fn as_i64(&self) -> Option<i64> {
        let (value, exact) = rescale(self.value, self.scale, 0);
        if exact { i64::try_from(value).ok() } else { None }
    }

    pub fn as_f64(&self) -> f64 {
        self.value as f64 * 10f64.powi(self.scale)
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, other.value);
    }

    pub fn sub(&mut self, other: &Self) {
        self.combine(other, -other.value);
    }

    pub fn neg(&mut self) {
        self.value = -self.value;
        self.text = None;
    }

    pub fn mul(&mut self, factor: i64) {
        self.text = None;
        loop {
            match self.value.checked_mul(factor.into()) {
                Some(value) => {
                    self.value = value;
                    return;
                }
                None => self.drop_digit(),
            }
        }
    }

    /// Rounds up (away from zero) to multiples of 10^scale. True if nothing was lost.
    pub fn round_up(&mut self, scale: i32) -> bool {
        if self.scale >= scale {
            return true;
        }
        self.text = None;
        let (value, exact) = rescale(self.value, self.scale, scale);
        (self.value, self.scale) = (value, scale);
        exact
    }

    /// The canonical form, whatever it was parsed from.
    pub fn canonical(&self) -> String {
        if self.value == 0 {
            return "0".into();
        }
        if self.format == Format::BinarySI {
            let (whole, exact) = rescale(self.value, self.scale, 0);
            let small = whole > -1024 && whole < 1024;
            if exact && !small {
                let (mut n, mut power) = (whole, 0);
                while n % 1024 == 0 && power < 6 {
                    n /= 1024;
                    power += 1;
                }
                return format!("{n}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
            }
        }
        let (mut n, mut exponent) = (self.value, self.scale);
        while n % 10 == 0 {
            n /= 10;
            exponent += 1;
        }
        let raised = |to: i32| 10_i128.checked_pow(u32::try_from(exponent - to).ok()?)?.checked_mul(n);
        let multiple = exponent - exponent.rem_euclid(3);
        let most = if self.format == Format::DecimalExponent { multiple } else { multiple.min(18) };
        // A number too large for every suffix, and for all its digits, is told by its exponent.
        for to in [most, multiple] {
            if let Some(next) = raised(to) {
                (n, exponent) = (next, to);
                break;
            }
        }
        if self.format != Format::DecimalExponent
            && let Some((suffix, _)) = DECIMAL.iter().find(|(_, e)| *e == exponent)
        {
            return format!("{n}{suffix}");
        }
        if exponent == 0 { n.to_string() } else { format!("{n}e{exponent}") }
    }

    fn combine(&mut self, other: &Self, addend: i128) {
        self.text = None;
        if self.value == 0 {
            self.format = other.format;
        }
        let (mut a, mut b) = ((self.value, self.scale), (addend, other.scale));
        loop {
            let scale = a.1.min(b.1);
            let sum = shift(a.0, a.1 - scale).zip(shift(b.0, b.1 - scale)).and_then(|(x, y)| x.checked_add(y));
            if let Some(value) = sum {
                (self.value, self.scale) = (value, scale);
                return;
            }
            // give up the last digit of the finer one
            let finer = if a.1 <= b.1 { &mut a } else { &mut b };
            *finer = (rescale(finer.0, finer.1, finer.1 + 1).0, finer.1 + 1);
        }
    }

    fn drop_digit(&mut self) {
        self.value = rescale(self.value, self.scale, self.scale + 1).0;
        self.scale += 1;
    }
}

/// The text it was parsed from if that is as good as canonical, else the canonical form.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => f.write_str(&self.canonical()),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By value, not by text or suffix.
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_sign = self.sign().cmp(&other.sign());
        if by_sign != Ordering::Equal || self.value == 0 {
            return by_sign;
        }
        let scale = self.scale.min(other.scale);
        match (shift(self.value, self.scale - scale), shift(other.value, other.scale - scale)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // what does not fit 128 bits is farther from zero
            (None, _) => self.sign().cmp(&0),
            (_, None) => 0.cmp(&self.sign()),
        }
    }
}

const BINARY: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// Base, exponent and format.
fn interpret_suffix(suffix: &str) -> Option<(u32, i32, Format)> {
    if let Some((_, exponent)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some((2, *exponent, Format::BinarySI));
    }
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((10, *exponent, Format::DecimalSI));
    }
    let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    // far beyond anything that is not capped or rounded to one nano
    Some((10, exponent.clamp(-1_000_000, 1_000_000) as i32, Format::DecimalExponent))
}

struct Parts<'a> {
    negative: bool,
    /// Without leading zeros; "0" if nothing is left.
    num: &'a str,
    denom: &'a str,
    /// True if there is a digit before or after the point.
    has_digits: bool,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, QuantityError> {
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let stripped = unsigned.trim_start_matches('0');
        if stripped.is_empty() {
            return Ok(Self { negative, num: "0", denom: "", has_digits: true, suffix: "" });
        }
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (num, rest) = stripped.split_at(digits(stripped));
        let (denom, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        let has_digits = !num.is_empty() || !denom.is_empty() || stripped.len() < unsigned.len();
        let num = if num.is_empty() { "0" } else { num };
        let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
        let tail = &suffix[letters..];
        let tail = tail.strip_prefix(['+', '-']).unwrap_or(tail);
        if !tail.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        Ok(Self { negative, num, denom, has_digits, suffix })
    }

    /// The value if it fits the range in which upstream calculates with int64.
    fn small(&self, base: u32, exponent: i32, format: Format) -> Option<(i128, i32)> {
        let digits = self.num.len() + self.denom.len();
        let (mantissa, precision, scale) = match format {
            Format::BinarySI if self.denom.is_empty() => {
                let used = (exponent as f32 * 3.0 / 10.0) as i64;
                (1i64 << exponent, 15 - self.num.len() as i64 - used - 1, 0)
            }
            Format::BinarySI => return None,
            _ => (1, 18 - digits as i64, exponent - self.denom.len() as i32),
        };
        debug_assert!(base == 2 || base == 10);
        if precision < 0 || scale < NANO {
            return None;
        }
        let value: i64 = format!("{}{}", self.num, self.denom).parse().ok()?;
        let value = i128::from(value.checked_mul(mantissa)?);
        Some((if self.negative { -value } else { value }, scale))
    }

    /// Upstream keeps the text of a small quantity if it looks canonical.
    fn is_canonical(&self, scale: i32, exponent: i32, format: Format) -> bool {
        if format == Format::BinarySI {
            // the number before the suffix; its last three bits tell whether a larger suffix could be used
            let value: i64 = self.num.parse().unwrap_or(0);
            return exponent % 10 == 0 && value & 7 != 0;
        }
        let shifted = || self.num.bytes().chain(self.denom.bytes());
        let trailing = shifted().rev().take_while(|b| *b == b'0').count();
        scale % 3 == 0 && trailing < 3 && shifted().next() != Some(b'0')
    }

    fn large(&self, base: u32, exponent: i32, format: Format) -> Result<Quantity, QuantityError> {
        if !self.has_digits {
            return Err(QuantityError::Numeric);
        }
        let (mut value, mut scale) = (0i128, -(self.denom.len() as i32));
        let mut inexact = false;
        let mut skipped = 0;
        for b in self.num.bytes().chain(self.denom.bytes()) {
            let digit = i128::from(b - b'0');
            // room for a factor of 2^60 stays
            if skipped == 0 && value < (i128::MAX / 20) >> if base == 2 { 60 } else { 0 } {
                value = value * 10 + digit;
            } else {
                inexact |= digit != 0;
                skipped += 1;
            }
        }
        scale += skipped;
        if base == 2 {
            value <<= exponent;
        } else {
            scale += exponent;
        }
        if inexact {
            value += 1;
        }
        if value == 0 {
            scale = 0;
        } else if scale < NANO {
            (value, _) = rescale(value, scale, NANO);
            scale = NANO;
        }
        let mut quantity = Quantity { value, scale, format, text: None };
        if format == Format::BinarySI {
            let max = Quantity::new(i64::MAX, format);
            if quantity > max {
                quantity = max;
            }
            if quantity < Quantity::new(1, format) && !quantity.is_zero() {
                quantity.format = Format::DecimalSI;
            }
        }
        if self.negative {
            quantity.neg();
        }
        Ok(quantity)
    }
}

/// `value * 10^by`, if it fits.
fn shift(value: i128, by: i32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    10i128.checked_pow(by.try_into().ok()?)?.checked_mul(value)
}

/// Converts to another scale: away from zero where digits are lost, capped where they do not fit. True if exact.
fn rescale(value: i128, from: i32, to: i32) -> (i128, bool) {
    if from >= to {
        return match shift(value, from - to) {
            Some(value) => (value, true),
            None => (if value < 0 { i128::MIN } else { i128::MAX }, false),
        };
    }
    match 10i128.checked_pow((to - from) as u32) {
        Some(divisor) => {
            let rest = value % divisor;
            (value / divisor + rest.signum(), rest == 0)
        }
        None => (value.signum(), value == 0),
    }
}
