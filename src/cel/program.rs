//! A compiled expression.

use crate::ast::{Expr, Notes};
use crate::cost::{CostEstimate, Sizes};
use crate::env::Env;
use crate::error::{CompileError, EvalError};
use crate::eval::Node;
use crate::source::Source;
use crate::types::Type;
use crate::value::Value;

/// A compiled expression, shareable between threads.
#[derive(Debug)]
pub struct Program {
    plan: Node,
    ty: Type,
    /// The variables that the expression refers to.
    names: Box<[Box<str>]>,
    /// The checked tree, which only estimates need.
    tree: Option<Box<(Expr, Notes)>>,
}

/// The variables of an evaluation.
pub trait Bindings<'a> {
    /// The value of a variable; `None` where it has none (an expression that reads it fails).
    fn resolve(&self, name: &str) -> Option<Result<Value<'a>, EvalError>>;
}

impl<'a> Bindings<'a> for [(&str, Value<'a>)] {
    fn resolve(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        self.iter().find(|(have, _)| *have == name).map(|(_, value)| Ok(value.clone()))
    }
}

impl<'a, const N: usize> Bindings<'a> for [(&str, Value<'a>); N] {
    fn resolve(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        self.as_slice().resolve(name)
    }
}

/// What an evaluation came to, and what it cost.
#[derive(Debug)]
pub struct Outcome<'a> {
    pub result: Result<Value<'a>, EvalError>,
    /// In CEL cost units.
    pub cost: u64,
}

impl Program {
    /// Compiles and checks an expression.
    ///
    /// # Errors
    /// With cel-go's text (see [`CompileError`]); callers prefix it with "compilation failed: ".
    pub fn compile(env: &Env, source: &str) -> Result<Program, CompileError> {
        let text = Source::new(source);
        let fail = |issues| CompileError::Issues(text.display(issues));
        let ast = crate::parser::parse(&text).map_err(fail)?;
        let notes = crate::checker::check(env, &text, &ast).map_err(fail)?;
        let ty = notes.ty(ast.root.id).clone();
        let plan = crate::plan::plan(&ast.root, &notes).map_err(CompileError::Instantiation)?;
        let mut names: Vec<Box<str>> = notes.names().map(Box::from).collect();
        names.sort_unstable();
        names.dedup();
        let tree = Some(Box::new((ast.root, notes)));
        Ok(Program { plan, ty, names: names.into_boxed_slice(), tree })
    }

    /// The type of the result ("must evaluate to bool but got …" prints it with `Display`).
    pub fn result_type(&self) -> &Type {
        &self.ty
    }

    /// Whether the expression refers to a variable.
    pub fn uses_variable(&self, name: &str) -> bool {
        self.names.iter().any(|have| &**have == name)
    }

    /// The least and the most that an evaluation can cost, given the sizes of the variables.
    pub fn estimate_cost(&self, sizes: &Sizes<'_>) -> CostEstimate {
        match &self.tree {
            Some(tree) => crate::cost::estimate(&tree.0, &tree.1, sizes),
            None => CostEstimate { min: 0, max: u64::MAX },
        }
    }

    /// Frees what only estimates need; later estimates know nothing.
    pub fn forget_tree(&mut self) {
        self.tree = None;
    }

    /// Evaluates with a limit on the cost (see [`crate::limits::PER_CALL_LIMIT`]).
    pub fn eval<'a>(&'a self, variables: &(dyn Bindings<'a> + '_), limit: u64) -> Outcome<'a> {
        crate::eval::evaluate(&self.plan, variables, limit)
    }
}
