//! Service-account tokens: ES256 JSON web tokens and the published key set (RFC 7515, 7517).
//!
//! Invariants:
//! - JW-1: only `alg` ES256 with our own key id is ever accepted; the header is otherwise ignored.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result, files, write_atomic};

/// DER of a SubjectPublicKeyInfo for an uncompressed P-256 point, without the point.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three base64url parts of which two are JSON: some other kind of token.
    #[error("not a JSON web token")]
    Malformed,
    #[error("signed with another key or algorithm")]
    UnknownKey,
    #[error("the signature is wrong")]
    BadSignature,
}

/// The key that signs service-account tokens. Cloning shares it.
#[derive(Clone)]
pub struct SigningKey {
    inner: Arc<Inner>,
}

struct Inner {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    pem: String,
}

impl SigningKey {
    /// A key that lives in memory only.
    pub fn generate() -> Result<Self> {
        let pair = rcgen::KeyPair::generate().map_err(|_| Error::KeyGeneration)?;
        Self::from_pkcs8(pair.serialized_der()).map_err(|_| Error::KeyGeneration)
    }

    /// Reads the PKCS #8 PEM in `path`, or makes one (PK-1).
    pub fn ensure(path: &Path) -> Result<Self> {
        let pair = match files::read_optional(path)? {
            Some(pem) => rcgen::KeyPair::from_pem(&pem)
                .map_err(|e| Error::Unusable { path: path.to_owned(), what: format!("the key does not parse: {e}") })?,
            None => {
                let pair = rcgen::KeyPair::generate().map_err(|_| Error::KeyGeneration)?;
                write_atomic(path, pair.serialize_pem().as_bytes(), 0o600)?;
                pair
            }
        };
        Self::from_pkcs8(pair.serialized_der()).map_err(|what| Error::Unusable { path: path.to_owned(), what })
    }

    /// Reads a PKCS #8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let pair = rcgen::KeyPair::from_pem(pem).map_err(|_| Error::SigningKey)?;
        Self::from_pkcs8(pair.serialized_der()).map_err(|_| Error::SigningKey)
    }

    /// The private key as PKCS #8 PEM.
    pub fn pem(&self) -> &str {
        &self.inner.pem
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| format!("not an ECDSA P-256 key: {e}"))?;
        let mut hash = Sha256::new();
        hash.update(SPKI_P256);
        hash.update(pair.public_key().as_ref());
        let key_id = B64.encode(hash.finalize());
        Ok(Self { inner: Arc::new(Inner { pair, random, key_id, pem: pem_of(der) }) })
    }

    /// base64url of the SHA-256 of the public key's DER, as upstream names keys.
    pub fn key_id(&self) -> &str {
        &self.inner.key_id
    }

    /// The compact form of a token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({"alg": "ES256", "kid": self.inner.key_id});
        let mut token = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = self.inner.pair.sign(&self.inner.random, token.as_bytes()).map_err(|_| Error::KeyGeneration)?;
        token.push('.');
        token.push_str(&B64.encode(signature.as_ref()));
        Ok(token)
    }

    /// The claims of a token that this key signed. What they claim (times, audience, subject) is for the caller to judge.
    pub fn verify(&self, token: &str) -> Result<Value, JwtError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let header = json_part(header)?;
        let decoded = json_part(claims)?;
        let named = header.get("kid").and_then(Value::as_str);
        if header.get("alg").and_then(Value::as_str) != Some("ES256") || named != Some(&self.inner.key_id) {
            return Err(JwtError::UnknownKey);
        }
        let signature = B64.decode(signature).map_err(|_| JwtError::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.inner.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| JwtError::BadSignature)?;
        Ok(decoded)
    }

    /// The JSON web key set to publish.
    pub fn jwks(&self) -> Value {
        let point = self.inner.pair.public_key().as_ref();
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.inner.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": B64.encode(&point[1..33]),
            "y": B64.encode(&point[33..65]),
        }]})
    }
}

fn pem_of(pkcs8: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(pkcs8);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

fn json_part(part: &str) -> Result<Value, JwtError> {
    let bytes = B64.decode(part).map_err(|_| JwtError::Malformed)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| JwtError::Malformed)?;
    if value.is_object() { Ok(value) } else { Err(JwtError::Malformed) }
}
