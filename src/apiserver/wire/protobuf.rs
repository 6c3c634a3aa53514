//! Request bodies in Kubernetes' protobuf form, read as the JSON they stand for. Clients written in Go send them for
//! built-in kinds; what they accept in return includes JSON.
//!
//! Invariants:
//! - PB-1: field numbers are facts, packed by `scripts/gen-protobuf-fields.py`; unknown fields are skipped.
//! - PB-2: zero values are kept as they were sent: which of them mean "absent" is for the decoder of JSON bodies to know.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::OnceLock;

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue};
use apimachinery::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as B64;
use flate2::read::GzDecoder;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::body;
use crate::Body;

static PACKED: &[u8] = include_bytes!("../data/protobuf-fields.txt.gz");
const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
const DEEPEST: usize = 64;
/// Messages that JSON shows as part of the message around them.
const INLINED: &[&str] = &[
    "volumeSource",
    "handler",
    "ephemeralContainerCommon",
    "persistentVolumeSource",
    "localObjectReference",
    "rule",
    "ruleWithOperations",
];

/// Makes a protobuf body a JSON body; others pass through untouched.
///
/// # Errors
/// 400 for what is no Kubernetes protobuf, 413.
pub async fn transcode(headers: &mut HeaderMap, content: Body, limit: usize) -> Result<Body, Status> {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE) {
        return Ok(content);
    }
    let bytes = body::read(content, limit).await?;
    let json =
        if bytes.is_empty() { Vec::new() } else { to_json(&bytes).map_err(Status::bad_request)?.to_string().into() };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.remove(CONTENT_LENGTH);
    Ok(body::full(json))
}

/// The object in an envelope: magic, then a runtime.Unknown.
///
/// # Errors
/// What is wrong with it.
pub fn to_json(bytes: &[u8]) -> Result<Value, String> {
    let unknown = bytes
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in fields(unknown) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(content)) => raw = content,
            _ => {}
        }
    }
    let table = Table::get();
    let message = table.of_kind(&api_version, &kind).ok_or_else(|| {
        format!("no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme\"")
    })?;
    let mut object = table.object(message, raw, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

struct Table {
    messages: Vec<Message>,
    by_name: HashMap<String, usize>,
}

struct Message {
    shape: Shape,
    fields: Vec<Field>,
}

struct Field {
    number: u32,
    name: String,
    repeated: bool,
    map: bool,
    ty: Type,
}

#[derive(Clone, Copy)]
enum Type {
    Text,
    Bytes,
    Bool,
    Integer,
    Double,
    Message(usize),
}

/// How JSON shows a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Object,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Duration,
    /// Its bytes are JSON.
    Raw,
    /// Its one list.
    Items,
}

