//! PEM and X.509 as far as certificate requests need them, with Go's errors.
//!
//! Invariants:
//! - PM-1: a request that parses carries a good signature of its own key when [`check_request`] says nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// The type of a PEM block that holds a request.
pub const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
const CERTIFICATE: &str = "CERTIFICATE";

/// One block of a PEM text.
pub(super) struct Block {
    pub ty: String,
    pub headers: usize,
    pub bytes: Vec<u8>,
}

/// The first whole block and what follows it. What is no block is skipped, as Go does.
pub(super) fn decode(text: &str) -> Option<(Block, &str)> {
    const BEGIN: &str = "-----BEGIN ";
    const DASHES: &str = "-----";
    let mut rest = text;
    loop {
        let at = if rest.starts_with(BEGIN) { 0 } else { rest.find("\n-----BEGIN ")? + 1 };
        rest = &rest[at + BEGIN.len()..];
        let (line, body) = rest.split_once('\n')?;
        let Some(ty) = line.trim_end_matches([' ', '\t', '\r']).strip_suffix(DASHES) else { continue };
        let end = format!("-----END {ty}-----");
        let at =
            if body.starts_with(&end) { 0 } else { body.find(&format!("\n{end}")).map_or(usize::MAX, |at| at + 1) };
        if at == usize::MAX {
            continue;
        }
        let after = &body[at + end.len()..];
        let (last, after) = after.split_once('\n').unwrap_or((after, ""));
        if !last.trim_matches([' ', '\t', '\r']).is_empty() {
            continue;
        }
        let (mut headers, mut coded) = (0, String::new());
        for line in body[..at].lines() {
            if coded.is_empty() && line.contains(':') {
                headers += 1;
            } else {
                coded.extend(line.chars().filter(|c| !c.is_ascii_whitespace()));
            }
        }
        if let Ok(bytes) = STANDARD.decode(coded) {
            return Some((Block { ty: ty.to_owned(), headers, bytes }, after));
        }
    }
}

/// The DER of a certificate request from the base64 of its PEM, as `spec.request` has it.
///
/// # Errors
/// Go's text.
fn request_der(encoded: &str) -> Result<Vec<u8>, String> {
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    match decode(&String::from_utf8_lossy(&bytes)) {
        Some((block, _)) if block.ty == CERTIFICATE_REQUEST => Ok(block.bytes),
        _ => Err(format!("PEM block type must be {CERTIFICATE_REQUEST}")),
    }
}

/// What a certificate request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requested {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<std::net::IpAddr>,
    pub email_addresses: Vec<String>,
    pub uris: Vec<String>,
    pub der: Vec<u8>,
}

/// Reads the request in `spec.request` (base64 of PEM). The signature is not looked at.
///
/// # Errors
/// Go's text.
pub fn parse_request(encoded: &str) -> Result<Requested, String> {
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    let der = request_der(encoded)?;
    let request = parse(&der)?;
    let subject = &request.certification_request_info.subject;
    let mut found = Requested {
        common_name: subject.iter_common_name().last().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned(),
        organizations: subject.iter_organization().filter_map(|n| n.as_str().ok()).map(str::to_owned).collect(),
        ..Requested::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => found.dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(mail) => found.email_addresses.push((*mail).to_owned()),
                GeneralName::URI(uri) => found.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
                    let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
                    found.ip_addresses.extend(address.ok());
                }
                _ => {}
            }
        }
    }
    found.der = der;
    Ok(found)
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Ok(request),
        Ok(_) => Err("asn1: syntax error: trailing data".to_owned()),
        Err(_) if der.is_empty() => Err("asn1: syntax error: sequence truncated".to_owned()),
        Err(_) => Err("asn1: structure error: malformed certificate request".to_owned()),
    }
}

