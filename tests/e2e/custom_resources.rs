//! Custom resources as their users handle them: kubectl's verbs, owners, restarts, versions, conversion, sheer size.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use kedge_tests::command::{self, until};
use kedge_tests::http::free_port;
use serde_json::{Value, json};

use crate::plane::{LIMIT, Plane};
use crate::scene::{contains, text};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "custom_resources_kubectl", run: Run::Before(verbs) },
    Scenario { name: "custom_resources_old_kubectl", run: Run::Before(old_kubectl) },
    Scenario { name: "custom_resources_owners", run: Run::Before(owners) },
    Scenario { name: "custom_resources_restart_and_versions", run: Run::Before(versions) },
    Scenario { name: "custom_resources_webhook_conversion", run: Run::Before(conversion) },
    Scenario { name: "custom_resources_large_definition", run: Run::Before(large) },
];

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.kedge.dev}
spec:
  group: test.kedge.dev
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all, mine]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Phase, type: string, jsonPath: .status.phase}
    - {name: Colour, type: string, jsonPath: .spec.colour, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size, labelSelectorPath: .status.selector}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget of the test.
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 0, maximum: 100, description: How many.}
              colour: {type: string, default: red, enum: [red, green]}
              parts: {type: array, items: {type: object, properties: {name: {type: string}}}}
          status:
            type: object
            properties: {phase: {type: string}, size: {type: integer}, selector: {type: string}}
";

