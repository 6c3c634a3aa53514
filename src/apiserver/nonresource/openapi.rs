//! OpenAPI: Kubernetes' published documents (see data/openapi/NOTICE), served from their compressed form.
//!
//! Invariants:
//! - OA-1: no document is ever held decompressed: clients that take gzip get the bytes as they are in the program, for
//!   others they are decompressed while they are sent.
//! - OA-2: documents of group versions that are not served are not served either.

use std::io::Read as _;
use std::sync::OnceLock;

use ::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, VARY,
};
use ::http::{HeaderMap, HeaderValue, Response, StatusCode};
use apimachinery::status::Status;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::attributes::Query;
use crate::wire::negotiate::Accepted;
use crate::wire::{body, respond};
use crate::{Body, BoxError, Server};

static V2_JSON: &[u8] = include_bytes!("../data/openapi/v2.json.gz");
static V2_PROTOBUF: &[u8] = include_bytes!("../data/openapi/v2.pb.gz");
/// Path below `/openapi/v3/` and document.
static V3: &[(&str, &[u8])] = include!("../data/openapi/documents.rs");

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What kubectl up to 1.27 calls it.
const OLD_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const CHUNK: usize = 32 * 1024;

/// Answers `/openapi/…`; `None` for other paths.
pub fn handle(server: &Server, path: &str, headers: &HeaderMap, query: &Query) -> Option<Response<Body>> {
    match path {
        "/openapi/v2" => Some(version_2(Some(server), headers)),
        "/openapi/v3" | "/openapi/v3/" => Some(index(server, headers)),
        _ => Some(version_3(server, path.strip_prefix("/openapi/v3/")?, headers, query)),
    }
}

fn version_2(server: Option<&Server>, headers: &HeaderMap) -> Response<Body> {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    let picked = accept.split(',').find_map(|clause| match clause.split(';').next().unwrap_or("").trim() {
        OLD_PROTOBUF | PROTOBUF => Some((V2_PROTOBUF, PROTOBUF)),
        JSON | "application/*" | "*/*" | "" => Some((V2_JSON, JSON)),
        _ => None,
    });
    match picked {
        Some((document, kind)) => match server.and_then(|server| server.crds.openapi_v2(document, kind == PROTOBUF)) {
            Some(whole) => compressed(whole.gzip, &whole.hash, kind, headers),
            None => compressed(Bytes::from_static(document), hash(document), kind, headers),
        },
        None => {
            let status = Status::not_acceptable(&[JSON, OLD_PROTOBUF, PROTOBUF]);
            respond::status(&status, &Accepted::JSON, headers)
        }
    }
}

fn index(server: &Server, headers: &HeaderMap) -> Response<Body> {
    let mut paths = Map::new();
    for (path, document) in V3.iter().filter(|(path, _)| served(server, path)) {
        paths.insert(
            (*path).to_owned(),
            json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", hash(document))}),
        );
    }
    for (path, hash) in server.crds.openapi_index() {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    let text = json!({"paths": Value::Object(paths)}).to_string();
    let mut response = respond::bytes(200, "text/plain; charset=utf-8", Bytes::from(text), headers);
    response.headers_mut().remove(CACHE_CONTROL);
    response
}

fn version_3(server: &Server, path: &str, headers: &HeaderMap, query: &Query) -> Response<Body> {
    let found = V3.iter().find(|(known, _)| *known == path).filter(|_| served(server, path));
    let custom = || server.crds.openapi_v3(path, &|path| V3.iter().find(|(known, _)| *known == path).map(|(_, d)| *d));
    let found = found.map(|(_, document)| (Bytes::from_static(document), hash(document).to_owned()));
    let Some((document, hash)) = found.or_else(|| custom().map(|made| (made.gzip, made.hash))) else {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    match query.get("hash") {
        Some(wanted) if wanted != hash => {
            let mut response = Response::new(body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            if let Ok(target) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={hash}")) {
                response.headers_mut().insert(LOCATION, target);
            }
            response
        }
        wanted => {
            let mut response = compressed(document, &hash, JSON, headers);
            if wanted.is_some() {
                let forever = HeaderValue::from_static("public, immutable");
                response.headers_mut().insert(CACHE_CONTROL, forever);
            }
            response
        }
    }
}

/// OA-2.
fn served(server: &Server, path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["api", version] => server.kinds.serves("", version),
        ["apis", group, version] => server.kinds.serves(group, version),
        ["apis", group] => server.kinds.all().iter().any(|kind| kind.group == **group),
        _ => true,
    }
}

/// Of the compressed bytes: they change when the document does.
fn hash(document: &'static [u8]) -> &'static str {
    static HASHES: OnceLock<Vec<(usize, String)>> = OnceLock::new();
    let hashes = HASHES.get_or_init(|| {
        V3.iter()
            .map(|(_, document)| *document)
            .chain([V2_JSON, V2_PROTOBUF])
            .map(|document| (document.as_ptr() as usize, hex::encode_upper(Sha256::digest(document))))
            .collect()
    });
    hashes.iter().find(|(at, _)| *at == document.as_ptr() as usize).map_or("", |(_, hash)| hash.as_str())
}

/// OA-1.
fn compressed(document: Bytes, hash: &str, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    let known = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let gzip = headers
        .get(ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|accept| accept.split(',').any(|coding| coding.split(';').next().unwrap_or("").trim() == "gzip"));
    let mut response = Response::new(match (known, gzip) {
        (true, _) => body::empty(),
        (false, true) => body::full(document),
        (false, false) => decompressing(document),
    });
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    if gzip && !known {
        out.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(ETAG, tag);
    }
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response
}

fn decompressing(document: Bytes) -> Body {
    // Several streams one after the other are one document.
    body::stream(futures::stream::unfold(
        Some(MultiGzDecoder::new(std::io::Cursor::new(document))),
        |decoder| async move {
            let mut decoder = decoder?;
            let mut chunk = vec![0; CHUNK];
            match decoder.read(&mut chunk) {
                Ok(0) => None,
                Ok(read) => {
                    chunk.truncate(read);
                    Some((Ok(Bytes::from(chunk)), Some(decoder)))
                }
                Err(error) => Some((Err(Box::new(error) as BoxError), None)),
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn plain_clients_get_the_same_document() {
        for (_, document) in V3 {
            let plain = compressed(Bytes::from_static(document), hash(document), JSON, &HeaderMap::new());
            let bytes = plain.into_body().collect().await.expect("streams").to_bytes();
            let value: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(value["openapi"], "3.0.0");
        }
        let zipped = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("br, gzip;q=1.0"))]);
        let response = compressed(Bytes::from_static(V2_JSON), hash(V2_JSON), JSON, &zipped);
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(response.into_body().collect().await.expect("bytes").to_bytes(), V2_JSON);
    }

    #[test]
    fn a_known_document_is_not_sent_again() {
        let tag = format!("\"{}\"", hash(V2_JSON));
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(&tag).expect("header"))]);
        assert_eq!(version_2(None, &headers).status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn the_protobuf_form_is_what_kubectl_1_27_asks_for() {
        let old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(old))]);
        assert_eq!(version_2(None, &headers).headers()[CONTENT_TYPE], PROTOBUF);
        // openapi_v2.Document begins with field 1, the string "2.0".
        let mut head = [0; 5];
        MultiGzDecoder::new(V2_PROTOBUF).read_exact(&mut head).expect("decompresses");
        assert_eq!(&head, b"\x0a\x032.0");
    }
}
