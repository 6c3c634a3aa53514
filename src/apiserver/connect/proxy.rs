//! `…/proxy/…`: any HTTP request, passed on to a node, a pod or an endpoint of a service.

use std::net::IpAddr;
use std::sync::Arc;

use ::http::header::LOCATION;
use ::http::{HeaderValue, Method, Request, Response, StatusCode};
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use rand::Rng as _;
use rustls::ClientConfig;
use serde_json::Value;

use super::address::{is_proxyable, split_name};
use super::kubelet::{Target, passed_on};
use super::{Connect, tunnel, upgrade_of};
use crate::Body;
use crate::cache::ObjectReader as _;
use crate::wire::body;

pub async fn serve(connect: &Connect<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let raw = request.uri().path();
    let (base, rest) = split_path(raw, connect.info.parts.len() > 3).ok_or_else(Status::path_not_found)?;
    let (base, rest) = (base.to_owned(), rest.to_owned());
    if rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        // Relative links on the page behind need the slash.
        let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
        return Ok(redirect(&format!("{base}/{query}")));
    }
    let (scheme, name, port) = split_name(&connect.info.name).ok_or_else(|| {
        Status::bad_request(format!("invalid {} request {:?}", connect.info.resource, connect.info.name))
    })?;
    let target = match connect.info.resource.as_str() {
        "nodes" => node(connect, name, port).await?,
        "pods" => pod(connect, scheme, name, port).await?,
        _ => service(connect, scheme, name, port).await?,
    };
    let path = match request.uri().query() {
        Some(query) => format!("{}?{query}", if rest.is_empty() { "/" } else { &rest }),
        None => {
            if rest.is_empty() {
                "/".to_owned()
            } else {
                rest
            }
        }
    };
    let server = connect.server;
    if upgrade_of(request.headers()).is_some() {
        return tunnel::raw(server, &target, request, &path).await;
    }
    let headers = passed_on(request.headers(), false);
    let (parts, content) = request.into_parts();
    let sends = parts.headers.contains_key("content-length") || parts.headers.contains_key("transfer-encoding");
    let content = if sends { content } else { body::empty() };
    let answer = target.send(&server.tasks, parts.method, &path, headers, content).await;
    let answer =
        answer.map_err(|error| Status::service_unavailable(format!("error trying to reach service: {error}")))?;
    let mut response = tunnel::as_is(answer);
    let moved = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).filter(|v| v.starts_with('/'));
    if let Some(Ok(moved)) = moved.map(|to| HeaderValue::from_str(&format!("{base}{to}"))) {
        response.headers_mut().insert(LOCATION, moved);
    }
    Ok(response)
}

/// `/api/v1/nodes/n/proxy` and `/metrics/x`, as they were written.
fn split_path(path: &str, has_rest: bool) -> Option<(&str, &str)> {
    let at = if has_rest { path.find("/proxy/")? } else { path.trim_end_matches('/').rfind("/proxy")? };
    Some(path.split_at(at + "/proxy".len()))
}

fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

async fn node(connect: &Connect<'_>, name: &str, port: &str) -> Result<Target, Status> {
    let server = connect.server;
    let kubelet = server.kubelets.of_node(server.cache.as_ref(), name).await?;
    match port {
        "" => Ok(kubelet),
        port if port == kubelet.port.to_string() => Ok(kubelet),
        // Another port of the node is some other program: our certificate is not for it.
        port => {
            let ip: IpAddr = kubelet.host.parse().map_err(|_| Status::bad_request("address not allowed"))?;
            to_address(ip, number(port)?, "http")
        }
    }
}

async fn pod(connect: &Connect<'_>, scheme: &str, name: &str, port: &str) -> Result<Target, Status> {
    let found = connect.server.cache.get("pods", &connect.info.namespace, name).await;
    let pod = found.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))?.value();
    let ports = || pod["spec"]["containers"].as_array().into_iter().flatten().flat_map(|c| list(&c["ports"]));
    let number = match port {
        "" => ports().find_map(|p| p["containerPort"].as_u64()).and_then(|p| u16::try_from(p).ok()).unwrap_or(80),
        port => match ports().find(|p| p["name"].as_str() == Some(port)).and_then(|p| p["containerPort"].as_u64()) {
            Some(named) => u16::try_from(named).unwrap_or(0),
            None => number(port)?,
        },
    };
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default().parse::<IpAddr>();
    to_address(ip.map_err(|_| Status::bad_request("address not allowed"))?, number, scheme)
}

async fn service(connect: &Connect<'_>, scheme: &str, name: &str, port: &str) -> Result<Target, Status> {
    let (cache, namespace) = (&connect.server.cache, connect.info.namespace.as_str());
    let services = GroupResource::new("", "services");
    // A port may be given by the Service's number or name; endpoints know names only.
    let mut wanted = port.to_owned();
    if let Ok(number) = port.parse::<u64>() {
        let service =
            cache.get("services/specs", namespace, name).await.ok_or_else(|| Status::not_found(&services, name))?;
        let service = service.value();
        let found = list(&service["spec"]["ports"]).find(|p| p["port"].as_u64() == Some(number));
        let found = found.ok_or_else(|| {
            Status::service_unavailable(format!("no service port {number} found for service \"{name}\""))
        })?;
        wanted = found["name"].as_str().unwrap_or_default().to_owned();
    }
    let endpoints = cache.get("services/endpoints", namespace, name).await;
    let endpoints = endpoints.ok_or_else(|| Status::not_found(&services, name))?.value();
    let mut candidates: Vec<(IpAddr, u16)> = Vec::new();
    for subset in list(&endpoints["subsets"]) {
        let port = list(&subset["ports"])
            .find(|p| port.is_empty() || p["name"].as_str().unwrap_or_default() == wanted)
            .and_then(|p| u16::try_from(p["port"].as_u64()?).ok());
        let Some(port) = port else { continue };
        for address in list(&subset["addresses"]) {
            if let Some(Ok(ip)) = address["ip"].as_str().map(str::parse) {
                candidates.push((ip, port));
            }
        }
    }
    if candidates.is_empty() {
        return Err(Status::service_unavailable(format!("no endpoints available for service \"{name}\"")));
    }
    let (ip, port) = candidates[rand::rng().random_range(0..candidates.len())];
    to_address(ip, port, scheme)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(port: &str) -> Result<u16, Status> {
    port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))
}

fn to_address(ip: IpAddr, port: u16, scheme: &str) -> Result<Target, Status> {
    if !is_proxyable(ip) {
        return Err(Status::bad_request("address not allowed"));
    }
    let tls = (scheme == "https").then(unverified);
    Ok(Target { host: ip.to_string(), port, tls })
}

/// Pods present certificates that nobody can check here: upstream's proxy does not either.
fn unverified() -> Arc<ClientConfig> {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, SignatureScheme};

    #[derive(Debug)]
    struct Anyone(rustls::crypto::CryptoProvider);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, has_rest, want) in [
            ("/api/v1/nodes/n/proxy", false, Some(("/api/v1/nodes/n/proxy", ""))),
            ("/api/v1/nodes/n/proxy/", false, Some(("/api/v1/nodes/n/proxy", "/"))),
            ("/api/v1/nodes/n/proxy/metrics/proxy/", true, Some(("/api/v1/nodes/n/proxy", "/metrics/proxy/"))),
            ("/api/v1/namespaces/a/pods/p/proxy/x%2Fy", true, Some(("/api/v1/namespaces/a/pods/p/proxy", "/x%2Fy"))),
        ] {
            assert_eq!(split_path(path, has_rest), want, "{path}");
        }
    }
}
