//! The syntax of Go's regular expressions, checked with its error texts: they are part of validation messages.
//!
//! Invariants:
//! - GR-1: checking never panics and never recurses: patterns come from anybody.

use std::collections::HashSet;

/// Err: Go's message, `error parsing regexp: missing closing ): …`.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    Checker { pattern, depth: 0, atom: false, levels: vec![1], last: 1 }
        .run()
        .map_err(|(what, part)| format!("error parsing regexp: {what}: `{part}`"))
}

type Failure<'a> = (&'static str, &'a str);

const BAD_ESCAPE: &str = "invalid escape sequence";
const BAD_RANGE: &str = "invalid character class range";
const BAD_PERL: &str = "invalid or unsupported Perl syntax";
const BAD_CAPTURE: &str = "invalid named capture";
const BAD_COUNT: &str = "invalid repeat count";
const NO_ARGUMENT: &str = "missing argument to repetition operator";
const NESTED: &str = "invalid nested repetition operator";
const MAX_COUNT: u32 = 1000;

struct Checker<'a> {
    pattern: &'a str,
    depth: usize,
    /// Something is there that can be repeated.
    atom: bool,
    /// For each open group the largest product of counts, one in the other, in what it has so far.
    levels: Vec<u32>,
    /// The same for what would be repeated next.
    last: u32,
}

impl<'a> Checker<'a> {
    fn run(&mut self) -> Result<(), Failure<'a>> {
        let mut rest = self.pattern;
        // where the last repetition began, while nothing but repetitions follow it
        let mut repeated: Option<&'a str> = None;
        let mut names: HashSet<&'a str> = HashSet::new();
        while let Some(c) = rest.chars().next() {
            let mut repeats = None;
            if !matches!(c, ')' | '*' | '+' | '?' | '{') {
                self.last = 1;
            }
            match c {
                '(' if rest.starts_with("(?") => {
                    rest = self.group(rest, &mut names)?;
                }
                '(' => {
                    self.open();
                    rest = &rest[1..];
                }
                '|' => {
                    self.atom = false;
                    rest = &rest[1..];
                }
                ')' => {
                    if self.depth == 0 {
                        return Err(("unexpected )", self.pattern));
                    }
                    self.depth -= 1;
                    self.atom = true;
                    self.last = self.levels.pop().unwrap_or(1);
                    self.counts();
                    rest = &rest[1..];
                }
                '[' => {
                    rest = class(rest)?;
                    self.atom = true;
                }
                '*' | '+' | '?' => {
                    let after = self.repetition(rest, &rest[1..], repeated)?;
                    repeats = Some(rest);
                    rest = after;
                }
                '{' => match counted(rest) {
                    Some((after, valid)) => {
                        if !valid {
                            return Err((BAD_COUNT, between(rest, after)));
                        }
                        let lazy = self.repetition(rest, after, repeated)?;
                        self.last = self.last.saturating_mul(most(between(rest, after)).max(1));
                        if self.last > MAX_COUNT {
                            return Err((BAD_COUNT, between(rest, lazy)));
                        }
                        self.counts();
                        repeats = Some(rest);
                        rest = lazy;
                    }
                    None => {
                        self.atom = true;
                        self.last = 1;
                        rest = &rest[1..];
                    }
                },
                '\\' => {
                    rest = escape(rest)?;
                    self.atom = true;
                }
                c => {
                    self.atom = true;
                    rest = &rest[c.len_utf8()..];
                }
            }
            repeated = repeats;
        }
        if self.depth > 0 { Err(("missing closing )", self.pattern)) } else { Ok(()) }
    }

    fn open(&mut self) {
        self.depth += 1;
        self.atom = false;
        self.levels.push(1);
    }

    /// What was just seen is part of the innermost open group.
    fn counts(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            *level = (*level).max(self.last);
        }
    }

    /// After an operator of repetition, which began at `from` and ends before `after`.
    fn repetition(&self, from: &'a str, after: &'a str, repeated: Option<&'a str>) -> Result<&'a str, Failure<'a>> {
        let after = after.strip_prefix('?').unwrap_or(after);
        if let Some(first) = repeated {
            return Err((NESTED, between(first, after)));
        }
        if !self.atom {
            return Err((NO_ARGUMENT, between(from, after)));
        }
        Ok(after)
    }

    /// `(?…`
    fn group(&mut self, from: &'a str, names: &mut HashSet<&'a str>) -> Result<&'a str, Failure<'a>> {
        let named = from.strip_prefix("(?P<").or_else(|| from.strip_prefix("(?<"));
        if let Some(rest) = named {
            let Some(end) = rest.find('>') else { return Err((BAD_CAPTURE, from)) };
            let (name, after) = (&rest[..end], &rest[end + 1..]);
            let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !valid {
                return Err((BAD_CAPTURE, between(from, after)));
            }
            if !names.insert(name) {
                return Err(("duplicate capture group name", name));
            }
            self.open();
            return Ok(after);
        }
        let mut rest = &from[2..];
        let (mut negative, mut flag) = (false, false);
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                'i' | 'm' | 's' | 'U' => flag = true,
                '-' if !negative => (negative, flag) = (true, false),
                ':' | ')' if !negative || flag => {
                    if c == ':' {
                        self.open();
                    }
                    return Ok(rest);
                }
                _ => break,
            }
        }
        Err((BAD_PERL, between(from, rest)))
    }
}

