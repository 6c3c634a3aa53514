//! A definition as upstream's validation sees it: in the internal form, where what all versions have in common (schema,
//! subresources, columns, selectable fields) stands at the top and not in the versions. Error paths follow that form.
//!
//! Invariants:
//! - CI-1: a part is either at the top or in the versions, never in both.

use serde_json::Value;

use crate::access::{field, flag, items, obj, same, text};

/// The parts that may be the same in all versions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    /// `schema`, around `openAPIV3Schema`.
    pub validation: Option<&'a Value>,
    pub subresources: Option<&'a Value>,
    pub columns: &'a [Value],
    pub selectable: &'a [Value],
}

impl<'a> Parts<'a> {
    const NONE: Parts<'static> = Parts { validation: None, subresources: None, columns: &[], selectable: &[] };

    fn of(version: &'a Value) -> Self {
        Self {
            validation: field(version, "schema"),
            subresources: field(version, "subresources"),
            columns: items(version, "additionalPrinterColumns"),
            selectable: items(version, "selectableFields"),
        }
    }

    /// `openAPIV3Schema`
    pub fn schema(&self) -> Option<&'a Value> {
        self.validation.and_then(|validation| field(validation, "openAPIV3Schema"))
    }

    pub fn status_enabled(&self) -> bool {
        self.subresources.is_some_and(|sub| field(sub, "status").is_some())
    }
}

pub(super) struct Version<'a> {
    pub value: &'a Value,
    pub parts: Parts<'a>,
}

impl Version<'_> {
    pub fn name(&self) -> &str {
        text(self.value, "name")
    }

    pub fn storage(&self) -> bool {
        flag(self.value, "storage")
    }
}

pub(super) struct Spec<'a> {
    pub value: &'a Value,
    pub top: Parts<'a>,
    pub versions: Vec<Version<'a>>,
}

impl<'a> Spec<'a> {
    pub fn of(crd: &'a Value) -> Self {
        let value = obj(crd, "spec");
        let given: Vec<Parts<'a>> = items(value, "versions").iter().map(Parts::of).collect();
        let mut top = Parts::NONE;
        let mut own = given.clone();
        if let Some(first) = given.first() {
            let alike = |equal: &dyn Fn(&Parts<'a>) -> bool| given[1..].iter().all(equal);
            let pair = |a: Option<&Value>, b: Option<&Value>| match (a, b) {
                (Some(a), Some(b)) => a == b,
                (a, b) => a.is_none() && b.is_none(),
            };
            let lists = |a: &[Value], b: &[Value]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b));
            if alike(&|p| pair(p.validation, first.validation)) {
                top.validation = first.validation;
                own.iter_mut().for_each(|p| p.validation = None);
            }
            if alike(&|p| pair(p.subresources, first.subresources)) {
                top.subresources = first.subresources;
                own.iter_mut().for_each(|p| p.subresources = None);
            }
            if alike(&|p| lists(p.columns, first.columns)) {
                top.columns = first.columns;
                own.iter_mut().for_each(|p| p.columns = &[]);
            }
            if alike(&|p| lists(p.selectable, first.selectable)) {
                top.selectable = first.selectable;
                own.iter_mut().for_each(|p| p.selectable = &[]);
            }
        }
        let values = items(value, "versions").iter();
        let versions = values.zip(own).map(|(value, parts)| Version { value, parts }).collect();
        Self { value, top, versions }
    }

    /// Every schema there is.
    pub fn schemas(&self) -> impl Iterator<Item = &'a Value> {
        self.top.schema().into_iter().chain(self.versions.iter().filter_map(|version| version.parts.schema()))
    }

    /// The schema of one version, wherever it stands.
    pub fn schema_of(&self, version: &str) -> Option<Option<&'a Value>> {
        let found = self.versions.iter().find(|v| v.name() == version)?;
        Some(found.parts.validation.or(self.top.validation))
    }

    pub fn any_status_enabled(&self) -> bool {
        self.top.status_enabled() || self.versions.iter().any(|version| version.parts.status_enabled())
    }

    /// The status subresource of one version.
    pub fn status_enabled(&self, version: &Version<'_>) -> bool {
        match self.versions.iter().any(|v| v.parts.subresources.is_some()) {
            true => version.parts.status_enabled(),
            false => self.top.status_enabled(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_common_stands_at_the_top() {
        let schema = |ty: &str| json!({"openAPIV3Schema": {"type": ty}});
        let crd = json!({"spec": {"versions": [
            {"name": "v1", "schema": schema("object"), "subresources": {"status": {}}},
            {"name": "v2", "schema": schema("object")}]}});
        let spec = Spec::of(&crd);
        assert!(spec.top.schema().is_some() && spec.versions[0].parts.schema().is_none());
        assert!(spec.top.subresources.is_none() && spec.status_enabled(&spec.versions[0]));
        assert!(!spec.status_enabled(&spec.versions[1]) && spec.any_status_enabled());
    }
}
