//! What can be decided once: constants folded, functions looked up, local variables numbered.
//!
//! Invariants:
//! - CEL-N1: what is folded here costs nothing at run time, exactly as with cel-go's optimizer: lists and maps of
//!   constants, conversions of constants, membership in a list of constants.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::ast::{Comprehension, Expr, Kind, Notes, Reference};
use crate::decls;
use crate::eval::{Fold, Members, Node, Pattern, Step};
use crate::functions;

use crate::value::{Const, ConstMap, Value};

/// Plans a checked expression; the error is why it can never be evaluated.
pub(crate) fn plan(root: &Expr, notes: &Notes) -> Result<Node, String> {
    let mut planner = Planner { notes, locals: HashMap::new(), depth: 0 };
    planner.plan(root)
}

struct Planner<'n> {
    notes: &'n Notes,
    /// The slots of the local variables of each name, innermost last.
    locals: HashMap<String, Vec<usize>>,
    depth: usize,
}

impl Planner<'_> {
    fn plan(&mut self, expr: &Expr) -> Result<Node, String> {
        Ok(match &expr.kind {
            Kind::Literal(constant) => Node::Const(constant.clone()),
            Kind::Ident(name) => self.name(name),
            Kind::Select { operand, field, test_only } => {
                if let Reference::Name(name) = self.notes.reference(expr.id) {
                    return Ok(self.global(name));
                }
                let operand = Box::new(self.plan(operand)?);
                if *test_only {
                    Node::Has { operand, field: field.clone() }
                } else {
                    let relative = !operand.is_attribute();
                    Node::Select { operand, field: field.clone(), optional: false, relative }
                }
            }
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args)?,
            Kind::List { elements, optional } => {
                let planned = elements.iter().map(|element| self.plan(element)).collect::<Result<Vec<_>, _>>()?;
                if optional.is_empty() && planned.iter().all(|node| matches!(node, Node::Const(_))) {
                    return Ok(Node::Const(Const::List(planned.into_iter().filter_map(constant).collect())));
                }
                let elements = planned.into_iter().enumerate().map(|(at, node)| (node, optional.contains(&at)));
                Node::List(elements.collect())
            }
            Kind::Map(entries) => {
                let mut planned = Vec::with_capacity(entries.len());
                for entry in entries {
                    planned.push((self.plan(&entry.key)?, self.plan(&entry.value)?, entry.optional));
                }
                let folds = |(key, value, optional): &(Node, Node, bool)| {
                    matches!((key, value), (Node::Const(_), Node::Const(_))) && !optional
                };
                if planned.iter().all(folds) {
                    let pairs =
                        planned.into_iter().filter_map(|(key, value, _)| Some((constant(key)?, constant(value)?)));
                    let map = ConstMap::new(pairs.collect()).map_err(|error| error.to_string())?;
                    return Ok(Node::Const(Const::Map(map)));
                }
                Node::Map(planned)
            }
            Kind::Struct { fields, .. } => {
                let mut planned = Vec::with_capacity(fields.len());
                for field in fields {
                    planned.push((field.name.clone(), self.plan(&field.value)?, field.optional));
                }
                Node::Struct { ty: self.notes.ty(expr.id).clone(), fields: planned }
            }
            Kind::Comprehension(fold) => self.comprehension(fold)?,
            Kind::Error => return Err("unexpected failure to parse".to_owned()),
        })
    }

    fn name(&mut self, name: &str) -> Node {
        match self.locals.get(name).and_then(|slots| slots.last()) {
            Some(slot) => Node::Local(*slot),
            None => self.global(name.strip_prefix('.').unwrap_or(name)),
        }
    }

    fn global(&self, name: &str) -> Node {
        match decls::type_by_name(name) {
            Some(ty) => Node::TypeName { name: name.to_owned(), ty },
            None => Node::Global(name.to_owned()),
        }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Result<Node, String> {
        let overloads = self.notes.overloads(expr.id);
        let overload = if let [only] = overloads { Some(*only) } else { None };
        // `sets.contains(…)`: the receiver is a part of the function's name.
        let qualified = target
            .and_then(Expr::qualified_name)
            .map(|prefix| format!("{prefix}.{function}"))
            .filter(|name| decls::function(name.strip_prefix('.').unwrap_or(name)).is_some());
        let (name, target) = match &qualified {
            Some(name) => (name.strip_prefix('.').unwrap_or(name), None),
            None => (function.strip_prefix('.').unwrap_or(function), target),
        };
        if name == "_?._" {
            let [operand, Expr { kind: Kind::Literal(Const::String(field)), .. }] = args else {
                return Err("unsupported optional field selection".to_owned());
            };
            let operand = Box::new(self.plan(operand)?);
            let relative = !operand.is_attribute();
            return Ok(Node::Select { operand, field: field.to_string(), optional: true, relative });
        }
        let mut planned =
            target.into_iter().chain(args).map(|arg| self.plan(arg)).collect::<Result<Vec<Node>, String>>()?;
        match name {
            "_&&_" | "_||_" | "_==_" | "_!=_" | "_[_]" | "_[?_]" => {
                let right = Box::new(planned.pop().ok_or("missing argument")?);
                let left = Box::new(planned.pop().ok_or("missing argument")?);
                let relative = !left.is_attribute();
                return Ok(match name {
                    "_&&_" => Node::And(left, right),
                    "_||_" => Node::Or(left, right),
                    "_==_" => Node::Equal(left, right, true),
                    "_!=_" => Node::Equal(left, right, false),
                    _ => Node::Index { operand: left, index: right, optional: name == "_[?_]", relative },
                });
            }
            "_?_:_" => {
                let otherwise = Box::new(planned.pop().ok_or("missing argument")?);
                let then = Box::new(planned.pop().ok_or("missing argument")?);
                let condition = Box::new(planned.pop().ok_or("missing argument")?);
                return Ok(Node::Conditional(condition, then, otherwise));
            }
            "@in" if overload == Some("in_list") && matches!(planned[1], Node::Const(Const::List(_))) => {
                let list = planned.pop().and_then(constant).ok_or("missing argument")?;
                let element = planned.pop().ok_or("missing argument")?;
                return Ok(Node::Member(Box::new(element), Box::new(Members::new(list))));
            }
            "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint" => {
                if let Some(folded) = fold_conversion(name, &planned)? {
                    return Ok(Node::Const(folded));
                }
            }
            "matches" | "find" | "findAll" => {
                if let Some(Node::Const(Const::String(pattern))) = planned.get(1) {
                    functions::regex(pattern)?;
                    let pattern = Box::new(Pattern { text: pattern.to_string(), compiled: OnceLock::new() });
                    return Ok(Node::Matches {
                        function: crate::eval::MatchKind::of(name),
                        pattern,
                        overload,
                        args: planned,
                    });
                }
            }
            "sum" if planned.len() == 1 => {
                let zero = match overload {
                    Some("list_uint_sum_uint") => Const::Uint(0),
                    Some("list_double_sum_double") => Const::Double(0.0),
                    Some("list_duration_sum_duration") => Const::Duration(0),
                    _ => Const::Int(0),
                };
                planned.push(Node::Const(zero));
            }
            _ => {}
        }
        if let Some(format) = name.strip_prefix("format.").and_then(crate::formats::named) {
            return Ok(Node::Format(format));
        }
        let func = functions::lookup(name).ok_or_else(|| format!("no such overload: {name}"))?;
        Ok(Node::Call { func, name: name.to_owned(), overload, args: planned })
    }

    fn comprehension(&mut self, fold: &Comprehension) -> Result<Node, String> {
        let range = self.plan(&fold.range)?;
        let init = self.plan(&fold.init)?;
        if fold.var == "#unused" {
            let slot = self.enter(&fold.accu);
            let result = self.plan(&fold.result)?;
            self.leave(&fold.accu);
            return Ok(Node::Bind { slot, init: Box::new(init), result: Box::new(result) });
        }
        let accu = self.enter(&fold.accu);
        self.enter(&fold.var);
        if let Some(name) = &fold.var2 {
            self.enter(name);
        }
        let condition = self.plan(&fold.condition)?;
        let step = self.step(&fold.step)?;
        if let Some(name) = &fold.var2 {
            self.leave(name);
        }
        self.leave(&fold.var);
        let result = self.plan(&fold.result)?;
        self.leave(&fold.accu);
        Ok(Node::Fold(Box::new(Fold { range, init, two: fold.var2.is_some(), condition, step, result, accu })))
    }

    /// The step of a comprehension; those that add to the accumulator do it in place.
    fn step(&mut self, step: &Expr) -> Result<Step, String> {
        if let Kind::Call { function, args, .. } = &step.kind {
            match (function.as_str(), args.as_slice()) {
                ("_?_:_", [condition, then, otherwise]) if otherwise.ident() == Some(crate::ast::ACCUMULATOR) => {
                    let inner = self.step(then)?;
                    if !matches!(inner, Step::Any(_)) {
                        let condition = self.plan(condition)?;
                        return Ok(Step::If(condition, Box::new(inner)));
                    }
                }
                ("_+_", [target, Expr { kind: Kind::List { elements, optional }, .. }])
                    if target.ident() == Some(crate::ast::ACCUMULATOR) && optional.is_empty() =>
                {
                    if let [element] = elements.as_slice() {
                        return Ok(Step::Append(self.plan(element)?));
                    }
                }
                ("cel.@mapInsert", [target, rest @ ..]) if target.ident() == Some(crate::ast::ACCUMULATOR) => {
                    let rest = rest.iter().map(|arg| self.plan(arg)).collect::<Result<Vec<_>, _>>()?;
                    return Ok(Step::Insert(rest));
                }
                _ => {}
            }
        }
        Ok(Step::Any(self.plan(step)?))
    }

    fn enter(&mut self, name: &str) -> usize {
        let slot = self.depth;
        self.depth += 1;
        self.locals.entry(name.to_owned()).or_default().push(slot);
        slot
    }

    fn leave(&mut self, name: &str) {
        self.depth -= 1;
        if let Some(slots) = self.locals.get_mut(name) {
            slots.pop();
        }
    }
}

fn constant(node: Node) -> Option<Const> {
    match node {
        Node::Const(constant) => Some(constant),
        _ => None,
    }
}

/// The result of a conversion of a constant; a failure ends the planning, as it ends cel-go's.
fn fold_conversion(name: &str, args: &[Node]) -> Result<Option<Const>, String> {
    let [Node::Const(constant)] = args else { return Ok(None) };
    if let (Const::List(_) | Const::Map(_), "dyn") = (constant, name) {
        return Ok(Some(constant.clone()));
    }
    let Some(func) = functions::lookup(name) else { return Ok(None) };
    match func(&[Value::of_const(constant)]) {
        Ok(value) => Ok(value.to_const()),
        Err(error) => Err(error.to_string()),
    }
}

impl Node {
    /// Whether the node is a variable or a way into one.
    fn is_attribute(&self) -> bool {
        matches!(
            self,
            Node::Local(_) | Node::Global(_) | Node::TypeName { .. } | Node::Select { .. } | Node::Index { .. }
        )
    }
}
