//! ResourceQuota: nothing is made that its namespace has no quota left for.
//!
//! Invariants:
//! - RQ-2: what a request takes is written into the quota's status, at the version it was decided on, before the
//!   request's object is stored: any number of writers together never take more than there is.
//! - RQ-3: in a namespace one decision is under way at a time; who waits meanwhile is decided together with the others
//!   that wait, by one write.

mod check;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::quota::{Measure, is_ignored, to_json};
use apimachinery::status::Status;
use async_trait::async_trait;
use component_base::SharedClock;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

pub use check::LimitedResource;
use check::{Ask, Quota, check};

use super::{AdmissionRequest, Operation, Plugin};
use crate::cache::{Object, ObjectReader};
use crate::loopback::Writer;

const QUOTAS: &str = "resourcequotas";
/// How often a quota that others change is tried again (upstream's number).
const RETRIES: usize = 3;

#[derive(Debug, Clone)]
enum Refusal {
    Forbidden(String),
    Failed(Status),
}

struct Waiting {
    ask: Ask,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

impl Waiting {
    fn answer(self, outcome: Result<(), Refusal>) {
        // Who does not wait any more needs no answer.
        let _ = self.answer.send(outcome);
    }
}

#[derive(Default)]
struct Line {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by the one that decides.
    turn: tokio::sync::Mutex<()>,
}

pub struct ResourceQuota {
    clock: SharedClock,
    limited: Vec<LimitedResource>,
    lines: Mutex<HashMap<String, Arc<Line>>>,
}

impl ResourceQuota {
    pub fn new(clock: SharedClock, limited: Vec<LimitedResource>) -> Self {
        Self { clock, limited, lines: Mutex::default() }
    }

    async fn decide(&self, request: &AdmissionRequest<'_>, ask: Ask) -> Result<(), Refusal> {
        let line = self.lines.lock().entry(request.namespace.to_owned()).or_default().clone();
        let outcome = self.wait(request, &line, ask).await;
        drop(line);
        let mut lines = self.lines.lock();
        // Nobody but the map holds it: it is not in use.
        if lines.get(request.namespace).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(request.namespace);
        }
        outcome
    }

    async fn wait(&self, request: &AdmissionRequest<'_>, line: &Line, ask: Ask) -> Result<(), Refusal> {
        loop {
            let (answer, mut answered) = oneshot::channel();
            line.waiting.lock().push(Waiting { ask: ask.clone(), answer });
            let _turn = line.turn.lock().await;
            match answered.try_recv() {
                Ok(outcome) => return outcome,
                // The one that decided for us was interrupted: ask again.
                Err(oneshot::error::TryRecvError::Closed) => continue,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let all = std::mem::take(&mut *line.waiting.lock());
            self.settle(request.namespace, all, request.reader, request.writer).await;
            if let Ok(outcome) = answered.try_recv() {
                return outcome;
            }
        }
    }

    /// Answers all of them.
    async fn settle(&self, namespace: &str, mut all: Vec<Waiting>, reader: &dyn ObjectReader, writer: &dyn Writer) {
        let mut only: Option<HashSet<String>> = None;
        let mut last = None;
        for _ in 0..=RETRIES {
            let objects = reader.list(QUOTAS, Some(namespace)).await;
            let objects: Vec<&Arc<Object>> =
                objects.iter().filter(|q| only.as_ref().is_none_or(|only| only.contains(&q.meta.name))).collect();
            let values: Vec<Value> = objects.iter().map(|object| object.value()).collect();
            let before: Vec<Quota> = values.iter().map(Quota::of_value).collect();
            let mut quotas = before.clone();
            let mut charged = Vec::new();
            for waiting in all {
                if waiting.answer.is_closed() {
                    continue;
                }
                match check(&quotas, &waiting.ask, &self.limited, self.clock.now()) {
                    Err(text) => waiting.answer(Err(Refusal::Forbidden(text))),
                    Ok(Some(after)) if !waiting.ask.dry_run => {
                        quotas = after;
                        charged.push(waiting);
                    }
                    Ok(_) => waiting.answer(Ok(())),
                }
            }
            all = charged;
            let mut failed = HashSet::new();
            for ((value, before), after) in values.into_iter().zip(&before).zip(&quotas) {
                if before.used == after.used {
                    continue;
                }
                if let Err(status) = charge(namespace, value, after, writer).await {
                    failed.insert(after.name.clone());
                    last = Some(status);
                }
            }
            if failed.is_empty() {
                all.into_iter().for_each(|waiting| waiting.answer(Ok(())));
                return;
            }
            only = Some(failed);
        }
        let status = last.unwrap_or_else(|| Status::internal("resource quota evaluation timed out"));
        all.into_iter().for_each(|waiting| waiting.answer(Err(Refusal::Failed(status.clone()))));
    }
}

async fn charge(namespace: &str, mut value: Value, quota: &Quota, writer: &dyn Writer) -> Result<(), Status> {
    apimachinery::value::set(&mut value, &["status", "used"], to_json(&quota.used));
    writer.put(&format!("/api/v1/namespaces/{namespace}/{QUOTAS}/{}/status", quota.name), &value).await
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let of_namespace = request.is("", "namespaces");
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || request.namespace.is_empty() || of_namespace {
            return Ok(());
        }
        let (group, resource) = (request.kind.group.as_ref(), request.kind.plural.as_ref());
        if is_ignored(group, resource) {
            return Ok(());
        }
        let measure = Measure::of(group, resource);
        let old = request.old_object.filter(|_| request.operation == Operation::Update);
        if !measure.handles(request.subresource, object, old) {
            return Ok(());
        }
        // Where the cache knows none, one may just have been made.
        let none = request.reader.peek_all(QUOTAS, Some(request.namespace)).is_empty()
            && request.reader.list(QUOTAS, Some(request.namespace)).await.is_empty();
        if none && self.limited.is_empty() {
            return Ok(());
        }
        let ask = Ask {
            measure,
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: request.subresource.to_owned(),
            object: object.clone(),
            old: old.cloned(),
            dry_run: request.dry_run,
        };
        self.decide(request, ask).await.map_err(|refusal| match refusal {
            Refusal::Forbidden(text) => request.forbidden(text),
            Refusal::Failed(status) => status,
        })
    }
}
