//! Label selectors: upstream's text grammar, requirement semantics, and metav1.LabelSelector.
//!
//! Invariants:
//! - LS-1: a selector prints as text that parses to an equal selector.
//! - LS-2: `Nothing` (an absent metav1.LabelSelector) matches no object; an empty selector matches every object.

use crate::goformat::quote;
use crate::validation::{ErrorList, FieldError, Path, names};
use crate::value::{items, str_or_empty, string_map, strings};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// Labels to match against. Implemented for the label maps of `Value` and of `k8s-openapi`.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for serde_json::Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl Labels for std::collections::BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl Labels for [(String, String)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: BTreeSet<String>,
}

/// All requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    Nothing,
    /// Sorted by key. Empty: everything.
    All(Vec<Requirement>),
}

impl Default for Selector {
    fn default() -> Self {
        Self::everything()
    }
}

impl Selector {
    pub fn everything() -> Self {
        Self::All(Vec::new())
    }

    /// Parses the text of a `labelSelector` parameter. Err: upstream's message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: lex(text), at: 0 };
        let mut requirements = parser.selector()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self::All(requirements))
    }

    /// Equality with each of the labels.
    pub fn from_set<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let equals = |(key, value): (&str, &str)| Requirement {
            key: key.to_string(),
            operator: Operator::Equals,
            values: BTreeSet::from([value.to_string()]),
        };
        let mut requirements: Vec<_> = labels.into_iter().map(equals).collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self::All(requirements)
    }

    /// From a metav1.LabelSelector in JSON; null or absent selects nothing. Err: upstream's message.
    pub fn from_label_selector(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::Nothing);
        }
        let mut requirements = Vec::new();
        for (key, value) in string_map(selector, &["matchLabels"]) {
            requirements.push(Requirement::new(key, Operator::Equals, [value])?);
        }
        for expression in items(selector, &["matchExpressions"]) {
            let operator = match str_or_empty(expression, &["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{} is not a valid label selector operator", quote(other))),
            };
            let key = str_or_empty(expression, &["key"]);
            requirements.push(Requirement::new(key, operator, strings(expression, &["values"]))?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self::All(requirements))
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        match self {
            Self::Nothing => false,
            Self::All(requirements) => requirements.iter().all(|r| r.matches(labels)),
        }
    }

    /// True if it matches every object.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(r) if r.is_empty())
    }

    pub fn requirements(&self) -> &[Requirement] {
        match self {
            Self::Nothing => &[],
            Self::All(requirements) => requirements,
        }
    }
}

impl Requirement {
    /// Err: upstream's message for a bad key, bad values or the wrong number of values.
    pub fn new<'a>(key: &str, operator: Operator, values: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let values: BTreeSet<String> = values.into_iter().map(str::to_string).collect();
        let mut errors = ErrorList::new();
        let path = Path::nil();
        invalid_joined(&mut errors, &path.child("key"), key, names::is_qualified_name(key));
        let at = path.child("values");
        let list = || Value::from(values.iter().map(String::as_str).collect::<Vec<_>>());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.invalid(at.clone(), list(), "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                errors.invalid(at.clone(), list(), "exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.invalid(at.clone(), list(), "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.invalid(at.clone(), list(), "for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, value) in values.iter().enumerate() {
                    if go_int(value).is_none() {
                        let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                        errors.invalid(at.index(i), value.as_str(), detail);
                    }
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            invalid_joined(&mut errors, &at.index(i).key(key), value, names::is_valid_label_value(value));
        }
        if errors.is_empty() { Ok(Self { key: key.to_string(), operator, values }) } else { Err(errors.aggregate()) }
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let label = labels.label(&self.key);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => label.is_some_and(|l| self.values.contains(l)),
            Operator::NotEquals | Operator::NotIn => label.is_none_or(|l| !self.values.contains(l)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compares(label, |a, b| a > b),
            Operator::LessThan => self.compares(label, |a, b| a < b),
        }
    }

