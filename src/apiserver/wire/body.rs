//! Reading request bodies and making response bodies.

use apimachinery::status::Status;
use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};

use crate::{Body, BoxError};

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is written as the stream yields.
pub fn stream(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    use futures::StreamExt as _;
    StreamBody::new(chunks.map(|chunk| chunk.map(hyper::body::Frame::data))).boxed_unsync()
}

/// The whole body, if it is not longer than `limit` bytes.
///
/// # Errors
/// 413 when it is longer, 400 when the client stopped sending.
pub async fn read(mut body: Body, limit: usize) -> Result<Bytes, Status> {
    use hyper::body::Body as _;
    let too_large = || Status::request_entity_too_large(format_args!("limit is {limit}"));
    let mut all: Vec<Bytes> = Vec::new();
    let mut length = 0;
    // What says that it is too long is not read at all.
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            length += data.len();
            if length > limit {
                return Err(too_large());
            }
            all.push(data);
        }
    }
    Ok(match all.len() {
        1 => all.swap_remove(0),
        _ => all.concat().into(),
    })
}
