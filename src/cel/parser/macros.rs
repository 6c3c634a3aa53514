//! Macros: `has`, the comprehensions of one and of two variables, `optMap`, `optFlatMap`.

use crate::ast::{ACCUMULATOR, Comprehension, Expr, Id, Kind};
use crate::value::Const;

use super::Parser;

/// Target and arguments, handed back where the call is no macro.
type Unexpanded = (Option<Expr>, Vec<Expr>);

impl Parser<'_> {
    /// Expands the call if it is one of a macro.
    pub(super) fn expand(
        &mut self,
        id: Id,
        function: &str,
        target: Option<Expr>,
        mut args: Vec<Expr>,
    ) -> Result<Expr, Unexpanded> {
        let at = self.positions[id as usize] as usize;
        let outer = self.macro_at.replace(at);
        let count = args.len();
        let expanded = match (target, function, count) {
            (None, "has", 1) => Ok(self.has(args.remove(0))),
            (Some(target), "all" | "exists" | "existsOne" | "exists_one", 2 | 3) => {
                Ok(self.quantifier(function, target, args))
            }
            (Some(target), "map", 2 | 3) | (Some(target), "filter", 2) => Ok(self.map_macro(function, target, args)),
            (Some(target), "transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
                Ok(self.transform(function, target, args))
            }
            (Some(target), "optMap" | "optFlatMap", 2) => Ok(self.opt_map(function, target, args)),
            (target, ..) => Err((target, args)),
        };
        self.macro_at = outer;
        expanded
    }

    fn has(&mut self, arg: Expr) -> Expr {
        match arg.kind {
            Kind::Select { operand, field, test_only: false } => {
                let id = self.id_at(0);
                self.node(id, Kind::Select { operand, field, test_only: true })
            }
            _ => self.macro_error(arg.id, "invalid argument to has() macro"),
        }
    }

    fn quantifier(&mut self, function: &str, target: Expr, mut args: Vec<Expr>) -> Expr {
        let predicate = args.pop().expect("macros are chosen by their number of arguments");
        let (var, var2) = match self.vars(&args, "argument must be a simple name") {
            Ok(vars) => vars,
            Err(error) => return error,
        };
        let accu = self.accu();
        let (init, condition, step, result) = match function {
            "all" => {
                let not_false = self.make("@not_strictly_false", vec![accu.clone()]);
                let step = self.make("_&&_", vec![accu.clone(), predicate]);
                (Const::Bool(true), not_false, step, accu)
            }
            "exists" => {
                let not = self.make("!_", vec![accu.clone()]);
                let not_true = self.make("@not_strictly_false", vec![not]);
                let step = self.make("_||_", vec![accu.clone(), predicate]);
                (Const::Bool(false), not_true, step, accu)
            }
            _ => {
                let one = self.constant_node(Const::Int(1));
                let more = self.make("_+_", vec![accu.clone(), one.clone()]);
                let step = self.make("_?_:_", vec![predicate, more, accu.clone()]);
                let always = self.constant_node(Const::Bool(true));
                let result = self.make("_==_", vec![accu, one]);
                (Const::Int(0), always, step, result)
            }
        };
        let init = self.constant_node(init);
        self.fold(target, var, var2, init, condition, step, result)
    }

    fn map_macro(&mut self, function: &str, target: Expr, mut args: Vec<Expr>) -> Expr {
        let last = args.pop().expect("macros are chosen by their number of arguments");
        let (var, _) = match self.vars(&args[..1], "argument is not an identifier") {
            Ok(vars) => vars,
            Err(error) => return error,
        };
        let first = args.swap_remove(0);
        let (value, filter) = match function {
            "filter" => (first, Some(last)),
            _ => (last, args.pop()),
        };
        let accu = self.accu();
        let element = self.list_node(vec![value]);
        let mut step = self.make("_+_", vec![accu.clone(), element]);
        if let Some(filter) = filter {
            step = self.make("_?_:_", vec![filter, step, accu.clone()]);
        }
        let init = self.list_node(Vec::new());
        let always = self.constant_node(Const::Bool(true));
        self.fold(target, var, None, init, always, step, accu)
    }

    fn transform(&mut self, function: &str, target: Expr, mut args: Vec<Expr>) -> Expr {
        let value = args.pop().expect("macros are chosen by their number of arguments");
        let filter = if args.len() == 3 { args.pop() } else { None };
        let (var, var2) = match self.vars(&args, "argument must be a simple name") {
            Ok(vars) => vars,
            Err(error) => return error,
        };
        let accu = self.accu();
        let mut step = match function {
            "transformList" => {
                let element = self.list_node(vec![value]);
                self.make("_+_", vec![accu.clone(), element])
            }
            "transformMap" => {
                let id = self.id_at(0);
                let key = self.node(id, Kind::Ident(var.clone()));
                self.make("cel.@mapInsert", vec![accu.clone(), key, value])
            }
            _ => self.make("cel.@mapInsert", vec![accu.clone(), value]),
        };
        if let Some(filter) = filter {
            step = self.make("_?_:_", vec![filter, step, accu.clone()]);
        }
        let init = if function == "transformList" {
            self.list_node(Vec::new())
        } else {
            let id = self.id_at(0);
            self.node(id, Kind::Map(Vec::new()))
        };
        let always = self.constant_node(Const::Bool(true));
        self.fold(target, var, var2, init, always, step, accu)
    }

    fn opt_map(&mut self, function: &str, target: Expr, mut args: Vec<Expr>) -> Expr {
        let body = args.pop().expect("macros are chosen by their number of arguments");
        let Some(var) = args[0].ident().map(str::to_owned) else {
            let message = format!("{function}() variable name must be a simple identifier");
            return self.macro_error(args[0].id, &message);
        };
        let has = self.make_member("hasValue", target.clone());
        let value = self.make_member("value", target);
        let range = self.list_node(Vec::new());
        let never = self.constant_node(Const::Bool(false));
        let id = self.id_at(0);
        let step = self.node(id, Kind::Ident(var.clone()));
        let id = self.id_at(0);
        let bind = self.node(
            id,
            Kind::Comprehension(Box::new(Comprehension {
                range,
                var: "#unused".to_owned(),
                var2: None,
                accu: var,
                init: value,
                condition: never,
                step,
                result: body,
            })),
        );
        let then = if function == "optMap" { self.make("optional.of", vec![bind]) } else { bind };
        let none = self.make("optional.none", Vec::new());
        self.make("_?_:_", vec![has, then, none])
    }

    /// The one or two iteration variables.
    fn vars(&mut self, args: &[Expr], message: &str) -> Result<(String, Option<String>), Expr> {
        let mut names = Vec::new();
        for arg in args {
            match arg.ident() {
                None => return Err(self.macro_error(arg.id, message)),
                Some(ACCUMULATOR) => {
                    return Err(self.macro_error(arg.id, "iteration variable overwrites accumulator variable"));
                }
                Some(name) => names.push(name.to_owned()),
            }
        }
        let mut names = names.into_iter();
        Ok((names.next().unwrap_or_default(), names.next()))
    }

    fn macro_error(&mut self, id: Id, message: &str) -> Expr {
        self.issue_at(id, message);
        self.error_expr()
    }

    fn accu(&mut self) -> Expr {
        let id = self.id_at(0);
        self.node(id, Kind::Ident(ACCUMULATOR.to_owned()))
    }

    fn make(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        let id = self.id_at(0);
        self.node(id, Kind::Call { function: function.to_owned(), target: None, args })
    }

    fn make_member(&mut self, function: &str, target: Expr) -> Expr {
        let id = self.id_at(0);
        self.node(id, Kind::Call { function: function.to_owned(), target: Some(Box::new(target)), args: Vec::new() })
    }

    fn list_node(&mut self, elements: Vec<Expr>) -> Expr {
        let id = self.id_at(0);
        self.node(id, Kind::List { elements, optional: Vec::new() })
    }

    fn constant_node(&mut self, constant: Const) -> Expr {
        let id = self.id_at(0);
        self.node(id, Kind::Literal(constant))
    }

    #[expect(clippy::too_many_arguments, reason = "a comprehension has this many parts")]
    fn fold(
        &mut self,
        range: Expr,
        var: String,
        var2: Option<String>,
        init: Expr,
        condition: Expr,
        step: Expr,
        result: Expr,
    ) -> Expr {
        let id = self.id_at(0);
        let accu = ACCUMULATOR.to_owned();
        let fold = Comprehension { range, var, var2, accu, init, condition, step, result };
        self.node(id, Kind::Comprehension(Box::new(fold)))
    }
}
