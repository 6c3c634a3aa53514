//! Tables: what expressions come to, what the checker says, what things cost.

mod costs;

use serde_json::json;

use crate::{DeclType, Entries, Env, PER_CALL_LIMIT, Program, Sizes, Type, Value};

fn run(text: &str) -> String {
    let env = Env::kubernetes().with_variable("x", Type::Dyn);
    let program = match Program::compile(&env, text) {
        Ok(program) => program,
        Err(error) => return format!("compile: {error}"),
    };
    let x = json!({"a": 1, "b": [1, 2, 3], "s": "text", "n": null, "m": {"k": "v"}});
    let value = Value::from_json(&x, None).expect("a document");
    match program.eval(&[("x", value)], PER_CALL_LIMIT).result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("error: {error}"),
    }
}

fn table(cases: &[(&str, &str)]) {
    for (text, want) in cases {
        assert_eq!(run(text), *want, "{text}");
    }
}

#[test]
fn operators() {
    table(&[
        ("1 + 2 * 3 - 4 / 2 % 3", "5"),
        ("-1", "-1"),
        ("--1", "1"),
        ("-x.a", "-1"),
        ("1u + 2u", "3u"),
        ("1.5 * 2.0", "3.0"),
        ("'a' + 'b'", "\"ab\""),
        ("b'a' + b'b'", "b[97, 98]"),
        ("[1] + [2]", "[1, 2]"),
        (
            "1 == 1.0",
            "compile: ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, double)'\n | 1 == 1.0\n | ..^",
        ),
        ("dyn(1) == 1.0", "true"),
        ("dyn(1) == 1u", "true"),
        ("1 < 2.5", "true"),
        ("1u < 2", "true"),
        ("'a' < 'b'", "true"),
        ("1 / 0", "error: division by zero"),
        ("1 % 0", "error: modulus by zero"),
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("0u - 1u", "error: unsigned integer overflow"),
        ("true || 1 / 0 > 0", "true"),
        ("1 / 0 > 0 || true", "true"),
        ("1 / 0 > 0 || false", "error: division by zero"),
        ("1 / 0 > 0 && false", "false"),
        ("!true", "false"),
        ("true ? 1 : 2", "1"),
        ("1 in [1, 2]", "true"),
        ("3 in x.b", "true"),
        ("'k' in x.m", "true"),
        ("'z' in {'z': 1}", "true"),
        ("{'a': 1}['a']", "1"),
        ("{'a': 1}.a", "1"),
        ("{1: 'a'}[dyn(1.0)]", "\"a\""),
        ("[1, 2][1]", "2"),
        ("[1, 2][3]", "error: index out of bounds: 3"),
        ("x.missing", "error: no such key: missing"),
        ("x['missing']", "error: no such key: missing"),
        ("x.n.y", "error: no such key: y"),
        ("x.a + 'b'", "error: no such overload"),
        ("has(x.a)", "true"),
        ("has(x.z)", "false"),
        ("has(x.n.z)", "false"),
        ("null == x.n", "true"),
        ("[1, 2] == [1, 2]", "true"),
        ("{'a': 1} == {'a': 1}", "true"),
        ("size('😁a')", "2"),
        ("x.b.size()", "3"),
        ("type(1) == int", "true"),
        ("type(x.b) == list", "true"),
        ("type(type(1)) == type", "true"),
        ("\"\\u263A\" == '☺'", "true"),
        ("r'\\n'.size()", "2"),
        ("'''a'b'''", "\"a'b\""),
        ("0x1F", "31"),
        ("1e3", "1000.0"),
    ]);
}

