//! YAML to the same [`Node`]s as JSON, with the types go-yaml v2 gives plain scalars: YAML 1.1, as upstream reads it.
//!
//! Invariants:
//! - DY-1: only the first document counts; its mappings come out sorted by key, each key once, the last value winning.
//! - DY-3: values nest no deeper than in JSON, aliases counted, and reading them takes no stack.
//! - DY-2: aliases and anchors cannot multiply the document without bound, neither its nodes nor its texts.

use super::json::MAX_DEPTH;
use super::node::Node;
use super::yaml_errors;
use crate::goformat::{float, quote};
use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::collections::{BTreeMap, HashMap};

/// What aliases may add: nodes, and the bytes of their texts in units of [`TEXT_UNIT`].
const MAX_ALIASED: usize = 100_000;
/// What anchors may keep, counted alike. Anchors inside anchors keep their content several times.
const MAX_ANCHORED: usize = 1_000_000;
/// So many bytes of text cost as much as a node.
const TEXT_UNIT: usize = 64;
const TOO_DEEP: &str = "yaml: exceeded max depth";
const EXCESSIVE: &str = "yaml: document contains excessive aliasing";

#[derive(Debug)]
pub struct Yaml {
    pub node: Node,
    /// `line 7: key "a" already set in map`, in document order.
    pub repeated: Vec<String>,
}

/// Parses the first document; an empty one is null. Err: upstream's message, starting with `yaml: `.
pub fn parse(bytes: &[u8]) -> Result<Yaml, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_string())?;
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder {
        text,
        parser: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        aliased: 0,
        anchored: 0,
        repeated: Vec::new(),
    };
    loop {
        match builder.next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (Event::StreamEnd | Event::DocumentEnd, _) => {
                return Ok(Yaml { node: Node::Null, repeated: Vec::new() });
            }
            (event, span) => {
                let node = builder.node(event, span)?;
                return Ok(Yaml { node, repeated: builder.repeated });
            }
        }
    }
}

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, (Node, Measure)>,
    aliased: usize,
    anchored: usize,
    repeated: Vec<String>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(e)) => Err(yaml_errors::message(&e, self.text)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The value that begins with `event`. A stack of its own: values nest as deep as a client likes.
    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, String> {
        let mut stack: Vec<Open> = Vec::new();
        let mut next = (event, span);
        loop {
            let (event, span) = next;
            if let Some(Open { what: Collection::Map(map), .. }) = stack.last_mut() {
                map.begin(&event, &span);
            }
            let done = match event {
                Event::SequenceStart(_, anchor, _) => {
                    open(&mut stack, Collection::List(Vec::new()), anchor)?;
                    None
                }
                Event::MappingStart(_, anchor, _) => {
                    open(&mut stack, Collection::Map(Mapping::default()), anchor)?;
                    None
                }
                Event::Alias(id) => {
                    let (node, measure) = self.anchors.get(&id).ok_or("yaml: anchor contains itself")?;
                    self.aliased += measure.size;
                    if self.aliased > MAX_ALIASED {
                        return Err(EXCESSIVE.into());
                    }
                    if stack.len() + measure.height > MAX_DEPTH {
                        return Err(TOO_DEEP.into());
                    }
                    Some(node.clone())
                }
                Event::Scalar(text, style, anchor, tag) => {
                    let node = scalar(&text, style, tag.as_deref())?;
                    self.keep(anchor, &node)?;
                    Some(node)
                }
                Event::SequenceEnd | Event::MappingEnd | Event::StreamEnd => match stack.pop() {
                    Some(Open { what: Collection::List(items), anchor }) => {
                        let node = Node::Array(items);
                        self.keep(anchor, &node)?;
                        Some(node)
                    }
                    Some(Open { what: Collection::Map(map), anchor }) => {
                        let node = map.finish()?;
                        self.keep(anchor, &node)?;
                        Some(node)
                    }
                    None => return Ok(Node::Null),
                },
                _ => Some(Node::Null),
            };
            if let Some(node) = done {
                match stack.last_mut() {
                    None => return Ok(node),
                    Some(Open { what: Collection::List(items), .. }) => items.push(node),
                    Some(Open { what: Collection::Map(map), .. }) => map.place(node, &mut self.repeated)?,
                }
            }
            next = self.next()?;
        }
    }

    fn keep(&mut self, anchor: usize, node: &Node) -> Result<(), String> {
        if anchor != 0 {
            let measure = measure(node);
            self.anchored += measure.size;
            if self.anchored > MAX_ANCHORED {
                return Err(EXCESSIVE.into());
            }
            self.anchors.insert(anchor, (node.clone(), measure));
        }
        Ok(())
    }
}

