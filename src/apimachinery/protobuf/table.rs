//! `data/protobuf.txt` read into field numbers beside the table of built-in types, once, on first use.
//!
//! Invariants:
//! - PT-1: a layout names fields by their place in the type of the same definition; the whole is some 30 KB.

use std::sync::{Arc, LazyLock};

use crate::schema::{Object, ObjectId, Schema, builtin};

/// See scripts/gen-protobuf.py for the format.
const TEXT: &str = include_str!("../data/protobuf.txt");

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub number: u16,
    pub what: What,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The field at this place of the type.
    Field(u16),
    /// The same, and written even when it is absent.
    Always(u16),
    /// A list that is a message of its own.
    Alone(u16),
    /// A message whose fields JSON shows beside the others: a layout.
    Inlined(u16),
}

struct Layouts {
    entries: Box<[Entry]>,
    /// Where a layout begins and ends; those of types first, by their ids, then the inlined ones.
    bounds: Box<[(u16, u16)]>,
}

static LAYOUTS: LazyLock<Layouts> = LazyLock::new(parse);

/// The fields of a built-in type, in number order.
pub fn layout(id: ObjectId) -> &'static [Entry] {
    inlined(id as usize)
}

/// The fields of an inlined message.
pub fn inlined(at: usize) -> &'static [Entry] {
    let layouts = &*LAYOUTS;
    let (start, end) = layouts.bounds.get(at).copied().unwrap_or_default();
    &layouts.entries[usize::from(start)..usize::from(end)]
}

/// True if this is a built-in type with a protobuf form.
pub fn knows(schema: &Schema) -> bool {
    Arc::ptr_eq(&schema.table, builtin()) && (!layout(schema.root).is_empty() || schema.root_object().or_any)
}

fn parse() -> Layouts {
    let objects = &builtin().objects;
    let mut entries = Vec::new();
    let mut bounds = vec![(0, 0); objects.len()];
    for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let id = objects.binary_search_by(|o| o.name.as_ref().cmp(name));
        let id = id.expect("protobuf.txt has only the types of schema.txt");
        bounds[id] = group(&mut words, &objects[id], &mut entries, &mut bounds);
    }
    Layouts { entries: entries.into(), bounds: bounds.into() }
}

/// Reads up to the end of the line or of a group; inner groups are stored first.
fn group<'a>(
    words: &mut impl Iterator<Item = &'a str>,
    object: &Object,
    entries: &mut Vec<Entry>,
    bounds: &mut Vec<(u16, u16)>,
) -> (u16, u16) {
    let place = |name: &str| {
        let at = object.fields.binary_search_by(|f| f.name.as_ref().cmp(name));
        at.expect("protobuf.txt has only the fields of schema.txt") as u16
    };
    let mut own = Vec::new();
    while let Some(word) = words.next().filter(|word| *word != "}") {
        let (number, what) = if let Some(number) = word.strip_suffix('{') {
            let inner = group(words, object, entries, bounds);
            bounds.push(inner);
            (number, What::Inlined((bounds.len() - 1) as u16))
        } else if let Some((number, name)) = word.split_once('=') {
            (number, What::Alone(place(name)))
        } else if let Some(number) = word.strip_suffix('!') {
            (number, What::Always(place(words.next().unwrap_or_default())))
        } else {
            (word, What::Field(place(words.next().unwrap_or_default())))
        };
        own.push(Entry { number: number.parse().expect("protobuf.txt has a number before each name"), what });
    }
    let start = entries.len() as u16;
    entries.append(&mut own);
    (start, entries.len() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin_schema;

    #[test]
    fn every_type_has_its_fields() {
        fn count(entries: &[Entry]) -> usize {
            assert!(entries.is_sorted_by_key(|e| e.number));
            let inner = |e: &Entry| match e.what {
                What::Inlined(at) => count(inlined(usize::from(at))),
                _ => 1,
            };
            entries.iter().map(inner).sum()
        }
        for (id, object) in builtin().objects.iter().enumerate() {
            let typed = object.fields.iter().filter(|f| !matches!(f.name.as_ref(), "apiVersion" | "kind")).count();
            let fields = count(layout(id as ObjectId));
            let no_message = object.or_any || object.name.ends_with(".version.Info");
            assert!(no_message || (typed..=object.fields.len()).contains(&fields), "{}", object.name);
        }
        let layouts = &*LAYOUTS;
        assert!(layouts.entries.len() < usize::from(u16::MAX));
        assert!(size_of_val(&*layouts.entries) + size_of_val(&*layouts.bounds) < 40_000);
    }

    #[test]
    fn inlined_messages() {
        let volume = builtin_schema("io.k8s.api.core.v1.Volume").unwrap();
        let [_, source] = layout(volume.root) else { panic!("name and source") };
        let What::Inlined(source) = source.what else { panic!("{source:?}") };
        assert_eq!(inlined(usize::from(source)).len(), 30);
    }
}
