//! Estimates of what an expression can cost, as cel-go's checker and Kubernetes' estimator count.
//!
//! Invariants:
//! - CEL-C1: sums and products stop at the largest number instead of wrapping.
//! - CEL-C2: estimates are API: a rule is accepted or refused by them, so they equal upstream's, oddities included
//!   (a declared integer has the size 0, an object too).

mod calls;
mod numbers;

pub use numbers::{CostEstimate, SizeEstimate};

use std::collections::HashMap;

use crate::ast::{Comprehension, Expr, Id, Kind, Notes};
use crate::limits::{LIST_CREATE_BASE_COST, MAP_CREATE_BASE_COST, STRUCT_CREATE_BASE_COST};
use crate::schema::{DeclType, Shape};
use crate::types::Type;
use crate::value::Const;

/// Who knows how large variables can be.
#[derive(Debug, Clone, Copy)]
pub enum Sizes<'a> {
    /// Nothing is known.
    Unknown,
    /// Every variable has this declaration (`self` and `oldSelf` of a validation rule).
    Declared(&'a DeclType),
}

impl<'a> Sizes<'a> {
    pub fn of(decl: &'a DeclType) -> Sizes<'a> {
        Sizes::Declared(decl)
    }

    /// The size of what a path leads to.
    fn lookup(&self, path: &[String]) -> Option<SizeEstimate> {
        let Sizes::Declared(root) = self else { return None };
        let (_, rest) = path.split_first()?;
        let mut decl: &DeclType = root;
        let mut key = false;
        for name in rest {
            if key {
                return None;
            }
            match name.as_str() {
                "@items" | "@values" => decl = decl.element()?,
                "@keys" => {
                    if !matches!(decl.shape, Shape::Map(_)) {
                        return None;
                    }
                    key = true;
                }
                field => decl = decl.field(field)?,
            }
        }
        let max = if key { 0 } else { u64::try_from(decl.max_elements).unwrap_or(0) };
        Some(SizeEstimate { min: 0, max })
    }
}

/// Estimates a checked expression.
pub(crate) fn estimate(root: &Expr, notes: &Notes, sizes: &Sizes<'_>) -> CostEstimate {
    let mut coster = Coster {
        notes,
        sizes,
        paths: HashMap::new(),
        computed: HashMap::new(),
        entries: HashMap::new(),
        locals: HashMap::new(),
    };
    coster.cost(root)
}

struct Coster<'c> {
    notes: &'c Notes,
    sizes: &'c Sizes<'c>,
    paths: HashMap<Id, Vec<String>>,
    computed: HashMap<Id, SizeEstimate>,
    entries: HashMap<Id, EntrySize>,
    locals: HashMap<String, Vec<Local>>,
}

#[derive(Clone)]
struct Local {
    path: Vec<String>,
    size: Option<SizeEstimate>,
    entry: Option<EntrySize>,
}

/// The sizes of the keys and values of a list or map.
#[derive(Clone, Copy)]
struct EntrySize {
    list: bool,
    key: SizeEstimate,
    value: SizeEstimate,
}

