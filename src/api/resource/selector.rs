//! Selectors of devices, in CEL.
//!
//! Invariants:
//! - DS-1: what is stored has been compiled once, with every limit of this file.

use std::sync::{Arc, OnceLock};

use apimachinery::validation::{ErrorList, Path};
use cel::{DeclType, Env, Program, QUANTITY, Shape, Sizes, Type};

const MAX_EXPRESSION: usize = 10 * 1024;
/// In CEL cost units.
const MAX_COST: u64 = 1_000_000;
/// Largest sizes: of a domain, an identifier, a driver's name, a text of an attribute, and of the maps.
const MAX_DRIVER: i64 = 63;
const MAX_TEXT: i64 = 64;
const MAX_ENTRIES: i64 = 32;

/// Adds the errors of one expression, as upstream words them.
pub(super) fn check(errors: &mut ErrorList, path: &Path, expression: &str) {
    if expression.len() > MAX_EXPRESSION {
        errors.too_long(path.clone(), "", MAX_EXPRESSION);
        return;
    }
    let (env, device) = environment();
    match Program::compile(env, expression) {
        Err(error) => errors.invalid(path.clone(), expression, &format!("compilation failed: {error}")),
        Ok(program) => {
            let ty = program.result_type();
            if !matches!(ty, Type::Bool | Type::Dyn) {
                let detail = format!("must evaluate to bool or the unknown type, not {ty}");
                errors.invalid(path.clone(), expression, &detail);
            } else if program.estimate_cost(&Sizes::of(device)).max > MAX_COST {
                errors.forbidden(path.clone(), "too complex, exceeds cost limit");
            }
        }
    }
}

/// What selectors see: the variable `device`.
fn environment() -> &'static (Env, DeclType) {
    static MADE: OnceLock<(Env, DeclType)> = OnceLock::new();
    MADE.get_or_init(|| {
        let attributes = by_domain(sized(Type::Dyn, MAX_TEXT));
        let capacity = by_domain(DeclType::of(Type::Opaque(QUANTITY)));
        let fields = [
            ("driver", sized(Type::String, MAX_DRIVER)),
            ("attributes", attributes),
            ("capacity", capacity),
            ("allowMultipleAllocations", DeclType::of(Type::Bool)),
        ];
        let fields = fields.into_iter().map(|(name, decl)| (name.to_owned(), cel::Field { decl, required: true }));
        let device = cel::ObjectType { name: "kubernetes.DRADevice".to_owned(), fields: fields.collect(), open: false };
        let device = Type::Object(Arc::new(device));
        (Env::kubernetes().with_variable("device", device.clone()), DeclType::of(device))
    })
}

fn sized(ty: Type, max_elements: i64) -> DeclType {
    DeclType { max_elements, ..DeclType::of(ty) }
}

/// A map by domain of maps by identifier.
fn by_domain(value: DeclType) -> DeclType {
    map_of(map_of(value))
}

fn map_of(value: DeclType) -> DeclType {
    DeclType {
        ty: Type::map(Type::String, value.ty.clone()),
        shape: Shape::Map(Arc::new(value)),
        max_elements: MAX_ENTRIES,
        min_serialized_size: 1,
        nullable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::messages;

    fn errors(expression: &str) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors, &Path::new("e"), expression);
        messages(&errors)
    }

    #[test]
    fn selectors() {
        for good in [
            "device.driver == 'a' && device.attributes['d.example.com'].model == 'x'",
            "device.capacity['d.example.com'].memory.compareTo(quantity('1Gi')) >= 0",
            "'x' in device.attributes['d.example.com'] || device.allowMultipleAllocations",
            "device.attributes['d.example.com'].bool",
        ] {
            assert!(errors(good).is_empty(), "{good}: {:?}", errors(good));
        }
        assert_eq!(errors("1"), ["e: Invalid value: \"1\": must evaluate to bool or the unknown type, not int"]);
        assert!(errors("device.nope")[0].contains("compilation failed: ERROR: <input>:1:7: undefined field 'nope'"));
    }
}
