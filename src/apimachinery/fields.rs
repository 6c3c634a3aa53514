//! Field selectors: `metadata.name=a,status.phase!=Running`, with upstream's escapes.
//!
//! Invariants:
//! - FS-1: a selector prints as text that parses to an equal selector.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    pub field: String,
    /// True for `!=`.
    pub negated: bool,
    pub value: String,
}

/// All requirements must hold; none means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// `field=value`.
    pub fn one(field: impl Into<String>, value: impl Into<String>) -> Self {
        Self { requirements: vec![Requirement { field: field.into(), negated: false, value: value.into() }] }
    }

    /// Parses the text of a `fieldSelector` parameter. Err: upstream's message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let (field, negated, value) =
                split_term(term).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            requirements.push(Requirement { field: field.to_string(), negated, value: unescape(value)? });
        }
        Ok(Self { requirements })
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// `field` gives the value of a field, "" if the object does not have it.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.requirements.iter().all(|r| (field(&r.field) == r.value) != r.negated)
    }

    /// The value a field must have, if a requirement says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.field == field && !r.negated).map(|r| r.value.as_str())
    }

    /// The same requirements with fields and values replaced, as for field label conversion.
    pub fn transform<E>(&self, convert: impl Fn(&str, &str) -> Result<(String, String), E>) -> Result<Self, E> {
        let mut requirements = Vec::with_capacity(self.requirements.len());
        for r in &self.requirements {
            let (field, value) = convert(&r.field, &r.value)?;
            requirements.push(Requirement { field, negated: r.negated, value });
        }
        Ok(Self { requirements })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if r.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

/// Escapes a value for use in a selector.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {}", c as u32));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    (0..term.len()).filter(|i| term.is_char_boundary(*i)).find_map(|i| {
        let (field, rest) = term.split_at(i);
        let (operator, negated) =
            [("!=", true), ("==", false), ("=", false)].into_iter().find(|(o, _)| rest.starts_with(o))?;
        Some((field, negated, &rest[operator.len()..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses() {
        let s = Selector::parse("metadata.name!=c2,metadata.name!=c1,a==b").unwrap();
        assert_eq!(s.to_string(), "a=b,metadata.name!=c1,metadata.name!=c2");
        assert_eq!(s.exact("a"), Some("b"));
        assert!(s.matches(|f| if f == "a" { "b" } else { "x" }));
        assert!(!s.matches(|f| if f == "a" { "b" } else { "c1" }));
        assert!(Selector::parse("").unwrap().is_everything());
        assert_eq!(Selector::parse(r"a=b\,c\=d\\").unwrap().exact("a"), Some(r"b,c=d\"));
    }

    #[test]
    fn messages() {
        for (text, want) in [
            ("foo", "invalid selector: 'foo'; can't understand 'foo'"),
            ("metadata.name>c1", "invalid selector: 'metadata.name>c1'; can't understand 'metadata.name>c1'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            (r"a=\z", r"invalid field selector: invalid escape sequence: \z"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err(), want);
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_round_trips(text in r"[ab.=!,\\é]{0,12}") {
            if let Ok(selector) = Selector::parse(&text) {
                let mut again = Selector::parse(&selector.to_string()).unwrap();
                let mut want = selector;
                again.requirements.sort();
                want.requirements.sort();
                prop_assert_eq!(again, want);
            }
        }
    }
}
