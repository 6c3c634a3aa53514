//! Tests of `protobuf`.

use super::wire::{Scalar, Writer};
use super::*;
use crate::decode::{self, Encoding};
use crate::schema::builtin_schema;
use proptest::prelude::*;
use serde_json::json;

fn normal(value: Value) -> Value {
    let gvk =
        GroupVersionKind::from_api_version(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap())
            .unwrap();
    let schema = builtin_schema_for(&gvk.group, &gvk.version, &gvk.kind).unwrap();
    decode::decode_value(value, &schema).unwrap().value
}

fn round_trip(value: &Value) -> Value {
    let bytes = encode_object(value).unwrap();
    normal(decode_object(&bytes).unwrap())
}

/// Objects as a real server returned them: largest and smallest of each kind.
#[test]
fn real_objects_survive() {
    let mut count = 0;
    for line in include_str!("../decode/testdata/objects.jsonl").lines() {
        let mut object: Value = serde_json::from_str(line).unwrap();
        // the type of an object inside another is lost; upstream's defaults bring it back
        for template in
            object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten()
        {
            template.as_object_mut().unwrap().retain(|key, _| !matches!(key.as_str(), "apiVersion" | "kind"));
        }
        assert_eq!(round_trip(&object), object, "{}", object["kind"]);
        count += 1;
    }
    assert!(count > 50);
}

/// What the real server sent for two missing objects.
#[test]
fn statuses_are_upstreams_bytes() {
    use base64::Engine as _;
    for (kind, name, raw) in [
        (
            "pods",
            "nope",
            "CgYKABIAGgASB0ZhaWx1cmUaFXBvZHMgIm5vcGUiIG5vdCBmb3VuZCIITm90Rm91bmQqEgoEbm9wZRIAGgRwb2RzKAAyADCUAw==",
        ),
        (
            "configmaps",
            "x",
            "CgYKABIAGgASB0ZhaWx1cmUaGGNvbmZpZ21hcHMgIngiIG5vdCBmb3VuZCIITm90Rm91bmQqFQoBeBIAGgpjb25maWdtYXBzKAAyADCUAw==",
        ),
    ] {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("{kind} \"{name}\" not found"), "reason": "NotFound",
            "details": {"name": name, "kind": kind}, "code": 404});
        let bytes = encode_object(&status).unwrap();
        let envelope = Envelope::open(&bytes).unwrap();
        assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("v1", "Status"));
        assert_eq!(base64::engine::general_purpose::STANDARD.encode(envelope.raw), raw);
        assert_eq!(decode_object(&bytes).unwrap()["details"]["kind"], kind);
    }
}

/// Go's own encoding of `&v1.ConfigMap{ObjectMeta: {Name: "a"}}`, field by field.
#[test]
fn zero_values_that_are_no_pointers_are_written() {
    let map = builtin_schema("io.k8s.api.core.v1.ConfigMap").unwrap();
    let bytes = encode(&json!({"metadata": {"name": "a"}}), &map);
    assert_eq!(bytes, b"\x0a\x11\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0");
}

#[test]
fn special_types() {
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com", "creationTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "additionalProperties": false,
                "properties": {
                    "a": {"type": "array", "items": {"type": "number", "maximum": 1.5, "minimum": -2, "default": 0}},
                    "b": {"type": "object", "additionalProperties": {"type": "string", "enum": ["x", null, {"y": 1}]}},
                    "c": {"x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-list-type": "set",
                        "$ref": "#", "x-kubernetes-validations": [{"rule": "true"}]}}}}}]},
        "status": {"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": null}});
    assert_eq!(round_trip(&crd), normal(crd));
    for object in [
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"},
            "spec": {"renewTime": "2020-01-02T03:04:05.000006Z", "acquireTime": "1969-12-31T23:59:59.500000Z",
                "leaseTransitions": -1}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x",
            "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:data": {".": {}}}}]},
            "data": {"a": "/wA=", "b": ""}}),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {"user": "u", "extra": {"a": ["x", "y"], "b": []}}, "status": {"allowed": true}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
            "spec": {"ports": [{"port": 1, "targetPort": "http"}, {"port": 2, "targetPort": 7}]}, "status": {"loadBalancer": {}}}),
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "x"},
            "spec": {"replicas": 3}, "status": {"replicas": 0}}),
        json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": "v1", "resources": [{"name": "pods",
            "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"]}]}),
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "x"},
            "data": {"spec": {"a": [1, 2.5, "z"]}}, "revision": 1}),
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "x"}, "target": {"name": "n", "kind": "Node"}}),
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "x"},
            "deleteOptions": {"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}}),
    ] {
        assert_eq!(round_trip(&object), normal(object));
    }
}

