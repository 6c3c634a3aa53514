//! The join token: `K10<sha256 of the server CA>::server:<secret>`. Whoever holds it can check, before sending the
//! secret, that it talks to the right server.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{Error, Result, certificate_ders};

/// Debug shows no secret; `Display` is the token itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Hex SHA-256 of the server CA's DER; `None` when only a secret was given.
    pub ca_hash: Option<String>,
    /// `server`.
    pub user: String,
    pub secret: String,
}

impl Token {
    /// Reads the full form, or a bare secret.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix("K10") else {
            return Ok(Self { ca_hash: None, user: "server".to_owned(), secret: usable(text)?.to_owned() });
        };
        let (hash, credentials) = rest.split_once("::").ok_or(Error::Token("`::` is missing after the hash"))?;
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(Error::Token("the hash is not 64 lower-case hex digits"));
        }
        let (user, secret) = credentials.split_once(':').ok_or(Error::Token("`user:secret` is missing after `::`"))?;
        if user.is_empty() {
            return Err(Error::Token("the user is empty"));
        }
        Ok(Self { ca_hash: Some(hash.to_owned()), user: user.to_owned(), secret: usable(secret)?.to_owned() })
    }

    /// The token of a server with this CA.
    pub fn server(ca_pem: &str, secret: &str) -> Result<Self> {
        Ok(Self { ca_hash: Some(hash_of(ca_pem)?), user: "server".to_owned(), secret: usable(secret)?.to_owned() })
    }

    /// 32 hex digits.
    pub fn random_secret() -> String {
        hex::encode(rand::random::<[u8; 16]>())
    }

    /// This CA is the one the token names. A bare secret names none and fits any.
    pub fn fits_ca(&self, ca_pem: &str) -> Result<bool> {
        match &self.ca_hash {
            Some(hash) => Ok(constant_time_eq(hash.as_bytes(), hash_of(ca_pem)?.as_bytes())),
            None => Ok(true),
        }
    }

    /// `presented` (full form or bare secret) is this token (PK-4).
    pub fn verify(&self, presented: &str) -> bool {
        let Ok(presented) = Self::parse(presented) else { return false };
        let hash = match (&presented.ca_hash, &self.ca_hash) {
            (Some(theirs), Some(ours)) => constant_time_eq(theirs.as_bytes(), ours.as_bytes()),
            _ => true,
        };
        hash & constant_time_eq(presented.user.as_bytes(), self.user.as_bytes())
            & constant_time_eq(presented.secret.as_bytes(), self.secret.as_bytes())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ca_hash {
            Some(hash) => write!(f, "K10{hash}::{}:{}", self.user, self.secret),
            None => f.write_str(&self.secret),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("ca_hash", &self.ca_hash).finish_non_exhaustive()
    }
}

/// Equal, in a time that tells only the lengths.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

fn hash_of(ca_pem: &str) -> Result<String> {
    let ders = certificate_ders(ca_pem)?;
    let first = ders.first().ok_or_else(|| Error::Certificate("there is no certificate".to_owned()))?;
    Ok(hex::encode(Sha256::digest(first)))
}

fn usable(secret: &str) -> Result<&str> {
    if secret.is_empty() {
        return Err(Error::Token("the secret is empty"));
    }
    if secret.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::Token("the secret has white space in it"));
    }
    Ok(secret)
}
