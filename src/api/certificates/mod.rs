//! certificates.k8s.io: certificates on request.

pub mod certificatesigningrequest;
mod pem;
mod signer;

pub use pem::{CERTIFICATE_REQUEST, Requested, parse_request};
