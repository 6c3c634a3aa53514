//! Certificate authorities and what they sign. ECDSA P-256 throughout.
//!
//! Invariants:
//! - CA-1: a leaf is reused only if its key fits, this authority signed it, it says exactly what is wanted, and 90 days
//!   of its life are left.
//! - CA-2: certificates are back-dated by an hour, so that machines whose clocks differ a little can talk at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{Error, Result, files, write_atomic};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const BACK_DATED: SignedDuration = SignedDuration::from_hours(1);
const CA_DAYS: i32 = 3650;
const LEAF_DAYS: i32 = 365;
const RENEW_DAYS: i32 = 90;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// CN: the user name of a client.
    pub name: String,
    /// O: the group of a client.
    pub group: Option<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub usage: Usage,
}

impl Subject {
    pub fn client(name: &str, group: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            group: group.map(str::to_owned),
            dns_names: Vec::new(),
            ips: Vec::new(),
            usage: Usage::Client,
        }
    }

    /// Duplicates among the names are dropped.
    pub fn server(name: &str, dns_names: Vec<String>, ips: Vec<IpAddr>) -> Self {
        let mut this =
            Self { name: name.to_owned(), group: None, dns_names: Vec::new(), ips: Vec::new(), usage: Usage::Server };
        for name in dns_names {
            if !this.dns_names.contains(&name) {
                this.dns_names.push(name);
            }
        }
        for ip in ips {
            if !this.ips.contains(&ip) {
                this.ips.push(ip);
            }
        }
        this
    }
}

/// A certificate (chain) and its private key, as PEM. Debug shows no key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// A certificate authority. Cloning shares it.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    cert_pem: String,
    cert_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority that lives in memory only.
    pub fn generate(name: &str, now: Timestamp) -> Result<Self> {
        let key = KeyPair::generate().map_err(|_| Error::KeyGeneration)?;
        let cert_pem = ca_certificate(name, &key, now)?;
        Self::from_pem(&cert_pem, &key.serialize_pem()).map_err(Error::Certificate)
    }

    /// Reads `<dir>/<file>.{crt,key}`, or makes both when neither exists (PK-1).
    pub fn ensure(dir: &Path, file: &str, name: &str, now: Timestamp) -> Result<Self> {
        let (cert_path, key_path) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
        let unusable = |path: &Path, what: String| Error::Unusable { path: path.to_owned(), what };
        match (files::read_optional(&cert_path)?, files::read_optional(&key_path)?) {
            (Some(cert), Some(key)) => Self::from_pem(&cert, &key).map_err(|what| unusable(&cert_path, what)),
            // A crash between the two writes leaves the key alone: it is still the authority's key.
            (None, kept) => {
                let key = match kept {
                    Some(pem) => KeyPair::from_pem(&pem).map_err(|e| unusable(&key_path, e.to_string()))?,
                    None => KeyPair::generate().map_err(|_| Error::KeyGeneration)?,
                };
                write_atomic(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
                let cert_pem = ca_certificate(name, &key, now)?;
                write_atomic(&cert_path, cert_pem.as_bytes(), 0o644)?;
                Self::from_pem(&cert_pem, &key.serialize_pem()).map_err(|what| unusable(&cert_path, what))
            }
            (Some(_), None) => Err(unusable(
                &key_path,
                format!(
                    "the key of {} is missing; restore it, or remove the certificate to make a new authority",
                    cert_path.display()
                ),
            )),
        }
    }

    pub fn cert_pem(&self) -> &str {
        &self.inner.cert_pem
    }

    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.inner.cert_der
    }

    /// When the authority's own certificate ends.
    ///
    /// # Errors
    /// When it cannot be read back.
    pub fn not_after(&self) -> Result<Timestamp> {
        let (_, cert) =
            X509Certificate::from_der(&self.inner.cert_der).map_err(|e| Error::Certificate(e.to_string()))?;
        Timestamp::from_second(cert.validity().not_after.timestamp()).map_err(|e| Error::Certificate(e.to_string()))
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.inner.issuer
    }

    /// Signs a new key for `subject`, valid for a year.
    pub fn issue(&self, subject: &Subject, now: Timestamp) -> Result<Identity> {
        let failed = |source| Error::Issue { name: subject.name.clone(), source };
        let key = KeyPair::generate().map_err(|_| Error::KeyGeneration)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
        params.serial_number = Some(serial());
        params.not_before = at(now - BACK_DATED)?;
        params.not_after = at(now + DAY * LEAF_DAYS)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![match subject.usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        for name in &subject.dns_names {
            let name = rcgen::string::Ia5String::try_from(name.as_str()).map_err(failed)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        if let Some(group) = &subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        let cert = params.signed_by(&key, &self.inner.issuer).map_err(failed)?;
        Ok(Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Reuses `<dir>/<file>.{crt,key}` if CA-1 holds, else issues and writes it.
    pub fn ensure_leaf(&self, dir: &Path, file: &str, subject: &Subject, now: Timestamp) -> Result<Identity> {
        let (cert_path, key_path) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
        if let (Some(cert_pem), Some(key_pem)) = (files::read_optional(&cert_path)?, files::read_optional(&key_path)?) {
            let kept = Identity { cert_pem, key_pem };
            if self.is_good(&kept, subject, now) {
                return Ok(kept);
            }
        }
        let made = self.issue(subject, now)?;
        // The key first: a crash in between leaves a pair that does not fit, which the next start replaces.
        write_atomic(&key_path, made.key_pem.as_bytes(), 0o600)?;
        write_atomic(&cert_path, made.cert_pem.as_bytes(), 0o644)?;
        Ok(made)
    }

    fn is_good(&self, kept: &Identity, subject: &Subject, now: Timestamp) -> bool {
        let Ok(ders) = certificate_ders(&kept.cert_pem) else { return false };
        let Some(Ok((_, cert))) = ders.first().map(|der| X509Certificate::from_der(der)) else { return false };
        let Ok((_, ca)) = X509Certificate::from_der(&self.inner.cert_der) else { return false };
        let Ok(key) = KeyPair::from_pem(&kept.key_pem) else { return false };
        let valid = cert.validity();
        said_by(&cert).is_some_and(|said| same(&said, subject))
            && cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
            && cert.verify_signature(Some(ca.public_key())).is_ok()
            && valid.not_before.timestamp() <= now.as_second()
            && valid.not_after.timestamp() >= (now + DAY * RENEW_DAYS).as_second()
    }

    fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| format!("the key does not parse: {e}"))?;
        let cert_der = certificate_ders(cert_pem)
            .map_err(|e| e.to_string())?
            .into_iter()
            .next()
            .ok_or_else(|| "there is no certificate in it".to_owned())?;
        let (_, cert) = X509Certificate::from_der(&cert_der).map_err(|e| format!("it does not parse: {e}"))?;
        if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("it does not belong to the key beside it".to_owned());
        }
        if !cert.is_ca() {
            return Err("it is no certificate authority".to_owned());
        }
        let issuer = Issuer::from_ca_cert_der(&cert_der, key).map_err(|e| e.to_string())?;
        Ok(Self { inner: Arc::new(Inner { cert_pem: cert_pem.to_owned(), cert_der, issuer }) })
    }
}

