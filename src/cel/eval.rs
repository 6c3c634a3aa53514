//! The evaluator: walks the plan, counts what it costs, stops at the limit.
//!
//! Invariants:
//! - CEL-V3: every step of a loop costs, so that the limit bounds every run.
//! - CEL-V4: `||` and `&&` absorb errors as CEL says; the cost limit is absorbed by nothing.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::OnceLock;

use regex::Regex;

use crate::actual;
use crate::error::EvalError;
use crate::formats::Format;
use crate::functions::{self, Func};
use crate::limits::{LIST_CREATE_BASE_COST, MAP_CREATE_BASE_COST, STRUCT_CREATE_BASE_COST};
use crate::program::{Bindings, Outcome};
use crate::types::Type;
use crate::value::{Const, Entries, Key, List, Map, Result, Struct, Value};

#[derive(Debug)]
pub(crate) enum Node {
    Const(Const),
    Local(usize),
    Global(String),
    /// A type's name, unless a variable has it.
    TypeName {
        name: String,
        ty: Type,
    },
    Format(&'static Format),
    Has {
        operand: Box<Node>,
        field: String,
    },
    Select {
        operand: Box<Node>,
        field: String,
        optional: bool,
        relative: bool,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
        relative: bool,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<Node>, Box<Node>, Box<Node>),
    /// Equal, or (false) not equal.
    Equal(Box<Node>, Box<Node>, bool),
    /// In a list of constants.
    Member(Box<Node>, Box<Members>),
    Call {
        func: Func,
        name: String,
        overload: Option<&'static str>,
        args: Vec<Node>,
    },
    Matches {
        function: MatchKind,
        pattern: Box<Pattern>,
        overload: Option<&'static str>,
        args: Vec<Node>,
    },
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct {
        ty: Type,
        fields: Vec<(String, Node, bool)>,
    },
    Fold(Box<Fold>),
    Bind {
        slot: usize,
        init: Box<Node>,
        result: Box<Node>,
    },
}

/// A list of constants, with a hash of those that have one.
#[derive(Debug)]
pub(crate) struct Members {
    list: Const,
    keys: HashSet<Key>,
}

impl Members {
    pub fn new(list: Const) -> Members {
        let keys = match &list {
            Const::List(elements) => elements.iter().filter_map(|e| Key::of(&Value::of_const(e))).collect(),
            _ => HashSet::new(),
        };
        Members { list, keys }
    }

    fn has<'a>(&'a self, element: &Value<'a>) -> Result<Value<'a>> {
        match Key::of(element) {
            Some(key) => Ok(Value::Bool(self.keys.contains(&key))),
            None => functions::in_collection(element, &Value::of_const(&self.list)),
        }
    }
}

/// A constant expression, compiled when it is first used.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub text: String,
    pub compiled: OnceLock<std::result::Result<Regex, String>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum MatchKind {
    Matches,
    Find,
    FindAll,
}

impl MatchKind {
    pub fn of(name: &str) -> MatchKind {
        match name {
            "matches" => MatchKind::Matches,
            "find" => MatchKind::Find,
            _ => MatchKind::FindAll,
        }
    }

