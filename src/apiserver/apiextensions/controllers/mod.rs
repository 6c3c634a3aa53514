//! What the API server itself does with CustomResourceDefinitions: names are accepted, the resource is established,
//! conditions are kept, and a deleted definition takes its custom resources along.
//!
//! Watches CustomResourceDefinitions; writes their status through the server's own front door.
//!
//! Invariants:
//! - XC-1: one worker decides about names, on the newest state: no name is accepted twice in a group.
//! - XC-2: level-triggered: every definition is looked at once at start, and after every change.
//! - XC-3: a definition goes only after the last of its custom resources.

mod finalizer;
mod naming;
mod writer;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::apiextensions::conditions;
use api::apiextensions::customresourcedefinition::{STORAGE_KEY, structural_condition};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::cache::{Event, EventType, ObjectReader as _};
use crate::{ApiServer, Server};
use writer::{Refused, Writer};

/// After a failed write; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs until the server stops.
pub async fn run(api: ApiServer) {
    let server = api.server.clone();
    let Some(mut changes) = server.cache.subscribe(STORAGE_KEY) else { return };
    let (again, mut requeued) = mpsc::unbounded_channel();
    let mut worker = Worker {
        writer: Writer::new(&api),
        server: server.clone(),
        again,
        failures: HashMap::new(),
        structured: HashMap::new(),
        finalizing: Arc::default(),
    };
    let mut queue: BTreeSet<String> = worker.all_names();
    loop {
        while let Some(name) = queue.pop_first() {
            worker.work(&name, &mut queue).await;
        }
        tokio::select! {
            change = changes.recv() => match change {
                Ok(event) => worker.note(&event, &mut queue),
                Err(RecvError::Lagged(_)) => queue.extend(worker.all_names()),
                Err(RecvError::Closed) => return,
            },
            name = requeued.recv() => queue.extend(name),
        }
    }
}

struct Worker {
    writer: Writer,
    server: Arc<Server>,
    again: mpsc::UnboundedSender<String>,
    /// Failed tries in a row.
    failures: HashMap<String, u32>,
    /// Uid and generation of which the structure of the schemas is known.
    structured: HashMap<String, (String, i64)>,
    /// Definitions whose custom resources are being deleted.
    finalizing: Arc<Mutex<BTreeSet<String>>>,
}

impl Worker {
    fn all_names(&self) -> BTreeSet<String> {
        self.server.cache.peek_all(STORAGE_KEY, None).iter().map(|object| object.meta.name.clone()).collect()
    }

    fn note(&mut self, event: &Event, queue: &mut BTreeSet<String>) {
        let name = &event.object.meta.name;
        if event.ty == EventType::Deleted {
            self.structured.remove(name);
            self.failures.remove(name);
            // its names are free now
            queue.extend(self.others_of_group(name));
        } else {
            queue.insert(name.clone());
        }
    }

    /// The other definitions of the group that the name of this one says.
    fn others_of_group(&self, name: &str) -> Vec<String> {
        let Some((_, group)) = name.split_once('.') else { return Vec::new() };
        let all = self.all_names().into_iter();
        all.filter(|other| other != name && other.split_once('.').is_some_and(|(_, own)| own == group)).collect()
    }

    async fn work(&mut self, name: &str, queue: &mut BTreeSet<String>) {
        match self.sync(name, queue).await {
            Ok(()) => {
                self.failures.remove(name);
            }
            // somebody was faster: the change brings us back
            Err(refused) if refused.is_conflict() => debug!(crd = name, "changed meanwhile"),
            Err(refused) => {
                let count = self.failures.entry(name.to_owned()).or_default();
                *count += 1;
                let pause = FIRST_PAUSE.saturating_mul(1 << (*count).min(16)).min(LONGEST_PAUSE);
                warn!(crd = name, error = %refused, "cannot update the status of a definition");
                self.requeue_after(name, pause);
            }
        }
    }

    fn requeue_after(&self, name: &str, pause: Duration) {
        let (again, clock, name) = (self.again.clone(), self.server.clock.clone(), name.to_owned());
        self.server.tasks.spawn(async move {
            clock.sleep(pause).await;
            let _ = again.send(name);
        });
    }

    async fn sync(&mut self, name: &str, queue: &mut BTreeSet<String>) -> Result<(), Refused> {
        let Some(object) = self.server.cache.get(STORAGE_KEY, "", name).await else { return Ok(()) };
        let mut crd = object.value();
        let now = crate::registry::timestamp(self.server.clock.now());
        let others = self.accepted_in_group(&crd);
        if naming::decide(&mut crd, &others, &now) {
            crd = self.writer.put_status(name, &crd).await?;
            queue.extend(self.others_of_group(name));
        }
        // The names were seen by everybody before the resource is called established: who waits for that finds it.
        if naming::establish(&mut crd, &now) {
            crd = self.writer.put_status(name, &crd).await?;
        }
        if self.check_structure(name, &mut crd, &now) {
            crd = self.writer.put_status(name, &crd).await?;
        }
        if let Some(condition) = conditions::approval_condition(&crd) {
            if !conditions::find(&crd, condition.ty).is_some_and(|known| condition.equals(known)) {
                conditions::set(&mut crd, &condition, &now);
                crd = self.writer.put_status(name, &crd).await?;
            }
        }
        if conditions::is_deleting(&crd) && conditions::has_finalizer(&crd) {
            self.finalize(name);
        }
        Ok(())
    }

    /// The accepted names of the other definitions of the group.
    fn accepted_in_group(&self, crd: &Value) -> Vec<Value> {
        let (name, group) = (crd["metadata"]["name"].as_str(), crd["spec"]["group"].as_str());
        let named = |object: &&Arc<crate::Object>| {
            let own = object.meta.name.as_str();
            Some(own) != name && own.split_once('.').map(|(_, group)| group) == group
        };
        let all = self.server.cache.peek_all(STORAGE_KEY, None);
        all.iter().filter(named).map(|object| object.value()["status"]["acceptedNames"].take()).collect()
    }

    /// Brings the condition about the schemas' structure up to date. True: it changed.
    fn check_structure(&mut self, name: &str, crd: &mut Value, now: &str) -> bool {
        let uid = crd["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let seen = (uid, crd["metadata"]["generation"].as_i64().unwrap_or_default());
        if self.structured.get(name) == Some(&seen) {
            return false;
        }
        self.structured.insert(name.to_owned(), seen);
        let known = conditions::find(crd, conditions::NON_STRUCTURAL);
        match (structural_condition(crd), known) {
            (None, None) => false,
            (Some(condition), Some(known)) if condition.equals(known) => false,
            (Some(condition), _) => {
                conditions::set(crd, &condition, now);
                true
            }
            (None, Some(_)) => {
                conditions::remove(crd, conditions::NON_STRUCTURAL);
                true
            }
        }
    }

    /// Deletes the custom resources in a task of its own: that can take long.
    fn finalize(&self, name: &str) {
        if !self.finalizing.lock().insert(name.to_owned()) {
            return;
        }
        let (server, writer, name) = (self.server.clone(), self.writer.clone(), name.to_owned());
        let (finalizing, again) = (self.finalizing.clone(), self.again.clone());
        self.server.tasks.spawn(async move {
            let retry = finalizer::finalize(&server, &writer, &name).await;
            finalizing.lock().remove(&name);
            if let Some(pause) = retry {
                server.clock.sleep(pause).await;
                let _ = again.send(name);
            }
        });
    }
}
