//! The kinds served: routes and storage versions.

use std::collections::HashMap;
use std::sync::Arc;

use api::Kind;
use arc_swap::ArcSwap;

use crate::apiextensions::{KEY, default_checks};

/// The kinds of this server. Reading is one pointer; changing (custom resources) replaces the whole.
pub struct Kinds {
    builtin: Vec<Arc<Kind>>,
    table: ArcSwap<Table>,
}

struct Table {
    all: Arc<Vec<Arc<Kind>>>,
    by_resource: HashMap<(String, String, String), Arc<Kind>>,
    by_storage: HashMap<String, Arc<Kind>>,
}

impl Table {
    fn new(all: Vec<Arc<Kind>>) -> Self {
        let mut by_resource = HashMap::new();
        let mut by_storage: HashMap<String, Arc<Kind>> = HashMap::new();
        for kind in &all {
            let key = (kind.group.to_string(), kind.version.to_string(), kind.plural.to_string());
            by_resource.entry(key).or_insert_with(|| kind.clone());
            by_storage.entry(kind.storage_key.to_string()).or_insert_with(|| kind.clone());
        }
        Self { all: Arc::new(all), by_resource, by_storage }
    }
}

impl Kinds {
    pub fn builtin() -> Self {
        // A definition's defaults are values of kinds that only the server knows.
        let definitions = || api::apiextensions::customresourcedefinition::kind_with(default_checks::check);
        let own = |kind: &Arc<Kind>| match kind.storage_key.as_ref() {
            KEY => Arc::new(definitions()),
            _ => kind.clone(),
        };
        Self::new(api::kinds().iter().map(own).collect())
    }

    pub fn new(builtin: Vec<Arc<Kind>>) -> Self {
        let table = ArcSwap::from_pointee(Table::new(builtin.clone()));
        Self { builtin, table }
    }

    /// Replaces all custom kinds.
    pub fn replace_custom(&self, custom: Vec<Arc<Kind>>) {
        let all = self.builtin.iter().cloned().chain(custom).collect();
        self.table.store(Arc::new(Table::new(all)));
    }

    pub fn all(&self) -> Arc<Vec<Arc<Kind>>> {
        self.table.load().all.clone()
    }

    /// The kinds that are part of the program.
    pub fn built_in(&self) -> &[Arc<Kind>] {
        &self.builtin
    }

    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        let key = (group.to_owned(), version.to_owned(), resource.to_owned());
        self.table.load().by_resource.get(&key).cloned()
    }

    /// The kind in whose version the objects below `storage_key` are stored: the first one registered.
    pub fn storage_kind(&self, storage_key: &str) -> Option<Arc<Kind>> {
        self.table.load().by_storage.get(storage_key).cloned()
    }

    /// Some kind of this group and version exists.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.table.load().all.iter().any(|kind| kind.group == group && kind.version == version)
    }
}
