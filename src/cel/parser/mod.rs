//! From text to the expression tree, with the syntax errors that cel-go's ANTLR parser reports.
//!
//! The grammar is parsed by descent; errors follow ANTLR's default strategy (delete one token, insert one token,
//! else give up the rule and skip to what may follow it), so that messages and their number come out equal.
//!
//! Invariants:
//! - CEL-P1: any text ends in a tree or in issues, never in a panic; nesting is bounded by the recursion limit.

mod build;
mod literal;
mod macros;
mod recovery;

#[cfg(test)]
mod tests;

use crate::ast::{Entry, Expr, FieldInit, Id, Kind};
use crate::lexer::{Tok, Tokens, lex};
use crate::limits::{MAX_EXPRESSION_SIZE, MAX_RECURSION_DEPTH};
use crate::source::{Issue, NO_LOCATION, Source};

use recovery::{Abort, Parsed, Set};

/// A parsed expression and where each of its nodes is (offset in characters, by id).
pub struct Ast {
    pub root: Expr,
    pub positions: Vec<u32>,
}

/// Parses an expression.
pub fn parse(source: &Source<'_>) -> Result<Ast, Vec<Issue>> {
    let size = source.text.chars().count();
    if size > MAX_EXPRESSION_SIZE {
        let message = format!("expression code point size exceeds limit: size: {size}, limit {MAX_EXPRESSION_SIZE}");
        return Err(vec![Issue { at: NO_LOCATION, message }]);
    }
    let mut issues = Vec::new();
    let tokens = lex(source, &mut issues);
    let mut parser = Parser {
        source,
        tokens,
        at: 0,
        issues,
        recovering: false,
        follows: Vec::new(),
        last_error: None,
        attempts: 0,
        depth: 0,
        fatal: false,
        positions: Vec::new(),
        macro_at: None,
    };
    let root = parser.start();
    let Parser { issues, positions, .. } = parser;
    if issues.is_empty() { Ok(Ast { root, positions }) } else { Err(issues) }
}

struct Parser<'s> {
    source: &'s Source<'s>,
    tokens: Tokens,
    at: usize,
    issues: Vec<Issue>,
    /// After an error, until a token matches: no further errors are reported.
    recovering: bool,
    /// What may follow each rule that is being parsed.
    follows: Vec<Set>,
    last_error: Option<usize>,
    attempts: usize,
    depth: usize,
    /// A limit was passed: nothing more is reported.
    fatal: bool,
    positions: Vec<u32>,
    /// While a macro is expanded: where its call is.
    macro_at: Option<usize>,
}

const LITERAL: Set =
    Set::of(&[Tok::True, Tok::False, Tok::Null, Tok::Float, Tok::Int, Tok::Uint, Tok::Str, Tok::Bytes, Tok::Ident]);
const PRIMARY: Set = LITERAL.and(Set::of(&[Tok::LBracket, Tok::LBrace, Tok::LParen, Tok::Dot, Tok::Minus]));
const START: Set = PRIMARY.and(Set::of(&[Tok::Bang]));
const RELATION: Set = Set::of(&[Tok::EqEq, Tok::NotEq, Tok::In, Tok::Less, Tok::LessEq, Tok::GreaterEq, Tok::Greater]);
const CALC: Set = Set::of(&[Tok::Minus, Tok::Plus, Tok::Star, Tok::Slash, Tok::Percent]);
const OPERATORS: Set = RELATION.and(CALC).and(Set::of(&[Tok::And, Tok::Or]));
const SUFFIX: Set = Set::of(&[Tok::Dot, Tok::LBracket]);

