//! Bodies and what a real server says to them.

use super::*;
use crate::schema::builtin_schema_for;
use proptest::prelude::*;
use serde_json::json;

fn known(gvk: &GroupVersionKind) -> Option<Schema> {
    builtin_schema_for(&gvk.group, &gvk.version, &gvk.kind)
}

fn decode(group: &str, kind: &str, body: &str, encoding: Encoding) -> Result<Decoded, String> {
    let expected = GroupVersionKind::new(group, "v1", kind);
    decode_body(body.as_bytes(), encoding, &expected, known)
        .map(|(_, d)| d)
        .map_err(|e| e.status(kind, body.as_bytes()).message)
}

fn fail(group: &str, kind: &str, body: &str) -> String {
    decode(group, kind, body, Encoding::Json).unwrap_err()
}

#[test]
fn bodies_that_are_no_object() {
    let struct_type =
        r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    for (body, want) in [
        ("[]", format!("couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type {struct_type} (5b5d)")),
        ("\"x\"", format!("couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type {struct_type} (227822)")),
        ("{not json", "couldn't get version/kind; json parse error: invalid character 'n' looking for beginning of object key string ({not json)".into()),
        (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}} junk"#, "couldn't get version/kind; json parse error: invalid character 'j' after top-level value ({\"apiVersion\":\"v1\",\"kind\":\"Con ...)".into()),
        (r#"{"apiVersion": "a/b/c", "kind": "ConfigMap"}"#, "unexpected GroupVersion string: a/b/c ({\"apiVersion\": \"a/b/c\", \"kind\" ...)".into()),
        ("", "couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)".into()),
    ] {
        let want = format!("the object provided is unrecognized (must be of type ConfigMap): {want}");
        assert_eq!(fail("", "ConfigMap", body), want);
    }
    assert_eq!(
        decode("", "ConfigMap", "a: b: c", Encoding::Yaml).unwrap_err(),
        "the object provided is unrecognized (must be of type ConfigMap): yaml: mapping values are not allowed in this context (613a20623a2063)"
    );
    assert_eq!(decode("", "ConfigMap", "null", Encoding::Json).unwrap().value["kind"], "ConfigMap");
}

#[test]
fn other_kinds() {
    for (body, want) in [
        (
            r#"{"apiVersion": "v1", "kind": "Nope"}"#,
            "Nope in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nope\" is registered for version \"v1\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            r#"{"apiVersion": "apps/v1", "kind": "ConfigMap"}"#,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"apps/v1\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            r#"{"apiVersion": "v1", "kind": "Secret"}"#,
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
        ),
        (
            r#"{"apiVersion": "apps/v1", "kind": "Deployment"}"#,
            "Deployment in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Deployment) to (core.ConfigMap): unknown conversion",
        ),
    ] {
        assert_eq!(fail("", "ConfigMap", body), want);
    }
}

