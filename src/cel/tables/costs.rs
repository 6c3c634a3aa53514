//! Costs that upstream's tests state: estimates exactly; at run time less what folding of constants saves.

use std::rc::Rc;

use serde_json::json;

use crate::{AUTHORIZER, Authorizer, Decision, DeclType, Env, PER_CALL_LIMIT, Program, Question, Sizes, Type, Value};

struct AllowAll;

impl Authorizer for AllowAll {
    fn check(&self, _: &Question<'_>) -> Decision {
        Decision { allowed: true, ..Decision::default() }
    }
}

/// (expression, least and most estimated, at run time)
const TABLE: &[(&str, u64, u64, u64)] = &[
    ("[1, 2, 3, 4, 5].sum()", 15, 15, 5),
    ("[uint(1), uint(2), uint(3), uint(4), uint(5)].max()", 20, 20, 5),
    ("[1, 2, 3, 4, 5].indexOf(3)", 15, 15, 5),
    ("'01234567890123456789012345678901234567890123456789'.indexOf('123')", 5, 5, 5),
    ("url('https:://kubernetes.io/').getScheme()", 4, 4, 4),
    ("url('https:://kubernetes.io/') == url('https:://kubernetes.io/')", 7, 9, 7),
    ("url('https:://kubernetes.io/') == url('http://x.b')", 5, 5, 5),
    ("ip('192.168.0.1')", 2, 2, 2),
    ("ip('2001:db8:3333:4444:5555:6666:7777:8888')", 4, 4, 4),
    ("ip('192.168.0.1').family()", 3, 3, 3),
    ("ip('192.168.0.1') == ip('192.168.0.1')", 5, 5, 5),
    ("ip.isCanonical('192.168.0.1')", 3, 3, 3),
    ("ip.isCanonical('2001:db8::abcd')", 3, 3, 3),
    ("cidr('192.168.0.0/16').ip()", 3, 3, 3),
    ("cidr('192.168.0.0/16').masked()", 3, 3, 3),
    ("cidr('192.168.0.0/16').containsCIDR(cidr('192.0.0.0/30'))", 7, 11, 7),
    ("cidr('192.168.0.0/16').containsCIDR('192.0.0.0/30')", 7, 11, 7),
    ("cidr('192.168.0.0/16').containsIP(ip('192.0.0.1'))", 4, 7, 4),
    ("cidr('192.168.0.0/16').containsIP('192.169.0.1')", 5, 8, 5),
    ("cidr('2001:db8::/32').containsIP(ip('2001:db8:3333:4444:5555:6666:7777:8888'))", 7, 10, 7),
    ("cidr('2001:db8::/32').containsIP('2001:db8::1')", 5, 8, 5),
    ("'ABCDEFGHIJ abcdefghij'.lowerAscii() == 'abcdefghij ABCDEFGHIJ'.lowerAscii()", 7, 9, 9),
    ("strings.quote('ABCDEFGHIJ abcdefghij') == strings.quote('ABCDEFGHIJ abcdefghij')", 7, 11, 9),
    ("'abc 123 def 123'.replace('123', '456')", 3, 3, 3),
    ("'abc 123 def 123'.replace('', 'x')", 3, 3, 3),
    ("'abc 123 def 123'.split(' ', 1)", 3, 3, 3),
    ("'abc 123 def 123'.substring(5, 8)", 2, 2, 2),
    ("'  abc 123 def 123  '.trim()", 2, 2, 2),
    ("'abc 123 def 123'.find('123')", 2, 2, 2),
    ("'abc 123 def 123'.findAll('123', 1)", 2, 2, 2),
    ("jsonpatch.escapeKey('abc/def~ abc/def~')", 2, 2, 2),
    ("authorizer.path('/healthz')", 2, 2, 2),
    ("authorizer.group('apps').resource('deployments').subresource('status').namespace('test').name('b')", 6, 6, 6),
    (
        "authorizer.group('').resource('pods').fieldSelector('spec.nodeName=example-node-name.fully.qualified.domain.name.example.com')",
        1821,
        1821,
        1821,
    ),
    ("authorizer.path('/healthz').check('get').allowed()", 350_003, 350_003, 350_003),
    ("quantity('12Mi')", 1, 1, 1),
    ("quantity('200M') == quantity('0.2G') && quantity('0.2G') == quantity('200M')", 3, 6, 6),
    ("quantity('50k').add(20).sub(quantity('100k')).asInteger() > 0", 6, 6, 6),
    ("quantity('50.703k').asApproximateFloat() > 0.0", 3, 3, 3),
    ("format.named('dns1123subdomain')", 1, 1, 1),
    ("format.named('dns1123Subdomain').value().validate('my-name')", 34, 34, 17),
    ("format.named('dns1123Label').value().validate('my-name')", 34, 34, 10),
    ("format.named('dns1123Label').value() == format.named('dns1123Label').value()", 5, 11, 5),
    ("sets.contains([], [])", 21, 21, 1),
    ("sets.contains([1, 2, 3, 4], [2, 3])", 29, 29, 9),
    ("!sets.contains([1], [2])", 23, 23, 3),
    ("sets.equivalent([1], [1, 1])", 25, 25, 5),
    ("sets.intersects([1, 2], [2, 2, 2])", 27, 27, 7),
    ("semver('1234.56789012345.67890123456789')", 4, 4, 4),
    ("semver('1.2.3').major()", 2, 2, 2),
    ("semver('1.0.0').compareTo(semver('1.2.3'))", 3, 3, 3),
    ("{'a': 1, 'b': 2}.all(k, v, v > 0)", 37, 41, 11),
    ("{'a': 1, 'b': 2}.exists(k, v, v > 0)", 39, 43, 10),
    ("{'a': 1, 'b': 2}.existsOne(k, v, v > 0)", 38, 40, 10),
    ("{'a': 1, 'b': 2}.transformMap(k, v, v + 1)", 71, 71, 11),
    ("{'a': 1, 'b': 2}.transformMap(k, v, v < 5, v + 1)", 67, 75, 15),
    ("{'a': 1, 'b': 2}.transformMapEntry(k, v, {k: v + 1})", 131, 131, 71),
    ("{'a': 1, 'b': 2}.transformMapEntry(k, v, v < 5, {k: v + 1})", 67, 135, 75),
    ("[1, 2].all(i, v, v > 0)", 17, 21, 11),
    ("[1, 2].exists(i, v, v > 0)", 19, 23, 10),
    ("[1, 2].existsOne(i, v, v > 0)", 18, 20, 10),
    ("[1, 2].transformList(i, v, v + 1)", 49, 49, 29),
    ("[1, 2].transformList(i, v, v < 5, v + 1)", 27, 53, 33),
];

