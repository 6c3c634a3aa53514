//! The bytes of a stored object: deterministic JSON with the type first and no resourceVersion.

use bytes::Bytes;
use serde_json::{Map, Value};

/// Order of the members of `metadata`: upstream's. resourceVersion is spliced in after [`LEADING`].
const METADATA_ORDER: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];
/// Order of the members of entries of two lists in metadata.
const MANAGED_ORDER: &[&str] = &["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"];
const OWNER_ORDER: &[&str] = &["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
/// How many of [`METADATA_ORDER`] come before resourceVersion; all of them are strings.
const LEADING: usize = 5;

/// Encodes an object for the store: without resourceVersion. `None` if it is no object.
pub fn encode(value: &Value) -> Option<Bytes> {
    encode_as(value, false)
}

/// Encodes an object for a response: with what resourceVersion it has. `None` if it is no object.
pub fn encode_served(value: &Value) -> Option<Bytes> {
    encode_as(value, true)
}

/// All members in alphabetical order but those of metadata, which have upstream's order.
pub fn encode_shown(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let empty = Map::new();
    out.push(b'{');
    for (at, (key, member)) in value.as_object().unwrap_or(&empty).iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(&mut out, &Value::String(key.clone()));
        out.push(b':');
        match member {
            Value::Object(metadata) if key == "metadata" => write_metadata(&mut out, metadata, true),
            member => write(&mut out, member),
        }
    }
    out.push(b'}');
    out.into()
}

fn encode_as(value: &Value, served: bool) -> Option<Bytes> {
    let object = value.as_object()?;
    let mut out = Vec::with_capacity(1024);
    let (kind, version, metadata) = (object.get("kind"), object.get("apiVersion"), object.get("metadata"));
    if served && (kind.is_none() || version.is_none() || !metadata.is_some_and(Value::is_object)) {
        return None;
    }
    out.extend_from_slice(b"{\"kind\":");
    write(&mut out, kind.unwrap_or(&Value::Null));
    out.extend_from_slice(b",\"apiVersion\":");
    write(&mut out, version.unwrap_or(&Value::Null));
    out.extend_from_slice(b",\"metadata\":");
    let empty = Map::new();
    write_metadata(&mut out, metadata.and_then(Value::as_object).unwrap_or(&empty), served);
    for (key, member) in object {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            out.push(b',');
            write(&mut out, &Value::String(key.clone()));
            out.push(b':');
            write(&mut out, member);
        }
    }
    out.push(b'}');
    Some(out.into())
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>, served: bool) {
    out.push(b'{');
    let mut first = true;
    let mut member = |key: &str, value: &Value| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write(out, &Value::String(key.to_owned()));
        out.push(b':');
        match (key, value) {
            ("managedFields", Value::Array(entries)) => write_entries(out, entries, MANAGED_ORDER),
            ("ownerReferences", Value::Array(entries)) => write_entries(out, entries, OWNER_ORDER),
            _ => write(out, value),
        }
    };
    let version = metadata.get("resourceVersion").filter(|_| served);
    for (at, key) in METADATA_ORDER.iter().enumerate() {
        if let Some(value) = metadata.get(*key) {
            member(key, value);
        }
        if let (true, Some(version)) = (at + 1 == LEADING, version) {
            member("resourceVersion", version);
        }
    }
    for (key, value) in metadata {
        if key != "resourceVersion" && !METADATA_ORDER.contains(&key.as_str()) {
            member(key, value);
        }
    }
    out.push(b'}');
}

/// A list of objects, their members in this order (then the rest).
fn write_entries(out: &mut Vec<u8>, entries: &[Value], order: &[&str]) {
    out.push(b'[');
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let Some(map) = entry.as_object() else {
            write(out, entry);
            continue;
        };
        out.push(b'{');
        let known = order.iter().filter_map(|key| map.get_key_value(*key));
        let rest = map.iter().filter(|(key, _)| !order.contains(&key.as_str()));
        for (at, (key, value)) in known.chain(rest).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write(out, &Value::String(key.clone()));
            out.push(b':');
            write(out, value);
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// Compact JSON with floats as Go writes them: a whole one has no fraction.
struct GoNumbers;

impl serde_json::ser::Formatter for GoNumbers {
    fn write_f64<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, value: f64) -> std::io::Result<()> {
        writer.write_all(apimachinery::goformat::float(value).as_bytes())
    }
}

fn write(out: &mut Vec<u8>, value: &Value) {
    let mut serializer = serde_json::Serializer::with_formatter(out, GoNumbers);
    serde::Serialize::serialize(value, &mut serializer).expect("a JSON value always encodes to memory");
}

/// The offsets of `"metadata":` and of the place for resourceVersion, if the bytes are of [`encode`]'s form.
pub fn offsets(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut at = literal(bytes, 0, b"{\"kind\":")?;
    at = string(bytes, at)?;
    at = literal(bytes, at, b",\"apiVersion\":")?;
    at = string(bytes, at)?;
    let body = at + 1;
    at = literal(bytes, at, b",\"metadata\":{")?;
    loop {
        let member = if bytes.get(at) == Some(&b',') { at + 1 } else { at };
        let Some(end) = string(bytes, member) else { return Some((body, at)) };
        let key = &bytes[member + 1..end - 1];
        if key == b"resourceVersion" {
            return None;
        }
        if !METADATA_ORDER[..LEADING].iter().any(|k| k.as_bytes() == key) {
            return Some((body, at));
        }
        at = string(bytes, literal(bytes, end, b":")?)?;
    }
}

/// The offset behind the object inside of which `at` is (between two of its members).
pub fn end_of_object(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = string(bytes, at).unwrap_or(bytes.len());
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

fn literal(bytes: &[u8], at: usize, text: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(text).then_some(at + text.len())
}

/// The offset behind the JSON string that begins at `at`.
fn string(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Object;
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Object {
        Object::from_stored(Bytes::from_static(b"/k"), encode(value).expect("object"), 7, &|_| Vec::new())
            .expect("form")
    }

    #[test]
    fn splices_the_resource_version() {
        for metadata in [
            json!({}),
            json!({"name": "x"}),
            json!({"name": "x", "labels": {"a\"b": "c"}}),
            json!({"labels": {}, "zzz": 1}),
            json!({"generateName": "g-", "name": "g-\"1", "uid": "u", "creationTimestamp": "t"}),
        ] {
            let mut value =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "binaryData": {"a": "b"}, "metadata": metadata});
            let object = object(&value);
            value["metadata"]["resourceVersion"] = json!("7");
            assert_eq!(serde_json::from_slice::<Value>(&object.json()).expect("json"), value);
            assert_eq!(object.value(), value);
            let mut item = Vec::new();
            object.write_item(&mut item);
            let fields = value.as_object_mut().expect("object");
            fields.remove("kind");
            fields.remove("apiVersion");
            assert_eq!(serde_json::from_slice::<Value>(&item).expect("json"), value);
        }
    }

    #[test]
    fn foreign_bytes_are_brought_into_form() {
        let foreign =
            Bytes::from_static(br#"{"apiVersion":"v1","kind":"X","metadata":{"resourceVersion":"3","name":"n"}}"#);
        let object = Object::from_stored(Bytes::new(), foreign, 9, &|_| Vec::new()).expect("object");
        assert_eq!(object.value()["metadata"], json!({"name": "n", "resourceVersion": "9"}));
    }
}