#[test]
fn conversions() {
    table(&[
        ("int('42')", "42"),
        ("int(x.s)", "error: type conversion error from 'string' to 'int'"),
        ("int(1.9)", "1"),
        ("uint(-1)", "compile: unsigned integer overflow"),
        ("string(1.0)", "\"1\""),
        ("string(1e6)", "\"1e+06\""),
        ("string(true)", "\"true\""),
        ("string(b'abc')", "\"abc\""),
        ("double('1.5')", "1.5"),
        ("bool('t')", "true"),
        ("bytes('a')", "b[97]"),
        ("duration('90s')", "duration(90s)"),
        ("string(duration('1h'))", "\"3600s\""),
        ("duration('1h').getMinutes()", "60"),
        ("timestamp('2024-02-29T10:11:12.5Z').getMonth()", "1"),
        ("timestamp('2024-02-29T10:11:12.5Z').getDate()", "29"),
        ("timestamp('2024-02-29T10:11:12.5Z').getDayOfMonth()", "28"),
        ("timestamp('2024-02-29T10:11:12.5Z').getDayOfYear()", "59"),
        ("timestamp('2024-02-29T10:11:12.5Z').getDayOfWeek()", "4"),
        ("timestamp('2024-02-29T10:11:12.5Z').getMilliseconds()", "500"),
        ("timestamp('2024-02-29T23:00:00Z').getHours('+02:00')", "1"),
        ("timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')", "true"),
        ("int(timestamp('1970-01-01T00:01:00Z'))", "60"),
        (
            "timestamp('nope')",
            "compile: ERROR: <input>:1:11: invalid timestamp argument\n | timestamp('nope')\n | ..........^",
        ),
        (
            "duration('nope')",
            "compile: ERROR: <input>:1:10: invalid duration argument\n | duration('nope')\n | .........^",
        ),
    ]);
}

#[test]
fn macros() {
    table(&[
        ("x.b.all(e, e > 0)", "true"),
        ("x.b.exists(e, e > 2)", "true"),
        ("x.b.exists_one(e, e > 2)", "true"),
        ("x.b.map(e, e * 2)", "[2, 4, 6]"),
        ("x.b.map(e, e > 1, e * 2)", "[4, 6]"),
        ("x.b.filter(e, e > 1)", "[2, 3]"),
        ("x.m.map(k, k)", "[\"k\"]"),
        ("[[1, 2], [3]].map(l, l.map(e, e + 1))", "[[2, 3], [4]]"),
        ("x.b.all(i, v, v == i + 1)", "true"),
        ("x.m.exists(k, v, k == 'k' && v == 'v')", "true"),
        ("x.b.transformList(i, v, i * v)", "[0, 2, 6]"),
        ("x.b.transformMap(i, v, v > 1, v)", "{1: 2, 2: 3}"),
        ("x.m.transformMapEntry(k, v, {v: k})", "{\"v\": \"k\"}"),
        ("[1, 1].transformMapEntry(i, v, {v: i})", "error: insert failed: key 1 already exists"),
        ("['a', 1 / 0 > 0 ? 'b' : 'c'].exists(e, e == 'a')", "error: division by zero"),
        ("[0, 1].exists(e, 1 / e == 1)", "true"),
        ("[0, 1].all(e, 1 / e == 2)", "false"),
        ("x.?a.optMap(v, v + 1).orValue(0)", "2"),
        ("x.?z.optMap(v, v + 1).orValue(0)", "0"),
        ("x.?m.optFlatMap(m, m.?k)", "optional(\"v\")"),
    ]);
}

#[test]
fn optionals() {
    table(&[
        ("x.?a", "optional(1)"),
        ("x.?z", "optional.none()"),
        ("x.?z.y.w", "optional.none()"),
        ("x.?m.k", "optional(\"v\")"),
        ("x.?m.k.orValue('d')", "\"v\""),
        ("x.b[?7].hasValue()", "false"),
        ("x.b[?1].value()", "2"),
        ("optional.none().value()", "error: optional.none() dereference"),
        ("optional.ofNonZeroValue(0).hasValue()", "false"),
        ("[?x.?z, ?x.?a]", "[1]"),
        ("{?'a': x.?a, ?'z': x.?z}", "{\"a\": 1}"),
        ("x.?z.or(x.?a)", "optional(1)"),
        ("has(x.?m.k)", "true"),
        ("[1, 2].first()", "optional(1)"),
    ]);
}