/// A collection whose end has not come.
struct Open {
    what: Collection,
    anchor: usize,
}

enum Collection {
    List(Vec<Node>),
    Map(Mapping),
}

fn open(stack: &mut Vec<Open>, what: Collection, anchor: usize) -> Result<(), String> {
    if stack.len() >= MAX_DEPTH {
        return Err(TOO_DEEP.into());
    }
    stack.push(Open { what, anchor });
    Ok(())
}

#[derive(Default)]
struct Mapping {
    entries: BTreeMap<String, Node>,
    merged: Vec<Node>,
    key: Option<Node>,
    /// The pending key is `<<`.
    merge: bool,
    /// Where the pending key's value begins.
    line: usize,
}

impl Mapping {
    /// A key or a value begins.
    fn begin(&mut self, event: &Event<'_>, span: &Span) {
        match self.key {
            None => self.merge = matches!(event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<"),
            Some(_) => self.line = span.start.line(),
        }
    }

    /// A key or a value is complete.
    fn place(&mut self, node: Node, repeated: &mut Vec<String>) -> Result<(), String> {
        let Some(key) = self.key.take() else {
            self.key = Some(node);
            return Ok(());
        };
        if self.merge {
            self.merged.push(node);
            return Ok(());
        }
        let shown = match &key {
            Node::String(text) => quote(text),
            Node::Number(text) => text.clone(),
            Node::Bool(b) => b.to_string(),
            _ => String::new(),
        };
        let key = match key {
            Node::String(text) | Node::Number(text) => text,
            Node::Bool(b) => b.to_string(),
            other => return Err(format!("unsupported map key of type: {}", go_kind(&other))),
        };
        if self.entries.insert(key, node).is_some() {
            repeated.push(format!("line {}: key {shown} already set in map", self.line));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Node, String> {
        for value in std::mem::take(&mut self.merged) {
            merge(&mut self.entries, value)?;
        }
        Ok(Node::Object(self.entries.into_iter().collect()))
    }
}

/// `<<`: keys that are not set yet.
fn merge(entries: &mut BTreeMap<String, Node>, value: Node) -> Result<(), String> {
    match value {
        Node::Object(more) => {
            for (key, value) in more {
                entries.entry(key).or_insert(value);
            }
            Ok(())
        }
        Node::Array(items) => items.into_iter().try_for_each(|item| merge(entries, item)),
        _ => Err("yaml: map merge requires map or sequence of maps as the value".into()),
    }
}

/// What a value costs, and how deep it is.
#[derive(Clone, Copy)]
struct Measure {
    size: usize,
    height: usize,
}

fn measure(node: &Node) -> Measure {
    let text = |text: &str| text.len() / TEXT_UNIT;
    let mut sum = Measure { size: 1, height: 1 };
    let mut add = |key: usize, item: &Node| {
        let item = measure(item);
        sum.size += key + item.size;
        sum.height = sum.height.max(item.height + 1);
    };
    match node {
        Node::Array(items) => items.iter().for_each(|item| add(0, item)),
        Node::Object(entries) => entries.iter().for_each(|(key, item)| add(text(key), item)),
        Node::String(content) | Node::Number(content) => sum.size += text(content),
        _ => {}
    }
    sum
}

fn go_kind(node: &Node) -> &'static str {
    match node {
        Node::Array(_) => "slice",
        Node::Object(_) => "map",
        _ => "invalid",
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Node, String> {
    let string = || Node::String(text.to_string());
    match tag.and_then(Tag::core_suffix) {
        Some("str") => return Ok(string()),
        Some("binary") => {
            use base64::Engine as _;
            let compact: String = text.split_ascii_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(compact)
                .map_err(|_| "yaml: !!binary value contains invalid base64 data")?;
            return Ok(Node::String(String::from_utf8_lossy(&bytes).into_owned()));
        }
        Some(_) => {}
        None if tag.is_some() || style != ScalarStyle::Plain => return Ok(string()),
        None => {}
    }
    Ok(match plain(text) {
        Plain::Node(node) => node,
        Plain::Text => string(),
        Plain::NotJson(shown) => return Err(format!("json: unsupported value: {shown}")),
    })
}

enum Plain {
    Node(Node),
    Text,
    NotJson(&'static str),
}

fn plain(text: &str) -> Plain {
    let node = match text {
        "" | "~" | "null" | "Null" | "NULL" => Node::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Node::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Node::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Plain::NotJson("NaN"),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Plain::NotJson("+Inf"),
        "-.inf" | "-.Inf" | "-.INF" => return Plain::NotJson("-Inf"),
        _ => match number(text) {
            Some(number) => Node::Number(number),
            None => return Plain::Text,
        },
    };
    Plain::Node(node)
}

/// An integer in any of Go's notations, or a decimal float.
fn number(text: &str) -> Option<String> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let digits = text.replace('_', "");
    if let Some(n) = integer(&digits) {
        return (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&n).then(|| n.to_string());
    }
    if is_float(&digits) {
        let f: f64 = digits.parse().ok()?;
        return f.is_finite().then(|| float(f));
    }
    None
}

fn integer(text: &str) -> Option<i128> {
    let (negative, rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = rest.to_ascii_lowercase();
    let (radix, digits) = if let Some(d) = lower.strip_prefix("0x") {
        (16, d)
    } else if let Some(d) = lower.strip_prefix("0b") {
        (2, d)
    } else if let Some(d) = lower.strip_prefix("0o") {
        (8, d)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.is_empty() || !digits.bytes().all(|b| char::from(b).is_digit(radix)) {
        return None;
    }
    let n = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -n } else { n })
}

fn is_float(text: &str) -> bool {
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some((whole, fraction)) => {
            all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty())
        }
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    mantissa_ok
        && exponent.is_none_or(|e| {
            let e = e.strip_prefix(['-', '+']).unwrap_or(e);
            !e.is_empty() && all_digits(e)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn value(text: &str) -> serde_json::Value {
        parse(text.as_bytes()).unwrap().node.into_value()
    }

    #[test]
    fn scalars() {
        let text = "a: yes\nb: 0x1F\nc: 017\nd: '1'\ne: 1.50\nf: ~\ng: 2020-01-01\nh: 1_000\ni: 1e3\nj: !!str 5\nk: on\nl: \"no\"\nm: 09\nnn: 1:30\n0.5: x\ntrue: y2\n";
        assert_eq!(
            value(text),
            json!({"a": true, "b": 31, "c": 15, "d": "1", "e": 1.5, "f": null, "g": "2020-01-01", "h": 1000, "i": 1000,
                "j": "5", "k": true, "l": "no", "m": 9, "nn": "1:30", "0.5": "x", "true": "y2"})
        );
    }

    #[test]
    fn structure() {
        assert_eq!(
            value("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: [1, two]\n"),
            json!({"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": [1, "two"]}})
        );
        assert_eq!(value("a: 1\n---\nb: 2\n"), json!({"a": 1}));
        assert_eq!(value(""), json!(null));
        assert_eq!(value("# only a comment\n"), json!(null));
        assert_eq!(value("{\"a\": [1, \"b\"]}"), json!({"a": [1, "b"]}));
    }

    #[test]
    fn repeated_keys() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  a: b\n  a: c\ndata:\n  d: e\n";
        let yaml = parse(text.as_bytes()).unwrap();
        assert_eq!(yaml.repeated, ["line 7: key \"a\" already set in map", "line 9: key \"data\" already set in map"]);
        assert_eq!(yaml.node.into_value()["data"], json!({"d": "e"}));
    }

    #[test]
    fn errors() {
        for (text, want) in [
            ("a: b: c", "mapping values are not allowed in this context"),
            ("x: 1\na: b: c", "line 2: mapping values are not allowed in this context"),
            ("a:\n\tb: 1\n", "line 2: found character that cannot start any token"),
            ("a: @x\n", "found character that cannot start any token"),
            ("a: \"x\n", "line 2: found unexpected end of stream"),
            ("a: [1, 2\n", "line 1: did not find expected ',' or ']'"),
            ("a: {b: 1\n", "line 1: did not find expected ',' or '}'"),
            ("{", "did not find expected node content"),
            ("a:\n  b: 1\n c: 2\n", "line 2: did not find expected key"),
            ("- a\nb: 1\n", "line 1: did not find expected '-' indicator"),
            ("a: 1\n- b\n", "line 1: did not find expected key"),
            ("a: *x\n", "unknown anchor 'x' referenced"),
            ("a: \"\\q\"\n", "found unknown escape character"),
            ("a: 1\nb\n", "line 3: could not find expected ':'"),
            ("a: 'it's'\n", "did not find expected key"),
            ("a: \u{1}\n", "control characters are not allowed"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), format!("yaml: {want}"), "{text:?}");
        }
        assert!(parse(b"a: \xff").is_err());
        let bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        assert_eq!(parse(bomb.as_bytes()).unwrap_err(), "yaml: document contains excessive aliasing");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-c:\\-&*!<> \n\\[\\]{}'\"#|0-9.~]{0,40}") {
            let _ = parse(text.as_bytes());
        }
    }
}
