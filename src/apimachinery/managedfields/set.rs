//! A set of field paths, and its FieldsV1 form.
//!
//! Invariants:
//! - MF-2: members and children are sorted by path element and hold each element once; no child is empty.

use super::path::{PathElement, PathError};
use crate::schema::Node;
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// A set of paths, as a tree: `members` are the paths of one step, `children` the longer ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    members: Vec<PathElement>,
    children: Vec<(PathElement, FieldSet)>,
}

impl FieldSet {
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of these paths of field names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::new();
        for path in paths {
            let path: Vec<PathElement> = path.iter().map(|name| PathElement::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    pub fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => self.insert_member(last.clone()),
            [first, rest @ ..] => {
                let at = match self.children.binary_search_by(|(pe, _)| pe.cmp(first)) {
                    Ok(at) => at,
                    Err(at) => {
                        self.children.insert(at, (first.clone(), Self::new()));
                        at
                    }
                };
                self.children[at].1.insert(rest);
            }
        }
    }

    pub fn insert_member(&mut self, element: PathElement) {
        // Walking a sorted map appends at the end.
        if self.members.last().is_none_or(|last| *last < element) {
            self.members.push(element);
        } else if let Err(at) = self.members.binary_search(&element) {
            self.members.insert(at, element);
        }
    }

