//! Ownership of built-in and custom objects: facts recorded from kube-apiserver 1.36, and laws.

use super::*;
use crate::schema::{Field, ListOf, ListType, MapOf, MapType, Object, Table, Type, builtin_schema};
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;

const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const POD: &str = "io.k8s.api.core.v1.Pod";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn schema(name: &str) -> Schema {
    builtin_schema(name).expect("a built-in kind")
}

struct World {
    schema: Schema,
    api_version: &'static str,
    kind: &'static str,
    subresource: &'static str,
    reset: ResetFields<'static>,
    second: i64,
    object: Option<Value>,
}

impl World {
    fn new(name: &str, api_version: &'static str, kind: &'static str) -> Self {
        let reset = ResetFields::Exclude(&[&["status"]]);
        Self { schema: schema(name), api_version, kind, subresource: "", reset, second: 0, object: None }
    }

    fn config_map() -> Self {
        Self::new(CONFIG_MAP, "v1", "ConfigMap")
    }

    fn deployment() -> Self {
        Self::new(DEPLOYMENT, "apps/v1", "Deployment")
    }

    fn request<'a>(&'a self, manager: &'a str) -> Request<'a> {
        Request {
            schema: &self.schema,
            api_version: self.api_version,
            kind: self.kind,
            subresource: self.subresource,
            manager,
            reset: self.reset,
            versions: &SingleVersion,
            now: at(self.second),
        }
    }

    fn named(&self, mut value: Value) -> Value {
        value["apiVersion"] = self.api_version.into();
        value["kind"] = self.kind.into();
        value["metadata"]["name"] = "x".into();
        value
    }

    fn update(&mut self, manager: &str, value: Value) -> Vec<String> {
        self.second += 1;
        let mut new = self.named(value);
        update(&self.request(manager), self.object.as_ref(), &mut new);
        self.object = Some(new);
        self.owners()
    }

    fn edit(&mut self, manager: &str, patch: Value) -> Vec<String> {
        let patched = crate::patch::apply_merge(self.object.as_ref().unwrap(), patch.to_string().as_bytes()).unwrap();
        self.update(manager, patched)
    }

    fn try_apply(&mut self, manager: &str, value: Value, force: bool) -> Result<Vec<String>, ApplyError> {
        self.second += 1;
        let applied = self.named(value);
        let new = apply(&self.request(manager), self.object.as_ref(), &applied, force)?;
        self.object = Some(drop_nulls(new));
        Ok(self.owners())
    }

    fn apply(&mut self, manager: &str, value: Value) -> Vec<String> {
        self.try_apply(manager, value, false).unwrap()
    }

    fn conflict(&mut self, manager: &str, value: Value) -> Conflicts {
        match self.try_apply(manager, value, false) {
            Err(ApplyError::Conflict(conflicts)) => conflicts,
            other => panic!("{other:?}"),
        }
    }

    fn error(&mut self, value: Value) -> String {
        self.try_apply("m1", value, false).unwrap_err().to_string()
    }

    /// `manager operation [subresource] time fields`, the time in seconds from the start.
    fn owners(&self) -> Vec<String> {
        let Some(list) = self.object.as_ref().and_then(entries::of) else { return Vec::new() };
        let one = |entry: &Value| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let sub = if text("subresource").is_empty() { String::new() } else { format!("/{}", text("subresource")) };
            let time = match entry["time"].as_str() {
                Some(time) => (time.parse::<Timestamp>().unwrap().as_second() - at(0).as_second()).to_string(),
                None => "-".into(),
            };
            let fields = FieldSet::from_fields_v1(&entry["fieldsV1"]).unwrap().paths().join(" ");
            format!("{} {}{sub} {time} {fields}", text("manager"), text("operation"))
        };
        list.iter().map(one).collect()
    }
}

