//! LIST: consistent snapshots, pages, selectors.
//!
//! Invariants:
//! - LS-1: every item of a list is as of the list's resourceVersion; every page of a list is of one revision.

use std::sync::Arc;

use ::http::Response;
use apimachinery::goformat::quote;
use apimachinery::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};
use store::{KeyRange, RangeRequest, Revision};

use super::options::{ListOptions, VersionMatch};
use super::output::{ListMeta, go_type, partial_value, write_partial};
use super::{Cx, conversion, get, tables};
use crate::cache::{ObjectReader as _, Snapshot};
use crate::wire::negotiate::{Format, Target};
use crate::wire::{errors, query, respond};
use crate::{Body, Object};

pub async fn list(cx: &Cx) -> Result<Response<Body>, Status> {
    let options = ListOptions::parse(cx, false)?;
    let page = select(cx, &options).await?;
    conversion::prepare(cx, &page.items).await?;
    if cx.accepted.format == Format::Protobuf && cx.accepted.transform.is_none() {
        let content = encode_protobuf(cx, &page);
        return Ok(respond::bytes(200, Format::Protobuf.content_type(), content.into(), &cx.headers));
    }
    let json = encode(cx, &page)?;
    Ok(respond::json(200, json, &cx.accepted, &cx.headers))
}

/// The objects of one page.
pub struct Page {
    pub meta: ListMeta,
    pub items: Vec<Arc<Object>>,
}

/// The prefix of the keys this request is about.
pub fn prefix(cx: &Cx) -> Vec<u8> {
    let mut prefix = cx.resource.prefix.to_vec();
    if cx.kind.namespaced() && !cx.info.namespace.is_empty() {
        prefix.extend_from_slice(cx.info.namespace.as_bytes());
        prefix.push(b'/');
    }
    prefix
}

/// Where a list begins and of which revision it is.
struct From {
    /// `None`: now.
    revision: Option<Revision>,
    /// The first key; empty: the beginning.
    start: Vec<u8>,
    paging: bool,
}

pub async fn select(cx: &Cx, options: &ListOptions) -> Result<Page, Status> {
    let prefix = prefix(cx);
    let from = begin(cx, options, &prefix).await?;
    let limit = match options.resource_version.as_str() {
        // A list at any version is answered whole.
        "0" => 0,
        _ => usize::try_from(options.limit).unwrap_or(0),
    };
    let snapshot = cx.resource.snapshot();
    match from.revision {
        Some(revision) if snapshot.changed > revision => {
            let page = history(cx, options, &prefix, &from, revision).await?;
            Ok(paginate(options, page.iter(), revision, &prefix, limit))
        }
        _ => {
            let revision = from.revision.unwrap_or(snapshot.revision);
            if let Some(page) = single(cx, options, &snapshot, revision) {
                return Ok(page);
            }
            Ok(paginate(options, snapshot.range(&prefix, &from.start), revision, &prefix, limit))
        }
    }
}

/// A list by `metadata.name` reads one key.
fn single(cx: &Cx, options: &ListOptions, snapshot: &Snapshot, revision: Revision) -> Option<Page> {
    let name = options.fields.exact("metadata.name")?;
    if !options.continue_token.is_empty() || (cx.kind.namespaced() && cx.info.namespace.is_empty()) {
        return None;
    }
    let object = snapshot.get(&cx.key(name)).filter(|object| options.matches(object));
    let meta = ListMeta { resource_version: revision.to_string(), ..ListMeta::default() };
    Some(Page { meta, items: object.cloned().into_iter().collect() })
}