#[test]
fn wrong_types() {
    for (group, kind, spec, want) in [
        (
            "apps",
            "Deployment",
            json!({"spec": {"replicas": "three"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apps",
            "Deployment",
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apps",
            "Deployment",
            json!({"spec": {"replicas": 2147483648i64}}),
            "json: cannot unmarshal number 2147483648 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "",
            "ConfigMap",
            json!({"data": ["a"]}),
            "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
        ),
        (
            "",
            "ConfigMap",
            json!({"data": {"a": 1}}),
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            "",
            "ConfigMap",
            json!({"metadata": {"labels": {"a": true}}}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            "",
            "Pod",
            json!({"spec": "x"}),
            "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            "",
            "Pod",
            json!({"spec": {"containers": {}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            "",
            "Pod",
            json!({"spec": {"containers": [{"name": 5}]}}),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
        ),
        (
            "",
            "Pod",
            json!({"spec": {"containers": [{"imagePullPolicy": 5}]}}),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.imagePullPolicy of type v1.PullPolicy",
        ),
        ("", "Secret", json!({"data": {"a": "!!!"}}), "illegal base64 data at input byte 0"),
        (
            "",
            "Pod",
            json!({"metadata": {"creationTimestamp": "yesterday"}}),
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
        ),
        (
            "",
            "Pod",
            json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1x"}}}]}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "",
            "Service",
            json!({"spec": {"ports": [{"targetPort": true}]}}),
            "json: cannot unmarshal bool into Go value of type int32",
        ),
    ] {
        let want = format!("{kind} in version \"v1\" cannot be handled as a {kind}: {want}");
        assert_eq!(fail(group, kind, &spec.to_string()), want);
    }
}

#[test]
fn unknown_and_repeated_fields() {
    for (group, kind, body, want) in [
        (
            "apps",
            "Deployment",
            r#"{"metadata":{"name":"x","bogus":1},"spec":{"replica":3,"template":{"spec":{"containers":[{"name":"c","imagePulPolicy":"Always","ports":[{"containerPort":80,"zz":1}]}]}}}}"#,
            "unknown field \"metadata.bogus\", unknown field \"spec.replica\", unknown field \"spec.template.spec.containers[0].imagePulPolicy\", unknown field \"spec.template.spec.containers[0].ports[0].zz\"",
        ),
        (
            "",
            "Pod",
            r#"{"metadata":{"name":"x","name":"x"},"spec":{"containers":[{"name":"c","image":"i:1","image":"i:2"}],"hostname":"a","hostname":"b"}}"#,
            "duplicate field \"metadata.name\", duplicate field \"spec.containers[0].image\", duplicate field \"spec.hostname\"",
        ),
        (
            "",
            "ConfigMap",
            r#"{"metadata":{"labels":{"a":"1","a":"2"}},"data":{"k":"1","k":"2"}}"#,
            "duplicate field \"metadata.labels.a\", duplicate field \"data.k\"",
        ),
        ("", "ConfigMap", r#"{"Data":{}}"#, "unknown field \"Data\""),
        (
            "",
            "Service",
            r#"{"spec":{"ports":[{"port":80,"port":81,"unk":true}],"clusterIp":"None"},"stat":{}}"#,
            "duplicate field \"spec.ports[0].port\", unknown field \"spec.ports[0].unk\", unknown field \"spec.clusterIp\", unknown field \"stat\"",
        ),
    ] {
        let decoded = decode(group, kind, body, Encoding::Json).unwrap();
        assert_eq!(decoded.strict_error().unwrap(), format!("strict decoding error: {want}"));
        assert_eq!(decoded.strict_errors.join(", "), want);
        assert!(decoded.warnings(FieldValidation::Ignore).unwrap().is_empty());
    }
    let merged = decode("", "ConfigMap", r#"{"data":{"a":"1"},"data":{"b":"2"}}"#, Encoding::Json).unwrap();
    assert_eq!(merged.value["data"], json!({"a": "1", "b": "2"}));
}

#[test]
fn yaml_bodies() {
    let body =
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  a: b\n  a: c\ndata:\n  d: e\nextra: 1\n";
    let decoded = decode("", "ConfigMap", body, Encoding::Yaml).unwrap();
    assert_eq!(decoded.value["data"], json!({"d": "e"}));
    assert_eq!(
        decoded.strict_errors,
        ["line 7: key \"a\" already set in map", "line 9: key \"data\" already set in map", "unknown field \"extra\""]
    );
    assert_eq!(
        decoded.warnings(FieldValidation::Strict).unwrap_err(),
        "strict decoding error: yaml: unmarshal errors:\n  line 7: key \"a\" already set in map\n  line 9: key \"data\" already set in map, unknown field \"extra\""
    );
    assert_eq!(
        decode("", "ConfigMap", "data:\n  a: yes\n", Encoding::Yaml).unwrap_err(),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct field ConfigMap.data of type string"
    );
}

#[test]
fn values_come_out_as_upstream_writes_them() {
    let body = json!({"metadata": {"name": "x", "annotations": {"a": null}, "creationTimestamp": "2020-01-01T02:00:00+02:00"},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 2.5, "memory": "129e6"},
            "requests": {"cpu": "0.0001", "memory": "1.5Gi", "ephemeral-storage": "1e3"}}}, null],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "0.5Gi"}}], "hostname": null, "nodeSelector": null}});
    let decoded = decode("", "Pod", &body.to_string(), Encoding::Json).unwrap();
    assert_eq!(
        decoded.value,
        json!({"apiVersion": "v1", "kind": "Pod", "status": {},
            "metadata": {"name": "x", "annotations": {"a": ""}, "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2500m", "memory": "129e6"},
                "requests": {"cpu": "1m", "memory": "1536Mi", "ephemeral-storage": "1e3"}}}, {"name": "", "resources": {}}],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "512Mi"}}]}})
    );
    let secret = decode("", "Secret", r#"{"data":{"a":"YQ==","b":"YWI=\n","c":null}}"#, Encoding::Json).unwrap();
    assert_eq!(secret.value["data"], json!({"a": "YQ==", "b": "YWI=", "c": ""}));
}

#[test]
fn base64_errors_name_the_byte() {
    for (text, at) in
        [("!!!", 0), ("YQ=", 3), ("YQ", 0), ("YWJj!", 4), ("YQ==x", 4), ("Y===", 1), ("=", 0), ("YQ=x", 2)]
    {
        let body = json!({"data": {"a": text}}).to_string();
        assert!(fail("", "Secret", &body).ends_with(&format!("illegal base64 data at input byte {at}")), "{text}");
    }
}

