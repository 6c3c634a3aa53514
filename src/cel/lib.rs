//! CEL as Kubernetes v1.36 uses it: parser, type checker, cost estimates, evaluator, libraries. Pure.
//!
//! No Rust crate has cel-go's type checker, its cost estimates or its texts, all of which are part of the API of
//! validation rules and admission policies, so this is a CEL of our own. The way of an expression: `parser` →
//! `checker` → `plan` (what can be decided once) → `eval`; `cost` estimates from the checked tree what `eval` counts.
//!
//! ```ignore
//! let decl = DeclType::from_openapi(&schema, true, "selfType").expect("an object schema");
//! let env = Env::kubernetes().with_variable("self", decl.ty.clone());
//! let program = Program::compile(&env, "self.replicas <= self.max")?;
//! let estimate = program.estimate_cost(&Sizes::of(&decl));
//! let value = Value::from_json(&object, Some(&decl))?;
//! let outcome = program.eval(&[("self", value)], PER_CALL_LIMIT);
//! ```
//!
//! Invariants:
//! - CEL-0: text from users never panics; nesting, size and run time are bounded.

mod actual;
pub mod ast;
mod authz;
mod checker;
mod cost;
mod decls;
mod env;
mod error;
mod escape;
mod eval;
mod ext;
mod formats;
mod fuel;
mod functions;
mod infer;
mod json;
mod lexer;
pub mod limits;
mod parser;
mod plan;
mod program;
mod schema;
mod semver;
mod source;
mod time;
mod types;
mod url;
mod value;

#[cfg(test)]
mod tables;

pub use authz::{Authorizer, Check, Decision, Question, Target};
pub use cost::{CostEstimate, SizeEstimate, Sizes};
pub use env::{Env, json_patch};
pub use error::{CompileError, EvalError};
pub use escape::{escape, is_reserved, unescape};
pub use ext::{AUTHORIZER, CIDR, Ext, FORMAT, IP, QUANTITY, RESOURCE_CHECK, SEMVER, URL};
pub use limits::*;
pub use program::{Bindings, Outcome, Program};
pub use schema::{DeclType, ListKind, Shape};
pub use semver::Semver;
pub use types::{Field, ObjectType, Type};
pub use value::{Const, Entries, Key, List, Lookup, Map, Str, Struct, Value};
