//! Values seen through their schema: which paths a value has, how two values differ, merging one into another,
//! removing paths.
//!
//! Invariants:
//! - MF-3: in custom resources `Type::Any` is deduced from the value: maps are granular, lists atomic, the rest
//!   scalars; in built-in kinds it is atomic.
//! - MF-4: null is an empty map or list where the schema wants one, and a value of its own elsewhere.
//! - MF-5: `metadata.managedFields` of the root is not compared.

use super::path::{PathElement, compare_values};
use super::set::FieldSet;
use crate::schema::{self, ListOf, ListType, MapType, Node, NodeType, Schema, Str, Type};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;

static ANY: Type = Type::Any;

/// How a node treats a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar,
    Map {
        atomic: bool,
    },
    /// Atomic lists; also lists below [`Type::Any`].
    AtomicList,
    Set,
    Keyed,
}

/// How the node sees this value; `None` where the value is null and the schema has no opinion.
pub(super) fn kind(node: &Node<'_>, value: Option<&Value>) -> Option<Kind> {
    match node.ty {
        NodeType::Object(_) => {
            let object = node.object();
            if object.is_some_and(|object| object.or_any) && value.is_some_and(|v| !v.is_object() && !v.is_null()) {
                return Some(if value.is_some_and(Value::is_array) { Kind::AtomicList } else { Kind::Scalar });
            }
            Some(Kind::Map { atomic: object.is_some_and(|object| object.map_type == MapType::Atomic) })
        }
        NodeType::Type(Type::Map(map)) => Some(Kind::Map { atomic: map.map_type == MapType::Atomic }),
        NodeType::Type(Type::List(list)) => Some(match list.list_type {
            ListType::Atomic => Kind::AtomicList,
            ListType::Set => Kind::Set,
            ListType::Map => Kind::Keyed,
        }),
        // Raw JSON inside built-in kinds is opaque to the schema.
        NodeType::Type(Type::Any | Type::FieldsV1) if std::ptr::eq(node.table, &**schema::builtin()) => {
            Some(match value {
                Some(Value::Object(_)) => Kind::Map { atomic: true },
                Some(Value::Array(_)) => Kind::AtomicList,
                _ => Kind::Scalar,
            })
        }
        NodeType::Type(Type::Any | Type::FieldsV1) => match value {
            None | Some(Value::Null) => None,
            Some(Value::Object(_)) => Some(Kind::Map { atomic: false }),
            Some(Value::Array(_)) => Some(Kind::AtomicList),
            Some(_) => Some(Kind::Scalar),
        },
        NodeType::Type(_) => Some(Kind::Scalar),
    }
}

/// True if ownership below this node is not tracked.
pub(super) fn is_atomic(node: &Node<'_>) -> bool {
    matches!(kind(node, None), Some(Kind::Map { atomic: true } | Kind::AtomicList))
}

/// The node below a key of a map; `None` if the schema does not know the key.
pub(super) fn child_node<'a>(node: &Node<'a>, key: &str) -> Option<Node<'a>> {
    if let Some(child) = node.child(key) {
        return Some(child);
    }
    let open = match node.ty {
        NodeType::Type(Type::Any | Type::FieldsV1) => true,
        _ => node.object().is_some_and(|object| object.preserve_unknown),
    };
    open.then_some(Node { table: node.table, ty: NodeType::Type(&ANY) })
}

/// The path element of a key, and whether the schema names it.
fn key_element(node: &Node<'_>, key: &str) -> (PathElement, bool) {
    match node.field(key) {
        Some(field) => (PathElement::Field(field.name.clone()), true),
        None => (PathElement::field(key), false),
    }
}

/// Below unknown keys values are taken as deduced; [`super::validate`] reports them where that matters.
fn child_or_any<'a>(node: &Node<'a>, key: &str) -> Node<'a> {
    child_node(node, key).unwrap_or(Node { table: node.table, ty: NodeType::Type(&ANY) })
}

fn item_or_any<'a>(node: &Node<'a>) -> Node<'a> {
    node.item().unwrap_or(Node { table: node.table, ty: NodeType::Type(&ANY) })
}