fn widget(name: &str, spec: &str) -> String {
    format!("apiVersion: test.kedge.dev/v1\nkind: Widget\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

fn with_widgets() -> Plane {
    let p = Plane::start();
    p.apply(WIDGETS);
    p.established("widgets.test.kedge.dev");
    p
}

fn verbs() {
    let p = with_widgets();
    contains(&p.apply(&widget("a", "size: 3")), "widget.test.kedge.dev/a created");
    contains(&p.apply(&widget("a", "size: 3")), "widget.test.kedge.dev/a unchanged");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let columns = |text: &str| words(text.lines().next().unwrap_or_default());
    assert_eq!(columns(&p.k("get wd")), "NAME SIZE PHASE AGE");
    assert_eq!(columns(&p.k("get widget a -o wide")), "NAME SIZE PHASE COLOUR AGE");
    contains(&p.k("get mine"), "a      3 ");
    contains(&p.k("get all"), "widget.test.kedge.dev/a");
    contains(&p.k("api-resources --api-group=test.kedge.dev"), "widgets   wd           test.kedge.dev/v1   true");
    let explained = p.k("explain wd --recursive");
    contains(&explained, "A widget of the test.");
    contains(&explained, "size\t<integer> -required-");
    contains(&p.k("explain wd.spec.size"), "How many.");

    let mut watch = p.kubectl.command();
    let log = std::fs::File::create(p.server.places.join("watch")).expect("the folder can be written");
    watch.args(["get", "wd", "-w", "--no-headers"]).stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    let mut watch = watch.spawn().expect("kubectl starts");
    let watched = || std::fs::read_to_string(p.server.places.join("watch")).unwrap_or_default();
    until("the watch begins", LIMIT, || watched().contains("a ").then_some(()));

    contains(&p.k("scale wd a --replicas=7"), "scaled");
    contains(&p.run("scale wd a --replicas=9 --current-replicas=3").refused(), "Expected replicas to be 3, was 7");
    p.k(r#"patch wd a --subresource=status --type=merge -p {"status":{"phase":"Ready","size":7,"selector":"a=b"}}"#);
    contains(&p.k("wait --for=jsonpath={.status.phase}=Ready wd/a --timeout=10s"), "condition met");
    until("the watch tells", LIMIT, || words(&watched()).contains("a 7 Ready").then_some(()));
    let _ = watch.kill();
    let _ = watch.wait();
    // As an autoscaler does: what is there, then another number.
    let path = "/apis/test.kedge.dev/v1/namespaces/default/widgets/a/scale";
    let mut scale = p.server.get(path);
    assert_eq!(scale["status"], json!({"replicas": 7, "selector": "a=b"}), "{scale}");
    scale["spec"]["replicas"] = 5.into();
    let (code, answer) = p.send("PUT", path, &scale.to_string());
    assert_eq!((code, text(&serde_json::from_str(&answer).expect("JSON"), "/kind")), (200, "Scale".into()));
    assert_eq!(p.k("get wd a -o jsonpath={.spec.size}"), "5");
    assert_eq!(p.send("PUT", path, &scale.to_string()).0, 409, "it has changed meanwhile");

    let differs = p.feed("diff -f -", &widget("a", "size: 4"));
    assert_eq!(differs.code, Some(1), "{}", differs.text());
    contains(&differs.stdout, "-  size: 5\n+  size: 4");
    p.feed("replace -f -", &widget("a", "size: 4")).ok();
    assert_eq!(p.k("get wd a -o jsonpath={.spec.size}{.spec.colour}{.status.phase}"), "4redReady");
    let editor = p.file("editor", "#!/bin/sh\nsed -i 's/size: 4/size: 11/' \"$1\"\n");
    let mut edit = p.kubectl.command();
    edit.args(["edit", "wd", "a"]).env("EDITOR", format!("sh {}", editor.display()));
    contains(&command::run(&mut edit, None, LIMIT).ok(), "edited");
    assert_eq!(p.k("get wd a -o jsonpath={.spec.size}"), "11");

    contains(&p.feed("apply -f -", &widget("b", "size: 1, sise: 2")).refused(), "unknown field \"spec.sise\"");
    let refused = p.feed("apply -f -", &widget("b", "size: 300, colour: blue")).refused();
    contains(&refused, "spec.colour: Unsupported value: \"blue\": supported values: \"red\", \"green\"");
    contains(&refused, "spec.size: Invalid value: 300: spec.size in body should be less than or equal to 100");
    contains(&p.feed("apply --server-side -f -", &widget("b", "size: 1")).ok(), "serverside-applied");
    let conflict = p.feed("apply --server-side --field-manager=other -f -", &widget("b", "size: 2")).refused();
    contains(&conflict, "conflict with \"kubectl\": .spec.size");
    p.feed("apply --server-side --field-manager=other --force-conflicts -f -", &widget("b", "size: 2")).ok();
    p.k("label wd b x=y");
    assert_eq!(p.k("get wd -l x=y -o name").trim(), "widget.test.kedge.dev/b");
    contains(&p.k("describe wd b"), "Colour:  red");
    p.k("delete wd --all");
    p.k("delete crd widgets.test.kedge.dev");
    // kubectl may still know the name from its cache.
    p.run("get wd").refused();
}

fn old_kubectl() {
    let p = with_widgets();
    let Some(old) = &p.old_kubectl else { return };
    let run = |line: &str, yaml: &str| old.run(&line.split_whitespace().collect::<Vec<_>>(), Some(yaml));
    run("apply --validate=true -f -", &widget("a", "size: 3")).ok();
    contains(&run("apply --validate=true -f -", &widget("a", "size: 3")).ok(), "unchanged");
    contains(
        &run("create --validate=true -f -", &widget("b", "size: 3, sise: 4")).refused(),
        "unknown field \"spec.sise\"",
    );
    contains(&run("explain wd --recursive", "").ok(), "colour\t<string>");
    // Its own validation, by the second version of the published document.
    let document = p.server.get("/openapi/v2");
    let definition = &document["definitions"]["dev.kedge.test.v1.Widget"];
    assert_eq!(definition["properties"]["spec"]["properties"]["size"]["type"], "integer", "{definition}");
    run("delete wd a", "").ok();
}

fn owned(kind: &str, name: &str, owner: &Value) -> String {
    let (api, spec) = match kind {
        "Widget" => ("test.kedge.dev/v1", "spec: {size: 1}\n"),
        "Pod" => ("v1", "spec: {containers: [{name: c, image: x}]}\n"),
        _ => ("v1", ""),
    };
    format!(
        "apiVersion: {api}\nkind: {kind}\nmetadata:\n  name: {name}\n  ownerReferences:\n  - {{apiVersion: {}, kind: {}, \
         name: {}, uid: {}, controller: true, blockOwnerDeletion: true}}\n{spec}",
        text(owner, "/apiVersion"),
        text(owner, "/kind"),
        text(owner, "/metadata/name"),
        text(owner, "/metadata/uid"),
    )
}

fn owners() {
    let p = with_widgets();
    let start = |owner: &str| {
        p.apply(&widget(owner, "size: 3"));
        let object = p.json(&format!("wd {owner}"));
        p.apply(&owned("ConfigMap", &format!("{owner}-map"), &object));
        p.apply(&owned("Pod", &format!("{owner}-pod"), &object));
        p.apply(&owned("Widget", &format!("{owner}-child"), &object));
        let child = p.json(&format!("wd {owner}-child"));
        p.apply(&owned("Secret", &format!("{owner}-grandchild"), &child));
    };
    start("one");
    p.k("delete wd one");
    for what in ["configmap one-map", "pod one-pod", "wd one-child", "secret one-grandchild"] {
        p.until_gone(what);
    }
    start("two");
    p.k("delete wd two --cascade=foreground");
    assert!(!p.run("get configmap two-map").success(), "the foreground waits for those below");
    start("three");
    p.k("delete wd three --cascade=orphan");
    until("the orphan has no owner", LIMIT, || {
        let map = p.json("configmap three-map");
        map["metadata"]["ownerReferences"].is_null().then_some(())
    });
    p.k("get wd three-child");
    // A resource that is owned by one of the built-in kinds.
    p.k("create configmap lord");
    p.apply(&owned("Widget", "vassal", &p.json("configmap lord")));
    p.k("delete configmap lord");
    p.until_gone("wd vassal");

    // A namespace takes its custom resources with it, finalizers are waited for.
    p.k("create namespace doomed");
    p.feed("apply -n doomed -f -", &widget("a", "size: 1")).ok();
    p.feed("apply -n doomed -f -", &widget("b", "size: 1").replace("{name: b}", "{name: b, finalizers: [x.y/z]}")).ok();
    p.k("delete namespace doomed --wait=false");
    until("the namespace says what remains", LIMIT, || {
        let status = p.json("namespace doomed")["status"].to_string();
        status.contains("widgets.test.kedge.dev has 1 resource instances").then_some(())
    });
    p.k(r#"patch wd b -n doomed --type=merge -p {"metadata":{"finalizers":null}}"#);
    p.until_gone("namespace doomed");

    // So does a definition.
    p.apply(&widget("last", "size: 1").replace("{name: last}", "{name: last, finalizers: [x.y/z]}"));
    p.k("delete crd widgets.test.kedge.dev --wait=false");
    until("the definition is terminating", LIMIT, || {
        let conditions = p.json("crd widgets.test.kedge.dev")["status"]["conditions"].to_string();
        conditions.contains("InstanceDeletionInProgress").then_some(())
    });
    contains(&p.feed("create -f -", &widget("late", "size: 1")).refused(), "create not allowed");
    p.k(r#"patch wd last --type=merge -p {"metadata":{"finalizers":null}}"#);
    p.until_gone("crd widgets.test.kedge.dev");
}

/// `items.test.kedge.dev` with versions v1 and v2, of which `storage` is stored.
fn items(storage: &str, conversion: &Value) -> String {
    let version = |name: &str, spec: Value| {
        json!({"name": name, "served": true, "storage": name == storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                "type": "object", "properties": spec}}}}})
    };
    let both = json!({"size": {"type": "integer"}, "dimensions": {"type": "object", "properties": {
        "size": {"type": "integer"}, "unit": {"type": "string", "default": "mm"}}}});
    let (one, two) = match conversion["strategy"].as_str() {
        Some("Webhook") => (json!({"size": both["size"]}), json!({"dimensions": both["dimensions"]})),
        _ => (both.clone(), both),
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "items.test.kedge.dev"},
        "spec": {"group": "test.kedge.dev", "scope": "Namespaced", "conversion": conversion,
            "names": {"plural": "items", "singular": "item", "kind": "Item", "listKind": "ItemList"},
            "versions": [version("v1", one), version("v2", two)]}})
    .to_string()
}