    fn name(self) -> &'static str {
        match self {
            MatchKind::Matches => "matches",
            MatchKind::Find => "find",
            MatchKind::FindAll => "findAll",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Fold {
    pub range: Node,
    pub init: Node,
    /// Two variables: index or key, and value.
    pub two: bool,
    pub condition: Node,
    pub step: Step,
    pub result: Node,
    /// The slot of the accumulator; the variables follow it.
    pub accu: usize,
}

/// What a comprehension does with each element.
#[derive(Debug)]
pub(crate) enum Step {
    Any(Node),
    /// Only where the condition holds.
    If(Node, Box<Step>),
    Append(Node),
    Insert(Vec<Node>),
}

pub(crate) fn evaluate<'a>(plan: &'a Node, variables: &(dyn Bindings<'a> + '_), limit: u64) -> Outcome<'a> {
    let mut run = Run { variables, locals: Vec::new(), cost: 0, limit };
    let (result, lasted) = crate::fuel::with(|| run.eval(plan));
    let result = if lasted { result } else { Err(EvalError::CostLimit) };
    Outcome { result, cost: run.cost }
}

struct Run<'r, 'a> {
    variables: &'r (dyn Bindings<'a> + 'r),
    locals: Vec<Result<Value<'a>>>,
    cost: u64,
    limit: u64,
}

impl<'a> Run<'_, 'a> {
    fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit || crate::fuel::spent() { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, node: &'a Node) -> Result<Value<'a>> {
        match node {
            Node::Const(constant) => Ok(Value::of_const(constant)),
            Node::Local(slot) => {
                self.charge(1)?;
                self.locals[*slot].clone()
            }
            Node::Global(name) => {
                self.charge(1)?;
                self.global(name)
            }
            // A type is a constant, unless a variable has its name.
            Node::TypeName { name, ty } => match self.variables.resolve(name) {
                Some(value) => {
                    self.charge(1)?;
                    value
                }
                None => Ok(Value::Type(ty.clone())),
            },
            Node::Format(format) => {
                self.charge(1)?;
                Ok(Value::Ext(crate::ext::Ext::Format(format)))
            }
            Node::Has { operand, field } => {
                let operand = self.eval(operand)?;
                Ok(Value::Bool(has(&operand, field)?))
            }
            Node::Select { operand, field, optional, relative } => {
                let operand = self.eval(operand)?;
                self.charge(1 + u64::from(*relative))?;
                if !*optional && !matches!(operand, Value::Optional(_)) {
                    return select(&operand, field);
                }
                if_present(operand, |inner| lookup_field(inner, field))
            }
            Node::Index { operand, index, optional, relative } => {
                let operand = self.eval(operand)?;
                let index = self.eval(index)?;
                self.charge(1 + u64::from(*relative))?;
                if !*optional && !matches!(operand, Value::Optional(_)) {
                    return at_index(&operand, &index);
                }
                if_present(operand, |inner| lookup_index(inner, &index))
            }
            Node::And(left, right) => self.logical(left, right, false),
            Node::Or(left, right) => self.logical(left, right, true),
            Node::Conditional(condition, then, otherwise) => match self.eval(condition)? {
                Value::Bool(true) => self.eval(then),
                Value::Bool(false) => self.eval(otherwise),
                _ => Err(EvalError::no_such_overload()),
            },
            Node::Equal(left, right, equal) => {
                let left = self.eval(left)?;
                let right = self.eval(right)?;
                self.charge(actual::equality(&left, &right, *equal))?;
                Ok(Value::Bool(left.equals(&right) == *equal))
            }
            Node::Member(element, list) => {
                let element = self.eval(element)?;
                list.has(&element)
            }
            Node::Call { func, name, overload, args } => {
                let args = self.args(args)?;
                let result = func(&args);
                self.charge(actual::call(name, *overload, &args, result.as_ref().ok()))?;
                result
            }
            Node::Matches { function, pattern, overload, args } => {
                let args = self.args(args)?;
                self.charge(actual::call(function.name(), *overload, &args, None))?;
                matches(*function, pattern, &args)
            }
            Node::List(elements) => {
                let mut out = Vec::with_capacity(elements.len());
                for (element, optional) in elements {
                    match (self.eval(element)?, optional) {
                        (Value::Optional(None), true) => {}
                        (Value::Optional(Some(inner)), true) => out.push((*inner).clone()),
                        (_, true) => return Err(EvalError::no_such_overload()),
                        (value, false) => out.push(value),
                    }
                }
                self.charge(LIST_CREATE_BASE_COST)?;
                Ok(Value::list(out))
            }
            Node::Map(entries) => self.map(entries),
            Node::Struct { ty, fields } => self.object(ty, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { slot, init, result } => {
                let value = self.eval(init);
                if matches!(value, Err(EvalError::CostLimit)) {
                    return value;
                }
                self.locals.truncate(*slot);
                self.locals.push(value);
                let result = self.eval(result);
                self.locals.truncate(*slot);
                result
            }
        }
    }

    fn global(&self, name: &str) -> Result<Value<'a>> {
        self.variables.resolve(name).unwrap_or_else(|| Err(EvalError::new(format!("no such attribute(s): {name}"))))
    }

    fn args(&mut self, args: &'a [Node]) -> Result<Vec<Value<'a>>> {
        args.iter().map(|arg| self.eval(arg)).collect()
    }

    /// `&&` (stop: false) and `||` (stop: true): the stopping value wins over errors on either side.
    fn logical(&mut self, left: &'a Node, right: &'a Node, stop: bool) -> Result<Value<'a>> {
        let left = match self.eval(left) {
            Ok(Value::Bool(value)) if value == stop => return Ok(Value::Bool(stop)),
            Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
            left => left,
        };
        match (left, self.eval(right)) {
            (_, Err(EvalError::CostLimit)) => Err(EvalError::CostLimit),
            (_, Ok(Value::Bool(value))) if value == stop => Ok(Value::Bool(stop)),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!stop)),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Result<Value<'a>> {
        let mut out = Entries::default();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (_, true) => return Err(EvalError::no_such_overload()),
                (value, false) => value,
            };
            let shown = functions::show_key(&key);
            if !out.insert(key, value)? {
                return Err(EvalError::new(format!("Failed with repeated key: {shown}")));
            }
        }
        self.charge(MAP_CREATE_BASE_COST)?;
        Ok(Value::map(out))
    }

    fn object(&mut self, ty: &'a Type, fields: &'a [(String, Node, bool)]) -> Result<Value<'a>> {
        let open = matches!(ty, Type::Object(object) if object.open);
        let mut out = Vec::with_capacity(fields.len());
        for (name, value, optional) in fields {
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (_, true) => return Err(EvalError::no_such_overload()),
                (value, false) => value,
            };
            if open {
                check_nested(ty.name(), name, &value)?;
            }
            out.push((name.clone(), value));
        }
        self.charge(STRUCT_CREATE_BASE_COST)?;
        Ok(Value::Map(Map::Struct(Rc::new(Struct { ty: ty.clone(), fields: out }))))
    }

    fn fold(&mut self, fold: &'a Fold) -> Result<Value<'a>> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        self.locals.truncate(fold.accu);
        self.locals.push(Ok(init));
        let looped = self.iterate(fold, &range);
        self.locals.truncate(fold.accu + 1);
        let result = looped.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(fold.accu);
        result
    }

    fn iterate(&mut self, fold: &'a Fold, range: &Value<'a>) -> Result<()> {
        match range {
            Value::List(list) => {
                for at in 0..list.len() {
                    let Some(element) = list.get(at) else { break };
                    let proceed = if fold.two {
                        self.turn(fold, Ok(Value::Int(at as i64)), Some(element))?
                    } else {
                        self.turn(fold, element, None)?
                    };
                    if !proceed {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value = fold.two.then(|| map.get(&key)).flatten();
                    if !self.turn(fold, Ok(key), value)? {
                        break;
                    }
                }
                Ok(())
            }
            other => Err(EvalError::new(format!("got '{}', expected iterable type", other.type_name()))),
        }
    }

    /// One element; false where the loop's condition ends it.
    fn turn(&mut self, fold: &'a Fold, first: Result<Value<'a>>, second: Option<Result<Value<'a>>>) -> Result<bool> {
        self.locals.truncate(fold.accu + 1);
        self.locals.push(first);
        if let Some(second) = second {
            self.locals.push(second);
        }
        match self.eval(&fold.condition) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
            _ => {}
        }
        self.step(&fold.step, fold.accu)?;
        Ok(true)
    }

    fn step(&mut self, step: &'a Step, accu: usize) -> Result<()> {
        match step {
            Step::Any(node) => {
                let value = self.eval(node);
                if matches!(value, Err(EvalError::CostLimit)) {
                    return Err(EvalError::CostLimit);
                }
                self.locals[accu] = value;
            }
            Step::If(condition, inner) => match self.eval(condition)? {
                Value::Bool(true) => self.step(inner, accu)?,
                Value::Bool(false) => self.charge(1)?,
                _ => return Err(EvalError::no_such_overload()),
            },
            Step::Append(element) => {
                let folded = matches!(element, Node::Const(_));
                let element = self.eval(element)?;
                self.charge(2 + if folded { 0 } else { LIST_CREATE_BASE_COST })?;
                let target = std::mem::replace(&mut self.locals[accu], Ok(Value::Null))?;
                let mut elements = match target {
                    Value::List(List::Shared(elements)) => elements,
                    Value::List(other) => Rc::new(other.iter().collect::<Result<Vec<_>>>()?),
                    _ => return Err(EvalError::no_such_overload()),
                };
                Rc::make_mut(&mut elements).push(element);
                self.locals[accu] = Ok(Value::List(List::Shared(elements)));
            }
            Step::Insert(rest) => {
                let rest = self.args(rest)?;
                self.charge(2)?;
                let target = std::mem::replace(&mut self.locals[accu], Ok(Value::Null))?;
                self.locals[accu] = Ok(functions::map_insert(target, &rest)?);
            }
        }
        Ok(())
    }
}

