//! How much of a shared device's capacity a request may take: one of some values, or a range in steps.
//!
//! Invariants:
//! - RP-1: values are compared exactly, never as rounded integers, but for the step rule that upstream states in integers.

use std::cmp::Ordering;

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::names;
use crate::access::{field, items, obj};

const MAX_VALUES: usize = 10;

pub(super) fn check(errors: &mut ErrorList, path: &Path, policy: &Value, capacity: &Quantity) {
    let values = items(policy, "validValues");
    let range = field(policy, "validRange");
    let default = quantity(policy, "default");
    match (values.is_empty(), range, default) {
        (false, Some(_), _) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errors.forbidden(path.clone(), detail);
        }
        (false, None, None) => errors.required(path.child("default"), "required when validValues is defined"),
        (false, None, Some(default)) => {
            check_values(errors, &path.child("validValues"), values, &default, capacity);
        }
        (true, Some(_), None) => errors.required(path.child("default"), "required when validRange is defined"),
        (true, Some(range), Some(default)) => {
            check_range(errors, &path.child("validRange"), range, &default, capacity);
        }
        (true, None, _) => {}
    }
}

fn quantity(value: &Value, key: &str) -> Option<Quantity> {
    field(value, key).and_then(|value| Quantity::from_json(value).ok())
}

fn compare(a: &Quantity, b: &Quantity) -> Ordering {
    let mut difference = a.clone();
    difference.sub(b);
    difference.sign().cmp(&0)
}

fn check_values(errors: &mut ErrorList, path: &Path, values: &[Value], default: &Quantity, capacity: &Quantity) {
    let parsed: Vec<Quantity> =
        values.iter().map(|value| Quantity::from_json(value).unwrap_or_else(|_| Quantity::zero())).collect();
    for (i, pair) in parsed.windows(2).enumerate() {
        if compare(&pair[0], &pair[1]) == Ordering::Greater {
            let detail = "values must be sorted in ascending order";
            errors.invalid(path.index(i + 1), pair[1].canonical(), detail);
        }
    }
    let check = |errors: &mut ErrorList, path: &Path, value: &Quantity| {
        if compare(value, capacity) == Ordering::Greater {
            let detail = format!("option is larger than capacity value: {}", capacity.canonical());
            errors.invalid(path.clone(), value.canonical(), &detail);
        }
    };
    names::set(errors, path, &parsed, MAX_VALUES, check, |value| value.value().to_string());
    if !parsed.iter().any(|value| compare(value, default) == Ordering::Equal) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.invalid(path.clone(), default.canonical(), detail);
    }
}

fn check_range(errors: &mut ErrorList, path: &Path, range: &Value, default: &Quantity, capacity: &Quantity) {
    let Some(min) = field(range, "min").map(|_| quantity(range, "min").unwrap_or_else(Quantity::zero)) else {
        errors.required(path.child("min"), "required when validRange is defined");
        return;
    };
    let mut check = |at: &str, bad: bool, value: &Quantity, detail: String| {
        if bad {
            errors.invalid(path.child(at), value.canonical(), &detail);
        }
    };
    let over = |a: &Quantity, b: &Quantity| compare(a, b) == Ordering::Greater;
    let shown = capacity.canonical();
    check("min", over(&min, capacity), &min, format!("min is larger than capacity value: {shown}"));
    check("default", over(&min, default), default, format!("default is less than min: {}", min.canonical()));
    let max = quantity(range, "max");
    if let Some(max) = &max {
        check("max", over(&min, max), &min, format!("min is larger than max: {}", max.canonical()));
        check("max", over(max, capacity), max, format!("max is larger than capacity value: {shown}"));
        check("default", over(default, max), default, format!("default is more than max: {}", max.canonical()));
    }
    let Some(step) = quantity(range, "step").filter(|_| !obj(range, "step").is_null()) else { return };
    let mut added = min.clone();
    added.add(&step);
    let detail = format!("one step {} is larger than capacity value: {shown}", added.canonical());
    check("step", over(&added, capacity), &step, detail);
    let (step_value, min_value) = (i128::from(step.value()), i128::from(min.value()));
    for value in std::iter::once(default).chain(&max) {
        let off = step_value != 0 && (i128::from(value.value()) - min_value) % step_value != 0;
        let detail =
            format!("value is not a multiple of a given step ({}) from ({})", step.canonical(), min.canonical());
        check("step", off, value, detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::messages;

    fn errors(policy: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors, &Path::new("p"), &policy, &Quantity::parse("10Gi").expect("a quantity"));
        messages(&errors)
    }

    #[test]
    fn ranges() {
        assert!(
            errors(json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "4Gi", "step": "1Gi"}})).is_empty()
        );
        assert_eq!(
            errors(json!({"default": "1Gi", "validRange": {"min": "2Gi", "max": "20Gi"}})),
            [
                "p.validRange.default: Invalid value: \"1Gi\": default is less than min: 2Gi",
                "p.validRange.max: Invalid value: \"20Gi\": max is larger than capacity value: 10Gi",
            ]
        );
        assert_eq!(
            errors(json!({"validRange": {"min": "1"}})),
            ["p.default: Required value: required when validRange is defined"]
        );
    }

    #[test]
    fn values() {
        assert_eq!(
            errors(json!({"default": "3", "validValues": ["2", "1", "20Gi"]})),
            [
                "p.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                "p.validValues[2]: Invalid value: \"20Gi\": option is larger than capacity value: 10Gi",
                "p.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            ]
        );
    }
}
