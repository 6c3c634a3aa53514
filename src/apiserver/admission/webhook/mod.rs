//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: others, over HTTPS, who may change or refuse a request.
//!
//! Invariants:
//! - HK-1: webhooks are asked in the order of their configurations' names, and within one in its order.
//! - HK-2: a webhook that cannot be asked refuses the request, unless its failurePolicy is Ignore.
//! - HK-3: a dry run is not shown to webhooks that have side effects.

mod mutating;
mod review;
mod validating;

pub use mutating::MutatingWebhooks;
pub use validating::ValidatingWebhooks;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::goformat::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::expression::{Condition, Questions, conditions, hold};
use super::live::Live;
use super::matching::{Criteria, Subject};
use super::shown::{NULL, Shown};
use super::{AdmissionRequest, list, text};
use crate::Object;
use crate::cache::ObjectReader;
use crate::webhooks::{Caller, Endpoint};
use review::Refused;

/// One webhook of a configuration.
struct Hook {
    configuration: String,
    name: String,
    /// Configuration, webhook, and which of that name.
    id: String,
    criteria: Criteria,
    conditions: Vec<Condition>,
    endpoint: Endpoint,
    timeout: Duration,
    ignore: bool,
    /// May be shown dry runs.
    dry: bool,
    /// `reinvocationPolicy: IfNeeded`
    again: bool,
    /// The first version of AdmissionReview that both sides speak.
    version: Option<&'static str>,
}

/// The webhooks of one configuration.
struct Configured {
    object: Arc<Object>,
    hooks: Vec<Arc<Hook>>,
}

#[derive(Default)]
struct Hooks {
    configured: Vec<Configured>,
    /// All of them, in order.
    all: Vec<Arc<Hook>>,
}

impl Hook {
    fn read_all(object: &Arc<Object>) -> Vec<Arc<Self>> {
        let value = object.value();
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let configuration = &object.meta.name;
        let read = |hook| {
            let name = text(hook, "name");
            let count = seen.entry(name).or_default();
            let id = format!("{configuration}/{name}/{count}");
            *count += 1;
            Arc::new(Self::read(hook, configuration, id))
        };
        list(&value, "webhooks").iter().map(read).collect()
    }

    fn read(hook: &Value, configuration: &str, id: String) -> Self {
        let versions = list(hook, "admissionReviewVersions").iter().filter_map(Value::as_str);
        let version = |version: &str| ["v1", "v1beta1"].into_iter().find(|known| *known == version);
        Self {
            configuration: configuration.to_owned(),
            name: text(hook, "name").to_owned(),
            id,
            criteria: Criteria::of_webhook(hook),
            conditions: conditions(hook, false),
            endpoint: Endpoint::read(&hook["clientConfig"]),
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
            ignore: text(hook, "failurePolicy") == "Ignore",
            dry: matches!(text(hook, "sideEffects"), "None" | "NoneOnDryRun"),
            again: text(hook, "reinvocationPolicy") == "IfNeeded",
            version: versions.into_iter().find_map(version),
        }
    }
}

/// The webhooks that there are now; `None` when there are none.
fn hooks(live: &Live<Hooks>, reader: &dyn ObjectReader) -> Option<Arc<Hooks>> {
    live.get(reader, |objects, known| {
        let old: HashMap<*const Object, &Configured> = known
            .iter()
            .flat_map(|known| &known.configured)
            .map(|configured| (Arc::as_ptr(&configured.object), configured))
            .collect();
        let make = |object: &Arc<Object>| Configured {
            object: object.clone(),
            hooks: match old.get(&Arc::as_ptr(object)) {
                Some(known) => known.hooks.clone(),
                None => Hook::read_all(object),
            },
        };
        let configured: Vec<Configured> = objects.iter().flatten().map(make).collect();
        let all = configured.iter().flat_map(|configured| configured.hooks.iter().cloned()).collect();
        Hooks { configured, all }
    })
}

/// The request as the webhook sees it, if it is to be asked.
async fn relevant<'v>(
    hook: &Hook,
    subject: &Subject<'v>,
    questions: &Questions<'_>,
    object: &'v Value,
) -> Result<Option<Shown<'v>>, Status> {
    let Some(found) = hook.criteria.matches(subject, object)? else { return Ok(None) };
    let shown = Shown::new(subject, found, object).await.map_err(Status::internal)?;
    let held = hold(&hook.conditions, &shown.bare(&NULL, questions), hook.ignore).await;
    match held {
        Ok(true) => Ok(Some(shown)),
        Ok(false) => Ok(None),
        Err(error) => Err(Status::forbidden(&subject.request.resource(), subject.request.name, error)),
    }
}

/// Why a request goes no further, or that a webhook which failed is passed over.
enum Failed {
    /// The webhook, or this server, says no.
    Refused(Status),
    /// It could not be asked.
    Call(String),
}

impl Failed {
    /// HK-2. `Ok`: go on.
    fn settle(self, hook: &Hook, request: &AdmissionRequest<'_>, note: &str) -> Result<(), Status> {
        match self {
            Self::Refused(status) => Err(status),
            Self::Call(error) => {
                let text = format!("failed calling webhook {}: {error}", quote(&hook.name));
                if !hook.ignore {
                    return Err(Status::internal(text));
                }
                tracing::warn!(webhook = %hook.name, error, "failed calling a webhook, which is passed over");
                request.notes.annotate(note, &hook.name);
                Ok(())
            }
        }
    }
}

/// Asks a webhook; the patch that it wants, if any.
async fn ask(
    hook: &Hook,
    caller: &Caller,
    subject: &Subject<'_>,
    shown: &Shown<'_>,
    object: &Value,
    mutating: bool,
) -> Result<Option<Vec<u8>>, Failed> {
    let request = subject.request;
    if request.dry_run && !hook.dry {
        let text = format!("admission webhook {} does not support dry run", quote(&hook.name));
        return Err(Failed::Refused(Status::bad_request(text)));
    }
    let Some(version) = hook.version else {
        let text =
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(Failed::Call(text.to_owned()));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let review = review::request(version, &uid, request, subject.kind_of(&shown.found), object, &shown.old);
    let answer = caller.post(request.reader, &hook.endpoint, &review, hook.timeout).await;
    let answer = answer.map_err(|error| Failed::Call(format!("failed to call webhook: {error}")))?;
    let verdict = review::verdict(version, &uid, &answer, mutating)
        .map_err(|error| Failed::Call(format!("received invalid webhook response: {error}")))?;
    for (key, value) in verdict.annotations {
        request.notes.annotate(format!("{}/{key}", hook.name), value);
    }
    for warning in verdict.warnings {
        request.warn(warning);
    }
    match verdict.refused {
        None => Ok(verdict.patch),
        Some(Refused(result)) => Err(Failed::Refused(review::denied(&hook.name, result))),
    }
}
