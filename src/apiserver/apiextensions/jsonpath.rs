//! The JSONPath of printer columns and selectable fields: fields, indexes, slices, wildcards, descent and filters.

use apimachinery::goformat;
use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// `[1]`, `[-1]`, `[1:3]`, `[::2]`
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        step: i64,
    },
    Index(i64),
    Any,
    Descend,
    Union(Vec<Step>),
    Filter {
        left: Operand,
        test: Test,
        right: Operand,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Test {
    Exists,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// `.spec.replicas`; `None` for what is no path.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser { rest: text };
        let steps = parser.steps()?;
        parser.rest.is_empty().then_some(Self(steps))
    }

    /// The first value at this path.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        find(&self.0, vec![value]).into_iter().next()
    }
}

/// As kubectl prints a value inside of text.
pub fn print(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Number(number) => goformat::number(number),
        Value::Bool(flag) => flag.to_string(),
        other => goformat::json(other),
    }
}

fn find<'a>(steps: &[Step], mut values: Vec<&'a Value>) -> Vec<&'a Value> {
    for step in steps {
        let mut next = Vec::new();
        for value in values {
            take(step, value, &mut next);
        }
        values = next;
        if values.is_empty() {
            break;
        }
    }
    values
}

fn take<'a>(step: &Step, value: &'a Value, out: &mut Vec<&'a Value>) {
    match step {
        Step::Field(name) => out.extend(value.as_object().and_then(|map| map.get(name))),
        Step::Index(index) => {
            if let Some(items) = value.as_array() {
                let at = if *index < 0 { *index + items.len() as i64 } else { *index };
                out.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
            }
        }
        Step::Slice { from, to, step } => {
            let Some(items) = value.as_array() else { return };
            let length = items.len() as i64;
            let bound = |at: i64| if at < 0 { at + length } else { at }.clamp(0, length);
            let (from, to) = (bound(from.unwrap_or(0)), bound(to.unwrap_or(length)));
            let step = usize::try_from(*step).unwrap_or(1).max(1);
            out.extend((from..to).step_by(step).filter_map(|at| items.get(at as usize)));
        }
        Step::Any => match value {
            Value::Array(items) => out.extend(items),
            Value::Object(map) => out.extend(map.values()),
            _ => {}
        },
        Step::Descend => descend(value, out),
        Step::Union(steps) => steps.iter().for_each(|step| take(step, value, out)),
        Step::Filter { left, test, right } => {
            let Some(items) = value.as_array() else { return };
            out.extend(items.iter().filter(|item| passes(item, left, *test, right)));
        }
    }
}

fn descend<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    out.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, out)),
        Value::Object(map) => map.values().for_each(|item| descend(item, out)),
        _ => {}
    }
}

