//! Discovery: `/api`, `/apis` and below, plain and aggregated, made from the registered kinds.
//!
//! Invariants:
//! - DI-1: groups come in upstream's order of priority, then by name; versions the newest first; resources by name.

use std::cmp::Reverse;
use std::sync::Arc;

use ::http::header::{ACCEPT, ETAG, IF_NONE_MATCH, VARY};
use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use api::Kind;
use apimachinery::status::Status;
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::attributes::Query;
use crate::wire::negotiate::{Accepted, Endpoint, check_route, negotiate};
use crate::wire::{body, respond, yaml};
use crate::{Body, Server};

/// Upstream's priority of the built-in groups.
const GROUPS: &[&str] = &[
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];
const OFFERED: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const AGGREGATED_JSON: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_YAML: &str = "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers discovery paths; `None` for others.
pub fn handle(
    server: &Server,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Option<Response<Body>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let refuse = |status: &Status| Some(respond::status(status, &Accepted::JSON, headers));
    let routed = match parts.as_slice() {
        ["api"] | ["api", _] | ["apis", _, _] => true,
        ["apis"] | ["apis", _] => false,
        _ => return None,
    };
    let kinds = server.kinds.all();
    let value = match parts.as_slice() {
        ["api"] | ["apis"] => None,
        ["api", version] => match kinds.iter().any(|k| k.group.is_empty() && k.version == **version) {
            true => Some(resources(server, &kinds, "", version)),
            false => return refuse(&Status::path_not_found()),
        },
        ["apis", group, rest @ ..] => {
            if group.is_empty() || !kinds.iter().any(|k| k.group == **group) {
                return None;
            }
            match rest {
                [version] if kinds.iter().any(|k| k.group == **group && k.version == **version) => {
                    Some(resources(server, &kinds, group, version))
                }
                [_] => return refuse(&Status::path_not_found()),
                _ => Some(with_type("APIGroup", group_value(&kinds, group))),
            }
        }
        _ => return None,
    };
    if routed && *method != Method::GET {
        return refuse(&Status::method_not_allowed());
    }
    if routed && let Err(status) = check_route(headers, false) {
        return refuse(&status);
    }
    let Some(value) = value else { return Some(root(server, &kinds, parts[0], headers, query)) };
    Some(match negotiate(headers, query, Endpoint::Plain) {
        Ok(accepted) => respond::value(200, &value, &accepted, headers),
        Err(status) => respond::status(&status, &Accepted::JSON, headers),
    })
}

enum Form {
    Plain,
    AggregatedJson,
    AggregatedYaml,
}

fn root(server: &Server, kinds: &[Arc<Kind>], which: &str, headers: &HeaderMap, query: &Query) -> Response<Body> {
    let Some(form) = form(headers) else {
        return respond::status(&Status::not_acceptable(OFFERED), &Accepted::JSON, headers);
    };
    let aggregated = match form {
        Form::Plain => {
            let value = match which {
                "api" => json!({
                    "kind": "APIVersions",
                    "versions": versions_of(kinds, ""),
                    "serverAddressByClientCIDRs": [{
                        "clientCIDR": "0.0.0.0/0",
                        "serverAddress":
                            std::net::SocketAddr::new(server.config.advertise_address, server.config.port).to_string(),
                    }],
                }),
                _ => {
                    let groups: Vec<Value> = groups_of(kinds).iter().map(|g| group_value(kinds, g)).collect();
                    with_type("APIGroupList", json!({"groups": groups}))
                }
            };
            let accepted = negotiate(headers, query, Endpoint::Plain).unwrap_or(Accepted::JSON);
            let mut response = respond::value(200, &value, &accepted, headers);
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            return response;
        }
        Form::AggregatedJson => false,
        Form::AggregatedYaml => true,
    };
    let groups = if which == "api" { vec![String::new()] } else { groups_of(kinds) };
    let items: Vec<Value> = groups.iter().map(|group| aggregated_group(kinds, group)).collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    let text = respond::encode(&list);
    let tag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&text)));
    let mut response = if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if aggregated {
        respond::bytes(200, AGGREGATED_YAML, Bytes::from(yaml::from_json(&text)), headers)
    } else {
        respond::bytes(200, AGGREGATED_JSON, text, headers)
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

/// The first form in the Accept header that is offered.
fn form(headers: &HeaderMap) -> Option<Form> {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    accept.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let yaml = match parts.next()? {
            "application/json" | "application/*" | "*/*" | "" => false,
            "application/yaml" => true,
            // Plain protobuf clients read JSON just as well.
            "application/vnd.kubernetes.protobuf" => false,
            _ => return None,
        };
        let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let param = |name: &str| params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
        match (param("g"), param("v"), param("as")) {
            (None, None, None) => Some(Form::Plain),
            (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList"))
                if !clause.contains("protobuf") =>
            {
                Some(if yaml { Form::AggregatedYaml } else { Form::AggregatedJson })
            }
            _ => None,
        }
    })
}

