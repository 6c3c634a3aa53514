//! The generic registry: what every resource does with every verb.
//!
//! Invariants:
//! - RG-1: a write is one guarded transaction on the key's revision; what it was decided on is what it replaces.
//! - RG-2: a write that changes nothing writes nothing: the resourceVersion stays and no event is sent.
//! - RG-3: the order of a write is upstream's: decode, default, managed fields, mutating admission, strategy,
//!   validation, validating admission, store.

mod admit;
mod codec;
mod collection;
mod componentstatus;
mod conversion;
mod create;
mod delete;
mod get;
mod list;
mod meta;
mod options;
mod output;
mod patch;
mod storage;
mod subresources;
mod tables;
mod unstructured;
mod update;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ::http::{HeaderMap, Method, Response};
use api::{Kind, RequestContext, Subresource};
use apimachinery::gvk::{GroupKind, GroupResource, GroupVersionKind};
use apimachinery::status::Status;
use bytes::Bytes;
use futures::FutureExt as _;

use crate::cache::ResourceCache;
use crate::notes::RequestNotes;
use crate::wire::negotiate::{self, Accepted, Endpoint};
use crate::wire::{body, errors, respond};
use crate::{Body, RequestInfo, Server, User};

pub(crate) use codec::{body_kind, complete};
pub(crate) use meta::timestamp;
pub use storage::{Current, Written};

/// What a request that is not long-running may take to arrive (upstream's `--request-timeout`).
const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// One request on a resource.
pub(crate) struct Cx {
    pub server: Arc<Server>,
    pub info: RequestInfo,
    pub user: User,
    pub headers: HeaderMap,
    pub kind: Arc<Kind>,
    /// Where the objects live.
    pub resource: Arc<ResourceCache>,
    pub accepted: Accepted,
    pub notes: RequestNotes,
    pub converted: conversion::Converted,
}

impl Cx {
    pub fn now(&self) -> jiff::Timestamp {
        self.server.clock.now()
    }

    pub fn strategy_cx(&self) -> RequestContext {
        let identity = || {
            let User { uid, groups, extra, .. } = self.user.clone();
            Box::new(api::Identity { uid, groups, extra })
        };
        RequestContext {
            now: self.now(),
            user: self.user.name.clone(),
            subresource: self.info.subresource.clone(),
            identity: self.kind.strategy.wants_identity().then(identity),
        }
    }

    pub fn warn(&self, text: impl Into<String>) {
        self.notes.warn(text);
    }

    /// The custom side of the kind; `None` for built-in ones.
    pub fn custom(&self) -> Option<&crate::apiextensions::CustomResource> {
        crate::apiextensions::of(&self.kind)
    }

    /// The group messages name.
    pub fn group(&self) -> &str {
        self.kind.strategy.internal_group().unwrap_or(self.kind.group.as_ref())
    }