fn passes(item: &Value, left: &Operand, test: Test, right: &Operand) -> bool {
    fn value<'a>(operand: &'a Operand, item: &'a Value) -> Option<&'a Value> {
        match operand {
            Operand::Path(steps) => find(steps, vec![item]).into_iter().next(),
            Operand::Literal(value) => Some(value),
        }
    }
    let Some(left) = value(left, item) else { return false };
    if test == Test::Exists {
        return true;
    }
    let Some(right) = value(right, item) else { return false };
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let Some(order) = order else { return false };
    match test {
        Test::Exists => true,
        Test::Equal => order.is_eq(),
        Test::NotEqual => order.is_ne(),
        Test::Less => order.is_lt(),
        Test::LessOrEqual => order.is_le(),
        Test::Greater => order.is_gt(),
        Test::GreaterOrEqual => order.is_ge(),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn steps(&mut self) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        let _ = self.eat("$") || self.eat("@");
        loop {
            if self.eat("..") {
                steps.push(Step::Descend);
                if !self.rest.starts_with('[') {
                    steps.push(self.name()?);
                }
            } else if self.eat(".") {
                if self.rest.is_empty() || self.rest.starts_with('[') {
                    continue;
                }
                steps.push(self.name()?);
            } else if self.eat("[") {
                steps.push(self.brackets()?);
            } else {
                return Some(steps);
            }
        }
    }

    /// A field's name; a backslash makes the next character part of it.
    fn name(&mut self) -> Option<Step> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.push(chars.next()?.1),
                '.' | '[' | ']' | ' ' | ')' | '(' | '=' | '!' | '<' | '>' | ',' | '}' | '{' | '|' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        match name.as_str() {
            "" => None,
            "*" => Some(Step::Any),
            _ => Some(Step::Field(name)),
        }
    }

    fn brackets(&mut self) -> Option<Step> {
        if self.eat("?(") {
            return self.filter();
        }
        let end = self.closing()?;
        let inside = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        let mut parts = inside.split(',').map(|part| subscript(part.trim())).collect::<Option<Vec<_>>>()?;
        if parts.len() == 1 { parts.pop() } else { Some(Step::Union(parts)) }
    }

    /// The place of the bracket that closes, outside of quotes.
    fn closing(&self) -> Option<usize> {
        let mut quote = None;
        for (at, c) in self.rest.char_indices() {
            match (quote, c) {
                (None, '\'' | '"') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                (None, ']') => return Some(at),
                _ => {}
            }
        }
        None
    }

    fn filter(&mut self) -> Option<Step> {
        let left = self.operand()?;
        let test = [
            ("==", Test::Equal),
            ("!=", Test::NotEqual),
            ("<=", Test::LessOrEqual),
            (">=", Test::GreaterOrEqual),
            ("<", Test::Less),
            (">", Test::Greater),
        ];
        self.spaces();
        let test = test.into_iter().find(|(text, _)| self.eat(text)).map_or(Test::Exists, |(_, test)| test);
        let right = if test == Test::Exists { Operand::Literal(Value::Null) } else { self.operand()? };
        self.spaces();
        self.eat(")]").then_some(Step::Filter { left, test, right })
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn operand(&mut self) -> Option<Operand> {
        self.spaces();
        let first = self.rest.chars().next()?;
        if matches!(first, '@' | '.' | '$') {
            return Some(Operand::Path(self.steps()?));
        }
        if matches!(first, '\'' | '"') {
            let text = &self.rest[1..];
            let end = text.find(first)?;
            self.rest = &text[end + 1..];
            return Some(Operand::Literal(text[..end].into()));
        }
        let end = self.rest.find([' ', ')', '=', '!', '<', '>'])?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end..];
        Some(Operand::Literal(match text {
            "true" => true.into(),
            "false" => false.into(),
            number => serde_json::from_str::<serde_json::Number>(number).ok()?.into(),
        }))
    }
}

fn subscript(text: &str) -> Option<Step> {
    for quote in ['\'', '"'] {
        if let Some(name) = text.strip_prefix(quote) {
            return Some(Step::Field(name.strip_suffix(quote)?.to_owned()));
        }
    }
    if text == "*" {
        return Some(Step::Any);
    }
    if !text.contains(':') {
        return text.parse().ok().map(Step::Index);
    }
    let mut bounds = text.split(':').map(|part| match part.trim() {
        "" => Some(None),
        number => number.parse::<i64>().ok().map(Some),
    });
    let (from, to, step) =
        (bounds.next()??, bounds.next().unwrap_or(Some(None))?, bounds.next().unwrap_or(Some(None))?);
    Some(Step::Slice { from, to, step: step.unwrap_or(1) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds() {
        let value = json!({"spec": {"l": [{"k": "one", "v": 1}, {"k": "two", "v": 2}], "a.b": 3, "o": {"x": null}}});
        let first = |path: &str| JsonPath::parse(path).expect(path).first(&value).cloned();
        assert_eq!(first(".spec.l[0].k"), Some(json!("one")));
        assert_eq!(first(".spec.l[?(@.k==\"two\")].v"), Some(json!(2)));
        assert_eq!(first(".spec.l[?(@.v > 1)].k"), Some(json!("two")));
        assert_eq!(first(".spec.l[*].k"), Some(json!("one")));
        assert_eq!(first(".spec.l[-1].k"), Some(json!("two")));
        assert_eq!(first(".spec.l[1:].k"), Some(json!("two")));
        assert_eq!(first(".spec.a\\.b"), Some(json!(3)));
        assert_eq!(first(".spec['a.b']"), Some(json!(3)));
        assert_eq!(first("..v"), Some(json!(1)));
        assert_eq!(first(".spec.none.x"), None);
        assert_eq!(first(".spec.o.x"), Some(Value::Null));
        for bad in [".spec[", ".spec[?(@.x]", ".spec.l[x]"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }
}
