//! What representation the client wants: media type, and a transformation (Table, PartialObjectMetadata).

use apimachinery::protobuf;
use apimachinery::status::Status;
use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};

use super::errors;
use crate::attributes::Query;

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = protobuf::MEDIA_TYPE;

/// What every object can be shown as, in upstream's order.
pub const OBJECT_TYPES: &[&str] = &[JSON, YAML, PROTOBUF];
const LIST_TYPES: &[&str] = &[JSON, YAML, PROTOBUF, "application/json;stream=watch", protobuf::WATCH_MEDIA_TYPE];
const WATCH_TYPES: &[&str] = &["application/json;stream=watch", protobuf::WATCH_MEDIA_TYPE];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }

    /// The content type of a watch.
    pub fn watch_type(self) -> &'static str {
        match self {
            Self::Protobuf => protobuf::WATCH_MEDIA_TYPE,
            _ => JSON,
        }
    }
}

/// Another form of the object than its own, in this version of meta.k8s.io.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    pub target: Target,
    /// `v1` or `v1beta1`.
    pub version: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Table,
    PartialObjectMetadata,
    PartialObjectMetadataList,
}

/// The outcome of negotiation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub format: Format,
    pub transform: Option<Transform>,
    pub pretty: bool,
}

impl Accepted {
    pub const JSON: Self = Self { format: Format::Json, transform: None, pretty: false };
}

/// Which transformations an endpoint offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Only the object itself (Status, Scale and other bodies that are no stored object).
    Plain,
    /// Objects and lists of a kind.
    Resource,
    /// Objects and lists of a custom resource: protobuf has only their metadata.
    Custom,
}

/// The check that comes with the route, before the request is looked at: some media type of the header is produced.
///
/// # Errors
/// 406 with the list of representations.
pub fn check_route(headers: &HeaderMap, list: bool) -> Result<(), Status> {
    let Some(header) = accept(headers) else { return Ok(()) };
    let produced = if list { LIST_TYPES } else { OBJECT_TYPES };
    let fits = header.split(',').any(|clause| {
        let media = clause.split(';').next().unwrap_or("").trim();
        media == "*/*" || produced.contains(&media)
    });
    if fits {
        return Ok(());
    }
    let text = format!("406: Not Acceptable\n\nAvailable representations: {}", produced.join(", "));
    Err(errors::route(406, "NotAcceptable", &text))
}

/// Picks the representation of an object.
///
/// # Errors
/// 406 when there is none that the client accepts.
pub fn negotiate(headers: &HeaderMap, query: &Query, endpoint: Endpoint) -> Result<Accepted, Status> {
    pick(headers, query, endpoint, &[Format::Json, Format::Yaml, Format::Protobuf])
        .ok_or_else(|| Status::not_acceptable(OBJECT_TYPES))
}

/// Picks the representation of watch events.
///
/// # Errors
/// 406 when there is none that the client accepts.
pub fn negotiate_watch(headers: &HeaderMap, query: &Query, endpoint: Endpoint) -> Result<Accepted, Status> {
    pick(headers, query, endpoint, &[Format::Json, Format::Protobuf]).ok_or_else(|| Status::not_acceptable(WATCH_TYPES))
}

fn pick(headers: &HeaderMap, query: &Query, endpoint: Endpoint, offers: &[Format]) -> Option<Accepted> {
    let pretty = wants_pretty(headers, query);
    let Some(header) = accept(headers) else {
        return Some(Accepted { format: Format::Json, transform: None, pretty });
    };
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).collect();
    // Stable: clauses of one rank keep the client's order.
    clauses.sort_by(|a, b| b.rank().total_cmp(&a.rank()));
    clauses.iter().find_map(|clause| {
        let format = offers.iter().find(|format| clause.covers(format.content_type()))?;
        let transform = clause.transform(endpoint)?;
        let shown = match &transform {
            None => *format != Format::Protobuf || endpoint != Endpoint::Custom,
            Some(transform) => *format != Format::Protobuf || transform.target != Target::Table,
        };
        if !shown {
            return None;
        }
        let pretty = clause.params.iter().find(|(k, _)| *k == "pretty").map_or(pretty, |(_, v)| *v == "1");
        Some(Accepted { format: *format, transform, pretty })
    })
}