#[test]
fn custom_resources() {
    let shape = |value: &mut Value| {
        let spec = value.get_mut("spec").and_then(Value::as_object_mut);
        let unknown = spec.and_then(|spec| spec.remove("b")).map(|_| "unknown field \"spec.b\"".to_owned());
        Ok(unknown.into_iter().collect())
    };
    let decode = |body: &str| {
        decode_custom_body(body.as_bytes(), Encoding::Json, &shape)
            .map(|(_, d)| d)
            .map_err(|e| e.status("Foo", body.as_bytes()).message)
    };
    let decoded = decode(
        r#"{"apiVersion":"g.example.com/v1","kind":"Foo","metadata":{"name":"x","bogus":1},
            "spec":{"a":"1","a":"2","b":2}}"#,
    )
    .unwrap();
    assert_eq!(decoded.value["spec"], json!({"a": "2"}));
    assert_eq!(
        decoded.strict_errors,
        ["duplicate field \"spec.a\"", "unknown field \"metadata.bogus\"", "unknown field \"spec.b\"",]
    );
    let in_foo = "Foo in version \"v1\" cannot be handled as a Foo: json: cannot unmarshal";
    assert_eq!(
        decode(r#"{"apiVersion":"g.example.com/v1","kind":"Foo","metadata":{"labels":{"a":1}}}"#).unwrap_err(),
        format!("{in_foo} number into Go struct field ObjectMeta.labels of type string")
    );
    assert_eq!(
        decode(r#"{"apiVersion":"g.example.com/v1","kind":"Foo","metadata":"str"}"#).unwrap_err(),
        format!("{in_foo} string into Go value of type v1.ObjectMeta")
    );
    assert_eq!(
        decode(r#"{"metadata": {"name": "x"}}"#).unwrap_err(),
        r#"the object provided is unrecognized (must be of type Foo): Object 'Kind' is missing in '{"metadata": {"name": "x"}}' ({"metadata": {"name": "x"}})"#
    );
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let expected = GroupVersionKind::new("", "v1", "Pod");
        for encoding in [Encoding::Json, Encoding::Yaml] {
            let _ = decode_body(&bytes, encoding, &expected, known);
        }
    }

    #[test]
    fn any_json_decodes_or_fails(text in r#"\{("(metadata|spec|status|containers|name|ports|data|a)":([0-9"a.tn]{1,6}|null|\{\}|\[\]|\[\{\}\]|\{"(name|containers|labels)":[\[{"a}\]1]{1,4}\}),?){0,3}\}"#) {
        for (group, kind) in [("", "Pod"), ("", "Secret"), ("apps", "Deployment")] {
            if let Ok(decoded) = decode(group, kind, &text, Encoding::Json) {
                let schema = builtin_schema_for(group, "v1", kind).unwrap();
                let again = decode_value(decoded.value.clone(), &schema).unwrap();
                prop_assert_eq!(again.value, decoded.value);
            }
        }
    }
}

#[test]
fn deep_bodies_are_refused_or_read_but_never_overflow() {
    // half of what a runtime's thread has
    let small = std::thread::Builder::new().stack_size(1 << 20).spawn(deep_bodies).unwrap();
    small.join().unwrap();
}

fn deep_bodies() {
    let nest = |n: usize| {
        format!(
            r#"{{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{}{}}}}}]}}}}"#,
            r#"{"not":"#.repeat(n),
            "{}".to_string() + &"}".repeat(n)
        )
    };
    let expected = GroupVersionKind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let body = nest(json::MAX_DEPTH - 6);
    let (_, decoded) = decode_body(body.as_bytes(), Encoding::Json, &expected, known).unwrap();
    assert!(decoded.strict_errors.is_empty(), "{:?}", decoded.strict_errors);
    let body = nest(100_000);
    let error = decode_body(body.as_bytes(), Encoding::Json, &expected, known).unwrap_err();
    assert!(error.message.ends_with("exceeded max depth"));
}

/// Objects as a real server returned them: largest and smallest of each kind.
#[test]
fn real_objects_stay_as_they_are() {
    let mut count = 0;
    for line in include_str!("testdata/objects.jsonl").lines() {
        let object: Value = serde_json::from_str(line).unwrap();
        let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let gvk = GroupVersionKind::from_api_version(api_version, kind).unwrap();
        let schema = known(&gvk).unwrap_or_else(|| panic!("no schema for {gvk}"));
        let decoded = decode_value(object.clone(), &schema).unwrap();
        assert_eq!(decoded.value, object, "{gvk}");
        assert_eq!(decoded.strict_errors, [""; 0], "{gvk}");
        count += 1;
    }
    assert!(count > 50);
}
