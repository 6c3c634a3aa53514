//! API priority and fairness (KEP-1040): a flood of one tenant's requests does not keep the others' from being served.
//!
//! A request is matched to a flow schema, which names its priority level; the level has seats. See `dispatch` for who
//! gets them.
//!
//! Invariants:
//! - PF-1: there always is a matching schema: the mandatory ones are known even before they are stored.
//! - PF-2: a change of the objects counts from the next request on; nothing polls.

mod conditions;
mod dispatch;
mod dump;
mod level;
mod schema;
mod shard;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::http::header::{HeaderName, RETRY_AFTER};
use ::http::{HeaderValue, Response};
use api::flowcontrol::bootstrap;
use arc_swap::ArcSwap;
use component_base::{Metrics, SharedClock};
use futures::FutureExt as _;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::Value;

use crate::attributes::{RequestInfo, User};
use crate::cache::ObjectReader;
use crate::wire::respond;
use crate::{Body, Server};
use dispatch::{Details, Dispatcher, Seats};
use level::Level;
use schema::Schema;

pub use conditions::run;

const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Objects that one seat lists, and the most seats of a list (upstream's).
const OBJECTS_PER_SEAT: usize = 100;
const MOST_SEATS: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dispatched {
    priority_level: String,
    flow_schema: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

/// What the objects say, compiled.
#[derive(Default)]
struct Compiled {
    /// In the order in which they are asked.
    schemas: Vec<Schema>,
    levels: Vec<Arc<Level>>,
}

/// Priority and fairness of one server.
pub struct FlowControl {
    compiled: ArcSwap<Compiled>,
    dispatcher: Arc<Dispatcher>,
    /// Seats of the whole server.
    seats: i64,
    /// A level keeps its id as long as it has its name.
    ids: Mutex<HashMap<String, u64>>,
    dispatched: Family<Dispatched, Counter>,
    rejected: Family<Rejected, Counter>,
}

/// A request that may run; dropping it ends its run.
pub struct Ticket {
    marks: Option<(Option<HeaderValue>, Option<HeaderValue>)>,
    _seats: Option<Seats>,
    exempt: Option<Arc<Level>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(level) = &self.exempt {
            level.executing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Ticket {
    /// A request that is none of priority and fairness' business.
    fn free() -> Self {
        Self { marks: None, _seats: None, exempt: None }
    }

    /// Says in the response which objects decided.
    pub fn mark(&self, response: &mut Response<Body>) {
        let Some((schema, level)) = &self.marks else { return };
        mark(response, schema.as_ref(), level.as_ref());
    }
}

fn mark(response: &mut Response<Body>, schema: Option<&HeaderValue>, level: Option<&HeaderValue>) {
    for (name, uid) in [(SCHEMA_HEADER, schema), (LEVEL_HEADER, level)] {
        if let Some(uid) = uid {
            response.headers_mut().insert(name, uid.clone());
        }
    }
}

impl FlowControl {
    /// `seats`: how many requests may run at once.
    pub fn new(seats: i64, reader: &dyn ObjectReader, clock: SharedClock, metrics: &Metrics) -> Self {
        let this = Self {
            compiled: ArcSwap::default(),
            dispatcher: Dispatcher::new(clock),
            seats,
            ids: Mutex::default(),
            dispatched: metrics.register(
                "apiserver_flowcontrol_dispatched_requests",
                "Number of requests executed by API Priority and Fairness subsystem",
                Family::default(),
            ),
            rejected: metrics.register(
                "apiserver_flowcontrol_rejected_requests",
                "Number of requests rejected by API Priority and Fairness subsystem",
                Family::default(),
            ),
        };
        this.reconfigure(reader);
        this
    }

    /// Reads the objects as they are now.
    pub fn reconfigure(&self, reader: &dyn ObjectReader) {
        let stored = |key: &str, kind: &str| -> Vec<Value> {
            let mut all: Vec<Value> = reader.peek_all(key, None).iter().map(|object| object.value()).collect();
            let fresh = all.is_empty();
            for wanted in bootstrap::objects(kind) {
                let name = wanted["metadata"]["name"].clone();
                let missing = !all.iter().any(|known| known["metadata"]["name"] == name);
                if missing && (fresh || bootstrap::is_mandatory(name.as_str().unwrap_or_default())) {
                    all.push(wanted);
                }
            }
            all
        };
        let configured = stored(LEVELS, "PriorityLevelConfiguration");
        let limits = level::limits(&configured, self.seats);
        let before = self.compiled.load();
        let levels: Vec<Arc<Level>> = configured.iter().map(|object| self.level(object, &before)).collect();
        let limited = levels.iter().zip(&limits).filter(|(level, _)| !level.exempt);
        self.dispatcher.configure(limited.map(|(level, limits)| (level.id, level.name.clone(), *limits)));
        let mut schemas: Vec<Schema> = Vec::new();
        for object in stored(SCHEMAS, "FlowSchema") {
            let wanted = &object["spec"]["priorityLevelConfiguration"]["name"];
            // One that dangles matches nothing.
            let Some(level) = levels.iter().find(|level| level.name == *wanted) else { continue };
            let labels = Dispatched {
                priority_level: level.name.clone(),
                flow_schema: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            };
            let counter = self.dispatched.get_or_create(&labels).clone();
            schemas.push(Schema::new(&object, level.clone(), counter));
        }
        schemas.sort_by(|a, b| a.rank().cmp(&b.rank()));
        self.compiled.store(Arc::new(Compiled { schemas, levels }));
    }

    fn level(&self, object: &Value, before: &Compiled) -> Arc<Level> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let (uid, exempt) = (schema::uid_header(object), level::is_exempt(object));
        let known = before.levels.iter().find(|level| level.name == name && level.uid == uid && level.exempt == exempt);
        if let Some(known) = known {
            return known.clone();
        }
        let mut ids = self.ids.lock();
        let next = ids.len() as u64;
        let id = *ids.entry(name.to_owned()).or_insert(next);
        let (executing, dispatched) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Level { id, name: name.to_owned(), uid, exempt, executing, dispatched })
    }

    /// Returns when the request may run.
    ///
    /// # Errors
    /// The response that turns it away.
    pub async fn enter(&self, server: &Server, user: &User, info: &RequestInfo) -> Result<Ticket, Response<Body>> {
        if is_long_running(info) {
            return Ok(Ticket::free());
        }
        let compiled = self.compiled.load();
        let Some(at) = compiled.schemas.iter().position(|schema| schema.matches(user, info)) else {
            return Ok(Ticket::free());
        };
        let schema = &compiled.schemas[at];
        let level = &schema.level;
        let marks = Some((schema.uid.clone(), level.uid.clone()));
        if level.exempt {
            schema.dispatched.inc();
            level.executing.fetch_add(1, Ordering::Relaxed);
            level.dispatched.fetch_add(1, Ordering::Relaxed);
            return Ok(Ticket { marks, _seats: None, exempt: Some(level.clone()) });
        }
        let seats = seats(server, info);
        if let Some(seats) = self.dispatcher.try_enter(level.id, seats) {
            schema.dispatched.inc();
            return Ok(Ticket { marks, _seats: Some(seats), exempt: None });
        }
        let compiled = arc_swap::Guard::into_inner(compiled);
        let seats = self.wait(&compiled.schemas[at], seats, user, info).boxed().await?;
        Ok(Ticket { marks, _seats: Some(seats), exempt: None })
    }

    async fn wait(
        &self,
        schema: &Schema,
        seats: i64,
        user: &User,
        info: &RequestInfo,
    ) -> Result<Seats, Response<Body>> {
        let level = &schema.level;
        match self.dispatcher.enter(level.id, seats, || details(schema, user, info)).await {
            Ok(seats) => {
                schema.dispatched.inc();
                Ok(seats)
            }
            Err((why, retry_after)) => {
                let (priority_level, flow_schema) = (level.name.clone(), schema.name.clone());
                self.rejected.get_or_create(&Rejected { priority_level, flow_schema, reason: why.reason() }).inc();
                let mut response = respond::text(429, "Too many requests, please try again later.\n");
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
                mark(&mut response, schema.uid.as_ref(), level.uid.as_ref());
                Err(response)
            }
        }
    }

    /// A page of `/debug/api_priority_and_fairness/`; `None`: no such page.
    pub fn dump(&self, page: &str, details: bool) -> Option<String> {
        dump::page(page, details, &self.compiled.load().levels, &self.dispatcher)
    }
}

/// What runs as long as the client likes takes no seat; a watch does until it is set up.
fn is_long_running(info: &RequestInfo) -> bool {
    info.is_resource
        && (info.verb == "proxy"
            || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward"))
}

/// A list of many objects is as much work as several requests.
fn seats(server: &Server, info: &RequestInfo) -> i64 {
    if info.verb != "list" || !info.name.is_empty() {
        return 1;
    }
    let Some(kind) = server.kinds.find(&info.group, &info.version, &info.resource) else { return 1 };
    let Some(resource) = server.cache.resource(&kind.storage_key) else { return 1 };
    let stored = resource.snapshot().len();
    let limit = info.query.get("limit").and_then(|limit| limit.parse::<usize>().ok()).filter(|limit| *limit > 0);
    let objects = limit.map_or(stored, |limit| limit.min(stored));
    i64::try_from(objects.div_ceil(OBJECTS_PER_SEAT).clamp(1, MOST_SEATS)).unwrap_or(1)
}

fn details(schema: &Schema, user: &User, info: &RequestInfo) -> Details {
    Details {
        schema: schema.name.clone(),
        flow: schema.flow(user, info).to_owned(),
        user: user.name.clone(),
        verb: info.verb.clone(),
        path: info.path.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        api_version: if info.is_resource { info.api_version() } else { String::new() },
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
    }
}

#[cfg(test)]
mod tests;