fn item(version: &str, name: &str, spec: &Value) -> String {
    json!({"apiVersion": format!("test.kedge.dev/{version}"), "kind": "Item", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn versions() {
    let mut p = Plane::start();
    let none = json!({"strategy": "None"});
    p.apply(&items("v1", &none));
    p.established("items.test.kedge.dev");
    p.apply(&item("v1", "old", &json!({"size": 1})));
    p.restart();
    assert_eq!(p.k("get items.v1.test.kedge.dev old -o jsonpath={.spec.size}"), "1", "right after the start");
    p.apply(&items("v2", &none));
    until("the definition names both stored versions", LIMIT, || {
        (p.k("get crd items.test.kedge.dev -o jsonpath={.status.storedVersions}") == r#"["v1","v2"]"#).then_some(())
    });
    p.apply(&item("v2", "new", &json!({"size": 2})));
    for version in ["v1", "v2"] {
        let list = p.json(&format!("items.{version}.test.kedge.dev"));
        for item in list["items"].as_array().expect("a list") {
            assert_eq!(text(item, "/apiVersion"), format!("test.kedge.dev/{version}"));
        }
        assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
    }
    let refused = p.feed("replace -f -", &items("v2", &none).replace("\"v1\"", "\"v0\"")).refused();
    contains(&refused, "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions");
    // A watcher of either version sees a change through the other.
    let revision = text(&p.json("items.v1.test.kedge.dev old"), "/metadata/resourceVersion");
    p.k(r#"patch items.v2.test.kedge.dev old --type=merge -p {"spec":{"size":9}}"#);
    let path = format!("/apis/test.kedge.dev/v1/items?watch=1&timeoutSeconds=2&resourceVersion={revision}");
    let events = command::quiet("curl", &p.server.curl_args(&path));
    let events: Vec<Value> = events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = events.last().unwrap_or(&Value::Null);
    assert_eq!(text(last, "/object/apiVersion"), "test.kedge.dev/v1", "{events:?}");
    assert_eq!(last["object"]["spec"]["size"], 9, "{events:?}");
    p.restart();
    assert_eq!(p.k("get items.v1.test.kedge.dev old -o jsonpath={.spec.size}"), "9");
    p.k("delete items.v2.test.kedge.dev --all");
    p.k("delete crd items.test.kedge.dev");
}

/// The webhook of the test: a process of its own, on this machine's own address.
struct Converter {
    child: Child,
    log: std::path::PathBuf,
}

impl Converter {
    fn start(p: &Plane, port: u16) -> Self {
        let at = |name: &str| p.server.places.join(name);
        let script = p.file("converter.py", include_str!("manifests/converter.py"));
        let log = at("conversions");
        let mut command = Command::new("python3");
        command.arg(script).arg(port.to_string()).args([at("hook.crt"), at("hook.key"), log.clone()]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3 is installed");
        until("the webhook listens", LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn certificate(p: &Plane) -> String {
    let (key, certificate) = (p.server.places.join("hook.key"), p.server.places.join("hook.crt"));
    let mut openssl = Command::new("openssl");
    // Self-signed, as most webhooks' are.
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-subj", "/CN=hook", "-addext", "subjectAltName=IP:127.0.0.1,DNS:hook.default.svc", "-keyout"]);
    openssl.arg(key).arg("-out").arg(&certificate);
    command::run(&mut openssl, None, LIMIT).ok();
    base64::engine::general_purpose::STANDARD.encode(std::fs::read(certificate).expect("openssl wrote it"))
}

fn conversion() {
    let mut p = Plane::start();
    let (bundle, port) = (certificate(&p), free_port());
    let hook = |client: Value| json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1", "v1beta1"], "clientConfig": client}});
    let by_url = hook(json!({"url": format!("https://127.0.0.1:{port}/convert"), "caBundle": bundle}));
    p.apply(&items("v1", &by_url));
    p.established("items.test.kedge.dev");
    p.apply(&item("v1", "a", &json!({"size": 3})));
    let down = p.run("get items.v2.test.kedge.dev a").refused();
    contains(&down, "conversion webhook for test.kedge.dev/v1, Kind=Item failed: Post");
    contains(&down, "connect: connection refused");
    p.k("get items.v1.test.kedge.dev a");

    let converter = Converter::start(&p, port);
    let of = |name: &str, version: &str| p.json(&format!("items.{version}.test.kedge.dev {name}"))["spec"].clone();
    // Defaults are those of the stored version: what the converter leaves out stays out.
    assert_eq!(of("a", "v2"), json!({"dimensions": {"size": 3}}));
    contains(&converter.said(), "/convert?timeout=30s test.kedge.dev/v2 1");
    p.apply(&item("v2", "b", &json!({"dimensions": {"size": 4}})));
    assert_eq!(of("b", "v1"), json!({"size": 4}));
    p.k(r#"patch items.v2.test.kedge.dev a --type=merge -p {"spec":{"dimensions":{"size":5}}}"#);
    assert_eq!(of("a", "v1"), json!({"size": 5}));
    let listed = p.server.get("/apis/test.kedge.dev/v2/namespaces/default/items");
    assert_eq!(listed["items"][1]["spec"]["dimensions"]["size"], 4, "{listed}");
    let revision = text(&listed, "/metadata/resourceVersion");
    p.feed("apply --server-side -f -", &item("v2", "c", &json!({"dimensions": {"size": 6}}))).ok();
    p.feed("apply --server-side -f -", &item("v1", "c", &json!({"size": 7}))).ok();
    assert_eq!(of("c", "v2")["dimensions"]["size"], 7);
    let path = format!("/apis/test.kedge.dev/v2/items?watch=1&timeoutSeconds=2&resourceVersion={revision}");
    let events = command::quiet("curl", &p.server.curl_args(&path));
    let events: Vec<Value> = events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let seen = |event: &Value| (text(event, "/type"), event["object"]["spec"]["dimensions"]["size"].as_u64());
    let wanted = [("ADDED".to_owned(), Some(6)), ("MODIFIED".to_owned(), Some(7))];
    assert_eq!(events.iter().map(seen).collect::<Vec<_>>(), wanted, "{events:?}");
    contains(&p.feed("apply -f -", &item("v2", "stubborn", &json!({}))).refused(), "stubborn does not convert");

    // The other version is stored from now on; what is stored already is converted when it is read.
    p.apply(&items("v2", &by_url));
    p.restart();
    let of = |name: &str, version: &str| p.json(&format!("items.{version}.test.kedge.dev {name}"))["spec"].clone();
    assert_eq!(of("a", "v2")["dimensions"]["size"], 5);
    assert_eq!(of("a", "v1")["size"], 5);
    p.k("annotate items.v2.test.kedge.dev a touched=yes");
    assert_eq!(of("a", "v1")["size"], 5);

    p.k("delete items.v1.test.kedge.dev --all --timeout=20s");
    p.k("delete crd items.test.kedge.dev");
}

/// A definition of half a megabyte, as code generators make them.
fn huge() -> String {
    let mut text = WIDGETS.replace("widget", "huge").replace("Widget", "Huge").replace("[wd]", "[hg]");
    let at = text.find("              parts:").expect("the schema has parts");
    let mut fields = String::new();
    for field in 0..900 {
        let words = "Describes one of very many settings that nobody will ever read, at some length. ".repeat(5);
        let _ = write!(
            fields,
            "              field{field}:\n                type: object\n                description: {words}\n                \
             properties: {{a: {{type: string, maxLength: 20}}, b: {{type: integer}}, c: {{type: array, items: {{type: string}}}}}}\n"
        );
    }
    text.insert_str(at, &fields);
    text
}

fn large() {
    let mut p = Plane::start();
    let yaml = huge();
    assert!(yaml.len() > 500_000, "{}", yaml.len());
    // Too large for the annotation, here as everywhere.
    contains(
        &p.feed("apply -f -", &yaml).refused(),
        "metadata.annotations: Too long: may not be more than 262144 bytes",
    );
    p.feed("apply --server-side -f -", &yaml).ok();
    p.established("huges.test.kedge.dev");
    let version = p.k("get crd huges.test.kedge.dev -o jsonpath={.metadata.resourceVersion}");
    p.feed("apply --server-side -f -", &yaml).ok();
    assert_eq!(p.k("get crd huges.test.kedge.dev -o jsonpath={.metadata.resourceVersion}"), version, "nothing changed");
    let mut many = String::new();
    for n in 0..100 {
        let _ = write!(
            many,
            "---\napiVersion: test.kedge.dev/v1\nkind: Huge\nmetadata: {{name: h{n}}}\nspec: {{size: {}, field7: {{a: x}}}}\n",
            n % 10
        );
    }
    p.apply(&many);
    contains(&p.k("explain hg.spec.field899"), "Describes one of very many settings");
    contains(&p.k("explain hg --recursive"), "field450\t<Object>");
    p.restart();
    assert_eq!(p.k("get hg -o name").lines().count(), 100);
    p.k(r#"patch hg h5 --type=merge -p {"spec":{"field8":{"b":1}}}"#);
    let begun = Instant::now();
    p.k("delete crd huges.test.kedge.dev --timeout=30s");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(p.server.get("/apis/test.kedge.dev/v1/huges")["code"], Value::Null);
}
