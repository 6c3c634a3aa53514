//! Import rules 1 to 4 of DESIGN.md, from the manifests.
//!
//! Invariants:
//! - TD-2: development dependencies are free, except that they too never point upwards.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::{report, root};

/// Every crate of the workspace and its layer.
const LAYERS: &[(&str, u8)] = &[
    ("apimachinery", 0),
    ("api", 0),
    ("cel", 0),
    ("store", 0),
    ("pki", 0),
    ("sys", 0),
    ("component-base", 0),
    ("client", 1),
    ("apiserver", 2),
    ("controller-manager", 2),
    ("scheduler", 2),
    ("kubelet", 2),
    ("kube-proxy", 2),
    ("network", 2),
    ("kedge", 3),
    ("kedge-pause", 3),
    ("kedge-tests", 4),
];

/// (importer, what it may not import, why)
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("apimachinery", &["tokio", "hyper", "api"], "it is pure: no I/O, no clock, no runtime (rule 1)"),
    ("api", &["tokio", "hyper"], "it is pure: no I/O, no clock, no runtime (rule 1)"),
    ("cel", &["tokio", "hyper", "api", "cel-parser", "antlr4rust"], "it is pure: no I/O, no clock, no runtime"),
    ("store", &["api", "k8s-openapi"], "it holds bytes and never knows kinds (rule 1)"),
];

/// (what is imported, who alone may, why)
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("store", &["apiserver", "kedge"], "read and write objects through `client` (rule 2)"),
    ("sys", &["kubelet", "kube-proxy", "network", "kedge"], "only node components touch the kernel (rule 3)"),
    ("anyhow", &["kedge"], "add a variant to the crate's thiserror enum instead (rule 4)"),
    ("clap", &["kedge"], "only cmd reads argv; take a config struct instead (rule 4)"),
];

pub fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    // CI has built already: no network is needed, and a changed lock file would hide what was built.
    command.other_options(vec!["--locked".to_owned()]);
    command.exec().unwrap_or_else(|error| panic!("cargo metadata: {error}"))
}

fn layer(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, layer)| *layer)
}

#[test]
fn imports_go_downwards() {
    let metadata = metadata();
    let mut problems = Vec::new();
    for package in metadata.workspace_packages() {
        let importer = package.name.as_str();
        let Some(own) = layer(importer) else {
            problems.push(format!("{importer}: a crate without a layer: add it to LAYERS in tests/tidy/imports.rs"));
            continue;
        };
        for dependency in &package.dependencies {
            let imported = dependency.name.as_str();
            let development = dependency.kind == DependencyKind::Development;
            if let Some(other) = layer(imported) {
                let meets = own == 2 && other == 2 && !development;
                if meets {
                    problems.push(format!(
                        "{importer} imports {imported}: L2 crates meet through API objects and `client`; move what is \
                         shared to an L0 crate"
                    ));
                } else if other > own {
                    problems.push(format!("{importer} (L{own}) imports {imported} (L{other}): turn it round"));
                }
            }
            if development {
                continue;
            }
            for (_, forbidden, why) in FORBIDDEN.iter().filter(|(name, ..)| *name == importer) {
                if forbidden.contains(&imported) {
                    problems.push(format!("{importer} imports {imported}: {why}"));
                }
            }
            for (_, allowed, why) in RESERVED.iter().filter(|(name, ..)| *name == imported) {
                if own < 4 && !allowed.contains(&importer) {
                    problems.push(format!("{importer} imports {imported}: {why}"));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn every_crate_has_its_place() {
    let metadata = metadata();
    let mut problems = Vec::new();
    let present: BTreeSet<&str> = metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    for (name, _) in LAYERS.iter().filter(|(name, _)| !present.contains(name)) {
        problems.push(format!("{name}: gone from the workspace: take it out of LAYERS in tests/tidy/imports.rs"));
    }
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let folder = package.manifest_path.parent().and_then(|folder| folder.file_name()).unwrap_or_default();
        if matches!(layer(name), Some(0..=2)) && folder != name {
            problems.push(format!("{name}: lives in src/{folder}: name the folder as the crate"));
        }
        if package.publish.as_ref().is_none_or(|registries| !registries.is_empty()) {
            problems.push(format!("{name}: set `publish.workspace = true`"));
        }
    }
    report(problems);
}