#[test]
fn strings() {
    table(&[
        ("'hello'.charAt(4)", "\"o\""),
        ("'hello'.charAt(5)", "\"\""),
        ("'hello'.charAt(6)", "error: index out of range: 6"),
        ("'hello mellow'.indexOf('ello')", "1"),
        ("'hello mellow'.indexOf('ello', 2)", "7"),
        ("'hello mellow'.lastIndexOf('ello')", "7"),
        ("'hello mellow'.lastIndexOf('ello', 6)", "1"),
        ("['a', 'b'].join('-')", "\"a-b\""),
        ("'TacoCat'.lowerAscii()", "\"tacocat\""),
        ("'hello hello'.replace('he', 'we', 1)", "\"wello hello\""),
        ("'a,b,c'.split(',', 2)", "[\"a\", \"b,c\"]"),
        ("'abc'.split('')", "[\"a\", \"b\", \"c\"]"),
        ("'tacocat'.substring(4)", "\"cat\""),
        ("'tacocat'.substring(0, 4)", "\"taco\""),
        ("'tacocat'.substring(4, 2)", "error: invalid substring range. start: 4, end: 2"),
        ("'  a '.trim()", "\"a\""),
        ("'%s is %d, %.2f, %x %b'.format([dyn('a'), 3, 1.239, 255, 5])", "\"a is 3, 1.24, ff 101\""),
        ("'%s'.format([[dyn(1), 'a', {'k': true}]])", "\"[1, a, {k: true}]\""),
        ("strings.quote('a\"b')", "\"\\\"a\\\\\\\"b\\\"\""),
        ("'abc 123'.find('[0-9]+')", "\"123\""),
        ("'123 abc 456'.findAll('[0-9]+')", "[\"123\", \"456\"]"),
        ("'a1'.matches('^\\\\w\\\\d$')", "true"),
        ("'é'.matches('^\\\\w$')", "false"),
        (
            "'a'.matches('(')",
            "compile: ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
    ]);
}

#[test]
fn lists_and_sets() {
    table(&[
        ("[1, 2, 3].sum()", "6"),
        ("[].sum()", "0"),
        ("[1.5, 2.0].sum()", "3.5"),
        ("[3, 1, 2].min()", "1"),
        ("[3, 1, 2].max()", "3"),
        ("dyn([]).max()", "error: max called on empty list"),
        ("[1, 2, 3].isSorted()", "true"),
        ("['b', 'a'].isSorted()", "false"),
        ("[1, 2, 2].indexOf(2)", "1"),
        ("[1, 2, 2].lastIndexOf(2)", "2"),
        ("sets.contains([1, 2], [2])", "true"),
        ("sets.equivalent([1], [1, 1])", "true"),
        ("sets.intersects([1], [2])", "false"),
    ]);
}

#[test]
fn kubernetes_types() {
    table(&[
        ("quantity('1.5Gi').isGreaterThan(quantity('1Gi'))", "true"),
        ("quantity('50k').add(20).asInteger()", "50020"),
        ("quantity('1').compareTo(quantity('2'))", "-1"),
        ("sign(quantity('-5'))", "-1"),
        ("isQuantity('1.3Xi')", "false"),
        ("quantity('200M') == quantity('0.2G')", "true"),
        ("ip('127.0.0.1').family()", "4"),
        ("ip('::1').isLoopback()", "true"),
        ("isIP('::ffff:1.2.3.4')", "false"),
        ("ip.isCanonical('2001:DB8::1')", "false"),
        ("cidr('192.168.0.0/24').containsIP('192.168.0.1')", "true"),
        ("cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/25'))", "true"),
        ("string(cidr('192.168.0.1/24').masked())", "\"192.168.0.0/24\""),
        ("cidr('192.168.0.1/24').prefixLength()", "24"),
        ("isCIDR('10.0.0.0/33')", "false"),
        ("url('https://u@example.com:80/p/a?k=v&k=w').getHostname()", "\"example.com\""),
        ("url('https://example.com:80/p/a?k=v&k=w').getPort()", "\"80\""),
        ("url('https://example.com:80/p/a?k=v&k=w').getHost()", "\"example.com:80\""),
        ("url('https://example.com/p/a?k=v&k=w').getQuery()['k']", "[\"v\", \"w\"]"),
        ("url('/p a').getEscapedPath()", "\"/p%20a\""),
        ("isURL('../x')", "false"),
        ("semver('1.2.3').isLessThan(semver('1.10.0'))", "true"),
        ("semver('v1.0', true) == semver('1.0.0')", "true"),
        ("isSemver('1.0')", "false"),
        ("semver('1.0.0-alpha').compareTo(semver('1.0.0'))", "-1"),
        ("format.dns1123Label().validate('a-b').hasValue()", "false"),
        ("format.named('dns1123Label').value().validate('A').hasValue()", "true"),
        ("format.named('nope').hasValue()", "false"),
    ]);
}

fn compile_error(env: &Env, text: &str) -> String {
    Program::compile(env, text).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn checker_messages() {
    let object = Type::object("selfType", [("a", Type::Int), ("s", Type::String), ("l", Type::list(Type::Int))]);
    let env = Env::kubernetes().with_variable("self", object);
    for (text, want) in [
        ("self.b == 'x'", "ERROR: <input>:1:5: undefined field 'b'\n | self.b == 'x'\n | ....^"),
        ("nope.x == 1", "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope.x == 1\n | ^"),
        (
            "self.a + self.s",
            "ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(int, string)'\n | self.a + self.s\n | .......^",
        ),
        (
            "self.s.startsWith(1)",
            "ERROR: <input>:1:18: found no matching overload for 'startsWith' applied to 'string.(int)'\n | self.s.startsWith(1)\n | .................^",
        ),
        (
            "self.a.foo()",
            "ERROR: <input>:1:11: undeclared reference to 'foo' (in container '')\n | self.a.foo()\n | ..........^",
        ),
        ("foo(1)", "ERROR: <input>:1:4: undeclared reference to 'foo' (in container '')\n | foo(1)\n | ...^"),
        ("self.a.x", "ERROR: <input>:1:7: type 'int' does not support field selection\n | self.a.x\n | ......^"),
        (
            "self.a.all(x, true)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.a.all(x, true)\n | ....^",
        ),
        (
            "self.l.all(x, x)",
            "ERROR: <input>:1:15: expected type 'bool' but found 'int'\n | self.l.all(x, x)\n | ..............^",
        ),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        ("1 && true", "ERROR: <input>:1:1: expected type 'bool' but found 'int'\n | 1 && true\n | ^"),
        (
            "self == 1",
            "ERROR: <input>:1:6: found no matching overload for '_==_' applied to '(selfType, int)'\n | self == 1\n | .....^",
        ),
        (
            "size(1)",
            "ERROR: <input>:1:5: found no matching overload for 'size' applied to '(int)'\n | size(1)\n | ....^",
        ),
        (
            "self.x +\n self.y",
            "ERROR: <input>:1:5: undefined field 'x'\n | self.x +\n | ....^\nERROR: <input>:2:6: undefined field 'y'\n |  self.y\n | .....^",
        ),
    ] {
        assert_eq!(compile_error(&env, text), want, "{text}");
    }
}

#[test]
fn result_types() {
    let env = Env::kubernetes().with_variable("self", Type::Dyn);
    for (text, want) in [
        ("1", "int"),
        ("1 + 1", "int"),
        ("self.x == 1", "bool"),
        ("self.x", "dyn"),
        ("[1]", "list(int)"),
        ("{'a': [1.0]}", "map(string, list(double))"),
        ("self.?x", "optional_type(dyn)"),
        ("timestamp('2020-01-01T00:00:00Z')", "google.protobuf.Timestamp"),
        ("null", "null_type"),
        ("self.map(x, x.y)", "list(dyn)"),
        ("[1].map(x, string(x))", "list(string)"),
        ("optional.of(1).orValue(2)", "int"),
        ("type(1)", "type(int)"),
    ] {
        let program = Program::compile(&env, text).expect(text);
        assert_eq!(program.result_type().to_string(), want, "{text}");
    }
}

#[test]
fn objects_of_a_schema() {
    let schema = json!({
        "type": "object",
        "required": ["min"],
        "properties": {
            "min": {"type": "integer"},
            "max": {"type": "integer"},
            "ratio": {"type": "number"},
            "a-b": {"type": "string"},
            "namespace": {"type": "string"},
            "port": {"x-kubernetes-int-or-string": true},
            "when": {"type": "string", "format": "date-time"},
            "wait": {"type": "string", "format": "duration"},
            "data": {"type": "string", "format": "byte"},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    });
    let decl = DeclType::from_openapi(&schema, true, "selfType").expect("an object");
    let env = Env::kubernetes().with_variable("self", decl.ty.clone());
    let object = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "labels": {"a": "b"}},
        "min": 1, "max": 2, "ratio": 3, "a-b": "x", "namespace": "y", "port": "http", "free": {"k": 1},
        "when": "2020-01-01T00:00:00Z", "wait": "1m", "data": "YWJj", "tags": ["a", "b"], "labels": {"k": "v"},
    });
    for (text, want) in [
        ("self.min <= self.max", "true"),
        ("self.ratio > 2.5", "true"),
        ("self.a__dash__b", "\"x\""),
        ("self.__namespace__", "\"y\""),
        ("self.namespace", "\"y\""),
        ("type(self.port) == string", "true"),
        ("self.when.getFullYear()", "2020"),
        ("self.wait == duration('60s')", "true"),
        ("self.data", "b[97, 98, 99]"),
        ("self.tags == ['b', 'a']", "true"),
        ("self.tags + ['b', 'c']", "[\"a\", \"b\", \"c\"]"),
        ("self.labels.all(k, k == 'k')", "true"),
        ("self.metadata.name", "\"n\""),
        ("self.kind", "\"K\""),
        ("self == self", "true"),
        (
            "size(self.free)",
            "compile: ERROR: <input>:1:5: found no matching overload for 'size' applied to '(selfType.free)'\n | size(self.free)\n | ....^",
        ),
        (
            "self.metadata.labels",
            "compile: ERROR: <input>:1:14: undefined field 'labels'\n | self.metadata.labels\n | .............^",
        ),
    ] {
        let got = match Program::compile(&env, text) {
            Err(error) => format!("compile: {error}"),
            Ok(program) => {
                let value = Value::from_json(&object, Some(&decl)).expect("an object");
                match program.eval(&[("self", value)], PER_CALL_LIMIT).result {
                    Ok(value) => format!("{value:?}"),
                    Err(error) => format!("error: {error}"),
                }
            }
        };
        assert_eq!(got, want, "{text}");
    }
}

