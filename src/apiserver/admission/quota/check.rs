//! Whether a request fits into the quotas of its namespace, and what it leaves of them. Pure.

use std::collections::BTreeSet;

use api::quota::{Amounts, Measure, Requirement, add, amounts, requirements};
use jiff::Timestamp;
use serde_json::Value;

/// Consumption that is refused unless some quota covers it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitedResource {
    pub group: String,
    pub resource: String,
    /// Parts of names of quotas (`.storageclass.storage.k8s.io/requests.storage`).
    pub match_contains: Vec<String>,
    pub match_scopes: Vec<Requirement>,
}

/// A quota as admission sees it: only its status counts.
#[derive(Debug, Clone)]
pub struct Quota {
    pub name: String,
    scopes: Vec<Requirement>,
    hard: Amounts,
    pub used: Amounts,
}

impl Quota {
    pub fn of_value(value: &Value) -> Self {
        Self {
            name: value["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            scopes: requirements(&value["spec"]),
            hard: amounts(&value["status"]["hard"]),
            used: amounts(&value["status"]["used"]),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    pub measure: Measure,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub object: Value,
    /// Of an update.
    pub old: Option<Value>,
    pub dry_run: bool,
}

/// The quotas with the request charged to them; `None`: it takes nothing.
///
/// # Errors
/// Why it does not fit.
pub fn check(
    quotas: &[Quota],
    ask: &Ask,
    limited: &[LimitedResource],
    now: Timestamp,
) -> Result<Option<Vec<Quota>>, String> {
    let (measure, object) = (&ask.measure, &ask.object);
    let limits = limited_names(ask, limited, now);
    let limited_scopes: Vec<&Requirement> = limited
        .iter()
        .flat_map(|limited| &limited.match_scopes)
        .filter(|requirement| measure.in_scope(requirement, object))
        .collect();
    let mut interesting = Vec::new();
    let (mut covered, mut covered_scopes) = (BTreeSet::new(), BTreeSet::new());
    for (index, quota) in quotas.iter().enumerate() {
        let in_scope = quota.scopes.iter().filter(|requirement| measure.in_scope(requirement, object));
        covered_scopes.extend(in_scope.map(|requirement| requirement.scope.clone()));
        if !measure.matches(&quota.scopes, quota.hard.keys().map(String::as_str), object) {
            continue;
        }
        let names: BTreeSet<String> = quota.hard.keys().filter(|name| measure.covers(name)).cloned().collect();
        if let Some(missing) = measure.unspecified(&names, object) {
            return Err(format!("failed quota: {}: must specify {missing}", quota.name));
        }
        if names.iter().any(|name| !quota.used.contains_key(name)) {
            let names = names.into_iter().collect::<Vec<_>>().join(",");
            return Err(format!("status unknown for quota: {}, resources: {names}", quota.name));
        }
        covered.extend(names);
        interesting.push(index);
    }
    let usage = measure.usage(object, now);
    let negative: Vec<&str> = usage.iter().filter(|(_, amount)| amount.sign() < 0).map(|(n, _)| n.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    let delta = match &ask.old {
        Some(old) => growth(&usage, &measure.usage(old, now)),
        None => usage.clone(),
    };
    let charges: Vec<(usize, Amounts)> = interesting
        .iter()
        .map(|index| {
            let quota = &quotas[*index];
            // An object that the quota did not count before is charged in full.
            let before = ask
                .old
                .as_ref()
                .is_none_or(|old| measure.matches(&quota.scopes, quota.hard.keys().map(String::as_str), old));
            (*index, nonzero(if before { &delta } else { &usage }))
        })
        .filter(|(_, charge)| !charge.is_empty())
        .collect();
    let takes = if interesting.is_empty() { !nonzero(&delta).is_empty() } else { !charges.is_empty() };
    if !takes {
        return Ok(None);
    }
    let uncovered: Vec<&str> = limits.iter().filter(|name| !covered.contains(*name)).map(String::as_str).collect();
    if !uncovered.is_empty() {
        return Err(format!("insufficient quota to consume: {}", uncovered.join(",")));
    }
    let open: Vec<String> = limited_scopes
        .iter()
        .filter(|requirement| !covered_scopes.contains(&requirement.scope))
        .map(|requirement| {
            format!("{{{} {} [{}]}}", requirement.scope, requirement.operator, requirement.values.join(" "))
        })
        .collect();
    if !open.is_empty() {
        return Err(format!("insufficient quota to match these scopes: [{}]", open.join(" ")));
    }
    if charges.is_empty() {
        return Ok(None);
    }
    let mut charged = quotas.to_vec();
    let mut changed = false;
    for (index, charge) in charges {
        let quota = &mut charged[index];
        let asked: Amounts = charge.into_iter().filter(|(name, _)| quota.hard.contains_key(name)).collect();
        let mut used = quota.used.clone();
        add(&mut used, &asked);
        if ask.subresource != "status" {
            fits(quota, &asked, &used)?;
        }
        changed |= used != quota.used;
        quota.used = used;
    }
    Ok(changed.then_some(charged))
}

fn fits(quota: &Quota, asked: &Amounts, used: &Amounts) -> Result<(), String> {
    let exceeded: Vec<&String> =
        asked.keys().filter(|name| quota.hard.get(*name).is_some_and(|hard| used[*name] > *hard)).collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let show = |amounts: &Amounts| {
        let parts = exceeded.iter().filter_map(|name| Some(format!("{name}={}", amounts.get(*name)?)));
        parts.collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name,
        show(asked),
        show(&quota.used),
        show(&quota.hard)
    ))
}

/// By how much `new` is more than `old`.
fn growth(new: &Amounts, old: &Amounts) -> Amounts {
    let grown = new.iter().map(|(name, amount)| {
        let mut more = amount.clone();
        if let Some(old) = old.get(name) {
            more.sub(old);
        }
        (name.clone(), more)
    });
    grown.filter(|(_, more)| more.sign() > 0).collect()
}

fn nonzero(amounts: &Amounts) -> Amounts {
    amounts.iter().filter(|(_, amount)| !amount.is_zero()).map(|(n, a)| (n.clone(), a.clone())).collect()
}

/// What the object consumes of what must be covered by a quota.
fn limited_names(ask: &Ask, limited: &[LimitedResource], now: Timestamp) -> BTreeSet<String> {
    let mine: Vec<&LimitedResource> =
        limited.iter().filter(|l| l.group == ask.group && l.resource == ask.resource).collect();
    if mine.is_empty() {
        return BTreeSet::new();
    }
    let usage = ask.measure.usage(&ask.object, now);
    let consumed = usage.into_iter().filter(|(_, amount)| amount.sign() > 0).map(|(name, _)| name);
    let matches = |name: &String| mine.iter().any(|l| l.match_contains.iter().any(|part| name.contains(part.as_str())));
    consumed.filter(matches).collect()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