impl Parser<'_> {
    fn start(&mut self) -> Expr {
        let root = self.expr(Set::of(&[Tok::Eof]));
        if self.expect(Tok::Eof, Set::of(&[])).is_err() {
            self.recover();
        }
        root
    }

    fn expr(&mut self, follow: Set) -> Expr {
        self.depth += 1;
        if self.depth > MAX_RECURSION_DEPTH {
            self.limit(format!("expression recursion limit exceeded: {MAX_RECURSION_DEPTH}"));
        }
        self.follows.push(follow.and(OPERATORS).and(Set::of(&[Tok::Question])));
        let parsed = self.ternary(follow);
        self.follows.pop();
        self.depth -= 1;
        parsed.unwrap_or_else(|Abort| {
            self.follows.push(follow);
            self.recover();
            self.follows.pop();
            self.error_expr()
        })
    }

    fn ternary(&mut self, follow: Set) -> Parsed<Expr> {
        let condition = self.or();
        if self.kind() != Tok::Question {
            return Ok(condition);
        }
        let op = self.take();
        self.follows.push(Set::of(&[Tok::Colon]));
        let then = self.or();
        self.follows.pop();
        self.expect(Tok::Colon, START)?;
        let otherwise = self.expr(follow);
        Ok(self.call(op, "_?_:_", vec![condition, then, otherwise]))
    }

    fn or(&mut self) -> Expr {
        let mut terms = vec![self.and()];
        let mut ops = Vec::new();
        while self.kind() == Tok::Or {
            ops.push(self.take());
            terms.push(self.and());
        }
        self.balance("_||_", terms, &ops)
    }

    fn and(&mut self) -> Expr {
        let mut terms = vec![self.relation()];
        let mut ops = Vec::new();
        while self.kind() == Tok::And {
            ops.push(self.take());
            terms.push(self.relation());
        }
        self.balance("_&&_", terms, &ops)
    }

    fn relation(&mut self) -> Expr {
        let mut left = self.sum();
        while RELATION.has(self.kind()) {
            let function = match self.kind() {
                Tok::EqEq => "_==_",
                Tok::NotEq => "_!=_",
                Tok::In => "@in",
                Tok::Less => "_<_",
                Tok::LessEq => "_<=_",
                Tok::GreaterEq => "_>=_",
                _ => "_>_",
            };
            let op = self.take();
            let right = self.sum();
            left = self.call(op, function, vec![left, right]);
        }
        left
    }

    fn sum(&mut self) -> Expr {
        let mut left = self.product();
        while matches!(self.kind(), Tok::Plus | Tok::Minus) {
            let function = if self.kind() == Tok::Plus { "_+_" } else { "_-_" };
            let op = self.take();
            let right = self.product();
            left = self.call(op, function, vec![left, right]);
        }
        left
    }

    fn product(&mut self) -> Expr {
        let mut left = self.unary();
        while matches!(self.kind(), Tok::Star | Tok::Slash | Tok::Percent) {
            let function = match self.kind() {
                Tok::Star => "_*_",
                Tok::Slash => "_/_",
                _ => "_%_",
            };
            let op = self.take();
            let right = self.unary();
            left = self.call(op, function, vec![left, right]);
        }
        left
    }

    fn unary(&mut self) -> Expr {
        self.unary_rule().unwrap_or_else(|Abort| {
            self.recover();
            self.error_expr()
        })
    }

    fn unary_rule(&mut self) -> Parsed<Expr> {
        self.sync(START)?;
        match self.kind() {
            Tok::Bang => {
                let op = self.at;
                let mut count = 0;
                while self.kind() == Tok::Bang {
                    self.take();
                    count += 1;
                }
                let operand = self.member();
                Ok(if count % 2 == 0 { operand } else { self.call(op, "!_", vec![operand]) })
            }
            Tok::Minus if !matches!(self.peek(1), Tok::Int | Tok::Float) => {
                let op = self.at;
                let mut count = 0;
                while self.kind() == Tok::Minus {
                    if !PRIMARY.has(self.peek(1)) {
                        return self.no_viable(self.at, self.at + 1);
                    }
                    self.take();
                    count += 1;
                }
                let operand = self.member();
                Ok(if count % 2 == 0 { operand } else { self.call(op, "-_", vec![operand]) })
            }
            _ => Ok(self.member()),
        }
    }

    fn member(&mut self) -> Expr {
        self.follows.push(SUFFIX);
        let primary = self.primary().unwrap_or_else(|Abort| {
            self.recover();
            self.error_expr()
        });
        self.follows.pop();
        self.suffixes(primary).unwrap_or_else(|Abort| {
            self.recover();
            self.error_expr()
        })
    }

    fn suffixes(&mut self, mut operand: Expr) -> Parsed<Expr> {
        loop {
            match self.kind() {
                Tok::Dot => {
                    let optional = self.peek(1) == Tok::Question;
                    let name_at = self.at + 1 + usize::from(optional);
                    let name = self.tokens.tokens.get(name_at).map_or(Tok::Eof, |token| token.kind);
                    if !matches!(name, Tok::Ident | Tok::EscIdent) {
                        return self.no_viable(self.at, name_at);
                    }
                    let op = self.take();
                    if optional {
                        self.take();
                    }
                    let field_at = self.take();
                    let field = self.field_name(field_at);
                    if optional {
                        let name = self.literal(field_at, crate::value::Const::String(field.into_boxed_str()));
                        operand = self.call(op, "_?._", vec![operand, name]);
                    } else if self.kind() == Tok::LParen && name == Tok::Ident {
                        let open = self.take();
                        let args = self.args()?;
                        operand = self.member_call(open, &field, operand, args);
                    } else {
                        let id = self.id(op);
                        operand = self.node(id, Kind::Select { operand: Box::new(operand), field, test_only: false });
                    }
                }
                Tok::LBracket => {
                    let op = self.take();
                    let optional = self.kind() == Tok::Question;
                    if optional {
                        self.take();
                    }
                    let index = self.expr(Set::of(&[Tok::RBracket]));
                    self.expect(Tok::RBracket, SUFFIX)?;
                    let function = if optional { "_[?_]" } else { "_[_]" };
                    operand = self.call(op, function, vec![operand, index]);
                }
                _ => return Ok(operand),
            }
            if self.fatal {
                return Ok(operand);
            }
        }
    }

    /// Arguments of a call, from after the opening parenthesis to after the closing one.
    fn args(&mut self) -> Parsed<Vec<Expr>> {
        self.sync(START.and(Set::of(&[Tok::RParen])))?;
        let mut args = Vec::new();
        if self.kind() != Tok::RParen {
            let follow = Set::of(&[Tok::Comma, Tok::RParen]);
            args.push(self.expr(follow));
            while self.kind() == Tok::Comma && !self.fatal {
                self.take();
                args.push(self.expr(follow));
            }
        }
        self.expect(Tok::RParen, SUFFIX)?;
        Ok(args)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        self.sync(PRIMARY)?;
        match self.kind() {
            Tok::LParen => {
                self.take();
                let inner = self.expr(Set::of(&[Tok::RParen]));
                self.expect(Tok::RParen, SUFFIX)?;
                Ok(inner)
            }
            Tok::LBracket => self.list(),
            Tok::LBrace => self.map(),
            Tok::Dot | Tok::Ident => self.name(),
            _ => self.constant(),
        }
    }

    fn list(&mut self) -> Parsed<Expr> {
        let open = self.take();
        let id = self.id(open);
        let close = Set::of(&[Tok::RBracket, Tok::Comma]);
        self.sync(START.and(close).and(Set::of(&[Tok::Question])))?;
        let mut elements = Vec::new();
        let mut optional = Vec::new();
        if !close.has(self.kind()) {
            let parsed = self.elements(close, &mut elements, &mut optional);
            self.finish(parsed, close)?;
        }
        if self.kind() == Tok::Comma {
            self.take();
        }
        self.expect(Tok::RBracket, SUFFIX)?;
        Ok(self.node(id, Kind::List { elements, optional }))
    }

    fn map(&mut self) -> Parsed<Expr> {
        let open = self.take();
        let id = self.id(open);
        let close = Set::of(&[Tok::RBrace, Tok::Comma]);
        self.sync(START.and(close).and(Set::of(&[Tok::Question])))?;
        let mut entries = Vec::new();
        if !close.has(self.kind()) {
            let parsed = self.entries(close, &mut entries);
            self.finish(parsed, close)?;
        }
        if self.kind() == Tok::Comma {
            self.take();
        }
        self.expect(Tok::RBrace, SUFFIX)?;
        Ok(self.node(id, Kind::Map(entries)))
    }

    /// An identifier, a call, or a message, with or without a leading dot.
    fn name(&mut self) -> Parsed<Expr> {
        let first = self.at;
        let dot = usize::from(self.kind() == Tok::Dot);
        if self.peek(dot) != Tok::Ident {
            return self.no_viable(first, first + dot);
        }
        let mut end = dot + 1;
        while self.peek(end) == Tok::Dot && self.peek(end + 1) == Tok::Ident {
            end += 2;
        }
        if self.peek(end) == Tok::LBrace {
            return self.message(first + end);
        }
        for _ in 0..dot {
            self.take();
        }
        let name_at = self.take();
        let word = self.text_of(name_at);
        let reserved = self.check_reserved(name_at, &word);
        let word = if dot == 1 { format!(".{word}") } else { word };
        if self.kind() == Tok::LParen {
            let open = self.take();
            let args = self.args()?;
            return Ok(self.global_call(open, &word, args));
        }
        let id = self.id(name_at);
        Ok(self.node(id, if reserved { Kind::Error } else { Kind::Ident(word) }))
    }

    fn message(&mut self, brace: usize) -> Parsed<Expr> {
        let mut name = String::new();
        while self.at < brace {
            let at = self.take();
            name.push_str(&self.text_of(at));
        }
        let open = self.take();
        let id = self.id(open);
        let close = Set::of(&[Tok::RBrace, Tok::Comma]);
        let field = Set::of(&[Tok::Question, Tok::Ident, Tok::EscIdent]);
        self.sync(close.and(field))?;
        let mut fields = Vec::new();
        if !close.has(self.kind()) {
            let parsed = self.fields(close, &mut fields);
            self.finish(parsed, close)?;
        }
        if self.kind() == Tok::Comma {
            self.take();
        }
        self.expect(Tok::RBrace, SUFFIX)?;
        Ok(self.node(id, Kind::Struct { name, fields }))
    }

    fn elements(&mut self, close: Set, elements: &mut Vec<Expr>, optional: &mut Vec<usize>) -> Parsed<()> {
        loop {
            if self.kind() == Tok::Question {
                self.take();
                optional.push(elements.len());
            }
            elements.push(self.expr(close));
            if !self.another(Tok::RBracket)? {
                return Ok(());
            }
        }
    }

    fn entries(&mut self, close: Set, entries: &mut Vec<Entry>) -> Parsed<()> {
        loop {
            let optional = self.kind() == Tok::Question;
            if optional {
                self.take();
            }
            let key = self.expr(Set::of(&[Tok::Colon]));
            let colon = self.expect(Tok::Colon, START)?;
            let id = self.id(colon);
            let value = self.expr(close);
            entries.push(Entry { id, key, value, optional });
            if !self.another(Tok::RBrace)? {
                return Ok(());
            }
        }
    }

    fn fields(&mut self, close: Set, fields: &mut Vec<FieldInit>) -> Parsed<()> {
        loop {
            let optional = self.kind() == Tok::Question;
            if optional {
                self.take();
            }
            self.sync(Set::of(&[Tok::Ident, Tok::EscIdent]))?;
            let name_at = self.take();
            let name = self.field_name(name_at);
            let colon = self.expect(Tok::Colon, START)?;
            let id = self.id(colon);
            let value = self.expr(close);
            fields.push(FieldInit { id, name, value, optional });
            if !self.another(Tok::RBrace)? {
                return Ok(());
            }
        }
    }

    /// After the content of brackets or braces: recovers within them where that is possible.
    fn finish(&mut self, parsed: Parsed<()>, close: Set) -> Parsed<()> {
        if parsed.is_err() {
            self.follows.push(close);
            self.recover();
            self.follows.pop();
            return Ok(());
        }
        self.sync(close)
    }

    /// Whether a comma and a further element follow; takes the comma.
    fn another(&mut self, close: Tok) -> Parsed<bool> {
        if self.kind() != Tok::Comma || self.fatal {
            return Ok(false);
        }
        let next = self.peek(1);
        if next == close {
            return Ok(false);
        }
        if !START.has(next) && !matches!(next, Tok::Question | Tok::EscIdent) {
            return self.no_viable(self.at, self.at + 1);
        }
        self.take();
        Ok(true)
    }

    fn id(&mut self, token: usize) -> Id {
        let offset = self.tokens.tokens[token].start;
        self.id_at(offset)
    }
}