#[test]
fn references_are_known() {
    let env = Env::kubernetes().with_variable("self", Type::Int).with_variable("oldSelf", Type::Int);
    let uses = |text: &str| Program::compile(&env, text).expect(text).uses_variable("oldSelf");
    assert!(uses("self == oldSelf"));
    assert!(!uses("self == 1"));
    assert!(!uses("[1].all(oldSelf, oldSelf > 0)") || uses("[oldSelf].all(x, x > 0)"));
}

#[test]
fn estimates() {
    let schema = json!({
        "type": "object",
        "properties": {
            "s": {"type": "string", "maxLength": 10},
            "t": {"type": "string"},
            "i": {"type": "integer"},
            "l": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 20}},
            "u": {"type": "array", "items": {"type": "integer"}},
            "m": {"type": "object", "maxProperties": 7, "additionalProperties": {"type": "string", "maxLength": 3}},
        },
    });
    let decl = DeclType::from_openapi(&schema, false, "selfType").expect("an object");
    let env = Env::kubernetes().with_variable("self", decl.ty.clone());
    for (text, min, max) in [
        ("true", 0, 0),
        ("self.i > 5", 3, 3),
        ("self.i == 5", 2, 2),
        ("self.s == 'x'", 3, 3),
        ("self.s == self.t", 5, 8),
        ("has(self.s)", 1, 1),
        ("self.s.startsWith('abc')", 3, 3),
        ("self.s.matches('abcd')", 3, 7),
        ("self.s.contains('abc')", 2, 6),
        ("self.l.all(x, x == 'a')", 3, 28),
        ("self.l.size() > 2", 4, 4),
        ("self.u.all(x, x > 0)", 3, 7864318),
        ("self.m.all(k, true)", 3, 24),
        ("self.l.map(x, x + x)", 13, 163),
        ("self.l[0] == 'a'", 4, 4),
        ("self.s.lowerAscii() == 'a'", 3, 7),
        ("'a' in self.l", 2, 7),
        ("self.l.join(',') == ''", 2, 43),
        ("quantity(self.s).isGreaterThan(quantity('1'))", 4, 8),
        ("sets.contains(self.l, ['a'])", 13, 18),
    ] {
        let program = Program::compile(&env, text).expect(text);
        let estimate = program.estimate_cost(&Sizes::of(&decl));
        assert_eq!((estimate.min, estimate.max), (min, max), "{text}");
    }
}