/// What decoding does to a built-in object.
fn drop_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.retain(|_, item| !item.is_null());
            map.values_mut().for_each(|item| *item = drop_nulls(item.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = drop_nulls(item.take())),
        _ => {}
    }
    value
}

fn deployment(containers: Value) -> Value {
    json!({"spec": {
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": containers}},
    }, "status": {}})
}

#[test]
fn an_update_owns_what_it_sets() {
    let mut w = World::config_map();
    let labelled = json!({"metadata": {"labels": {"l": "m"}}, "data": {"a": "1"}});
    assert_eq!(w.update("oracle", labelled), ["oracle Update 1 .data .data.a .metadata.labels .metadata.labels.l"]);
    // Nothing changed: nothing is touched.
    let same = w.object.clone().unwrap();
    assert_eq!(w.update("other", same), ["oracle Update 1 .data .data.a .metadata.labels .metadata.labels.l"]);
    assert_eq!(
        w.edit("bare", json!({"data": {"b": "1", "a": "2"}})),
        ["oracle Update 1 .data .metadata.labels .metadata.labels.l", "bare Update 3 .data.a .data.b"]
    );
    assert_eq!(w.edit("bare", json!({"data": null, "metadata": {"labels": null}})), Vec::<String>::new());
    // An object that nobody manages stays so.
    assert_eq!(w.edit("bare", json!({"data": {"a": "1"}})), Vec::<String>::new());
}

#[test]
fn structs_without_pointers_are_nobodys() {
    let mut w = World::deployment();
    let mut object = deployment(json!([{"name": "c", "image": "i", "resources": {}}]));
    object["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}});
    object["spec"]["template"]["spec"]["securityContext"] = json!({});
    object["status"] = json!({"replicas": 3});
    let owners = w.update("oracle", object);
    assert_eq!(
        w.object.as_ref().unwrap()["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {
            "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}},
                    "f:securityContext": {},
                },
            },
        }}),
        "{owners:?}"
    );
}

#[test]
fn kinds_of_paths() {
    let mut w = World::new(POD, "v1", "Pod");
    let pod = json!({
        "metadata": {
            "finalizers": ["q.r/s"], "uid": "1", "generation": 1, "generateName": "x-",
            "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1"}],
        },
        "spec": {
            "containers": [],
            "tolerations": [{"key": "t", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "p"}],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}],
            "volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"key": "a", "path": "b"}]}}],
        },
    });
    w.update("z", pod);
    let fields = &w.object.as_ref().unwrap()["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(
        fields["f:metadata"],
        json!({
            "f:finalizers": {".": {}, "v:\"q.r/s\"": {}},
            "f:generateName": {},
            "f:ownerReferences": {".": {}, "k:{\"uid\":\"1\"}": {}},
        })
    );
    assert_eq!(fields["f:spec"]["f:imagePullSecrets"], json!({".": {}, "k:{\"name\":\"p\"}": {}}));
    assert_eq!(fields["f:spec"]["f:tolerations"], json!({}));
    assert_eq!(
        fields["f:spec"]["f:topologySpreadConstraints"]["k:{\"topologyKey\":\"z\",\"whenUnsatisfiable\":\"DoNotSchedule\"}"],
        json!({".": {}, "f:maxSkew": {}, "f:topologyKey": {}, "f:whenUnsatisfiable": {}})
    );
    assert_eq!(
        fields["f:spec"]["f:volumes"],
        json!({".": {}, "k:{\"name\":\"v\"}": {
            ".": {}, "f:configMap": {".": {}, "f:items": {}, "f:name": {}}, "f:name": {},
        }})
    );
}

