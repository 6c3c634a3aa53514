//! Certificate requests: who may approve, who may sign, and what nobody may ask for.
//!
//! Invariants:
//! - CE-1: approving and signing are permissions on the signer, beside those on the request's subresources.

use std::sync::Arc;

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin, text};
use crate::authz::rules::go_quote;
use crate::authz::{Attributes, Authorizer, MASTERS};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn signer(object: &Value) -> &str {
    text(&object["spec"], "signerName")
}

/// `verb` on `signers` of this name, or of every name in its domain.
async fn may(authorizer: &Authorizer, request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
    let ask = |name: &str| Attributes::resource(request.user, verb, GROUP, "signers", "", name);
    if authorizer.authorize(&ask(signer)).await.allowed() {
        return true;
    }
    let domain = signer.split('/').next().unwrap_or_default();
    authorizer.authorize(&ask(&format!("{domain}/*"))).await.allowed()
}

/// Those who approve or deny a request must be allowed to `approve` for its signer.
pub struct CertificateApproval(pub Arc<Authorizer>);

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Status> {
        let (Operation::Update, "approval", Some(old)) = (request.operation, request.subresource, request.old_object)
        else {
            return Ok(());
        };
        if !request.is(GROUP, REQUESTS) || may(&self.0, request, "approve", signer(old)).await {
            return Ok(());
        }
        let signer = go_quote(signer(old));
        Err(request.forbidden(format!("user not permitted to approve requests with signerName {signer}")))
    }
}

/// Those who issue a certificate or set conditions must be allowed to `sign` for the request's signer.
pub struct CertificateSigning(pub Arc<Authorizer>);

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let (Operation::Update, "status", Some(old)) = (request.operation, request.subresource, request.old_object)
        else {
            return Ok(());
        };
        let same = |key: &str| object["status"][key] == old["status"][key];
        if !request.is(GROUP, REQUESTS) || (same("certificate") && same("conditions")) {
            return Ok(());
        }
        if may(&self.0, request, "sign", signer(old)).await {
            return Ok(());
        }
        let signer = go_quote(signer(old));
        Err(request.forbidden(format!("user not permitted to sign requests with signerName {signer}")))
    }
}

/// Nobody becomes a member of `system:masters` by certificate.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let creates = request.operation == Operation::Create && request.subresource.is_empty();
        if !creates || !request.is(GROUP, REQUESTS) || signer(object) != CLIENT_SIGNER {
            return Ok(());
        }
        let requested = api::certificates::parse_request(text(&object["spec"], "request"))
            .map_err(|error| request.forbidden(format!("failed to parse CSR: {error}")))?;
        if requested.organizations.iter().any(|group| group == MASTERS) {
            let text = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
            return Err(request.forbidden(text));
        }
        Ok(())
    }
}