#[test]
fn runtime_costs() {
    let env = Env::kubernetes().with_variable("x", Type::Dyn);
    let x = json!({"a": 1, "b": [1, 2, 3], "s": "0123456789"});
    for (text, want) in [
        ("1 + 1", 1),
        ("x.a", 2),
        ("x.a == 1", 3),
        ("has(x.a)", 1),
        ("x.s == '0123456789'", 3),
        ("x.s.contains('0123456789')", 3),
        ("1 in [1, 2, 3]", 0),
        ("x.a in x.b", 5),
        ("[1, 2, 3]", 0),
        ("[x.a]", 12),
        ("x.b.all(e, e > 0)", 18),
    ] {
        let program = Program::compile(&env, text).expect(text);
        let value = Value::from_json(&x, None).expect("a document");
        assert_eq!(program.eval(&[("x", value)], PER_CALL_LIMIT).cost, want, "{text}");
    }
}

#[test]
fn the_limit_ends_an_evaluation() {
    let env = Env::kubernetes().with_variable("x", Type::list(Type::Int));
    let program = Program::compile(&env, "x.all(a, x.all(b, x.all(c, a + b + c >= 0)))").expect("it compiles");
    let x = json!((0..1000).collect::<Vec<_>>());
    let value = Value::from_json(&x, None).expect("a list");
    let outcome = program.eval(&[("x", value)], PER_CALL_LIMIT);
    let error = outcome.result.expect_err("the limit is passed");
    assert!(error.is_cost_limit());
    assert_eq!(error.to_string(), "operation cancelled: actual cost limit exceeded");
}