async fn begin(cx: &Cx, options: &ListOptions, prefix: &[u8]) -> Result<From, Status> {
    let version = options.resource_version.as_str();
    if !options.continue_token.is_empty() {
        if !matches!(version, "" | "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (revision, start) = decode_token(&options.continue_token, prefix)?;
        if revision <= 0 {
            cx.server.cache.fresh().await;
        } else {
            let future = cx.server.cache.wait_for(revision).await;
            if !future {
                return Err(Status::bad_request("continue key is not valid: it is of a revision not reached yet"));
            }
        }
        return Ok(From { revision: (revision > 0).then_some(revision), start, paging: true });
    }
    let whole = |revision| From { revision, start: Vec::new(), paging: false };
    if version.is_empty() {
        cx.server.cache.fresh().await;
        return Ok(whole(None));
    }
    let wanted = query::parse_uint(version).map_err(|error| {
        let error = format!("resourceVersion: Invalid value: {}: {error}", quote(version));
        Status::bad_request(format!("invalid resource version: {error}"))
    })?;
    if wanted == 0 {
        return Ok(whole(None));
    }
    get::wait_for(cx, wanted).await?;
    let exact = match options.version_match {
        VersionMatch::Exact => true,
        // A limit with a version has always meant that version.
        VersionMatch::Unset => options.limit > 0,
        VersionMatch::NotOlderThan => false,
    };
    Ok(whole(if exact { i64::try_from(wanted).ok() } else { None }))
}

/// The objects as they were, from the store.
async fn history(
    cx: &Cx,
    options: &ListOptions,
    prefix: &[u8],
    from: &From,
    revision: Revision,
) -> Result<Vec<Arc<Object>>, Status> {
    let mut range = KeyRange::prefix(Bytes::copy_from_slice(prefix));
    if !from.start.is_empty() {
        range.start = Bytes::copy_from_slice(&from.start);
    }
    let answer = cx.server.store.range(RangeRequest::of(range).at(revision)).await;
    let answer = answer.map_err(|error| match error {
        store::Error::Compacted { .. } if from.paging => continue_expired(options, prefix, &from.start),
        error => errors::store(&error),
    })?;
    Ok(answer.kvs.iter().filter_map(|kv| cx.resource.object(kv)).map(Arc::new).collect())
}

fn paginate<'a>(
    options: &ListOptions,
    objects: impl Iterator<Item = &'a Arc<Object>>,
    revision: Revision,
    prefix: &[u8],
    limit: usize,
) -> Page {
    let all = options.selects_all();
    let mut items = Vec::new();
    let mut meta = ListMeta { resource_version: revision.to_string(), ..ListMeta::default() };
    let mut objects = objects.peekable();
    while let Some(object) = objects.next() {
        if !all && !options.matches(object) {
            continue;
        }
        items.push(object.clone());
        if limit > 0 && items.len() == limit {
            if objects.peek().is_some() {
                meta.continue_token = encode_token(revision, &object.key, prefix);
                meta.remaining = all.then(|| objects.count() as i64);
            }
            break;
        }
    }
    Page { meta, items }
}

/// `{"v":"meta.k8s.io/v1","rv":…,"start":…}`; start is the key after the last one, below the prefix.
fn encode_token(revision: Revision, last: &[u8], prefix: &[u8]) -> String {
    let mut start = String::from_utf8_lossy(&last[prefix.len()..]).into_owned();
    start.push('\0');
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn decode_token(token: &str, prefix: &[u8]) -> Result<(Revision, Vec<u8>), Status> {
    let invalid = |detail: &str| Status::bad_request(format!("continue key is not valid: {detail}"));
    let decoded = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|error| invalid(&format!("illegal base64 data at input byte {}", error_offset(&error))))?;
    let token: Value = serde_json::from_slice(&decoded).map_err(|_| invalid("invalid character in continue token"))?;
    match token["v"].as_str() {
        Some("meta.k8s.io/v1") => {}
        version => {
            let version = quote(version.unwrap_or(""));
            return Err(invalid(&format!("server does not recognize this encoded version {version}")));
        }
    }
    let revision = token["rv"].as_i64().unwrap_or(0);
    if revision == 0 {
        return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    let start = token["start"].as_str().unwrap_or("");
    if start.is_empty() {
        return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
    }
    if start.split('/').any(|segment| segment == "..") {
        return Err(invalid(&start.replace('\0', "")));
    }
    Ok((revision, [prefix, start.as_bytes()].concat()))
}

fn error_offset(error: &base64::DecodeError) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(length) => *length,
        base64::DecodeError::InvalidPadding => 0,
    }
}

/// The history behind a token is gone; the answer has a token with which the list goes on at the newest state.
fn continue_expired(options: &ListOptions, prefix: &[u8], start: &[u8]) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let last = start.strip_suffix(b"\0").unwrap_or(start);
    status.metadata.insert("continue".into(), json!(encode_token(-1, last, prefix)));
    debug_assert!(!options.continue_token.is_empty());
    status
}

