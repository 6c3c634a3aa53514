//! Little input that would become much: aliases, patches, labels, selectors, patterns, rules.

use super::support::{APPLY, CONFIG_MAPS, JSON, JSON_PATCH, MERGE, STRATEGIC, World, YAML, peak};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

#[tokio::test]
async fn yaml_aliases() {
    let world = World::new().await;
    let before = peak();
    let laughs: String = (1..30).fold("a0: &a0 [lol]\n".to_owned(), |text, i| {
        let all = vec![format!("*a{}", i - 1); 9].join(", ");
        format!("{text}a{i}: &a{i} [{all}]\n")
    });
    // One long text, over and over: few nodes, many bytes.
    let long = format!("metadata: {{name: b}}\na: &a \"{}\"\nb: [{}*a]\n", "x".repeat(2 << 20), "*a, ".repeat(90_000));
    // Anchors in anchors: each would keep a copy of all inside it.
    let nested = format!(
        "a: {}\"{}\"{}\n",
        (0..240).map(|i| format!("&n{i} [")).collect::<String>(),
        "x".repeat(2 << 20),
        "]".repeat(240)
    );
    let itself = "a: &a [*a]\n".to_owned();
    for (what, text) in [("laughs", laughs), ("long", long), ("nested", nested), ("itself", itself)] {
        let answer = world.create(text.clone(), YAML).await;
        assert_eq!(answer.code, 400, "{what}: {} {}", answer.code, answer.body);
        let answer = world.patch("b", APPLY, text).await;
        assert_eq!(answer.code, 400, "{what}, applied: {} {}", answer.code, answer.body);
        assert!(answer.body < 4096);
    }
    assert!(peak() < before + 400, "grew from {before} to {} MiB", peak());
    // A few aliases are what they are for.
    let fine = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: fine}\ndata: {a: &a x, b: *a}\n";
    let answer = world.create(fine, YAML).await;
    assert_eq!((answer.code, &answer.value["data"]), (201, &json!({"a": "x", "b": "x"})), "{answer:?}");
    world.stop().await;
}

