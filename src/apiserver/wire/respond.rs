//! Responses: status line, headers, encoding of the body.

use std::io::Write as _;

use apimachinery::status::Status;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::negotiate::{Accepted, Format};
use super::{body, yaml};
use crate::Body;

/// Bodies longer than this are compressed for clients that can read it (upstream's threshold).
const GZIP_FROM: usize = 128 * 1024;

/// A JSON document in the representation that was negotiated.
pub fn json(code: u16, json: Bytes, accepted: &Accepted, headers: &HeaderMap) -> Response<Body> {
    let content = match accepted.format {
        Format::Protobuf => match protobuf(&json) {
            Some(content) => content.into(),
            // What has no protobuf form (the index of paths) is shown all the same.
            None => return self::json(code, json, &Accepted { format: Format::Json, ..accepted.clone() }, headers),
        },
        Format::Yaml => yaml::from_json(&json).into(),
        Format::Json if accepted.pretty => indent(&json).into(),
        Format::Json => {
            let mut content = Vec::with_capacity(json.len() + 1);
            content.extend_from_slice(&json);
            content.push(b'\n');
            content.into()
        }
    };
    bytes(code, accepted.format.content_type(), content, headers)
}

/// A JSON document in its protobuf envelope, if it has a protobuf form.
pub fn protobuf(json: &[u8]) -> Option<Vec<u8>> {
    apimachinery::protobuf::encode_object(&serde_json::from_slice(json).ok()?)
}

pub fn value(code: u16, value: &Value, accepted: &Accepted, headers: &HeaderMap) -> Response<Body> {
    json(code, encode(value), accepted, headers)
}

/// A JSON value with the type first, as upstream orders it.
pub fn encode(value: &Value) -> Bytes {
    crate::cache::encode::encode_served(value).unwrap_or_else(|| value.to_string().into())
}

/// As upstream shows a patched object in an error: members in alphabetical order, metadata in upstream's.
pub fn encode_sorted(value: &Value) -> Bytes {
    crate::cache::encode::encode_shown(value)
}

pub fn status(status: &Status, accepted: &Accepted, headers: &HeaderMap) -> Response<Body> {
    let plain = Accepted { transform: None, ..accepted.clone() };
    let mut response = json(status.code, status.to_json().into(), &plain, headers);
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if seconds > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What Go's mux answers outside the API.
pub fn text(code: u16, text: &'static str) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

pub fn bytes(code: u16, content_type: &'static str, content: Bytes, request: &HeaderMap) -> Response<Body> {
    let zip = content.len() > GZIP_FROM && takes_gzip(request);
    let mut response = Response::new(body::full(if zip { gzip(&content) } else { content }));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if zip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.split(',').any(|coding| coding.split(';').next().unwrap_or("").trim() == "gzip")
}

fn gzip(content: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(content.len() / 8), Compression::fast());
    let written = encoder.write_all(content).and_then(|()| encoder.finish());
    written.expect("compressing into memory cannot fail").into()
}

/// Adds a `Warning` header (RFC 7234, code 299), as upstream quotes it.
pub fn add_warning(headers: &mut HeaderMap, text: &str) {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
        headers.append(HeaderName::from_static("warning"), value);
    }
}

/// Indents JSON by two spaces, keeping the order of members.
fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0;
    let mut at = 0;
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    while at < json.len() {
        let byte = json[at];
        match byte {
            b'"' => {
                let start = at;
                at += 1;
                while at < json.len() && json[at] != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                out.extend_from_slice(&json[start..(at + 1).min(json.len())]);
            }
            b'{' | b'[' => {
                out.push(byte);
                if matches!(json.get(at + 1), Some(b'}' | b']')) {
                    at += 1;
                    out.push(json[at]);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            _ => out.push(byte),
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_as_go_does() {
        let text = String::from_utf8(indent(br#"{"b":{},"a":[1,{"x\"y":"{"}],"c":[]}"#)).expect("utf-8");
        assert_eq!(
            text,
            "{\n  \"b\": {},\n  \"a\": [\n    1,\n    {\n      \"x\\\"y\": \"{\"\n    }\n  ],\n  \"c\": []\n}"
        );
    }
}
