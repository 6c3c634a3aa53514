//! Type parameters: what they stand for, and which types fit which.
//!
//! Invariants:
//! - CEL-I1: a question that is answered no leaves what is known unchanged.
//! - CEL-I2: what is deeper or larger than `MAX_TYPE_SIZE` nodes is dyn: maps of maps cannot grow without bound.

use std::sync::Arc;

use crate::decls::Overload;
use crate::types::{Param, Type};

/// Largest type, in nodes.
const MAX_TYPE_SIZE: usize = 2_000;

/// What is known of the parameters made so far.
#[derive(Default)]
pub(crate) struct Inference {
    /// By number.
    known: Vec<Option<Type>>,
    /// What was known before each change, to take changes back.
    journal: Vec<(u32, Option<Type>)>,
}

impl Inference {
    pub fn fresh(&mut self) -> Type {
        self.known.push(None);
        Type::Param(Param::Fresh((self.known.len() - 1) as u32))
    }

    /// An overload's types with fresh parameters.
    pub fn instantiate(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        let (a, b) = (self.fresh(), self.fresh());
        let args = overload.args.iter().map(|arg| rename(arg, &a, &b)).collect();
        (args, rename(&overload.result, &a, &b))
    }

    /// Whether `from` may stand where `to` is wanted (or the other way round: dyn and parameters fit both ways).
    pub fn assignable(&mut self, to: &Type, from: &Type) -> bool {
        self.attempt(|this| this.fits(to, from))
    }

    pub fn assignable_all(&mut self, to: &[Type], from: &[Type]) -> bool {
        self.attempt(|this| to.len() == from.len() && to.iter().zip(from).all(|(to, from)| this.fits(to, from)))
    }

    fn attempt(&mut self, question: impl FnOnce(&mut Self) -> bool) -> bool {
        self.journal.clear();
        if question(self) {
            return true;
        }
        while let Some((number, before)) = self.journal.pop() {
            self.known[number as usize] = before;
        }
        false
    }

    fn find(&self, ty: &Type) -> Option<Type> {
        match ty {
            Type::Param(Param::Fresh(number)) => self.known.get(*number as usize)?.clone(),
            _ => None,
        }
    }

    fn set(&mut self, param: &Type, ty: Type) {
        if let Type::Param(Param::Fresh(number)) = param {
            let slot = &mut self.known[*number as usize];
            self.journal.push((*number, slot.take()));
            *slot = Some(ty);
        }
    }

    fn fits(&mut self, t1: &Type, t2: &Type) -> bool {
        if matches!(t2, Type::Param(_)) {
            let (valid, known) = self.substitutes(t1, t2);
            if valid {
                return true;
            }
            if known {
                return false;
            }
        }
        if matches!(t1, Type::Param(_)) {
            return self.substitutes(t2, t1).0;
        }
        match (t1, t2) {
            (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Duration | Type::Timestamp
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.fits(a, c) && self.fits(b, d),
            _ => t1.name() == t2.name(),
        }
    }

    /// Whether `ty` may stand for the parameter, and whether the parameter was known already.
    fn substitutes(&mut self, ty: &Type, param: &Type) -> (bool, bool) {
        if ty.is_exactly(param) {
            return (true, true);
        }
        if let Some(known) = self.find(param) {
            if ty.is_exactly(&known) {
                return (true, true);
            }
            if self.fits(ty, &known) {
                let general = self.most_general(ty.clone(), known);
                if self.free_of(param, &general) {
                    self.set(param, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.free_of(param, ty) {
            self.set(param, ty.clone());
            return (true, false);
        }
        (false, false)
    }

    pub fn most_general(&self, t1: Type, t2: Type) -> Type {
        if less_specific(&t1, &t2) { t1 } else { t2 }
    }

    /// Whether the parameter does not occur in the type.
    fn free_of(&self, param: &Type, within: &Type) -> bool {
        if param.is_exactly(within) {
            return false;
        }
        match within {
            Type::Param(_) => self.find(within).is_none_or(|known| self.free_of(param, &known)),
            Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => self.free_of(param, inner),
            Type::Map(key, value) => self.free_of(param, key) && self.free_of(param, value),
            _ => true,
        }
    }

    /// The type with its parameters replaced by what is known; `to_dyn` turns unknown ones to dyn.
    pub fn substitute(&self, ty: &Type, to_dyn: bool) -> Type {
        self.replace(ty, to_dyn, &mut { MAX_TYPE_SIZE })
    }

    fn replace(&self, ty: &Type, to_dyn: bool, left: &mut usize) -> Type {
        if *left == 0 {
            return Type::Dyn;
        }
        *left -= 1;
        let mut inner = |ty: &Type| Arc::new(self.replace(ty, to_dyn, left));
        match ty {
            Type::Param(_) => match self.find(ty) {
                Some(known) => self.replace(&known, to_dyn, left),
                None if to_dyn => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(of) => Type::List(inner(of)),
            Type::Optional(of) => Type::Optional(inner(of)),
            Type::Type(Some(of)) => Type::Type(Some(inner(of))),
            Type::Map(key, value) => {
                let key = inner(key);
                Type::Map(key, inner(value))
            }
            _ => ty.clone(),
        }
    }
}

fn less_specific(t1: &Type, t2: &Type) -> bool {
    match (t1, t2) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(a, b), Type::Map(c, d)) => less_specific(a, c) && less_specific(b, d),
        (Type::Type(_), Type::Type(_)) => true,
        _ => t1.is_exactly(t2),
    }
}

fn rename(ty: &Type, a: &Type, b: &Type) -> Type {
    match ty {
        Type::Param(Param::Named("A")) => a.clone(),
        Type::Param(Param::Named(_)) => b.clone(),
        Type::List(inner) => Type::list(rename(inner, a, b)),
        Type::Optional(inner) => Type::optional(rename(inner, a, b)),
        Type::Type(Some(inner)) => Type::Type(Some(Arc::new(rename(inner, a, b)))),
        Type::Map(key, value) => Type::map(rename(key, a, b), rename(value, a, b)),
        _ => ty.clone(),
    }
}
