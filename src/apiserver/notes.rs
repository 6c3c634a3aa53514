//! What is said about a request beside its answer: warnings for the client, annotations for the audit log.
//!
//! Invariants:
//! - NO-1: warnings come out in the order in which they were said, each text once.
//! - NO-2: a response never carries more than upstream's amount of warnings: beyond it every text is cut short.

use std::collections::BTreeMap;

use ::http::HeaderMap;
use parking_lot::Mutex;

use crate::wire::respond;

/// Characters of all warnings together before they are cut.
const TOTAL: usize = 4 * 1024;
/// Characters of one warning once they are cut.
const ITEM: usize = 256;

/// The notes of one request. Everything that decides about the request may add to them.
#[derive(Debug, Default)]
pub struct RequestNotes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
}

/// The audit annotations of an answered request, in the response's extensions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditAnnotations(pub BTreeMap<String, String>);

impl RequestNotes {
    /// A `Warning` header of the response.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        // As many of even the shortest are more than a response shows.
        if !text.is_empty() && warnings.len() < TOTAL && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// An annotation of the request's audit event. The first value of a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations.lock().entry(key.into()).or_insert_with(|| value.into());
    }

    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.lock().clone()
    }

    /// Hands the notes to the response: warnings as headers, annotations as [`AuditAnnotations`].
    pub fn attach<B>(self, response: &mut ::http::Response<B>) {
        write(&self.warnings.into_inner(), response.headers_mut());
        let annotations = self.annotations.into_inner();
        if !annotations.is_empty() {
            response.extensions_mut().insert(AuditAnnotations(annotations));
        }
    }
}

/// NO-2.
fn write(warnings: &[String], headers: &mut HeaderMap) {
    let long = warnings.iter().map(|text| text.chars().count()).sum::<usize>() > TOTAL;
    let mut written = 0;
    for text in warnings {
        let count = text.chars().count();
        if long && written >= TOTAL {
            return;
        }
        if long && count > ITEM {
            written += ITEM;
            respond::add_warning(headers, &text.chars().take(ITEM).collect::<String>());
        } else {
            written += count;
            respond::add_warning(headers, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(notes: RequestNotes) -> Vec<String> {
        let mut response = ::http::Response::new(());
        notes.attach(&mut response);
        response.headers().get_all("warning").iter().map(|v| v.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn warnings_come_in_order_and_once() {
        let notes = RequestNotes::default();
        for text in ["b", "", "a", "b"] {
            notes.warn(text);
        }
        assert_eq!(headers(notes), ["299 - \"b\"", "299 - \"a\""]);
    }

    #[test]
    fn too_many_are_cut() {
        let notes = RequestNotes::default();
        for letter in 'a'..='z' {
            notes.warn(letter.to_string().repeat(1000));
        }
        let headers = headers(notes);
        assert_eq!(headers.len(), 16);
        assert!(headers.iter().all(|text| text.len() == ITEM + "299 - \"\"".len()));
    }

    #[test]
    fn annotations_reach_the_response() {
        let notes = RequestNotes::default();
        notes.annotate("k", "v");
        notes.annotate("k", "other");
        let mut response = ::http::Response::new(());
        notes.attach(&mut response);
        let found = response.extensions().get::<AuditAnnotations>().expect("annotations");
        assert_eq!(found.0, BTreeMap::from([("k".to_owned(), "v".to_owned())]));
    }
}