#[test]
fn what_clients_send_in_managed_fields() {
    let mut w = World::config_map();
    w.update("oracle", json!({"data": {"a": "1"}}));
    let kept = ["oracle Update 1 .data .data.a"];
    let invalid = json!([{"manager": "q", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"bad": {}}}]);
    assert_eq!(w.edit("oracle", json!({"metadata": {"managedFields": invalid}})), kept);
    assert_eq!(w.edit("oracle", json!({"metadata": {"managedFields": null}})), kept);
    let own = json!([{"manager": "q", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}}]);
    assert_eq!(w.edit("oracle", json!({"metadata": {"managedFields": own}})), ["q Apply - .data"]);
    assert_eq!(w.edit("oracle", json!({"metadata": {"managedFields": [{}]}})), Vec::<String>::new());
    // The first apply gives what was there to nobody in particular.
    w.second = 9;
    assert_eq!(
        w.apply("m1", json!({"data": {"a": "1"}})),
        ["m1 Apply - .data.a", "before-first-apply Update 10 .data .data.a"]
    );
    let conflicts = w.conflict("m9", json!({"data": {"a": "2"}}));
    assert_eq!(
        conflicts.message,
        "Apply failed with 2 conflicts: conflicts with \"before-first-apply\" using v1:\n- .data.a\nconflicts with \"m1\":\n- .data.a"
    );
    assert_eq!(conflicts.causes[0].message, "conflict with \"before-first-apply\" using v1");
    assert_eq!(w.edit("oracle", json!({"metadata": {"managedFields": []}})), Vec::<String>::new());
}

#[test]
fn many_updaters_share_a_bucket() {
    let mut w = World::config_map();
    w.update("u", json!({"data": {"a": "1"}}));
    for i in 0..12 {
        w.edit(&format!("u{i:02}"), json!({"data": {format!("k{i:02}"): "v"}}));
    }
    let owners = w.owners();
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0], "ancient-changes Update 4 .data .data.a .data.k00 .data.k01 .data.k02");
    assert_eq!(owners[9], "u11 Update 13 .data.k11");
}

#[test]
fn apply_owns_what_it_says() {
    let mut w = World::config_map();
    assert_eq!(w.apply("m1", json!({"data": {"a": "1", "b": "1"}})), ["m1 Apply 1 .data.a .data.b"]);
    assert_eq!(w.apply("m1", json!({"data": {"a": "1", "b": "1"}})), ["m1 Apply 1 .data.a .data.b"]);
    assert_eq!(w.apply("m2", json!({"data": {"c": "1"}})), ["m1 Apply 1 .data.a .data.b", "m2 Apply 3 .data.c"]);
    assert_eq!(w.apply("m1", json!({"data": {}})), ["m2 Apply 3 .data.c", "m1 Apply 4 .data"]);
    assert_eq!(w.object.as_ref().unwrap()["data"], json!({"c": "1"}));
    assert_eq!(w.apply("m2", json!({})), ["m1 Apply 4 .data"]);
    assert_eq!(w.object.as_ref().unwrap().get("data"), None);
    let empty = json!({"metadata": {"labels": {}, "annotations": {}}, "data": {}});
    assert_eq!(
        w.apply("m1", empty)[0].split(' ').skip(3).collect::<Vec<_>>(),
        [".data", ".metadata.annotations", ".metadata.labels"]
    );
}

#[test]
fn conflicts_and_force() {
    let mut w = World::config_map();
    w.apply("m1", json!({"data": {"a": "1", "b": "1", "c": "1"}}));
    let conflicts = w.conflict("m2", json!({"data": {"a": "2", "b": "2", "c": "1"}}));
    assert_eq!(conflicts.message, "Apply failed with 2 conflicts: conflicts with \"m1\":\n- .data.a\n- .data.b");
    assert_eq!(conflicts.causes.len(), 2);
    // The same value is shared.
    assert_eq!(
        w.apply("m2", json!({"data": {"c": "1"}})),
        ["m2 Apply - .data.c", "m1 Apply 1 .data.a .data.b .data.c"]
    );
    let owners = w.try_apply("m2", json!({"data": {"a": "2", "c": "1"}}), true).unwrap();
    assert_eq!(owners, ["m1 Apply 1 .data.b .data.c", "m2 Apply 4 .data.a .data.c"]);
    assert_eq!(w.edit("ed", json!({"data": {"a": "3"}}))[2], "ed Update 5 .data.a");
    let conflict = w.conflict("m2", json!({"data": {"a": "2"}}));
    assert_eq!(conflict.message, "Apply failed with 1 conflict: conflict with \"ed\" using v1: .data.a");
    assert_eq!(conflict.causes[0].field, ".data.a");
    assert_eq!(w.apply("m1", json!({"data": {"a": "3"}})).len(), 3);
}

