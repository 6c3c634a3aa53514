//! PriorityLevelConfiguration: how many requests of a level run at once, and what the others do.
//!
//! Invariants:
//! - PL-1: the spec of a mandatory level is fixed, but for what `exempt` lends.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{bootstrap, check_conditions};
use crate::access::{copy_field, has, int, obj, opt_int, same, set, set_missing, set_zero, text};
use crate::checks::{keep_metadata, keep_spec_or_status, name, spec, start_generation};
use crate::godump;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct PriorityLevelConfiguration;

pub fn kind() -> Kind {
    const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
    const DEFINITION: &str = "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration";
    const KIND: &str = "PriorityLevelConfiguration";
    Kind::builtin(
        GROUP_VERSION,
        KIND,
        "prioritylevelconfigurations",
        Scope::Cluster,
        DEFINITION,
        PriorityLevelConfiguration,
    )
    .with_subresource("status", GROUP_VERSION, KIND, &["get", "patch", "update"])
}

const EXEMPT: &str = "exempt";
const DEFAULT_SHARES: i64 = 30;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of hash that shuffle sharding has.
const MAX_HASH_BITS: u32 = 60;

impl Strategy for PriorityLevelConfiguration {
    fn default(&self, object: &mut Value) {
        if let Some(limited) = object.pointer_mut("/spec/limited").filter(|v| v.is_object()) {
            set_missing(limited, "nominalConcurrencyShares", DEFAULT_SHARES);
            set_missing(limited, "lendablePercent", 0);
            if let Some(queuing) = limited.pointer_mut("/limitResponse/queuing").filter(|v| v.is_object()) {
                set_zero(queuing, "handSize", 8);
                set_zero(queuing, "queues", 64);
                set_zero(queuing, "queueLengthLimit", 50);
            }
        }
        if let Some(exempt) = object.pointer_mut("/spec/exempt").filter(|v| v.is_object()) {
            set_missing(exempt, "nominalConcurrencyShares", 0);
            set_missing(exempt, "lendablePercent", 0);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({}));
        start_generation(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        keep_spec_or_status(cx, object, old);
        if cx.subresource == "status" {
            keep_metadata(object, old);
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        check_spec(&mut errors, &path, name(object), spec(object));
        check_mandatory(&mut errors, path, object);
        check_conditions(&mut errors, object);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == "status" {
            let mut errors = ErrorList::new();
            check_conditions(&mut errors, object);
            return errors;
        }
        self.validate(cx, object)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let limited = obj(spec(object), "limited");
        let queuing = obj(obj(limited, "limitResponse"), "queuing");
        let shown = |value: &Value, key: &str| opt_int(value, key).map_or(json!("<none>"), |n| json!(n));
        vec![
            name_of(object),
            json!(text(spec(object), "type")),
            shown(limited, "nominalConcurrencyShares"),
            shown(queuing, "queues"),
            shown(queuing, "handSize"),
            shown(queuing, "queueLengthLimit"),
            age_of(object, now),
        ]
    }
}

fn check_mandatory(errors: &mut ErrorList, path: Path, object: &Value) {
    let Some(mut fixed) = bootstrap::mandatory("PriorityLevelConfiguration", name(object)) else { return };
    let dump = || godump::dump("PriorityLevelConfigurationSpec", spec(object));
    if name(object) == EXEMPT {
        if let Some(fixed) = fixed.get_mut("spec") {
            copy_field(fixed, spec(object), EXEMPT);
        }
        if !same(spec(object), spec(&fixed)) {
            let detail = "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value";
            errors.invalid_text(path, &dump(), detail);
        }
    } else if !same(spec(object), spec(&fixed)) {
        errors.invalid_text(path, &dump(), &format!("spec of '{}' must equal the fixed value", name(object)));
    }
}

fn check_spec(errors: &mut ErrorList, path: &Path, name: &str, spec: &Value) {
    let ty = text(spec, "type");
    if (name == EXEMPT) != (ty == "Exempt") {
        errors.invalid(path.child("type"), ty, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match ty {
        "Exempt" => {
            if has(spec, "limited") {
                errors.forbidden(path.child("limited"), "must be nil if the type is not Limited");
            }
            let (exempt, path) = (obj(spec, EXEMPT), path.child(EXEMPT));
            check_shares(errors, &path, exempt);
            check_percent(errors, &path, exempt);
        }
        "Limited" => {
            if has(spec, EXEMPT) {
                errors.forbidden(path.child(EXEMPT), "must be nil if the type is Limited");
            }
            if has(spec, "limited") {
                check_limited(errors, &path.child("limited"), obj(spec, "limited"));
            } else {
                errors.required(path.child("limited"), "must not be empty when type is Limited");
            }
        }
        _ => errors.not_supported(path.child("type"), ty, &["Exempt", "Limited"]),
    }
}

fn check_shares(errors: &mut ErrorList, path: &Path, level: &Value) {
    let shares = int(level, "nominalConcurrencyShares");
    if shares < 0 {
        errors.invalid(path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
}

fn check_percent(errors: &mut ErrorList, path: &Path, level: &Value) {
    if let Some(percent) = opt_int(level, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn check_limited(errors: &mut ErrorList, path: &Path, limited: &Value) {
    check_shares(errors, path, limited);
    check_response(errors, &path.child("limitResponse"), obj(limited, "limitResponse"));
    check_percent(errors, path, limited);
    if let Some(limit) = opt_int(limited, "borrowingLimitPercent").filter(|limit| *limit < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(path.child("borrowingLimitPercent"), limit, detail);
    }
}

fn check_response(errors: &mut ErrorList, path: &Path, response: &Value) {
    let (queuing, at) = (obj(response, "queuing"), path.child("queuing"));
    match (text(response, "type"), queuing.is_null()) {
        ("Reject", true) => {}
        ("Reject", false) => errors.forbidden(at, "must be nil if limited.limitResponse.type is not Limited"),
        ("Queue", true) => errors.required(at, "must not be empty if limited.limitResponse.type is Limited"),
        ("Queue", false) => check_queuing(errors, &at, queuing),
        (ty, _) => errors.not_supported(path.child("type"), ty, &["Queue", "Reject"]),
    }
}

fn check_queuing(errors: &mut ErrorList, path: &Path, queuing: &Value) {
    let (queues, hand) = (int(queuing, "queues"), int(queuing, "handSize"));
    let length = int(queuing, "queueLengthLimit");
    if length <= 0 {
        errors.invalid(path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(path.child("queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        errors.invalid(path.child("queues"), queues, &format!("must not be greater than {MAX_QUEUES}"));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(at, hand, &format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > MAX_HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        errors.invalid(at, hand, &detail);
    }
}

/// Bits of hash that choosing `hand` of `deck` queues takes (upstream's shuffle sharding).
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    ((deck as f64).log2() * hand as f64).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created};

    #[test]
    fn defaults() {
        let object =
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        let made = created(&PriorityLevelConfiguration, object);
        assert_eq!(
            made["spec"]["limited"],
            json!({
                "nominalConcurrencyShares": 30, "lendablePercent": 0,
                "limitResponse": {"type": "Queue", "queuing": {"handSize": 8, "queues": 64, "queueLengthLimit": 50}},
            })
        );
    }

    #[test]
    fn exempt_is_for_exempt() {
        let errors = |name: &str, spec: Value| {
            create_errors(&PriorityLevelConfiguration, json!({"metadata": {"name": name}, "spec": spec}))
        };
        assert_eq!(
            errors("a", json!({"type": "Exempt", "exempt": {}})),
            ["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"]
        );
        assert!(errors("exempt", json!({"type": "Exempt", "exempt": {"lendablePercent": 50}})).is_empty());
        let limited = json!({"limitResponse": {"type": "Queue", "queuing": {"queues": 128, "handSize": 20}}});
        assert_eq!(
            errors("a", json!({"type": "Limited", "limited": limited})),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 20: required entropy bits of deckSize 128 and handSize 20 should not be greater than 60"
            ]
        );
    }
}
