//! Tokens of an expression, with the recognition errors that cel-go's ANTLR lexer reports.
//!
//! Invariants:
//! - CEL-L1: the longest token wins; text that starts no token is reported up to and with the character at which
//!   no token could go on, and is skipped.

use crate::source::{Issue, Source};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tok {
    Eof,
    EqEq,
    NotEq,
    In,
    Less,
    LessEq,
    GreaterEq,
    Greater,
    And,
    Or,
    LBracket,
    RBracket,
    LBrace,
    RBrace,
    LParen,
    RParen,
    Dot,
    Comma,
    Minus,
    Bang,
    Question,
    Colon,
    Plus,
    Star,
    Slash,
    Percent,
    True,
    False,
    Null,
    Float,
    Int,
    Uint,
    Str,
    Bytes,
    Ident,
    EscIdent,
}

impl Tok {
    /// How messages name this kind of token.
    pub fn display(self) -> &'static str {
        match self {
            Tok::Eof => "<EOF>",
            Tok::EqEq => "'=='",
            Tok::NotEq => "'!='",
            Tok::In => "'in'",
            Tok::Less => "'<'",
            Tok::LessEq => "'<='",
            Tok::GreaterEq => "'>='",
            Tok::Greater => "'>'",
            Tok::And => "'&&'",
            Tok::Or => "'||'",
            Tok::LBracket => "'['",
            Tok::RBracket => "']'",
            Tok::LBrace => "'{'",
            Tok::RBrace => "'}'",
            Tok::LParen => "'('",
            Tok::RParen => "')'",
            Tok::Dot => "'.'",
            Tok::Comma => "','",
            Tok::Minus => "'-'",
            Tok::Bang => "'!'",
            Tok::Question => "'?'",
            Tok::Colon => "':'",
            Tok::Plus => "'+'",
            Tok::Star => "'*'",
            Tok::Slash => "'/'",
            Tok::Percent => "'%'",
            Tok::True => "'true'",
            Tok::False => "'false'",
            Tok::Null => "'null'",
            Tok::Float => "NUM_FLOAT",
            Tok::Int => "NUM_INT",
            Tok::Uint => "NUM_UINT",
            Tok::Str => "STRING",
            Tok::Bytes => "BYTES",
            Tok::Ident => "IDENTIFIER",
            Tok::EscIdent => "ESC_IDENTIFIER",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Token {
    pub kind: Tok,
    /// In characters.
    pub start: usize,
    pub end: usize,
}

/// The characters of an expression and its tokens; the last token is `Eof`.
pub struct Tokens {
    pub chars: Vec<char>,
    pub tokens: Vec<Token>,
}

impl Tokens {
    pub fn text(&self, start: usize, end: usize) -> String {
        self.chars[start..end].iter().collect()
    }
}

pub fn lex(source: &Source<'_>, issues: &mut Vec<Issue>) -> Tokens {
    let chars: Vec<char> = source.text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let mut scan = Scan { chars: &chars, start: at, far: at, best: None };
        scan.run();
        match scan.best {
            Some((kind, end)) => {
                if let Some(kind) = kind {
                    tokens.push(Token { kind, start: at, end });
                }
                at = end;
            }
            None => {
                let stop = scan.far.min(chars.len() - 1);
                let text: String = chars[at..=stop]
                    .iter()
                    .map(|c| match c {
                        '\t' => "\\t".to_owned(),
                        '\n' => "\\n".to_owned(),
                        '\r' => "\\r".to_owned(),
                        c => c.to_string(),
                    })
                    .collect();
                issues.push(Issue {
                    at: source.location(at),
                    message: format!("Syntax error: token recognition error at: '{text}'"),
                });
                at = stop + 1;
            }
        }
    }
    tokens.push(Token { kind: Tok::Eof, start: chars.len(), end: chars.len() });
    Tokens { chars, tokens }
}

/// One attempt at a token: the longest accepted so far, and the furthest place that was looked at.
struct Scan<'c> {
    chars: &'c [char],
    start: usize,
    far: usize,
    best: Option<(Option<Tok>, usize)>,
}

