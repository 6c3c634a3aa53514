//! Licences and bans of deny.toml, checked on what is really resolved. One source of the lists, no tool to install.

use std::collections::BTreeMap;

use crate::imports::metadata;
use crate::{report, root};

struct Lists {
    allowed: Vec<String>,
    banned: Vec<(String, String)>,
}

fn lists() -> Lists {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is there");
    let table: toml::Table = text.parse().expect("deny.toml is TOML");
    let array = |section: &str, key: &str| table[section][key].as_array().cloned().unwrap_or_default();
    let allowed = array("licenses", "allow").iter().filter_map(|value| value.as_str().map(str::to_owned)).collect();
    let field = |value: &toml::Value, key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or("banned").to_owned();
    let banned = array("bans", "deny").iter().map(|value| (field(value, "name"), field(value, "reason"))).collect();
    Lists { allowed, banned }
}

#[test]
fn nothing_banned_is_linked() {
    let lists = lists();
    assert!(!lists.banned.is_empty(), "deny.toml: [bans] deny is empty");
    let metadata = metadata();
    let mut problems = Vec::new();
    for package in &metadata.packages {
        if let Some((name, why)) = lists.banned.iter().find(|(name, _)| *name == package.name.as_str()) {
            // A crate in the lock file that nothing of ours turns on is not linked.
            if used(&metadata, package) {
                problems.push(format!("{name} is linked ({why}): `cargo tree -i {name}` says through whom"));
            }
        }
    }
    report(problems);
}

#[test]
fn every_licence_is_allowed() {
    let lists = lists();
    let metadata = metadata();
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let Some(expression) = &package.license else {
            if package.license_file.is_none() {
                problems.push(format!("{} {}: declares no licence: replace it", package.name, package.version));
            }
            continue;
        };
        if !allowed(expression, &|licence| lists.allowed.iter().any(|name| name == licence)) {
            problems.push(format!(
                "{} {}: licence {expression} is not in deny.toml: replace the crate",
                package.name, package.version
            ));
        }
    }
    report(problems);
}

#[test]
fn duplicates_are_known() {
    let metadata = metadata();
    let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for package in metadata.packages.iter().filter(|package| used(&metadata, package)) {
        versions.entry(package.name.as_str()).or_default().push(package.version.to_string());
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        println!("warning: {name} is linked {} times: {}", versions.len(), versions.join(", "));
    }
}

/// Whether a package is reached from the workspace with the features that are on.
fn used(metadata: &cargo_metadata::Metadata, package: &cargo_metadata::Package) -> bool {
    let nodes = metadata.resolve.as_ref().map(|resolve| resolve.nodes.as_slice()).unwrap_or_default();
    nodes.iter().any(|node| node.deps.iter().any(|dependency| dependency.pkg == package.id))
}

/// Evaluates an SPDX expression; the old `MIT/Apache-2.0` form means OR.
fn allowed(expression: &str, known: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any(&mut words, known)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, known: &dyn Fn(&str) -> bool) -> bool {
    let mut result = all(words, known);
    while words.next_if_eq(&"OR").is_some() {
        result |= all(words, known);
    }
    result
}

fn all(words: &mut Words<'_>, known: &dyn Fn(&str) -> bool) -> bool {
    let mut result = one(words, known);
    while words.next_if_eq(&"AND").is_some() {
        result &= one(words, known);
    }
    result
}

fn one(words: &mut Words<'_>, known: &dyn Fn(&str) -> bool) -> bool {
    match words.next() {
        Some("(") => {
            let result = any(words, known);
            words.next();
            result
        }
        Some(name) if words.next_if_eq(&"WITH").is_some() => {
            let exception = words.next().unwrap_or_default();
            known(name) || known(&format!("{name} WITH {exception}"))
        }
        Some(name) => known(name) || name.strip_suffix('+').is_some_and(known),
        None => false,
    }
}

#[test]
fn spdx_expressions_are_understood() {
    let known = |name: &str| ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].contains(&name);
    assert!(allowed("MIT OR GPL-3.0", &known));
    assert!(allowed("MIT/Apache-2.0", &known));
    assert!(allowed("(MIT OR GPL-3.0) AND Unicode-3.0", &known));
    assert!(allowed("Apache-2.0 WITH LLVM-exception OR GPL-2.0", &known));
    assert!(!allowed("MIT AND GPL-3.0", &known));
    assert!(!allowed("GPL-3.0", &known));
    assert!(!allowed("", &known));
}