/// The larger number of `{2,3}`, the only one of `{2}` and `{2,}`.
fn most(count: &str) -> u32 {
    let numbers = count.trim_matches(['{', '}']).split(',').rev();
    numbers.filter_map(|number| number.parse().ok()).next().unwrap_or(0)
}

/// What stands from `from` up to `after`, which is its end.
fn between<'a>(from: &'a str, after: &str) -> &'a str {
    &from[..from.len() - after.len()]
}

/// `{2}`, `{2,}`, `{2,3}`: what follows, and whether the counts are in range. `None`: it is no repetition.
fn counted(from: &str) -> Option<(&str, bool)> {
    let number = |text: &str| -> Option<u32> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let leading_zero = text.len() > 1 && text.starts_with('0');
        (plain && !leading_zero).then(|| text.parse().unwrap_or(u32::MAX))
    };
    let end = from.find('}')?;
    let (inner, after) = (&from[1..end], &from[end + 1..]);
    let (low, high) = match inner.split_once(',') {
        None => (number(inner)?, number(inner)),
        Some((low, "")) => (number(low)?, None),
        Some((low, high)) => (number(low)?, Some(number(high)?)),
    };
    let valid = low <= MAX_COUNT && high.is_none_or(|high| high <= MAX_COUNT && high >= low);
    Some((after, valid))
}

/// After a `\` outside of a class.
fn escape(from: &str) -> Result<&str, Failure<'_>> {
    match from[1..].chars().next() {
        Some('A' | 'b' | 'B' | 'z') => Ok(&from[2..]),
        Some('C') => Err((BAD_ESCAPE, &from[..2])),
        Some('Q') => Ok(from[2..].split_once("\\E").map_or("", |(_, after)| after)),
        _ => match set(from)? {
            Some(after) => Ok(after),
            None => character(from).map(|(after, _)| after),
        },
    }
}

/// `\d` and its like, `\pL`. `None`: it is something else.
fn set(from: &str) -> Result<Option<&str>, Failure<'_>> {
    let mut chars = from[1..].chars();
    match chars.next() {
        Some('d' | 'D' | 's' | 'S' | 'w' | 'W') => Ok(Some(&from[2..])),
        Some('p' | 'P') => {
            let Some(first) = chars.next() else { return Err((BAD_RANGE, from)) };
            let (name, after) = match first {
                '{' => {
                    let Some(end) = from.find('}') else { return Err((BAD_RANGE, from)) };
                    (from[3..end].trim_start_matches('^'), &from[end + 1..])
                }
                first => (&from[2..2 + first.len_utf8()], &from[2 + first.len_utf8()..]),
            };
            let known = is_unicode_class(name);
            if known { Ok(Some(after)) } else { Err((BAD_RANGE, between(from, after))) }
        }
        _ => Ok(None),
    }
}

/// A general category, or a script by its name.
fn is_unicode_class(name: &str) -> bool {
    const CATEGORIES: &[&str] = &[
        "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No",
        "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
    ];
    let script = || {
        name.len() > 2
            && name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
    };
    CATEGORIES.contains(&name) || script()
}

