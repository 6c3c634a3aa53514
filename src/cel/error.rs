//! The errors of compiling and of evaluating, with cel-go's texts.

use std::fmt;

/// Why an expression does not compile: what cel-go prints, one `ERROR: <input>:line:column: …` block per issue
/// (Kubernetes prefixes it with "compilation failed: ").
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompileError {
    /// Syntax or type errors.
    #[error("{0}")]
    Issues(String),
    /// The expression checks, but a constant part of it cannot be evaluated.
    #[error("{0}")]
    Instantiation(String),
}

/// Why an evaluation failed.
#[derive(Debug, Clone, PartialEq)]
pub enum EvalError {
    /// An error value of CEL: `no such key: x`, `index out of bounds: 3`, …
    Failed(Box<str>),
    /// The cost limit was passed; nothing absorbs this one.
    CostLimit,
}

impl EvalError {
    pub fn new(message: impl Into<String>) -> EvalError {
        EvalError::Failed(message.into().into_boxed_str())
    }

    pub(crate) fn no_such_overload() -> EvalError {
        EvalError::new("no such overload")
    }

    /// Whether the cost limit ended the evaluation.
    pub fn is_cost_limit(&self) -> bool {
        matches!(self, EvalError::CostLimit)
    }
}

impl std::error::Error for EvalError {}

impl fmt::Display for EvalError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvalError::Failed(message) => out.write_str(message),
            EvalError::CostLimit => out.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}
