//! Label and node selectors of the typed model.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::cache::NodeInfo;

pub type Labels = BTreeMap<String, String>;

/// An absent selector selects nothing, an empty one everything.
pub fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            holds(&requirement.operator, values, labels.get(&requirement.key))
        })
}

fn holds(operator: &str, values: &[String], actual: Option<&String>) -> bool {
    match operator {
        "In" => actual.is_some_and(|value| values.contains(value)),
        "NotIn" => actual.is_none_or(|value| !values.contains(value)),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" | "Lt" => {
            let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
            match (number(actual), number(values.first())) {
                (Some(actual), Some(bound)) => {
                    (operator == "Gt" && actual > bound) || (operator == "Lt" && actual < bound)
                }
                _ => false,
            }
        }
        _ => false,
    }
}

/// A term matches when all its expressions and fields do; an empty term matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let check = |requirement: &NodeSelectorRequirement, actual: Option<&String>| {
        holds(&requirement.operator, requirement.values.as_deref().unwrap_or_default(), actual)
    };
    expressions.iter().all(|requirement| check(requirement, node.labels().get(&requirement.key)))
        && fields.iter().all(|requirement| {
            let actual = (requirement.key == "metadata.name").then_some(&node.name);
            check(requirement, actual)
        })
}
