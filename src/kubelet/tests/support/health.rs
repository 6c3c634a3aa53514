//! A gRPC health server: `grpc.health.v1.Health/Check` over plain HTTP/2.

use std::convert::Infallible;

use bytes::Bytes;
use component_base::TaskGroup;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// Serves until `tasks` ends; the port. Services: "" serves, "sick" does not, others are not known.
pub async fn serve(tasks: &TaskGroup) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let group = tasks.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            group.spawn(async move {
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // A client that goes away is its own business.
                let _ = http2.serve_connection(TokioIo::new(stream), service_fn(check)).await;
            });
        }
    });
    port
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn check(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let agent = request.headers().get("user-agent").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let known = request.uri().path() == "/grpc.health.v1.Health/Check" && agent.starts_with("kube-probe/1.36");
    let asked = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    // Five bytes of framing, then field 1 when it is not empty: a tag, a length, the text.
    let service = asked.get(7..).unwrap_or_default();
    let (status, answer, message) = match service {
        _ if !known => ("12", None, "unknown method"),
        b"" => ("0", Some(1), ""),
        b"sick" => ("0", Some(2), ""),
        _ => ("5", None, "unknown service"),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    let data = answer.map(|serving: u8| Ok(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]))));
    let frames: Vec<_> = data.into_iter().chain([Ok(Frame::trailers(trailers))]).collect();
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
