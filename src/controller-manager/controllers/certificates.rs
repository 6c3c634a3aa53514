//! Certificate requests of the built-in signers: kubelets' client certificates are approved, what is approved is
//! signed, what is settled is cleaned up. (Upstream: csrapproving, csrsigning, csrcleaner.)
//!
//! Watches CertificateSigningRequests. Writes their approval and status; deletes old ones; asks SubjectAccessReviews.
//!
//! Invariants:
//! - CT-1: nothing is signed that is not approved, or that says anything its signer does not vouch for.
//! - CT-2: only a request for a kubelet's client certificate is ever approved here, and only for one who may ask for
//!   it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Informer, ObjectKey, WorkQueue};
use component_base::SharedClock;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller, ControllerManagerConfig};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

const BACK_DATED: SignedDuration = SignedDuration::from_mins(5);
/// A certificate of less than this is given its whole life from now on.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// How long a request is kept once it is settled, and while it is not.
const KEPT_SETTLED: SignedDuration = SignedDuration::from_hours(1);
const KEPT_PENDING: SignedDuration = SignedDuration::from_hours(24);

struct Certificates {
    client: Client,
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    requests: Informer<CertificateSigningRequest>,
    config: Arc<ControllerManagerConfig>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = Certificates {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        queue: cx.queue(),
        requests: cx.informers.of(),
        config: cx.config.clone(),
    };
    let queue = this.queue.clone();
    this.requests.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    Arc::new(this)
}

/// The time a condition was set, if it is there and true.
fn since(request: &CertificateSigningRequest, ty: &str) -> Option<Timestamp> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == ty && c.status == "True")?;
    Some(
        condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref()).map_or(Timestamp::MIN, |t| t.0),
    )
}

fn issued(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = &request.status.as_ref()?.certificate.as_ref()?.0;
    (!certificate.is_empty()).then_some(certificate)
}

/// When the request may be forgotten.
fn forget_at(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let created = request.metadata.creation_timestamp.as_ref()?.0;
    let settled = ["Denied", "Failed", "Approved"].iter().find_map(|ty| since(request, ty));
    let at = match settled {
        Some(at) => at.checked_add(KEPT_SETTLED),
        None => created.checked_add(KEPT_PENDING),
    };
    at.ok()
}

/// Why a signer does not vouch for what is asked.
fn refusal(signer: &str, requested: &api::certificates::Requested, usages: &[String]) -> Option<String> {
    let kubelet = |usage: &str| -> Option<String> {
        let with_rsa = [usage, "digital signature", "key encipherment"];
        let fits = |wanted: &[&str]| {
            wanted.iter().all(|w| usages.iter().any(|u| u == w)) && usages.iter().all(|u| wanted.contains(&u.as_str()))
        };
        let mut names = with_rsa;
        names.sort_unstable();
        (!fits(&with_rsa) && !fits(&with_rsa[..2])).then(|| format!("usages did not match [{}]", names.join(" ")))
    };
    let refused = |bad: bool, text: &str| bad.then(|| text.to_owned());
    let organization = || {
        let bad = requested.organizations != ["system:nodes"];
        refused(bad, "subject organization is not system:nodes")
    };
    let node_name = || {
        let bad = !requested.common_name.starts_with("system:node:");
        refused(bad, "subject common name does not begin with system:node:")
    };
    let dns = || refused(!requested.dns_names.is_empty(), "DNS subjectAltNames are not allowed");
    let mail = || refused(!requested.email_addresses.is_empty(), "Email subjectAltNames are not allowed");
    let ips = || refused(!requested.ip_addresses.is_empty(), "IP subjectAltNames are not allowed");
    let uris = || refused(!requested.uris.is_empty(), "URI subjectAltNames are not allowed");
    match signer {
        KUBELET_CLIENT => organization()
            .or_else(node_name)
            .or_else(dns)
            .or_else(mail)
            .or_else(ips)
            .or_else(uris)
            .or_else(|| kubelet("client auth")),
        KUBELET_SERVING => {
            let nameless = requested.dns_names.is_empty() && requested.ip_addresses.is_empty();
            organization()
                .or_else(|| refused(nameless, "DNS or IP subjectAltName is required"))
                .or_else(mail)
                .or_else(uris)
                .or_else(|| kubelet("server auth"))
                .or_else(node_name)
        }
        CLIENT => {
            const ALLOWED: &[&str] = &["client auth", "digital signature", "key encipherment"];
            match usages.iter().find(|usage| !ALLOWED.contains(&usage.as_str())) {
                Some(usage) => Some(format!("invalid usage for client certificate: {usage}")),
                None if usages.iter().any(|usage| usage == "client auth") => None,
                None => Some("missing required usage for client certificate: client auth".to_owned()),
            }
        }
        _ => None,
    }
}

