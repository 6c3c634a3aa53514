//! Label selectors: upstream's text grammar, requirement semantics, and metav1.LabelSelector.
//!
//! Invariants:
//! - LS-1: a selector prints as text that parses to an equal selector.
//! - LS-2: `Nothing` (an absent metav1.LabelSelector) matches no object; an empty selector matches every object.

mod parse;
#[cfg(test)]
mod tests;

use crate::goformat::quote;
use crate::validation::{ErrorList, FieldError, Path, names};
use crate::value::{items, str_or_empty, string_map, strings};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// Labels to match against. Implemented for the label maps of `Value` and of `k8s-openapi`.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for serde_json::Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl Labels for std::collections::BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl Labels for [(String, String)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: BTreeSet<String>,
}

/// All requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    Nothing,
    /// Sorted by key. Empty: everything.
    All(Vec<Requirement>),
}

impl Default for Selector {
    fn default() -> Self {
        Self::everything()
    }
}

impl Selector {
    pub fn everything() -> Self {
        Self::All(Vec::new())
    }

    /// Parses the text of a `labelSelector` parameter. Err: upstream's message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = parse::parse(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self::All(requirements))
    }

    /// Equality with each of the labels.
    pub fn from_set<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let equals = |(key, value): (&str, &str)| Requirement {
            key: key.to_string(),
            operator: Operator::Equals,
            values: BTreeSet::from([value.to_string()]),
        };
        let mut requirements: Vec<_> = labels.into_iter().map(equals).collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self::All(requirements)
    }

    /// From a metav1.LabelSelector in JSON; null or absent selects nothing. Err: upstream's message.
    pub fn from_label_selector(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::Nothing);
        }
        let mut requirements = Vec::new();
        for (key, value) in string_map(selector, &["matchLabels"]) {
            requirements.push(Requirement::new(key, Operator::Equals, [value])?);
        }
        for expression in items(selector, &["matchExpressions"]) {
            let operator = match str_or_empty(expression, &["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{} is not a valid label selector operator", quote(other))),
            };
            let key = str_or_empty(expression, &["key"]);
            requirements.push(Requirement::new(key, operator, strings(expression, &["values"]))?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self::All(requirements))
    }

    /// From a metav1.LabelSelector in Rust types (`k8s_openapi`'s, or an `Option` of it). Err: upstream's message.
    pub fn from_typed(selector: &impl serde::Serialize) -> Result<Self, String> {
        Self::from_label_selector(&serde_json::to_value(selector).map_err(|e| e.to_string())?)
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        match self {
            Self::Nothing => false,
            Self::All(requirements) => requirements.iter().all(|r| r.matches(labels)),
        }
    }

    /// True if it matches every object.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(r) if r.is_empty())
    }

    pub fn requirements(&self) -> &[Requirement] {
        match self {
            Self::Nothing => &[],
            Self::All(requirements) => requirements,
        }
    }
}

impl Requirement {
    /// Err: upstream's message for a bad key, bad values or the wrong number of values.
    pub fn new<'a>(key: &str, operator: Operator, values: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let values: BTreeSet<String> = values.into_iter().map(str::to_string).collect();
        let mut errors = ErrorList::new();
        let path = Path::nil();
        invalid_joined(&mut errors, &path.child("key"), key, names::is_qualified_name(key));
        let at = path.child("values");
        let list = || Value::from(values.iter().map(String::as_str).collect::<Vec<_>>());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.invalid(at.clone(), list(), "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                errors.invalid(at.clone(), list(), "exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.invalid(at.clone(), list(), "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.invalid(at.clone(), list(), "for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, value) in values.iter().enumerate() {
                    if go_int(value).is_none() {
                        let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                        errors.invalid(at.index(i), value.as_str(), detail);
                    }
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            invalid_joined(&mut errors, &at.index(i).key(key), value, names::is_valid_label_value(value));
        }
        if errors.is_empty() { Ok(Self { key: key.to_string(), operator, values }) } else { Err(errors.aggregate()) }
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let label = labels.label(&self.key);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => label.is_some_and(|l| self.values.contains(l)),
            Operator::NotEquals | Operator::NotIn => label.is_none_or(|l| !self.values.contains(l)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compares(label, |a, b| a > b),
            Operator::LessThan => self.compares(label, |a, b| a < b),
        }
    }

    fn compares(&self, label: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let (Some(label), Some(value)) = (label.and_then(go_int), self.values.first().and_then(|v| go_int(v))) else {
            return false;
        };
        holds(label, value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.operator == Operator::DoesNotExist {
            f.write_str("!")?;
        }
        f.write_str(&self.key)?;
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match self.operator {
            Operator::Equals => write!(f, "={values}"),
            Operator::DoubleEquals => write!(f, "=={values}"),
            Operator::NotEquals => write!(f, "!={values}"),
            Operator::GreaterThan => write!(f, ">{values}"),
            Operator::LessThan => write!(f, "<{values}"),
            Operator::In => write!(f, " in ({values})"),
            Operator::NotIn => write!(f, " notin ({values})"),
            Operator::Exists | Operator::DoesNotExist => Ok(()),
        }
    }
}

fn invalid_joined(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    if !messages.is_empty() {
        errors.push(FieldError::new(crate::validation::ErrorType::Invalid, path, value, messages.join("; ")));
    }
}

/// `strconv.ParseInt(s, 10, 64)`.
fn go_int(s: &str) -> Option<i64> {
    s.parse().ok()
}
