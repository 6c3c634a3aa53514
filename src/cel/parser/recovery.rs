//! Taking tokens, and ANTLR's default way out of an error.

use crate::lexer::{Tok, Token};
use crate::source::{Issue, NO_LOCATION};

use super::Parser;

/// How often an error may be recovered from.
const MAX_ATTEMPTS: usize = 30;

/// A set of token kinds.
#[derive(Clone, Copy)]
pub struct Set(u64);

impl Set {
    pub const fn of(kinds: &[Tok]) -> Set {
        let mut bits = 0;
        let mut at = 0;
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u64;
            at += 1;
        }
        Set(bits)
    }

    pub const fn and(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    pub const fn has(self, kind: Tok) -> bool {
        self.0 & (1 << kind as u64) != 0
    }
}

const ALL: &[Tok] = &[
    Tok::Eof,
    Tok::EqEq,
    Tok::NotEq,
    Tok::In,
    Tok::Less,
    Tok::LessEq,
    Tok::GreaterEq,
    Tok::Greater,
    Tok::And,
    Tok::Or,
    Tok::LBracket,
    Tok::RBracket,
    Tok::LBrace,
    Tok::RBrace,
    Tok::LParen,
    Tok::RParen,
    Tok::Dot,
    Tok::Comma,
    Tok::Minus,
    Tok::Bang,
    Tok::Question,
    Tok::Colon,
    Tok::Plus,
    Tok::Star,
    Tok::Slash,
    Tok::Percent,
    Tok::True,
    Tok::False,
    Tok::Null,
    Tok::Float,
    Tok::Int,
    Tok::Uint,
    Tok::Str,
    Tok::Bytes,
    Tok::Ident,
    Tok::EscIdent,
];

impl std::fmt::Display for Set {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = ALL.iter().filter(|kind| self.has(**kind)).map(|kind| kind.display()).collect();
        match names.as_slice() {
            [one] => out.write_str(one),
            _ => write!(out, "{{{}}}", names.join(", ")),
        }
    }
}

/// The rule was given up; its error is reported already.
#[derive(Debug)]
pub struct Abort;

pub type Parsed<T> = Result<T, Abort>;

impl Parser<'_> {
    pub(super) fn kind(&self) -> Tok {
        self.peek(0)
    }

    pub(super) fn peek(&self, ahead: usize) -> Tok {
        self.tokens.tokens.get(self.at + ahead).map_or(Tok::Eof, |token| token.kind)
    }

    fn token(&self, at: usize) -> Token {
        let last = self.tokens.tokens.len() - 1;
        self.tokens.tokens[at.min(last)]
    }

    pub(super) fn text_of(&self, at: usize) -> String {
        let token = self.token(at);
        self.tokens.text(token.start, token.end)
    }

    /// Takes the current token, which is one that the grammar wants here.
    pub(super) fn take(&mut self) -> usize {
        self.recovering = false;
        self.last_error = None;
        self.skip()
    }

    fn skip(&mut self) -> usize {
        let at = self.at;
        if self.at + 1 < self.tokens.tokens.len() {
            self.at += 1;
        }
        at
    }

    /// Takes a token of the kind; `after` is what may come next within the rule.
    pub(super) fn expect(&mut self, kind: Tok, after: Set) -> Parsed<usize> {
        if self.kind() == kind {
            return Ok(self.take());
        }
        let want = Set::of(&[kind]);
        if want.has(self.peek(1)) && self.kind() != Tok::Eof {
            self.unwanted(want);
            return Ok(self.take());
        }
        if self.may_follow(after).has(self.kind()) && kind != Tok::Eof {
            let message = format!("missing {} at {}", kind.display(), self.quoted(self.at));
            self.report(self.at, message);
            return Ok(self.at);
        }
        self.mismatch(want)
    }

    /// What may come after a closing token: what its rule says, operators, and what may follow the expression.
    fn may_follow(&self, after: Set) -> Set {
        self.follows.iter().rev().find(|set| set.has(Tok::And)).map_or(after, |set| after.and(*set))
    }

    /// Checks that one of the kinds is next; deletes one token where that helps.
    pub(super) fn sync(&mut self, want: Set) -> Parsed<()> {
        if want.has(self.kind()) || self.fatal {
            return if self.fatal { Err(Abort) } else { Ok(()) };
        }
        if self.kind() != Tok::Eof && want.has(self.peek(1)) {
            self.unwanted(want);
            return Ok(());
        }
        self.mismatch(want)
    }

    fn unwanted(&mut self, want: Set) {
        let message = format!("extraneous input {} expecting {want}", self.quoted(self.at));
        self.report(self.at, message);
        self.skip();
        self.recovering = false;
    }

    fn mismatch<T>(&mut self, want: Set) -> Parsed<T> {
        let message = format!("mismatched input {} expecting {want}", self.quoted(self.at));
        self.report(self.at, message);
        Err(Abort)
    }

    /// No alternative fits the tokens from `first` to `offending`.
    pub(super) fn no_viable<T>(&mut self, first: usize, offending: usize) -> Parsed<T> {
        let offending = offending.min(self.tokens.tokens.len() - 1);
        let start = self.token(first).start;
        let mut end = self.token(offending).end;
        if self.token(offending).kind == Tok::Eof {
            end = self.token(offending.max(first + 1) - 1).end;
        }
        let text = escape(&self.tokens.text(start, end.max(start)));
        self.report(offending, format!("no viable alternative at input '{text}'"));
        Err(Abort)
    }

    /// Skips to a token that may follow one of the rules being parsed.
    pub(super) fn recover(&mut self) {
        if self.fatal {
            return;
        }
        self.attempts += 1;
        if self.attempts > MAX_ATTEMPTS {
            self.recovering = false;
            self.report(self.at, format!("error recovery attempt limit exceeded: {MAX_ATTEMPTS}"));
            self.stop();
            return;
        }
        if self.last_error == Some(self.at) {
            self.skip();
        }
        self.last_error = Some(self.at);
        let follow = self.follows.iter().fold(Set::of(&[Tok::Eof]), |all, set| all.and(*set));
        while !follow.has(self.kind()) {
            self.skip();
        }
    }

    fn quoted(&self, at: usize) -> String {
        if self.token(at).kind == Tok::Eof {
            return "'<EOF>'".to_owned();
        }
        format!("'{}'", escape(&self.text_of(at)))
    }

    fn report(&mut self, token: usize, message: String) {
        if self.recovering || self.fatal {
            return;
        }
        self.recovering = true;
        let at = self.source.location(self.token(token).start);
        self.issues.push(Issue { at, message: format!("Syntax error: {message}") });
    }

    /// A limit was passed: says so, and ends the parsing.
    pub(super) fn limit(&mut self, message: String) {
        if !self.fatal {
            self.issues.push(Issue { at: NO_LOCATION, message });
        }
        self.stop();
    }

    fn stop(&mut self) {
        self.fatal = true;
        self.at = self.tokens.tokens.len() - 1;
    }
}

fn escape(text: &str) -> String {
    text.replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}