/// One escaped character.
fn character(from: &str) -> Result<(&str, char), Failure<'_>> {
    let rest = &from[1..];
    let Some(c) = rest.chars().next() else { return Err(("trailing backslash at end of expression", "")) };
    let after = &rest[c.len_utf8()..];
    let bad = |after: &str| Err((BAD_ESCAPE, &from[..from.len() - after.len()]));
    let octal = |b: &u8| (b'0'..=b'7').contains(b);
    match c {
        '1'..='7' if !after.as_bytes().first().is_some_and(octal) => bad(after),
        '0'..='7' => {
            let more = after.bytes().take(2).take_while(octal).count();
            let digits = &rest[..1 + more];
            Ok((&after[more..], u32::from_str_radix(digits, 8).ok().and_then(char::from_u32).unwrap_or('\0')))
        }
        'x' if after.starts_with('{') => {
            let digits = after[1..].bytes().take_while(u8::is_ascii_hexdigit).count();
            let value = u32::from_str_radix(&after[1..1 + digits], 16).ok().filter(|value| *value <= 0x10_ffff);
            let end = &after[1 + digits..];
            match (value, end.strip_prefix('}')) {
                (Some(value), Some(after)) => Ok((after, char::from_u32(value).unwrap_or('\u{fffd}'))),
                _ => bad(end.chars().next().map_or(end, |c| &end[c.len_utf8()..])),
            }
        }
        'x' => match after.as_bytes() {
            [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                Ok((&after[2..], char::from(u8::from_str_radix(&after[..2], 16).unwrap_or_default())))
            }
            _ => {
                let mut chars = after.chars();
                let hex = chars.next().is_some_and(|c| c.is_ascii_hexdigit());
                if hex {
                    chars.next();
                }
                bad(chars.as_str())
            }
        },
        'a' => Ok((after, '\u{7}')),
        'f' => Ok((after, '\u{c}')),
        'n' => Ok((after, '\n')),
        'r' => Ok((after, '\r')),
        't' => Ok((after, '\t')),
        'v' => Ok((after, '\u{b}')),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok((after, c)),
        _ => bad(after),
    }
}

/// After a class, `[…]`.
fn class(from: &str) -> Result<&str, Failure<'_>> {
    const NO_END: &str = "missing closing ]";
    let mut rest = from[1..].strip_prefix('^').unwrap_or(&from[1..]);
    let mut first = true;
    loop {
        if rest.is_empty() {
            return Err((NO_END, from));
        }
        if let (Some(after), false) = (rest.strip_prefix(']'), first) {
            return Ok(after);
        }
        first = false;
        if rest.starts_with("[:") {
            if let Some(end) = rest[2..].find(":]") {
                let (name, after) = (&rest[..end + 4], &rest[end + 4..]);
                let bare = name[2..name.len() - 2].trim_start_matches('^');
                const NAMES: &[&str] = &[
                    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
                    "upper", "word", "xdigit",
                ];
                if !NAMES.contains(&bare) {
                    return Err((BAD_RANGE, name));
                }
                rest = after;
                continue;
            }
        }
        if rest.starts_with('\\') {
            if let Some(after) = set(rest)? {
                rest = after;
                continue;
            }
        }
        let start = rest;
        let (after, low) = class_character(rest, from)?;
        rest = after;
        let ranged = rest.strip_prefix('-').filter(|after| !after.is_empty() && !after.starts_with(']'));
        if let Some(after) = ranged {
            let (after, high) = class_character(after, from)?;
            if high < low {
                return Err((BAD_RANGE, between(start, after)));
            }
            rest = after;
        }
    }
}

fn class_character<'a>(rest: &'a str, class: &'a str) -> Result<(&'a str, char), Failure<'a>> {
    match rest.chars().next() {
        None => Err(("missing closing ]", class)),
        Some('\\') => character(rest),
        Some(c) => Ok((&rest[c.len_utf8()..], c)),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn good_patterns() {
        for pattern in [
            "",
            "a",
            "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            "(?i)a|b",
            "(?P<x>a)(?<y>b)",
            r"\d{3}-\w+\.\pL\p{Greek}",
            "[[:alpha:]]",
            "[]a]",
            "[^]a-]",
            "a{,3}",
            "{",
            "a{2,}?",
            r"\Qa(b\E",
            r"\x41\x{1F600}\123",
            "a*?",
            "^(0|[1-9]\\d*)$",
            "(?:a)+",
            "x{0}",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn bad_patterns() {
        for (pattern, error) in [
            ("(", "missing closing ): `(`"),
            ("a)b", "unexpected ): `a)b`"),
            ("[a", "missing closing ]: `[a`"),
            ("x[z-a]", "invalid character class range: `z-a`"),
            ("*", "missing argument to repetition operator: `*`"),
            ("(|+?)", "missing argument to repetition operator: `+?`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("(a{100}){11}", "invalid repeat count: `{11}`"),
            ("((b|a{2,50}){10,}c){3}", "invalid repeat count: `{3}`"),
            ("a{3,2}", "invalid repeat count: `{3,2}`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?!a)", "invalid or unsupported Perl syntax: `(?!`"),
            ("(?<=a)b", "invalid named capture: `(?<=a)b`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            (r"\8", r"invalid escape sequence: `\8`"),
            (r"\1", r"invalid escape sequence: `\1`"),
            (r"\Z", r"invalid escape sequence: `\Z`"),
            (r"\pQ", r"invalid character class range: `\pQ`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        ] {
            assert_eq!(check(pattern), Err(format!("error parsing regexp: {error}")), "{pattern}");
        }
    }
}
