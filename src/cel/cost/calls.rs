//! What calls can cost: cel-go's standard functions, and Kubernetes' own.

use crate::ast::{Expr, Kind};
use crate::ext;
use crate::formats::{MAX_FORMAT_SIZE, MAX_REGEX_SIZE};
use crate::limits::{
    LIST_CREATE_BASE_COST, REGEX_STRING_LENGTH_COST_FACTOR, STRING_TRAVERSAL_COST_FACTOR, STRUCT_CREATE_BASE_COST,
};
use crate::types::Type;
use crate::value::Const;

use super::{CostEstimate, Coster, EntrySize, Part, SizeEstimate};

const ONE: CostEstimate = CostEstimate::fixed(1);

/// The cost of a call apart from its arguments, and the size of its result.
type Estimate = (CostEstimate, Option<SizeEstimate>);

impl Coster<'_> {
    pub(super) fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> CostEstimate {
        if function == "dyn"
            && let [arg] = args
        {
            let cost = self.cost(arg);
            self.copy_sizes(expr, arg);
            return ONE.plus(cost);
        }
        let costs: Vec<CostEstimate> = args.iter().map(|arg| self.cost(arg)).collect();
        let parts: Vec<Part<'_>> = args.iter().map(|arg| self.part(arg)).collect();
        let overloads = self.notes.overloads(expr.id).to_vec();
        if overloads.is_empty() {
            return CostEstimate::default();
        }
        // A qualified name (`sets.contains`) is no receiver, and costs nothing.
        let qualified = target
            .and_then(Expr::qualified_name)
            .map(|prefix| format!("{prefix}.{function}"))
            .filter(|name| crate::decls::function(name).is_some());
        let target = if qualified.is_some() { None } else { target };
        let function = qualified.as_deref().unwrap_or(function);
        let mut sum = CostEstimate::default();
        let receiver = target.map(|target| {
            sum = sum.plus(self.cost(target));
            self.part(target)
        });
        let mut total = CostEstimate { min: u64::MAX, max: 0 };
        let mut result: Option<SizeEstimate> = None;
        for overload in overloads {
            let (cost, size) = self.overload(expr, function, overload, receiver.as_ref(), &parts, &costs);
            total = total.union(cost);
            if let Some(size) = size {
                result = Some(result.map_or(size, |before| before.union(size)));
            }
            let step = match overload {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(step), Some(of)) = (step, args.first()) {
                result = self.entry_size(of).map(|entry| entry.value);
                let mut path = self.path(of);
                path.push(step.to_owned());
                self.paths.insert(expr.id, path);
            }
            if result.is_none() {
                result = self.size(expr);
            }
        }
        if let Some(size) = result {
            self.computed.insert(expr.id, size);
        }
        sum.plus(total)
    }

    fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Part<'_>>,
        args: &[Part<'_>],
        costs: &[CostEstimate],
    ) -> Estimate {
        let all = costs.iter().fold(CostEstimate::default(), |sum, cost| sum.plus(*cost));
        if overload.starts_with("list_sets_") {
            let factor = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
            let size = self.arg_size(args, 0).times(self.arg_size(args, 1));
            return (size.by_factor(factor).plus(ONE).plus(all), None);
        }
        if let Some((cost, size)) = self.kubernetes(function, overload, target, args) {
            return (cost.plus(all), size);
        }
        match overload {
            "_&&_" | "logical_and" | "logical_or" => {
                let (left, right) = (costs[0], costs[1]);
                (CostEstimate { min: left.min, max: left.plus(right).max }, None)
            }
            "conditional" => {
                let size = self.known(&args[1]).union(self.known(&args[2]));
                let entry = EntrySize::union(self.entry_of(&args[1]), self.entry_of(&args[2]));
                if let Some(entry) = entry {
                    self.entries.insert(expr.id, entry);
                }
                (costs[0].plus(costs[1].union(costs[2])), Some(size))
            }
            "add_string" | "add_bytes" | "add_list" => {
                let size = self.known(&args[0]).plus(self.known(&args[1]));
                if let Some(entry) = EntrySize::union(self.entry_of(&args[0]), self.entry_of(&args[1])) {
                    self.entries.insert(expr.id, entry);
                }
                let cost = if overload == "add_list" { ONE } else { traverse(size) };
                (cost.plus(all), Some(size))
            }
            _ => {
                let (cost, size) = self.standard(overload, target, args);
                (cost.plus(all), size)
            }
        }
    }

    /// cel-go's own functions.
    fn standard(&self, overload: &str, target: Option<&Part<'_>>, args: &[Part<'_>]) -> Estimate {
        match (overload, target, args) {
            ("string_format", Some(target), _) => (traverse(self.known(target)), None),
            ("string_to_bytes", _, [arg]) => {
                let size = self.known(arg);
                (traverse(size), Some(SizeEstimate { min: size.min, max: size.max.saturating_mul(4) }))
            }
            ("bytes_to_string", _, [arg]) => {
                let size = self.known(arg);
                (traverse(size), Some(SizeEstimate { min: size.min / 4, max: size.max }))
            }
            ("strings_quote", _, [arg]) => {
                let size = self.known(arg);
                let max = size.max.saturating_mul(2).saturating_add(2);
                (traverse(size), Some(SizeEstimate { min: size.min.saturating_add(2), max }))
            }
            ("starts_with_string" | "ends_with_string", _, [arg]) => (traverse(self.known(arg)), None),
            ("in_list", _, [_, list]) => (self.known(list).by_factor(1.0), None),
            ("matches_string", Some(target), [pattern]) => {
                let text = traverse(self.known(target).plus(SizeEstimate::fixed(1)));
                (text.times(self.known(pattern).by_factor(REGEX_STRING_LENGTH_COST_FACTOR)), None)
            }
            ("contains_string", Some(target), [part]) => {
                (traverse(self.known(target)).times(traverse(self.known(part))), None)
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                _,
                [left, right],
            ) => {
                let max = self.known(left).max.min(self.known(right).max);
                (traverse(SizeEstimate { min: u64::from(max > 0), max }), None)
            }
            _ => (ONE, None),
        }
    }

    /// Kubernetes' functions, and those of cel-go that Kubernetes counts itself.
    fn kubernetes(
        &self,
        function: &str,
        overload: &str,
        target: Option<&Part<'_>>,
        args: &[Part<'_>],
    ) -> Option<Estimate> {
        Some(match function {
            "check" => (CostEstimate::fixed(350_000), None),
            "serviceAccount"
            | "path"
            | "group"
            | "resource"
            | "subresource"
            | "namespace"
            | "name"
            | "allowed"
            | "reason"
            | "error"
            | "errored"
            | "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast"
            | "format.named"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "major"
            | "minor"
            | "patch"
            | "getScheme"
            | "getHostname"
            | "getHost"
            | "getPort"
            | "getEscapedPath"
            | "getQuery" => (ONE, None),
            "fieldSelector" | "labelSelector" if args.len() == 1 => (selector(self.arg_size(args, 0)), None),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                let target = target?;
                let size = self.estimate_size(target);
                match self.element(target) {
                    Some(element) => {
                        let each = match element.ty {
                            Type::String | Type::Bytes => ONE.plus(traverse(self.estimate_size(&element))),
                            _ => ONE,
                        };
                        (size.times_cost(each), None)
                    }
                    None => (traverse(size), None),
                }
            }
            "url" | "jsonpatch.escapeKey" if args.len() == 1 => {
                let size = self.arg_size(args, 0);
                (traverse(size), Some(size))
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let size = self.estimate_size(target?);
                (traverse(size), Some(size))
            }
            "replace" if args.len() >= 2 => self.replace(target?, args),
            "split" => {
                let size = self.estimate_size(target?);
                let limit = match args.get(1).and_then(|arg| arg.expr).map(|expr| &expr.kind) {
                    Some(Kind::Literal(Const::Int(limit))) => *limit as u64,
                    _ => size.max,
                };
                (traverse_twice(size), Some(SizeEstimate { min: 0, max: limit }))
            }
            "join" => self.join(target?, args),
            "find" | "findAll" if !args.is_empty() => {
                let size = self.estimate_size(target?);
                let text = traverse(size.plus(SizeEstimate::fixed(1)));
                let pattern = self.arg_size(args, 0).by_factor(REGEX_STRING_LENGTH_COST_FACTOR);
                (text.times(pattern), Some(SizeEstimate { min: 0, max: size.max }))
            }
            "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                (traverse(self.arg_size(args, 0)), None)
            }
            "ip" if args.is_empty() => (ONE, None),
            "ip" => (traverse(self.arg_size(args, 0)), None),
            "ip.isCanonical" => (traverse_twice(self.arg_size(args, 0)), None),
            "containsIP" | "containsCIDR" if !args.is_empty() => {
                let bytes = SizeEstimate { min: 4, max: 16 };
                let mut cost = traverse(bytes.plus(bytes));
                if function == "containsCIDR" {
                    cost = cost.plus(traverse(bytes)).plus(ONE);
                }
                if matches!(overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
                    cost = cost.plus(traverse(self.arg_size(args, 0)));
                }
                (cost, None)
            }
            "validate" => {
                target?;
                let factor = MAX_REGEX_SIZE as f64 * REGEX_STRING_LENGTH_COST_FACTOR;
                (traverse(self.arg_size(args, 0)).by_factor(factor), None)
            }
            "_==_" => (self.equality(args)?, None),
            _ => return None,
        })
    }

    /// Equality of two values of one of Kubernetes' own types.
    fn equality(&self, args: &[Part<'_>]) -> Option<CostEstimate> {
        let [left, right] = args else { return None };
        let (Type::Opaque(left_name), Type::Opaque(right_name)) = (&left.ty, &right.ty) else { return None };
        if left_name != right_name {
            return None;
        }
        Some(match *left_name {
            ext::FORMAT => CostEstimate { min: 1, max: MAX_FORMAT_SIZE }.by_factor(STRING_TRAVERSAL_COST_FACTOR),
            ext::URL => {
                let max = right.computed.map_or(1, |size| size.max);
                CostEstimate { min: 1, max }.by_factor(STRING_TRAVERSAL_COST_FACTOR)
            }
            _ => ONE,
        })
    }

    fn replace(&self, target: &Part<'_>, args: &[Part<'_>]) -> Estimate {
        let size = self.estimate_size(target);
        let (from, to) = (self.arg_size(args, 0), self.arg_size(args, 1));
        let mut count = SizeEstimate::default();
        let mut kept = SizeEstimate::default();
        // The longest result: an empty text is found around every character.
        if from.min == 0 {
            count.max = size.max.saturating_add(1);
            kept.max = size.max;
        } else if to.max <= from.min {
            kept.max = size.max;
        } else {
            count.max = (size.max as f64 / from.min as f64).ceil() as u64;
        }
        if from.max == 0 {
            count.min = size.min.saturating_add(1);
            kept.min = size.min;
        } else if from.max <= to.min {
            kept.min = size.min;
        } else {
            count.min = (size.min as f64 / from.max as f64).ceil() as u64;
        }
        (traverse_twice(size), Some(count.times(to).plus(kept)))
    }

    fn join(&self, target: &Part<'_>, args: &[Part<'_>]) -> Estimate {
        let list = self.estimate_size(target);
        let mut size = match self.element(target) {
            Some(element) => list.times(self.estimate_size(&element)),
            None => SizeEstimate::default(),
        };
        if !args.is_empty() {
            let count = SizeEstimate { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
            size = size.plus(self.arg_size(args, 0).times(count));
        }
        (traverse(size), Some(size))
    }

    /// The elements of a list (or the keys of a map, as upstream takes the first parameter of any type).
    fn element<'e>(&self, list: &Part<'e>) -> Option<Part<'e>> {
        let ty = match &list.ty {
            Type::List(inner) | Type::Optional(inner) | Type::Map(inner, _) => (**inner).clone(),
            _ => return None,
        };
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push("@items".to_owned());
        }
        Some(Part { expr: None, ty, path, computed: None })
    }

    fn estimate_size(&self, part: &Part<'_>) -> SizeEstimate {
        part.computed.or_else(|| self.sizes.lookup(&part.path)).unwrap_or(SizeEstimate::UNKNOWN)
    }

    fn arg_size(&self, args: &[Part<'_>], at: usize) -> SizeEstimate {
        args.get(at).map_or(SizeEstimate::UNKNOWN, |arg| self.estimate_size(arg))
    }

    fn known(&self, part: &Part<'_>) -> SizeEstimate {
        part.computed.unwrap_or(SizeEstimate::UNKNOWN)
    }

    fn entry_of(&self, part: &Part<'_>) -> Option<EntrySize> {
        part.expr.and_then(|expr| self.entry_size(expr))
    }
}

fn traverse(size: SizeEstimate) -> CostEstimate {
    size.by_factor(STRING_TRAVERSAL_COST_FACTOR)
}

fn traverse_twice(size: SizeEstimate) -> CostEstimate {
    size.by_factor(2.0 * STRING_TRAVERSAL_COST_FACTOR)
}

fn selector(length: SizeEstimate) -> CostEstimate {
    let each = (LIST_CREATE_BASE_COST + STRUCT_CREATE_BASE_COST) as f64;
    CostEstimate::fixed(LIST_CREATE_BASE_COST).plus(traverse(length)).plus(length.by_factor(0.5).by_factor(each))
}