/// The path element of a list's item; the error is upstream's.
pub(super) fn item_element(node: &Node<'_>, item: &Value) -> Result<PathElement, String> {
    match node.list() {
        Some(list) if list.list_type == ListType::Map => keyed_element(node, list, item),
        _ => match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(PathElement::Value(scalar.clone())),
        },
    }
}

fn keyed_element(node: &Node<'_>, list: &ListOf, item: &Value) -> Result<PathElement, String> {
    let map = match item {
        Value::Object(map) => map,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let item_node = item_or_any(node);
    let mut fields: Vec<(Str, Value)> = Vec::with_capacity(list.keys.len());
    for key in list.keys.iter() {
        let value = match map.get(key.as_ref()) {
            Some(value) => Some(value.clone()),
            None => item_node
                .field(key)
                .and_then(|field| field.default.as_deref())
                .and_then(|text| serde_json::from_str(text).ok()),
        };
        match value {
            Some(value) => fields.push((key.clone(), value)),
            None if list.keys.len() == 1 => {
                return Err(format!(
                    "associative list with keys has an element that omits key field {} (and doesn't have default value)",
                    crate::goformat::quote(key)
                ));
            }
            None => {}
        }
    }
    if fields.is_empty() {
        let keys: Vec<String> = list.keys.iter().map(|key| crate::goformat::quote(key)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            keys.join(" ")
        ));
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(PathElement::Key(fields.into()))
}

pub(super) fn equal(a: &Value, b: &Value) -> bool {
    compare_values(a, b) == Ordering::Equal
}

/// The paths a value claims: leaves, list items, and empty or unnamed fields, but not the named fields on the way.
pub(super) fn field_set(schema: &Schema, value: &Value) -> Result<FieldSet, String> {
    let mut set = FieldSet::new();
    collect(&schema.root(), value, false, &mut set)?;
    Ok(set)
}

/// Adds the paths below to `set`: with `all`, the named fields on the way too. True if the path of the value itself
/// is a leaf.
fn collect(node: &Node<'_>, value: &Value, all: bool, set: &mut FieldSet) -> Result<bool, String> {
    match kind(node, Some(value)) {
        Some(Kind::Scalar | Kind::AtomicList | Kind::Map { atomic: true }) => Ok(true),
        None => Ok(false),
        Some(Kind::Map { atomic: false }) => {
            let Value::Object(map) = value else { return Ok(false) };
            for (key, item) in map {
                let mut below = FieldSet::new();
                let own = collect(&child_or_any(node, key), item, all, &mut below)?;
                let empty = item.is_null() || item.as_object().is_some_and(Map::is_empty);
                let (element, named) = key_element(node, key);
                if all || own || empty || !named {
                    if below.is_empty() {
                        set.insert_member(element);
                        continue;
                    }
                    set.insert_member(element.clone());
                }
                set.insert_child(element, below);
            }
            Ok(false)
        }
        Some(Kind::Set | Kind::Keyed) => {
            let Value::Array(items) = value else { return Ok(false) };
            let item_node = item_or_any(node);
            for group in keyed(node, items)?.chunk_by(|a, b| a.0 == b.0) {
                let element = &group[0].0;
                let mut below = FieldSet::new();
                if let [(_, item)] = group {
                    collect(&item_node, item, all, &mut below)?;
                }
                set.insert_member(element.clone());
                if !below.is_empty() {
                    set.insert_child(element.clone(), below);
                }
            }
            Ok(false)
        }
    }
}

/// The items of a list in the order of their path elements.
fn keyed<'v>(node: &Node<'_>, items: &'v [Value]) -> Result<Vec<(PathElement, &'v Value)>, String> {
    let mut out = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let element = item_element(node, item).map_err(|error| format!("element {i}: {error}"))?;
        out.push((element, item));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// How two values differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Diff {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Diff {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// What the writer took: added or modified.
    pub fn taken(&self) -> FieldSet {
        self.added.clone().union(self.modified.clone())
    }

    pub fn filter(self, keep: impl Fn(FieldSet) -> FieldSet) -> Self {
        Self { added: keep(self.added), modified: keep(self.modified), removed: keep(self.removed) }
    }

    fn place(&mut self, element: PathElement, own: Change, below: Diff) {
        match own {
            Change::None => {}
            Change::Added if below.is_same() => return self.added.insert_member(element),
            Change::Added => self.added.insert_member(element.clone()),
            Change::Modified => self.modified.insert_member(element.clone()),
            Change::Removed => self.removed.insert_member(element.clone()),
        }
        // Most changes are of one sort.
        for (mine, theirs) in [(&mut self.modified, below.modified), (&mut self.removed, below.removed)] {
            if !theirs.is_empty() {
                mine.insert_child(element.clone(), theirs);
            }
        }
        self.added.insert_child(element, below.added);
    }
}

