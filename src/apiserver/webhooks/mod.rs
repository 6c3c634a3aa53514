//! Calls of webhooks, admission's and conversion's: where they are, how they are trusted, what their answers mean.
//!
//! Invariants:
//! - WC-1: TLS is always verified: against the CA bundle where there is one, else against the machine's authorities.
//! - WC-2: an answer is read up to [`MOST_BYTES`] and waited for no longer than the caller says.
//! - WC-3: a connection is used again only after the answer before was read to its end.

mod caller;
#[cfg(test)]
pub(crate) mod testing;

pub use caller::Caller;

use std::sync::Arc;

use ::http::{StatusCode, Uri};
use apimachinery::decode::{self, Encoding};
use apimachinery::goformat::quote;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use serde_json::Value;

use crate::cache::ObjectReader;
use crate::{outbound, tls};

/// Largest answer, in bytes.
pub const MOST_BYTES: usize = 64 << 20;

/// A webhook's `clientConfig`.
#[derive(Debug, Clone)]
pub struct Endpoint {
    place: Place,
    tls: Result<Arc<ClientConfig>, String>,
    /// What tells apart connections to the same place.
    trust: Arc<[u8]>,
}

#[derive(Debug, Clone)]
enum Place {
    Service { namespace: String, name: String, path: String, port: u16 },
    Url { host: String, port: u16, path: String, shown: String },
    Unknown(String),
}

/// Where to connect to for one call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Address {
    host: String,
    port: u16,
    /// The name on the certificate.
    name: String,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

impl Endpoint {
    pub fn read(config: &Value) -> Self {
        let service = &config["service"];
        let place = if service.is_object() {
            Place::Service {
                namespace: text(service, "namespace").to_owned(),
                name: text(service, "name").to_owned(),
                path: text(service, "path").to_owned(),
                port: service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            }
        } else {
            Place::of_url(text(config, "url"))
        };
        let bundle = STANDARD.decode(text(config, "caBundle")).unwrap_or_default();
        let pem = match bundle.is_empty() {
            true => outbound::system_roots(),
            false => Ok(String::from_utf8_lossy(&bundle).into_owned()),
        };
        let tls = pem.and_then(|pem| tls::client_config(&pem, None).map_err(|error| error.to_string()));
        Self { place, tls, trust: bundle.into() }
    }

    /// The URL that a call is made to, as messages show it. `query` is what follows the question mark.
    fn shown(&self, query: &str) -> String {
        match &self.place {
            Place::Service { namespace, name, port, .. } => {
                format!("https://{name}.{namespace}.svc:{port}{}?{query}", self.path())
            }
            Place::Url { shown, .. } => format!("{shown}?{query}"),
            Place::Unknown(url) => url.clone(),
        }
    }

    fn path(&self) -> String {
        match &self.place {
            Place::Service { path, .. } if path.starts_with('/') => path.clone(),
            Place::Service { path, .. } => format!("/{path}"),
            Place::Url { path, .. } => path.clone(),
            Place::Unknown(_) => "/".to_owned(),
        }
    }

    /// Err: upstream's text.
    fn address(&self, reader: &dyn ObjectReader) -> Result<Address, String> {
        match &self.place {
            Place::Service { namespace, name, port, .. } => {
                let (host, port) = resolve(reader, namespace, name, *port)?;
                Ok(Address { host, port, name: format!("{name}.{namespace}.svc") })
            }
            Place::Url { host, port, .. } => {
                let name = host.trim_matches(['[', ']']).to_owned();
                Ok(Address { host: name.clone(), port: *port, name })
            }
            Place::Unknown(url) => Err(format!("parse {}: invalid URL", quote(url))),
        }
    }
}

impl Place {
    fn of_url(url: &str) -> Self {
        let Ok(uri) = url.parse::<Uri>() else { return Self::Unknown(url.to_owned()) };
        let Some(host) = uri.host() else { return Self::Unknown(url.to_owned()) };
        let given = url.split(['?', '#']).next().unwrap_or_default();
        let bare = uri.path() == "/" && !given.ends_with('/');
        Self::Url {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(443),
            path: uri.path().to_owned(),
            shown: if bare { format!("{given}/") } else { given.to_owned() },
        }
    }
}

/// An address of a service: one of its ready endpoints, else its cluster IP.
fn resolve(reader: &dyn ObjectReader, namespace: &str, name: &str, port: u16) -> Result<(String, u16), String> {
    let object = reader.peek("services/specs", namespace, name);
    let Some(object) = object.map(|object| object.value()) else {
        return Err(format!("service {} not found", quote(name)));
    };
    let spec = &object["spec"];
    if spec["type"] == "ExternalName" {
        return Ok((text(spec, "externalName").to_owned(), port));
    }
    let ports = spec["ports"].as_array().into_iter().flatten();
    let Some(own) = ports.into_iter().find(|known| known["port"] == port) else {
        return Err(format!("no service port {port} found for service {}", quote(name)));
    };
    for slice in reader.peek_all("endpointslices", Some(namespace)) {
        if slice.meta.labels.get("kubernetes.io/service-name").map(String::as_str) != Some(name) {
            continue;
        }
        let slice = slice.value();
        let named = slice["ports"].as_array().into_iter().flatten();
        let number = named.into_iter().find(|known| text(known, "name") == text(own, "name"));
        let number = number.and_then(|known| known["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.into_iter().find(|endpoint| endpoint["conditions"]["ready"] != false);
        let address = ready.and_then(|endpoint| endpoint["addresses"][0].as_str());
        if let (Some(number), Some(address)) = (number, address) {
            return Ok((address.to_owned(), number));
        }
    }
    match text(spec, "clusterIP") {
        "" | "None" => Err(format!("no endpoints available for service {}", quote(name))),
        address => Ok((address.to_owned(), port)),
    }
}

/// What an answer says. Err: what upstream's client makes of it.
fn read(code: StatusCode, content_type: &str, bytes: &[u8]) -> Result<Value, String> {
    let document = decode::parse(bytes, Encoding::Json);
    if code.is_success() {
        let document = document.map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
        return Ok(document.node.into_value());
    }
    let status = document.map(|document| document.node.into_value()).unwrap_or_default();
    if status["kind"] == "Status" && !text(&status, "message").is_empty() {
        return Err(text(&status, "message").to_owned());
    }
    let plain = content_type.is_empty() || content_type.starts_with("text/");
    let said = if plain { String::from_utf8_lossy(bytes).trim().to_owned() } else { "unknown".to_owned() };
    Err(match code.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => said,
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        406 => "the server was unable to respond with a content type that the client supports".to_owned(),
        409 => "the server reported a conflict".to_owned(),
        415 => "the server was unable to process the request body".to_owned(),
        422 => "the server rejected our request due to an error in our request".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned()
        }
        500.. => format!("an error on the server ({}) has prevented the request from succeeding", quote(&said)),
        _ => format!("the server responded with the status code {} but did not return more information", code.as_u16()),
    })
}
