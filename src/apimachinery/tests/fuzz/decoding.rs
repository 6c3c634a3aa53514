//! JSON, YAML and protobuf.

use crate::support::{bounded, damaged, json, objects, schema_of};
use apimachinery::decode::{self, Encoding, FieldValidation, Node};
use apimachinery::gvk::GroupVersionKind;
use apimachinery::protobuf;
use apimachinery::schema::builtin_schema_for;
use proptest::prelude::*;
use serde_json::Value;

fn check(body: &[u8], encoding: Encoding) {
    let pod = GroupVersionKind::new("", "v1", "Pod");
    let known = |gvk: &GroupVersionKind| builtin_schema_for(&gvk.group, &gvk.version, &gvk.kind);
    match decode::decode_body(body, encoding, &pod, known) {
        Ok((_, decoded)) => {
            if let Err(error) = decoded.warnings(FieldValidation::Strict) {
                assert!(bounded(&error, body.len() * 8), "{} bytes of error", error.len());
            }
        }
        Err(error) => assert!(bounded(&error.status("Pod", body).message, body.len()), "{error}"),
    }
    let keep = |_: &mut Value| Ok(Vec::new());
    if let Err(error) = decode::decode_custom_body(body, encoding, &keep) {
        assert!(bounded(&error.message, body.len()), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for encoding in [Encoding::Json, Encoding::Yaml, Encoding::Protobuf] {
            check(&bytes, encoding);
        }
    }

    /// Text made of what the formats are made of.
    #[test]
    fn nearly_json(text in "[\\[\\]{}:,\"\\\\a0-9eE+.\\- \n\\x00u-]{0,80}") {
        check(text.as_bytes(), Encoding::Json);
    }

    #[test]
    fn nearly_yaml(text in "([&*!|>%@?:,#'\"\\[\\]{}a-c0-2~.< \t-]{0,6}\n? {0,3}){0,14}") {
        check(text.as_bytes(), Encoding::Yaml);
    }

    #[test]
    fn broken_objects(object in damaged()) {
        let text = object.to_string();
        check(text.as_bytes(), Encoding::Json);
        check(text.as_bytes(), Encoding::Yaml);
        if let Some(bytes) = protobuf::encode_object(&object) {
            check(&bytes, Encoding::Protobuf);
        }
    }

    /// One byte of a real body is another.
    #[test]
    fn broken_text(line in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let all = objects();
        let mut bytes = all[line.index(all.len())].as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check(&bytes, Encoding::Json);
        check(&bytes, Encoding::Yaml);
    }

    #[test]
    fn json_is_read_as_it_is_written(value in json()) {
        let text = value.to_string();
        let read = decode::json::parse(text.as_bytes()).map(Node::into_value);
        let again = read.clone().map(|value| value.to_string());
        let twice = again.clone().map(|text| decode::json::parse(text.as_bytes()).map(Node::into_value));
        prop_assert_eq!(Ok(read), twice);
        // The standard parser agrees, but for how numbers are kept.
        let floats = text.contains(['.', 'e']) || text.len() > 10_000;
        if !floats {
            prop_assert_eq!(again, Ok(text));
        }
    }

    /// What decodes once decodes to itself: the form is final.
    #[test]
    fn decoding_is_idempotent(object in damaged()) {
        let Some(schema) = schema_of(&object) else { return Ok(()) };
        if let Ok(once) = decode::decode_value(object, &schema) {
            let mut first = once.value;
            decode::normalize_sent(&mut first, &schema);
            let mut second = decode::decode_value(first.clone(), &schema).expect("decodes again").value;
            decode::normalize_sent(&mut second, &schema);
            prop_assert_eq!(first, second);
        }
    }

    #[test]
    fn protobuf_round_trips(object in damaged()) {
        let Some(schema) = schema_of(&object) else { return Ok(()) };
        let Ok(decoded) = decode::decode_value(object, &schema) else { return Ok(()) };
        let Some(bytes) = protobuf::encode_object(&decoded.value) else { return Ok(()) };
        // Not everything that JSON takes has a form in protobuf; what has one keeps it.
        if let Ok(first) = protobuf::decode_object(&bytes) {
            if let Some(bytes) = protobuf::encode_object(&first) {
                prop_assert_eq!(protobuf::decode_object(&bytes), Ok(first));
            }
        }
    }
}
