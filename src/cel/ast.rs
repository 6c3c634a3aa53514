//! The expression tree, as the parser makes it (macros expanded) and the checker annotates it.
//!
//! Invariants:
//! - CEL-A1: nodes of one id (a macro repeats some) are equal; types, overloads and positions are kept beside the
//!   tree, by id.

use crate::types::Type;
use crate::value::Const;

pub type Id = u32;

#[derive(Debug, Clone)]
pub struct Expr {
    pub id: Id,
    pub kind: Kind,
    /// Nesting below this node as written.
    pub depth: u32,
    /// Nesting below this node, macros expanded: what every later recursion goes through.
    pub total: u32,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Literal(Const),
    Ident(String),
    Select {
        operand: Box<Expr>,
        field: String,
        test_only: bool,
    },
    Call {
        function: String,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    /// Elements, and which of them are optional (`[?x]`).
    List {
        elements: Vec<Expr>,
        optional: Vec<usize>,
    },
    Map(Vec<Entry>),
    Struct {
        name: String,
        fields: Vec<FieldInit>,
    },
    Comprehension(Box<Comprehension>),
    /// What stands where a syntax error was.
    Error,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub id: Id,
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub struct FieldInit {
    pub id: Id,
    pub name: String,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub struct Comprehension {
    pub range: Expr,
    pub var: String,
    pub var2: Option<String>,
    pub accu: String,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// The accumulator of every macro but `optMap` and `optFlatMap`.
pub const ACCUMULATOR: &str = "@result";

impl Expr {
    pub fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }

    /// `a.b.c` as one name, where the expression is that.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select { operand, field, test_only: false } => Some(format!("{}.{field}", operand.qualified_name()?)),
            _ => None,
        }
    }
}

/// What the checker found: by expression id.
#[derive(Debug, Default, Clone)]
pub struct Notes {
    types: Vec<Type>,
    /// Overload ids of a call; the resolved name of an identifier, a qualified name or a struct.
    references: Vec<Reference>,
}

#[derive(Debug, Default, Clone)]
pub enum Reference {
    #[default]
    None,
    /// A variable, or a type by name.
    Name(String),
    Overloads(Vec<&'static str>),
}

impl Notes {
    pub fn ty(&self, id: Id) -> &Type {
        self.types.get(id as usize).unwrap_or(&Type::Error)
    }

    pub fn set_type(&mut self, id: Id, ty: Type) {
        let at = id as usize;
        if self.types.len() <= at {
            self.types.resize(at + 1, Type::Error);
        }
        self.types[at] = ty;
    }

    pub fn reference(&self, id: Id) -> &Reference {
        self.references.get(id as usize).unwrap_or(&Reference::None)
    }

    pub fn set_reference(&mut self, id: Id, reference: Reference) {
        let at = id as usize;
        if self.references.len() <= at {
            self.references.resize(at + 1, Reference::None);
        }
        self.references[at] = reference;
    }

    pub fn overloads(&self, id: Id) -> &[&'static str] {
        match self.reference(id) {
            Reference::Overloads(ids) => ids,
            _ => &[],
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.references.iter().filter_map(|reference| match reference {
            Reference::Name(name) => Some(name.as_str()),
            _ => None,
        })
    }

    pub fn map_types(&mut self, mut change: impl FnMut(&Type) -> Type) {
        for ty in &mut self.types {
            *ty = change(ty);
        }
    }
}