#[tokio::test]
async fn patches_that_multiply() {
    let world = World::new().await;
    let made = world.create(json!({"metadata": {"name": "a"}, "data": {"k": "v"}}).to_string(), JSON).await;
    assert_eq!(made.code, 201);
    let before = peak();
    // A path of very many steps, and one of few but long ones.
    for path in ["/a".repeat(1_000_000), format!("/{}", "x".repeat(20_000)).repeat(100)] {
        let answer = world.patch("a", JSON_PATCH, json!([{"op": "add", "path": path, "value": 1}]).to_string()).await;
        assert_eq!(answer.code, 422, "{} {}", answer.code, answer.body);
    }
    // Doubling: each copy holds all the copies before it.
    let copies: Vec<Value> =
        (0..9_000).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/c{i}")})).collect();
    let answer = world.patch("a", JSON_PATCH, json!(copies).to_string()).await;
    assert!((400..500).contains(&answer.code), "{} {}", answer.code, answer.body);
    let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "/kind", "value": 1})).collect();
    let answer = world.patch("a", JSON_PATCH, json!(many).to_string()).await;
    assert_eq!(answer.code, 413);
    assert_eq!(
        answer.message(),
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    // A long key with very many maps in it: each of their paths would repeat it.
    let inner: String = (0..100_000).map(|i| format!(r#""{i}":{{}},"#)).collect();
    let wide = format!(r#"{{"data":{{"{}":{{{inner}"z":{{}}}}}}}}"#, "x".repeat(1 << 20));
    for kind in [MERGE, STRATEGIC, APPLY] {
        let answer = world.patch("a", kind, wide.clone()).await;
        assert!((400..500).contains(&answer.code), "{kind}: {} {}", answer.code, answer.body);
    }
    assert!(peak() < before + 400, "grew from {before} to {} MiB", peak());
    world.assert_serves().await;
    world.stop().await;
}

#[tokio::test]
async fn very_many_of_everything() {
    let world = World::new().await;
    let before = peak();
    let pairs = |count: usize| -> Value {
        (0..count).map(|i| (format!("l{i}"), json!("v"))).collect::<serde_json::Map<_, _>>().into()
    };
    let answer =
        world.create(json!({"metadata": {"name": "labels", "labels": pairs(150_000)}}).to_string(), JSON).await;
    assert!(matches!(answer.code, 400..600), "{} {}", answer.code, answer.body);
    assert!(!answer.message().contains("panicked"));
    let answer =
        world.create(json!({"metadata": {"name": "a", "annotations": pairs(150_000)}}).to_string(), JSON).await;
    assert_eq!(answer.code, 422, "{} {}", answer.code, answer.body);
    let finalizers: Vec<String> = (0..60_000).map(|i| format!("example.com/f{i}")).collect();
    let answer = world.create(json!({"metadata": {"name": "f", "finalizers": finalizers}}).to_string(), JSON).await;
    assert!(matches!(answer.code, 201 | 400..600), "{} {}", answer.code, answer.body);
    let owners: Vec<Value> =
        (0..10_000).map(|i| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": format!("u{i}")})).collect();
    let answer = world.create(json!({"metadata": {"name": "o", "ownerReferences": owners}}).to_string(), JSON).await;
    assert!(matches!(answer.code, 201 | 400..600), "{} {}", answer.code, answer.body);
    // A list that merges by key: twice as long is not four times as slow.
    let env: Vec<Value> = (0..8_000).map(|i| json!({"name": format!("E{i}"), "value": "v"})).collect();
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "env": env}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let deployments = "/apis/apps/v1/namespaces/n/deployments";
    let answer = world.send("POST", deployments, JSON, deployment.to_string()).await;
    assert_eq!(answer.code, 201, "{} {}", answer.code, answer.body);
    let patch = json!({"spec": {"template": deployment["spec"]["template"]}}).to_string();
    let answer = world.send("PATCH", &format!("{deployments}/d"), STRATEGIC, patch).await;
    assert_eq!(answer.code, 200, "{} {}", answer.code, answer.body);
    let answer =
        world.send("PATCH", &format!("{deployments}/d?fieldManager=m&force=true"), APPLY, deployment.to_string()).await;
    assert_eq!(answer.code, 200, "{} {}", answer.code, answer.body);
    assert!(peak() < before + 700, "grew from {before} to {} MiB", peak());
    world.assert_serves().await;
    world.stop().await;
}

#[tokio::test]
async fn selectors() {
    let world = World::new().await;
    let made = world.create(json!({"metadata": {"name": "a", "labels": {"a": "b"}}}).to_string(), JSON).await;
    assert_eq!(made.code, 201);
    let values: Vec<String> = (0..8_000).map(|i| format!("v{i}")).collect();
    let list = |selector: &str| format!("{CONFIG_MAPS}?{selector}");
    for (selector, code) in [
        (format!("labelSelector=a+in+({})", values.join(",")), 200),
        (format!("labelSelector=a+in+{}", "(".repeat(20_000)), 400),
        (format!("labelSelector={}", "!".repeat(20_000)), 400),
        (format!("labelSelector={}", "a,".repeat(20_000)), 400),
        (format!("labelSelector={}", "x".repeat(50_000)), 400),
        (format!("fieldSelector=metadata.name%3D{}", "x".repeat(50_000)), 200),
        (format!("fieldSelector={}metadata.name%3Da", "metadata.name!%3Db,".repeat(2_000)), 200),
        (format!("fieldSelector={}", "%5C".repeat(10_000)), 400),
        (format!("continue={}", "A".repeat(50_000)), 400),
        (format!("limit={}", "9".repeat(40_000)), 400),
        (format!("resourceVersion={}", "9".repeat(40_000)), 400),
    ] {
        let answer = world.send("GET", &list(&selector), "", "").await;
        let shown = &selector[..selector.len().min(40)];
        // The wording and the code of some differ by parser; none is a failure of the server.
        assert!(answer.code == code || (code != 200 && answer.code < 505), "{shown}: {} {}", answer.code, answer.body);
        assert!(answer.body < 256 * 1024, "{shown}: {} bytes", answer.body);
        assert!(!answer.message().contains("panicked"), "{shown}");
    }
    world.assert_serves().await;
    world.stop().await;
}

fn definition(plural: &str, schema: &Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "kind": format!("{}Kind", plural.to_uppercase())},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

#[tokio::test]
async fn patterns_and_rules() {
    let world = World::new().await;
    let before = peak();
    let text = |extra: Value| {
        let mut of = json!({"type": "string", "maxLength": 100_000});
        of.as_object_mut().expect("a map").extend(extra.as_object().cloned().unwrap_or_default());
        json!({"type": "object", "properties": {"spec": of}})
    };
    let list = |rule: &str, limited: bool| {
        let mut of = json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": rule}]});
        if limited {
            of["maxItems"] = json!(10);
        }
        json!({"type": "object", "properties": {"spec": of}})
    };
    let deep = format!("{}true{}", "(".repeat(5_000), ")".repeat(5_000));
    let wide = format!("{}true", "true && ".repeat(20_000));
    let bangs = format!("{}true", "!".repeat(20_000));
    let mut nested = json!({"type": "string"});
    for _ in 0..100 {
        nested = json!({"type": "object", "properties": {"a": nested}});
    }
    for (i, (schema, refused)) in [
        (text(json!({"pattern": "((((((a{100}){100}){100}){100}){100}){100})"})), true),
        (text(json!({"pattern": "(".repeat(50_000)})), true),
        (text(json!({"pattern": "a**"})), true),
        (list("self.all(a, self.all(b, self.all(c, self.all(d, a == b && c == d))))", false), true),
        (list(&deep, true), true),
        (list(&wide, true), true),
        (list(&bangs, true), false),
        (nested, false),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = world.send("POST", CRDS, JSON, definition(&format!("bombs{i}"), &schema).to_string()).await;
        assert!(!answer.message().contains("panicked"), "{i}");
        match refused {
            true => assert!(matches!(answer.code, 400 | 422), "{i}: {} {}", answer.code, answer.body),
            false => assert_eq!(answer.code, 201, "{i}: {}", answer.message()),
        }
        assert!(answer.body < 1 << 20, "{i}: {} bytes", answer.body);
    }
    // A pattern that backtracking matchers need the age of the universe for.
    let schema = text(json!({"pattern": "^(a+)+$"}));
    let answer = world.send("POST", CRDS, JSON, definition("slow", &schema).to_string()).await;
    assert_eq!(answer.code, 201, "{}", answer.message());
    let object = json!({"apiVersion": "example.com/v1", "kind": "SLOWKind", "metadata": {"name": "a"},
        "spec": format!("{}!", "a".repeat(50_000))});
    let mut code = 404;
    for _ in 0..200 {
        code = world.send("POST", "/apis/example.com/v1/namespaces/n/slow", JSON, object.to_string()).await.code;
        if code != 404 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(code, 422);
    assert!(peak() < before + 300, "grew from {before} to {} MiB", peak());
    world.assert_serves().await;
    world.stop().await;
}