impl Scan<'_> {
    fn run(&mut self) {
        let start = self.start;
        let Some(first) = self.at(start) else { return };
        match first {
            ' ' | '\t' | '\r' | '\n' | '\u{c}' => {
                let mut end = start + 1;
                while matches!(self.at(end), Some(' ' | '\t' | '\r' | '\n' | '\u{c}')) {
                    end += 1;
                }
                self.accept(None, end);
            }
            '/' => {
                self.accept(Some(Tok::Slash), start + 1);
                if self.at(start + 1) == Some('/') {
                    let mut end = start + 2;
                    while self.at(end).is_some_and(|c| c != '\n') {
                        end += 1;
                    }
                    self.accept(None, end);
                }
            }
            '=' => self.second('=', None, Tok::EqEq),
            '!' => self.second('=', Some(Tok::Bang), Tok::NotEq),
            '<' => self.second('=', Some(Tok::Less), Tok::LessEq),
            '>' => self.second('=', Some(Tok::Greater), Tok::GreaterEq),
            '&' => self.second('&', None, Tok::And),
            '|' => self.second('|', None, Tok::Or),
            '[' => self.one(Tok::LBracket),
            ']' => self.one(Tok::RBracket),
            '{' => self.one(Tok::LBrace),
            '}' => self.one(Tok::RBrace),
            '(' => self.one(Tok::LParen),
            ')' => self.one(Tok::RParen),
            ',' => self.one(Tok::Comma),
            '-' => self.one(Tok::Minus),
            '?' => self.one(Tok::Question),
            ':' => self.one(Tok::Colon),
            '+' => self.one(Tok::Plus),
            '*' => self.one(Tok::Star),
            '%' => self.one(Tok::Percent),
            '.' => {
                self.one(Tok::Dot);
                if self.digit(start + 1) {
                    self.fraction(start);
                }
            }
            '0'..='9' => self.number(),
            '`' => {
                let mut end = start + 1;
                while self.at(end).is_some_and(|c| c.is_ascii_alphanumeric() || "_.-/ ".contains(c)) {
                    end += 1;
                }
                if end > start + 1 && self.at(end) == Some('`') {
                    self.accept(Some(Tok::EscIdent), end + 1);
                }
            }
            '"' | '\'' => self.string(start, false, Tok::Str),
            'A'..='Z' | 'a'..='z' | '_' => self.word(),
            _ => {}
        }
    }

    fn at(&mut self, index: usize) -> Option<char> {
        self.far = self.far.max(index);
        self.chars.get(index).copied()
    }

    fn accept(&mut self, kind: Option<Tok>, end: usize) {
        if self.best.is_none_or(|(_, best)| end > best) {
            self.best = Some((kind, end));
        }
    }

    fn one(&mut self, kind: Tok) {
        self.accept(Some(kind), self.start + 1);
    }

    fn second(&mut self, second: char, alone: Option<Tok>, both: Tok) {
        if let Some(alone) = alone {
            self.one(alone);
        }
        if self.at(self.start + 1) == Some(second) {
            self.accept(Some(both), self.start + 2);
        }
    }

    fn digit(&mut self, index: usize) -> bool {
        self.at(index).is_some_and(|c| c.is_ascii_digit())
    }

    fn digits(&mut self, mut index: usize) -> usize {
        while self.digit(index) {
            index += 1;
        }
        index
    }

    fn number(&mut self) {
        let start = self.start;
        let end = self.digits(start);
        self.accept(Some(Tok::Int), end);
        if matches!(self.at(end), Some('u' | 'U')) {
            self.accept(Some(Tok::Uint), end + 1);
        }
        self.exponent(end);
        if self.at(end) == Some('.') && self.digit(end + 1) {
            self.fraction(end);
        }
        if end == start + 1 && self.chars[start] == '0' && self.at(end) == Some('x') {
            let mut hex = end + 1;
            while self.at(hex).is_some_and(|c| c.is_ascii_hexdigit()) {
                hex += 1;
            }
            if hex > end + 1 {
                self.accept(Some(Tok::Int), hex);
                if matches!(self.at(hex), Some('u' | 'U')) {
                    self.accept(Some(Tok::Uint), hex + 1);
                }
            }
        }
    }

    /// From the dot of a float on.
    fn fraction(&mut self, dot: usize) {
        let end = self.digits(dot + 1);
        self.accept(Some(Tok::Float), end);
        self.exponent(end);
    }

    fn exponent(&mut self, index: usize) {
        if matches!(self.at(index), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.at(index + 1), Some('+' | '-')));
            if self.digit(index + 1 + sign) {
                let end = self.digits(index + 1 + sign);
                self.accept(Some(Tok::Float), end);
            }
        }
    }

    fn word(&mut self) {
        let start = self.start;
        let mut end = start + 1;
        while self.at(end).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            end += 1;
        }
        let kind = match self.chars[start..end].iter().collect::<String>().as_str() {
            "true" => Tok::True,
            "false" => Tok::False,
            "null" => Tok::Null,
            "in" => Tok::In,
            _ => Tok::Ident,
        };
        self.accept(Some(kind), end);
        let mut at = start;
        let mut kind = Tok::Str;
        if matches!(self.chars[at], 'b' | 'B') {
            kind = Tok::Bytes;
            at += 1;
        }
        let raw = matches!(self.at(at), Some('r' | 'R'));
        at += usize::from(raw);
        if at > start && matches!(self.at(at), Some('"' | '\'')) {
            self.string(at, raw, kind);
        }
    }

    /// A string from its opening quote on: the short form, then the triple-quoted one.
    fn string(&mut self, open: usize, raw: bool, kind: Tok) {
        let quote = self.chars[open];
        let mut at = open + 1;
        loop {
            match self.at(at) {
                None | Some('\n' | '\r') => break,
                Some(c) if c == quote => {
                    self.accept(Some(kind), at + 1);
                    break;
                }
                Some('\\') if !raw => match self.escape(at) {
                    Some(next) => at = next,
                    None => break,
                },
                Some(_) => at += 1,
            }
        }
        if self.at(open + 1) != Some(quote) || self.at(open + 2) != Some(quote) {
            return;
        }
        let mut at = open + 3;
        loop {
            match self.at(at) {
                None => return,
                Some(c) if c == quote && self.at(at + 1) == Some(quote) && self.at(at + 2) == Some(quote) => {
                    self.accept(Some(kind), at + 3);
                    return;
                }
                Some('\\') if !raw => match self.escape(at) {
                    Some(next) => at = next,
                    None => return,
                },
                Some(_) => at += 1,
            }
        }
    }

    /// The end of the escape sequence at a backslash.
    fn escape(&mut self, at: usize) -> Option<usize> {
        let hex = |scan: &mut Self, count: usize| {
            (0..count).all(|i| scan.at(at + 2 + i).is_some_and(|c| c.is_ascii_hexdigit())).then_some(at + 2 + count)
        };
        match self.at(at + 1)? {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => Some(at + 2),
            'x' | 'X' => hex(self, 2),
            'u' => hex(self, 4),
            'U' => hex(self, 8),
            '0'..='3' => (0..2).all(|i| matches!(self.at(at + 2 + i), Some('0'..='7'))).then_some(at + 4),
            _ => None,
        }
    }
}