#[test]
fn large_maps_are_built_in_linear_time() {
    let env = Env::kubernetes().with_variable("x", Type::list(Type::Int));
    let program = Program::compile(&env, "x.transformMap(i, v, v).size() + x.map(v, v).size()").expect("it compiles");
    let x = json!((0..20_000).collect::<Vec<_>>());
    let value = Value::from_json(&x, None).expect("a list");
    let result = program.eval(&[("x", value)], u64::MAX).result.expect("a number");
    assert!(matches!(result, Value::Int(40_000)));
}

#[test]
fn mutations() {
    let env = Env::kubernetes().with_mutation().with_variable("object", Type::Dyn);
    let object = json!({"spec": {"replicas": 1}});
    let eval = |text: &str| match Program::compile(&env, text) {
        Err(error) => format!("compile: {error}"),
        Ok(program) => {
            let value = Value::from_json(&object, None).expect("an object");
            match program.eval(&[("object", value)], PER_CALL_LIMIT).result {
                Ok(value) => value.to_json().expect("JSON").to_string(),
                Err(error) => format!("error: {error}"),
            }
        }
    };
    assert_eq!(
        eval("Object{spec: Object.spec{replicas: object.spec.replicas + 1, names: [Object.spec.names{a: 'b'}]}}"),
        r#"{"spec":{"names":[{"a":"b"}],"replicas":2}}"#
    );
    assert_eq!(
        eval("Object{spec: Object.foo{}}"),
        "error: unexpected type name \"Object.foo\", expected \"Object.spec\", which matches field name path from root Object type"
    );
    assert_eq!(
        eval("[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('k/v'), value: {'m': 'n'}}]"),
        r#"[{"op":"add","path":"/a/k~1v","value":{"m":"n"}}]"#
    );
    assert!(eval("JSONPatch{ops: 'add'}").contains("undefined field 'ops'"));
    let program = Program::compile(&env, "Object{}").expect("it compiles");
    assert_eq!(program.result_type().to_string(), "Object");
}

#[test]
fn shared_between_threads() {
    fn is_shareable<T: Send + Sync>() {}
    is_shareable::<Program>();
    is_shareable::<Env>();
    let mut entries = Entries::default();
    assert!(entries.insert(Value::Int(1), Value::Null).expect("a key"));
    assert!(!entries.insert(Value::Uint(1), Value::Null).expect("a key"));
}

