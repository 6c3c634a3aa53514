//! One request's way: who, may they, what, answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::header::HeaderName;
use ::http::{HeaderValue, Request, Response};
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use tracing::error;

use crate::authz::Attributes;
use crate::wire::negotiate::{Accepted, Endpoint, negotiate};
use crate::wire::respond;
use crate::{ApiServer, Body, BoxError, Peer, PeerIdentity, RequestInfo, Server, User};

/// Serves one request. Boxed: the future is large, and connections hold many.
pub(crate) fn handle(server: Arc<Server>, request: Request<Body>, peer: Peer) -> BoxFuture<'static, Response<Body>> {
    async move { guarded(&server, request, peer).await }.boxed()
}

async fn guarded(server: &Arc<Server>, request: Request<Body>, peer: Peer) -> Response<Body> {
    let headers = request.headers().clone();
    let audit = uuid::Uuid::new_v4().to_string();
    let answered = std::panic::AssertUnwindSafe(answer(server, request, peer)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        error!(audit, "request handler panicked");
        respond::status(&Status::internal("the server panicked"), &Accepted::JSON, &headers)
    });
    if let Ok(value) = HeaderValue::from_str(&audit) {
        response.headers_mut().insert(HeaderName::from_static("audit-id"), value);
    }
    response
}

async fn answer(server: &Arc<Server>, request: Request<Body>, peer: Peer) -> Response<Body> {
    let info = RequestInfo::parse(request.method(), request.uri());
    let start = server.clock.instant();
    let _running = server.requests.begin(&info);
    let response = decide(server, request, peer, info.clone()).await;
    let known = !info.is_resource || server.kinds.find(&info.group, &info.version, &info.resource).is_some();
    let seconds = server.clock.instant().duration_since(start).as_secs_f64();
    server.requests.end(&info, known, response.status().as_u16(), seconds);
    response
}

async fn decide(server: &Arc<Server>, request: Request<Body>, peer: Peer, info: RequestInfo) -> Response<Body> {
    // The request's body is not for sharing between threads: only its headers live over the waits.
    let headers = request.headers().clone();
    let user = match identify(server, &headers, &peer, &info).await {
        Ok(user) => user,
        Err(status) => return refuse(&status, &info, &headers),
    };
    // Until the response is made; what streams on afterwards takes no seat.
    let ticket = match server.flow.enter(server, &user, &info).await {
        Ok(ticket) => ticket,
        Err(refused) => return refused,
    };
    let mut response = authorized(server, request, info, user, &headers).await;
    ticket.mark(&mut response);
    response
}

async fn authorized(
    server: &Arc<Server>,
    request: Request<Body>,
    info: RequestInfo,
    user: User,
    headers: &::http::HeaderMap,
) -> Response<Body> {
    let attributes = Attributes::of(&user, &info);
    let decision = server.authorizer.authorize(&attributes).boxed().await;
    if !decision.allowed() {
        let resource = GroupResource::new(info.group.clone(), info.resource.clone());
        let text = attributes.forbidden_text(decision.reason());
        return refuse(&Status::forbidden(&resource, &info.name, text), &info, headers);
    }
    let mut request = request;
    server.authenticator.strip(request.headers_mut());
    route(server, request, info, user).await
}

fn refuse(status: &Status, info: &RequestInfo, headers: &::http::HeaderMap) -> Response<Body> {
    let accepted = negotiate(headers, &info.query, Endpoint::Plain).unwrap_or(Accepted::JSON);
    respond::status(status, &accepted, headers)
}

async fn identify(
    server: &Arc<Server>,
    headers: &::http::HeaderMap,
    peer: &Peer,
    info: &RequestInfo,
) -> Result<User, Status> {
    let user = server.authenticator.authenticate(headers, peer, &info.path).boxed().await?;
    crate::authn::impersonation::impersonate(&server.authorizer, user, headers).boxed().await
}

async fn route(server: &Arc<Server>, request: Request<Body>, info: RequestInfo, user: User) -> Response<Body> {
    if !info.is_resource {
        return crate::nonresource::handle(server, request, info, user).boxed().await;
    }
    let headers = request.headers().clone();
    let Some(kind) = server.kinds.find(&info.group, &info.version, &info.resource) else {
        // Outside the groups it knows, the server is a plain web server.
        if !info.group.is_empty() && !server.kinds.built_in().iter().any(|kind| kind.group == info.group) {
            return respond::text(404, "404 page not found\n");
        }
        return respond::status(&Status::path_not_found(), &Accepted::JSON, &headers);
    };
    // The way of old versions, which is still understood but leads nowhere.
    if info.verb == "proxy" {
        return respond::status(&Status::path_not_found(), &Accepted::JSON, &headers);
    }
    if crate::connect::serves(&info) {
        return crate::connect::handle(server, request, info, user, kind).boxed().await;
    }
    let (parts, body) = request.into_parts();
    crate::registry::handle(server, kind, info, user, &parts.method, headers, body).boxed().await
}

/// The server as a service of this process: no sockets, no TLS.
#[derive(Clone)]
pub struct InProcessService {
    server: ApiServer,
    user: User,
}

impl InProcessService {
    pub(crate) fn new(server: ApiServer, user: User) -> Self {
        Self { server, user }
    }
}

impl<B> tower::Service<Request<B>> for InProcessService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = Peer {
            addr: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            identity: PeerIdentity::InProcess(self.user.clone()),
        };
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        handle(self.server.server.clone(), request, peer).map(Ok).boxed()
    }
}