/// What happened to a path itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Added,
    Modified,
    Removed,
}

/// How `new` differs from `old`. An error means a list cannot be keyed.
pub(super) fn compare(schema: &Schema, old: &Value, new: &Value) -> Result<Diff, String> {
    let mut diff = Diff::default();
    compare_node(&schema.root(), 0, Some(old), Some(new), &mut diff)?;
    Ok(diff)
}

/// `depth` is 0 at the root, 1 at `metadata`, 2 elsewhere.
fn compare_node(
    node: &Node<'_>,
    depth: u8,
    old: Option<&Value>,
    new: Option<&Value>,
    diff: &mut Diff,
) -> Result<Change, String> {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => {
            collect(node, new, true, &mut diff.added)?;
            return Ok(Change::Added);
        }
        (Some(old), None) => {
            collect(node, old, true, &mut diff.removed)?;
            return Ok(Change::Removed);
        }
        (None, None) => return Ok(Change::None),
    };
    match (kind(node, Some(old)), kind(node, Some(new))) {
        (Some(a), Some(b)) if a != b => {
            let first = compare_as(a, node, depth, old, new, diff)?;
            let second = compare_as(b, node, depth, old, new, diff)?;
            Ok(if second == Change::None { first } else { second })
        }
        (Some(kind), _) | (None, Some(kind)) => compare_as(kind, node, depth, old, new, diff),
        // Both null below a deduced type.
        (None, None) => Ok(Change::None),
    }
}

fn compare_as(
    kind: Kind,
    node: &Node<'_>,
    depth: u8,
    old: &Value,
    new: &Value,
    diff: &mut Diff,
) -> Result<Change, String> {
    match kind {
        Kind::Scalar | Kind::AtomicList | Kind::Map { atomic: true } => return Ok(leaf(old, new)),
        Kind::Map { atomic: false } => {
            let (a, b) = (old.as_object(), new.as_object());
            if a.is_none_or(Map::is_empty) && b.is_none_or(Map::is_empty) {
                return Ok(leaf(old, new));
            }
            compare_maps(node, depth, a, b, diff)?;
        }
        Kind::Set | Kind::Keyed => {
            let (a, b) = (old.as_array(), new.as_array());
            if a.is_none_or(Vec::is_empty) && b.is_none_or(Vec::is_empty) {
                return Ok(leaf(old, new));
            }
            // Equal lists need no keys, and most lists are equal.
            if a != b {
                let old = keyed(node, a.map(Vec::as_slice).unwrap_or_default())?;
                let new = keyed(node, b.map(Vec::as_slice).unwrap_or_default())?;
                compare_lists(&item_or_any(node), &old, &new, diff)?;
            }
        }
    }
    Ok(Change::None)
}

fn leaf(old: &Value, new: &Value) -> Change {
    if old == new || equal(old, new) { Change::None } else { Change::Modified }
}

fn compare_maps(
    node: &Node<'_>,
    depth: u8,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    diff: &mut Diff,
) -> Result<(), String> {
    let mut visit = |key: &str, a: Option<&Value>, b: Option<&Value>| -> Result<(), String> {
        // Whole parts of an object are often untouched, such as the spec in a status update.
        if (depth == 1 && key == "managedFields") || (depth == 0 && a == b) {
            return Ok(());
        }
        let below_depth = if depth == 0 && key == "metadata" { 1 } else { 2 };
        let mut below = Diff::default();
        let own = compare_node(&child_or_any(node, key), below_depth, a, b, &mut below)?;
        if own != Change::None || !below.is_same() {
            diff.place(key_element(node, key).0, own, below);
        }
        Ok(())
    };
    for (key, a) in old.into_iter().flatten() {
        visit(key, Some(a), new.and_then(|new| new.get(key)))?;
    }
    for (key, b) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(key)) {
            visit(key, None, Some(b))?;
        }
    }
    Ok(())
}