#[test]
fn lists_and_metadata() {
    let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "5"},
        "items": [{"metadata": {"name": "a"}, "data": {"k": "v"}}, {"metadata": {"name": "b"}}]});
    assert_eq!(round_trip(&list), list);
    let map = builtin_schema("io.k8s.api.core.v1.ConfigMap").unwrap();
    let items = list["items"].as_array().unwrap().iter().cloned();
    let bytes = encode_list(&map, "v1", "ConfigMap", &list["metadata"], items);
    assert_eq!(Some(bytes), encode_object(&list));
    for version in ["v1", "v1beta1"] {
        let partial = json!({"apiVersion": format!("meta.k8s.io/{version}"), "kind": "PartialObjectMetadataList",
            "metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a", "labels": {"l": "m"}}}]});
        let bytes = encode_object(&partial).unwrap();
        let envelope = Envelope::open(&bytes).unwrap();
        assert!(has_form(&envelope.gvk()));
        let mut reader = Reader::new(envelope.raw, "List");
        // the list's own metadata is of seven bytes
        let (at, wire) = reader.next().unwrap().unwrap();
        assert_eq!((at, wire.bytes("").unwrap().len() == 7), (1, version == "v1"));
    }
    assert_eq!(encode_object(&json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table"})), None);
    assert_eq!(encode_object(&json!({"apiVersion": "example.com/v1", "kind": "Foo"})), None);
}

#[test]
fn watch_frames() {
    let object = encode_object(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})).unwrap();
    let frame = watch_frame("ADDED", &object);
    assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
    let schema = builtin_schema("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent").unwrap();
    let event = decode(&frame[4..], &schema).unwrap();
    assert_eq!(event["type"], "ADDED");
    assert_eq!(event["object"]["kind"], "ConfigMap");
    assert_eq!(event["object"]["metadata"]["name"], "a");
}

