//! Signing what others ask for: a certificate for a key that is theirs.
//!
//! Invariants:
//! - RQ-1: the request's own signature is checked; of what it asks for, only subject and alternative names are taken.

use jiff::Timestamp;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose as Purpose, IsCa, KeyUsagePurpose,
};
use rustls::pki_types::CertificateSigningRequestDer;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::authority::{Authority, at, serial};
use crate::{Error, Result};

/// What a signed certificate is to be, besides what the request says.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    /// Upstream's names: `client auth`, `digital signature`, …
    pub usages: &'a [String],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Authority {
    /// Signs a PKCS #10 request (DER). The end is cut to this authority's own.
    ///
    /// # Errors
    /// When the request does not parse, is not signed by its key, or holds what cannot be written.
    pub fn sign_request(&self, der: &[u8], terms: &Terms<'_>) -> Result<String> {
        let failed = |source| Error::Issue { name: "a request".to_owned(), source };
        let der = CertificateSigningRequestDer::from(der);
        let mut request = CertificateSigningRequestParams::from_der(&der).map_err(failed)?;
        check_subject(&der)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = request.params.distinguished_name;
        params.subject_alt_names = request.params.subject_alt_names;
        params.serial_number = Some(serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.not_before = at(terms.not_before)?;
        params.not_after = at(terms.not_after.min(self.not_after()?))?;
        for usage in terms.usages {
            match meaning(usage) {
                Some(Meaning::Key(usage)) => params.key_usages.push(usage),
                Some(Meaning::Extended(purpose)) => params.extended_key_usages.push(purpose),
                None => return Err(Error::Certificate(format!("unrecognized usage: {usage:?}"))),
            }
        }
        params.key_usages.dedup();
        request.params = params;
        let cert = request.signed_by(self.issuer()).map_err(failed)?;
        Ok(cert.pem())
    }
}

/// A name that says something twice (two organizations) would be written with one of them only.
fn check_subject(der: &[u8]) -> Result<()> {
    let (_, request) =
        X509CertificationRequest::from_der(der).map_err(|error| Error::Certificate(error.to_string()))?;
    let subject = &request.certification_request_info.subject;
    let mut kinds: Vec<_> = subject.iter_attributes().map(|attribute| attribute.attr_type().to_id_string()).collect();
    let all = kinds.len();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() == all {
        return Ok(());
    }
    Err(Error::Certificate("a subject with a repeated attribute cannot be signed".to_owned()))
}

enum Meaning {
    Key(KeyUsagePurpose),
    Extended(Purpose),
}

fn meaning(usage: &str) -> Option<Meaning> {
    use Meaning::{Extended, Key};
    let other = |oid: &[u64]| Extended(Purpose::Other(oid.to_vec()));
    Some(match usage {
        "signing" | "digital signature" => Key(KeyUsagePurpose::DigitalSignature),
        "content commitment" => Key(KeyUsagePurpose::ContentCommitment),
        "key encipherment" => Key(KeyUsagePurpose::KeyEncipherment),
        "key agreement" => Key(KeyUsagePurpose::KeyAgreement),
        "data encipherment" => Key(KeyUsagePurpose::DataEncipherment),
        "cert sign" => Key(KeyUsagePurpose::KeyCertSign),
        "crl sign" => Key(KeyUsagePurpose::CrlSign),
        "encipher only" => Key(KeyUsagePurpose::EncipherOnly),
        "decipher only" => Key(KeyUsagePurpose::DecipherOnly),
        "any" => Extended(Purpose::Any),
        "server auth" => Extended(Purpose::ServerAuth),
        "client auth" => Extended(Purpose::ClientAuth),
        "code signing" => Extended(Purpose::CodeSigning),
        "email protection" | "s/mime" => Extended(Purpose::EmailProtection),
        "ipsec end system" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 5]),
        "ipsec tunnel" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 6]),
        "ipsec user" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 7]),
        "timestamping" => Extended(Purpose::TimeStamping),
        "ocsp signing" => Extended(Purpose::OcspSigning),
        "microsoft sgc" => other(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => other(&[2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{certificate_ders, subject_of_certificate};
    use rcgen::{DnType, KeyPair};

    #[test]
    fn a_request_becomes_a_certificate_of_its_subject_alone() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let authority = Authority::generate("ca", now).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["a.b".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, "system:node:n");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let request = params.serialize_request(&key).expect("a request");
        let usages = ["client auth".to_owned(), "digital signature".to_owned()];
        let later = now + jiff::SignedDuration::from_hours(24 * 36500);
        let terms = Terms { usages: &usages, not_before: now, not_after: later };
        let pem = authority.sign_request(request.der(), &terms).expect("a certificate");
        let der = certificate_ders(&pem).expect("PEM").remove(0);
        assert_eq!(
            subject_of_certificate(&der).expect("a subject"),
            ("system:node:n".to_owned(), vec!["system:nodes".to_owned()])
        );
        let (_, cert) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        assert!(!cert.is_ca());
        assert_eq!(cert.validity().not_after.timestamp(), authority.not_after().expect("an end").as_second());
        assert!(cert.extended_key_usage().expect("valid").expect("there").value.client_auth);
        let unknown = ["bogus".to_owned()];
        assert!(authority.sign_request(request.der(), &Terms { usages: &unknown, ..terms }).is_err());
    }
}