    /// Adds what is below `element`; nothing if that is empty.
    pub fn insert_child(&mut self, element: PathElement, child: FieldSet) {
        if child.is_empty() {
            return;
        }
        if self.children.last().is_none_or(|(last, _)| *last < element) {
            self.children.push((element, child));
            return;
        }
        match self.children.binary_search_by(|(pe, _)| pe.cmp(&element)) {
            Ok(at) => self.children[at].1 = std::mem::take(&mut self.children[at].1).union(child),
            Err(at) => self.children.insert(at, (element, child)),
        }
    }

    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.has_member(last),
            [first, rest @ ..] => self.child(first).is_some_and(|child| child.has(rest)),
        }
    }

    pub fn has_member(&self, element: &PathElement) -> bool {
        self.members.binary_search(element).is_ok()
    }

    /// The paths below `element`, without it.
    pub fn child(&self, element: &PathElement) -> Option<&FieldSet> {
        let at = self.children.binary_search_by(|(pe, _)| pe.cmp(element)).ok()?;
        Some(&self.children[at].1)
    }

    pub fn union(self, other: FieldSet) -> FieldSet {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let members = merge(self.members, other.members, PathElement::cmp, |a, _| a);
        let children = merge(self.children, other.children, |a, b| a.0.cmp(&b.0), |a, b| (a.0, a.1.union(b.1)));
        FieldSet { members, children }
    }

    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let members = self.members.iter().filter(|pe| other.has_member(pe)).cloned().collect();
        let mut children = Vec::new();
        for (pe, child) in &self.children {
            let Some(theirs) = other.child(pe) else { continue };
            let common = child.intersection(theirs);
            if !common.is_empty() {
                children.push((pe.clone(), common));
            }
        }
        FieldSet { members, children }
    }

    /// The paths of `self` that are not exactly in `other`; what is below a removed path stays.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut left = self.clone();
        left.subtract(other);
        left
    }

    /// [`Self::difference`] in place. True if something was removed.
    pub fn subtract(&mut self, other: &FieldSet) -> bool {
        if other.is_empty() {
            return false;
        }
        let before = self.members.len();
        self.members.retain(|pe| !other.has_member(pe));
        let mut changed = self.members.len() != before;
        self.children.retain_mut(|(pe, child)| {
            if let Some(theirs) = other.child(pe) {
                changed |= child.subtract(theirs);
            }
            !child.is_empty()
        });
        changed
    }

    /// The paths of `self` that are neither in `other` nor below a path in it.
    pub fn recursive_difference(mut self, other: &FieldSet) -> FieldSet {
        self.members.retain(|pe| !other.has_member(pe));
        let mut children = Vec::with_capacity(self.children.len());
        for (pe, child) in self.children {
            if other.has_member(&pe) {
                continue;
            }
            let child = match other.child(&pe) {
                Some(theirs) => child.recursive_difference(theirs),
                None => child,
            };
            if !child.is_empty() {
                children.push((pe, child));
            }
        }
        FieldSet { members: self.members, children }
    }

    /// The paths that lie on, at, or below one of the patterns (`*` matches any element).
    pub fn include(self, patterns: &[&[&str]]) -> FieldSet {
        if patterns.iter().any(|pattern| pattern.is_empty()) {
            return self;
        }
        let matches =
            |pe: &PathElement, step: &str| step == "*" || matches!(pe, PathElement::Field(name) if name == step);
        let members =
            self.members.into_iter().filter(|pe| patterns.iter().any(|pattern| matches(pe, pattern[0]))).collect();
        let mut children = Vec::new();
        for (pe, child) in self.children {
            let below: Vec<&[&str]> =
                patterns.iter().filter(|pattern| matches(&pe, pattern[0])).map(|pattern| &pattern[1..]).collect();
            if below.is_empty() {
                continue;
            }
            let child = child.include(&below);
            if !child.is_empty() {
                children.push((pe, child));
            }
        }
        FieldSet { members, children }
    }

    /// True if every path of `self` is in `other`.
    pub fn is_subset(&self, other: &FieldSet) -> bool {
        self.members.iter().all(|pe| other.has_member(pe))
            && self.children.iter().all(|(pe, child)| other.child(pe).is_some_and(|theirs| child.is_subset(theirs)))
    }

    /// True if one of the paths is in a set in its FieldsV1 form.
    pub fn intersects_fields_v1(&self, fields: &Value) -> bool {
        let Value::Object(fields) = fields else { return false };
        let own = |below: &Value| below.as_object().is_none_or(|map| map.is_empty() || map.contains_key("."));
        self.members.iter().any(|pe| fields.get(&pe.encode()).is_some_and(own))
            || self
                .children
                .iter()
                .any(|(pe, child)| fields.get(&pe.encode()).is_some_and(|below| child.intersects_fields_v1(below)))
    }

    /// The set with every named field on the way to a path added: a set with `.spec.a` also gets `.spec`, but not the
    /// maps and lists between.
    pub fn with_named_fields(&self, node: Option<Node<'_>>) -> FieldSet {
        let mut members = self.members.clone();
        let mut children = Vec::with_capacity(self.children.len());
        for (pe, child) in &self.children {
            let below = node.and_then(|node| match pe {
                PathElement::Field(name) => super::typed::child_node(&node, name),
                _ => node.item(),
            });
            if let (PathElement::Field(name), Some(node)) = (pe, node) {
                if node.field(name).is_some() {
                    if let Err(at) = members.binary_search(pe) {
                        members.insert(at, pe.clone());
                    }
                }
            }
            children.push((pe.clone(), child.with_named_fields(below)));
        }
        FieldSet { members, children }
    }

    /// What is below an atomic field collapses into that field: the schema may have become atomic since the set was
    /// stored. True if something changed.
    pub fn collapse_atomic(&mut self, node: Node<'_>) -> bool {
        let mut changed = false;
        let mut collapsed = Vec::new();
        self.children.retain_mut(|(pe, child)| {
            let below = match pe {
                PathElement::Field(name) => super::typed::child_node(&node, name),
                _ => node.item(),
            };
            let Some(below) = below else { return true };
            if super::typed::is_atomic(&below) {
                collapsed.push(pe.clone());
                return false;
            }
            changed |= child.collapse_atomic(below);
            true
        });
        changed |= !collapsed.is_empty();
        for pe in collapsed {
            self.insert_member(pe);
        }
        changed
    }

    /// Calls `f` with each path: the short ones first, then below each child.
    pub fn for_each<'a>(&'a self, prefix: &mut Vec<&'a PathElement>, f: &mut impl FnMut(&[&'a PathElement])) {
        for member in &self.members {
            prefix.push(member);
            f(prefix);
            prefix.pop();
        }
        for (pe, child) in &self.children {
            prefix.push(pe);
            child.for_each(prefix, f);
            prefix.pop();
        }
    }

    /// All paths as upstream prints them.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.for_each(&mut Vec::new(), &mut |path| out.push(path.iter().map(ToString::to_string).collect()));
        out
    }

    pub fn to_fields_v1(&self) -> Value {
        self.encode(false)
    }

    pub fn from_fields_v1(value: &Value) -> Result<FieldSet, PathError> {
        Ok(Self::decode(value)?.0)
    }

    fn encode(&self, member: bool) -> Value {
        let mut map = Map::new();
        if member {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (pe, child) in &self.children {
            map.insert(pe.encode(), child.encode(self.has_member(pe)));
        }
        for pe in &self.members {
            map.entry(pe.encode()).or_insert_with(|| Value::Object(Map::new()));
        }
        Value::Object(map)
    }

    /// The set, and whether the path itself is in it.
    fn decode(value: &Value) -> Result<(FieldSet, bool), PathError> {
        let Value::Object(map) = value else {
            return match value {
                Value::Null => Ok((Self::new(), true)),
                other => Err(PathError::Invalid(other.to_string())),
            };
        };
        if map.is_empty() {
            return Ok((Self::new(), true));
        }
        let mut set = Self::new();
        let mut member = false;
        for (key, below) in map {
            if key == "." {
                member = true;
                continue;
            }
            let element = match PathElement::decode(key) {
                Ok(element) => element,
                Err(PathError::Unknown) => continue,
                Err(error) => return Err(error),
            };
            let (child, own) = Self::decode(below)?;
            if own {
                set.insert_member(element.clone());
            }
            set.insert_child(element, child);
        }
        Ok((set, member))
    }
}

