//! What is made of configuration objects, kept until they change.
//!
//! Invariants:
//! - LV-1: what is used was made of exactly the objects that the cache holds when the request comes.
//! - LV-2: without objects nothing is held.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::Object;
use crate::cache::ObjectReader;

/// One made thing for the objects of some resources.
pub(super) struct Live<T> {
    resources: &'static [&'static str],
    made: ArcSwapOption<Made<T>>,
}

struct Made<T> {
    of: Vec<Vec<Arc<Object>>>,
    made: Arc<T>,
}

impl<T> Live<T> {
    pub fn new(resources: &'static [&'static str]) -> Self {
        Self { resources, made: ArcSwapOption::empty() }
    }

    /// `None`: there are no objects of the first resource. `make` gets the objects of each resource, and what was made
    /// before with the objects it was made of.
    pub fn get(
        &self,
        reader: &dyn ObjectReader,
        make: impl Fn(&[Vec<Arc<Object>>], Option<&T>) -> T,
    ) -> Option<Arc<T>> {
        let (first, rest) = self.resources.split_first()?;
        let first = reader.peek_all(first, None);
        if first.is_empty() {
            if self.made.load().is_some() {
                self.made.store(None);
            }
            return None;
        }
        let mut of = vec![first];
        of.extend(rest.iter().map(|resource| reader.peek_all(resource, None)));
        let known = self.made.load_full();
        if let Some(known) = known.as_ref().filter(|known| same(&known.of, &of)) {
            return Some(known.made.clone());
        }
        let made = Arc::new(make(&of, known.as_ref().map(|known| &*known.made)));
        self.made.store(Some(Arc::new(Made { of, made: made.clone() })));
        Some(made)
    }
}

fn same(a: &[Vec<Arc<Object>>], b: &[Vec<Arc<Object>>]) -> bool {
    let equal = |(a, b): (&Vec<Arc<Object>>, &Vec<Arc<Object>>)| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
    };
    a.len() == b.len() && a.iter().zip(b).all(equal)
}
