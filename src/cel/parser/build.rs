//! Making nodes.

use crate::ast::{Expr, Id, Kind};
use crate::escape::is_reserved;
use crate::lexer::Tok;
use crate::limits::{MAX_RECURSION_DEPTH, MAX_TREE_DEPTH};
use crate::source::Issue;
use crate::value::Const;

use super::Parser;

impl Parser<'_> {
    pub(super) fn id_at(&mut self, offset: usize) -> Id {
        let offset = self.macro_at.unwrap_or(offset);
        self.positions.push(u32::try_from(offset).unwrap_or(u32::MAX));
        (self.positions.len() - 1) as Id
    }

    pub(super) fn node(&mut self, id: Id, kind: Kind) -> Expr {
        let mut written = 0;
        let mut total = 0;
        let mut below = |child: &Expr| {
            written = written.max(child.depth);
            total = total.max(child.total);
        };
        match &kind {
            Kind::Literal(_) | Kind::Ident(_) | Kind::Error => {}
            Kind::Select { operand, .. } => below(operand),
            Kind::Call { target, args, .. } => target.as_deref().into_iter().chain(args).for_each(below),
            Kind::List { elements, .. } => elements.iter().for_each(below),
            Kind::Map(entries) => entries.iter().for_each(|entry| {
                below(&entry.key);
                below(&entry.value);
            }),
            Kind::Struct { fields, .. } => fields.iter().for_each(|field| below(&field.value)),
            Kind::Comprehension(fold) => {
                [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result].into_iter().for_each(below);
            }
        }
        // As written, a macro's own nodes do not count.
        let depth = written + u32::from(self.macro_at.is_none());
        let total = total + 1;
        if depth as usize > MAX_RECURSION_DEPTH || total as usize > MAX_TREE_DEPTH {
            self.limit("max recursion depth exceeded".to_owned());
        }
        Expr { id, kind, depth, total }
    }

    pub(super) fn error_expr(&mut self) -> Expr {
        let id = self.id_at(0);
        Expr { id, kind: Kind::Error, depth: 0, total: 0 }
    }

    pub(super) fn literal(&mut self, token: usize, constant: Const) -> Expr {
        let id = self.id(token);
        self.node(id, Kind::Literal(constant))
    }

    pub(super) fn call(&mut self, op: usize, function: &str, args: Vec<Expr>) -> Expr {
        let id = self.id(op);
        self.node(id, Kind::Call { function: function.to_owned(), target: None, args })
    }

    pub(super) fn global_call(&mut self, open: usize, function: &str, args: Vec<Expr>) -> Expr {
        let id = self.id(open);
        match self.expand(id, function, None, args) {
            Ok(expanded) => expanded,
            Err((_, args)) => self.node(id, Kind::Call { function: function.to_owned(), target: None, args }),
        }
    }

    pub(super) fn member_call(&mut self, open: usize, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        let id = self.id(open);
        match self.expand(id, function, Some(target), args) {
            Ok(expanded) => expanded,
            Err((target, args)) => {
                self.node(id, Kind::Call { function: function.to_owned(), target: target.map(Box::new), args })
            }
        }
    }

    /// A chain of one logical operator as a balanced tree, as cel-go builds it.
    pub(super) fn balance(&mut self, function: &str, terms: Vec<Expr>, ops: &[usize]) -> Expr {
        let ids: Vec<Id> = ops.iter().map(|op| self.id(*op)).collect();
        let mut terms: Vec<Option<Expr>> = terms.into_iter().map(Some).collect();
        self.balanced(function, &mut terms, &ids)
    }

    fn balanced(&mut self, function: &str, terms: &mut [Option<Expr>], ids: &[Id]) -> Expr {
        if ids.is_empty() {
            return terms[0].take().expect("each term is taken once");
        }
        let middle = ids.len() / 2;
        let (before, after) = terms.split_at_mut(middle + 1);
        let left = self.balanced(function, before, &ids[..middle]);
        let right = self.balanced(function, after, &ids[middle + 1..]);
        self.node(ids[middle], Kind::Call { function: function.to_owned(), target: None, args: vec![left, right] })
    }

    pub(super) fn field_name(&mut self, token: usize) -> String {
        let text = self.text_of(token);
        if self.tokens.tokens[token].kind == Tok::EscIdent {
            self.issue(token, "unsupported syntax: '`'".to_owned());
        }
        text
    }

    /// Whether the word is a reserved one, which is an issue.
    pub(super) fn check_reserved(&mut self, token: usize, word: &str) -> bool {
        let reserved = is_reserved(word);
        if reserved {
            self.issue(token, format!("reserved identifier: {word}"));
        }
        reserved
    }

    pub(super) fn issue(&mut self, token: usize, message: String) {
        let at = self.source.location(self.tokens.tokens[token].start);
        self.issues.push(Issue { at, message });
    }

    pub(super) fn issue_at(&mut self, id: Id, message: &str) {
        let at = self.source.location(self.positions[id as usize] as usize);
        self.issues.push(Issue { at, message: message.to_owned() });
    }
}
