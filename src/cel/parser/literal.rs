//! Literals: numbers, strings and bytes.

use crate::ast::Expr;
use crate::lexer::Tok;
use crate::value::Const;

use super::Parser;
use super::recovery::Parsed;

impl Parser<'_> {
    pub(super) fn constant(&mut self) -> Parsed<Expr> {
        let first = self.at;
        let mut sign = "";
        if self.kind() == Tok::Minus {
            if !matches!(self.peek(1), Tok::Int | Tok::Float) {
                return self.no_viable(self.at, self.at + 1);
            }
            self.take();
            sign = "-";
        }
        let kind = self.kind();
        let at = self.take();
        let text = self.text_of(at);
        let constant = match kind {
            Tok::Int => int(sign, &text).map(Const::Int).ok_or("invalid int literal"),
            Tok::Uint => uint(&text).map(Const::Uint).ok_or("invalid uint literal"),
            Tok::Float => match format!("{sign}{text}").parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Const::Double(number)),
                _ => Err("invalid double literal"),
            },
            Tok::Str => match unquote(&text, false) {
                Some(bytes) => String::from_utf8(bytes)
                    .map(|text| Const::String(text.into_boxed_str()))
                    .map_err(|_| "unable to unescape string"),
                None => Err("unable to unescape string"),
            },
            Tok::Bytes => unquote(&text[1..], true)
                .map(|bytes| Const::Bytes(bytes.into_boxed_slice()))
                .ok_or("unable to unescape string"),
            Tok::True => Ok(Const::Bool(true)),
            Tok::False => Ok(Const::Bool(false)),
            _ => Ok(Const::Null),
        };
        match constant {
            Ok(constant) => Ok(self.literal(first, constant)),
            Err(message) => {
                self.issue(first, message.to_owned());
                Ok(self.error_expr())
            }
        }
    }
}

fn int(sign: &str, text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16).ok(),
        None => format!("{sign}{text}").parse().ok(),
    }
}

fn uint(text: &str) -> Option<u64> {
    let digits = &text[..text.len() - 1];
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

/// The content of a quoted string; `None` where an escape is no character.
fn unquote(text: &str, bytes: bool) -> Option<Vec<u8>> {
    let (raw, text) = match text.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let quotes = if text.len() >= 6 && (text.starts_with("\"\"\"") || text.starts_with("'''")) { 3 } else { 1 };
    let content = text.get(quotes..text.len() - quotes)?;
    let content = content.replace("\r\n", "\n").replace('\r', "\n");
    if raw || !content.contains('\\') {
        return Some(content.into_bytes());
    }
    let mut out = Vec::with_capacity(content.len());
    let mut chars = content.chars();
    let mut buffer = [0; 4];
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let escape = chars.next()?;
        let mut number = |count: usize, radix: u32, first: Option<char>| {
            let digits: String = first.into_iter().chain(chars.by_ref().take(count)).collect();
            u32::from_str_radix(&digits, radix).ok()
        };
        let code = match escape {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            'x' | 'X' => number(2, 16, None)?,
            'u' => number(4, 16, None)?,
            'U' => number(8, 16, None)?,
            '0'..='3' => number(2, 8, Some(escape))?,
            other => other as u32,
        };
        if bytes && (matches!(escape, 'x' | 'X') || escape.is_ascii_digit()) {
            out.push(u8::try_from(code).ok()?);
        } else if bytes && matches!(escape, 'u' | 'U') {
            return None;
        } else {
            out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut buffer).as_bytes());
        }
    }
    Some(out)
}