pub fn encode(cx: &Cx, page: &Page) -> Result<Bytes, Status> {
    let mut out = Vec::with_capacity(256 + page.items.iter().map(|object| object.len() + 64).sum::<usize>());
    let items = |out: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>, &Object)| {
        out.extend_from_slice(b",\"items\":[");
        for (at, object) in page.items.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write(out, object);
        }
        out.extend_from_slice(b"]}");
    };
    let head = |out: &mut Vec<u8>, kind: &str, api_version: &str| {
        out.extend_from_slice(
            format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":").as_bytes(),
        );
        page.meta.write(out);
    };
    match &cx.accepted.transform {
        None => {
            if let Some(custom) = cx.custom() {
                return Ok(encode_custom(cx, page, custom));
            }
            head(&mut out, &format!("{}List", cx.kind.kind), &cx.kind.api_version());
            if conversion::same_version(cx) {
                items(&mut out, &|out, object| object.write_item(out));
            } else {
                items(&mut out, &|out, object| out.extend_from_slice(&item_value(cx, object)));
            }
            Ok(out.into())
        }
        Some(transform) => match transform.target {
            Target::Table => {
                let values: Vec<Value> = page.items.iter().map(|object| cx.served_value(object)).collect();
                tables::table(cx, transform.version, &page.meta, &values, true)
            }
            Target::PartialObjectMetadataList => {
                head(&mut out, "PartialObjectMetadataList", &format!("meta.k8s.io/{}", transform.version));
                if cx.kind.strategy.version_annotation().is_none() {
                    items(&mut out, &|out, object| write_partial(out, transform.version, object));
                } else {
                    let partial = |object: &_| partial_value(&cx.kind, transform.version, &cx.served_value(object));
                    items(&mut out, &|out, object| out.extend_from_slice(&respond::encode(&partial(object))));
                }
                Ok(out.into())
            }
            Target::PartialObjectMetadata => Err(Status::not_acceptable_message(format!(
                "you requested PartialObjectMetadata, but the requested object is a list ({})",
                go_type(cx, "List")
            ))),
        },
    }
}

/// Items of custom resources say what they are.
fn encode_custom(cx: &Cx, page: &Page, custom: &crate::apiextensions::CustomResource) -> Bytes {
    let mut out = Vec::with_capacity(256 + page.items.iter().map(|object| object.len() + 64).sum::<usize>());
    let head = format!(
        "{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":",
        cx.kind.api_version(),
        custom.definition.list_kind
    );
    out.extend_from_slice(head.as_bytes());
    ListMeta { always_continue: true, ..page.meta.clone() }.write(&mut out);
    out.extend_from_slice(b",\"items\":[");
    let same = conversion::same_version(cx);
    for (at, object) in page.items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        if same {
            object.write_json(&mut out);
        } else {
            out.extend_from_slice(&cx.served_json(object));
        }
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// One object at a time: a list's values together would be many times its bytes.
fn encode_protobuf(cx: &Cx, page: &Page) -> Vec<u8> {
    let mut meta = Vec::new();
    page.meta.write(&mut meta);
    let meta = serde_json::from_slice(&meta).unwrap_or_default();
    let items = page.items.iter().map(|object| cx.served_value(object));
    apimachinery::protobuf::encode_list(&cx.kind.schema, &cx.kind.api_version(), &cx.kind.kind, &meta, items)
}

/// An item of a list in another version than the stored one, without its type.
fn item_value(cx: &Cx, object: &Object) -> Vec<u8> {
    let mut value = cx.served_value(object);
    if let Some(object) = value.as_object_mut() {
        object.remove("kind");
        object.remove("apiVersion");
    }
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        let token = encode_token(7, b"/registry/pods/ns/a", b"/registry/pods/");
        let (revision, start) = decode_token(&token, b"/registry/pods/").expect("token");
        assert_eq!((revision, start.as_slice()), (7, b"/registry/pods/ns/a\0".as_slice()));
        for bad in ["abc!", "e30", &URL_SAFE_NO_PAD.encode("x")] {
            assert_eq!(decode_token(bad, b"/p/").expect_err("bad").code, 400, "{bad}");
        }
    }
}