fn with_type(kind: &str, mut value: Value) -> Value {
    value["kind"] = kind.into();
    value["apiVersion"] = "v1".into();
    value
}

fn groups_of(kinds: &[Arc<Kind>]) -> Vec<String> {
    let mut groups: Vec<String> = kinds.iter().map(|k| k.group.to_string()).filter(|group| !group.is_empty()).collect();
    groups.sort_by_cached_key(|group| {
        (GROUPS.iter().position(|known| known == group).unwrap_or(GROUPS.len()), group.clone())
    });
    groups.dedup();
    groups
}

fn versions_of(kinds: &[Arc<Kind>], group: &str) -> Vec<String> {
    let mut versions: Vec<String> = kinds.iter().filter(|k| k.group == group).map(|k| k.version.to_string()).collect();
    versions.sort_by_cached_key(|version| Reverse(rank(version)));
    versions.dedup();
    versions
}

/// Kubernetes' order of versions: v2 > v1 > v1beta2 > v1alpha1 > anything else.
fn rank(version: &str) -> (u8, u32, u32, Reverse<String>) {
    let other = (0, 0, 0, Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..end].parse::<u32>() else { return other };
    let (stage, minor) = match &rest[end..] {
        "" => return (3, major, 0, Reverse(String::new())),
        stage => match (stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
            (Some(minor), _) => (2, minor),
            (_, Some(minor)) => (1, minor),
            _ => return other,
        },
    };
    match minor.parse::<u32>() {
        Ok(minor) => (stage, major, minor, Reverse(String::new())),
        Err(_) => other,
    }
}

fn group_value(kinds: &[Arc<Kind>], group: &str) -> Value {
    let versions: Vec<Value> = versions_of(kinds, group)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first().cloned(), "versions": versions})
}

fn members<'a>(kinds: &'a [Arc<Kind>], group: &str, version: &str) -> Vec<&'a Arc<Kind>> {
    let mut found: Vec<&Arc<Kind>> = kinds.iter().filter(|k| k.group == group && k.version == version).collect();
    found.sort_by(|a, b| a.plural.cmp(&b.plural));
    found
}