#[test]
fn costs_are_upstreams() {
    let env = Env::kubernetes().with_mutation().with_variable("authorizer", Type::Opaque(AUTHORIZER));
    for (text, min, max, runtime) in TABLE {
        let program = Program::compile(&env, text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let estimate = program.estimate_cost(&Sizes::Unknown);
        assert_eq!((estimate.min, estimate.max), (*min, *max), "estimate of {text}");
        let outcome = program.eval(&[("authorizer", Value::authorizer(Rc::new(AllowAll)))], PER_CALL_LIMIT);
        assert!(outcome.result.is_ok(), "{text}: {:?}", outcome.result);
        assert_eq!(outcome.cost, *runtime, "cost of {text}");
    }
}

/// (schema, rule, most estimated), as upstream's tests of CustomResourceDefinitions state them.
#[test]
fn estimates_of_schemas_are_upstreams() {
    let string = json!({"type": "string"});
    let short = |max: i64| json!({"type": "string", "maxLength": max});
    let map = |values: serde_json::Value| json!({"type": "object", "additionalProperties": values});
    let format = |format: &str| json!({"type": "string", "format": format});
    let cases = [
        (map(format("duration")), "self.all(x, true)", 1_048_577),
        (map(format("date")), "self.all(x, true)", 524_288),
        (map(format("date-time")), "self.all(x, true)", 349_526),
        (string.clone(), "self.find('[0-9]+') == ''", 629_147),
        (short(10), "self.find('[0-9]+') == ''", 11),
        (json!({"type": "array", "items": string}), "self.join(' ') == 'aa bb'", 329_853_068_905),
        (json!({"type": "array", "maxItems": 10, "items": short(10)}), "self.join(' ') == 'aa bb'", 43),
        (json!({"type": "array", "items": string}), "self.isSorted() == true", 329_854_432_052),
        (json!({"type": "array", "maxItems": 10, "items": short(10)}), "self.isSorted() == true", 52),
        (
            json!({"type": "object", "properties": {"str": string, "before": short(2), "after": short(4)}}),
            "self.str.replace(self.before, self.after) == 'does not matter'",
            629_154,
        ),
        (
            json!({"type": "object", "properties": {"str": string, "separator": string}}),
            "self.str.split(self.separator) == []",
            629_160,
        ),
        (string.clone(), "self.lowerAscii() == 'lower!'", 314_575),
        (short(10), "self.lowerAscii() == 'lower!'", 6),
        (map(json!({"type": "integer"})), "oldSelf.size() == self.size()", 5),
        (map(format("date-time")), "self[\"a\"] == self[\"b\"]", 8),
        (map(format("duration")), "self[\"c\"] == self[\"d\"]", 8),
        (json!({"type": "string", "enum": ["A", "B", "C", "LongValue"]}), "self.contains('A')", 2),
        (json!({"type": "string", "enum": ["A"], "maxLength": 1000}), "self.contains('A')", 401),
    ];
    let mut wrong = Vec::new();
    for (schema, rule, want) in cases {
        let decl = DeclType::from_openapi(&schema, false, "selfType").expect("a declared type");
        let env = Env::kubernetes().with_variable("self", decl.ty.clone()).with_variable("oldSelf", decl.ty.clone());
        let program = Program::compile(&env, rule).expect(rule);
        let got = program.estimate_cost(&Sizes::of(&decl)).max;
        if got != want {
            wrong.push(format!("{rule}: {got}, not {want}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
