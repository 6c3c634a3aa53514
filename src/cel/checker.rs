//! The type checker: resolves names, fields and overloads, infers type parameters.
//!
//! Invariants:
//! - CEL-K1: an expression that had an issue has the type `Error`, which fits everywhere: one fault, one message.

use std::collections::HashMap;

use crate::ast::{Comprehension, Entry, Expr, FieldInit, Id, Kind, Notes, Reference};
use crate::decls::{self, Overload};
use crate::env::Env;
use crate::infer::Inference;
use crate::parser::Ast;
use crate::source::{Issue, Source};
use crate::types::Type;
use crate::value::Const;

/// Checks a parsed expression.
pub(crate) fn check(env: &Env, source: &Source<'_>, ast: &Ast) -> Result<Notes, Vec<Issue>> {
    let mut checker = Checker {
        env,
        source,
        positions: &ast.positions,
        notes: Notes::default(),
        infer: Inference::default(),
        locals: HashMap::new(),
        issues: Vec::new(),
    };
    checker.check(&ast.root);
    if checker.issues.is_empty() {
        let Checker { infer, notes, .. } = &mut checker;
        notes.map_types(|ty| infer.substitute(ty, true));
        checker.literals(&ast.root);
    }
    if checker.issues.is_empty() { Ok(checker.notes) } else { Err(checker.issues) }
}