/// A message by hand: fields first to last.
fn raw(fields: &[(u32, Scalar<'_>)]) -> Vec<u8> {
    let mut out = Writer::default();
    fields.iter().rev().for_each(|(number, value)| out.field(*number, *value));
    out.finish()
}

#[test]
fn foreign_encodings() {
    let schema = |name: &str| builtin_schema(&format!("io.k8s.api.core.v1.{name}")).unwrap();
    // packed and unpacked numbers, unknown fields, groups
    let security = [
        raw(&[(4, Scalar::Bytes(&[1, 0x80, 1])), (4, Scalar::Varint(7)), (99, Scalar::Bytes(b"?"))]),
        vec![0x9b, 0x06, 0x08, 0x01, 0x9b, 0x06, 0x9c, 0x06, 0x9c, 0x06],
    ]
    .concat();
    assert_eq!(decode(&security, &schema("PodSecurityContext")).unwrap(), json!({"supplementalGroups": [1, 128, 7]}));
    // the two halves of a message are one
    let (one, two) = (raw(&[(1, Scalar::Bytes(b"n"))]), raw(&[(3, Scalar::Bytes(b"ns"))]));
    let both = raw(&[(1, Scalar::Bytes(&one)), (1, Scalar::Bytes(&two))]);
    assert_eq!(decode(&both, &schema("ConfigMap")).unwrap(), json!({"metadata": {"name": "n", "namespace": "ns"}}));
    // a map entry without value
    let entry = raw(&[(1, Scalar::Bytes(b"k"))]);
    assert_eq!(decode(&raw(&[(2, Scalar::Bytes(&entry))]), &schema("ConfigMap")).unwrap(), json!({"data": {"k": ""}}));
    // times: nothing, and 1970
    let meta = raw(&[(8, Scalar::Bytes(b"")), (9, Scalar::Bytes(&[8, 0, 16, 0]))]);
    assert_eq!(
        decode(&raw(&[(1, Scalar::Bytes(&meta))]), &schema("ConfigMap")).unwrap(),
        json!({"metadata": {"creationTimestamp": null, "deletionTimestamp": "1970-01-01T00:00:00Z"}})
    );
}

#[test]
fn bodies() {
    let expected = GroupVersionKind::new("", "v1", "Secret");
    let known = |gvk: &GroupVersionKind| builtin_schema_for(&gvk.group, &gvk.version, &gvk.kind);
    let decode = |body: &[u8]| {
        decode::decode_body(body, Encoding::Protobuf, &expected, known)
            .map(|(_, decoded)| decoded.value)
            .map_err(|e| e.status("Secret", body).message)
    };
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "Yg=="}});
    let body = encode_object(&secret).unwrap();
    assert_eq!(decode(&body).unwrap(), secret);
    let map = encode_object(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}})).unwrap();
    assert_eq!(
        decode(&map).unwrap_err(),
        "ConfigMap in version \"v1\" cannot be handled as a Secret: converting (v1.ConfigMap) to (core.Secret): unknown conversion"
    );
    assert_eq!(
        decode(b"{}").unwrap_err(),
        "the object provided is unrecognized (must be of type Secret): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] ({})"
    );
    assert_eq!(
        decode(b"").unwrap_err(),
        "the object provided is unrecognized (must be of type Secret): empty data (<empty>)"
    );
    assert_eq!(
        decode(b"k8s\0\x0a").unwrap_err(),
        "the object provided is unrecognized (must be of type Secret): unexpected EOF (6b3873000a)"
    );
    let bad = [MAGIC, &raw(&[(2, Scalar::Bytes(&raw(&[(1, Scalar::Varint(1))])))])].concat();
    assert_eq!(
        decode(&bad).unwrap_err(),
        "Secret in version \"v1\" cannot be handled as a Secret: proto: wrong wireType = 0 for field Metadata"
    );
    for (bytes, message) in [
        (&b"\x0b"[..], "unexpected EOF"),
        (b"\x0c", "proto: Secret: wiretype end group for non-group"),
        (b"\x00\x00", "proto: Secret: illegal tag 0 (wire type 0)"),
        (b"\x0e", "proto: illegal wireType 6"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "proto: integer overflow"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "proto: negative length found during unmarshaling"),
    ] {
        let body = [MAGIC, &raw(&[(2, Scalar::Bytes(bytes))])].concat();
        let error = decode(&body).unwrap_err();
        assert!(error.ends_with(message), "{error}");
    }
}

#[test]
fn deep_messages_are_refused() {
    let schema = builtin_schema("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let nest = |depth: usize| {
        let mut out = Writer::default();
        (0..depth).for_each(|_| out.close(28, 0));
        out.finish()
    };
    let small = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        let deepest = decode(&nest(MAX_DEPTH), &schema).unwrap();
        assert!(decode(&encode(&deepest, &schema), &schema).unwrap()["not"].is_object());
        assert_eq!(decode(&nest(MAX_DEPTH + 1), &schema), Err(Error::TooDeep));
        assert_eq!(decode(&nest(10_000), &schema), Err(Error::TooDeep));
    });
    small.unwrap().join().unwrap();
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120), head in 0..3_usize) {
        let heads: [&[u8]; 3] = [b"", b"k8s\0", b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x70"];
        let _ = decode_object(&[heads[head], &bytes].concat());
        for kind in ["Pod", "CustomResourceDefinition", "Lease", "Node", "WatchEvent"] {
            let groups = ["", "apiextensions.k8s.io", "coordination.k8s.io"];
            for schema in groups.iter().filter_map(|group| builtin_schema_for(group, "v1", kind)) {
                if let Ok(value) = decode(&bytes, &schema) {
                    let _ = encode(&value, &schema);
                }
            }
        }
    }

    /// Broken in one place, real messages decode or fail.
    #[test]
    fn damaged_objects(line in 0..60_usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        if let Some(line) = include_str!("../decode/testdata/objects.jsonl").lines().nth(line) {
            let mut bytes = encode_object(&serde_json::from_str(line).unwrap()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(value) = decode_object(&bytes) {
                let _ = encode_object(&value);
            }
        }
    }

    #[test]
    fn text_and_numbers_round_trip(text in "\\PC{0,20}", n in any::<i32>()) {
        let object = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": text, "annotations": {text.clone(): text}},
            "involvedObject": {"name": text}, "count": n});
        prop_assert_eq!(round_trip(&object), normal(object));
    }
}