/// The certificates in a PEM text, first to last.
pub fn certificate_ders(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::Certificate(e.to_string()))
}

/// CN and every O of a certificate: who a client is. The caller has verified it.
pub fn subject_of_certificate(der: &[u8]) -> Result<(String, Vec<String>)> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| Error::Certificate(e.to_string()))?;
    let name = cert.subject().iter_common_name().last().and_then(|a| a.as_str().ok()).unwrap_or_default();
    let groups = cert.subject().iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect();
    Ok((name.to_owned(), groups))
}

fn ca_certificate(name: &str, key: &KeyPair, now: Timestamp) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{name}@{}", now.as_second()).as_str());
    params.serial_number = Some(serial());
    params.not_before = at(now - BACK_DATED)?;
    params.not_after = at(now + DAY * CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    let cert = params.self_signed(key).map_err(|source| Error::Issue { name: name.to_owned(), source })?;
    Ok(cert.pem())
}

/// A positive 127-bit number.
pub(crate) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from(bytes.to_vec())
}

pub(crate) fn at(time: Timestamp) -> Result<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|_| Error::Time(time))
}

/// Reads a certificate back; `None` when it says something we never say.
fn said_by(cert: &X509Certificate<'_>) -> Option<Subject> {
    let usage = cert.extended_key_usage().ok()??.value;
    let mut said = Subject {
        name: cert.subject().iter_common_name().next()?.as_str().ok()?.to_owned(),
        group: match cert.subject().iter_organization().next() {
            Some(o) => Some(o.as_str().ok()?.to_owned()),
            None => None,
        },
        dns_names: Vec::new(),
        ips: Vec::new(),
        usage: match (usage.client_auth, usage.server_auth) {
            (true, false) => Usage::Client,
            (false, true) => Usage::Server,
            _ => return None,
        },
    };
    if let Some(names) = cert.subject_alternative_name().ok()? {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => said.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(octets) => said.ips.push(match octets.len() {
                    4 => IpAddr::from(<[u8; 4]>::try_from(*octets).ok()?),
                    _ => IpAddr::from(<[u8; 16]>::try_from(*octets).ok()?),
                }),
                _ => return None,
            }
        }
    }
    Some(said)
}

/// The order of names does not matter.
fn same(a: &Subject, b: &Subject) -> bool {
    let sorted = |s: &Subject| {
        (s.dns_names.iter().cloned().collect::<BTreeSet<_>>(), s.ips.iter().copied().collect::<BTreeSet<_>>())
    };
    a.name == b.name && a.group == b.group && a.usage == b.usage && sorted(a) == sorted(b)
}
