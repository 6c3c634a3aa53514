//! Upstream's cost limits, in CEL cost units (one unit is roughly 50 ns of work).

/// Runtime limit of one evaluation (roughly 0.1 s).
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Runtime limit of all the validation rules of one custom resource, or of all expressions of one admission policy.
pub const RUNTIME_CEL_COST_BUDGET: u64 = 10_000_000;
/// Runtime limit of all the match conditions of one webhook or policy.
pub const RUNTIME_CEL_COST_BUDGET_MATCH_CONDITIONS: u64 = 2_500_000;
/// Estimated limit of one rule of a CustomResourceDefinition.
pub const STATIC_ESTIMATED_COST_LIMIT: u64 = 10_000_000;
/// Estimated limit of all rules of one schema of a CustomResourceDefinition.
pub const STATIC_ESTIMATED_CRD_COST_LIMIT: u64 = 100_000_000;
/// Largest request that the size estimates assume, in bytes.
pub const MAX_REQUEST_SIZE_BYTES: i64 = 3 * 1024 * 1024;
/// Largest expression, in code points.
pub const MAX_EXPRESSION_SIZE: usize = 100_000;
/// Deepest nesting of an expression.
pub const MAX_RECURSION_DEPTH: usize = 250;

/// Deepest tree after macros are expanded, so that no walk of it needs more than a small stack.
pub(crate) const MAX_TREE_DEPTH: usize = 300;

pub(crate) const STRING_TRAVERSAL_COST_FACTOR: f64 = 0.1;
pub(crate) const REGEX_STRING_LENGTH_COST_FACTOR: f64 = 0.25;
pub(crate) const LIST_CREATE_BASE_COST: u64 = 10;
pub(crate) const MAP_CREATE_BASE_COST: u64 = 30;
pub(crate) const STRUCT_CREATE_BASE_COST: u64 = 40;