/// From when to when a certificate is good.
fn validity(now: Timestamp, asked: Option<i32>, longest: SignedDuration) -> (Timestamp, Timestamp) {
    let life =
        asked.map_or(longest, |seconds| SignedDuration::from_secs(i64::from(seconds)).max(SHORTEST).min(longest));
    let not_before = now - BACK_DATED;
    (not_before, if life < SHORT { now + life } else { not_before + life })
}

fn requested(request: &CertificateSigningRequest) -> Result<api::certificates::Requested, String> {
    api::certificates::parse_request(&STANDARD.encode(&request.spec.request.0))
}

impl Certificates {
    fn api(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client.clone())
    }

    /// Adds a condition through `door` (`approval` or `status`), with what else the status gets.
    async fn settle(
        &self,
        request: &CertificateSigningRequest,
        door: &str,
        condition: Option<Value>,
        certificate: Option<String>,
    ) -> Result<(), Error> {
        let name = request.metadata.name.as_deref().unwrap_or_default();
        let mut status = json!({});
        if let Some(condition) = condition {
            let known = request.status.as_ref().and_then(|s| s.conditions.as_ref());
            let mut conditions: Vec<Value> = known.into_iter().flatten().map(|c| json!(c)).collect();
            conditions.push(condition);
            status["conditions"] = json!(conditions);
        }
        if let Some(pem) = certificate {
            status["certificate"] = json!(STANDARD.encode(pem));
        }
        let version = &request.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let written = self.api().patch_subresource(door, name, &params, &patch).await;
        gone_is_fine(written).map_err(Error::api(format!("write {door} of certificate request {name}")))?;
        Ok(())
    }

    /// Approves a kubelet's request for its client certificate; true when it did.
    async fn approve(&self, request: &CertificateSigningRequest) -> Result<bool, Error> {
        let spec = &request.spec;
        if spec.signer_name != KUBELET_CLIENT {
            return Ok(false);
        }
        let Ok(requested) = requested(request) else { return Ok(false) };
        if refusal(KUBELET_CLIENT, &requested, spec.usages.as_deref().unwrap_or_default()).is_some() {
            return Ok(false);
        }
        let own = spec.username.as_deref() == Some(requested.common_name.as_str());
        let ways = [("selfnodeclient", "self kubelet client", own), ("nodeclient", "kubelet client", true)];
        for (subresource, what, _) in ways.iter().filter(|(.., fits)| *fits) {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": spec.username,
                    "uid": spec.uid,
                    "groups": spec.groups,
                    "extra": spec.extra,
                    "resourceAttributes": {
                        "group": "certificates.k8s.io",
                        "resource": "certificatesigningrequests",
                        "verb": "create",
                        "subresource": subresource,
                    },
                },
            });
            let review: SubjectAccessReview = serde_json::from_value(review)
                .map_err(|e| Error::Invalid { object: "a review".to_owned(), message: e.to_string() })?;
            let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer = answer.map_err(Error::api("review who asks for a certificate"))?;
            if !answer.status.is_some_and(|status| status.allowed) {
                continue;
            }
            let condition = json!({
                "type": "Approved",
                "status": "True",
                "reason": "AutoApproved",
                "message": format!("Auto approving {what} certificate after SubjectAccessReview."),
            });
            self.settle(request, "approval", Some(condition), None).await?;
            info!(request = request.metadata.name, node = requested.common_name, "approved certificate request");
            return Ok(true);
        }
        Ok(false)
    }

    /// Signs an approved request, or says why not.
    async fn sign(&self, request: &CertificateSigningRequest) -> Result<(), Error> {
        let Some(signing) = &self.config.signing else { return Ok(()) };
        let spec = &request.spec;
        let authority = match spec.signer_name.as_str() {
            CLIENT | KUBELET_CLIENT | LEGACY => &signing.clients,
            KUBELET_SERVING => &signing.servers,
            _ => return Ok(()),
        };
        let usages = spec.usages.as_deref().unwrap_or_default();
        let name = request.metadata.name.as_deref().unwrap_or_default();
        let checked = requested(request).and_then(|requested| {
            let refused = refusal(&spec.signer_name, &requested, usages);
            refused.map_or(Ok(requested), Err)
        });
        let longest = SignedDuration::try_from(signing.duration).unwrap_or(SignedDuration::MAX);
        let (not_before, not_after) = validity(self.clock.now(), spec.expiration_seconds, longest);
        let signed = checked.and_then(|requested| {
            let terms = pki::Terms { usages, not_before, not_after };
            authority.sign_request(&requested.der, &terms).map_err(|error| error.to_string())
        });
        match signed {
            Ok(pem) => {
                self.settle(request, "status", None, Some(pem)).await?;
                info!(request = name, signer = spec.signer_name, "signed certificate request");
            }
            Err(message) => {
                warn!(request = name, signer = spec.signer_name, message, "certificate request refused");
                let condition = json!({
                    "type": "Failed",
                    "status": "True",
                    "reason": "SignerValidationFailure",
                    "message": message,
                });
                self.settle(request, "status", Some(condition), None).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for Certificates {
    fn name(&self) -> &'static str {
        "certificatesigningrequest"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.requests.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(request) = self.requests.get(key) else { return Ok(None) };
        let (approved, denied) = (since(&request, "Approved").is_some(), since(&request, "Denied").is_some());
        let failed = since(&request, "Failed").is_some();
        if !approved && !denied && !failed && issued(&request).is_none() {
            // The approval itself brings us back.
            self.approve(&request).await?;
        } else if approved && !denied && !failed && issued(&request).is_none() {
            self.sign(&request).await?;
        }
        let Some(at) = forget_at(&request) else { return Ok(None) };
        let now = self.clock.now();
        if at > now {
            return Ok(Some(Duration::try_from(at.duration_since(now)).unwrap_or_default()));
        }
        let deleted = self.api().delete(&key.name, &DeleteParams::default()).await.map(|_| ());
        if gone_is_fine(deleted).map_err(Error::api(format!("delete certificate request {key}")))?.is_some() {
            info!(request = %key, "deleted old certificate request");
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::certificates::Requested;

    fn node() -> Requested {
        Requested {
            common_name: "system:node:n".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Requested::default()
        }
    }

    fn usages(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn signers_vouch_for_little() {
        let client = usages(&["digital signature", "client auth"]);
        assert_eq!(refusal(KUBELET_CLIENT, &node(), &client), None);
        let other = Requested { organizations: vec!["system:masters".to_owned()], ..node() };
        assert_eq!(
            refusal(KUBELET_CLIENT, &other, &client).as_deref(),
            Some("subject organization is not system:nodes")
        );
        let named = Requested { dns_names: vec!["n".to_owned()], ..node() };
        assert_eq!(refusal(KUBELET_CLIENT, &named, &client).as_deref(), Some("DNS subjectAltNames are not allowed"));
        let server = usages(&["digital signature", "key encipherment", "server auth"]);
        assert_eq!(refusal(KUBELET_SERVING, &named, &server), None);
        assert_eq!(
            refusal(KUBELET_SERVING, &named, &client).as_deref(),
            Some("usages did not match [digital signature key encipherment server auth]")
        );
        assert_eq!(refusal(CLIENT, &other, &client), None);
        assert_eq!(
            refusal(CLIENT, &other, &server).as_deref(),
            Some("invalid usage for client certificate: server auth")
        );
    }

    #[test]
    fn short_lives_are_whole() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let year = SignedDuration::from_hours(24 * 365);
        let life = |asked: Option<i32>| {
            let (from, to) = validity(now, asked, year);
            (now.duration_since(from).as_secs(), to.duration_since(now).as_secs())
        };
        assert_eq!(life(None), (300, year.as_secs() - 300));
        assert_eq!(life(Some(3600)), (300, 3600));
        assert_eq!(life(Some(1)), (300, 600));
        assert_eq!(life(Some(i32::MAX)), (300, year.as_secs() - 300));
    }

    #[test]
    fn settled_requests_are_forgotten_sooner() {
        let request = |conditions: Value| -> CertificateSigningRequest {
            serde_json::from_value(json!({
                "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "a.b/c"},
                "status": {"conditions": conditions},
            }))
            .expect("a request")
        };
        let at = |conditions: Value| forget_at(&request(conditions)).map(|t| t.to_string());
        assert_eq!(at(json!([])).as_deref(), Some("2026-01-02T00:00:00Z"));
        let denied = json!([{"type": "Denied", "status": "True", "lastUpdateTime": "2026-01-01T02:00:00Z"}]);
        assert_eq!(at(denied).as_deref(), Some("2026-01-01T03:00:00Z"));
    }
}