/// Compares two sorted lists of items.
fn compare_lists(
    item: &Node<'_>,
    mut old: &[(PathElement, &Value)],
    mut new: &[(PathElement, &Value)],
    diff: &mut Diff,
) -> Result<(), String> {
    while let Some((element, _)) = old.first().into_iter().chain(new.first()).min_by(|a, b| a.0.cmp(&b.0)) {
        let same = |list: &[(PathElement, &Value)]| list.iter().take_while(|(other, _)| other == element).count();
        let (a, rest_old) = old.split_at(same(old));
        let (b, rest_new) = new.split_at(same(new));
        let mut below = Diff::default();
        let own = match (a, b) {
            ([] | [_], [] | [_]) => compare_node(item, 2, a.first().map(|x| x.1), b.first().map(|x| x.1), &mut below)?,
            // Repeated items are compared as if they were atomic.
            ([_, _, ..], [_, _, ..]) => {
                let equal = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a.1, b.1));
                if equal { Change::None } else { Change::Modified }
            }
            (_, [only]) => {
                collect(item, only.1, true, &mut below.added)?;
                diff.added.insert_member(element.clone());
                Change::Removed
            }
            ([only], _) => {
                collect(item, only.1, true, &mut below.removed)?;
                diff.removed.insert_member(element.clone());
                Change::Added
            }
            (_, []) => Change::Removed,
            ([], _) => Change::Added,
        };
        if own != Change::None || !below.is_same() {
            diff.place(element.clone(), own, below);
        }
        (old, new) = (rest_old, rest_new);
    }
    Ok(())
}

/// Merges `config` into `live`: what the configuration says wins, the rest stays.
pub(super) fn merge(schema: &Schema, live: &mut Value, config: &Value) -> Result<(), String> {
    merge_node(&schema.root(), live, config)
}

fn merge_node(node: &Node<'_>, live: &mut Value, config: &Value) -> Result<(), String> {
    match kind(node, Some(config)) {
        Some(Kind::Map { atomic: false }) => {
            let config_map = config.as_object().filter(|map| !map.is_empty());
            match (live.as_object_mut().filter(|map| !map.is_empty()), config_map) {
                (Some(live), Some(config)) => {
                    for (key, value) in config {
                        match live.get_mut(key) {
                            Some(old) => merge_node(&child_or_any(node, key), old, value)?,
                            None => {
                                live.insert(key.clone(), value.clone());
                            }
                        }
                    }
                }
                (Some(_), None) => {}
                (None, _) => *live = config.clone(),
            }
        }
        Some(Kind::Set | Kind::Keyed) => {
            let config_items = config.as_array().filter(|items| !items.is_empty());
            match (live.as_array_mut().filter(|items| !items.is_empty()), config_items) {
                (Some(live), Some(config)) => {
                    let merged = merge_lists(node, std::mem::take(live), config)?;
                    *live = merged;
                }
                (Some(_), None) => {}
                (None, _) => *live = config.clone(),
            }
        }
        _ => *live = config.clone(),
    }
    Ok(())
}

