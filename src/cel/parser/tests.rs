//! Syntax errors as cel-go reports them, and that no text makes the parser panic.

use proptest::prelude::*;

use super::parse;
use crate::source::Source;

const START: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Each message with its line and column.
fn errors(text: &str) -> Vec<String> {
    let source = Source::new(text);
    match parse(&source) {
        Ok(_) => Vec::new(),
        Err(issues) => source
            .display(issues)
            .lines()
            .filter_map(|line| line.strip_prefix("ERROR: <input>:"))
            .map(|line| line.replace(START, "START"))
            .collect(),
    }
}

#[test]
fn syntax_errors_are_antlrs() {
    let cases: &[(&str, &[&str])] = &[
        ("self.x >", &["1:9: Syntax error: mismatched input '<EOF>' expecting START"]),
        (
            "foo(",
            &[
                "1:5: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', ')', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
            ],
        ),
        ("object.x =", &["1:10: Syntax error: token recognition error at: '='"]),
        (
            "*@a | b",
            &[
                "1:1: Syntax error: extraneous input '*' expecting START",
                "1:2: Syntax error: token recognition error at: '@'",
                "1:5: Syntax error: token recognition error at: '| '",
                "1:7: Syntax error: extraneous input 'b' expecting <EOF>",
            ],
        ),
        (
            "1 + $",
            &[
                "1:5: Syntax error: token recognition error at: '$'",
                "1:6: Syntax error: mismatched input '<EOF>' expecting START",
            ],
        ),
        ("1 + 2\n3 +", &["2:1: Syntax error: mismatched input '3' expecting <EOF>"]),
        ("TestAllTypes(){}", &["1:15: Syntax error: mismatched input '{' expecting <EOF>"]),
        ("TestAllTypes{}()", &["1:15: Syntax error: mismatched input '(' expecting <EOF>"]),
        (
            "1 + +",
            &[
                "1:5: Syntax error: mismatched input '+' expecting START",
                "1:6: Syntax error: mismatched input '<EOF>' expecting START",
            ],
        ),
        ("{\"a\": 1}.\"a\"", &["1:10: Syntax error: no viable alternative at input '.\"a\"'"]),
        (
            "\"\\xFh\"",
            &[
                "1:1: Syntax error: token recognition error at: '\"\\xFh'",
                "1:6: Syntax error: token recognition error at: '\"'",
                "1:7: Syntax error: mismatched input '<EOF>' expecting START",
            ],
        ),
        (
            "in",
            &[
                "1:1: Syntax error: mismatched input 'in' expecting START",
                "1:3: Syntax error: mismatched input '<EOF>' expecting START",
            ],
        ),
        ("namespace", &["1:1: reserved identifier: namespace"]),
        (
            "[1, 2, 3].map(var, var * var)",
            &[
                "1:15: reserved identifier: var",
                "1:15: argument is not an identifier",
                "1:20: reserved identifier: var",
                "1:26: reserved identifier: var",
            ],
        ),
        (
            "func{{a}}",
            &[
                "1:6: Syntax error: extraneous input '{' expecting {'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}",
                "1:8: Syntax error: mismatched input '}' expecting ':'",
                "1:9: Syntax error: extraneous input '}' expecting <EOF>",
            ],
        ),
        (
            "msg{:a}",
            &[
                "1:5: Syntax error: extraneous input ':' expecting {'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}",
                "1:7: Syntax error: mismatched input '}' expecting ':'",
            ],
        ),
        ("{a}", &["1:3: Syntax error: mismatched input '}' expecting ':'"]),
        (
            "{:a}",
            &[
                "1:2: Syntax error: extraneous input ':' expecting {'[', '{', '}', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
                "1:4: Syntax error: mismatched input '}' expecting ':'",
            ],
        ),
        (
            "{",
            &[
                "1:2: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '}', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
            ],
        ),
        ("ind[a{b}]", &["1:8: Syntax error: mismatched input '}' expecting ':'"]),
        (
            "--",
            &[
                "1:3: Syntax error: no viable alternative at input '-'",
                "1:3: Syntax error: mismatched input '<EOF>' expecting START",
            ],
        ),
        (
            "?",
            &[
                "1:1: Syntax error: mismatched input '?' expecting START",
                "1:2: Syntax error: mismatched input '<EOF>' expecting START",
            ],
        ),
        ("1.all(2, 3)", &["1:7: argument must be a simple name"]),
        (
            "'x' in ['x']\n && in.😁",
            &[
                "2:5: Syntax error: extraneous input 'in' expecting START",
                "2:8: Syntax error: token recognition error at: '😁'",
                "2:9: Syntax error: no viable alternative at input '.'",
            ],
        ),
        (
            "want.filter(l, !(lin resource.labels))",
            &[
                "1:22: Syntax error: mismatched input 'resource' expecting ')'",
                "1:38: Syntax error: extraneous input ')' expecting <EOF>",
            ],
        ),
        ("{1:305 2:569}", &["1:8: Syntax error: mismatched input '2' expecting {'}', ','}"]),
        ("'%s'.format(x])", &["1:14: Syntax error: extraneous input ']' expecting ')'"]),
        ("foo(1", &["1:6: Syntax error: missing ')' at '<EOF>'"]),
        ("0xFFFFFFFFFFFFFFFFF", &["1:1: invalid int literal"]),
        ("0xFFFFFFFFFFFFFFFFFu", &["1:1: invalid uint literal"]),
        ("1.99e90000009", &["1:1: invalid double literal"]),
        ("has(x)", &["1:5: invalid argument to has() macro"]),
    ];
    for (text, want) in cases {
        assert_eq!(errors(text), *want, "{text}");
    }
}

#[test]
fn nesting_is_bounded() {
    for bomb in [
        "[".repeat(5_000),
        "(".repeat(5_000),
        "a.".repeat(5_000) + "a",
        "-(".repeat(5_000),
        "a?b:".repeat(5_000) + "c",
        "1+".repeat(5_000) + "1",
        "!".repeat(20_000),
        "a[".repeat(3_000),
        "{1:".repeat(3_000),
        "x.map(y,".repeat(1_000),
    ] {
        assert!(!errors(&bomb).is_empty());
    }
    assert!(errors(&("[1].map(a, ".repeat(60) + "1" + &")".repeat(60))).is_empty());
    assert!(errors(&("x && ".repeat(2_000) + "x")).is_empty(), "chains of one operator are balanced");
}

#[test]
fn the_caret_is_as_wide_as_the_text() {
    let source = Source::new("'😁' + $");
    let issues = parse(&source).err().expect("a syntax error");
    assert!(
        source
            .display(issues)
            .starts_with("ERROR: <input>:1:7: Syntax error: token recognition error at: '$'\n | '😁' + $\n | .．....^")
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        let _ = errors(&text);
    }

    #[test]
    fn no_tokens_panic(text in "([a-c1.(){}\\[\\],?:!'\"+*/<=&| \\-]|in|has\\(|\\.map\\(x,|null|b'|r\"|//|\n){0,40}") {
        let _ = errors(&text);
    }
}