#[test]
fn a_removed_item_goes_unless_others_own_it() {
    let mut w = World::deployment();
    w.apply("m1", deployment(json!([{"name": "a", "image": "a:1"}])));
    w.apply("m2", json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "b:1"}]}}}}));
    let names = |w: &World| {
        let containers = w.object.as_ref().unwrap()["spec"]["template"]["spec"]["containers"].clone();
        containers.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&w), ["a", "b"]);
    // Defaults of a removed item go with it, fields that others own stay.
    let pull = json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "b:1", "imagePullPolicy": "Always"}]}}}});
    w.apply("m2", pull);
    assert_eq!(w.apply("m2", json!({})).len(), 1);
    assert_eq!(names(&w), ["a"]);
    let conflict =
        w.conflict("m3", json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "z"}]}}}}));
    assert_eq!(
        conflict.message,
        "Apply failed with 1 conflict: conflict with \"m1\": .spec.template.spec.containers[name=\"a\"].image"
    );
    // The applier drops an item it owns, and with it what an updater has set in it.
    w.edit("ed", json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "a:1", "tty": true}]}}}}));
    w.apply("m1", deployment(json!([{"name": "n", "image": "n:1"}])));
    assert_eq!(names(&w), ["n"]);
    assert_eq!(w.owners().len(), 1);
}

#[test]
fn keys_have_defaults() {
    let mut w = World::deployment();
    let ports = json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]);
    w.apply("m1", deployment(json!([{"name": "a", "ports": ports}])));
    let list = &w.object.as_ref().unwrap()["metadata"]["managedFields"][0]["fieldsV1"];
    let ports = &list["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"]["f:ports"];
    assert_eq!(ports["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"], json!({".": {}, "f:containerPort": {}}));
    assert_eq!(
        ports["k:{\"containerPort\":80,\"protocol\":\"UDP\"}"],
        json!({".": {}, "f:containerPort": {}, "f:protocol": {}})
    );
}

