//! A JSON parser that keeps order and repeated keys and words its errors as Go's encoding/json does.
//!
//! Invariants:
//! - DJ-1: never panics and never recurses deeper than [`MAX_DEPTH`], whatever the bytes.
//! - DJ-2: invalid UTF-8 and lone surrogates in strings become U+FFFD, as in Go.

use super::node::Node;
use crate::goformat::quote;

/// Nested values beyond this are refused. Go allows 10000; less keeps every stack safe and no API type comes near.
pub const MAX_DEPTH: usize = 250;

/// Parses one document. Err: Go's message.
pub fn parse(bytes: &[u8]) -> Result<Node, String> {
    let mut parser = Parser { bytes, at: 0, depth: 0 };
    parser.space();
    let node = parser.value()?;
    parser.space();
    match parser.peek() {
        None => Ok(node),
        Some(b) => Err(invalid(b, "after top-level value")),
    }
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

const END: &str = "unexpected end of JSON input";

fn invalid(b: u8, context: &str) -> String {
    let quoted = match b {
        b'\'' => r"'\''".to_string(),
        b'"' => "'\"'".to_string(),
        // Go shows the byte as the character of that number
        b => {
            let text = quote(&char::from(b).to_string());
            format!("'{}'", &text[1..text.len() - 1])
        }
    };
    format!("invalid character {quoted} {context}")
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Node, String> {
        match self.peek().ok_or(END)? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => Ok(Node::String(self.string()?)),
            b't' => self.literal("true", Node::Bool(true)),
            b'f' => self.literal("false", Node::Bool(false)),
            b'n' => self.literal("null", Node::Null),
            b'-' | b'0'..=b'9' => self.number(),
            b => Err(invalid(b, "looking for beginning of value")),
        }
    }

    fn nested(&mut self, parse: fn(&mut Self) -> Result<Node, String>) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("exceeded max depth".into());
        }
        self.at += 1;
        self.space();
        let node = parse(self)?;
        self.depth -= 1;
        Ok(node)
    }

    fn object(&mut self) -> Result<Node, String> {
        let mut entries = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Object(entries));
        }
        loop {
            match self.peek().ok_or(END)? {
                b'"' => {}
                b => return Err(invalid(b, "looking for beginning of object key string")),
            }
            let key = self.string()?;
            self.space();
            match self.peek().ok_or(END)? {
                b':' => self.at += 1,
                b => return Err(invalid(b, "after object key")),
            }
            self.space();
            entries.push((key, self.value()?));
            self.space();
            match self.peek().ok_or(END)? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(Node::Object(entries));
                }
                b => return Err(invalid(b, "after object key:value pair")),
            }
            self.space();
        }
    }

    fn array(&mut self) -> Result<Node, String> {
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            match self.peek().ok_or(END)? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(Node::Array(items));
                }
                b => return Err(invalid(b, "after array element")),
            }
            self.space();
        }
    }

    fn literal(&mut self, word: &str, node: Node) -> Result<Node, String> {
        for (i, want) in word.bytes().enumerate() {
            match self.peek().ok_or(END)? {
                b if b == want => self.at += 1,
                b => {
                    let expecting = char::from(word.as_bytes()[i]);
                    return Err(invalid(b, &format!("in literal {word} (expecting '{expecting}')")));
                }
            }
        }
        Ok(node)
    }

    fn number(&mut self) -> Result<Node, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek().ok_or(END)? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            b => return Err(invalid(b, "in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            match self.peek().ok_or(END)? {
                b'0'..=b'9' => self.digits(),
                b => return Err(invalid(b, "after decimal point in numeric literal")),
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            match self.peek().ok_or(END)? {
                b'0'..=b'9' => self.digits(),
                b => return Err(invalid(b, "in exponent of numeric literal")),
            }
        }
        let text: String = self.bytes[start..self.at].iter().copied().map(char::from).collect();
        Ok(Node::Number(text))
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let start = self.at;
            while matches!(self.peek(), Some(b) if b >= 0x20 && b != b'"' && b != b'\\') {
                self.at += 1;
            }
            out.extend_from_slice(&self.bytes[start..self.at]);
            match self.peek().ok_or(END)? {
                b'"' => {
                    self.at += 1;
                    return Ok(match String::from_utf8(out) {
                        Ok(text) => text,
                        Err(e) => replace_invalid(e.as_bytes()),
                    });
                }
                b'\\' => {
                    self.at += 1;
                    let c = self.escape()?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                b => return Err(invalid(b, "in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let b = self.peek().ok_or(END)?;
        self.at += 1;
        Ok(match b {
            b'"' | b'\\' | b'/' => char::from(b),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex4()?;
                if !(0xd800..0xdc00).contains(&high) || !self.bytes[self.at..].starts_with(b"\\u") {
                    return Ok(char::from_u32(high).unwrap_or('\u{fffd}'));
                }
                let back = self.at;
                self.at += 2;
                let low = self.hex4()?;
                if (0xdc00..0xe000).contains(&low) {
                    let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                    char::from_u32(code).unwrap_or('\u{fffd}')
                } else {
                    // the second escape stands on its own
                    self.at = back;
                    '\u{fffd}'
                }
            }
            b => return Err(invalid(b, "in string escape code")),
        })
    }

    fn hex4(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let b = self.peek().ok_or(END)?;
            match char::from(b).to_digit(16) {
                Some(digit) => code = code * 16 + digit,
                None => return Err(invalid(b, "in \\u hexadecimal character escape")),
            }
            self.at += 1;
        }
        Ok(code)
    }
}

/// One U+FFFD for each invalid byte, as Go does.
fn replace_invalid(mut bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    while !bytes.is_empty() {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                break;
            }
            Err(e) => {
                let (valid, rest) = bytes.split_at(e.valid_up_to());
                out.push_str(std::str::from_utf8(valid).unwrap_or_default());
                out.push('\u{fffd}');
                bytes = &rest[1..];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages() {
        for (text, want) in [
            ("{not json", "invalid character 'n' looking for beginning of object key string"),
            (r#"{"a":1} junk"#, "invalid character 'j' after top-level value"),
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("[1 2]", "invalid character '2' after array element"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("tru]", "invalid character ']' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            (r#""\x""#, "invalid character 'x' in string escape code"),
            (r#""\u00g0""#, "invalid character 'g' in \\u hexadecimal character escape"),
            ("'a'", r"invalid character '\'' looking for beginning of value"),
            ("01", "invalid character '1' after top-level value"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), want, "{text}");
        }
        assert_eq!(parse(&vec![b'['; 100_000]).unwrap_err(), "exceeded max depth");
        assert_eq!(parse(b"\xff").unwrap_err(), "invalid character 'ÿ' looking for beginning of value");
    }

    #[test]
    fn strings() {
        let text = r#""a\u00e9\ud83d\ude00\ud800x\/""#;
        assert_eq!(parse(text.as_bytes()), Ok(Node::String("aé😀\u{fffd}x/".into())));
        assert_eq!(parse(b"\"a\xff\xfeb\""), Ok(Node::String("a\u{fffd}\u{fffd}b".into())));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}:,"a1.e\\u \-]{0,20}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let ours = parse(text.as_bytes());
            if let Ok(theirs) = theirs {
                prop_assert_eq!(ours.map(Node::into_value), Ok(theirs));
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }
}