/// The field of a value, for a plain selection.
fn select<'a>(operand: &Value<'a>, field: &str) -> Result<Value<'a>> {
    lookup_field(operand, field).unwrap_or_else(|| Err(EvalError::new(format!("no such key: {field}"))))
}

fn lookup_field<'a>(operand: &Value<'a>, field: &str) -> Option<Result<Value<'a>>> {
    match operand {
        Value::Map(map) => map.field(field),
        _ => None,
    }
}

/// `has(operand.field)`.
fn has(operand: &Value<'_>, field: &str) -> Result<bool> {
    match operand {
        Value::Map(map) => Ok(map.field(field).is_some()),
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, field),
        _ => Ok(false),
    }
}

/// What a lookup within an optional value, or by `?.` or `[?…]`, yields: always an optional value.
fn if_present<'a>(operand: Value<'a>, get: impl Fn(&Value<'a>) -> Option<Result<Value<'a>>>) -> Result<Value<'a>> {
    let found = match &operand {
        Value::Optional(None) => None,
        Value::Optional(Some(inner)) => get(inner),
        other => get(other),
    };
    match found {
        Some(value) => Ok(Value::some(value?)),
        None => Ok(Value::Optional(None)),
    }
}

fn at_index<'a>(operand: &Value<'a>, index: &Value<'a>) -> Result<Value<'a>> {
    if let Some(found) = lookup_index(operand, index) {
        return found;
    }
    match operand {
        Value::List(_) if Index::of(index).is_none() => {
            Err(EvalError::new(format!("unsupported index type '{}' in list", index.type_name())))
        }
        Value::List(_) => Err(EvalError::new(format!("index out of bounds: {}", functions::show_key(index)))),
        _ => Err(EvalError::new(format!("no such key: {}", functions::show_key(index)))),
    }
}