fn merge<T>(a: Vec<T>, b: Vec<T>, order: impl Fn(&T, &T) -> Ordering, both: impl Fn(T, T) -> T) -> Vec<T> {
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => order(x, y),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return out,
        };
        match order {
            Ordering::Less => out.extend(a.next()),
            Ordering::Greater => out.extend(b.next()),
            Ordering::Equal => out.extend(a.next().zip(b.next()).map(|(x, y)| both(x, y))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_fields_v1(&value).unwrap()
    }

    #[test]
    fn fields_v1() {
        let value = json!({"f:data": {".": {}, "f:a": {}}, "f:m": {"k:{\"k\":\"a\"}": {".": {}, "f:v": {}}}});
        let set = set(value.clone());
        assert_eq!(set.to_fields_v1(), value);
        assert_eq!(set.paths(), [".data", ".data.a", ".m[k=\"a\"]", ".m[k=\"a\"].v"]);
        assert!(FieldSet::from_fields_v1(&json!({"bad": {}})).is_err());
    }

    #[test]
    fn operations() {
        let a = set(json!({"f:spec": {".": {}, "f:x": {}, "f:y": {}}}));
        let b = set(json!({"f:spec": {}, "f:z": {}}));
        assert_eq!(a.difference(&b), set(json!({"f:spec": {"f:x": {}, "f:y": {}}})));
        assert!(a.clone().recursive_difference(&b).is_empty());
        assert_eq!(a.intersection(&b), set(json!({"f:spec": {}})));
        assert_eq!(a.clone().union(b).paths(), [".spec", ".z", ".spec.x", ".spec.y"]);
        assert_eq!(a.clone().include(&[&["spec", "x"]]).paths(), [".spec", ".spec.x"]);
        assert_eq!(a.include(&[&["*", "y"]]).paths(), [".spec", ".spec.y"]);
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let element = prop_oneof![
            "[a-d]".prop_map(|name| PathElement::field(&name)),
            (0..3i64).prop_map(|n| PathElement::Value(json!(n))),
            ("[a-b]", 0..3i64).prop_map(|(name, n)| PathElement::Key([(name.into(), json!(n))].into())),
        ];
        prop::collection::vec(prop::collection::vec(element, 1..4), 0..12).prop_map(|paths| {
            let mut set = FieldSet::new();
            for path in paths {
                set.insert(&path);
            }
            set
        })
    }

    proptest! {
        #[test]
        fn laws(a in any_set(), b in any_set(), c in any_set()) {
            prop_assert_eq!(set(a.to_fields_v1()), a.clone());
            prop_assert_eq!(a.clone().union(b.clone()), b.clone().union(a.clone()));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.clone().union(b.clone()).union(c.clone()), a.clone().union(b.clone().union(c.clone())));
            prop_assert_eq!(a.difference(&b).union(a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert!(a.difference(&a).is_empty());
            prop_assert_eq!(a.intersects_fields_v1(&b.to_fields_v1()), !a.intersection(&b).is_empty());
            prop_assert!(a.is_subset(&a.clone().union(b.clone())));
            prop_assert!(a.clone().recursive_difference(&b).is_subset(&a.difference(&b)));
            prop_assert_eq!(a.clone().include(&[&[]]), a);
        }
    }
}