impl EntrySize {
    fn union(a: Option<EntrySize>, b: Option<EntrySize>) -> Option<EntrySize> {
        let (a, b) = (a?, b?);
        Some(EntrySize { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// A part of an expression as call estimates see it.
struct Part<'e> {
    expr: Option<&'e Expr>,
    ty: Type,
    path: Vec<String>,
    computed: Option<SizeEstimate>,
}

impl Coster<'_> {
    fn cost(&mut self, expr: &Expr) -> CostEstimate {
        match &expr.kind {
            Kind::Literal(_) | Kind::Error => CostEstimate::default(),
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
                self.paths.insert(expr.id, path);
                CostEstimate::fixed(1)
            }
            Kind::Select { operand, field, test_only } => {
                if let crate::ast::Reference::Name(name) = self.notes.reference(expr.id) {
                    self.paths.insert(expr.id, vec![name.clone()]);
                    return CostEstimate::fixed(1);
                }
                let mut sum = self.cost(operand);
                if *test_only {
                    return sum;
                }
                if matches!(self.notes.ty(operand.id), Type::Map(..) | Type::Object(_) | Type::Param(_)) {
                    sum = sum.plus(CostEstimate::fixed(1));
                }
                let mut path = self.path(operand);
                path.push(field.clone());
                self.paths.insert(expr.id, path);
                sum
            }
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List { elements, .. } => {
                let mut sum = CostEstimate::default();
                let mut item = SizeEstimate { min: if elements.is_empty() { 0 } else { u64::MAX }, max: 0 };
                for element in elements {
                    sum = sum.plus(self.cost(element));
                    item = item.union(self.size_or_unknown(element));
                }
                let entry = EntrySize { list: true, key: SizeEstimate::fixed(1), value: item };
                self.entries.insert(expr.id, entry);
                sum.plus(CostEstimate::fixed(LIST_CREATE_BASE_COST))
            }
            Kind::Map(entries) => {
                let mut sum = CostEstimate::default();
                let start = SizeEstimate { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let (mut keys, mut values) = (start, start);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    keys = keys.union(self.size_or_unknown(&entry.key));
                    values = values.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(expr.id, EntrySize { list: false, key: keys, value: values });
                sum.plus(CostEstimate::fixed(MAP_CREATE_BASE_COST))
            }
            Kind::Struct { fields, .. } => {
                let mut sum = CostEstimate::default();
                for field in fields {
                    sum = sum.plus(self.cost(&field.value));
                }
                sum.plus(CostEstimate::fixed(STRUCT_CREATE_BASE_COST))
            }
            Kind::Comprehension(fold) if fold.var == "#unused" => self.bind(expr, fold),
            Kind::Comprehension(fold) => self.comprehension(expr, fold),
        }
    }

    fn comprehension(&mut self, expr: &Expr, fold: &Comprehension) -> CostEstimate {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_bound(&fold.accu, &fold.init);
        let entry = self.entry_size(&fold.range);
        let list = entry.map_or_else(|| matches!(self.notes.ty(fold.range.id), Type::List(_)), |entry| entry.list);
        let base = self.path(&fold.range);
        let mut push = |name: &String, part: &str, size: Option<SizeEstimate>| {
            let mut path = base.clone();
            path.push(part.to_owned());
            self.locals.entry(name.clone()).or_default().push(Local { path, size, entry: None });
        };
        let (key, value) = (entry.map(|entry| entry.key), entry.map(|entry| entry.value));
        match &fold.var2 {
            Some(var2) => {
                push(&fold.var, if list { "@indices" } else { "@keys" }, key);
                push(var2, if list { "@items" } else { "@values" }, value);
            }
            None if list => push(&fold.var, "@items", value),
            None => push(&fold.var, "@keys", key),
        }
        let each = self.cost(&fold.condition);
        let each = self.cost(&fold.step).plus(each);
        self.pop(&fold.var);
        if let Some(var2) = &fold.var2 {
            self.pop(var2);
        }
        sum = sum.plus(self.cost(&fold.result));
        self.pop(&fold.accu);
        let count = self.size_or_unknown(&fold.range);
        sum = sum.plus(count.times_cost(each));
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&fold.init) {
                    self.computed.insert(expr.id, size);
                }
            }
            Kind::List { .. } | Kind::Map(_) => {
                self.computed.insert(expr.id, count);
                if let Some(entry) = self.entry_size(&fold.step) {
                    self.entries.insert(expr.id, entry);
                }
            }
            _ => {}
        }
        sum
    }

    fn bind(&mut self, expr: &Expr, fold: &Comprehension) -> CostEstimate {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_bound(&fold.accu, &fold.init);
        let sum = sum.plus(self.cost(&fold.result));
        self.pop(&fold.accu);
        self.copy_sizes(expr, &fold.result);
        sum
    }

    fn push_bound(&mut self, name: &str, init: &Expr) {
        let local = Local { path: self.path(init), size: self.size(init), entry: self.entry_size(init) };
        self.locals.entry(name.to_owned()).or_default().push(local);
    }

    fn pop(&mut self, name: &str) {
        if let Some(stack) = self.locals.get_mut(name) {
            stack.pop();
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.get(name).and_then(|stack| stack.last())
    }

    fn path(&self, expr: &Expr) -> Vec<String> {
        if let Some(local) = expr.ident().and_then(|name| self.local(name)) {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn part<'e>(&mut self, expr: &'e Expr) -> Part<'e> {
        let mut path = self.path(expr);
        if path.first().is_some_and(|first| first == crate::ast::ACCUMULATOR) {
            path.clear();
        }
        Part { expr: Some(expr), ty: self.notes.ty(expr.id).clone(), path, computed: self.size(expr) }
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(size) = self.size(from) {
            self.computed.insert(to.id, size);
        }
        if let Some(entry) = self.entry_size(from) {
            self.entries.insert(to.id, entry);
        }
    }

    fn entry_size(&self, expr: &Expr) -> Option<EntrySize> {
        self.entries
            .get(&expr.id)
            .copied()
            .or_else(|| expr.ident().and_then(|name| self.local(name)).and_then(|local| local.entry))
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> SizeEstimate {
        self.size(expr).unwrap_or(SizeEstimate::UNKNOWN)
    }

    /// What is known of an expression's size.
    fn size(&mut self, expr: &Expr) -> Option<SizeEstimate> {
        if let Some(size) = self.computed.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(expr) {
            return Some(SizeEstimate::fixed(size));
        }
        if let Some(size) = self.sizes.lookup(&self.path(expr)) {
            self.computed.insert(expr.id, size);
            return Some(size);
        }
        if scalar(self.notes.ty(expr.id)) {
            return Some(SizeEstimate::fixed(1));
        }
        expr.ident().and_then(|name| self.local(name)).and_then(|local| local.size)
    }
}

fn literal_size(expr: &Expr) -> Option<u64> {
    Some(match &expr.kind {
        Kind::Literal(Const::String(text)) => text.chars().count() as u64,
        Kind::Literal(Const::Bytes(bytes)) => bytes.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List { elements, .. } => elements.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    })
}

/// Types whose values are all of one size.
fn scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => scalar(inner),
        _ => false,
    }
}