/// Why the request in `spec.request` is no good; `None` when it is well signed.
pub(super) fn check_request(encoded: &str) -> Option<String> {
    let der = match request_der(encoded) {
        Ok(der) => der,
        Err(text) => return Some(text),
    };
    let request = match parse(&der) {
        Ok(request) => request,
        Err(text) => return Some(text),
    };
    use x509_parser::error::X509Error;
    match request.verify_signature() {
        Ok(()) => None,
        Err(X509Error::SignatureUnsupportedAlgorithm) => {
            Some("x509: cannot verify signature: algorithm unimplemented".to_owned())
        }
        Err(_) => Some(
            match request.signature_algorithm.algorithm.to_id_string().as_str() {
                ecdsa if ecdsa.starts_with("1.2.840.10045.") => "x509: ECDSA verification failure",
                "1.3.101.112" => "x509: Ed25519 verification failure",
                _ => "crypto/rsa: verification error",
            }
            .to_owned(),
        ),
    }
}

/// Why `status.certificate` (base64 of PEM) holds no certificates; `None` when it does or is empty.
pub(super) fn check_certificate(encoded: &str) -> Option<String> {
    if encoded.is_empty() {
        return None;
    }
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let (mut rest, mut blocks) = (text.as_ref(), 0);
    while let Some((block, after)) = decode(rest) {
        if block.ty != CERTIFICATE {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.ty));
        }
        if block.headers > 0 {
            return Some("no PEM block headers are permitted".to_owned());
        }
        if block.bytes.is_empty() {
            return Some("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        let mut der = block.bytes.as_slice();
        while !der.is_empty() {
            match x509_parser::parse_x509_certificate(der) {
                Ok((more, _)) => der = more,
                Err(_) => return Some("x509: malformed certificate".to_owned()),
            }
        }
        blocks += 1;
        rest = after;
    }
    (blocks == 0).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A P-256 request of `O=oracle, CN=oracle-user`.
    pub(in crate::certificates) const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIaE1JR0pBZ0VBTUNjeER6QU5CZ05WQkFvTUJtOXlZV05zWlRFVU1CSUdBMVVFQXd3TGIzSmhZMnhsTFhWegpaWEl3V1RBVEJnY3Foa2pPUFFJQkJnZ3Foa2pPUFFNQkJ3TkNBQVMzaXBoaHNDZ0N6YVh5OTJoZ0hOUFY5SHUyCnRrZFhOeW9adlc3eXpvR0gwcEdZNDA0MnZ3Y1RHNFV6WERRUStiV2I3VW52OTZycjBhZXJ6VmJqa3R6OW9BQXcKQ2dZSUtvWkl6ajBFQXdJRFJ3QXdSQUlnSjlMazAwMnpUd1h4VjBxQVdReThYYXVwNnJlSmU3Rm80UzRWdzZ2OQoyOFlDSUVYRE1vNEZoWGVCbW9yQXJ6bnVDeVdZUVRiNVlhakJLRWJmR3lWRXVNMk4KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

    #[test]
    fn a_good_request() {
        assert_eq!(check_request(REQUEST), None);
        let found = parse_request(REQUEST).expect("a request");
        assert_eq!(
            (found.common_name.as_str(), found.organizations.as_slice()),
            ("oracle-user", &["oracle".to_owned()][..])
        );
    }

    #[test]
    fn bad_requests() {
        assert_eq!(check_request("Zm9v").as_deref(), Some("PEM block type must be CERTIFICATE REQUEST"));
        let text = String::from_utf8(STANDARD.decode(REQUEST).expect("base64")).expect("text");
        // another common name under the same signature
        let (block, _) = decode(&text).expect("a block");
        let mut der = block.bytes;
        let at = der.windows(6).position(|w| w == b"oracle").expect("the organization");
        der[at] = b'O';
        let pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            STANDARD.encode(der)
        );
        assert_eq!(check_request(&STANDARD.encode(pem)).as_deref(), Some("x509: ECDSA verification failure"));
    }

    #[test]
    fn certificates() {
        let check = |text: &str| check_certificate(&STANDARD.encode(text));
        assert_eq!(check_certificate(""), None);
        assert_eq!(check("foo").as_deref(), Some("must contain at least one CERTIFICATE PEM block"));
        assert_eq!(
            check("x\n-----BEGIN FOO-----\nAAAA\n-----END FOO-----\n").as_deref(),
            Some("only CERTIFICATE PEM blocks are allowed, found \"FOO\"")
        );
        assert_eq!(
            check("-----BEGIN CERTIFICATE-----\na: b\n\nAAAA\n-----END CERTIFICATE-----\n").as_deref(),
            Some("no PEM block headers are permitted")
        );
    }
}