impl Table {
    fn get() -> &'static Self {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| {
            let mut text = String::new();
            GzDecoder::new(PACKED).read_to_string(&mut text).expect("the packed table is part of this build");
            let mut by_name = HashMap::new();
            let messages = text.lines().enumerate().map(|(at, line)| {
                let mut columns = line.split('\t');
                let name = columns.next().unwrap_or_default();
                by_name.insert(name.to_owned(), at);
                Message { shape: shape(name), fields: columns.filter_map(Field::parse).collect() }
            });
            let messages = messages.collect();
            Self { messages, by_name }
        })
    }

    /// `apps/v1`, `Deployment` → `k8s.io.api.apps.v1.Deployment`.
    fn of_kind(&self, api_version: &str, kind: &str) -> Option<usize> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let short = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
        let names = [
            format!("k8s.io.api.{short}.{version}.{kind}"),
            format!("k8s.io.{short}_apiserver.pkg.apis.{short}.{version}.{kind}"),
            format!("k8s.io.kube_aggregator.pkg.apis.{short}.{version}.{kind}"),
            format!("k8s.io.apimachinery.pkg.apis.meta.v1.{kind}"),
        ];
        names.iter().find_map(|name| self.by_name.get(name)).copied()
    }

    fn object(&self, message: usize, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
        if depth > DEEPEST {
            return Err("proto: nesting is too deep".to_owned());
        }
        let mut out = Map::new();
        for read in fields(bytes) {
            let (number, wire) = read?;
            let Some(field) = self.messages[message].fields.iter().find(|f| f.number == number) else { continue };
            if field.map {
                let Wire::Bytes(entry) = wire else { return Err(wrong(field)) };
                let (key, value) = self.entry(field, entry, depth)?;
                let slot = out.entry(field.name.clone()).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = slot.as_object_mut() {
                    map.insert(key, value);
                }
            } else if field.repeated {
                let slot = out.entry(field.name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = slot.as_array_mut() {
                    match (field.ty, wire) {
                        // Numbers may come packed.
                        (Type::Integer | Type::Bool, Wire::Bytes(mut packed)) => {
                            while !packed.is_empty() {
                                list.push(self.value(field, Wire::Varint(varint(&mut packed)?), depth)?);
                            }
                        }
                        (_, wire) => list.push(self.value(field, wire, depth)?),
                    }
                }
            } else {
                let value = self.value(field, wire, depth)?;
                match value {
                    Value::Object(inner) if INLINED.contains(&field.name.as_str()) => out.extend(inner),
                    value => {
                        out.insert(field.name.clone(), value);
                    }
                }
            }
        }
        Ok(out)
    }

    fn entry(&self, field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value), String> {
        let (mut key, mut value) = (String::new(), None);
        for read in fields(bytes) {
            match read? {
                (1, Wire::Bytes(text)) => key = string(text)?,
                (2, wire) => value = Some(self.value(field, wire, depth)?),
                _ => {}
            }
        }
        let zero = || match field.ty {
            Type::Message(message) => self.message(message, &[], depth),
            Type::Text | Type::Bytes => Ok(Value::String(String::new())),
            _ => Ok(Value::from(0)),
        };
        let value = value.map_or_else(zero, Ok)?;
        Ok((key, value))
    }

    fn value(&self, field: &Field, wire: Wire<'_>, depth: usize) -> Result<Value, String> {
        match (field.ty, wire) {
            (Type::Text, Wire::Bytes(text)) => Ok(string(text)?.into()),
            (Type::Bytes, Wire::Bytes(bytes)) => Ok(B64.encode(bytes).into()),
            (Type::Bool, Wire::Varint(n)) => Ok((n != 0).into()),
            (Type::Integer, Wire::Varint(n)) => Ok((n as i64).into()),
            (Type::Double, Wire::Fixed(bits)) => Ok(f64::from_bits(bits).into()),
            (Type::Message(message), Wire::Bytes(bytes)) => self.message(message, bytes, depth + 1),
            _ => Err(wrong(field)),
        }
    }

    fn message(&self, message: usize, bytes: &[u8], depth: usize) -> Result<Value, String> {
        let shape = self.messages[message].shape;
        let mut object = self.object(message, bytes, depth)?;
        let mut take = |key: &str| object.remove(key).unwrap_or_default();
        Ok(match shape {
            Shape::Object => Value::Object(object),
            Shape::Quantity => match take("string") {
                Value::Null => "0".into(),
                text => text,
            },
            Shape::IntOrString if take("type").as_i64() == Some(1) => text_or_empty(take("strVal")),
            Shape::IntOrString => take("intVal").as_i64().unwrap_or(0).into(),
            Shape::Time | Shape::MicroTime => time(take("seconds"), take("nanos"), shape == Shape::MicroTime)?,
            Shape::Duration => apimachinery::duration::format_go(take("duration").as_i64().unwrap_or(0)).into(),
            Shape::Items => match take("items") {
                Value::Null => Value::Array(Vec::new()),
                items => items,
            },
            Shape::Raw => {
                let raw = match (take("raw"), take("Raw")) {
                    (Value::String(raw), _) | (_, Value::String(raw)) => B64.decode(raw).unwrap_or_default(),
                    _ => Vec::new(),
                };
                if raw.is_empty() { Value::Null } else { serde_json::from_slice(&raw).map_err(|e| e.to_string())? }
            }
        })
    }
}

fn text_or_empty(value: Value) -> Value {
    if value.is_null() { Value::String(String::new()) } else { value }
}

/// A time of all zeros is no time.
fn time(seconds: Value, nanos: Value, micro: bool) -> Result<Value, String> {
    let (seconds, nanos) = (seconds.as_i64().unwrap_or(0), nanos.as_i64().unwrap_or(0));
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|e| e.to_string())?;
    let time = Timestamp::new(seconds, if micro { nanos } else { 0 }).map_err(|e| e.to_string())?;
    Ok(time.strftime(if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" }).to_string().into())
}

fn shape(name: &str) -> Shape {
    match name {
        "k8s.io.apimachinery.pkg.api.resource.Quantity" => Shape::Quantity,
        "k8s.io.apimachinery.pkg.util.intstr.IntOrString" => Shape::IntOrString,
        "k8s.io.apimachinery.pkg.apis.meta.v1.Time" => Shape::Time,
        "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime" => Shape::MicroTime,
        "k8s.io.apimachinery.pkg.apis.meta.v1.Duration" => Shape::Duration,
        "k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1"
        | "k8s.io.apimachinery.pkg.runtime.RawExtension"
        | "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON" => Shape::Raw,
        "k8s.io.apimachinery.pkg.apis.meta.v1.Verbs" => Shape::Items,
        name if name.ends_with(".ExtraValue") => Shape::Items,
        _ => Shape::Object,
    }
}

impl Field {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let number = words.next()?.parse().ok()?;
        let name = words.next()?.to_owned();
        let ty = words.next()?;
        let (repeated, ty) = ty.strip_prefix('*').map_or((false, ty), |ty| (true, ty));
        let (map, ty) = ty.strip_prefix("map:").map_or((false, ty), |ty| (true, ty));
        let ty = match ty {
            "string" => Type::Text,
            "bytes" => Type::Bytes,
            "bool" => Type::Bool,
            "int32" | "int64" | "uint32" | "uint64" => Type::Integer,
            "double" => Type::Double,
            line => Type::Message(line.parse().ok()?),
        };
        Some(Self { number, name, repeated, map, ty })
    }
}

enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

fn wrong(field: &Field) -> String {
    format!("proto: wrong wireType for field {}", field.name)
}

fn string(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "proto: invalid UTF-8".to_owned())
}

/// The fields of a message, in order.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u32, Wire<'_>), String>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = field(&mut rest);
        if read.is_err() {
            rest = &[];
        }
        Some(read)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Wire<'a>), String> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).map_err(|_| "proto: illegal tag".to_owned())?;
    let little = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    Ok((
        number,
        match tag & 7 {
            0 => Wire::Varint(varint(rest)?),
            1 => Wire::Fixed(little(take(rest, 8)?)),
            5 => Wire::Fixed(little(take(rest, 4)?)),
            2 => {
                let length = usize::try_from(varint(rest)?).map_err(|_| unexpected_end())?;
                Wire::Bytes(take(rest, length)?)
            }
            other => return Err(format!("proto: illegal wireType {other}")),
        },
    ))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (head, tail) = rest.split_at_checked(count).ok_or_else(unexpected_end)?;
    *rest = tail;
    Ok(head)
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, tail) = rest.split_first().ok_or_else(unexpected_end)?;
        *rest = tail;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("proto: integer overflow".to_owned())
}

fn unexpected_end() -> String {
    "unexpected EOF".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn number(mut n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while n > 0x7f {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }

    fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
        [number(field << 3 | 2), number(content.len() as u64), content.to_vec()].concat()
    }

    fn int(field: u64, n: u64) -> Vec<u8> {
        [number(field << 3), number(n)].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
    }

    #[test]
    fn a_secret() {
        let labels = bytes(11, &[bytes(1, b"a"), bytes(2, b"b")].concat());
        let zero_time = bytes(8, &[int(1, 0), int(2, 0)].concat());
        let meta = [bytes(1, b"x"), labels, zero_time].concat();
        let data = bytes(2, &[bytes(1, b"key"), bytes(2, b"\xff\x00")].concat());
        let raw = [bytes(1, &meta), data, bytes(3, b"Opaque"), int(5, 1), int(99, 3)].concat();
        assert_eq!(
            to_json(&envelope("v1", "Secret", &raw)),
            Ok(json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "x", "labels": {"a": "b"}, "creationTimestamp": null},
                "data": {"key": "/wA="}, "type": "Opaque", "immutable": true,
            }))
        );
    }

    #[test]
    fn inlined_messages_quantities_and_ports() {
        let quantity = bytes(2, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat());
        let probe = {
            let port = [int(1, 1), int(2, 0), bytes(3, b"http")].concat();
            let get = [bytes(1, b"/healthz"), bytes(2, &port)].concat();
            [bytes(1, &bytes(2, &get)), int(2, 5)].concat()
        };
        let container = [bytes(1, b"c"), bytes(8, &quantity), bytes(10, &probe)].concat();
        let volume = {
            let source = bytes(19, &[bytes(1, &bytes(1, b"conf")), int(3, 420)].concat());
            [bytes(1, b"v"), bytes(2, &source)].concat()
        };
        let spec = [bytes(1, &volume), bytes(2, &container), int(4, 0)].concat();
        let got = to_json(&envelope("v1", "Pod", &bytes(2, &spec))).expect("reads");
        assert_eq!(
            got["spec"],
            json!({
                "volumes": [{"name": "v", "configMap": {"name": "conf", "defaultMode": 420}}],
                "containers": [{
                    "name": "c",
                    "resources": {"requests": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "initialDelaySeconds": 5},
                }],
                "terminationGracePeriodSeconds": 0,
            })
        );
    }

    #[test]
    fn negative_numbers_times_and_options() {
        let raw = int(1, (-1_i64) as u64);
        assert_eq!(to_json(&envelope("v1", "DeleteOptions", &raw)).expect("reads")["gracePeriodSeconds"], -1);
        let renew = [int(1, 1_767_225_600), int(2, 5_000)].concat();
        let spec = bytes(2, &bytes(4, &renew));
        let lease = to_json(&envelope("coordination.k8s.io/v1", "Lease", &spec)).expect("reads");
        assert_eq!(lease["spec"]["renewTime"], "2026-01-01T00:00:00.000005Z");
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(to_json(b"{}").is_err());
        assert!(to_json(&envelope("v1", "Nope", b"")).is_err());
        let whole = envelope("v1", "ConfigMap", &bytes(1, &bytes(1, b"x")));
        for end in 5..whole.len() - 4 {
            let _ = to_json(&whole[..end]);
        }
        assert!(to_json(&envelope("v1", "ConfigMap", &[0x0a, 0xff])).is_err());
        assert!(to_json(&envelope("v1", "ConfigMap", &[0x0b])).is_err());
    }
}