#[test]
fn bombs_are_bounded() {
    let env = Env::kubernetes().with_variable("x", Type::Dyn);
    let doubled = |start: &str, count: usize| format!("{start}{}", ".map(e, [dyn(e), e])".repeat(count));
    let twin = doubled("[1]", 60);
    let x = json!({"s": "a".repeat(1_000_000), "l": (0..10_000).collect::<Vec<_>>()});
    for text in [
        format!("{twin} == {}", doubled("[dyn(1)]", 60)),
        format!("'%s'.format([{twin}])"),
        format!("{twin} in [{twin}]"),
        "x.s.replace('', x.s)".to_owned(),
        "x.l.map(e, x.s).join('')".to_owned(),
        "'%s'.format([x.l.map(e, x.s)])".to_owned(),
        format!("{{{}}}", (0..5_000).map(|n| format!("{n}: {n}")).collect::<Vec<_>>().join(",")) + "[x.l[0]] == 0",
    ] {
        let Ok(program) = Program::compile(&env, &text) else { continue };
        let value = Value::from_json(&x, None).expect("a document");
        let outcome = program.eval(&[("x", value)], PER_CALL_LIMIT);
        let ended = outcome
            .result
            .as_ref()
            .map_or_else(crate::EvalError::is_cost_limit, |value| matches!(value, Value::Bool(true)));
        assert!(ended, "{:.60}", text);
    }
    let program = Program::compile(&env, &twin).expect("it compiles");
    let outcome = program.eval(&[("x", Value::Null)], PER_CALL_LIMIT);
    assert!(outcome.result.expect("a list").to_json().is_err());
    let nested = (0..60).fold("dyn(1)".to_owned(), |inner, n| format!("[{inner}].map(a{n}, {{a{n}: a{n}}})"));
    let _ = Program::compile(&env, &nested);
}

/// The deepest expressions that the parser lets through fit into a small stack.
#[test]
fn deep_expressions_fit_the_stack() {
    let depth = 240;
    let env = Env::kubernetes().with_variable("x", Type::Dyn);
    let texts = [
        "[".repeat(depth) + "1" + &"]".repeat(depth),
        "x.b.map(y, y > 0, ".repeat(70) + "1" + &")".repeat(70),
        "x.b.transformMap(k, v, true, ".repeat(90) + "1" + &")".repeat(90),
        "-(".repeat(depth) + "x.a" + &")".repeat(depth),
        "x.a == 2 ? 1 : (".repeat(120) + "1" + &")".repeat(120),
        "x.?a.optMap(v, ".repeat(10) + "1" + &")".repeat(10),
        "x".to_owned() + &".b".repeat(depth),
    ];
    let run = move || {
        for text in texts {
            let Ok(program) = Program::compile(&env, &text) else { panic!("{text:.40}") };
            let estimate = program.estimate_cost(&Sizes::Unknown);
            assert!(estimate.min <= estimate.max);
            let x = json!({"a": 1, "b": [1]});
            let value = Value::from_json(&x, None).expect("a document");
            let _ = program.eval(&[("x", value)], PER_CALL_LIMIT);
        }
    };
    // Frames without optimization are several times larger than those of a release.
    let stack = if cfg!(debug_assertions) { 6 << 20 } else { 1 << 20 };
    std::thread::Builder::new().stack_size(stack).spawn(run).expect("a thread").join().expect("no overflow");
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "([12x]|x\\.[abs]|'a'|true|null|\\[|\\]|\\(|\\)|\\{'k': |\\}|,| [-+*/%<>] | == | && | \\|\\| | in |\\.map\\(e, |\\.all\\(e, |\\.exists\\(i, v, |\\.size\\(\\)|\\.\\?a|\\[\\?1\\]| \\? | : |!|has\\(|duration\\('1s'\\)|\\.format\\(\\[|int\\(|e){1,14}") {
        let env = Env::kubernetes().with_variable("x", Type::Dyn).with_variable("e", Type::Dyn);
        if let Ok(program) = Program::compile(&env, &text) {
            let x = json!({"a": 1, "b": [1, 2, 3], "s": "text"});
            let value = Value::from_json(&x, None).expect("a document");
            let _ = program.estimate_cost(&Sizes::Unknown);
            let _ = program.eval(&[("x", value), ("e", Value::Int(1))], PER_CALL_LIMIT);
        }
    }
}
