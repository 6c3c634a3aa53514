//! Selectors against labels, and what upstream says to bad ones.

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
