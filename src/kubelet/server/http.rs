//! Requests and answers of the kubelet's server: queries, path segments, plain text and JSON.
//!
//! Invariants:
//! - KH-1: bodies are streams: an answer of any size takes bounded memory, and the client's pace is the reader's.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// An answer that is no success: code and text, as upstream's kubelet gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: StatusCode,
    pub text: String,
}

impl Refusal {
    pub fn new(code: StatusCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// No such path.
    pub fn page_not_found() -> Self {
        Self::not_found("404: Page Not Found")
    }

    pub fn into_response(self) -> Response<Body> {
        with_type(self.code, "text/plain; charset=utf-8", self.text)
    }
}

/// The path is there, but not for this method.
pub fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed").into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

pub fn text(content: impl Into<Bytes>) -> Response<Body> {
    with_type(StatusCode::OK, "text/plain; charset=utf-8", content)
}

pub fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(content) => with_type(StatusCode::OK, "application/json", content),
        Err(error) => Refusal::internal(error.to_string()).into_response(),
    }
}

pub fn with_type(code: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(content));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body from pieces; an error breaks the connection, so that the client does not take what it has for the whole.
pub fn streamed<S>(pieces: S) -> Body
where
    S: futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    use futures::StreamExt as _;
    let frames = pieces.map(|piece| piece.map(http_body::Frame::data).map_err(|e| Box::new(e) as BoxError));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// The parameters of a request, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (unescape(&key.replace('+', " ")), unescape(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// The first value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// Percent-decodes; what is not an escape stays as it is.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `text` as Go's `%q` shows it (of the characters that names have).
pub fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse(Some("command=sh&command=-c&command=echo+%26%2b%zz&tty&x=1=2"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo &+%zz"]);
        assert_eq!((query.get("tty"), query.get("x"), query.get("y")), (Some(""), Some("1=2"), None));
        assert_eq!(Query::parse(None), Query::default());
    }
}
