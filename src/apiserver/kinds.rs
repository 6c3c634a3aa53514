//! The kinds served: routes and storage versions.

use std::collections::HashMap;
use std::sync::Arc;

use api::Kind;
use arc_swap::ArcSwap;

/// The kinds of this server. Reading is one pointer; changing (custom resources) replaces the whole.
pub struct Kinds(ArcSwap<Table>);

struct Table {
    all: Arc<Vec<Arc<Kind>>>,
    by_resource: HashMap<(String, String, String), Arc<Kind>>,
    by_storage: HashMap<String, Arc<Kind>>,
}

impl Kinds {
    pub fn builtin() -> Self {
        Self::new(api::kinds().to_vec())
    }

    pub fn new(all: Vec<Arc<Kind>>) -> Self {
        let mut by_resource = HashMap::new();
        let mut by_storage: HashMap<String, Arc<Kind>> = HashMap::new();
        for kind in &all {
            let key = (kind.group.to_string(), kind.version.to_string(), kind.plural.to_string());
            by_resource.insert(key, kind.clone());
            by_storage.entry(kind.storage_key.to_string()).or_insert_with(|| kind.clone());
        }
        Self(ArcSwap::from_pointee(Table { all: Arc::new(all), by_resource, by_storage }))
    }

    pub fn all(&self) -> Arc<Vec<Arc<Kind>>> {
        self.0.load().all.clone()
    }

    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        let key = (group.to_owned(), version.to_owned(), resource.to_owned());
        self.0.load().by_resource.get(&key).cloned()
    }

    /// The kind in whose version the objects below `storage_key` are stored: the first one registered.
    pub fn storage_kind(&self, storage_key: &str) -> Option<Arc<Kind>> {
        self.0.load().by_storage.get(storage_key).cloned()
    }

    /// Some kind of this group and version exists.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.0.load().all.iter().any(|kind| kind.group == group && kind.version == version)
    }
}