fn lookup_index<'a>(operand: &Value<'a>, index: &Value<'a>) -> Option<Result<Value<'a>>> {
    match operand {
        Value::List(list) => list.get(usize::try_from(Index::of(index)?.0).ok()?),
        Value::Map(map) => map.get(index),
        _ => None,
    }
}

/// A whole number that can be a list's index.
struct Index(i64);

impl Index {
    fn of(value: &Value<'_>) -> Option<Index> {
        match value {
            Value::Int(i) => Some(Index(*i)),
            Value::Uint(u) => i64::try_from(*u).ok().map(Index),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Some(Index(*d as i64)),
            _ => None,
        }
    }
}

fn matches<'a>(function: MatchKind, pattern: &Pattern, args: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(Value::String(text)) = args.first() else { return Err(EvalError::no_such_overload()) };
    let regex = pattern.compiled.get_or_init(|| functions::regex(&pattern.text));
    let regex = regex.as_ref().map_err(|error| EvalError::new(error.as_str()))?;
    Ok(match (function, args.get(2)) {
        (MatchKind::Matches, _) => Value::Bool(regex.is_match(text)),
        (MatchKind::Find, _) => Value::string(regex.find(text).map_or("", |found| found.as_str())),
        (MatchKind::FindAll, None) => functions::find_all_in(regex, text, -1),
        (MatchKind::FindAll, Some(Value::Int(limit))) => functions::find_all_in(regex, text, *limit),
        (MatchKind::FindAll, Some(_)) => return Err(EvalError::no_such_overload()),
    })
}

/// A nested constructor must be named by its place: `Object{spec: Object.spec{…}}`.
fn check_nested(outer: &str, field: &str, value: &Value<'_>) -> Result<()> {
    match value {
        Value::Map(Map::Struct(object)) => {
            let want = format!("{outer}.{field}");
            if object.ty.name() == want {
                return Ok(());
            }
            Err(EvalError::new(format!(
                "unexpected type name \"{}\", expected \"{want}\", which matches field name path from root Object type",
                object.ty.name()
            )))
        }
        Value::List(List::Shared(elements)) => {
            elements.iter().try_for_each(|element| check_nested(outer, field, element))
        }
        Value::Map(Map::Shared(entries)) => {
            entries.iter().try_for_each(|(_, element)| check_nested(outer, field, element))
        }
        _ => Ok(()),
    }
}