    /// `deployments.apps`
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group(), self.kind.plural.as_ref())
    }

    /// `Deployment.apps`
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(self.group(), self.kind.kind.as_ref())
    }

    /// The key of an object in the request's namespace.
    pub fn key(&self, name: &str) -> Bytes {
        let namespace = if self.kind.namespaced() { self.info.namespace.as_str() } else { "" };
        crate::cache::object_key(&self.resource.prefix, namespace, name).into()
    }

    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.group_resource(), name)
    }

    pub fn user_agent(&self) -> &str {
        self.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    pub fn content_type(&self) -> &str {
        self.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// Serves a request on a resource path of which the kind is known and the caller is allowed.
pub(crate) async fn handle(
    server: &Arc<Server>,
    kind: Arc<Kind>,
    info: RequestInfo,
    user: User,
    method: &Method,
    headers: HeaderMap,
    request: Body,
) -> Response<Body> {
    let custom = crate::apiextensions::of(&kind).is_some();
    if custom && let Err(refusal) = crate::apiextensions::route::check(&kind, &info, method, &headers) {
        let accepted = negotiate::negotiate(&headers, &info.query, Endpoint::Plain).unwrap_or(Accepted::JSON);
        return refusal.respond(|status| respond::status(status, &accepted, &headers));
    }
    let resource = server.cache.resource(&kind.storage_key);
    let route = |kind: &Kind, info: &RequestInfo, method: &Method, headers: &HeaderMap| {
        if custom { Ok(()) } else { route(kind, info, method, headers) }
    };
    let (Some(resource), Ok(())) = (resource, route(&kind, &info, method, &headers)) else {
        let status = route(&kind, &info, method, &headers).err().unwrap_or_else(Status::path_not_found);
        return respond::status(&status, &Accepted::JSON, &headers);
    };
    let accepted = match representation(&kind, &info, &headers) {
        Ok(accepted) => accepted,
        Err(status) => {
            // The refusal itself is shown in what the client reads, if that can be known.
            let plain = negotiate::negotiate(&headers, &info.query, Endpoint::Plain).unwrap_or(Accepted::JSON);
            return respond::status(&status, &plain, &headers);
        }
    };
    let cx = Cx {
        server: server.clone(),
        info,
        user,
        headers,
        kind,
        resource,
        accepted,
        notes: RequestNotes::default(),
        converted: Default::default(),
    };
    if let Some(warning) = cx.kind.strategy.deprecation() {
        cx.warn(warning);
    }
    let outcome = verbs(&cx, request).await;
    let mut response = outcome.unwrap_or_else(|status| respond::status(&status, &cx.accepted, &cx.headers));
    cx.notes.attach(&mut response);
    response
}

/// The router's part: is there a route of this method, media type and representation?
fn route(kind: &Kind, info: &RequestInfo, method: &Method, headers: &HeaderMap) -> Result<(), Status> {
    let legacy_watch = info.path.split('/').nth(if info.prefix == "api" { 3 } else { 4 }) == Some("watch");
    let in_namespace = !info.namespace.is_empty() && kind.plural != "namespaces";
    if in_namespace && !kind.namespaced() {
        return Err(Status::path_not_found());
    }
    if info.parts.len() > 3 || info.parts.iter().any(String::is_empty) {
        return Err(Status::path_not_found());
    }
    let named = info.parts.len() >= 2;
    if !info.subresource.is_empty() {
        let sub = find_subresource(kind, &info.subresource).ok_or_else(Status::path_not_found)?;
        if kind.namespaced() && !in_namespace {
            return Err(Status::path_not_found());
        }
        let verb = if *method == Method::POST { "create" } else { verb_of(method, true, false) };
        return check(sub.verbs.contains(&verb), method, headers, false);
    }
    if named && kind.namespaced() && !in_namespace && !legacy_watch {
        return Err(Status::path_not_found());
    }
    let mut verb = verb_of(method, named, info.verb == "watch");
    if legacy_watch {
        verb = if *method == Method::GET { "watch" } else { "" };
    }
    // Objects of a namespace are created and deleted inside one only; lists may span all.
    let spanning = kind.namespaced() && !in_namespace;
    let served = kind.verbs.contains(&verb) && !(spanning && matches!(verb, "create" | "deletecollection"));
    check(served, method, headers, !named)
}

fn check(served: bool, method: &Method, headers: &HeaderMap, list: bool) -> Result<(), Status> {
    if !served {
        return Err(Status::method_not_allowed());
    }
    if *method == Method::PATCH && patch::PatchType::of(headers).is_none() {
        return Err(errors::route_unsupported());
    }
    negotiate::check_route(headers, list && *method == Method::GET)
}

fn verb_of(method: &Method, named: bool, watch: bool) -> &'static str {
    match (method.as_str(), named) {
        ("GET", true) => "get",
        ("GET", false) if watch => "watch",
        ("GET", false) => "list",
        ("POST", false) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "",
    }
}

pub(crate) fn find_subresource<'a>(kind: &'a Kind, name: &str) -> Option<&'a Subresource> {
    kind.subresources.iter().find(|sub| sub.name == name)
}

fn representation(kind: &Kind, info: &RequestInfo, headers: &HeaderMap) -> Result<Accepted, Status> {
    let gvk = GroupVersionKind::new(kind.group.as_ref(), kind.version.as_ref(), kind.kind.as_ref());
    let own = if apimachinery::protobuf::has_form(&gvk) { Endpoint::Resource } else { Endpoint::Custom };
    if info.verb == "watch" {
        return negotiate::negotiate_watch(headers, &info.query, own);
    }
    let other_body = find_subresource(kind, &info.subresource).is_some_and(|sub| sub.kind != kind.kind);
    // Scales have a printer; the other bodies are only ever answers.
    let other_body = other_body && info.subresource != "scale";
    let endpoint = if other_body { Endpoint::Plain } else { own };
    negotiate::negotiate(headers, &info.query, endpoint)
}

/// The request's body. A client that sends it too slowly must not hold its seat.
async fn sent(cx: &Cx, request: Body) -> Result<Bytes, Status> {
    tokio::select! {
        biased;
        read = body::read(request, cx.server.config.max_request_bytes) => read,
        () = cx.server.clock.sleep(REQUEST_TIMEOUT) => {
            Err(Status::timeout("request did not complete within the allotted timeout", 0))
        }
    }
}

async fn verbs(cx: &Cx, request: Body) -> Result<Response<Body>, Status> {
    if !cx.info.subresource.is_empty() {
        let content = sent(cx, request).await?;
        return subresources::handle(cx, content).boxed().await;
    }
    if cx.kind.storage_key == componentstatus::RESOURCE {
        return componentstatus::handle(cx).boxed().await;
    }
    match cx.info.verb.as_str() {
        "get" => get::get(cx).boxed().await,
        "list" => list::list(cx).boxed().await,
        "watch" => watch::watch(cx).boxed().await,
        verb => {
            let content = sent(cx, request).await?;
            match verb {
                "create" if cx.kind.plural == "bindings" => subresources::binding::bind(cx, "", &content).boxed().await,
                "create" if crate::reviews::is_review(&cx.kind.group, &cx.kind.plural) => {
                    subresources::review(cx, &content).boxed().await
                }
                "create" => create::create(cx, content).boxed().await,
                "update" => update::update(cx, content).boxed().await,
                "patch" => patch::patch(cx, content).boxed().await,
                "delete" => delete::delete(cx, content).boxed().await,
                "deletecollection" => collection::delete_collection(cx, content).boxed().await,
                _ => Err(Status::method_not_allowed()),
            }
        }
    }
}