#[test]
fn configurations_are_checked() {
    let mut w = World::config_map();
    assert_eq!(
        w.error(json!({"zork": 1})),
        "failed to create typed patch object (/x; /v1, Kind=ConfigMap): .zork: field not declared in schema"
    );
    assert_eq!(w.error(json!({"metadata": {"managedFields": []}})), "metadata.managedFields must be nil");
    let mut w = World::deployment();
    let prefix = "failed to create typed patch object (/x; apps/v1, Kind=Deployment): ";
    for (value, want) in [
        (json!({"spec": {"replicas": "x"}}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema"),
        (json!({"spec": {"paused": "x"}}), ".spec.paused: expected boolean, got &{x}"),
        (json!({"spec": []}), ".spec: expected map, got &{[]}"),
        (
            deployment(json!([{"name": "c", "image": 1}])),
            ".spec.template.spec.containers[name=\"c\"].image: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (deployment(json!({"name": "c"})), ".spec.template.spec.containers: expected list, got &{map[name:c]}"),
        (
            deployment(json!([{"name": "c"}, {"name": "c"}])),
            ".spec.template.spec.containers: duplicate entries for key [name=\"c\"]",
        ),
        (
            json!({"spec": {"replicas": "x", "paused": 1}}),
            "errors:\n  .spec.paused: expected boolean, got &{1}\n  .spec.replicas: expected numeric (int or float), got string",
        ),
    ] {
        assert_eq!(w.error(value), format!("{prefix}{want}"));
    }
    let request = w.request("m1");
    for (value, want) in [
        (json!({"metadata": {"name": "x"}}), "invalid object type: /, Kind="),
        (json!({"apiVersion": "v1", "kind": "Secret"}), "invalid object type: /v1, Kind=Secret"),
        (
            json!({"apiVersion": "apps/v1beta1", "kind": "Deployment"}),
            "invalid object type: apps/v1beta1, Kind=Deployment",
        ),
    ] {
        assert_eq!(apply(&request, None, &value, false), Err(ApplyError::BadRequest(want.into())));
    }
}

#[test]
fn status_subresource() {
    let mut w = World::deployment();
    w.update("oracle", deployment(json!([{"name": "c"}])));
    w.subresource = "status";
    w.reset = ResetFields::Exclude(&[&["spec"], &["metadata"]]);
    let owners = w.edit("ctl", json!({"status": {"replicas": 3}, "spec": {"replicas": 9}}));
    assert_eq!(owners[1], "ctl Update/status 2 .status.replicas");
    let conflict = w.conflict("m2", json!({"status": {"replicas": 4}}));
    assert_eq!(
        conflict.message,
        "Apply failed with 1 conflict: conflict with \"ctl\" with subresource \"status\" using apps/v1: .status.replicas"
    );
    let owners = w.apply("m2", json!({"status": {"readyReplicas": 1}, "spec": {"paused": true}}));
    assert_eq!(owners[0], "m2 Apply/status 4 .status.readyReplicas");
}

#[test]
fn kubectl_takes_over_its_client_side_apply() {
    let mut w = World::config_map();
    let last = "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"1\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\"}}\n";
    let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    w.update(
        "kubectl-client-side-apply",
        json!({"metadata": {"annotations": annotations}, "data": {"a": "1", "b": "1"}}),
    );
    assert!(w.try_apply("other", json!({"data": {"a": "2"}}), false).is_err());
    let conflict = w.conflict("kubectl", json!({"data": {"a": "2", "b": "2"}}));
    assert_eq!(conflict.causes.len(), 1);
    assert_eq!(conflict.causes[0].field, ".data.b");
    w.apply("kubectl", json!({"data": {"a": "2"}}));
    let object = w.object.as_ref().unwrap();
    assert_eq!(object["data"]["a"], "2");
    assert_eq!(
        object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"],
        "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"2\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\"}}\n"
    );
}

#[test]
fn scale_steals_the_replicas() {
    let mut w = World::deployment();
    let mut object = deployment(json!([{"name": "a"}]));
    object["spec"]["replicas"] = json!(2);
    w.apply("m1", object);
    let list = entries::of(w.object.as_ref().unwrap()).unwrap().clone();
    let paths: scale::ReplicasPaths<'_> = &[("apps/v1", &["spec", "replicas"])];
    let seen = scale::to_subresource(&list, paths).unwrap();
    assert_eq!(seen[0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(seen[0]["apiVersion"], "autoscaling/v1");
    let written = json!([{
        "manager": "hpa", "operation": "Update", "apiVersion": "autoscaling/v1", "subresource": "scale",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}},
    }]);
    let parent = scale::to_parent(&list, written.as_array().unwrap(), "apps/v1", paths).unwrap();
    assert_eq!(parent.len(), 2);
    assert_eq!(parent[0]["fieldsV1"]["f:spec"].get("f:replicas"), None);
    assert_eq!(
        parent[1],
        json!({
            "manager": "hpa", "operation": "Update", "apiVersion": "apps/v1", "subresource": "scale",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}},
        })
    );
}

#[test]
fn noop_keeps_times() {
    let mut w = World::config_map();
    w.update("oracle", json!({"data": {"a": "1"}}));
    let live = w.object.clone().unwrap();
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z".into();
    keep_times_if_noop(&live, &mut new);
    assert_eq!(new, live);
    let mut changed = new.clone();
    changed["data"]["a"] = "2".into();
    changed["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z".into();
    keep_times_if_noop(&live, &mut changed);
    assert_eq!(changed["metadata"]["managedFields"][0]["time"], "2030-01-01T00:00:00Z");
}

fn custom() -> World {
    let strings = |map_type| Type::map(MapOf { value: Type::String, map_type });
    let list = |item, list_type, keys: &[&'static str]| {
        Type::list(ListOf { item, list_type, keys: keys.iter().map(|key| (*key).into()).collect() })
    };
    let defaulted = Field { default: Some("\"TCP\"".into()), ..Field::new("proto", Type::String) };
    let objects = vec![
        Object::new(
            "",
            vec![
                Field::new("apiVersion", Type::String),
                Field::new("kind", Type::String),
                Field::new("metadata", Type::Any),
                Field::new("spec", Type::Object(1)),
                Field::new("status", Type::Any),
            ],
        ),
        Object::new(
            "",
            vec![
                Field::new("a", list(Type::String, ListType::Atomic, &[])),
                Field::new("am", strings(MapType::Atomic)),
                Field::new("any", Type::Any),
                Field::new("gm", strings(MapType::Granular)),
                Field::new("mk", list(Type::Object(2), ListType::Map, &["port", "proto"])),
                Field::new("s", list(Type::String, ListType::Set, &[])),
            ],
        ),
        Object::new("", vec![Field::new("n", Type::String), Field::new("port", Type::Int64), defaulted]),
    ];
    let schema = Schema { table: Arc::new(Table { objects: objects.into() }), root: 0 };
    World { schema, ..World::new(CONFIG_MAP, "g.example.com/v1", "Ap") }
}

#[test]
fn custom_resources() {
    let mut w = custom();
    assert_eq!(
        w.update("m0", json!({"spec": {"any": {"x": {"y": [1]}}}})),
        ["m0 Update 1 .spec .spec.any .spec.any.x .spec.any.x.y"]
    );
    let mut w = custom();
    let mk = json!([{"port": 80}, {"port": 80, "proto": "UDP"}]);
    w.apply("m1", json!({"spec": {"mk": mk, "s": ["a", "b"], "a": ["x"], "am": {"p": "1"}, "gm": {"a": "1"}}}));
    w.apply("m2", json!({"spec": {"mk": [{"port": 80, "n": "x"}], "s": ["c", "a"], "gm": {"b": "1"}}}));
    let spec = w.object.as_ref().unwrap()["spec"].clone();
    assert_eq!(spec["mk"], json!([{"n": "x", "port": 80}, {"port": 80, "proto": "UDP"}]));
    assert_eq!(spec["s"], json!(["c", "a", "b"]));
    assert_eq!(w.conflict("m2", json!({"spec": {"am": {"q": "1"}}})).causes[0].field, ".spec.am");
    assert_eq!(w.conflict("m2", json!({"spec": {"a": ["b"]}})).causes[0].field, ".spec.a");
    let prefix = "failed to create typed patch object (/x; g.example.com/v1, Kind=Ap): ";
    assert_eq!(
        w.error(json!({"spec": {"s": ["a", "a"]}})),
        format!("{prefix}.spec.s: duplicate entries for key [=\"a\"]")
    );
    assert_eq!(w.error(json!({"spec": {"zz": 1}})), format!("{prefix}.spec.zz: field not declared in schema"));
}

struct TwoVersions(Schema);

impl Versions for TwoVersions {
    fn convert<'a>(&self, object: &'a Value, api_version: &str) -> Option<(Cow<'a, Value>, Schema)> {
        let mut object = object.clone();
        object["apiVersion"] = api_version.into();
        ["v1", "v2"].contains(&api_version).then(|| (Cow::Owned(object), self.0.clone()))
    }
}

#[test]
fn versions() {
    let mut w = World::config_map();
    w.apply("m1", json!({"data": {"a": "1", "b": "1"}}));
    let versions = TwoVersions(w.schema.clone());
    let applied = json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "2"}});
    let request = Request { versions: &versions, api_version: "v2", ..w.request("m1") };
    let new = drop_nulls(apply(&request, w.object.as_ref(), &applied, false).unwrap());
    assert_eq!(new["data"], json!({"a": "2"}));
    assert_eq!(new["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    assert_eq!(new["metadata"]["managedFields"][0]["apiVersion"], "v2");
    let request = Request { manager: "m2", ..request };
    let error = apply(&request, w.object.as_ref(), &applied, false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"m1\": .data.a");
    // A version that is no longer served owns nothing.
    let request = Request { versions: &SingleVersion, ..request };
    let new = apply(&request, w.object.as_ref(), &applied, false).unwrap();
    assert_eq!(new["metadata"]["managedFields"].as_array().unwrap().len(), 1);
}

fn any_spec() -> impl Strategy<Value = Value> {
    let map = || prop::collection::btree_map("[a-c]", "[x-z]", 0..3);
    let item = ("[x-z]", prop::option::of("[A-B]"));
    (map(), prop::collection::btree_set("[a-d]", 0..4), prop::collection::btree_map(0..4i64, item, 0..3), map())
        .prop_map(|(gm, s, mk, am)| {
            let mk: Vec<Value> = mk
                .into_iter()
                .map(|(port, (n, proto))| match proto {
                    Some(proto) => json!({"port": port, "n": n, "proto": proto}),
                    None => json!({"port": port, "n": n}),
                })
                .collect();
            json!({"spec": {"gm": gm, "s": s, "mk": mk, "am": am}})
        })
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(live in any_spec(), a in any_spec()) {
        let mut w = custom();
        w.update("u", live);
        w.try_apply("m", a.clone(), true).unwrap();
        let once = w.object.clone();
        w.try_apply("m", a, false).unwrap();
        prop_assert_eq!(w.object, once);
    }

    /// The short way, for a list sent as it is stored, is the long way.
    #[test]
    fn both_ways_of_an_update_agree(a in any_spec(), edits in prop::collection::vec((any_spec(), 0..3usize, any::<bool>()), 1..6)) {
        let (mut short, mut long) = (custom(), custom());
        for (value, manager, applies) in [(a, 0, false)].into_iter().chain(edits) {
            let manager = format!("m{manager}");
            if applies {
                short.try_apply(&manager, value.clone(), true).unwrap();
                long.try_apply(&manager, value, true).unwrap();
            } else {
                let mut sent = value.clone();
                if let Some(list) = short.object.as_ref().and_then(entries::of) {
                    sent["metadata"]["managedFields"] = list.clone().into();
                }
                short.update(&manager, sent);
                long.update(&manager, value);
            }
            prop_assert_eq!(&short.object, &long.object);
        }
    }

    #[test]
    fn what_was_applied_is_there(live in any_spec(), a in any_spec(), b in any_spec()) {
        let mut w = custom();
        w.update("u", live);
        w.try_apply("m1", a, true).unwrap();
        w.try_apply("m2", b.clone(), true).unwrap();
        let object = w.object.clone().unwrap();
        let merged = {
            let mut merged = object.clone();
            typed::merge(&w.schema, &mut merged, &b).unwrap();
            drop_nulls(merged)
        };
        prop_assert_eq!(typed::compare(&w.schema, &object, &merged).unwrap(), typed::Diff::default());
    }

    #[test]
    fn an_owner_of_everything_takes_everything_away(a in any_spec()) {
        let mut w = custom();
        w.apply("m", a);
        w.apply("m", json!({}));
        let object = w.object.unwrap();
        prop_assert_eq!(object.get("spec"), None);
    }
}
