//! A job's pod failure policy and success policy.

use std::collections::BTreeSet;

use apimachinery::validation::{ErrorList, Path};
use serde_json::{Value, json};

use crate::access::{has, int, items, obj, opt_int, opt_text, text};
use crate::checks::{not_negative, qualified_name};

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_INDEXES_BYTES: usize = 64 * 1024;

/// Upstream prints lists of Go strings in these details.
fn quoted(values: &[&str]) -> String {
    let all: Vec<_> = values.iter().map(|v| format!("{v:?}")).collect();
    format!("[{}]", all.join(" "))
}

pub(super) fn check_failure_policy(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let rules = items(obj(spec, "podFailurePolicy"), "rules");
    let rules_at = path.child("rules");
    if rules.len() > MAX_RULES {
        errors.too_many(rules_at.clone(), rules.len(), MAX_RULES);
    }
    let pod = obj(obj(spec, "template"), "spec");
    let names: BTreeSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|list| items(pod, list)).map(|c| text(c, "name")).collect();
    for (i, rule) in rules.iter().enumerate() {
        check_failure_rule(errors, spec, &rules_at.index(i), rule, &names);
    }
}

fn check_failure_rule(errors: &mut ErrorList, spec: &Value, path: &Path, rule: &Value, names: &BTreeSet<&str>) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let at = path.child("action");
    match text(rule, "action") {
        "" => errors.required(at, &format!("valid values: {}", quoted(ACTIONS))),
        "FailIndex" if !has(spec, "backoffLimitPerIndex") => {
            errors.invalid(at, "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        action if !ACTIONS.contains(&action) => errors.not_supported(at, action, ACTIONS),
        _ => {}
    }
    let conditions = items(rule, "onPodConditions");
    if has(rule, "onExitCodes") {
        check_exit_codes(errors, &path.child("onExitCodes"), obj(rule, "onExitCodes"), names);
    }
    check_conditions(errors, &path.child("onPodConditions"), conditions);
    match (has(rule, "onExitCodes"), conditions.is_empty()) {
        (true, false) => {
            errors.invalid_text(path.clone(), "", "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (false, true) => {
            errors.invalid_text(path.clone(), "", "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => {}
    }
}

fn check_conditions(errors: &mut ErrorList, path: &Path, conditions: &[Value]) {
    const STATUSES: &[&str] = &["False", "True", "Unknown"];
    if conditions.len() > MAX_RULES {
        errors.too_many(path.clone(), conditions.len(), MAX_RULES);
    }
    for (i, pattern) in conditions.iter().enumerate() {
        let at = path.index(i);
        qualified_name(errors, at.child("type"), text(pattern, "type"));
        match text(pattern, "status") {
            "" => errors.required(at.child("status"), &format!("valid values: {}", quoted(STATUSES))),
            status if !STATUSES.contains(&status) => errors.not_supported(at.child("status"), status, STATUSES),
            _ => {}
        }
    }
}

fn check_exit_codes(errors: &mut ErrorList, path: &Path, codes: &Value, names: &BTreeSet<&str>) {
    const OPERATORS: &[&str] = &["In", "NotIn"];
    let operator = text(codes, "operator");
    match operator {
        "" => errors.required(path.child("operator"), &format!("valid values: {}", quoted(OPERATORS))),
        other if !OPERATORS.contains(&other) => errors.not_supported(path.child("operator"), other, OPERATORS),
        _ => {}
    }
    if let Some(container) = opt_text(codes, "containerName").filter(|c| !names.contains(c)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(path.child("containerName"), container, detail);
    }
    let values: Vec<i64> = items(codes, "values").iter().filter_map(Value::as_i64).collect();
    let at = path.child("values");
    if values.is_empty() {
        errors.invalid(at.clone(), obj(codes, "values").clone(), "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(at.clone(), values.len(), MAX_EXIT_CODES);
    }
    for (i, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.invalid(at.index(i), 0, "must not be 0 for the In operator");
        }
        if values[..i].contains(value) {
            errors.duplicate(at.index(i), *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(at, json!(values), "must be ordered");
    }
}

pub(super) fn check_success_policy(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let policy = obj(spec, "successPolicy");
    if text(spec, "completionMode") != "Indexed" {
        let shown = crate::godump::dump("SuccessPolicy", policy);
        errors.invalid_text(path.clone(), &shown, "requires indexed completion mode");
        return;
    }
    let rules = items(policy, "rules");
    let rules_at = path.child("rules");
    if rules.is_empty() {
        errors.required(rules_at.clone(), "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        errors.too_many(rules_at.clone(), rules.len(), MAX_RULES);
    }
    let completions = int(spec, "completions");
    for (i, rule) in rules.iter().enumerate() {
        check_success_rule(errors, &rules_at.index(i), rule, completions);
    }
}

fn check_success_rule(errors: &mut ErrorList, path: &Path, rule: &Value, completions: i64) {
    let (indexes, count) = (opt_text(rule, "succeededIndexes"), opt_int(rule, "succeededCount"));
    if indexes.is_none() && count.is_none() {
        errors.required(path.clone(), "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let at = path.child("succeededIndexes");
        if indexes.len() > MAX_INDEXES_BYTES {
            errors.too_long(at.clone(), indexes, MAX_INDEXES_BYTES);
        }
        match count_indexes(indexes, completions) {
            Ok(found) => total = found,
            Err(why) => errors.invalid(at, indexes, &format!("error parsing succeededIndexes: {why}")),
        }
    }
    if let Some(count) = count {
        let at = path.child("succeededCount");
        not_negative(errors, at.clone(), count);
        if count > completions {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(at.clone(), count, &detail);
        }
        if indexes.is_some() && count > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(at, count, &detail);
        }
    }
}

/// How many indexes `1,3-5` names.
fn count_indexes(indexes: &str, completions: i64) -> Result<i64, String> {
    if indexes.is_empty() {
        return Ok(0);
    }
    let number = |text: &str| {
        let index: i64 = text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions { Err(format!("too large index: {text:?}")) } else { Ok(index) }
    };
    let increasing = |before: i64, index: i64| {
        if before >= index {
            return Err(format!("non-increasing order, previous: {before}, current: {index}"));
        }
        Ok(())
    };
    let mut last: Option<i64> = None;
    let mut total = 0;
    for interval in indexes.split(',') {
        let limits: Vec<_> = interval.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let first = number(limits[0])?;
        let end = match limits.get(1) {
            Some(end) => {
                let end = number(end)?;
                increasing(first, end)?;
                end
            }
            None => first,
        };
        if let Some(last) = last {
            increasing(last, first)?;
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::texts;

    #[test]
    fn counts_indexes() {
        for (indexes, want) in [
            ("", Ok(0)),
            ("0,2-4", Ok(4)),
            ("5", Err("too large index: \"5\"")),
            ("a", Err("cannot convert string to integer for index: \"a\"")),
            ("3-1", Err("non-increasing order, previous: 3, current: 1")),
            ("2,1", Err("non-increasing order, previous: 2, current: 1")),
        ] {
            assert_eq!(count_indexes(indexes, 5), want.map_err(str::to_owned));
        }
    }

    #[test]
    fn failure_rules_say_one_thing() {
        let mut errors = ErrorList::new();
        let spec = json!({"podFailurePolicy": {"rules": [
            {"action": "X"},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "containerName": "z", "values": [3, 1, 3]},
             "onPodConditions": [{"type": "A", "status": "B"}]},
        ]}});
        check_failure_policy(&mut errors, &spec, &Path::new("p"));
        assert_eq!(
            texts(&errors),
            [
                "p.rules[0].action: Unsupported value: \"X\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                "p.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                "p.rules[1].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "p.rules[1].onExitCodes.containerName: Invalid value: \"z\": must be one of the container or initContainer names in the pod template",
                "p.rules[1].onExitCodes.values[2]: Duplicate value: 3",
                "p.rules[1].onExitCodes.values: Invalid value: [3,1,3]: must be ordered",
                "p.rules[1].onPodConditions[0].status: Unsupported value: \"B\": supported values: \"False\", \"True\", \"Unknown\"",
                "p.rules[1]: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported",
            ]
        );
    }
}
