//! What each function does with values: one implementation a name, which tells its overloads apart by the values.
//!
//! Invariants:
//! - CEL-F1: a value of a type that no overload takes is the error "no such overload", never a panic.

mod convert;
mod format;
mod kube;
mod lists;
mod operators;
mod regex;
mod strings;

pub(crate) use lists::{map_insert, show_key};
pub(crate) use operators::{compare, in_collection};
pub(crate) use regex::{find_all_in, regex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::EvalError;
use crate::value::{Result, Value};

/// An implementation; the receiver of a member call is the first argument.
pub(crate) type Func = for<'a> fn(&[Value<'a>]) -> Result<Value<'a>>;

pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The implementation of a function.
pub(crate) fn lookup(name: &str) -> Option<Func> {
    operators::lookup(name)
        .or_else(|| convert::lookup(name))
        .or_else(|| strings::lookup(name))
        .or_else(|| lists::lookup(name))
        .or_else(|| kube::lookup(name))
}

/// "no such overload: name(types)", as extension functions say it.
fn no_overload<'a>(name: &str, args: &[Value<'a>]) -> Result<Value<'a>> {
    let types: Vec<String> = args.iter().map(Value::type_name).collect();
    Err(EvalError::new(format!("no such overload: {name}({})", types.join(", "))))
}