/// Interleaves two lists: shared items in the order of the configuration, the live ones around them where they were.
fn merge_lists(node: &Node<'_>, live: Vec<Value>, config: &[Value]) -> Result<Vec<Value>, String> {
    let elements = |items: &[Value]| -> Result<Vec<PathElement>, String> {
        let one = |(i, item)| item_element(node, item).map_err(|error| format!("element {i}: {error}"));
        items.iter().enumerate().map(one).collect()
    };
    let (left, right) = (elements(&live)?, elements(config)?);
    // Where an element is in the live list; `None` if it is there more than once.
    let mut in_live: BTreeMap<&PathElement, Option<usize>> = BTreeMap::new();
    for (i, element) in left.iter().enumerate() {
        in_live.entry(element).and_modify(|at| *at = None).or_insert(Some(i));
    }
    let in_config: BTreeMap<&PathElement, usize> = right.iter().enumerate().map(|(i, e)| (e, i)).collect();
    let mut shared = right.iter().filter(|element| in_live.contains_key(element));
    let mut next_shared = shared.next();
    let mut merged: std::collections::BTreeSet<&PathElement> = std::collections::BTreeSet::new();
    let item = item_or_any(node);
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let combine = |live: &mut Vec<Option<Value>>, element: &PathElement, out: &mut Vec<Value>| {
        let value = &config[in_config[element]];
        let old = in_live.get(element).copied().flatten().and_then(|at| live[at].take());
        out.push(match old {
            Some(mut old) => {
                merge_node(&item, &mut old, value)?;
                old
            }
            None => value.clone(),
        });
        Ok::<(), String>(())
    };
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l] == right[r] {
                merged.insert(&left[l]);
                combine(&mut live, &left[l], &mut out)?;
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if in_config.contains_key(&left[l]) && next_shared.is_some_and(|next| *next != left[l]) {
                // Shared, but its turn comes later.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            if !in_config.contains_key(&left[l]) {
                out.extend(live[l].take());
                l += 1;
                continue;
            } else if merged.contains(&left[l]) {
                l += 1;
            }
        }
        if r < right.len() {
            merged.insert(&right[r]);
            combine(&mut live, &right[r], &mut out)?;
            if next_shared == Some(&right[r]) {
                next_shared = shared.next();
            }
            r += 1;
        }
    }
    Ok(out)
}

/// Removes paths from a value. A map or list that loses its last item becomes null.
pub(super) fn remove(schema: &Schema, value: &mut Value, paths: &FieldSet) {
    if !paths.is_empty() {
        remove_node(&schema.root(), value, paths);
    }
}

fn remove_node(node: &Node<'_>, value: &mut Value, paths: &FieldSet) {
    match kind(node, Some(value)) {
        None | Some(Kind::Scalar) => {}
        Some(Kind::AtomicList | Kind::Map { atomic: true }) => *value = Value::Null,
        Some(Kind::Map { atomic: false }) => {
            let Some(map) = value.as_object_mut().filter(|map| !map.is_empty()) else {
                *value = Value::Null;
                return;
            };
            map.retain(|key, item| {
                let element = PathElement::field(key);
                if paths.has_member(&element) {
                    return false;
                }
                if let Some(below) = paths.child(&element) {
                    remove_node(&child_or_any(node, key), item, below);
                }
                true
            });
            if map.is_empty() {
                *value = Value::Null;
            }
        }
        Some(Kind::Set | Kind::Keyed) => {
            let Some(items) = value.as_array_mut().filter(|items| !items.is_empty()) else {
                *value = Value::Null;
                return;
            };
            let item_node = item_or_any(node);
            items.retain_mut(|item| {
                let Ok(element) = item_element(node, item) else { return true };
                if paths.has_member(&element) {
                    return false;
                }
                if let Some(below) = paths.child(&element) {
                    remove_node(&item_node, item, below);
                }
                true
            });
            if items.is_empty() {
                *value = Value::Null;
            }
        }
    }
}

/// What Go has in an object nothing was decoded into: structs that are not behind pointers exist and hold theirs,
/// lists and maps that are always written are null. Custom resources have no such object: theirs is empty.
pub(super) fn zero(schema: &Schema) -> Value {
    zero_of(&schema.root())
}

fn zero_of(node: &Node<'_>) -> Value {
    let fields = node.object().map(|object| object.fields.as_ref()).unwrap_or_default();
    let mut map = Map::new();
    for field in fields.iter().filter(|field| field.always) {
        let value = match &field.ty {
            _ if field.pointer => Value::Null,
            Type::Object(_) => zero_of(&Node::of(node.table, &field.ty)),
            Type::String | Type::Duration => "".into(),
            Type::Int32 | Type::Int64 | Type::Float => 0.into(),
            Type::Bool => false.into(),
            _ => Value::Null,
        };
        map.insert(field.name.to_string(), value);
    }
    Value::Object(map)
}