    fn compares(&self, label: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let (Some(label), Some(value)) = (label.and_then(go_int), self.values.first().and_then(|v| go_int(v))) else {
            return false;
        };
        holds(label, value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.operator == Operator::DoesNotExist {
            f.write_str("!")?;
        }
        f.write_str(&self.key)?;
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match self.operator {
            Operator::Equals => write!(f, "={values}"),
            Operator::DoubleEquals => write!(f, "=={values}"),
            Operator::NotEquals => write!(f, "!={values}"),
            Operator::GreaterThan => write!(f, ">{values}"),
            Operator::LessThan => write!(f, "<{values}"),
            Operator::In => write!(f, " in ({values})"),
            Operator::NotIn => write!(f, " notin ({values})"),
            Operator::Exists | Operator::DoesNotExist => Ok(()),
        }
    }
}

fn invalid_joined(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    if !messages.is_empty() {
        errors.push(FieldError::new(crate::validation::ErrorType::Invalid, path, value, messages.join("; ")));
    }
}

/// `strconv.ParseInt(s, 10, 64)`.
fn go_int(s: &str) -> Option<i64> {
    s.parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    ClosedParen,
    Comma,
    DoesNotExist,
    DoubleEquals,
    Equals,
    GreaterThan,
    Identifier,
    In,
    LessThan,
    NotEquals,
    NotIn,
    OpenParen,
}

fn keyword(s: &str) -> Option<Token> {
    Some(match s {
        ")" => Token::ClosedParen,
        "," => Token::Comma,
        "!" => Token::DoesNotExist,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::GreaterThan,
        "in" => Token::In,
        "<" => Token::LessThan,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::OpenParen,
        _ => return None,
    })
}

fn is_symbol(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn lex(text: &str) -> Vec<(Token, String)> {
    let bytes = text.as_bytes();
    let space = |b: u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if space(bytes[at]) {
            at += 1;
        } else if is_symbol(bytes[at]) {
            // the longest run of symbols that is a token: `!=` but not `=,`
            let mut found = None;
            let mut end = at;
            while end < bytes.len() && is_symbol(bytes[end]) {
                match keyword(&text[at..end + 1]) {
                    Some(token) => found = Some((token, end + 1)),
                    None if found.is_some() => break,
                    None => {}
                }
                end += 1;
            }
            match found {
                Some((token, stop)) => {
                    out.push((token, text[at..stop].to_string()));
                    at = stop;
                }
                None => {
                    out.push((Token::Error, format!("error expected: keyword found '{}'", &text[at..end])));
                    at = end;
                }
            }
        } else {
            let start = at;
            while at < bytes.len() && !space(bytes[at]) && !is_symbol(bytes[at]) {
                at += 1;
            }
            let word = &text[start..at];
            out.push((keyword(word).unwrap_or(Token::Identifier), word.to_string()));
        }
    }
    out.push((Token::End, String::new()));
    out
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    /// `in` and `notin` are ordinary words where a value may stand.
    fn peek(&self) -> (Token, &str) {
        let (token, text) = self.peek_operator();
        match token {
            Token::In | Token::NotIn => (Token::Identifier, text),
            _ => (token, text),
        }
    }

    fn peek_operator(&self) -> (Token, &str) {
        // the last token is End, and nothing moves past it
        let (token, text) = &self.tokens[self.at.min(self.tokens.len() - 1)];
        (*token, text)
    }

    fn next(&mut self) -> (Token, String) {
        let (token, text) = self.peek();
        let next = (token, text.to_string());
        self.at += 1;
        next
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                (Token::Identifier | Token::DoesNotExist, _) => {
                    out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match self.next() {
                        (Token::End, _) => return Ok(out),
                        (Token::Comma, _) => match self.peek() {
                            (Token::Identifier | Token::DoesNotExist, _) => {}
                            (_, text) => return Err(format!("found '{text}', expected: identifier after ','")),
                        },
                        (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(out),
                (_, text) => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut negated = false;
        let (mut token, mut key) = self.next();
        if token == Token::DoesNotExist {
            negated = true;
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let mut errors = ErrorList::new();
        invalid_joined(&mut errors, &Path::nil(), &key, names::is_qualified_name(&key));
        if !errors.is_empty() {
            return Err(errors.aggregate());
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, []);
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, []);
        }
        let (token, text) = self.peek_operator();
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::GreaterThan => Operator::GreaterThan,
            Token::LessThan => Operator::LessThan,
            _ => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        self.at += 1;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => BTreeSet::from([self.exact_value()?]),
        };
        Requirement::new(&key, operator, values.iter().map(String::as_str))
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        match self.next() {
            (Token::OpenParen, _) => {}
            (_, text) => return Err(format!("found '{text}' expected: '('")),
        }
        match self.peek() {
            (Token::Identifier | Token::Comma, text) => {
                let text = text.to_string();
                let values = self.identifiers()?;
                match self.next() {
                    (Token::ClosedParen, _) => Ok(values),
                    _ => Err(format!("found '{text}', expected: ')'")),
                }
            }
            (Token::ClosedParen, _) => {
                self.at += 1;
                Ok(BTreeSet::from([String::new()]))
            }
            (_, text) => Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<BTreeSet<String>, String> {
        let mut out = BTreeSet::new();
        loop {
            match self.next() {
                (Token::Identifier, text) => {
                    out.insert(text);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::ClosedParen, _) => return Ok(out),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    // `(,a`, `a,)` and `a,,b` each hold an empty value
                    if out.is_empty() {
                        out.insert(String::new());
                    }
                    match self.peek().0 {
                        Token::ClosedParen => {
                            out.insert(String::new());
                            return Ok(out);
                        }
                        Token::Comma => {
                            self.at += 1;
                            out.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, text) => Ok(text),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn messages() {
        for (text, want) in [
            (
                "i>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("a b=c", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("i=a b", "found 'b', expected: ',' or 'end of string'"),
            ("i=1=2", "found '=', expected: ',' or 'end of string'"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("i=1,", "found '', expected: identifier after ','"),
            ("i in (1", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("i in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err(), want, "{text}");
        }
        assert!(
            Selector::parse("i~1")
                .unwrap_err()
                .starts_with("unable to parse requirement: <nil>: Invalid value: \"i~1\": name part must consist of")
        );
    }

    #[test]
    fn matching() {
        let all = [json!({}), json!({"i": "1", "odd": "yes"}), json!({"i": "2"}), json!({"i": ""})];
        for (text, want) in [
            ("", vec![0, 1, 2, 3]),
            ("i", vec![1, 2, 3]),
            ("!i", vec![0]),
            ("i=1", vec![1]),
            ("i==1", vec![1]),
            ("i!=1", vec![0, 2, 3]),
            ("i in (1,2)", vec![1, 2]),
            ("i in (,1)", vec![1, 3]),
            ("i in ()", vec![3]),
            ("i notin (1,2)", vec![0, 3]),
            ("i<2", vec![1]),
            ("i>1", vec![2]),
            (" i = 1 , odd = yes ", vec![1]),
            ("i=", vec![3]),
        ] {
            let selector = Selector::parse(text).unwrap();
            let got: Vec<_> = (0..all.len()).filter(|i| selector.matches(&all[*i])).collect();
            assert_eq!(got, want, "{text}");
            assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector, "{text}");
        }
    }

    #[test]
    fn from_json() {
        assert_eq!(Selector::from_label_selector(&Value::Null), Ok(Selector::Nothing));
        assert!(Selector::from_label_selector(&json!({})).unwrap().is_everything());
        let s = json!({"matchLabels": {"b": "x"}, "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["z", "y"]}]});
        assert_eq!(Selector::from_label_selector(&s).unwrap().to_string(), "a notin (y,z),b=x");
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Like"}]});
        assert_eq!(Selector::from_label_selector(&bad).unwrap_err(), "\"Like\" is not a valid label selector operator");
    }

    proptest! {
        #[test]
        fn never_panics_and_round_trips(text in "[a-c!=<>(),. /~é\\-]{0,16}|(a|b/c) ?(in|notin|=|==|!=|<|>) ?(\\([a-z,]*\\)|[0-9]{1,3}|)") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
