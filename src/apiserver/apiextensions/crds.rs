//! From stored definitions to served kinds: follows the definitions and keeps [`Kinds`] and the cache in step.
//!
//! Invariants:
//! - XK-1: a resource's cache is loaded before its kinds can be found, and its kinds are gone before its cache is.
//! - XK-2: a change that means nothing for serving touches nothing: watches go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use component_base::TaskGroup;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tracing::{info, warn};

use super::conversion::Converter;
use super::definition::{Definition, condition, essence};
use super::openapi::Documents;
use super::{objects, strategy};
use crate::cache::{Cache, ObjectReader as _, Restore, SelectableFields};
use crate::{Kinds, Object};

/// Where definitions are stored.
pub const KEY: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// The definitions that are served now.
pub struct Crds {
    kinds: Arc<Kinds>,
    cache: Arc<Cache>,
    known: Mutex<BTreeMap<String, Known>>,
    pub(super) documents: Documents,
}

struct Known {
    essence: Value,
    terminating: bool,
    served: Option<Arc<Definition>>,
}

impl Crds {
    /// Serves what is defined already, then follows.
    pub async fn start(kinds: Arc<Kinds>, cache: Arc<Cache>, tasks: &TaskGroup) -> Arc<Self> {
        let this = Arc::new(Self { kinds, cache, known: Mutex::default(), documents: Documents::default() });
        // The subscription comes first: what changes while the present is read is seen twice, never missed.
        if let Some(mut changes) = this.cache.subscribe(KEY) {
            this.sync().await;
            let following = this.clone();
            tasks.spawn(async move {
                loop {
                    match changes.recv().await {
                        Ok(_) | Err(RecvError::Lagged(_)) => {
                            // Several changes at once are one step.
                            while changes.try_recv().is_ok() {}
                            following.sync().await;
                        }
                        Err(RecvError::Closed) => {
                            // The resource was loaded anew.
                            match following.cache.subscribe(KEY) {
                                Some(fresh) => changes = fresh,
                                None => return,
                            }
                            following.sync().await;
                        }
                    }
                }
            });
        }
        this
    }

    /// The served definition of a name (`foos.example.com`).
    pub fn get(&self, name: &str) -> Option<Arc<Definition>> {
        self.known.lock().get(name).and_then(|known| known.served.clone())
    }

    /// The stored definitions that are served, by name.
    pub fn stored(&self) -> Vec<(Arc<Definition>, Arc<Object>)> {
        let known = self.known.lock();
        let all = self.cache.peek_all(KEY, None).into_iter();
        all.filter_map(|object| Some((known.get(&object.meta.name)?.served.clone()?, object))).collect()
    }

    /// Brings what is served in line with what is defined.
    async fn sync(&self) {
        let present = self.cache.peek_all(KEY, None);
        let mut changed = false;
        let mut gone: Vec<String> = Vec::new();
        {
            let mut known = self.known.lock();
            known.retain(|name, old| {
                let there = present.iter().any(|object| object.meta.name == *name);
                if !there {
                    gone.extend(old.served.as_ref().map(|definition| definition.storage_key()));
                    changed = true;
                }
                there
            });
        }
        for object in &present {
            let crd = object.value();
            let essence = essence(&crd);
            let terminating = condition(&crd, "Terminating");
            let before = {
                let mut known = self.known.lock();
                match known.get_mut(&object.meta.name) {
                    Some(known) if known.essence == essence && known.terminating == terminating => continue,
                    Some(known) if known.essence == essence => {
                        // The objects and their form stay as they are.
                        known.terminating = terminating;
                        let same = known.served.take();
                        known.served =
                            same.map(|same| Arc::new(Definition { terminating, ..Definition::clone(&same) }));
                        changed = true;
                        continue;
                    }
                    Some(known) => known.served.clone(),
                    None => None,
                }
            };
            let served = Definition::read(&crd).map(Arc::new);
            match (&before, &served) {
                (_, Some(definition)) => {
                    if !self.load(definition).await {
                        warn!(crd = definition.name, "cannot load the objects of a custom resource");
                        continue;
                    }
                    info!(crd = definition.name, "serves a custom resource");
                }
                (Some(old), None) => gone.push(old.storage_key()),
                (None, None) => {}
            }
            changed |= before.is_some() || served.is_some();
            self.known.lock().insert(object.meta.name.clone(), Known { essence, terminating, served });
        }
        if changed {
            self.documents.clear();
            let known = self.known.lock();
            let definitions = known.values().filter_map(|known| known.served.as_ref());
            self.kinds.replace_custom(definitions.flat_map(strategy::kinds).collect());
        }
        for key in gone {
            info!(resource = key, "serves a custom resource no more");
            self.cache.remove_resource(&key).await;
        }
    }

    /// Makes the cache of a definition's objects, as its stored version reads them.
    async fn load(&self, definition: &Arc<Definition>) -> bool {
        let stored = strategy::CustomResource {
            definition: definition.clone(),
            version: definition.versions[definition.storage].clone(),
        };
        let fields: SelectableFields = Arc::new(move |value| api::Strategy::selectable_fields(&stored, value));
        let definition = definition.clone();
        let key = definition.storage_key();
        let restore: Restore = Arc::new(move |value: &mut Value| read(&definition, value));
        self.cache.put_resource(key, fields, restore).await
    }
}

/// A stored object as it is read: by the schema of the version it was stored in. True: it is not as it was stored.
fn read(definition: &Definition, value: &mut Value) -> bool {
    let before = value.clone();
    let expected = definition.storage_api_version();
    let stored = value["apiVersion"].as_str().unwrap_or("").to_owned();
    let version = stored.rsplit_once('/').map_or("", |(_, version)| version);
    let schema = definition.version(version).map_or(&definition.storage().schema, |version| &version.schema);
    objects::restore(value, schema);
    if stored != expected {
        match definition.conversion {
            Converter::None => value["apiVersion"] = expected.into(),
            Converter::Webhook(_) => definition.mixed.store(true, Ordering::Relaxed),
        }
    }
    *value != before
}
