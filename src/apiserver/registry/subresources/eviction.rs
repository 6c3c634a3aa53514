//! `pods/eviction`: a deletion that asks the pod's disruption budget first.
//!
//! Invariants:
//! - EV-1: a pod that a budget counts as healthy goes only when the budget allows one more disruption, and that one is
//!   taken from the budget before the pod is deleted.

use ::http::Response;
use apimachinery::gvk::GroupResource;
use apimachinery::labels::Selector;
use apimachinery::status::{Cause, Status};
use serde_json::{Value, json};

use super::super::admit::{Admission, Operation};
use super::super::options::{DeleteOptions, WriteOptions};
use super::super::{Cx, Written, codec, delete, meta};
use super::{created, set_condition};
use crate::cache::ObjectReader as _;
use crate::loopback::Writer as _;
use crate::{Body, Object};

const TRIES: usize = 64;
/// How often a budget that others change is tried.
const BUDGET_TRIES: usize = 10;
const BUDGETS: &str = "poddisruptionbudgets";
/// A budget with so many evictions under way takes no more.
const MAX_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";

pub async fn evict(cx: &Cx, body: &[u8]) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(cx, "CreateOptions", false)?;
    let kind = codec::body_kind("policy", "v1", "Eviction")?;
    let mut eviction = codec::decode_as(cx, &kind, body, options.validation)?;
    meta::match_namespace(cx, &mut eviction)?;
    let name = cx.info.name.as_str();
    if meta::text(&eviction, "name") != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut delete_options = DeleteOptions::of_value(&eviction["deleteOptions"])?;
    delete_options.dry_run |= options.dry_run;
    let Some(pod) = cx.current(&cx.key(name)).await else { return Err(cx.not_found(name)) };
    let admission = Admission::new(cx, Operation::Create, name, delete_options.dry_run);
    admission.mutate(&mut eviction, None).await?;
    admission.validate(&eviction, None).await?;
    if !unprotected(&pod) {
        ask_budget(cx, &pod, delete_options.dry_run).await?;
    }
    if pod.meta.deletion_timestamp.is_none() && !delete_options.dry_run {
        mark(cx, &delete_options).await?;
    }
    delete::delete_named(cx, name, &delete_options).await?;
    Ok(created(cx))
}

/// A pod that is finished, not yet running, or going anyway: no budget counts it.
fn unprotected(pod: &Object) -> bool {
    let value = pod.value();
    pod.meta.deletion_timestamp.is_some()
        || matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from the budget of the pod, if it has one.
async fn ask_budget(cx: &Cx, pod: &Object, dry_run: bool) -> Result<(), Status> {
    for _ in 0..BUDGET_TRIES {
        let mut budgets = Vec::new();
        for budget in cx.server.cache.list(BUDGETS, Some(&pod.meta.namespace)).await {
            let value = budget.value();
            if Selector::from_label_selector(&value["spec"]["selector"]).is_ok_and(|s| s.matches(&pod.meta.labels)) {
                budgets.push(value);
            }
        }
        if budgets.len() > 1 {
            return Err(Status::unknown(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let Some(mut budget) = budgets.pop() else { return Ok(()) };
        let value = pod.value();
        if !ready(&value) && unhealthy_may_go(&budget) {
            return Ok(());
        }
        take(cx, &mut budget, &pod.meta.name)?;
        if dry_run {
            return Ok(());
        }
        match write_status(cx, &budget).await {
            Err(status) if status.code == 409 => {}
            outcome => return outcome,
        }
    }
    Err(Status::too_many_requests(REFUSED, 10))
}

/// What a budget says of pods that are not ready.
fn unhealthy_may_go(budget: &Value) -> bool {
    if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
        return true;
    }
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy")
}

fn take(cx: &Cx, budget: &mut Value, pod: &str) -> Result<(), Status> {
    let name = meta::text(budget, "name").to_owned();
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let forbidden = |text: &str| Status::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), &name, text);
    let cause = |message: String| Cause { reason: CAUSE.into(), message, field: String::new() };
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if number("observedGeneration") < generation {
        let message = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Status::too_many_requests(REFUSED, 10).with_causes(vec![cause(message)]));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if budget["status"]["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        return Err(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        let message = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        );
        return Err(Status::too_many_requests(REFUSED, 0).with_causes(vec![cause(message)]));
    }
    let now = meta::timestamp(cx.now());
    apimachinery::value::set(budget, &["status", "disruptionsAllowed"], allowed - 1);
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed",
            "status": "False",
            "reason": "InsufficientPods",
            "message": "",
            "observedGeneration": generation,
            "lastTransitionTime": now,
        });
        set_condition(budget, condition);
    }
    apimachinery::value::set(budget, &["status", "disruptedPods", pod], now);
    Ok(())
}

/// Writes the budget's status as the server itself, through the front door.
async fn write_status(cx: &Cx, budget: &Value) -> Result<(), Status> {
    let path = format!(
        "/apis/policy/v1/namespaces/{}/{BUDGETS}/{}/status",
        meta::text(budget, "namespace"),
        meta::text(budget, "name")
    );
    cx.server.put(&path, budget).await
}

/// Says in the pod's status why it goes.
async fn mark(cx: &Cx, options: &DeleteOptions) -> Result<(), Status> {
    let name = cx.info.name.as_str();
    let key = cx.key(name);
    let mut current = cx.current(&key).await;
    for _ in 0..TRIES {
        let Some(old) = current else { return Err(cx.not_found(name)) };
        delete::check_preconditions(cx, &old, options)?;
        let mut pod = old.value();
        set_condition(
            &mut pod,
            json!({
                "type": "DisruptionTarget",
                "status": "True",
                "lastProbeTime": null,
                "lastTransitionTime": meta::timestamp(cx.now()),
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
            }),
        );
        match cx.put(&key, &pod, Some(&old)).await? {
            Written::Done(_) => return Ok(()),
            Written::Lost(found) => current = found,
        }
    }
    Err(Status::server_timeout(&cx.group_resource(), "create", 1))
}