struct Checker<'c> {
    env: &'c Env,
    source: &'c Source<'c>,
    positions: &'c [u32],
    notes: Notes,
    infer: Inference,
    /// The variables of the comprehensions around, innermost last.
    locals: HashMap<String, Vec<Type>>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn check(&mut self, expr: &Expr) {
        let ty = match &expr.kind {
            Kind::Literal(constant) => literal_type(constant),
            Kind::Ident(name) => self.ident(expr.id, name),
            Kind::Select { operand, field, test_only } => self.select(expr, operand, field, *test_only),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List { elements, optional } => self.list(elements, optional),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.object(expr.id, name, fields),
            Kind::Comprehension(fold) => self.comprehension(fold),
            Kind::Error => Type::Error,
        };
        self.notes.set_type(expr.id, ty);
    }

    fn ty(&self, expr: &Expr) -> Type {
        self.notes.ty(expr.id).clone()
    }

    /// The type of a variable, or of the type that the name denotes.
    fn lookup(&self, name: &str) -> Option<Type> {
        let global = name.strip_prefix('.');
        if global.is_none()
            && let Some(ty) = self.locals.get(name).and_then(|stack| stack.last())
        {
            return Some(ty.clone());
        }
        let name = global.unwrap_or(name);
        self.env.variable(name).cloned().or_else(|| decls::type_by_name(name).map(|ty| Type::Type(Some(ty.into()))))
    }

    fn ident(&mut self, id: Id, name: &str) -> Type {
        match self.lookup(name) {
            Some(ty) => {
                let name = name.strip_prefix('.').unwrap_or(name);
                self.notes.set_reference(id, Reference::Name(name.to_owned()));
                ty
            }
            None => {
                self.undeclared(id, name);
                Type::Error
            }
        }
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test_only: bool) -> Type {
        if !test_only
            && let Some(name) = expr.qualified_name()
            && let Some(ty) = self.qualified(&name)
        {
            let name = name.strip_prefix('.').unwrap_or(&name);
            self.notes.set_reference(expr.id, Reference::Name(name.to_owned()));
            return ty;
        }
        self.check(operand);
        let ty = self.field(expr.id, operand, field, false);
        if test_only { Type::Bool } else { ty }
    }

    /// A declared name with dots in it, unless a local variable hides it.
    fn qualified(&self, name: &str) -> Option<Type> {
        let first = name.split('.').next().unwrap_or_default();
        if self.locals.get(first).is_some_and(|stack| !stack.is_empty()) {
            return None;
        }
        self.lookup(name)
    }

    fn field(&mut self, id: Id, operand: &Expr, field: &str, optional: bool) -> Type {
        let operand = self.infer.substitute(self.notes.ty(operand.id), false);
        let (inner, was_optional) = match operand {
            Type::Optional(inner) => ((*inner).clone(), true),
            other => (other, false),
        };
        let ty = match &inner {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(object) if object.open => Type::Dyn,
            Type::Object(object) => match object.fields.get(field) {
                Some(found) => found.decl.ty.clone(),
                None => match object.fields.get(&format!("__{field}__")) {
                    Some(found) if crate::escape::is_reserved(field) => found.decl.ty.clone(),
                    _ => {
                        self.issue(id, format!("undefined field '{field}'"));
                        Type::Error
                    }
                },
            },
            Type::Param(_) => {
                self.infer.assignable(&Type::Dyn, &inner);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                let ty = self.infer.substitute(other, true);
                self.issue(id, format!("type '{}' does not support field selection", ty.format()));
                Type::Error
            }
        };
        let ty = self.infer.substitute(&ty, false);
        if was_optional || optional { Type::optional(ty) } else { ty }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        let id = expr.id;
        if function == "_?._" {
            let [operand, Expr { kind: Kind::Literal(Const::String(field)), id: field_id, .. }] = args else {
                self.issue(id, "unsupported optional field selection".to_owned());
                return Type::Error;
            };
            self.check(operand);
            self.notes.set_type(*field_id, Type::String);
            self.notes.set_reference(id, Reference::Overloads(vec!["select_optional_field"]));
            return self.field(id, operand, field, true);
        }
        for arg in args {
            self.check(arg);
        }
        let Some(target) = target else {
            let name = function.strip_prefix('.').unwrap_or(function);
            return match decls::function(name) {
                Some(overloads) => self.resolve(id, name, overloads, None, args),
                None => {
                    self.undeclared(id, function);
                    Type::Error
                }
            };
        };
        if let Some(prefix) = target.qualified_name() {
            let name = format!("{prefix}.{function}");
            if let Some(overloads) = decls::function(name.strip_prefix('.').unwrap_or(&name)) {
                let mutation_only = name == "jsonpatch.escapeKey" && !self.env.mutation();
                if !mutation_only {
                    return self.resolve(id, &name, overloads, None, args);
                }
            }
        }
        self.check(target);
        match decls::function(function) {
            Some(overloads) => self.resolve(id, function, overloads, Some(target), args),
            None => {
                self.undeclared(id, function);
                Type::Error
            }
        }
    }

    fn resolve(
        &mut self,
        id: Id,
        function: &str,
        overloads: &'static [Overload],
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Type {
        let exprs: Vec<&Expr> = target.into_iter().chain(args).collect();
        let types: Vec<Type> = exprs.iter().map(|arg| self.ty(arg)).collect();
        if matches!(function, "_&&_" | "_||_") {
            let mut fits = true;
            for (arg, ty) in exprs.iter().zip(&types) {
                if !self.infer.assignable(ty, &Type::Bool) {
                    self.mismatch(arg.id, &Type::Bool, ty);
                    fits = false;
                }
            }
            self.notes.set_reference(id, Reference::Overloads(vec![overloads[0].id]));
            return if fits { Type::Bool } else { Type::Error };
        }
        let mut ids = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads {
            if overload.member != target.is_some() || overload.args.len() != types.len() {
                continue;
            }
            let fresh = overload.generic.then(|| self.infer.instantiate(overload));
            let (want, yields) = match &fresh {
                Some((want, yields)) => (want.as_slice(), yields),
                None => (overload.args.as_slice(), &overload.result),
            };
            if !self.infer.assignable_all(&types, want) {
                continue;
            }
            ids.push(overload.id);
            let yields = self.infer.substitute(yields, false);
            result = Some(match result {
                None => yields,
                Some(before) if before.is_dyn() || before.is_exactly(&yields) => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(result) => {
                self.notes.set_reference(id, Reference::Overloads(ids));
                result
            }
            None => {
                let shown: Vec<String> = types.iter().map(|ty| self.infer.substitute(ty, true).format()).collect();
                let signature = match target {
                    Some(_) => format!("{}.({})", shown[0], shown[1..].join(", ")),
                    None => format!("({})", shown.join(", ")),
                };
                self.issue(id, format!("found no matching overload for '{function}' applied to '{signature}'"));
                Type::Error
            }
        }
    }

    fn list(&mut self, elements: &[Expr], optional: &[usize]) -> Type {
        let mut joined: Option<Type> = None;
        for (at, element) in elements.iter().enumerate() {
            self.check(element);
            let mut ty = self.ty(element);
            if optional.contains(&at) {
                ty = self.unwrap_optional(element.id, ty);
            }
            joined = Some(self.join(element.id, joined, ty));
        }
        let ty = Type::list(joined.unwrap_or_else(|| self.infer.fresh()));
        self.infer.substitute(&ty, false)
    }

    fn map(&mut self, entries: &[Entry]) -> Type {
        let mut keys: Option<Type> = None;
        let mut values: Option<Type> = None;
        for entry in entries {
            self.check(&entry.key);
            keys = Some(self.join(entry.key.id, keys, self.ty(&entry.key)));
            self.check(&entry.value);
            let mut ty = self.ty(&entry.value);
            if entry.optional {
                ty = self.unwrap_optional(entry.value.id, ty);
            }
            values = Some(self.join(entry.value.id, values, ty));
        }
        let keys = keys.unwrap_or_else(|| self.infer.fresh());
        let values = values.unwrap_or_else(|| self.infer.fresh());
        self.infer.substitute(&Type::map(keys, values), false)
    }

    fn unwrap_optional(&mut self, id: Id, ty: Type) -> Type {
        match self.infer.substitute(&ty, false) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn | Type::Error => ty,
            other => {
                self.mismatch(id, &Type::optional(other.clone()), &other);
                other
            }
        }
    }

    fn join(&mut self, id: Id, before: Option<Type>, ty: Type) -> Type {
        let Some(before) = before else { return ty };
        if self.infer.assignable(&before, &ty) {
            return self.infer.most_general(before, ty);
        }
        self.mismatch(id, &before, &ty);
        Type::Error
    }

    fn object(&mut self, id: Id, name: &str, fields: &[FieldInit]) -> Type {
        let name = name.strip_prefix('.').unwrap_or(name);
        let Some(ty) = self.env.message(name) else {
            match self.lookup(name) {
                None => self.undeclared(id, name),
                Some(Type::Type(_)) => self.issue(id, format!("'{name}' is not a message type")),
                Some(_) => self.issue(id, format!("'{name}' is not a type")),
            }
            for field in fields {
                self.check(&field.value);
            }
            return Type::Error;
        };
        self.notes.set_reference(id, Reference::Name(name.to_owned()));
        for field in fields {
            self.check(&field.value);
            let want = match &ty {
                Type::Object(object) if object.open => Type::Dyn,
                Type::Object(object) => match object.fields.get(&field.name) {
                    Some(found) => found.decl.ty.clone(),
                    None => {
                        self.issue(field.id, format!("undefined field '{}'", field.name));
                        Type::Error
                    }
                },
                _ => Type::Error,
            };
            let mut have = self.ty(&field.value);
            if field.optional {
                have = self.unwrap_optional(field.value.id, have);
            }
            if !self.infer.assignable(&want, &have) {
                let have = self.infer.substitute(&have, true);
                let message = format!(
                    "expected type of field '{}' is '{}' but provided type is '{}'",
                    field.name,
                    want.format(),
                    have.format()
                );
                self.issue(field.id, message);
            }
        }
        ty
    }

    fn comprehension(&mut self, fold: &Comprehension) -> Type {
        self.check(&fold.range);
        self.check(&fold.init);
        let range = self.infer.substitute(self.notes.ty(fold.range.id), false);
        let accu = self.ty(&fold.init);
        let (first, second) = match &range {
            Type::List(element) if fold.var2.is_some() => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Param(_) => {
                self.infer.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    self.infer.substitute(other, true).format()
                );
                self.issue(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        self.enter(&fold.accu, accu.clone());
        self.enter(&fold.var, first);
        if let Some(var2) = &fold.var2 {
            self.enter(var2, second);
        }
        self.check(&fold.condition);
        self.assert(&fold.condition, &Type::Bool);
        self.check(&fold.step);
        self.assert(&fold.step, &accu);
        if let Some(var2) = &fold.var2 {
            self.leave(var2);
        }
        self.leave(&fold.var);
        self.check(&fold.result);
        self.leave(&fold.accu);
        self.infer.substitute(self.notes.ty(fold.result.id), false)
    }

    fn enter(&mut self, name: &str, ty: Type) {
        self.locals.entry(name.to_owned()).or_default().push(ty);
    }

    fn leave(&mut self, name: &str) {
        if let Some(stack) = self.locals.get_mut(name) {
            stack.pop();
        }
    }

    fn assert(&mut self, expr: &Expr, want: &Type) {
        let have = self.ty(expr);
        if !self.infer.assignable(want, &have) {
            self.mismatch(expr.id, want, &have);
        }
    }

    fn mismatch(&mut self, id: Id, want: &Type, have: &Type) {
        let want = self.infer.substitute(want, true).format();
        let have = self.infer.substitute(have, true).format();
        self.issue(id, format!("expected type '{want}' but found '{have}'"));
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.issue(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn issue(&mut self, id: Id, message: String) {
        let offset = self.positions.get(id as usize).copied().unwrap_or_default();
        let at = self.source.location(offset as usize);
        if !self.issues.iter().any(|issue| issue.at == at && issue.message == message) {
            self.issues.push(Issue { at, message });
        }
    }

    /// Constants that can never work: `duration('x')`, `timestamp('x')`, a bad expression for `matches`.
    fn literals(&mut self, expr: &Expr) {
        let constant = |arg: Option<&Expr>| match arg.map(|arg| (&arg.kind, arg.id)) {
            Some((Kind::Literal(Const::String(text)), id)) => Some((text.to_string(), id)),
            _ => None,
        };
        match &expr.kind {
            Kind::Call { function, target, args } => {
                let bad = match function.as_str() {
                    "duration" => {
                        constant(args.first()).filter(|(text, _)| crate::time::parse_duration(text).is_none())
                    }
                    "timestamp" => {
                        constant(args.first()).filter(|(text, _)| crate::time::parse_timestamp(text).is_none())
                    }
                    "matches" => constant(args.last()).filter(|(text, _)| crate::functions::regex(text).is_err()),
                    _ => None,
                };
                if let Some((_, id)) = bad {
                    self.issue(id, format!("invalid {function} argument"));
                }
                for child in target.as_deref().into_iter().chain(args) {
                    self.literals(child);
                }
            }
            Kind::Select { operand, .. } => self.literals(operand),
            Kind::List { elements, .. } => elements.iter().for_each(|element| self.literals(element)),
            Kind::Map(entries) => entries.iter().for_each(|entry| {
                self.literals(&entry.key);
                self.literals(&entry.value);
            }),
            Kind::Struct { fields, .. } => fields.iter().for_each(|field| self.literals(&field.value)),
            Kind::Comprehension(fold) => {
                for child in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                    self.literals(child);
                }
            }
            Kind::Literal(_) | Kind::Ident(_) | Kind::Error => {}
        }
    }
}

fn literal_type(constant: &Const) -> Type {
    match constant {
        Const::Null => Type::Null,
        Const::Bool(_) => Type::Bool,
        Const::Int(_) => Type::Int,
        Const::Uint(_) => Type::Uint,
        Const::Double(_) => Type::Double,
        Const::String(_) => Type::String,
        Const::Bytes(_) => Type::Bytes,
        Const::Duration(_) => Type::Duration,
        Const::Timestamp(_) => Type::Timestamp,
        Const::Type(_) => Type::Type(None),
        Const::List(_) => Type::list(Type::Dyn),
        Const::Map(_) => Type::map(Type::Dyn, Type::Dyn),
    }
}