fn resources(server: &Server, kinds: &[Arc<Kind>], group: &str, version: &str) -> Value {
    let mut rows: Vec<Value> = Vec::new();
    for kind in members(kinds, group, version) {
        let mut row = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced(),
            "kind": kind.kind,
            "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            row["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            row["categories"] = json!(kind.categories);
        }
        // What is computed has no stored form.
        if kind.verbs.contains(&"watch") {
            row["storageVersionHash"] = storage_hash(server, kind).into();
        }
        rows.push(row);
        for sub in kind.subresources.iter() {
            let mut row = json!({
                "name": format!("{}/{}", kind.plural, sub.name),
                "singularName": "",
                "namespaced": kind.namespaced(),
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if (sub.group.as_ref(), sub.version.as_ref()) != (kind.group.as_ref(), kind.version.as_ref()) {
                row["group"] = json!(sub.group);
                row["version"] = json!(sub.version);
            }
            rows.push(row);
        }
    }
    // Custom resources keep the order of their definitions' names, with status before scale.
    if !members(kinds, group, version).iter().any(|kind| crate::apiextensions::of(kind).is_some()) {
        rows.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut value = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": rows});
    if !group.is_empty() {
        value["apiVersion"] = "v1".into();
    }
    value
}

/// Upstream's: the first 8 bytes of SHA-256 of `group/version/kind` of what is stored, base64.
fn storage_hash(server: &Server, kind: &Kind) -> String {
    let stored = server.kinds.storage_kind(&kind.storage_key);
    let kind = stored.as_deref().unwrap_or(kind);
    let version = match crate::apiextensions::of(kind) {
        Some(custom) => &custom.definition.storage().name,
        // upstream's hash of definitions is still that of the version in which they were stored first
        None if kind.storage_key == crate::apiextensions::KEY => "v1beta1",
        None => kind.version.as_ref(),
    };
    let digest = Sha256::digest(format!("{}/{version}/{}", kind.group, kind.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

fn aggregated_group(kinds: &[Arc<Kind>], group: &str) -> Value {
    let versions: Vec<Value> = versions_of(kinds, group)
        .into_iter()
        .map(|version| {
            let rows: Vec<Value> = members(kinds, group, &version).into_iter().map(|k| aggregated_row(k)).collect();
            json!({"version": version, "resources": rows, "freshness": "Current"})
        })
        .collect();
    let mut metadata = Map::new();
    if !group.is_empty() {
        metadata.insert("name".into(), group.into());
    }
    json!({"metadata": metadata, "versions": versions})
}

/// Built-in kinds leave out what the group says already.
fn response_kind(kind: &Kind) -> Value {
    match crate::apiextensions::of(kind) {
        Some(_) => json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
        None => json!({"group": "", "version": "", "kind": kind.kind}),
    }
}

fn aggregated_row(kind: &Kind) -> Value {
    let mut row = json!({
        "resource": kind.plural,
        "responseKind": response_kind(kind),
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        row["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        row["categories"] = json!(kind.categories);
    }
    let mut subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            let foreign = (sub.group.as_ref(), sub.version.as_ref()) != (kind.group.as_ref(), kind.version.as_ref());
            let response = match foreign {
                true => json!({"group": sub.group, "version": sub.version, "kind": sub.kind}),
                false => {
                    let mut response = response_kind(kind);
                    response["kind"] = json!(sub.kind);
                    response
                }
            };
            json!({
                "subresource": sub.name,
                "responseKind": response,
                "verbs": sub.verbs,
            })
        })
        .collect();
    if crate::apiextensions::of(kind).is_none() {
        subresources.sort_by(|a, b| a["subresource"].as_str().cmp(&b["subresource"].as_str()));
    }
    if !subresources.is_empty() {
        row["subresources"] = subresources.into();
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_the_newest_first() {
        let mut versions = ["v1beta1", "v10", "foo1", "v1", "v2", "v2alpha1", "v1beta2", "bar"];
        versions.sort_by_cached_key(|v| Reverse(rank(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v2alpha1", "bar", "foo1"]);
    }

    #[test]
    fn forms() {
        let of = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            match form(&headers) {
                None => "none",
                Some(Form::Plain) => "plain",
                Some(Form::AggregatedJson) => "json",
                Some(Form::AggregatedYaml) => "yaml",
            }
        };
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(of(kubectl), "json");
        assert_eq!(of("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"), "none");
        assert_eq!(
            of("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"),
            "plain"
        );
        assert_eq!(of("text/html"), "none");
        assert_eq!(of("application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"), "yaml");
    }
}