fn accept(headers: &HeaderMap) -> Option<&str> {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty())
}

/// `?pretty=` decides; without it, tools that people look at get indented JSON.
fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(value) = query.get("pretty") {
        return !matches!(value, "0" | "false" | "False" | "FALSE" | "f" | "F");
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|tool| agent.starts_with(tool))
}

struct Clause<'a> {
    media: &'a str,
    sub: &'a str,
    q: f64,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (media, sub) = match parts.next()?.split_once('/') {
            Some((media, sub)) => (media.trim(), sub.trim()),
            None => return None,
        };
        let mut clause = Self { media, sub, q: 1.0, params: Vec::new() };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key.trim() {
                "q" => clause.q = value.trim().parse().unwrap_or(1.0),
                key => clause.params.push((key, value.trim().trim_matches('"'))),
            }
        }
        Some(clause)
    }

    /// By quality, then by how specific the type is.
    fn rank(&self) -> f64 {
        let specific = match (self.media, self.sub) {
            ("*", _) => 0.0,
            (_, "*") => 1.0,
            _ => 2.0,
        };
        self.q * 10.0 + specific
    }

    fn covers(&self, offer: &str) -> bool {
        let (media, sub) = offer.split_once('/').unwrap_or((offer, ""));
        (self.media == "*" || self.media == media) && (self.sub == "*" || self.sub == sub)
    }

    /// `None`: this clause asks for what the endpoint does not offer.
    fn transform(&self, endpoint: Endpoint) -> Option<Option<Transform>> {
        let param = |name: &str| self.params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
        if param("stream").is_some_and(|v| !v.is_empty() && v != "watch") || param("sv").is_some_and(|v| !v.is_empty())
        {
            return None;
        }
        let (kind, group, version) = (param("as"), param("g"), param("v"));
        if kind.is_none() && group.is_none() && version.is_none() {
            return Some(None);
        }
        if endpoint == Endpoint::Plain || group != Some("meta.k8s.io") {
            return None;
        }
        let version = match version {
            Some("v1") => "v1",
            Some("v1beta1") => "v1beta1",
            _ => return None,
        };
        let target = match kind {
            Some("Table") => Target::Table,
            Some("PartialObjectMetadata") => Target::PartialObjectMetadata,
            Some("PartialObjectMetadataList") => Target::PartialObjectMetadataList,
            _ => return None,
        };
        Some(Some(Transform { target, version }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))])
    }

    fn choose(accept: &'static str) -> Option<Accepted> {
        negotiate(&headers(accept), &Query::default(), Endpoint::Resource).ok()
    }

    #[test]
    fn kubectl_gets_a_table_or_the_object() {
        let header = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let table = Transform { target: Target::Table, version: "v1" };
        assert_eq!(choose(header).expect("accepted").transform, Some(table));
        assert_eq!(negotiate(&headers(header), &Query::default(), Endpoint::Plain), Ok(Accepted::JSON));
    }

    #[test]
    fn quality_and_wildcards() {
        assert_eq!(choose("application/json;q=0.5, application/yaml").expect("accepted").format, Format::Yaml);
        assert_eq!(choose("*/*").expect("accepted").format, Format::Json);
        let both = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(choose(both).expect("accepted").format, Format::Protobuf);
        let custom = |accept| negotiate(&headers(accept), &Query::default(), Endpoint::Custom);
        assert_eq!(custom(both).expect("accepted").format, Format::Json);
        assert!(custom(PROTOBUF).is_err());
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(custom(partial).expect("accepted").format, Format::Protobuf);
        assert_eq!(choose("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1"), None);
        assert_eq!(
            choose("application/vnd.kubernetes.protobuf;q=0.8,application/json").expect("accepted").format,
            Format::Json
        );
        assert_eq!(choose("application/json;as=Foo;g=meta.k8s.io;v=v1"), None);
        assert_eq!(choose("application/json;v=v9"), None);
        assert!(check_route(&headers("text/html"), false).is_err());
        assert!(check_route(&headers("text/html, */*;q=0.1"), false).is_ok());
    }
}
